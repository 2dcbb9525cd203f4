"""What a budget is, and its windows of time. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from one_api.accounts.money import dollars
from one_api.accounts.periods import PERIODS, Period, end_of, start_of, zone_named

#: A window in the database: its budget's name, and its start in UTC seconds.
WindowKey = tuple[str, int]

_EACH = {"day": "of each day", "week": "of each week", "month": "of each month", "total": "in total"}


@dataclass(frozen=True, slots=True)
class Window:
    """A day, week or month of a budget, or all time. Both ends are UTC seconds; the last is not in it."""

    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a key, a team or all keys together may spend in each period."""

    name: str
    key: str | None
    team: str | None
    period: Period
    zone: ZoneInfo
    #: Nano-dollars.
    limit: int

    def window(self, second: float) -> Window:
        """Return the window that a moment is in, by UTC seconds."""
        return Window(start_of(self.period, self.zone, second), end_of(self.period, self.zone, second))

    def counted(self, window: WindowKey, second: float) -> WindowKey:
        """Return the window that a request counts for that came at a moment and was admitted in ``window``.

        It is another window where the time zone of the budget has been changed since.
        """
        name, start = window
        return window if self.begins(start) else (name, start_of(self.period, self.zone, second))

    def begins(self, second: int) -> bool:
        """Return whether one of its windows begins then."""
        return start_of(self.period, self.zone, second) == second

    def __str__(self) -> str:
        whose = f"the key {self.key}" if self.key else f"the team {self.team}" if self.team else "all keys together"
        return f"{dollars(self.limit)} USD {_EACH[self.period]} for {whose}"

    def when(self, second: int) -> str:
        """Return a moment as people of its zone write it."""
        return datetime.fromtimestamp(second, self.zone).isoformat()


def budget_in(row: Any) -> Budget:
    """Return the budget in a row of its table."""
    return Budget(row.name, row.key, row.team, row.period, zone_named(row.zone), row.limit_nano)


class Owner(NamedTuple):
    """Whose a budget is, and for which period; without a key and a team it is that of all keys together."""

    key: str | None
    team: str | None
    period: Period


def owner_in(name: str) -> Owner | None:
    """Return what a budget's name says: key:NAME:PERIOD, team:NAME:PERIOD or all:PERIOD; None for what is no name."""
    kind, _, rest = name.partition(":")
    owner, _, last = rest.rpartition(":")
    period = next((each for each in PERIODS if each == last), None)
    if period is None or (kind == "all") == bool(owner) or kind not in ("key", "team", "all"):
        return None
    return Owner(owner if kind == "key" else None, owner if kind == "team" else None, period)
