"""The statements on windows of budgets and on leases; each is part of one transaction.

To take of a window needs the lock on its budget's row, so what is spent and what is leased together never exceed its
limit. Only what was not foreseen can: what requests under way cost more than they had reserved.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, and_, bindparam, case, select, text

from one_api.accounts.budgets import Budget, WindowKey, budget_in
from one_api.accounts.tables import BUDGETS, LEASES, WINDOWS, adding_to

#: How long a process may be silent before another one takes back what it holds, in seconds: where several machines
#: share the database; and where they are all on one machine, and journals show which processes live.
_TTL_S = {"postgresql": 300, "sqlite": 86400}
#: How much of what is free a process may take for later, at most: one of so many parts, for each process.
_PARTS = 4
#: Budgets whose windows are looked up by one statement.
_AT_ONCE = 500


def _of(table: Table) -> tuple[Any, Any]:
    """Return the conditions for the rows of one window, which ``_window`` names."""
    return table.c.budget == bindparam("of_budget"), table.c.start == bindparam("of_start")


def _window(window: WindowKey) -> dict[str, Any]:
    return {"of_budget": window[0], "of_start": window[1]}


def _without_cost(column: ColumnElement[int]) -> ColumnElement[int]:
    left = column - bindparam("cost", type_=BigInteger)
    return case((left > 0, left), else_=0)


# Statements that are run again and again are made once: to make one takes SQLAlchemy longer than to run it.
_OF_HOLDER = LEASES.c.holder == bindparam("of_holder")
_LOCKED_BUDGETS = (
    select(BUDGETS)
    .where(BUDGETS.c.name.in_(bindparam("names", expanding=True)))
    .order_by(BUDGETS.c.name)
    .with_for_update()
)
_LOCKED_WINDOW = select(WINDOWS).where(*_of(WINDOWS)).with_for_update()
_WITH_BUDGET = select(BUDGETS, WINDOWS).join(WINDOWS, WINDOWS.c.budget == BUDGETS.c.name).where(*_of(WINDOWS))
_SPENT_SINCE = (
    select(WINDOWS.c.start, WINDOWS.c.spent)
    .where(WINDOWS.c.budget == bindparam("of_budget"), WINDOWS.c.start > bindparam("since"))
    .with_for_update()
)
_SPENT = select(WINDOWS).where(
    WINDOWS.c.budget.in_(bindparam("names", expanding=True)), WINDOWS.c.start.in_(bindparam("starts", expanding=True))
)
_LEASES = select(LEASES).where(LEASES.c.budget.in_(bindparam("names", expanding=True)))
_OWN = select(LEASES).where(_OF_HOLDER).order_by(*LEASES.primary_key)
_WANTED = (
    select(WINDOWS.c.budget, WINDOWS.c.start, WINDOWS.c.wanted)
    .join(LEASES, and_(WINDOWS.c.budget == LEASES.c.budget, WINDOWS.c.start == LEASES.c.start))
    .where(_OF_HOLDER)
)
_SET_WINDOW = WINDOWS.update().where(*_of(WINDOWS))
_SET_WANTED = _SET_WINDOW.values(wanted=bindparam("to_wanted"))
_SET_ALERTED = _SET_WINDOW.values(alerted=bindparam("to_alerted"))
_SET_LEASE = (
    LEASES.update()
    .where(*_of(LEASES), _OF_HOLDER)
    .values({name: bindparam(f"to_{name}") for name in ("amount", "held", "seen", "expires_at")})
)
# What costs more than was leased is in what is spent, and must not count twice. What is booked is not in use any more:
# if it still counted, it would hide from others what is idle.
_TAKE = (
    LEASES.update()
    .where(*_of(LEASES), _OF_HOLDER)
    .values({name: _without_cost(LEASES.c[name]) for name in ("amount", "held")})
    .values(expires_at=bindparam("to_expires_at"))
)
_END_LEASE = LEASES.delete().where(*_of(LEASES), _OF_HOLDER)


class Grant(NamedTuple):
    """What a process was given of a window."""

    amount: int
    #: Of the window, after that.
    left: int
    #: Others may give back enough: they were asked to, by this number. None when that is of no use.
    asked: int | None
    #: Which question for what is idle its lease has answered.
    seen: int


class Alert(NamedTuple):
    """A window whose spending has reached a threshold."""

    budget: str
    percent: int
    spent: int
    limit: int


class Kept(NamedTuple):
    """A lease as its holder knows it, for ``keep``."""

    #: What it is taken to have.
    known: int
    #: What it is to have.
    amount: int
    held: int
    #: Which question for what is idle this answers.
    seen: int

    @property
    def is_over(self) -> bool:
        """Return whether nothing of it is left to keep."""
        return self.amount <= 0 and not self.held


def ttl_s(connection: Connection) -> int:
    """Return for how long a lease is good after its holder has written of it, in seconds."""
    return _TTL_S[connection.dialect.name]


def now_ms(connection: Connection) -> int:
    """Return the time by the clock that all processes share, in UTC milliseconds."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1_000_000
    return int(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp()) * 1000")) or 0)


class Need(NamedTuple):
    """What a process wants of a window."""

    #: Less is of no use.
    least: int
    #: What is needed now.
    all: int
    #: What would do for later: of that only a part of what is left is given.
    later: int
    #: What it will then have in use.
    held: int
    #: By which number it has asked others, see ``Grant``; None when it has not.
    asked: int | None = None


def locked_budgets(connection: Connection, names: Iterable[str]) -> dict[str, Budget]:
    """Return those of these budgets that there are; nobody else takes of them or changes them meanwhile."""
    rows = connection.execute(_LOCKED_BUDGETS, {"names": sorted(set(names))})
    return {row.name: budget_in(row) for row in rows}


def acquire(connection: Connection, holder: str, window: WindowKey, need: Need) -> Grant:
    """Take of a window what ``holder`` needs, as far as it is there; nothing where that is of no use.

    Where its budget has another zone now, it is taken of the window of now, as is what others have taken like that.
    """
    name, start = window
    budget = locked_budgets(connection, [name]).get(name)
    now = now_ms(connection)

    def counted(start: int) -> WindowKey:
        return (name, start) if budget is None else budget.counted((name, start), now / 1000)

    leases = connection.execute(_LEASES, {"names": [name]}).all()
    found = [each for each in leases if counted(each.start) == counted(start)]
    rows = [_locked(connection, each) for each in sorted({counted(start), *((name, each.start) for each in found)})]
    spent = next(row.spent for row in rows if (name, row.start) == counted(start))
    wanted, leased = max(row.wanted for row in rows), sum(max(0, each.amount) for each in found)
    # Which question for what is idle it has answered: to take more is no answer. A new lease has nothing to give back.
    seen = next((each.seen for each in found if (each.start, each.holder) == (start, holder)), wanted)
    # A budget that has just gone refuses nothing.
    left = need.all if budget is None else budget.limit - spent - leased
    rest = max(0, left - need.all) if seen == wanted else 0
    share = rest // (_PARTS * max(1, len(found)))
    amount = min(left, need.all) + max(0, min(share, need.later)) if left >= need.least else 0
    asked = None
    if left < need.least:
        asked = _ask_others(wanted, [each for each in found if each.holder != holder], need, need.least - left)
        if asked is not None and asked > wanted:
            connection.execute(_SET_WANTED, [_window((name, row.start)) | {"to_wanted": asked} for row in rows])
    if amount > 0:
        added = {"amount": amount, "held": need.held, "expires_at": now + ttl_s(connection) * 1000}
        added["seen"] = seen
        _add(connection, LEASES, {(*window, holder): added}, sums=("amount",), sets=("held", "expires_at"))
    return Grant(amount, left - amount, asked, seen)


def _ask_others(wanted: int, others: Sequence[Any], need: Need, missing: int) -> int | None:
    """Return the number by which others are asked to give back what is missing; None when that is of no use.

    What they have in use was true when they last wrote it. So they are asked once before a request is refused.
    """
    if sum(max(0, each.amount) for each in others) < missing:
        return None
    if need.asked is None:
        return wanted + 1
    if any(each.seen < need.asked for each in others):
        return need.asked
    return wanted + 1 if sum(max(0, each.amount - each.held) for each in others) >= missing else None


def _locked(connection: Connection, window: WindowKey) -> Any:
    """Return the row of a window, made if it is not there; no other takes of it before this transaction ends."""
    _add(connection, WINDOWS, {window: {"spent": 0, "wanted": 0, "alerted": 0}}, sums=("spent",))
    return connection.execute(_LOCKED_WINDOW, _window(window)).one()


def charge(connection: Connection, costs: Mapping[WindowKey, int]) -> list[Alert]:
    """Add costs to what is spent; returns what is to be logged."""
    ordered = sorted(costs)
    _add(
        connection,
        WINDOWS,
        {each: {"spent": costs[each], "wanted": 0, "alerted": 0} for each in ordered},
        sums=("spent",),
    )
    return [alert for each in ordered if (alert := _alert(connection, each)) is not None]


def use(connection: Connection, costs: Mapping[WindowKey, int], holder: str) -> None:
    """Take costs from what ``holder`` has leased."""
    own = {"of_holder": holder, "to_expires_at": now_ms(connection) + ttl_s(connection) * 1000}
    connection.execute(_TAKE, [_window(each) | own | {"cost": costs[each]} for each in sorted(costs)])


def _alert(connection: Connection, window: WindowKey) -> Alert | None:
    """Return what is to be logged of a window, once for each threshold; its row is locked."""
    row = connection.execute(_WITH_BUDGET, _window(window)).one_or_none()
    if row is None:
        return None
    reached = [each for each in (row.alert_percent, 100) if each and row.spent * 100 >= each * row.limit_nano]
    percent = max(reached, default=0)
    if percent <= row.alerted:
        return None
    connection.execute(_SET_ALERTED, _window(window) | {"to_alerted": percent})
    return Alert(row.name, percent, row.spent, row.limit_nano)


def keep(connection: Connection, holder: str, leases: Mapping[WindowKey, Kept]) -> dict[WindowKey, int]:
    """Note that ``holder`` lives, and what it holds and uses; the rest of its leases goes back.

    Returns what it has in truth of those that were taken from it meanwhile.
    """
    expires_at = now_ms(connection) + ttl_s(connection) * 1000
    found = connection.execute(_OWN, {"of_holder": holder}).all()
    there = {(row.budget, row.start): row.amount for row in found}
    lost: dict[WindowKey, int] = {}
    for window in sorted(leases):
        own, amount = leases[window], there.get(window, 0)
        where = _window(window) | {"of_holder": holder}
        if own.is_over:
            connection.execute(_END_LEASE, where)
            continue
        if amount < own.known:
            lost[window] = amount
        values = {"to_amount": min(amount, own.amount), "to_held": own.held, "to_seen": own.seen}
        connection.execute(_SET_LEASE, where | values | {"to_expires_at": expires_at})
    return lost


def wanted(connection: Connection, holder: str) -> dict[WindowKey, int]:
    """Return for each window that ``holder`` has leased how often others have asked for what is idle."""
    rows = connection.execute(_WANTED, {"of_holder": holder}).all()
    return {(row.budget, row.start): row.wanted for row in rows}


def release(connection: Connection, holder: str) -> None:
    """Give back all that ``holder`` has leased."""
    connection.execute(LEASES.delete().where(LEASES.c.holder == holder))


def take_lost(connection: Connection, but: Collection[str] = ()) -> dict[tuple[WindowKey, str], int]:
    """Take back the leases of holders that count as lost, ``but`` of some; returns what they had in use."""
    is_lost = (LEASES.c.expires_at < now_ms(connection)) & LEASES.c.holder.not_in(but)
    query = select(LEASES).where(is_lost).order_by(*LEASES.primary_key)
    rows, lost = connection.execute(query).all(), dict[tuple[WindowKey, str], int]()
    if rows:
        locked_budgets(connection, (row.budget for row in rows))
    for row in rows:
        window = (row.budget, row.start)
        gone = _END_LEASE.where(LEASES.c.expires_at == row.expires_at)
        if connection.execute(gone, _window(window) | {"of_holder": row.holder}).rowcount:
            lost[window, row.holder] = min(row.held, row.amount)
    return lost


def lost_id(moment_ms: int, window: WindowKey, holder: str) -> str:
    """Return the id of the row of the ledger that stands for what a lost holder had in use."""
    return f"req_{moment_ms:012x}{hashlib.sha256(repr((window, holder)).encode()).hexdigest()[:20]}"


def forget(connection: Connection, before_s: int) -> None:
    """Delete windows that began before a moment, but for those of all time."""
    connection.execute(WINDOWS.delete().where(WINDOWS.c.start > 0, WINDOWS.c.start < before_s))


def states(connection: Connection, budgets: Sequence[Budget], second: float) -> Iterator[tuple[int, int]]:
    """Yield what is spent of each budget's window of a moment, and what processes hold of it."""
    for begin in range(0, len(budgets), _AT_ONCE):
        part = budgets[begin : begin + _AT_ONCE]
        own = {each.name: (each.name, each.window(second).start) for each in part}
        given = {"names": list(own), "starts": list({start for _, start in own.values()})}
        spent = {(row.budget, row.start): row.spent for row in connection.execute(_SPENT, given)}
        held: Counter[WindowKey] = Counter()
        known = {each.name: each for each in part}
        for row in connection.execute(_LEASES, given):
            held[known[row.budget].counted((row.budget, row.start), second)] += max(0, row.amount)
        yield from ((spent.get(window, 0), held[window]) for window in own.values())


def spent_since(connection: Connection, budget: str, start: int) -> dict[int, int]:
    """Return what is spent of the windows of a budget that begin after a moment, by when they begin."""
    found = connection.execute(_SPENT_SINCE, {"of_budget": budget, "since": start})
    return {row.start: row.spent for row in found}


def costs_of(charged: Iterable[tuple[Iterable[WindowKey], int]]) -> Counter[WindowKey]:
    """Return the sums of costs by the windows that they are charged to."""
    costs: Counter[WindowKey] = Counter()
    for windows, cost in charged:
        for window in windows:
            costs[window] += cost
    return costs


def _add(
    connection: Connection,
    table: Table,
    rows: Mapping[tuple[Any, ...], dict[str, int]],
    sums: tuple[str, ...],
    sets: tuple[str, ...] = (),
) -> None:
    """Make rows; of those that are there already add to the columns ``sums``, and set the columns ``sets``."""
    if rows:
        names = [column.name for column in table.primary_key]
        values = [dict(zip(names, key, strict=True)) | row for key, row in rows.items()]
        connection.execute(adding_to(table, connection.dialect.name, sums, sets), values)
