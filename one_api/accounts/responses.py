"""Responses that clients may read again and go on from, in the database: any process finds them, for their
owner only.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, literal, select

from one_api.accounts.database import TRANSACTION_S, Database, DatabaseUnavailable
from one_api.accounts.tables import RESPONSES
from one_api.dialects.json import JSONObject
from one_api.dialects.responses.kept import GOES_ON, MAX_CHAIN_BYTES, MAX_LINKS, ChainTooLong, KeptResponse, kept
from one_api.errors import AccountsUnavailable
from one_api.serving.tasks import stop

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The ids that there can be; a database takes no other text for certain.
_ID = re.compile(r"resp_[0-9a-f]{32}")
#: How long an answer waits until it is kept, in seconds.
_KEEP_S = 1.0
#: The time of a conversation is renewed when this part of it is over, so that not each turn writes all its rows.
_RENEWED_AFTER = 0.1
#: How often rows whose time is over are looked for, in seconds; how many are deleted at once, and the rest after that.
_SWEEP_S, _SWEEP_ROWS, _SWEEP_REST_S = 60.0, 50, 0.1


class DatabaseResponses:
    """See ``ResponseStore``. Moments are UTC milliseconds here, because several machines share them."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to delete what is too old."""
        self._sweeper = asyncio.get_running_loop().create_task(self._keep_sweeping())

    async def aclose(self) -> None:
        """End that; the database is closed by others."""
        await stop(self._sweeper)

    async def keep(
        self, owner: str, response: JSONObject, items: list[JSONObject], *, ttl_s: float, max_bytes: int
    ) -> bool:
        """Keep a response; False when it is larger than one may be, or the database has not taken it in time."""
        now = self._now()
        entry = kept(owner, response, items, now + ttl_s * 1000)
        if entry.size > min(max_bytes, MAX_CHAIN_BYTES):
            return False
        row = {
            "id": response["id"],
            "owner": owner,
            "parent": entry.parent,
            "status": entry.status,
            "created_at": now,
            "expires_at": int(entry.expires),
            "size": entry.size,
            "items": entry.items,
            "response": entry.response,
        }
        try:
            await self._database.within(_KEEP_S, lambda: self._database.write(partial(_insert, row=row)))
        except DatabaseUnavailable as error:
            logger.error("a response could not be kept: %s; its answer says so", error)
            return False
        return True

    async def find(self, owner: str, response_id: str) -> KeptResponse | None:
        """See ``ResponseStore``."""
        if not _ID.fullmatch(response_id):
            return None
        work = partial(_find, owner=owner, response_id=response_id, now=self._now())
        return await self._asked(lambda: self._database.read(work))

    async def delete(self, owner: str, response_id: str) -> bool:
        """See ``ResponseStore``."""
        if not _ID.fullmatch(response_id):
            return False
        work = partial(_delete, owner=owner, response_id=response_id, now=self._now())
        return await self._asked(lambda: self._database.write(work))

    async def chain(self, owner: str, response_id: str, ttl_s: float) -> list[KeptResponse] | None:
        """See ``ResponseStore``; what has most of its time left is kept no longer than before."""
        if not _ID.fullmatch(response_id):
            return None
        now = self._now()
        work = partial(_chain, owner=owner, response_id=response_id, now=now)
        found = await self._asked(lambda: self._database.read(work))
        if found is None:
            return None
        expires = now + int(ttl_s * 1000)
        due = expires - int(ttl_s * 1000 * _RENEWED_AFTER)
        if old := [row_id for row_id, link in found.items() if link.expires <= due]:
            renew = partial(_renew, owner=owner, ids=old, expires=expires)
            await self._asked(lambda: self._database.write(renew))
        return list(found.values())

    async def _asked(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._database.within(TRANSACTION_S, work)
        except DatabaseUnavailable as error:
            logger.error("kept responses cannot be used: %s", error)
            raise AccountsUnavailable("The database of the responses cannot be used now.", retry_after_s=1) from None

    async def _keep_sweeping(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await self.sweep()
            await asyncio.sleep(_SWEEP_S)

    async def sweep(self) -> None:
        """Delete the rows whose time is over, little by little; raises DatabaseUnavailable."""
        deleted = _SWEEP_ROWS
        while deleted == _SWEEP_ROWS:
            deleted = await self._database.write(partial(_sweep, now=self._now(), limit=_SWEEP_ROWS))
            await asyncio.sleep(_SWEEP_REST_S)

    def _now(self) -> int:
        return int(self._clock() * 1000)


# Statements


def _insert(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(RESPONSES.insert(), row)


def _mine(owner: str, ids: Sequence[str]) -> Any:
    """Return the condition that every statement about known responses has."""
    return RESPONSES.c.id.in_(ids) & (RESPONSES.c.owner == owner)


def _find(connection: Connection, owner: str, response_id: str, now: int) -> KeptResponse | None:
    query = select(RESPONSES).where(_mine(owner, [response_id]), RESPONSES.c.expires_at > now)
    row = connection.execute(query).one_or_none()
    return None if row is None else _kept(row)


def _kept(row: Any) -> KeptResponse:
    return KeptResponse(row.owner, row.parent, row.status, bytes(row.response), bytes(row.items), row.expires_at)


def _delete(connection: Connection, owner: str, response_id: str, now: int) -> bool:
    statement = RESPONSES.delete().where(_mine(owner, [response_id]), RESPONSES.c.expires_at > now)
    return connection.execute(statement).rowcount > 0


def _chain(connection: Connection, owner: str, response_id: str, now: int) -> dict[str, KeptResponse] | None:
    """Return a conversation by ids, the oldest first; only one that is whole and short enough is read."""
    columns = [RESPONSES.c[name] for name in ("id", "parent", "status", "size")]
    is_usable = (RESPONSES.c.owner == owner) & (RESPONSES.c.expires_at > now)
    walk = select(*columns, literal(1).label("link")).where(RESPONSES.c.id == response_id, is_usable)
    walk_cte = walk.cte("walk", recursive=True)
    older = select(*columns, walk_cte.c.link + 1).where(
        RESPONSES.c.id == walk_cte.c.parent, is_usable, walk_cte.c.link <= MAX_LINKS
    )
    walked = walk_cte.union_all(older)
    links = connection.execute(select(walked).order_by(walked.c.link.desc())).all()
    if not links or any(link.status not in GOES_ON for link in links):
        return None
    if len(links) > MAX_LINKS or sum(link.size for link in links) > MAX_CHAIN_BYTES:
        raise ChainTooLong
    if links[0].parent is not None:
        return None
    query = select(RESPONSES).where(_mine(owner, [link.id for link in links]))
    rows = {row.id: _kept(row) for row in connection.execute(query)}
    # One may have been deleted between the two statements.
    return {link.id: rows[link.id] for link in links} if len(rows) == len(links) else None


def _renew(connection: Connection, owner: str, ids: list[str], expires: int) -> None:
    # In one order, and past rows that another request renews just now: no two wait for each other.
    free = select(RESPONSES.c.id).where(_mine(owner, ids)).order_by(RESPONSES.c.id).with_for_update(skip_locked=True)
    found = connection.scalars(free).all()
    connection.execute(RESPONSES.update().where(_mine(owner, found)).values(expires_at=expires))


def _sweep(connection: Connection, now: int, limit: int) -> int:
    """Delete rows whose time is over, at most ``limit``; returns how many."""
    over = select(RESPONSES.c.id).where(RESPONSES.c.expires_at <= now).order_by(RESPONSES.c.expires_at).limit(limit)
    found = connection.scalars(over.with_for_update(skip_locked=True)).all()
    return connection.execute(RESPONSES.delete().where(RESPONSES.c.id.in_(found))).rowcount if found else 0
