"""All that one database keeps is copied into another, such as from SQLite to PostgreSQL, and compared."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, Table, func, select, text

from one_api.accounts.tables import AUDIT, LEASES, META, METADATA

#: Rows that are read and written at a time.
_CHUNK = 1000
#: Whole numbers that are moments: their sums say nothing, and are too large for a database.
_MOMENTS = ("at", "start")


class CopyRefused(Exception):
    """It cannot be copied; the message says why, and what to do."""


def copy(source: Connection, target: Connection) -> dict[str, int]:
    """Copy all rows, in the transactions of the caller; returns how many, by table.

    What processes hold of budgets is not copied: none may use the source.

    Raises:
        CopyRefused: when a process still uses the source, when the target is not empty, or when it has not all of it.
    """
    if source.scalar(select(func.count()).select_from(LEASES)):
        raise CopyRefused("a gateway still uses the old database, or was killed: start it once with that, and stop it")
    if target.dialect.name == "postgresql":
        target.exec_driver_sql("SET LOCAL statement_timeout = 0")
    tables = [table for table in METADATA.sorted_tables if table is not LEASES]
    version = target.scalar(select(META.c.value).where(META.c.name == "version"))
    full = [
        table.name for table in tables if table is not META and target.scalar(select(1).select_from(table).limit(1))
    ]
    if version or full:
        raise CopyRefused("the new database is not empty: copy into a new one, before any gateway has used it")
    target.execute(META.delete())
    counts = {table.name: _copy(source, target, table) for table in tables}
    if target.dialect.name == "postgresql":
        # Ids of the audit are given out by a sequence, which has not seen those that were copied.
        place = f"pg_get_serial_sequence('{AUDIT.name}', 'id')"
        target.execute(text(f"SELECT setval({place}, coalesce(max(id), 0) + 1, false) FROM {AUDIT.name}"))  # noqa: S608
    return counts


def _copy(source: Connection, target: Connection, table: Table) -> int:
    """Copy one table, and compare what is there then with what was read."""
    summed = [
        column
        for column in table.columns
        if isinstance(column.type, (Integer, BigInteger))
        and not (column.name in _MOMENTS or column.name.endswith(("_at", "_until")))
    ]
    expected: Counter[str] = Counter()
    for rows in _chunks(source, table):
        target.execute(table.insert(), rows)
        expected["rows"] += len(rows)
        for column in summed:
            expected[column.name] += sum(row[column.name] or 0 for row in rows)
    sums = (func.sum(column).label(column.name) for column in summed)
    found = target.execute(select(func.count().label("rows"), *sums).select_from(table)).mappings().one()
    for name, value in found.items():
        if int(value or 0) != expected[name]:
            raise CopyRefused(f"{name} of {table.name} is {value} in the new database, and {expected[name]} in the old")
    return expected["rows"]


def _chunks(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows of a table, some at a time, in the order of its key."""
    found = source.execution_options(yield_per=_CHUNK).execute(select(table).order_by(*table.primary_key))
    for part in found.mappings().partitions():
        yield [dict(row) for row in part]
