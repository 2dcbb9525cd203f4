"""What was used: sums of the ledger by key, model, deployment and time, and single requests."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, select

from one_api.accounts import windows
from one_api.accounts.budgets import WindowKey
from one_api.accounts.keyring import budget_in
from one_api.accounts.ledger import SPANS, id_at
from one_api.accounts.money import dollars
from one_api.accounts.periods import start_of
from one_api.accounts.tables import BUDGETS, LEDGER, USAGE, WINDOWS
from one_api.contract import JSONObject
from one_api.dialects import json

#: What usage can be grouped by.
PLACES = ("key", "model", "deployment")
TIMES = ("minute", "hour", "day")
_MONEY = ("cost", "upstream_cost")
_SUMS = tuple(column.name for column in USAGE.columns if not column.primary_key)
#: Requests in one page.
MAX_ROWS = 200


def usage(
    connection: Connection, by: Sequence[str], begin: int, end: int, zone: ZoneInfo, key: str | None = None
) -> list[JSONObject]:
    """Return sums from ``begin`` up to ``end``, UTC seconds, grouped by what ``by`` names (of PLACES and TIMES).

    Only of one ``key``, if that is given. Money is in dollars, as decimal text. Times are ISO 8601 in ``zone``.
    """
    places = [name for name in by if name in PLACES]
    times = [name for name in by if name in TIMES]
    groups = [USAGE.c[name] for name in places] + ([USAGE.c.start] if times else [])
    query = (
        select(*groups, *(func.sum(USAGE.c[name]).label(name) for name in _SUMS))
        .where(USAGE.c.span == (60 if "minute" in times else 3600), USAGE.c.start >= begin, USAGE.c.start < end)
        .group_by(*groups)
    )
    if key is not None:
        query = query.where(USAGE.c.key == key)
    found: dict[tuple[str, ...], Counter[str]] = {}
    for row in connection.execute(query).mappings():
        place = [row[name] for name in places] + [_moment(name, row["start"], zone) for name in times]
        # Sums are decimal numbers in PostgreSQL, and null without any row.
        counts = {name: int(row[name] or 0) for name in _SUMS}
        found.setdefault(tuple(place), Counter()).update(counts)
    names = [*places, *times]
    return [dict(zip(names, place, strict=True)) | _shown(found[place]) for place in sorted(found)]


def total(rows: Sequence[JSONObject], by: Sequence[str]) -> JSONObject:
    """Return one row that is the sum of others."""
    counts = {name: sum(row[name] for row in rows) for name in _SUMS if name not in _MONEY}
    money = {f"{name}_usd": dollars(sum(_nano(row[f"{name}_usd"]) for row in rows)) for name in _MONEY}
    return dict.fromkeys(by, "") | counts | money


def _nano(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole + rest.ljust(9, "0"))


def _moment(name: str, start: int, zone: ZoneInfo) -> str:
    if name == "day":
        return datetime.fromtimestamp(start_of("day", zone, start), zone).date().isoformat()
    return datetime.fromtimestamp(start - start % (60 if name == "minute" else 3600), zone).isoformat()


def _shown(counts: Counter[str]) -> JSONObject:
    shown: JSONObject = {name: counts[name] for name in _SUMS if name not in _MONEY}
    return shown | {f"{name}_usd": dollars(counts[name]) for name in _MONEY}


def spent(connection: Connection, key: str, begin: int, end: int) -> int:
    """Return what a key owes for the hours from ``begin`` up to ``end``, in nano-dollars."""
    query = select(func.sum(USAGE.c.cost)).where(
        USAGE.c.span == SPANS[-1], USAGE.c.start >= begin, USAGE.c.start < end, USAGE.c.key == key
    )
    return int(connection.scalar(query) or 0)


def budgets(connection: Connection, now: float, names: Collection[str] | None = None) -> list[JSONObject]:
    """Return all budgets, or those of these names, with what is spent of them in the window of ``now``."""
    found = connection.execute(select(BUDGETS).order_by(BUDGETS.c.name)).all()
    return [_budget(connection, row, now) for row in found if names is None or row.name in names]


def _budget(connection: Connection, row: Any, now: float) -> JSONObject:
    budget = budget_in(row)
    window = budget.window(now)
    spent, held = windows.state(connection, (row.name, window.start))
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
    """Return the windows, of those that began at ``since_ms`` or later, whose spending is not the sum of their rows."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    sums: Counter[WindowKey] = Counter()
    rows = select(LEDGER.c.charged, LEDGER.c.cost).where(LEDGER.c.id >= id_at(since_ms), LEDGER.c.charged.is_not(None))
    for charged, cost in connection.execute(rows):
        for name, start in json.decode(charged.encode()):
            sums[name, start] += cost
    query = select(WINDOWS).where(WINDOWS.c.start * 1000 >= since_ms).order_by(*WINDOWS.primary_key)
    return [
        {
            "budget": row.budget,
            "start": row.start,
            "spent_usd": dollars(row.spent),
            "rows_usd": dollars(sums[row.budget, row.start]),
        }
        for row in connection.execute(query)
        if row.spent != sums[row.budget, row.start]
    ]


def requests(
    connection: Connection, *, before: str | None = None, since_ms: int = 0, limit: int = MAX_ROWS, **wanted: str
) -> list[JSONObject]:
    """Return rows of the ledger, newest first, at most ``limit``; those older than the id ``before``.

    ``wanted`` holds values of the columns key, model, deployment and status.
    """
    query = select(LEDGER).where(LEDGER.c.id >= id_at(since_ms)).order_by(LEDGER.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(LEDGER.c.id < before)
    for name, value in wanted.items():
        query = query.where(LEDGER.c[name] == value)
    return [_request(row) for row in connection.execute(query).mappings()]


def _request(row: Any) -> JSONObject:
    shown = dict(row)
    for name in _MONEY:
        amount = shown.pop(name)
        shown[f"{name}_usd"] = None if amount is None else dollars(amount)
    return shown
