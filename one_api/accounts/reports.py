"""What was used: sums of the ledger by key, model, deployment and time, and single requests."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Select, Table, case, func, select

from one_api.accounts import windows
from one_api.accounts.budgets import Budget, WindowKey, budget_in
from one_api.accounts.ledger import id_at, in_span
from one_api.accounts.money import dollars
from one_api.accounts.percentiles import FIRST, PERCENTS, WHOLE
from one_api.accounts.periods import start_of
from one_api.accounts.sheets import Page
from one_api.accounts.tables import AUDIT, BUDGETS, KEYS, LEDGER, USAGE, WINDOWS
from one_api.contract import JSONObject
from one_api.dialects import json

#: What usage can be grouped by; the team and the owner of a key are those that it has now.
PLACES = ("key", "model", "deployment", "team", "owner")
TIMES = ("minute", "hour", "day")
_OF_KEY = ("team", "owner")
_MONEY = ("cost", "upstream_cost")
#: Sums that are compared with the rows, beside the number of requests.
_CHECKED = ("prompt", "cached", "completion", *_MONEY)
_SUMS = tuple(column.name for column in USAGE.columns if not column.primary_key)
_STEPS = (FIRST, WHOLE)
_SHOWN = tuple(name for name in _SUMS if name not in (*_MONEY, *FIRST.columns, *WHOLE.columns))
#: What is shown of a request.
REQUEST_FIELDS = (
    *(each.name for each in LEDGER.columns if each.name not in _MONEY),
    *(f"{name}_usd" for name in _MONEY),
)
#: What is shown of a budget.
BUDGET_FIELDS = (
    "name",
    "key",
    "team",
    "period",
    "zone",
    "limit_usd",
    "spent_usd",
    "held_usd",
    "remaining_usd",
    "resets_at",
    "alert_percent",
)
#: Requests in one page; and keys or budgets.
MAX_ROWS, MAX_NAMED = 200, 1000
#: Rows that are read at a time where all are.
_CHUNK = 1000
#: Rows that are looked at for one page.
_MAX_LOOKED_AT = 20_000


class UsageReport(NamedTuple):
    """Sums by what was asked for, and of all of it."""

    rows: list[JSONObject]
    total: JSONObject

    def with_total(self, by: Sequence[str]) -> list[JSONObject]:
        """Return the rows, and as the last one the total."""
        return [*self.rows, dict.fromkeys(_in_order(by), "") | self.total]


def _in_order(by: Sequence[str]) -> list[str]:
    return [name for name in by if name in PLACES] + [name for name in by if name in TIMES]


def usage(
    connection: Connection, by: Sequence[str], begin: int, end: int, zone: ZoneInfo, key: str | None = None
) -> UsageReport:
    """Return sums from ``begin`` up to ``end``, UTC seconds, grouped by what ``by`` names (of PLACES and TIMES).

    Only of one ``key``, if that is given. Money is in dollars, as decimal text. Times are ISO 8601 in ``zone``. Of how
    long first contents and whole answers took there are percentiles in milliseconds.
    """
    names = _in_order(by)
    times = [name for name in names if name in TIMES]
    columns = dict.fromkeys("key" if name in _OF_KEY else name for name in names if name in PLACES)
    owners = _owners(connection) if set(_OF_KEY) & set(names) else {}
    groups = [USAGE.c[name] for name in columns] + ([USAGE.c.start] if times else [])
    query = (
        select(*groups, *(func.sum(USAGE.c[name]).label(name) for name in _SUMS))
        .where(in_span("minute" in times), USAGE.c.start >= begin, USAGE.c.start < end)
        .group_by(*groups)
    )
    if key is not None:
        query = query.where(USAGE.c.key == key)
    found: dict[tuple[str, ...], Counter[str]] = {}
    for row in connection.execute(query).mappings():
        place = [_place(name, row, owners, zone) for name in names]
        # Sums are decimal numbers in PostgreSQL, and null without any row.
        counts = {name: int(row[name] or 0) for name in _SUMS}
        found.setdefault(tuple(place), Counter()).update(counts)
    rows = [dict(zip(names, place, strict=True)) | _shown(found[place]) for place in sorted(found)]
    total: Counter[str] = Counter()
    for counts in found.values():
        total.update(counts)
    return UsageReport(rows, _shown(total))


def _owners(connection: Connection) -> dict[str, Any]:
    """Return the team and the owner of each key."""
    return {row.name: row._mapping for row in connection.execute(select(KEYS.c.name, KEYS.c.team, KEYS.c.owner))}


def _place(name: str, row: Any, owners: dict[str, Any], zone: ZoneInfo) -> str:
    """Return what a row is of, in one of the groups."""
    if name in TIMES:
        return _moment(name, row["start"], zone)
    if name in _OF_KEY:
        return (owners.get(row["key"]) or {}).get(name) or ""
    return str(row[name])


def _moment(name: str, start: int, zone: ZoneInfo) -> str:
    if name == "day":
        return datetime.fromtimestamp(start_of("day", zone, start), zone).date().isoformat()
    moment = datetime.fromtimestamp(start, zone)
    return (moment if name == "minute" else moment.replace(minute=0)).isoformat()


def _shown(counts: Counter[str]) -> JSONObject:
    shown: JSONObject = {name: counts[name] for name in _SHOWN}
    shown |= {f"{name}_usd": dollars(counts[name]) for name in _MONEY}
    for steps in _STEPS:
        own = [counts[name] for name in steps.columns]
        shown |= {f"{steps.name}_p{percent}": steps.percentile_ms(own, percent) for percent in PERCENTS}
    return shown


def spent(connection: Connection, key: str, begin: int, end: int) -> int:
    """Return what a key owes for the quarters of an hour from ``begin`` up to ``end``, in nano-dollars."""
    query = select(func.sum(USAGE.c.cost)).where(
        in_span(False), USAGE.c.start >= begin, USAGE.c.start < end, USAGE.c.key == key
    )
    return int(connection.scalar(query) or 0)


def budgets(connection: Connection, now: float, names: Collection[str] | None = None) -> list[JSONObject]:
    """Return all budgets, or those of these names, with what is spent of them in the window of ``now``."""
    query = select(BUDGETS).order_by(BUDGETS.c.name)
    return _budgets(connection, query if names is None else query.where(BUDGETS.c.name.in_(names)), now)


def page_of_budgets(connection: Connection, *, now: float, limit: int, after: str | None = None) -> Page:
    """Return budgets as ``budgets`` does, by name, at most ``limit``; those after the name ``after``."""
    query = select(BUDGETS).order_by(BUDGETS.c.name).limit(limit)
    rows = _budgets(connection, query if after is None else query.where(BUDGETS.c.name > after), now)
    return Page(rows, rows[-1]["name"] if len(rows) == limit else None)


def _budgets(connection: Connection, query: Select[Any], now: float) -> list[JSONObject]:
    rows = connection.execute(query).all()
    known = [budget_in(row) for row in rows]
    states = windows.states(connection, known, now)
    return [_budget(row, budget, state, now) for row, budget, state in zip(rows, known, states, strict=True)]


def _budget(row: Any, budget: Budget, state: tuple[int, int], now: float) -> JSONObject:
    window = budget.window(now)
    spent, held = state
    return {
        "name": row.name,
        "key": row.key,
        "team": row.team,
        "period": row.period,
        "zone": row.zone,
        "limit_usd": dollars(row.limit_nano),
        "spent_usd": dollars(spent),
        "held_usd": dollars(held),
        "remaining_usd": dollars(max(0, row.limit_nano - spent)),
        "resets_at": None if window.end is None else budget.when(window.end),
        "alert_percent": row.alert_percent,
    }


def wrong_windows(connection: Connection, since_ms: int) -> list[JSONObject]:
    """Return the windows whose spending is not the sum of their rows, of those whose rows are all of ``since_ms`` on.

    Such are the windows that began then or later, and those of budgets that were made then or later.
    """
    sums: Counter[WindowKey] = Counter()
    rows = select(LEDGER.c.charged, LEDGER.c.cost).where(LEDGER.c.id >= id_at(since_ms), LEDGER.c.charged.is_not(None))
    for charged, cost in connection.execute(rows.execution_options(yield_per=_CHUNK)):
        for name, start in json.decode(charged.encode()):
            sums[name, start] += cost
    made = select(AUDIT.c.target).where(AUDIT.c.action == "set budget").group_by(AUDIT.c.target)
    is_new = WINDOWS.c.budget.in_(made.having(func.min(AUDIT.c.at) >= since_ms))
    query = select(WINDOWS).where(is_new | (WINDOWS.c.start * 1000 >= since_ms))
    spent: Counter[WindowKey] = Counter({(row.budget, row.start): row.spent for row in connection.execute(query)})
    # One that is gone although its budget is there, and counts.
    now = windows.now_ms(connection) / 1000
    for row in connection.execute(select(BUDGETS)):
        window = row.name, budget_in(row).window(now).start
        if (window[1] * 1000 >= since_ms or not window[1]) and window in sums and not _is_there(connection, window):
            spent[window] = 0
    return [
        {
            "budget": name,
            "start": start,
            "spent_usd": dollars(spent[name, start]),
            "rows_usd": dollars(sums[name, start]),
        }
        for name, start in sorted(spent)
        if spent[name, start] != sums[name, start]
    ]


def _is_there(connection: Connection, window: WindowKey) -> bool:
    query = select(WINDOWS.c.spent).where(WINDOWS.c.budget == window[0], WINDOWS.c.start == window[1])
    return connection.scalar(query) is not None


def wrong_sums(connection: Connection, since_ms: int) -> list[JSONObject]:
    """Return the keys and hours whose sums of usage are not those of their rows, from a moment on."""
    begin = -(-since_ms // 3_600_000) * 3600
    hour, of_usage = LEDGER.c.at // 3_600_000, USAGE.c.start // 3600
    is_request = LEDGER.c.status != "credit"
    counted = (
        select(hour, LEDGER.c.key, func.sum(case((is_request, 1), else_=0)), *_sums_of(LEDGER))
        .where(LEDGER.c.id >= id_at(begin * 1000), is_request | (LEDGER.c.key != ""))
        .group_by(hour, LEDGER.c.key)
    )
    kept = (
        select(of_usage, USAGE.c.key, func.sum(USAGE.c.requests), *_sums_of(USAGE))
        .where(in_span(False), USAGE.c.start >= begin)
        .group_by(of_usage, USAGE.c.key)
    )
    # Sums are decimal numbers in PostgreSQL, and null without any row.
    rows, sums = (
        {
            (int(start), key): tuple(int(each or 0) for each in counts)
            for start, key, *counts in connection.execute(each)
        }
        for each in (counted, kept)
    )
    none = (0,) * (1 + len(_CHECKED))
    return [
        {"key": key, "hour": datetime.fromtimestamp(start * 3600, UTC).isoformat()}
        | _compared(sums.get((start, key), none), rows.get((start, key), none))
        for start, key in sorted({*rows, *sums})
        if sums.get((start, key), none) != rows.get((start, key), none)
    ]


def _sums_of(table: Table) -> list[Any]:
    return [func.sum(table.c[name]) for name in _CHECKED]


def _compared(sums: Sequence[int], rows: Sequence[int]) -> JSONObject:
    """Return the sums of usage and those of the rows, each with its name."""
    names = ("requests", *_CHECKED)
    shown = (
        [dollars(each) if name in _MONEY else each for name, each in zip(names, part, strict=True)]
        for part in (sums, rows)
    )
    pairs = zip(names, *shown, strict=True)
    return {name: str(one) if one == other else f"{one}, rows {other}" for name, one, other in pairs}


def requests(
    connection: Connection,
    *,
    after: str | None = None,
    since_ms: int = 0,
    until_ms: int | None = None,
    limit: int = MAX_ROWS,
    **wanted: str,
) -> Page:
    """Return rows of the ledger, newest first, at most ``limit``; those after the id ``after``, which are older.

    ``wanted`` holds values of the columns key, model, deployment and status. Only keys have an index: for the others
    a page looks at so many rows at most, and may hold few of them or none before the end.
    """
    among = select(LEDGER).where(LEDGER.c.id >= id_at(since_ms)).order_by(LEDGER.c.id.desc())
    if after is not None:
        among = among.where(LEDGER.c.id < after)
    if until_ms is not None:
        among = among.where(LEDGER.c.id < id_at(until_ms))
    if "key" in wanted:
        among = among.where(LEDGER.c.key == wanted.pop("key"))
    at_most = _MAX_LOOKED_AT if wanted else limit
    looked_at = among.limit(at_most).subquery()
    query = select(looked_at).where(*(looked_at.c[name] == value for name, value in wanted.items()))
    rows = [_request(row) for row in connection.execute(query.order_by(looked_at.c.id.desc()).limit(limit)).mappings()]
    if len(rows) == limit:
        return Page(rows, str(rows[-1]["id"]))
    count, last = connection.execute(select(func.count(), func.min(looked_at.c.id)).select_from(looked_at)).one()
    return Page(rows, last if count == at_most else None)


def _request(row: Any) -> JSONObject:
    shown = dict(row)
    for name in _MONEY:
        amount = shown.pop(name)
        shown[f"{name}_usd"] = None if amount is None else dollars(amount)
    return shown
