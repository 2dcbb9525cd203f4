"""What this process holds of budgets: requests are let in from it without asking the database, unless it is too little.

Everything here runs on the loop. What is known of a lease here is never more than what the database has of it: where an
answer is lost, money is held unknown to us, until ``keep`` gives it back.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from one_api.accounts import ledger, windows
from one_api.accounts.books import Books
from one_api.accounts.budgets import Budget, WindowKey
from one_api.accounts.database import Database, DatabaseUnavailable
from one_api.accounts.lease import Lease, now_s
from one_api.accounts.ledger import LedgerRow
from one_api.accounts.windows import Grant, Kept, Need, ttl_s
from one_api.errors import AccountsUnavailable
from one_api.serving.tasks import stop

logger = logging.getLogger(__name__)

#: How long a request may wait for its budgets, all together, in seconds.
MAX_WAIT_S = 1.5
#: For so long a window with too little left is not asked again, in seconds: clients that repeat cost no transaction.
_REMEMBER_S = 0.25
#: How often this process looks whether others want what it holds and does not use, in seconds.
_LOOK_S = 0.25
#: After asking others for what is idle, this process looks for it after so many seconds, from and to.
_ASK_AGAIN_S = (0.05, 0.15)
#: How long a rise of what is in use may wait until it is written, and how often more is asked for ahead, in seconds.
_NOTE_S = 1.0
#: How often it is looked for processes that are lost, in seconds.
_LOST_S = 60.0
#: The pace of a lease is what was spent in so many seconds; of what is idle, so many times the pace is kept.
_RECENT_S = 60
_KEPT = 2
#: A lease is written at least so often before it expires.
_WRITES = 3
#: It is not known what the database has of a lease: it is written again soon.
_UNKNOWN = (-1, -1)


class Leases:
    """All leases of this process."""

    def __init__(self, database: Database, books: Books) -> None:
        """``database`` is the one that ``books`` write to: its transactions follow each other."""
        self._database = database
        self._books = books
        books.on_booked = self._booked
        #: Bounded by the budgets that are in use.
        self._leases: dict[WindowKey, Lease] = {}
        #: By the names of budgets.
        self._current: dict[str, Lease] = {}
        self._keeper: asyncio.Task[None] | None = None
        #: What requests may cost, and have cost, that were let in without a lease because the database is away.
        self._beyond = self._spent_beyond = 0
        #: The database has not answered when more was asked for.
        self._is_away = False
        self._lost_at = self._counted_at = 0.0

    async def aclose(self) -> None:
        """Stop; what is held goes back with the end of the books."""
        await stop(self._keeper, *(each.acquiring for each in self._leases.values()))

    def _of(self, budget: Budget) -> Lease:
        """Return the lease of a budget's window of now. A clock that is set back opens none of before."""
        lease, now = self._current.get(budget.name), time.time()
        if lease is not None and lease.budget is budget and (lease.window.end is None or now < lease.window.end):
            return lease
        window = budget.window(now)
        if lease is not None and lease.budget.zone == budget.zone and window.start <= lease.window.start:
            lease.budget = budget  # its limit was changed
            return lease
        key = (budget.name, window.start)
        lease = self._current[budget.name] = self._leases.setdefault(key, Lease(budget, window))
        lease.budget = budget
        return lease

    def begin(self, budgets: Sequence[Budget]) -> tuple[Lease, ...]:
        """Return the leases that a request is charged to; each is to be settled."""
        found = tuple(map(self._of, budgets))
        for lease in found:
            lease.requests += 1
        return found

    async def admit(self, leases: Sequence[Lease], need: int, allowance: int = 0) -> int:
        """Return once each lease has ``need`` free; the caller reserves it before it waits for anything.

        While the database is away, requests may go beyond the leases, by ``allowance`` all together. Returns by how
        much this one does; that is to be handed to ``settle``.

        Raises:
            BudgetExceeded: when a window has too little left.
            AccountsUnavailable: when the database does not answer in time.
        """
        try:
            await self._admit(leases, need, at_once=self._is_away and allowance > 0)
        except AccountsUnavailable:
            if self._beyond + self._spent_beyond + need > allowance:
                raise
            self._beyond += need
            return need
        return 0

    def settle(self, beyond: int, cost: int) -> None:
        """End a request that went beyond the leases: until the database is back, what it has cost counts instead."""
        self._beyond -= beyond
        if beyond and self._is_away:
            self._spent_beyond += cost

    def ask_for_missing(self, leases: Sequence[Lease]) -> None:
        """Ask for what more is in use than there is: answers have become longer than what was reserved for them."""
        for each in leases:
            if each.free < 0:
                self._ask_ahead(each, now_s())

    def _ask_ahead(self, lease: Lease, now: float) -> None:
        """Ask for more, without waiting for it."""
        if lease.acquiring is None and now > lease.ahead_at:
            lease.ahead_at = now + _NOTE_S
            self._begin_acquiring(lease)

    async def _admit(self, leases: Sequence[Lease], need: int, *, at_once: bool) -> None:
        """See ``admit``; ``at_once`` waits for nothing."""
        deadline, answers = now_s() + MAX_WAIT_S, dict[Lease, Grant]()
        # Waiting requests come first: else one that needs much would wait for ever beside many that need little.
        while (short := next((each for each in leases if each.lacks(need, waited=bool(answers))), None)) is not None:
            if at_once:
                self._ask_ahead(short, now_s())
                raise unavailable()
            try:
                answers[short] = await self._more(short, need, deadline)
            except TimeoutError:
                # It is others that have not given back what is missing, not the database that is away.
                if (last := answers.get(short)) is not None and last.asked is not None:
                    raise short.refusal(need) from None
                self._is_away = True
                raise unavailable() from None
        now = now_s()
        for each in leases:
            if each.amount > 0 and now > each.good_until:
                raise unavailable()
            if each.free - need < each.recent // 2:
                self._ask_ahead(each, now)

    async def _more(self, lease: Lease, need: int, deadline: float) -> Grant:
        """Return what the database has answered for a lease; raises also TimeoutError."""
        now = now_s()
        if now < lease.left_until and lease.free + lease.left < need:
            raise lease.refusal(need)
        lease.needs.append(need)
        try:
            acquiring = lease.acquiring or self._begin_acquiring(lease)
            async with asyncio.timeout(deadline - now):
                grant = await asyncio.shield(acquiring)
        except DatabaseUnavailable:
            raise unavailable() from None
        finally:
            lease.needs.remove(need)
        if grant.asked is not None and lease.free < need:
            await asyncio.sleep(random.uniform(*_ASK_AGAIN_S))
        return grant

    # The database

    def _begin_acquiring(self, lease: Lease) -> "asyncio.Task[Grant]":
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
            self._books.has_leased = True
        lease.acquiring = task = asyncio.get_running_loop().create_task(self._acquire(lease))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _acquire(self, lease: Lease) -> Grant:
        try:
            await asyncio.sleep(0)  # so that others that come now are counted
            holder = self._books.holder
            if holder is None:
                raise DatabaseUnavailable("there is no journal")
            need, began = lease.need(), now_s()
            grant, good_s = await self._database.write(partial(_acquired, holder=holder, window=lease.key, need=need))
            self._is_back()
            lease.amount += grant.amount
            lease.left, lease.asked = grant.left, grant.asked
            lease.left_until = now_s() + _REMEMBER_S if not grant.amount and grant.asked is None else 0.0
            if grant.amount:
                lease.good_until, lease.written_at = began + good_s, began
                lease.is_stored, lease.wanted = True, grant.seen
            return grant
        except DatabaseUnavailable:
            self._is_away = True
            # It may have been given all the same: what is written next takes that back.
            lease.is_stored, lease.written = True, _UNKNOWN
            raise
        finally:
            lease.acquiring = None

    def _is_back(self) -> None:
        self._is_away, self._spent_beyond = False, 0

    def _booked(self, rows: list[LedgerRow]) -> None:
        """Note that the database has these costs: it has taken them from the leases."""
        self._is_back()
        for key, cost in ledger.costs_of(rows).items():
            if (lease := self._leases.get(key)) is not None:
                lease.amount = max(0, lease.amount - cost)
                lease.used -= cost
                lease.is_stored = True

    async def _keep(self) -> None:
        """Keep the leases alive, and give back what is idle, as long as this process lives."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except DatabaseUnavailable:
                continue  # the leases go on as long as they are good; the books log it
            except Exception:  # whatever is wrong with one lease, the others are to be kept
                logger.exception("what this process holds of budgets cannot be kept")

    async def _look(self) -> None:
        now = now_s()
        if now - self._counted_at >= _NOTE_S:
            self._count(now)
        for key in [key for key, lease in self._leases.items() if lease.is_idle]:
            lease = self._leases.pop(key)
            if self._current.get(lease.budget.name) is lease:
                del self._current[lease.budget.name]
        if self._leases:
            await self._write(now)
        if now - self._lost_at >= _LOST_S:
            self._lost_at = now
            presume_lost = partial(ledger.presume_lost, here=self._books.holders_here)
            if count := await self._database.write(presume_lost):
                logger.error("a process was lost: what it had in use of budgets is booked as spent, in %d rows", count)

    def _count(self, now: float) -> None:
        seconds = min(_RECENT_S, int(now - self._counted_at)) if self._counted_at else 1
        self._counted_at = now
        for lease in self._leases.values():
            lease.recent = lease.recent * (_RECENT_S - seconds) // _RECENT_S + lease.newly_spent
            lease.newly_spent = 0

    async def _write(self, now: float) -> None:
        """Write what has changed of the leases; between two batches of the books, whose costs change them, too."""
        holder = self._books.holder
        if holder is None:
            return
        wanted = await self._database.read(partial(windows.wanted, holder=holder))
        async with self._books.turn:
            kept: dict[WindowKey, Kept] = {}
            for key, lease in self._leases.items():
                kept_lease = self._kept(lease, wanted.get(key, lease.wanted), now)
                if kept_lease is not None:
                    kept[key], lease.written = kept_lease, _UNKNOWN  # until the database has answered
            if not kept:
                return
            began = now_s()
            lost, good_s = await self._database.write(partial(_kept, holder=holder, leases=kept))
            self._is_back()
            for key, own in kept.items():
                lease = self._leases[key]
                lease.good_until, lease.written_at = began + good_s, began
                lease.written = (own.amount, own.held)
                lease.is_stored = not own.is_over
                if key in lost:
                    # Its taker has booked what was in use; that is taken back, and booked with the requests.
                    lease.amount += lost[key] - own.known

    def _kept(self, lease: Lease, wanted: int, now: float) -> Kept | None:
        """Return what is to be written of a lease, after giving back what is idle; None when nothing has changed."""
        if self._books.is_unsure or lease.acquiring is not None:
            return None  # it is not known what the database has of it
        known, idle = lease.amount, max(0, lease.free)
        was_asked = wanted != lease.wanted
        back = idle if was_asked else idle - _KEPT * lease.pace if idle > 2 * _KEPT * lease.pace else 0
        if was_asked:
            lease.wanted, lease.lean_until = wanted, now + MAX_WAIT_S
        lease.amount = known - back
        before_amount, before_held = lease.written
        if was_asked or back or (lease.is_stored and lease.amount <= 0 and not lease.held):
            due_s = 0.0
        elif (lease.amount, lease.held) == (before_amount, before_held):
            due_s = (lease.good_until - lease.written_at) / _WRITES
        else:
            due_s = 0.0 if lease.held < before_held else _NOTE_S
        return Kept(known, lease.amount, lease.held, wanted) if now - lease.written_at >= due_s else None


def _acquired(connection: Connection, *, holder: str, window: WindowKey, need: Need) -> tuple[Grant, int]:
    """Return what was acquired, and for how many seconds it is good."""
    return windows.acquire(connection, holder, window, need), ttl_s(connection)


def _kept(connection: Connection, *, holder: str, leases: dict[WindowKey, Kept]) -> tuple[dict[WindowKey, int], int]:
    """Return what was lost of leases meanwhile, and for how many seconds the others are good."""
    lost = windows.keep(connection, holder, leases)
    if lost:
        ledger.take_back_presumed(connection, holder)
    return lost, ttl_s(connection)


def unavailable() -> AccountsUnavailable:
    """Return the answer to a request for which it is not known what is left."""
    return AccountsUnavailable("What is left of a budget cannot be looked up now: try again.", retry_after_s=1)
