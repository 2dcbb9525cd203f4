"""Answers in Redis, and the leases by which processes share a call. A Redis that is ill is a miss, and no lease."""

import logging
from typing import Any

from one_api.cache.lease import LEASE_S, UNSHARED_S, LeaseKeeper, Standing
from one_api.cache.stores import AnswerStore
from one_api.redis_link import RedisLink, RedisRefusal, RedisUnavailable

logger = logging.getLogger(__name__)

#: What an ill Redis means here.
_WITHOUT = "answers are neither kept nor found"
_ALONE = "-"
#: KEYS: the answer, the lease. ARGV: token, milliseconds.
_TAKE = f"""
local kept = redis.call('GET', KEYS[1])
if kept then return {{'{Standing.HELD}', kept}} end
local holder = redis.call('GET', KEYS[2])
if holder == '{_ALONE}' then return {{'{Standing.ALONE}'}} end
if holder and holder ~= ARGV[1] then return {{'{Standing.HELD}'}} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {{'{Standing.WON}'}}
"""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
#: ARGV: token, milliseconds for which it is known that nothing is shared; 0 for not at all.
_RELEASE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], '{_ALONE}', 'PX', ARGV[2])
return 1
"""


class RedisAnswers(AnswerStore, LeaseKeeper):
    """Answers that all processes share. How much room they have is Redis's own setting (``maxmemory``)."""

    def __init__(self, url: str) -> None:
        self._link = RedisLink(url, logger, without=_WITHOUT, forgiving=True)

    @property
    def degraded(self) -> str | None:
        """See ``AnswerStore``."""
        return f"Redis does not answer: {_WITHOUT}" if self._link.ill else None

    async def get(self, key: bytes) -> bytes | None:
        """See ``AnswerStore``."""
        try:
            found = await self._link.ask("GET", _answer(key))
        except RedisRefusal:  # what lies there is no text: nobody of us has put it there
            await self.delete(key)
            return None
        except RedisUnavailable:
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See ``AnswerStore``."""
        await self._try("SET", _answer(key), value, "PX", _ms(ttl_s))

    async def delete(self, key: bytes) -> None:
        """See ``AnswerStore``."""
        await self._try("DEL", _answer(key))

    async def take(self, key: bytes, token: str) -> tuple[Standing, bytes | None]:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _TAKE, 2, _answer(key), _lease(key), token, _ms(LEASE_S))
        if not isinstance(found, list):
            return Standing.ALONE, None
        standing = Standing(found[0].decode())
        return standing, found[1] if len(found) > 1 else None

    async def renew(self, key: bytes, token: str) -> None:
        """See ``LeaseKeeper``."""
        await self._try("EVAL", _RENEW, 1, _lease(key), token, _ms(LEASE_S))

    async def release(self, key: bytes, token: str, *, unshared: bool) -> None:
        """See ``LeaseKeeper``."""
        await self._try("EVAL", _RELEASE, 1, _lease(key), token, _ms(UNSHARED_S) if unshared else 0)

    async def _try(self, *command: Any) -> Any:
        try:
            return await self._link.ask(*command)
        except RedisUnavailable:
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


def _answer(key: bytes) -> str:
    return f"one_api:answer:{{{key.hex()}}}"  # the braces keep answer and lease on one node of a cluster


def _lease(key: bytes) -> str:
    return f"one_api:asking:{{{key.hex()}}}"


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
