"""Days, weeks and months of a time zone, computed from the clock: nothing is ever reset. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Period = Literal["day", "week", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "week", "month", "total")
#: None is longer, where clocks are set back within it, in seconds; ``total`` has no length.
LONGEST_S: dict[Period, int] = {"day": 100_800, "week": 7 * 86400 + 14_400, "month": 31 * 86400 + 14_400, "total": 0}


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone by its name, such as Asia/Shanghai; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone: write it like Europe/Berlin or UTC") from None


def start_of(period: Period, zone: ZoneInfo, second: float) -> int:
    """Return when the period began that a moment is in; both are UTC seconds. A week begins on Monday, total at 0."""
    return 0 if period == "total" else _utc(_begin(period, zone, second))


def end_of(period: Period, zone: ZoneInfo, second: float) -> int | None:
    """Return when the next period begins after a moment; None for ``total``, which has no next one."""
    if period == "total":
        return None
    begin = _begin(period, zone, second)
    if period == "month":
        return _utc(begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1))
    return _utc(begin + timedelta(days=7 if period == "week" else 1))


def _begin(period: Period, zone: ZoneInfo, second: float) -> datetime:
    local = datetime.fromtimestamp(second, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "week":
        return local - timedelta(days=local.weekday())
    return local.replace(day=1) if period == "month" else local


def _utc(local: datetime) -> int:
    return int(local.astimezone(UTC).timestamp())
