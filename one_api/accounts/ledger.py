"""The ledger: a row for each request, made of its record, and written in batches with the sums of usage."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import add
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, not_, select

from one_api.accounts import windows
from one_api.accounts.budgets import Budget, WindowKey
from one_api.accounts.percentiles import FIRST, WHOLE
from one_api.accounts.periods import LONGEST_S
from one_api.accounts.tables import LEDGER, USAGE, adding_to
from one_api.accounts.windows import Alert
from one_api.dialects import json

#: Seconds of the buckets that usage is summed up in; sums by minute are kept for two days.
SPANS = (60, 900)
_HOUR_S = 3600
_KEY_COLUMNS = tuple(column.name for column in USAGE.primary_key)
_SUMS = tuple(column.name for column in USAGE.columns if not column.primary_key)
#: Columns that are true or false.
_BOOLEANS = frozenset(("stream", "estimated"))
#: Rows that one statement inserts, at most.
_MAX_AT_ONCE = 64
#: A process that was taken for lost is looked for among the rows of so many seconds.
_LOST_S = 7 * 86400
#: A request may be let in so long after it came, in seconds: in the next window.
_LATE_S = _HOUR_S
#: Rows of what was moved from one window to another; and others that are few.
_ARE_MOVES = (LEDGER.c.key == "", LEDGER.c.status == "credit")


class LedgerRow(NamedTuple):
    """One row; its fields are the columns of the table, see there."""

    id: str
    at: int
    key: str
    model: str
    deployment: str | None
    status: str
    http_status: int | None
    error: str | None
    stream: bool
    cache: str | None
    prompt: int | None
    cached: int | None
    cache_write: int | None
    completion: int | None
    reasoning: int | None
    cost: int | None
    upstream_cost: int | None
    rates: str | None
    ms: int
    first_ms: int | None
    attempts: int
    tries: str | None
    estimated: bool | None = None
    reserve: int | None = None
    charged: str | None = None
    units: float | None = None
    unit: str | None = None
    modalities: str | None = None

    @property
    def windows(self) -> tuple[WindowKey, ...]:
        """Return the windows of budgets that it is charged to."""
        return () if self.charged is None else _windows_in(self.charged)


class Reserve(NamedTuple):
    """What is noted in the journal of a request before an upstream is asked: should this process die, it is booked."""

    id: str
    at: int
    key: str
    model: str
    amount: int
    windows: list[WindowKey]

    def presumed(self) -> LedgerRow:
        """Return the row for a request whose end is not known: it owes what it had reserved."""
        return _presumed(self.id, self.at, self.key, self.model, self.amount, self.windows)


class Refusal(NamedTuple):
    """Requests of one key in one minute that were turned away before any upstream was asked: counted, without a row."""

    minute_s: int
    key: str


def moment_ms(request_id: str) -> int:
    """Return when a request came, in UTC milliseconds: its id begins with that."""
    return int(request_id[4:16], 16)


def id_at(moment_ms: int) -> str:
    """Return what the ids of all requests from a moment on are greater than."""
    return f"req_{max(0, moment_ms):012x}"


@lru_cache(maxsize=1024)
def charged_text(keys: tuple[WindowKey, ...]) -> str:
    """Return the windows that a row is charged to, as its column holds them."""
    return json.encode(list(keys)).decode()


@lru_cache(maxsize=1024)
def _windows_in(charged: str) -> tuple[WindowKey, ...]:
    return tuple((name, start) for name, start in json.decode(charged.encode()))


def _presumed(id: str, at: int, key: str, model: str, amount: int, windows: list[WindowKey]) -> LedgerRow:
    tokens, costs = (None,) * 5, (amount, None, None)
    return LedgerRow(
        id, at, key, model, None, "presumed", None, None, False, None, *tokens, *costs, 0, None, 0, None, True, amount,
        charged_text(tuple(windows)) if amount else None,
    )  # fmt: skip


# Statements


def book(
    connection: Connection, rows: list[LedgerRow], refused: Counter[Refusal], *, again: bool, holder: str | None = None
) -> list[Alert]:
    """Write rows, the sums of all, and what is spent of budgets; returns what is to be logged of these.

    With ``again`` some of the rows may be there already, and count once. What is spent is taken from what ``holder``
    has leased.
    """
    new = {row.id: row for row in rows}
    if again and new:
        for known in connection.scalars(select(LEDGER.c.id).where(LEDGER.c.id.in_(new))).all():
            del new[known]
    leased = charged = costs_of(new.values())
    if leased:
        budgets = windows.locked_budgets(connection, (name for name, _ in leased))
        if not all(_counts_in(budgets, window) for window in leased):
            new = {row.id: _placed(row, budgets) for row in new.values()}
            charged = costs_of(new.values())
    if new:
        _insert(connection, list(new.values()))
    alerts = windows.charge(connection, charged) if leased else []
    if leased and holder is not None:
        windows.use(connection, leased, holder)
    add_sums(connection, sums_of(new.values(), refused))
    return alerts


def costs_of(rows: Iterable[LedgerRow]) -> Counter[WindowKey]:
    """Return the sums of what rows cost by the windows that they are charged to."""
    sums: Counter[str] = Counter()
    for row in rows:
        if row.charged is not None and row.cost:
            sums[row.charged] += row.cost
    return windows.costs_of((_windows_in(charged), cost) for charged, cost in sums.items())


def _counts_in(budgets: Mapping[str, Budget], window: WindowKey) -> bool:
    """Return whether a budget has this window; its zone may have been changed. One that has gone has all of them."""
    name, start = window
    return name not in budgets or budgets[name].begins(start)


def _placed(row: LedgerRow, budgets: Mapping[str, Budget]) -> LedgerRow:
    """Return a row that is charged to the windows which its budgets have now."""
    if all(_counts_in(budgets, window) for window in row.windows):
        return row
    places = [budgets[each[0]].counted(each, row.at / 1000) if each[0] in budgets else each for each in row.windows]
    return row._replace(charged=charged_text(tuple(places)))


def carry(connection: Connection, budget: Budget) -> None:
    """Have the window of now count what was spent since it began, whatever zone its budget had then; its row is locked.

    What others had of that is taken off them: two rows of the ledger for each.
    """
    moment_ms = windows.now_ms(connection)
    now, start = moment_ms // 1000, budget.window(moment_ms / 1000).start
    longest_s = LONGEST_S[budget.period]
    others = windows.spent_since(connection, budget.name, start - 2 * longest_s)
    others.pop(start, None)
    moves = _moves(connection, min(others, default=now))
    for other, spent in sorted(others.items()):
        window = (budget.name, other)
        own = {at: cost for (at, place), cost in moves.items() if place == window}
        cost = sum(cost for at, cost in own.items() if at >= start)
        # It is known by the rows before that moment, or by those since: there are fewer of one.
        end = min(now, other + longest_s) + _LATE_S
        if start - other < end - start:
            cost += spent - sum(own.values()) - _sum(connection, window, other - _LATE_S, start)
        else:
            cost += _sum(connection, window, start, end)
        if cost:
            costs = {window: -cost, (budget.name, start): cost}
            _insert(connection, [_correction(moment_ms, "", cost, place) for place, cost in costs.items()])
            windows.charge(connection, costs)


def _moves(connection: Connection, since: int) -> Counter[tuple[int, WindowKey]]:
    """Return what was moved between windows since a moment, by the moments and windows."""
    query = select(LEDGER.c.at, LEDGER.c.charged, LEDGER.c.cost).where(*_ARE_MOVES, LEDGER.c.id >= id_at(since * 1000))
    moves: Counter[tuple[int, WindowKey]] = Counter()
    for at, charged, cost in connection.execute(query):
        for window in _windows_in(charged):
            moves[at // 1000, window] += cost
    return moves


def _sum(connection: Connection, window: WindowKey, begin: int, end: int) -> int:
    """Return what was charged to a window from ``begin`` up to ``end``, but for what was moved."""
    query = (
        select(LEDGER.c.charged, func.sum(LEDGER.c.cost))
        .where(LEDGER.c.id >= id_at(begin * 1000), LEDGER.c.id < id_at(end * 1000), LEDGER.c.charged.is_not(None))
        .where(not_(and_(*_ARE_MOVES)))
        .group_by(LEDGER.c.charged)
    )
    return sum(int(cost or 0) for charged, cost in connection.execute(query).all() if window in _windows_in(charged))


def credit(connection: Connection, key: str, amount: int, window: WindowKey) -> None:
    """Book that so much was not spent of a window."""
    book(connection, [_correction(windows.now_ms(connection), key, -amount, window)], Counter(), again=False)


def _correction(moment_ms: int, key: str, cost: int, window: WindowKey) -> LedgerRow:
    id = f"{id_at(moment_ms)}{os.urandom(10).hex()}"
    return _presumed(id, moment_ms, key, "", cost, [window])._replace(status="credit", reserve=None, estimated=None)


def presume_lost(connection: Connection, here: Callable[[], Collection[str]] = frozenset) -> int:
    """Book what processes had in use that have been silent for too long, and free the rest; returns how many rows.

    With SQLite all processes are on one machine: those that have journals ``here`` are not lost, whatever a clock that
    was set says.
    """
    moment_ms = windows.now_ms(connection)
    others = here() if connection.dialect.name == "sqlite" else ()
    rows = [
        _presumed(windows.lost_id(moment_ms, window, holder), moment_ms, "", "", held, [window])._replace(error=holder)
        for (window, holder), held in windows.take_lost(connection, others).items()
        if held > 0
    ]
    if rows:
        book(connection, rows, Counter(), again=False)
    return len(rows)


def take_back_presumed(connection: Connection, holder: str) -> int:
    """Delete what was booked for ``holder`` as lost: it lives, or its journal is there; returns how many rows."""
    since = id_at(windows.now_ms(connection) - _LOST_S * 1000)
    found = select(LEDGER).where(LEDGER.c.id >= since, LEDGER.c.status == "presumed", LEDGER.c.error == holder)
    rows = [LedgerRow(*row) for row in connection.execute(found)]
    for row in rows:
        if connection.execute(LEDGER.delete().where(LEDGER.c.id == row.id)).rowcount and row.cost:
            windows.charge(connection, dict.fromkeys(row.windows, -row.cost))
            added = sums_of([row], Counter())
            add_sums(connection, [{k: -v if k in _SUMS else v for k, v in each.items()} for each in added])
    return len(rows)


def _insert(connection: Connection, rows: list[LedgerRow]) -> None:
    """Insert rows, past SQLAlchemy's own look at each value, which would cost more than the database."""
    # Without the columns that are empty in all of them: SQLite's driver takes longer for None than for anything else,
    # and so it does for what is true or false.
    columns = {name: values for name, values in _columns(rows).items() if values.count(None) < len(values)}
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_insert_text("%s", 1, tuple(columns)), list(zip(*columns.values(), strict=True)))
        return
    for name in _BOOLEANS & columns.keys():
        columns[name] = tuple(None if each is None else int(each) for each in columns[name])
    values = list(zip(*columns.values(), strict=True))
    # The driver lets another thread run for each statement. Counts are powers of two, so that it has few to keep.
    while values:
        count = min(_MAX_AT_ONCE, 1 << len(values).bit_length() - 1)
        connection.exec_driver_sql(_insert_text("?", count, tuple(columns)), tuple(chain.from_iterable(values[:count])))
        values = values[count:]


@lru_cache
def _insert_text(mark: str, count: int, names: tuple[str, ...]) -> str:
    marks = f"({', '.join([mark] * len(names))})"
    return f"INSERT INTO ledger ({', '.join(names)}) VALUES {', '.join([marks] * count)}"  # noqa: S608 - our names


def sums_of(rows: Iterable[LedgerRow], refused: Counter[Refusal]) -> list[dict[str, Any]]:
    """Return the rows of ``usage`` that these add up to, in the order of their keys."""
    minutes: dict[tuple[Any, ...], list[LedgerRow]] = {}
    for row in rows:
        minute_s = row.at // (1000 * SPANS[0]) * SPANS[0]
        minutes.setdefault((minute_s, row.key, row.model, row.deployment or ""), []).append(row)
    counted = [(place, _counts(found)) for place, found in minutes.items()]
    for each, count in refused.items():
        counts = tuple(count if name == "refused" else 0 for name in _SUMS)
        counted.append(((each.minute_s, each.key, "", ""), counts))
    sums: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for (start, *place), counts in counted:
        for span in SPANS:
            key = (span, start - start % span, *place)
            sums[key] = tuple(map(add, sums[key], counts)) if key in sums else counts
    return [dict(zip((*_KEY_COLUMNS, *_SUMS), (*key, *sums[key]), strict=True)) for key in sorted(sums)]


def _counts(rows: Sequence[LedgerRow]) -> tuple[int, ...]:
    """Return what rows add to the sums, in the order of their columns: column by column, as for many at once."""
    columns = _columns(rows)
    status, cache, ms = columns["status"], columns["cache"], columns["ms"]
    first_ms = [each for each in columns["first_ms"] if each is not None]
    ended = (
        ms
        if {"credit", "presumed"}.isdisjoint(status)
        else [row.ms for row in rows if row.status not in ("credit", "presumed")]
    )
    return (
        len(rows) - status.count("credit"),
        status.count("failed") + status.count("interrupted"),
        0,
        status.count("cancelled"),
        cache.count("hit") + cache.count("joined"),
        columns["cost"].count(None),
        *(sum(filter(None, columns[name])) for name in ("prompt", "cached", "completion", "cost", "upstream_cost")),
        sum(ms),
        sum(first_ms),
        len(first_ms),
        *FIRST.counts(first_ms),
        *WHOLE.counts(ended),
    )


def _columns(rows: Sequence[LedgerRow]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each column of rows."""
    return dict(zip(LedgerRow._fields, zip(*rows, strict=True), strict=True))


def add_sums(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Add to the rows of ``usage``; those that are not there are made. Locks are taken in the order of ``rows``."""
    if rows:
        connection.execute(adding_to(USAGE, connection.dialect.name, _SUMS), rows)


def forget(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete the oldest rows of the ledger, at most ``limit``, that are from before a moment; returns how many."""
    oldest = select(LEDGER.c.id).where(LEDGER.c.id < id_at(before_ms)).order_by(LEDGER.c.id).limit(limit)
    return connection.execute(LEDGER.delete().where(LEDGER.c.id.in_(oldest.scalar_subquery()))).rowcount


def in_span(by_minute: bool) -> ColumnElement[bool]:
    """Return the condition for the sums by minute, or for those that are kept longer, some of which are by the hour."""
    return USAGE.c.span.in_(SPANS[:1] if by_minute else (*SPANS[1:], _HOUR_S))


def forget_sums(connection: Connection, *, by_minute: bool, before_s: int) -> None:
    """Delete the sums by minute, or the others, that are from before a moment."""
    connection.execute(USAGE.delete().where(in_span(by_minute), USAGE.c.start < before_s))
