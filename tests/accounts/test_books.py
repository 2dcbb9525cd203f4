"""No row is lost and none is booked twice, whatever happens to the database or to the process."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from sqlalchemy import Connection, Engine, func, select

from one_api.accounts import changes, ledger
from one_api.accounts.books import Books
from one_api.accounts.database import Database, DatabaseUnavailable, transact
from one_api.accounts.journal import Journal
from one_api.accounts.ledger import Refusal
from one_api.accounts.tables import AUDIT, LEDGER, USAGE, WINDOWS
from tests.accounts.rows import row
from tests.support.running_time import RunningTime

T = TypeVar("T")
#: Now, in whole seconds: older rows would be forgotten.
NOW = int(time.time())


class FlakyDatabase(Database):
    """A database that is away as often as is wanted, before or after it has committed."""

    failures = 0
    commits_first = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Database``."""
        if self.failures:
            self.failures -= 1
            if self.commits_first:
                await super().write(work)
            raise DatabaseUnavailable("it is away")
        return await super().write(work)


@pytest_asyncio.fixture
async def database(engine: Engine) -> AsyncIterator[FlakyDatabase]:
    """The database of the test."""
    opened = FlakyDatabase(engine, "test")
    yield opened
    await opened.aclose()


def ids(engine: Engine) -> list[str]:
    """The ids of all rows, in order."""
    return transact(engine, lambda c: list(c.scalars(select(LEDGER.c.id).order_by(LEDGER.c.id))))


def requests(engine: Engine) -> Any:
    """How many requests the sums by hour tell of."""
    return transact(engine, lambda c: c.scalar(select(func.sum(USAGE.c.requests)).where(USAGE.c.span == 900)))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def books(database: Database, folder: Path) -> Books:
    """The books of one process."""
    return Books(database, folder, (30, 400, 400))


def left_by_a_dead_process(folder: Path, *rows: Any) -> None:
    """Make the journal of a process that was killed."""
    journal = Journal.create(folder)
    for each in rows:
        journal.append(each)
    journal.close()


async def test_rows_are_written_soon_and_the_journal_is_emptied(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    own = books(database, tmp_path)
    await own.start()
    for number in range(250):
        own.add(row(number, NOW))
    own.refuse(Refusal(NOW - NOW % 60, "alice"))

    await until(lambda: len(ids(engine)) == 250)
    (path,) = tmp_path.glob("*.journal")
    await until(lambda: path.read_bytes()[:4] == bytes(4))  # no first record
    await own.aclose()

    assert requests(engine) == 250
    assert not path.exists()
    assert transact(engine, lambda c: c.scalar(select(func.sum(USAGE.c.refused)).where(USAGE.c.span == 60))) == 1


class BusyDatabase(Database):
    """A database to which more is to be written as soon as the first batch begins."""

    batches = 0
    while_the_first_begins: Callable[[], None]

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Database``."""
        if getattr(work, "func", None) is ledger.book:
            self.batches += 1
            if self.batches == 1:
                self.while_the_first_begins()
        return await super().write(work)


async def test_rows_that_come_while_a_batch_is_written_wait_for_others(engine: Engine, tmp_path: Path) -> None:
    database = BusyDatabase(engine, "test")
    own = books(database, tmp_path)
    database.while_the_first_begins = lambda: own.add(row(1, NOW))
    await own.start()
    own.add(row(0, NOW))
    await until(lambda: len(ids(engine)) >= 1)
    for number in range(2, 12):
        own.add(row(number, NOW))
        await asyncio.sleep(0)

    await until(lambda: len(ids(engine)) == 12)
    await own.aclose()
    await database.aclose()

    assert database.batches == 2


async def test_a_window_that_goes_on_is_kept_however_short_a_time_sums_are(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    now = int(time.time())
    starts = {"of now": now - 31 * 86400, "of before": now - 100 * 86400}
    windows = [{"budget": "all:month", "start": start, "spent": 7} for start in starts.values()]
    transact(engine, lambda c: c.execute(WINDOWS.insert().values(wanted=0, alerted=0), windows))
    own = Books(database, tmp_path, (1, 1, 1))
    await own.start()

    await until(lambda: starts["of before"] not in transact(engine, lambda c: c.scalars(select(WINDOWS.c.start)).all()))
    await own.aclose()

    assert transact(engine, lambda c: c.scalars(select(WINDOWS.c.start)).all()) == [starts["of now"]]


async def test_what_is_queued_at_the_end_is_written(database: FlakyDatabase, engine: Engine, tmp_path: Path) -> None:
    own = books(database, tmp_path)
    await own.start()
    for number in range(200):
        own.add(row(number, NOW))

    await own.aclose()

    assert len(ids(engine)) == 200


@pytest.mark.parametrize("commits_first", [False, True])
async def test_a_database_that_was_away_has_every_row_once(
    database: FlakyDatabase, engine: Engine, tmp_path: Path, commits_first: bool
) -> None:
    own = books(database, tmp_path)
    await own.start()
    database.failures, database.commits_first = 2, commits_first
    for number in range(30):
        own.add(row(number, NOW))

    await until(lambda: own.degraded is not None)
    await until(lambda: own.degraded is None)
    await own.aclose()

    assert len(ids(engine)) == 30
    assert requests(engine) == 30


async def test_a_database_that_was_away_for_long_has_all_within_two_seconds(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    left_by_a_dead_process(tmp_path, row(1, NOW))
    own, write, batches = books(database, tmp_path), database.write, 0

    async def count_and_write(work: Any) -> Any:
        nonlocal batches
        batches += getattr(work, "func", None) is ledger.book
        return await write(work)

    database.write = count_and_write  # type: ignore[method-assign]
    database.failures = 1_000_000
    await own.start()
    own.add(row(2, NOW))
    await until(lambda: batches == 7, 60.0)  # tries have become as seldom as they ever do

    database.failures = 0
    with RunningTime() as took:
        await until(lambda: len(ids(engine)) == 2 and own.degraded is None)
    await own.aclose()

    assert took.seconds < 2


async def test_what_could_not_be_written_waits_for_the_next_process(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    own = Books(database, tmp_path, (30, 400, 400), farewell_s=0.2)
    await own.start()
    database.failures = 1000
    for number in range(5):
        own.add(row(number, NOW))
    await own.aclose()
    assert ids(engine) == []

    database.failures = 0
    after = books(database, tmp_path)
    await after.start()
    await until(lambda: len(list(tmp_path.glob("*.journal"))) == 1)  # its own
    await after.aclose()

    assert len(ids(engine)) == 5


async def test_the_journal_of_a_killed_process_is_booked_once(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    rows = [row(number, NOW) for number in range(150)]
    transact(engine, lambda c: ledger.book(c, rows[:70], Counter(), again=False))
    left_by_a_dead_process(tmp_path, *rows)

    own = books(database, tmp_path)
    await own.start()
    await until(lambda: len(ids(engine)) == 150)
    await own.aclose()

    assert requests(engine) == 150


async def test_the_journal_of_an_older_version_is_booked(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    older = tuple(row(1, NOW))[: ledger.LedgerRow._fields.index("modalities")]
    left_by_a_dead_process(tmp_path, older)

    own = books(database, tmp_path)
    await own.start()
    await until(lambda: len(ids(engine)) == 1)
    await own.aclose()


async def test_a_row_that_no_database_takes_holds_up_no_other(
    database: FlakyDatabase, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = books(database, tmp_path)
    await own.start()
    own.add(row(1, NOW))
    own.add(row(2, NOW)._replace(ms=2**63))
    own.add(row(3, NOW))
    await own.aclose()

    assert ids(engine) == [row(1, NOW).id, row(3, NOW).id]
    assert row(2, NOW).id in caplog.text


async def test_old_lines_of_the_audit_are_forgotten(database: FlakyDatabase, engine: Engine, tmp_path: Path) -> None:
    days = [*[500] * 1000, 401, 399, 0]  # so many that it takes several rounds
    lines = [
        {"at": (NOW - day * 86400) * 1000, "actor": "tester", "action": "update key", "target": f"{day}"}
        for day in days
    ]
    transact(engine, lambda c: c.execute(AUDIT.insert(), lines))

    def targets() -> list[str]:
        return transact(engine, lambda c: [line["target"] for line in changes.audit(c)])

    own = books(database, tmp_path)
    await own.start()
    await until(lambda: len(targets()) == 2)
    await own.aclose()

    assert targets() == ["0", "399"]


async def test_old_rows_are_forgotten(database: FlakyDatabase, engine: Engine, tmp_path: Path) -> None:
    day = 86400
    transact(
        engine,
        lambda c: ledger.book(c, [row(1, NOW - 31 * day), row(2, NOW - 29 * day)], Counter(), again=False),
    )
    own = books(database, tmp_path)
    await own.start()
    await until(lambda: len(ids(engine)) == 1)
    await own.aclose()

    assert ids(engine) == [row(2, NOW - 29 * day).id]
    assert requests(engine) == 2  # the sums are kept longer


async def test_without_a_place_for_the_journal_rows_are_written_all_the_same(
    database: FlakyDatabase, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    own = books(database, tmp_path / "file")
    await own.start()
    assert own.degraded is not None
    own.add(row(1, NOW))
    await own.aclose()

    assert len(ids(engine)) == 1
