"""The keys of the database: each process has all of them in memory, a quarter of a second behind at most."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Row, Select, func, select

from one_api.accounts.budgets import Budget, budget_in, owner_in
from one_api.accounts.database import TRANSACTION_S, Database, DatabaseUnavailable
from one_api.accounts.keys import VirtualKey, networks
from one_api.accounts.periods import PERIODS, zone_named
from one_api.accounts.tables import AUDIT, BUDGETS, FORMER_KEYS, KEYS, TEAMS
from one_api.contract import Caller
from one_api.dialects import json
from one_api.serving.tasks import stop

logger = logging.getLogger(__name__)

#: How often a process looks whether keys have changed, in seconds.
POLL_S = 0.25
#: How often an unknown key makes it look at once, at most: so many times a second.
_LOOKS_PER_S = 10
#: Rows that are read in one transaction: those of tens of thousands of keys take longer than one may.
_PAGE = 1000
#: The file of the budgets of all keys together, beside the journals.
_SHARED = "shared.json"
#: After more changes than this all is read again.
_MAX_CHANGES = 500
#: How often all is read again because too much has changed meanwhile.
_MAX_READS = 3

#: What is read, with the column that it is read in the order of.
QUERIES: dict[str, tuple[Select[Any], Column[Any]]] = {
    "teams": (select(TEAMS), TEAMS.c.name),
    "budgets": (select(BUDGETS), BUDGETS.c.name),
    # Texts that may still count.
    "texts": (select(FORMER_KEYS).where(FORMER_KEYS.c.counts_until > 0), FORMER_KEYS.c.digest),
    "keys": (select(*(each for each in KEYS.c if each.name not in ("owner", "tags", "note"))), KEYS.c.name),
}
#: The rows of these queries, by their names.
Rows = Mapping[str, Sequence[Row[Any]]]


class _Team(NamedTuple):
    """What binds all keys of a team."""

    models: tuple[str, ...] | None = None
    is_disabled: bool = False
    budgets: tuple[Budget, ...] = ()


class _Named(NamedTuple):
    """What goes by the name of a key."""

    #: What each of its texts is, by its digest, without what its team adds.
    texts: dict[bytes, VirtualKey]
    team: str | None
    #: Its own.
    budgets: tuple[Budget, ...]


class Loaded(NamedTuple):
    """What the database has of keys, teams and budgets; it never changes once it is in use."""

    version: int
    #: The last line of the audit whose change is in it.
    line: int
    #: By their digests, as their teams let them be used.
    keys: dict[bytes, VirtualKey]
    names: dict[str, _Named]
    teams: dict[str, _Team]
    #: Those of all keys together.
    shared: tuple[Budget, ...]

    def find(self, digest: bytes) -> VirtualKey | None:
        """Return the key with this digest."""
        return self.keys.get(digest)

    def budgets_of(self, name: str) -> tuple[Budget, ...]:
        """Return the budgets that bind the key of this name: its own, those of its team, those of all keys."""
        named = self.names.get(name)
        if named is None:
            return self.shared
        of_team = () if named.team is None else self.teams.get(named.team, _NO_TEAM).budgets
        return named.budgets + of_team + self.shared


_NO_TEAM = _Team()
#: What is known before anything was read.
NOTHING = Loaded(-1, 0, {}, {}, {}, ())

# Statements


def state(connection: Connection) -> tuple[int, int]:
    """Return the version, and the last line of the audit."""
    return _version(connection), connection.scalar(select(func.max(AUDIT.c.id))) or 0


def _version(connection: Connection) -> int:
    # In the driver's words: it is asked four times a second in every process.
    return int(connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'version'").scalar() or 0)


def _page(connection: Connection, name: str, after: Any) -> Sequence[Row[Any]]:
    """Return the next rows of a query; None is before the first one."""
    query, column = QUERIES[name]
    return connection.execute(
        (query if after is None else query.where(column > after)).order_by(column).limit(_PAGE)
    ).all()


def changed(connection: Connection, known: Loaded) -> Loaded | None:
    """Return what there is now, ``known`` itself where nothing has changed; None where all has to be read again.

    Every change takes a version and writes a line of the audit, which names what was changed.
    """
    version = _version(connection)
    if version == known.version:
        return known
    if known.version < 0:
        return None
    query = select(AUDIT.c.id, AUDIT.c.action, AUDIT.c.target).where(AUDIT.c.id > known.line).order_by(AUDIT.c.id)
    lines = connection.execute(query.limit(_MAX_CHANGES + 1)).all()
    if len(lines) != version - known.version or len(lines) > _MAX_CHANGES:
        return None
    return merged(known, (version, lines[-1].id), _rows_of(connection, *_changed_in(lines)))


def _changed_in(lines: Iterable[Any]) -> tuple[set[str], set[str]]:
    """Return the names of the keys and of the teams that lines of the audit are about."""
    names, teams = set[str](), set[str]()
    for line in lines:
        owner = owner_in(line.target)
        if line.action.endswith(" key"):
            names.add(line.target)
        elif line.action.endswith(" team"):
            teams.add(line.target)
        elif owner is not None and owner.key is not None:
            names.add(owner.key)
        elif owner is not None and owner.team is not None:
            teams.add(owner.team)
    return names, teams


def _rows_of(connection: Connection, names: set[str], teams: set[str]) -> Rows:
    """Return what there is of these keys and teams, and the budgets of all keys."""
    owners = ["all", *(f"key:{name}" for name in names), *(f"team:{name}" for name in teams)]
    wanted = {
        "teams": TEAMS.c.name.in_(teams),
        "budgets": BUDGETS.c.name.in_([f"{owner}:{period}" for owner in owners for period in PERIODS]),
        "texts": FORMER_KEYS.c.key.in_(names),
        "keys": KEYS.c.name.in_(names),
    }
    return {name: connection.execute(QUERIES[name][0].where(each)).all() for name, each in wanted.items()}


def merged(known: Loaded, state: tuple[int, int], rows: Rows) -> Loaded:
    """Return what is known when these rows stand in the place of those of the same keys and teams. Pure."""
    budgets: dict[tuple[str | None, str | None], tuple[Budget, ...]] = {}
    for row in sorted(rows["budgets"], key=lambda row: row.name):
        owner = row.key, row.team
        budgets[owner] = (*budgets.get(owner, ()), budget_in(row))
    former: dict[str, list[tuple[bytes, int]]] = {}
    for row in rows["texts"]:
        former.setdefault(row.key, []).append((row.digest, row.counts_until))
    keys, names, teams = known.keys.copy(), known.names.copy(), known.teams.copy()
    for row in rows["teams"]:
        own = budgets.get((None, row.name), ())
        teams[row.name] = _Team(_list(row.models), row.disabled_at is not None, own)
    for row in rows["keys"]:
        for digest in () if row.name not in names else names[row.name].texts:
            keys.pop(digest, None)
        texts = dict(_texts_in(row, former.get(row.name, ())))
        names[row.name] = _Named(texts, row.team, budgets.get((row.name, None), ()))
    changed_keys, changed_teams = {row.name for row in rows["keys"]}, {row.name for row in rows["teams"]}
    for name, named in names.items():
        if name in changed_keys or named.team in changed_teams:
            team = _NO_TEAM if named.team is None else teams.get(named.team, _NO_TEAM)
            keys.update({digest: _within(team, key) for digest, key in named.texts.items()})
    return Loaded(*state, keys, names, teams, budgets.get((None, None), ()))


def _within(team: _Team, key: VirtualKey) -> VirtualKey:
    """Return a key as its team lets it be used."""
    if team.models is not None:
        key = replace(key, caller=replace(key.caller, models=(*key.caller.models, team.models)))
    return replace(key, is_disabled=True) if team.is_disabled else key


def _texts_in(row: Row[Any], former: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, VirtualKey]]:
    """Yield what requests meet for each text of a key, by its digest."""
    models = _list(row.models)
    own = VirtualKey(
        Caller(
            row.name,
            () if models is None else (models,),
            row.digest,
            requests_per_minute=row.rpm,
            tokens_per_minute=row.tpm,
            concurrent=row.concurrent,
        ),
        row.prefix,
        row.role,
        networks(_list(row.networks)),
        row.expires_at,
        row.disabled_at is not None,
    )
    last = () if row.old_digest is None else ((row.old_digest, row.old_until),)
    for digest, until in (*last, *former):
        ends = until if row.expires_at is None else min(until, row.expires_at)
        yield digest, replace(own, caller=replace(own.caller, secret=digest), expires_at=ends)
    yield row.digest, own


def _list(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.decode(text.encode()))


# What a later process shall know


def _remember(file: Path, shared: Sequence[Budget]) -> None:
    """Keep the budgets of all keys together in a file, if that is possible."""
    fields = [(each.name, each.period, each.zone.key, each.limit) for each in shared]
    with suppress(OSError):
        text = json.encode(fields)
        if file.exists() and file.read_bytes() == text:
            return
        new = file.with_suffix(f".{os.getpid()}")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_bytes(text)
        new.replace(file)


def _remembered(file: Path) -> tuple[Budget, ...]:
    """Return what the last process that has reached the database has kept; nothing where none has."""
    try:
        fields = json.decode(file.read_bytes())
        return tuple(Budget(name, None, None, period, zone_named(zone), limit) for name, period, zone, limit in fields)
    except (OSError, ValueError, TypeError):
        return ()


class KeyCopy:
    """This process's copy of the keys; a new mapping replaces the old one as a whole."""

    def __init__(
        self, database: Database, on_change: Callable[[], None] = lambda: None, folder: Path | None = None
    ) -> None:
        """``folder`` is for what a later process shall know that starts while the database is away."""
        self._database = database
        self._on_change = on_change
        self._file = None if folder is None else folder / _SHARED
        self._loaded = NOTHING
        #: The look that has not begun yet.
        self._next: asyncio.Task[bool] | None = None
        self._allowed_at = 0.0
        #: Held by the look under way.
        self._turn = asyncio.Lock()
        self._looks: set[asyncio.Task[Any]] = set()

    @property
    def is_loaded(self) -> bool:
        """Return whether the keys have ever been read."""
        return self._loaded.version >= 0

    def find(self, digest: bytes) -> VirtualKey | None:
        """Return the key with this digest."""
        return self._loaded.find(digest)

    def budgets_of(self, name: str) -> tuple[Budget, ...]:
        """Return the budgets that bind the key of this name, wherever the key is kept."""
        return self._loaded.budgets_of(name)

    async def look_again(self) -> bool:
        """Wait until what was changed before now has been read: an unknown key has come, and it may be new.

        Requests of one moment wait for one look, and there are only so many looks a second. Returns False where the
        database has not answered in time: then nobody knows.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._look_soon())
            self._looks.add(self._next)
            self._next.add_done_callback(self._looks.discard)
        try:
            async with asyncio.timeout(TRANSACTION_S):
                return await asyncio.shield(self._next)
        except TimeoutError:
            return False

    async def _look_soon(self) -> bool:
        await asyncio.sleep(max(0.0, self._allowed_at - time.monotonic()))
        self._allowed_at = time.monotonic() + 1 / _LOOKS_PER_S
        self._next = None  # a request from now on needs a later look
        return await self._look()

    async def start(self) -> None:
        """Read all keys, and go on looking for changes.

        Where the database is away, the budgets of all keys together are those that a process before this one has seen:
        they bind the keys of the configuration, too, which count without a database.
        """
        if not await self._look() and self._file is not None:
            self._loaded = NOTHING._replace(shared=await asyncio.to_thread(_remembered, self._file))
        self._looks.add(asyncio.get_running_loop().create_task(self._keep_looking()))

    async def aclose(self) -> None:
        """Stop."""
        await stop(*self._looks)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._look()

    async def _look(self) -> bool:
        """Read what has changed; returns whether that has worked."""
        try:
            async with self._turn:
                found = await self._read()
                if found is not self._loaded:
                    self._loaded = found
                    self._on_change()
                    if self._file is not None:
                        await asyncio.to_thread(_remember, self._file, found.shared)
        except DatabaseUnavailable:
            return False  # the copy goes on; the books report that the database is away
        except Exception:  # whatever one row holds, later changes are to be seen
            logger.exception("the keys of the database cannot be read")
            return False
        return True

    async def _read(self) -> Loaded:
        """Return what there is now; raises DatabaseUnavailable."""
        found = await self._database.read(partial(changed, known=self._loaded))
        for _ in range(_MAX_READS):
            if found is not None:
                return found
            # In parts, and then what was changed between them.
            now = await self._database.read(state)
            rows = {name: await self._all(name) for name in QUERIES}
            new = await asyncio.to_thread(merged, NOTHING, now, rows)
            found = await self._database.read(partial(changed, known=new))
        raise DatabaseUnavailable("its keys change faster than they can be read")

    async def _all(self, name: str) -> list[Row[Any]]:
        """Return all rows of a query; raises DatabaseUnavailable."""
        rows: list[Row[Any]] = []
        while len(rows) % _PAGE == 0:
            after = getattr(rows[-1], QUERIES[name][1].name) if rows else None
            if not (page := await self._database.read(partial(_page, name=name, after=after))):
                break
            rows += page
        return rows
