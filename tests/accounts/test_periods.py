"""Days of a zone begin when they begin there, also when clocks change."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from one_api.accounts.periods import LONGEST_S, end_of, start_of, zone_named


def moment(text: str) -> float:
    """UTC seconds of an ISO time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("period", "zone", "now", "began"),
    [
        ("day", "UTC", "2026-03-05T23:59:59.9", "2026-03-05T00:00"),
        ("day", "Asia/Shanghai", "2026-03-05T15:59:59.9", "2026-03-04T16:00"),
        ("day", "Asia/Shanghai", "2026-03-05T16:00", "2026-03-05T16:00"),
        ("day", "Asia/Kolkata", "2026-03-05T18:29", "2026-03-04T18:30"),
        ("week", "UTC", "2026-03-08T12:00", "2026-03-02T00:00"),
        ("week", "UTC", "2026-03-02T00:00", "2026-03-02T00:00"),
        ("month", "UTC", "2026-02-28T12:00", "2026-02-01T00:00"),
        ("month", "America/New_York", "2026-04-01T03:00", "2026-03-01T05:00"),
    ],
)
def test_a_period_begins_at_midnight_of_its_zone(period: Any, zone: str, now: str, began: str) -> None:
    assert start_of(period, zone_named(zone), moment(now)) == moment(began)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-07-01", 24)])
def test_days_on_which_clocks_change_have_no_gap_and_no_overlap(day: str, hours: int) -> None:
    zone = zone_named("America/New_York")
    begin = start_of("day", zone, moment(f"{day}T12:00"))

    starts = {start_of("day", zone, begin + minute * 60) for minute in range(hours * 60)}

    assert starts == {begin}
    assert start_of("day", zone, begin + hours * 3600) == begin + hours * 3600


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "/etc/passwd"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_named(name)


#: Where clocks change by an hour and by half of one, at night, at midnight, by a whole day; and the years to look at.
CHANGING = {
    "Europe/Berlin": (2025, 2028),
    "America/New_York": (2025, 2028),
    "America/Sao_Paulo": (2000, 2020),
    "Australia/Lord_Howe": (2025, 2028),
    "America/Havana": (2020, 2028),
    "Asia/Beirut": (2020, 2028),
    "Africa/Cairo": (2010, 2028),
    "America/Asuncion": (2015, 2028),
    "Pacific/Apia": (2010, 2013),
    "Africa/Casablanca": (2018, 2028),
}


@pytest.mark.parametrize("name", CHANGING)
def test_where_clocks_change_each_moment_is_in_one_window_and_each_window_ends_where_the_next_begins(name: str) -> None:
    zone, (first, last) = zone_named(name), CHANGING[name]
    begin, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last))
    offsets = [(hour, zone.utcoffset(datetime.fromtimestamp(hour, zone))) for hour in range(begin, end, 1800)]
    changes = [after for (_, before), (after, now) in pairwise(offsets) if before != now]
    assert changes

    for period in ("day", "week", "month"):
        for moment in (change + off for change in changes for off in (-90_000, -3600, -1, 0, 1, 1800, 3600, 90_000)):
            starts = start_of(period, zone, moment)
            ends = end_of(period, zone, moment) or 0
            assert starts <= moment < ends <= starts + LONGEST_S[period]
            assert {start_of(period, zone, each) for each in (starts, ends - 1)} == {starts}
            assert {end_of(period, zone, each) for each in (starts, ends - 1)} == {ends}
            assert start_of(period, zone, ends) == ends
