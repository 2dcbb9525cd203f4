"""Changes of keys, teams and budgets: each in one transaction with its line in the audit and the next version."""

import getpass
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, func, or_, select, union_all

from one_api.accounts import ledger, windows
from one_api.accounts.budgets import budget_in, owner_in
from one_api.accounts.fields import (
    KEY_FIELDS,
    LISTS,
    TEAM_FIELDS,
    amount_in,
    budget_values,
    check_grace,
    check_note,
    values_of,
)
from one_api.accounts.keys import ChangeRefused, check_foreign, check_name, digest_of, make_key, shown
from one_api.accounts.money import dollars
from one_api.accounts.periods import PERIODS
from one_api.accounts.sheets import Page
from one_api.accounts.tables import AUDIT, BUDGETS, FORMER_KEYS, KEYS, META, TEAMS, WINDOWS
from one_api.contract import JSONObject
from one_api.dialects import json

_SECRET = ("digest", "old_digest")
#: What is shown of keys, of teams and of changes.
KEY_COLUMNS, TEAM_COLUMNS, AUDIT_COLUMNS = (
    tuple(column.name for column in table.columns if column.name not in _SECRET) for table in (KEYS, TEAMS, AUDIT)
)
#: What is spent may be so far below zero: sums are to fit into 64 bits.
_MAX_CREDIT_NANO = 10**18
#: Keys in the database: all are in the memory of every process.
MAX_KEYS = 50_000


class NotThere(ChangeRefused):
    """There is no key or team of this name."""


def person() -> str:
    """Return the user at the command line, for the audit."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):
        return "command line"


# Keys


def create_key(
    connection: Connection, actor: str, name: str, fields: Mapping[str, Any], key: str | None = None
) -> tuple[str, JSONObject]:
    """Make a key; returns its text, which is nowhere else, and what is kept of it.

    ``key`` is one that was made elsewhere. Raises ChangeRefused.
    """
    check_name(name)
    text = make_key() if key is None else check_foreign(key)
    lock(connection)
    if _row(connection, KEYS, name) is not None:
        raise ChangeRefused(f"there is a key named {name!r} already")
    if (connection.scalar(select(func.count()).select_from(KEYS)) or 0) >= MAX_KEYS:
        raise ChangeRefused(f"there are {MAX_KEYS} keys already, and no more fit into the memory of each process")
    _check_unused(connection, text)
    values = {"role": "client"} | _checked(connection, fields, KEY_FIELDS)
    values |= {"name": name, "digest": digest_of(text), "prefix": shown(text), "created_at": now_ms()}
    connection.execute(KEYS.insert().values(values))
    return text, _audited(connection, actor, "create key", KEYS, name, None)


def update_key(connection: Connection, actor: str, name: str, fields: Mapping[str, Any]) -> JSONObject:
    """Change what a key may do; returns what is kept of it. Raises ChangeRefused."""
    return _change(connection, actor, "update key", KEYS, name, fields, KEY_FIELDS)


def revoke_key(connection: Connection, actor: str, name: str) -> JSONObject:
    """End a key for ever; again is harmless. Raises ChangeRefused."""
    lock(connection)
    before = _existing(connection, KEYS, name)
    if before["disabled_at"] is None:
        connection.execute(KEYS.update().where(KEYS.c.name == name).values(disabled_at=now_ms()))
    return _audited(connection, actor, "revoke key", KEYS, name, before)


def rotate_key(
    connection: Connection, actor: str, name: str, grace_s: int, key: str | None = None
) -> tuple[str, JSONObject]:
    """Give a key another text; the old one counts for ``grace_s`` more. Returns the text, and what is kept of it.

    Those before it count as long as was said of them; without any grace none does.
    With a ``key`` of the caller's own, asking again after a lost answer changes nothing. Raises ChangeRefused.
    """
    check_grace(grace_s)
    text = make_key() if key is None else check_foreign(key)
    lock(connection)
    before = _existing(connection, KEYS, name)
    if before["disabled_at"] is not None:
        raise ChangeRefused(f"the key {name!r} was revoked: make another one")
    row = connection.execute(select(KEYS).where(KEYS.c.name == name)).one()
    if row.digest == digest_of(text):
        return text, before
    _check_unused(connection, text)
    values = {"digest": digest_of(text), "prefix": shown(text), **_retire(connection, row, grace_s)}
    connection.execute(KEYS.update().where(KEYS.c.name == name).values(values))
    return text, _audited(connection, actor, "rotate key", KEYS, name, before)


def _retire(connection: Connection, row: Row[Any], grace_s: int) -> JSONObject:
    """Keep the texts of a key that gets another one; return what its row has of them."""
    former = [] if row.old_digest is None else [{"digest": row.old_digest, "counts_until": row.old_until}]
    if not grace_s:
        former.append({"digest": row.digest, "counts_until": 0})
    if former:
        connection.execute(FORMER_KEYS.insert(), [each | {"key": row.name} for each in former])
    if not grace_s:
        connection.execute(FORMER_KEYS.update().where(FORMER_KEYS.c.key == row.name).values(counts_until=0))
        return {"old_digest": None, "old_until": None}
    return {"old_digest": row.digest, "old_until": now_ms() + grace_s * 1000}


def keys(
    connection: Connection,
    *,
    tag: str | None = None,
    team: str | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> Page:
    """Return what is kept of keys, by name: of all, or of those with a tag, or of a team, if these are given.

    With a ``limit`` it looks at so many, after the name ``after``: with a tag a page may be short before the end.
    """
    query = select(KEYS).order_by(KEYS.c.name).limit(limit)
    if team is not None:
        query = query.where(KEYS.c.team == team)
    if after is not None:
        query = query.where(KEYS.c.name > after)
    found = [_shown(row) for row in connection.execute(query)]
    rows = [each for each in found if tag is None or tag in (each["tags"] or ())]
    return Page(rows, found[-1]["name"] if len(found) == limit else None)


def key(connection: Connection, name: str) -> JSONObject:
    """Return what is kept of one; raises NotThere."""
    return _existing(connection, KEYS, name)


# Teams


def create_team(connection: Connection, actor: str, name: str, fields: Mapping[str, Any]) -> JSONObject:
    """Make a team; raises ChangeRefused."""
    check_name(name)
    lock(connection)
    if _row(connection, TEAMS, name) is not None:
        raise ChangeRefused(f"there is a team named {name!r} already")
    connection.execute(TEAMS.insert().values({"name": name, **_checked(connection, fields, TEAM_FIELDS)}))
    return _audited(connection, actor, "create team", TEAMS, name, None)


def update_team(connection: Connection, actor: str, name: str, fields: Mapping[str, Any]) -> JSONObject:
    """Change a team; raises ChangeRefused."""
    return _change(connection, actor, "update team", TEAMS, name, fields, TEAM_FIELDS)


def disable_team(connection: Connection, actor: str, name: str, *, disabled: bool) -> JSONObject:
    """Shut out all keys of a team, or let them in again; raises ChangeRefused."""
    lock(connection)
    before = _existing(connection, TEAMS, name)
    connection.execute(TEAMS.update().where(TEAMS.c.name == name).values(disabled_at=now_ms() if disabled else None))
    return _audited(connection, actor, "disable team" if disabled else "enable team", TEAMS, name, before)


def teams(connection: Connection) -> list[JSONObject]:
    """Return all teams, by name."""
    return [_shown(row) for row in connection.execute(select(TEAMS).order_by(TEAMS.c.name))]


# Budgets


def set_budget(connection: Connection, actor: str, name: str, fields: Mapping[str, Any]) -> JSONObject:
    """Make or change the budget named key:NAME:PERIOD, team:NAME:PERIOD or all:PERIOD.

    ``fields`` are ``limit_usd``, decimal text; ``zone``, by default UTC; and ``alert_percent``. What was spent stays
    spent, also in another zone. Raises ChangeRefused.
    """
    owner = owner_in(name)
    if owner is None:
        raise ChangeRefused(
            f"{name[:128]!r} names no budget: write key:NAME:PERIOD, team:NAME:PERIOD or all:PERIOD; periods are "
            f"{', '.join(PERIODS)}"
        )
    lock(connection)
    for table, whose in ((KEYS, owner.key), (TEAMS, owner.team)):
        if whose is not None:
            _existing(connection, table, whose)
    row = _row(connection, BUDGETS, name)
    before = None if row is None else _shown(row)
    values = budget_values(fields, new=row is None)
    if row is None:
        new = {"name": name, **owner._asdict(), "zone": "UTC", "alert_percent": 80}
        connection.execute(BUDGETS.insert().values(new | values))
    elif values:
        connection.execute(BUDGETS.update().where(BUDGETS.c.name == name).values(values))
    new_row = connection.execute(select(BUDGETS).where(BUDGETS.c.name == name)).one()
    if row is None or row.zone != new_row.zone:
        ledger.carry(connection, budget_in(new_row))
    # What is held of it and not used comes back: its limit may be lower now. And alerts are for the new one.
    called_back = {"wanted": WINDOWS.c.wanted + 1, "alerted": 0}
    connection.execute(WINDOWS.update().where(WINDOWS.c.budget == name).values(called_back))
    return _audited(connection, actor, "set budget", BUDGETS, name, before)


def credit_budget(connection: Connection, actor: str, name: str, usd: Any, note: Any = None) -> JSONObject:
    """Take something off what is spent of a budget now, by a row of the ledger; raises ChangeRefused."""
    amount = amount_in("usd", usd)
    check_note(note)
    lock(connection)
    row = _row(connection, BUDGETS, name)
    if row is None:
        raise NotThere(f"there is no budget named {name[:128]!r}")
    budget, now = budget_in(row), now_ms() / 1000
    ((spent, _),) = windows.states(connection, [budget], now)
    if spent - amount < -_MAX_CREDIT_NANO:
        raise ChangeRefused("this is more than a billion dollars beyond what is spent", "usd")
    ledger.credit(connection, row.key or "", amount, (name, budget.window(now).start))
    _note(connection, actor, "credit budget", name, None, {"usd": dollars(amount), "note": note})
    return _shown(row)


def remove_budget(connection: Connection, actor: str, name: str) -> None:
    """End a budget; should it come back, what was spent in the same window counts. Raises ChangeRefused."""
    lock(connection)
    before = _existing(connection, BUDGETS, name)
    connection.execute(BUDGETS.delete().where(BUDGETS.c.name == name))
    _note(connection, actor, "remove budget", name, before, {})


def audit(connection: Connection, limit: int = 200, before: int | None = None) -> list[JSONObject]:
    """Return the last changes, newest first, at most ``limit``; those older than the id ``before``."""
    query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AUDIT.c.id < before)
    return [_shown(row) for row in connection.execute(query)]


def forget_audit(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete what is from before a moment among the ``limit`` oldest lines of the audit; returns how many."""
    oldest = select(AUDIT.c.id, AUDIT.c.at).order_by(AUDIT.c.id).limit(limit).subquery()
    old = select(oldest.c.id).where(oldest.c.at < before_ms)
    return connection.execute(AUDIT.delete().where(AUDIT.c.id.in_(old))).rowcount


# What all share


def now_ms() -> int:
    """Return the time in UTC milliseconds."""
    return time.time_ns() // 1_000_000


def lock(connection: Connection, count: int = 1) -> None:
    """Take the next version: changes follow each other, and a process that sees a version sees what came with it.

    ``count`` is how many changes there are, each with a line of the audit: processes read what these lines name.
    """
    connection.execute(META.update().where(META.c.name == "version").values(value=META.c.value + count))


def _row(connection: Connection, table: Table, name: str) -> Row[Any] | None:
    if "\0" in name:
        return None  # PostgreSQL refuses the question
    return connection.execute(select(table).where(table.c.name == name)).one_or_none()


def _existing(connection: Connection, table: Table, name: str) -> JSONObject:
    row = _row(connection, table, name)
    if row is None:
        raise NotThere(f"there is no {table.name.removesuffix('s')} named {name[:128]!r}")
    return _shown(row)


def _check_unused(connection: Connection, text: str) -> None:
    digest = digest_of(text)
    own = select(KEYS.c.name).where(or_(KEYS.c.digest == digest, KEYS.c.old_digest == digest))
    former = select(FORMER_KEYS.c.key).where(FORMER_KEYS.c.digest == digest)
    if connection.scalar(union_all(own, former)):
        raise ChangeRefused("this key is, or was, in use: make another one")


def _change(
    connection: Connection,
    actor: str,
    action: str,
    table: Table,
    name: str,
    fields: Mapping[str, Any],
    known: Sequence[str],
) -> JSONObject:
    lock(connection)
    before = _existing(connection, table, name)
    if values := _checked(connection, fields, known):
        connection.execute(table.update().where(table.c.name == name).values(values))
    return _audited(connection, actor, action, table, name, before)


def _checked(connection: Connection, fields: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the values of columns for what was said; raises ChangeRefused."""
    values = values_of(fields, known)
    if (team := values.get("team")) is not None:
        _existing(connection, TEAMS, team)
    return values


def _audited(
    connection: Connection, actor: str, action: str, table: Table, name: str, before: JSONObject | None
) -> JSONObject:
    """Note a change; returns what there is now."""
    after = _existing(connection, table, name)
    old = {field: before[field] for field in before if before[field] != after[field]} if before is not None else None
    new = {field: after[field] for field in after if before is None or before[field] != after[field]}
    _note(connection, actor, action, name, old, new)
    return after


def _note(
    connection: Connection, actor: str, action: str, target: str, before: JSONObject | None, after: JSONObject
) -> None:
    """Write a line of the audit."""
    old = None if before is None else json.encode(before).decode()
    connection.execute(AUDIT.insert().values(_line(actor, action, target, after) | {"before": old}))


def audit_line(actor: str, action: str, target: str, values: Mapping[str, Any]) -> JSONObject:
    """Return the values of a line of the audit for a new row of a key or a budget."""
    return _line(actor, action, target, _visible(values))


def _line(actor: str, action: str, target: str, after: JSONObject) -> JSONObject:
    values = {"at": now_ms(), "actor": actor[:256], "action": action, "target": target[:256]}
    return values | {"before": None, "after": json.encode(after).decode()}


def _shown(row: Row[Any]) -> JSONObject:
    """Return a row as people may see it."""
    return _visible(row._asdict())


def _visible(values: Mapping[str, Any]) -> JSONObject:
    """Return the values of a row without digests, lists as lists."""
    found = {name: value for name, value in values.items() if name not in _SECRET}
    for name in (*LISTS, "before", "after"):
        if found.get(name) is not None:
            found[name] = json.decode(found[name].encode())
    if "limit_nano" in found:
        found["limit_usd"] = dollars(found.pop("limit_nano"))
    return found
