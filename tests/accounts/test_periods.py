"""Days of a zone begin when they begin there, also when clocks change."""

from datetime import UTC, datetime
from typing import Any

import pytest

from one_api.accounts.periods import start_of, zone_named


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
