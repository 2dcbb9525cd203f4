"""The books of one process: entries go through the journal into a queue, and from there to the database in batches."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from one_api.accounts import changes, ledger, windows
from one_api.accounts.database import Database, DatabaseUnavailable
from one_api.accounts.journal import Journal
from one_api.accounts.ledger import LedgerRow, Refusal, Reserve
from one_api.accounts.money import dollars
from one_api.accounts.periods import LONGEST_S

logger = logging.getLogger(__name__)

#: How long entries wait for others, in seconds: a batch costs little more than one row.
_GATHER_S = 1.0
#: Rows in one transaction: a larger one would keep others waiting.
_BATCH = 256
#: Rows that wait in memory while the database is away; more are in the journal alone, and booked at the next start.
_MAX_QUEUE = 100_000
#: Keys and minutes for which refusals are counted meanwhile.
_MAX_REFUSED = 10_000
#: A longer journal is begun anew, in bytes.
_MAX_JOURNAL_BYTES = 8 * 1024 * 1024
#: Between two tries while the database is away, in seconds: all is as before within two of its return.
_RETRY_S = (0.1, 1.0)
#: Between two tries to make a journal, in seconds.
_OPEN_S = 1.0
#: How often old rows are looked for, in seconds, and how many go at a time.
_TIDY_S = 600.0
_TIDY_ROWS = 500
#: A deletion is followed by a rest that is so many times as long.
_REST = 19
_MINUTES_S = 48 * 3600
#: Windows of budgets are kept for so long at least, in seconds: this one and those before it, see ``ledger.carry``.
_WINDOWS_S = 2 * max(LONGEST_S.values())
#: What records of the journal begin with that are no rows.
_RESERVE, _RELEASE = "reserve", "release"


class _Part:
    """Whether something works; what becomes of it is logged once."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Why it does not work.
        self.failing: str | None = None

    def failed(self, why: str) -> None:
        if self.failing is None:
            logger.error("%s; requests go on", why)
        self.failing = why

    def worked(self) -> None:
        if self.failing is not None:
            self.failing = None
            logger.warning("%s is written again", self._name)


class Books:
    """Takes entries on the loop, without waiting, and writes them; nothing leaves the queue before it is committed."""

    def __init__(
        self, database: Database, folder: Path, keep_days: tuple[int, int, int], farewell_s: float = 5.0
    ) -> None:
        """Read the settings.

        Args:
            database: where entries are written.
            folder: for the journal.
            keep_days: how long rows, sums by hour, and lines of the audit are kept.
            farewell_s: how long the last rows may take when the process ends.
        """
        self._database = database
        self._folder = folder
        self._keep_days = keep_days
        self._farewell_s = farewell_s
        self._queue: deque[LedgerRow] = deque()
        self._refused: Counter[Refusal] = Counter()
        self._journal: Journal | None = None
        #: What requests under way have reserved of budgets, by their ids.
        self._reserves: dict[str, Reserve] = {}
        #: Held while the database is read or changed for what this process holds of budgets, but not to acquire more.
        self.turn = asyncio.Lock()
        #: Rows that the database may have or not: it has not answered.
        self.is_unsure = False
        #: This process may hold something of budgets.
        self.has_leased = False
        #: Called with rows once they are booked.
        self.on_booked: Callable[[list[LedgerRow]], None] = lambda _: None
        #: Entries that are in the journal alone.
        self._overflowed = False
        self._ledger, self._file = _Part("the ledger"), _Part("the journal of the ledger")
        self._arrived, self._hurry = asyncio.Event(), asyncio.Event()
        self._is_closing = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def holder(self) -> str | None:
        """Return the name by which this process holds parts of budgets; None without a journal."""
        return self._journal.holder if self._journal is not None else None

    def holders_here(self) -> set[str]:
        """Return the names of the processes that have a journal beside that of this one; blocks."""
        return Journal.holders_in(self._folder)

    @property
    def degraded(self) -> str | None:
        """Return what works less well than it should; None when all is well."""
        return self._ledger.failing or self._file.failing

    def add(self, row: LedgerRow) -> None:
        """Take a row; it is written soon."""
        self._reserves.pop(row.id, None)
        self._note(row)
        if len(self._queue) >= _MAX_QUEUE:
            if not self._overflowed:
                logger.error("the database has been away for long: more rows of the ledger wait in the journal alone")
            self._overflowed = True
            return
        self._queue.append(row)
        self._arrived.set()
        if len(self._queue) >= _BATCH:
            self._hurry.set()

    def reserve(self, reserve: Reserve) -> None:
        """Note what a request may cost, before an upstream is asked: if this process dies, it is booked.

        Raises:
            OSError: when it cannot be noted.
        """
        self._append([_RESERVE, *reserve])
        self._reserves[reserve.id] = reserve

    def release(self, request_id: str) -> None:
        """Note that a request with a reserve has ended, and makes no row."""
        if self._reserves.pop(request_id, None) is not None:
            self._note([_RELEASE, request_id])

    def refuse(self, refusal: Refusal) -> None:
        """Count a request that was turned away."""
        if refusal in self._refused or len(self._refused) < _MAX_REFUSED:
            self._refused[refusal] += 1
            self._arrived.set()

    def _note(self, record: Any) -> None:
        """Put a record into the journal, if that is possible; without one a process that is killed loses rows."""
        try:
            self._append(record)
        except OSError:
            return  # it is logged

    def _append(self, record: Any) -> None:
        if self._journal is None:
            raise FileNotFoundError("there is no journal")
        try:
            self._journal.append(record)
        except OSError as error:
            self._file.failed(f"the journal of the ledger cannot be written: {error}")
            raise
        self._file.worked()

    # Life

    async def start(self) -> None:
        """Begin to write, and book what dead processes left."""
        await self._open_journal()
        loop = asyncio.get_running_loop()
        work = (self._keep_writing, self._keep_tidying, self._keep_opening)
        self._tasks = [loop.create_task(each()) for each in work]

    async def _open_journal(self) -> None:
        try:
            self._journal = await asyncio.to_thread(Journal.create, self._folder)
            self._file.worked()
        except OSError as error:
            self._file.failed(f"there is no journal of the ledger in {self._folder}: {error.strerror}")

    async def _keep_opening(self) -> None:
        """Have a journal as soon as the disk takes one: until then no request with a budget is let in."""
        while self._journal is None:
            await asyncio.sleep(_OPEN_S)
            await self._open_journal()

    async def aclose(self) -> None:
        """Write what is left, as far as that takes no longer than it may; the rest stays in the journal."""
        if not self._tasks:
            return
        self._is_closing = True
        self._hurry.set()
        writer, *others = self._tasks
        for task in others:
            task.cancel()
        deadline = time.monotonic() + self._farewell_s
        while self._queue and time.monotonic() < deadline and not writer.done():  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)
        writer.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._journal is not None:
            if self._queue or self._overflowed or self._reserves or not await self._has_released():
                self._journal.close()
            else:
                self._journal.remove()
            self._journal = None

    async def _has_released(self) -> bool:
        """Give back what this process holds of budgets; return whether that is done."""
        if self.has_leased:
            try:
                await self._database.write(partial(windows.release, holder=str(self.holder)))
            except DatabaseUnavailable:
                return False
        return True

    # Writing

    async def _keep_writing(self) -> None:
        while True:
            await self._arrived.wait()
            with suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it drops the cancellation of a task that was just about to go on.
                async with asyncio.timeout(_GATHER_S):
                    await self._hurry.wait()
            self._arrived.clear()
            await self._write_waiting()
            if len(self._queue) < _BATCH and not self._is_closing:
                self._hurry.clear()

    async def _write_waiting(self) -> None:
        """Write what waits by now; what comes meanwhile waits for others in its turn."""
        retry_s, again = _RETRY_S[0], False
        left = len(self._queue)
        while self._queue or self._refused:
            rows, refused = list(islice(self._queue, _BATCH)), self._refused
            self._refused = Counter()
            try:
                async with self.turn:
                    await self._write_batch(rows, refused, again=again)
            except DatabaseUnavailable as error:
                self._ledger.failed(f"the database cannot be used: {error}")
                self._refused.update(refused)
                again = self.is_unsure = True  # it may have been committed all the same
                await asyncio.sleep(retry_s)
                retry_s = min(_RETRY_S[1], 2 * retry_s)
                continue
            self._ledger.worked()
            retry_s, again = _RETRY_S[0], False
            left -= len(rows)
            if left <= 0:
                break
        self._tidy_journal()

    async def _write_batch(self, rows: list[LedgerRow], refused: Counter[Refusal], *, again: bool) -> None:
        """Write the first rows of the queue, and take them out of it."""
        await self._write(rows, refused, again=again, holder=self.holder)
        for _ in rows:
            self._queue.popleft()
        self.on_booked(rows)
        self.is_unsure = False

    async def _write(
        self, rows: list[LedgerRow], refused: Counter[Refusal], *, again: bool, holder: str | None
    ) -> None:
        """Write a batch; rows that the database can never take are logged, and hold up no others."""
        try:
            work = partial(ledger.book, rows=rows, refused=refused, again=again, holder=holder)
            for alert in await self._database.write(work):
                amounts = alert.percent, dollars(alert.limit), dollars(alert.spent)
                logger.warning("budget %s has reached %d %% of %s USD: %s USD are spent", alert.budget, *amounts)
        except Exception as error:  # whatever is wrong with one row, the others are to be written
            if isinstance(error, DatabaseUnavailable) and not error.is_refusal:
                raise
            if not rows or (len(rows) == 1 and not refused):
                logger.exception("the database refuses a row of the ledger: %s", rows or refused)
                return
            for row in rows:
                await self._write([row], Counter(), again=True, holder=holder)
            if refused:
                await self._write([], refused, again=False, holder=holder)

    def _tidy_journal(self) -> None:
        """Empty the journal when the database has all of it; begin a new one when it has become long."""
        journal = self._journal
        if journal is None or self._overflowed:
            return
        try:
            if not self._queue and not self._reserves:
                journal.clear()
            elif journal.size > _MAX_JOURNAL_BYTES:
                self._journal = self._renewed(journal)
        except OSError as error:
            self._file.failed(f"the journal of the ledger cannot be written: {error}")

    def _renewed(self, old: Journal) -> Journal:
        """Return a journal with what is still needed of another one, which is removed; raises OSError."""
        new = Journal.create(self._folder, old.holder)
        try:
            for record in (*([_RESERVE, *each] for each in self._reserves.values()), *self._queue):
                new.append(record)
        except OSError:
            new.remove()
            raise
        old.remove()
        return new

    # What dead processes left, and what is old

    async def _keep_tidying(self) -> None:
        while True:
            has_adopted = await self._has_adopted()
            with suppress(DatabaseUnavailable):
                await self._forget()
            await asyncio.sleep(_TIDY_S if has_adopted else _RETRY_S[1])

    async def _has_adopted(self) -> bool:
        """Book what dead processes left; return whether all of it is done."""
        try:
            await self._adopt()
        except (DatabaseUnavailable, OSError):
            return False
        except Exception:  # whatever one journal holds, old rows are to go, and journals to be looked for again
            logger.exception("what a process has left cannot be booked")
        return True

    async def _adopt(self) -> None:
        """Book what the journals of dead processes hold, and give back what these had of budgets.

        An entry that is there already counts once. A request whose end is not known owes what it had reserved.
        """
        for journal in Journal.abandoned(self._folder):
            try:
                # Where it was taken for lost: here is what it had in use.
                await self._database.write(partial(ledger.take_back_presumed, holder=journal.holder))
                rows = _rows_in(await asyncio.to_thread(journal.records))
                for begin in range(0, len(rows), _BATCH):
                    batch = rows[begin : begin + _BATCH]
                    await self._write(batch, Counter(), again=True, holder=journal.holder)
                await self._database.write(partial(windows.release, holder=journal.holder))
            except BaseException:
                journal.close()
                raise
            if rows:
                logger.warning("%d rows of the ledger were in the journal of a process that has ended", len(rows))
            journal.remove()

    async def _forget(self) -> None:
        """Delete what is too old, little by little."""
        now = time.time()
        row_days, sum_days, audit_days = self._keep_days
        for by_minute, age_s in ((True, _MINUTES_S), (False, sum_days * 86400)):
            await self._database.write(partial(ledger.forget_sums, by_minute=by_minute, before_s=int(now - age_s)))
        for forget, days in ((ledger.forget, row_days), (changes.forget_audit, audit_days)):
            work = partial(forget, before_ms=int((now - days * 86400) * 1000), limit=_TIDY_ROWS)
            began = time.monotonic()
            while await self._database.write(work):
                await asyncio.sleep(_REST * (time.monotonic() - began))
                began = time.monotonic()
        # What is spent of a window that goes on counts, however short a time sums are kept.
        windows_s = max(sum_days * 86400, _WINDOWS_S)
        await self._database.write(partial(windows.forget, before_s=int(now - windows_s)))


def _rows_in(records: list[Any]) -> list[LedgerRow]:
    """Return the rows in a journal, and one for each request whose end is not in it."""
    rows: list[LedgerRow] = []
    reserves: dict[str, Reserve] = {}
    for kind, *values in records:
        if kind == _RESERVE:
            reserve = Reserve(*values)
            reserves[reserve.id] = reserve._replace(windows=[(name, start) for name, start in reserve.windows])
            continue
        if kind != _RELEASE:
            rows.append(LedgerRow(kind, *values))
        reserves.pop(values[0] if kind == _RELEASE else kind, None)
    return rows + [reserve.presumed() for reserve in reserves.values()]
