"""The keys of the database: each process has all of them in memory, a quarter of a second behind at most."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from one_api.accounts.budgets import Budget, budget_in
from one_api.accounts.database import TRANSACTION_S, Database, DatabaseUnavailable
from one_api.accounts.keys import VirtualKey, networks
from one_api.accounts.tables import BUDGETS, FORMER_KEYS, KEYS, TEAMS
from one_api.contract import Caller
from one_api.dialects import json
from one_api.serving.tasks import stop

logger = logging.getLogger(__name__)

#: How often a process looks whether keys have changed, in seconds.
POLL_S = 0.25
#: How often an unknown key makes it look at once, at most: so many times a second.
_LOOKS_PER_S = 10

Keys = Mapping[bytes, VirtualKey]


class Loaded(NamedTuple):
    """What the database has of keys and budgets; it never changes."""

    version: int = -1
    #: By their digests.
    keys: Keys = MappingProxyType({})
    #: By the names of keys: their own budgets, those of their teams, and those of all keys together.
    budgets: Mapping[str, tuple[Budget, ...]] = MappingProxyType({})
    #: Those of all keys together.
    shared: tuple[Budget, ...] = ()


def load(connection: Connection, known: int) -> Loaded | None:
    """Return all there is; None when the version is still ``known``."""
    # In the driver's words: it is asked four times a second in every process.
    version = connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'version'").scalar() or 0
    if version == known:
        return None
    teams = {row.name: row for row in connection.execute(select(TEAMS))}
    budgets = [budget_in(row) for row in connection.execute(select(BUDGETS).order_by(BUDGETS.c.name))]
    by_owner: dict[tuple[str | None, str | None], list[Budget]] = {}
    for budget in budgets:
        by_owner.setdefault((budget.key, budget.team), []).append(budget)
    shared = tuple(by_owner.get((None, None), ()))
    old = _old_texts(connection)
    found: dict[bytes, VirtualKey] = {}
    bound: dict[str, tuple[Budget, ...]] = {}
    for row in connection.execute(select(KEYS)):
        team = teams.get(row.team)
        if budgets:
            of_team = by_owner.get((None, row.team), ()) if row.team is not None else ()
            bound[row.name] = (*by_owner.get((row.name, None), ()), *of_team, *shared)
        lists = (_list(row.models), None if team is None else _list(team.models))
        own = VirtualKey(
            Caller(
                row.name,
                tuple(tuple(each) for each in lists if each is not None),
                row.digest,
                requests_per_minute=row.rpm,
                tokens_per_minute=row.tpm,
                concurrent=row.concurrent,
            ),
            row.prefix,
            row.role,
            networks(_list(row.networks)),
            row.expires_at,
            row.disabled_at is not None or (team is not None and team.disabled_at is not None),
        )
        found[row.digest] = own
        for digest, until in old.get(row.name, ()):
            ends = until if row.expires_at is None else min(until, row.expires_at)
            found[digest] = replace(own, caller=replace(own.caller, secret=digest), expires_at=ends)
    return Loaded(version, MappingProxyType(found), MappingProxyType(bound), shared)


def _old_texts(connection: Connection) -> Mapping[str, list[tuple[bytes, int]]]:
    """Return the digests that may still count beside those of their keys, and until when, by the names of the keys."""
    last = select(KEYS.c.name, KEYS.c.old_digest, KEYS.c.old_until).where(KEYS.c.old_digest.is_not(None))
    former = select(FORMER_KEYS.c.key, FORMER_KEYS.c.digest, FORMER_KEYS.c.counts_until)
    found: dict[str, list[tuple[bytes, int]]] = {}
    for name, digest, until in connection.execute(last.union_all(former.where(FORMER_KEYS.c.counts_until > 0))):
        found.setdefault(name, []).append((digest, until))
    return found


def _list(text: str | None) -> list[str] | None:
    return None if text is None else list(json.decode(text.encode()))


class KeyCopy:
    """This process's copy of the keys; a new mapping replaces the old one as a whole."""

    def __init__(self, database: Database, on_change: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._on_change = on_change
        self._loaded = Loaded()
        #: The look that has not begun yet.
        self._next: asyncio.Task[bool] | None = None
        self._allowed_at = 0.0
        self._looks: set[asyncio.Task[Any]] = set()

    @property
    def is_loaded(self) -> bool:
        """Return whether the keys have ever been read."""
        return self._loaded.version >= 0

    def find(self, digest: bytes) -> VirtualKey | None:
        """Return the key with this digest."""
        return self._loaded.keys.get(digest)

    def budgets_of(self, name: str) -> tuple[Budget, ...]:
        """Return the budgets that bind the key of this name, wherever the key is kept."""
        return self._loaded.budgets.get(name, self._loaded.shared)

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
        """Read all keys, and go on looking for changes."""
        await self._look()
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
            found = await self._database.read(lambda connection: load(connection, self._loaded.version))
        except DatabaseUnavailable:
            return False  # the copy goes on; the books report that the database is away
        except Exception:  # whatever one row holds, later changes are to be seen
            logger.exception("the keys of the database cannot be read")
            return False
        if found is not None:
            self._loaded = found
            self._on_change()
        return True
