"""Many keys that were made elsewhere are taken over at once from a table in CSV: all of them, or none."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, func, select

from one_api.accounts.changes import MAX_KEYS, audit_line, lock, now_ms
from one_api.accounts.fields import KEY_FIELDS, LISTS, NUMBERS, budget_values, values_of
from one_api.accounts.keys import ChangeRefused, check_foreign, check_name, digest_of, shown
from one_api.accounts.periods import PERIODS
from one_api.accounts.tables import AUDIT, BUDGETS, FORMER_KEYS, KEYS, TEAMS
from one_api.contract import JSONObject

#: The columns that there may be; the first two must be.
_COLUMNS = ("name", "key", "budget", *KEY_FIELDS)
_NEEDED = _COLUMNS[:2]
#: So many mistakes are told at once.
_MAX_TOLD = 20
#: Values that one statement is asked for.
_AT_ONCE = 500


class ImportedKey(NamedTuple):
    """A key in the table: its line there, the values of its columns, and those of its budgets."""

    line: int
    values: JSONObject
    budgets: list[JSONObject]


class _Mistakes:
    """What is wrong with the lines of a table; the lines without mistakes are looked at all the same."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self._found.append((line, message))

    def check(self) -> None:
        """Raise ChangeRefused with the first mistakes, if there are some."""
        if self._found:
            told = [f"line {line}: {message}" for line, message in sorted(self._found)[:_MAX_TOLD]]
            more = len(self._found) - len(told)
            raise ChangeRefused("\n".join([*told, *([f"and {more} more"] if more else []), "no key was taken over"]))


def keys_in(table: Iterable[str], common: Mapping[str, Any], reserved: Iterable[str] = ()) -> list[ImportedKey]:
    """Return the keys in a table, whose lines are given; ``common`` are fields of all that have none of their own.

    Its first line names the columns: ``name`` and ``key``, and any of ``budget`` (such as 50/month) and the fields of a
    key; lists have blanks between their entries. ``reserved`` are names that other keys have. Pure.

    Raises:
        ChangeRefused: with the lines that are wrong; it holds no key.
    """
    reader, mistakes = csv.reader(table, strict=True), _Mistakes()
    found: list[ImportedKey] = []
    seen = {("name", name): 0 for name in reserved}
    try:
        head = [each.strip().lower() for each in next(reader, [])]
        _check_head(head)
        for cells in reader:
            line = reader.line_num
            if not any(map(str.strip, cells)):
                continue
            try:
                key = _key_in(line, head, cells, common)
            except ChangeRefused as error:
                mistakes.add(line, str(error))
                continue
            for what in (("name", key.values["name"]), ("key", key.values["digest"])):
                if what in seen:
                    where = f"in line {seen[what]}" if seen[what] else "in the configuration"
                    mistakes.add(line, f"this {what[0]} is {where}, too")
                seen.setdefault(what, line)
            found.append(key)
    except UnicodeDecodeError:
        raise ChangeRefused("the table is not written in UTF-8") from None
    except csv.Error as error:
        raise ChangeRefused(f"line {reader.line_num}: this is no CSV: {error}") from None
    mistakes.check()
    return found


def _check_head(head: Sequence[str]) -> None:
    """Raise ChangeRefused for what does not name the columns of a table."""
    if unknown := [each for each in head if each not in _COLUMNS]:
        # Where the head is left out, a key stands here.
        raise ChangeRefused(f"line 1: {len(unknown)} of its cells name no column; known are {', '.join(_COLUMNS)}")
    if missing := [each for each in _NEEDED if each not in head]:
        raise ChangeRefused(f"line 1: it must name the columns, and {' and '.join(missing)} among them")
    if len(set(head)) < len(head):
        raise ChangeRefused("line 1: a column is named twice")


def _key_in(line: int, head: Sequence[str], cells: Sequence[str], common: Mapping[str, Any]) -> ImportedKey:
    """Return the key in one line; raises ChangeRefused."""
    if len(cells) != len(head):
        raise ChangeRefused(f"it has {len(cells)} cells, and the first line {len(head)}")
    given = {name: cell.strip() for name, cell in zip(head, cells, strict=True) if cell.strip()}
    name, text, amounts = check_name(given.pop("name", "")), given.pop("key", ""), given.pop("budget", "")
    check_foreign(text)
    fields = {**common, **{field: _field(field, cell) for field, cell in given.items()}}
    values = {"role": "client"} | values_of(fields, KEY_FIELDS)
    values |= {"name": name, "digest": digest_of(text), "prefix": shown(text)}
    return ImportedKey(line, values, list(_budgets_in(name, amounts)))


def _field(name: str, cell: str) -> Any:
    if name in LISTS:
        return cell.split()
    if name in NUMBERS and re.fullmatch(r"[0-9]{1,18}", cell):
        return int(cell)
    return cell


def _budgets_in(name: str, text: str) -> Iterator[JSONObject]:
    """Yield the values of the columns of budgets that are written like ``2/day 50/month``; raises ChangeRefused."""
    periods: set[str] = set()
    for each in text.split():
        limit, _, period = each.partition("/")
        if period not in PERIODS or period in periods:
            raise ChangeRefused(f"write it like 50/month, once for each of {', '.join(PERIODS)}", "budget")
        periods.add(period)
        owner = {"name": f"key:{name}:{period}", "key": name, "team": None, "period": period, "zone": "UTC"}
        yield owner | {"alert_percent": 80} | budget_values({"limit_usd": limit}, new=True)


def take_over(connection: Connection, actor: str, keys: Sequence[ImportedKey]) -> int:
    """Make all these keys, or none; returns how many. Raises ChangeRefused."""
    lock(connection, sum(1 + len(each.budgets) for each in keys))
    if (connection.scalar(select(func.count()).select_from(KEYS)) or 0) + len(keys) > MAX_KEYS:
        raise ChangeRefused(f"there would be more than {MAX_KEYS} keys, which do not fit into each process's memory")
    _check(connection, keys)
    now = now_ms()
    names = [column.name for column in KEYS.c]
    rows: list[JSONObject] = [dict.fromkeys(names) | each.values | {"created_at": now} for each in keys]
    budgets = [budget for each in keys for budget in each.budgets]
    lines = [audit_line(actor, "create key", row["name"], row) for row in rows]
    lines += [audit_line(actor, "set budget", row["name"], row) for row in budgets]
    for table, values in ((KEYS, rows), (BUDGETS, budgets), (AUDIT, lines)):
        if values:
            connection.execute(table.insert(), values)
    return len(rows)


def _check(connection: Connection, keys: Sequence[ImportedKey]) -> None:
    """Raise ChangeRefused where names or texts were used before, or a team is not there."""
    mistakes = _Mistakes()
    names = _those_in(connection, KEYS.c.name, [each.values["name"] for each in keys])
    digests = [each.values["digest"] for each in keys]
    used = {
        digest
        for column in (KEYS.c.digest, KEYS.c.old_digest, FORMER_KEYS.c.digest)
        for digest in _those_in(connection, column, digests)
    }
    teams = set(connection.scalars(select(TEAMS.c.name)))
    for line, values, _ in keys:
        if values["name"] in names:
            mistakes.add(line, f"there is a key named {values['name']!r} already")
        if values["digest"] in used:
            mistakes.add(line, "this key is, or was, in use")
        if (team := values.get("team")) is not None and team not in teams:
            mistakes.add(line, f"there is no team named {team!r}")
    mistakes.check()


def _those_in(connection: Connection, column: Column[Any], values: Sequence[Any]) -> set[Any]:
    """Return those of the values that a column holds."""
    parts = (values[begin : begin + _AT_ONCE] for begin in range(0, len(values), _AT_ONCE))
    return {each for part in parts for each in connection.scalars(select(column).where(column.in_(part)))}
