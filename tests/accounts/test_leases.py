"""What processes hold of budgets comes back, whatever happens to them, and money is never there twice."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from one_api.accounts import changes, ledger
from one_api.accounts.books import Books
from one_api.accounts.budgets import Budget, owner_in
from one_api.accounts.database import DatabaseUnavailable, transact
from one_api.accounts.lease import Lease
from one_api.accounts.leases import Leases
from one_api.accounts.periods import PERIODS, end_of, start_of, zone_named
from one_api.accounts.prices import Catalogue, Prices
from one_api.accounts.reservations import Reservation, Settings
from one_api.accounts.tables import LEASES, LEDGER, WINDOWS
from one_api.errors import AccountsUnavailable, BudgetExceeded
from one_api.records import CallRecord
from one_api.settings.prices import PricesConfig
from one_api.settings.sections import BudgetConfig
from tests.accounts.rows import load, row
from tests.accounts.test_books import FlakyDatabase

UNIT = 1_000_000_000
NAME = "all:total"


class Process:
    """The books and leases of one process."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.database = FlakyDatabase(engine, "test")
        self.books = Books(self.database, folder, (30, 400, 400))
        self.leases = Leases(self.database, self.books)
        self.is_closed = False

    async def start(self) -> None:
        """Begin."""
        await self.books.start()

    async def aclose(self) -> None:
        """End in order; again is harmless."""
        if self.is_closed:
            return
        self.is_closed = True
        await self.leases.aclose()
        await self.books.aclose()
        await self.database.aclose()

    async def reserve(self, budget: Budget, units: float, allowance: float = 0) -> Lease:
        """Reserve for one request."""
        leases = self.leases.begin([budget])
        try:
            await self.leases.admit(leases, round(units * UNIT), round(allowance * UNIT))
        except BaseException:
            leases[0].settle(0, 0)
            raise
        leases[0].reserved += round(units * UNIT)
        return leases[0]

    def settle(self, lease: Lease, reserved: float, cost: float, number: int, beyond: float = 0) -> None:
        """End a request, and book it."""
        charged = f'[["{NAME}",0]]'
        self.books.add(row(number, int(time.time()), cost=round(cost * UNIT), charged=charged))
        lease.settle(round(reserved * UNIT), round(cost * UNIT))
        self.leases.settle(round(beyond * UNIT), round(cost * UNIT))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long requests wait: for longer than any machine stands still, unless a test wants less."""

    def set_s(seconds: float) -> None:
        monkeypatch.setattr("one_api.accounts.leases.MAX_WAIT_S", seconds)

    set_s(60.0)
    return set_s


@pytest.fixture
def budget(engine: Engine) -> Budget:
    """Ten units for all keys."""
    return limited(engine, 10)


def limited(engine: Engine, units: float, name: str = NAME, zone: str = "UTC") -> Budget:
    """A budget of so many units."""
    transact(engine, lambda c: changes.set_budget(c, "tester", name, {"limit_usd": str(units), "zone": zone}))
    loaded = transact(engine, load)
    return loaded.shared[0]


Start = Callable[[], Awaitable[Process]]


@pytest_asyncio.fixture
async def start(engine: Engine, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts processes that share the database."""
    async with AsyncExitStack() as held:

        async def begin() -> Process:
            process = Process(engine, tmp_path)
            await process.start()
            held.push_async_callback(process.aclose)
            return process

        yield begin


def units(engine: Engine, column: Any) -> float:
    """The sum of a column."""
    return int(transact(engine, lambda c: c.scalar(select(func.sum(column)))) or 0) / UNIT


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_what_is_held_in_flight_is_refused_at_once_and_what_comes_back_needs_no_database(
    start: Start, budget: Budget
) -> None:
    process = await start()
    lease = await process.reserve(budget, 10)
    async with asyncio.timeout(30):  # a wait for others would take longer
        with pytest.raises(BudgetExceeded):
            await process.reserve(budget, 1)

    process.settle(lease, 10, 2, 1)
    process.database.failures = 1000
    await process.reserve(budget, 8)
    process.database.failures = 0


async def test_a_retry_storm_at_an_empty_budget_asks_the_database_seldom(
    start: Start, budget: Budget, engine: Engine
) -> None:
    process = await start()
    await process.reserve(budget, 10)
    asked = 0

    work = process.database.write

    def count_and_write(job: Any) -> Any:
        nonlocal asked
        asked += "need" in getattr(job, "keywords", {})  # what looks after all leases is not the storm's
        return work(job)

    process.database.write = count_and_write  # type: ignore[method-assign,assignment]
    began = time.monotonic()
    for _ in range(500):
        with pytest.raises(BudgetExceeded):
            await process.reserve(budget, 1)

    assert 1 <= asked <= 2 + 8 * (time.monotonic() - began)


async def test_what_is_idle_elsewhere_is_given_to_who_needs_it(start: Start, budget: Budget) -> None:
    rich, poor = await start(), await start()
    lease = await rich.reserve(budget, 9)
    rich.settle(lease, 9, 0, 1)

    await poor.reserve(budget, 5)

    with pytest.raises(BudgetExceeded):
        await rich.reserve(budget, 6)


async def test_an_answer_to_another_process_that_is_lost_is_given_again(start: Start, budget: Budget) -> None:
    busy, poor = await start(), await start()
    lease = await busy.reserve(budget, 10)
    await until(lambda: lease.written == (10 * UNIT, 10 * UNIT))
    write, lost = busy.database.write, asyncio.Event()

    async def lose_one(job: Any) -> Any:
        if "leases" in getattr(job, "keywords", {}) and not lost.is_set():
            lost.set()
            raise DatabaseUnavailable("it is away")
        return await write(job)

    busy.database.write = lose_one  # type: ignore[method-assign,assignment]
    async with asyncio.timeout(30):  # it would wait as long as it may
        with pytest.raises(BudgetExceeded):
            await poor.reserve(budget, 5)
    assert lost.is_set()


async def test_who_waits_for_a_slow_database_is_not_told_that_a_budget_with_enough_left_is_spent(
    start: Start, budget: Budget, patience: Callable[[float], None]
) -> None:
    patience(0.5)
    process, gate, asked = await start(), asyncio.Event(), 0
    write = process.database.write

    async def answer_once(job: Any) -> Any:
        nonlocal asked
        if "need" in getattr(job, "keywords", {}):
            asked += 1
            await (gate.wait() if asked == 1 else asyncio.Event().wait())
        return await write(job)

    process.database.write = answer_once  # type: ignore[method-assign,assignment]
    first = asyncio.create_task(process.reserve(budget, 1))
    await until(lambda: asked == 1)
    second = asyncio.create_task(process.reserve(budget, 5))  # shares the answer, in which there is too little for it
    await asyncio.sleep(0)
    gate.set()

    await first
    with pytest.raises(AccountsUnavailable):
        await second
    assert asked == 2


async def test_a_budget_that_is_lowered_calls_back_what_is_idle(start: Start, budget: Budget, engine: Engine) -> None:
    process = await start()
    process.settle(await process.reserve(budget, 9), 9, 1, 1)

    lower = limited(engine, 2)

    await until(lambda: units(engine, LEASES.c.amount) == 0)
    with pytest.raises(BudgetExceeded):
        await process.reserve(lower, 1.5)
    await process.reserve(lower, 1)


@pytest.mark.parametrize("commits_first", [False, True])
async def test_a_lost_answer_holds_no_money_for_ever(
    start: Start, budget: Budget, engine: Engine, commits_first: bool
) -> None:
    process = await start()
    process.settle(await process.reserve(budget, 1), 1, 1, 1)
    await until(lambda: units(engine, WINDOWS.c.spent) == 1)
    process.database.failures, process.database.commits_first = 1, commits_first
    with pytest.raises(AccountsUnavailable):
        await process.reserve(budget, 9)
    process.database.failures = 0

    async with asyncio.timeout(10):
        while True:
            try:
                lease = await process.reserve(budget, 9)
                break
            except BudgetExceeded:  # until it is given back
                await asyncio.sleep(0.05)

    process.settle(lease, 9, 9, 2)
    await until(lambda: units(engine, WINDOWS.c.spent) == 10)
    await until(lambda: units(engine, LEASES.c.amount) == 0)


async def test_while_the_database_is_away_requests_may_go_beyond_as_far_as_is_allowed(
    start: Start, budget: Budget, engine: Engine
) -> None:
    process = await start()
    process.database.failures = 1_000_000
    first = await process.reserve(budget, 2, allowance=5)
    await process.reserve(budget, 3, allowance=5)
    with pytest.raises(AccountsUnavailable):
        await process.reserve(budget, 1, allowance=5)
    with pytest.raises(AccountsUnavailable):
        await process.reserve(budget, 1)

    # What one has not used another one may have.
    process.settle(first, 2, 1, 1, beyond=2)
    await process.reserve(budget, 1, allowance=5)
    with pytest.raises(AccountsUnavailable):
        await process.reserve(budget, 0.5, allowance=5)

    process.database.failures = 0
    await until(lambda: units(engine, WINDOWS.c.spent) == 1)
    # Four are in use, and one is spent.
    with pytest.raises(BudgetExceeded):
        await process.reserve(budget, 5.5, allowance=5)
    await process.reserve(budget, 5, allowance=5)


async def test_a_process_that_was_taken_for_lost_books_its_requests_once(
    start: Start, budget: Budget, engine: Engine
) -> None:
    process = await start()
    lease = await process.reserve(budget, 4)
    await until(lambda: units(engine, LEASES.c.held) == 4)
    async with process.books.turn:  # as if it had been stopped
        transact(engine, lambda c: c.execute(LEASES.update().values(expires_at=0)))
        assert transact(engine, ledger.presume_lost) == 1
        assert (units(engine, WINDOWS.c.spent), units(engine, LEASES.c.amount)) == (4, 0)

    process.settle(lease, 4, 3, 1)

    await until(lambda: units(engine, WINDOWS.c.spent) == 3)
    assert transact(engine, lambda c: c.scalar(select(func.count()).select_from(LEDGER))) == 1


async def test_the_journal_of_a_machine_that_was_taken_for_lost_counts_instead(
    start: Start, budget: Budget, engine: Engine, tmp_path: Path
) -> None:
    process = await start()
    await process.reserve(budget, 4)
    key = row(7, int(time.time()))
    process.books.reserve(ledger.Reserve(key.id, key.at, "alice", "gpt", 4 * UNIT, [(NAME, 0)]))
    await until(lambda: units(engine, LEASES.c.held) == 4)
    await process.aclose()  # with a request under way, its journal stays
    transact(engine, lambda c: c.execute(LEASES.update().values(expires_at=0)))
    assert transact(engine, ledger.presume_lost) == 1

    await start()

    await until(lambda: [each.id for each in rows(engine)] == [key.id])
    assert (rows(engine)[0].status, rows(engine)[0].cost) == ("presumed", 4 * UNIT)
    await until(lambda: units(engine, LEASES.c.amount) == 0)
    assert units(engine, WINDOWS.c.spent) == 4


async def test_what_is_kept_of_a_request_goes_with_its_end(start: Start, budget: Budget) -> None:
    process, settings = await start(), Settings(BudgetConfig(), Prices(PricesConfig(), {}, Catalogue.shipped()))
    record = CallRecord(f"req_{1:012x}{1:020x}", "POST", "/")
    reservation = Reservation(process.leases, process.books, record, [budget], settings)
    ended = weakref.ref(reservation)
    reservation.end()
    reservation.settle(0)

    gc.disable()  # what waits for it is in memory meanwhile, with whole answers
    try:
        del reservation
        assert ended() is None
    finally:
        gc.enable()


def rows(engine: Engine) -> list[Any]:
    """All rows of the ledger."""
    return transact(engine, lambda c: list(c.execute(select(LEDGER))))


async def test_a_clock_that_is_set_back_opens_no_day_again(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, budget = await start(), limited(engine, 10, "all:day")
    noon = 1_780_056_000.0
    monkeypatch.setattr("one_api.accounts.leases.time.time", lambda: noon + 86400)
    (today,) = process.leases.begin([budget])

    monkeypatch.setattr("one_api.accounts.leases.time.time", lambda: noon)
    (later,) = process.leases.begin([budget])

    assert later is today
    for lease in (today, later):
        lease.settle(0, 0)


async def test_a_request_is_charged_to_the_day_in_which_it_was_let_in(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, name = await start(), "all:day"
    budget = limited(engine, 10, name, zone="Asia/Shanghai")
    midnight = int(time.time()) // 86400 * 86400 + 16 * 3600
    clock = midnight - 0.1
    monkeypatch.setattr("one_api.accounts.leases.time.time", lambda: clock)
    old = await process.reserve(budget, 8)
    clock = float(midnight)
    new = await process.reserve(budget, 8)  # for both at one time no day has enough

    clock = midnight + 5.0
    for lease, cost, number in ((old, 7, 1), (new, 3, 2)):
        charged = f'[["{name}",{lease.window.start}]]'
        process.books.add(row(number, cost=cost * UNIT, charged=charged))
        lease.settle(8 * UNIT, cost * UNIT)

    assert (old.window.start, new.window.start) == (midnight - 86400, midnight)
    days = select(WINDOWS.c.start, WINDOWS.c.spent).order_by(WINDOWS.c.start)
    expected = [(midnight - 86400, 7 * UNIT), (midnight, 3 * UNIT)]
    await until(lambda: [tuple(each) for each in transact(engine, lambda c: c.execute(days).all())] == expected)
    with pytest.raises(BudgetExceeded):
        await process.reserve(budget, 8)
    await process.reserve(budget, 7)


async def test_a_clock_that_is_set_forward_takes_nothing_from_the_living(
    start: Start, budget: Budget, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("there the clock is that of the server")
    process, other = await start(), await start()
    await process.reserve(budget, 6)
    await until(lambda: units(engine, LEASES.c.held) == 6)

    looked, write = asyncio.Event(), other.database.write

    async def watched(job: Any) -> Any:
        found = await write(job)
        if getattr(job, "func", None) is ledger.presume_lost:
            looked.set()
        return found

    monkeypatch.setattr(other.database, "write", watched)
    transact(engine, lambda c: c.execute(LEASES.update().values(expires_at=0)))  # as it looks days later
    with pytest.raises(BudgetExceeded):
        await other.reserve(budget, 5)
    async with asyncio.timeout(10):
        await looked.wait()

    assert units(engine, LEASES.c.held) == 6
    with pytest.raises(BudgetExceeded):
        await other.reserve(budget, 5)
    assert rows(engine) == []


# Names and windows


@pytest.mark.parametrize("name", ["", "all", "all:year", "key:day", "key::day", "team:a", "all:x:day", "tag:a:day"])
def test_what_names_no_budget_is_told_from_what_does(name: str) -> None:
    assert owner_in(name) is None
    assert owner_in("key:a.b@c-d:day") == ("a.b@c-d", None, "day")
    assert owner_in("team:web:total") == (None, "web", "total")
    assert owner_in("all:week") == (None, None, "week")


ZONES = ["UTC", "Asia/Shanghai", "America/New_York", "Europe/Berlin", "America/Sao_Paulo", "America/Havana",
         "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"]  # fmt: skip


@given(st.sampled_from(PERIODS[:3]), st.sampled_from(ZONES), st.integers(0, 4_000_000_000))
def test_windows_follow_each_other_without_gap_or_overlap(period: Any, zone: str, second: int) -> None:
    own = zone_named(zone)
    begin, end = start_of(period, own, second), end_of(period, own, second)

    assert end is not None
    assert begin <= second < end
    assert start_of(period, own, begin) == start_of(period, own, end - 1) == begin
    assert start_of(period, own, end) == end
    assert end_of(period, own, begin) == end_of(period, own, end - 1) == end
