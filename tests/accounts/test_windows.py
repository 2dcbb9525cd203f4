"""Nobody is refused while what would do lies idle with another process."""

import pytest
from sqlalchemy import Engine, insert

from one_api.accounts import windows
from one_api.accounts.database import transact
from one_api.accounts.tables import BUDGETS
from one_api.accounts.windows import Grant, Kept, Need

WINDOW = ("all:total", 0)


@pytest.fixture(autouse=True)
def budget(engine: Engine) -> None:
    """A budget of a hundred."""
    row = {"name": WINDOW[0], "period": "total", "zone": "UTC", "limit_nano": 100, "alert_percent": 0}
    transact(engine, lambda connection: connection.execute(insert(BUDGETS).values(row)))


def acquire(engine: Engine, holder: str, need: Need) -> Grant:
    """See ``windows.acquire``."""
    return transact(engine, lambda connection: windows.acquire(connection, holder, WINDOW, need))


def keep(engine: Engine, holder: str, kept: Kept) -> None:
    """See ``windows.keep``."""
    transact(engine, lambda connection: windows.keep(connection, holder, {WINDOW: kept}))


def test_who_is_asked_for_what_is_idle_takes_nothing_for_later_and_has_not_answered(engine: Engine) -> None:
    acquire(engine, "a", Need(10, 10, 10_000, 10))
    acquire(engine, "b", Need(40, 40, 0, 40))
    asked = acquire(engine, "c", Need(60, 60, 0, 60)).asked

    more = acquire(engine, "a", Need(1, 1, 10_000, 11))

    assert (asked, more.amount, more.seen) == (1, 1, 0)
    assert acquire(engine, "c", Need(60, 60, 0, 60, asked)).asked == asked, "it waits for the answer"


def test_what_is_booked_was_in_use_and_hides_nothing_that_is_idle(engine: Engine) -> None:
    acquire(engine, "a", Need(60, 60, 0, 60))
    acquire(engine, "a", Need(40, 40, 0, 60))  # of which 40 are idle
    asked = acquire(engine, "b", Need(5, 5, 0, 5)).asked
    keep(engine, "a", Kept(100, 100, 60, asked or 0))
    transact(engine, lambda connection: windows.charge(connection, {WINDOW: 60}))
    transact(engine, lambda connection: windows.use(connection, {WINDOW: 60}, "a"))

    assert acquire(engine, "b", Need(5, 5, 0, 5, asked)).asked is not None
