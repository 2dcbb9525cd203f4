"""Answers in Redis, and the leases by which processes share a call. A Redis that is ill is a miss, and no lease."""

import logging
from typing import Any

from one_api.cache.lease import LEASE_S, LISTENING_S, PARTS, REST_S, LeaseKeeper, Shared, Standing, Taken
from one_api.cache.stores import AnswerStore
from one_api.redis.link import RedisLink, RedisRefusal, RedisUnavailable

logger = logging.getLogger(__name__)

#: What an ill Redis means here.
_WITHOUT = "answers are neither kept nor found"

#: KEYS: the answer, the lease. ARGV: token, milliseconds.
_TAKE = f"""
local kept = redis.call('GET', KEYS[1])
if kept then return {{'{Standing.HELD}', kept}} end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return {{'{Standing.HELD}', false, holder}} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {{'{Standing.WON}'}}
"""
#: KEYS: the lease, what was told, the mark that somebody listens. ARGV: token, milliseconds.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('EXISTS', KEYS[3])
"""
#: KEYS: what was told. ARGV: number, part, the oldest number that stays, milliseconds. A second try changes nothing.
_TELL = """
local done = redis.pcall('XADD', KEYS[1], 'MINID', ARGV[3], ARGV[1], 'part', ARGV[2])
if type(done) == 'table' and not string.find(done.err, 'equal or smaller') then return done end
return redis.call('PEXPIRE', KEYS[1], ARGV[4])
"""
#: KEYS: the lease, what was told, the mark that somebody listens. ARGV: token, first number, parts, milliseconds.
_HEAR = f"""
redis.call('SET', KEYS[3], '', 'PX', ARGV[4])
local parts = redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])
local there = redis.call('EXISTS', KEYS[2]) == 1 or redis.call('GET', KEYS[1]) == ARGV[1]
return {{there and '{Standing.HELD}' or '{Standing.GONE}', parts}}
"""
#: KEYS: the lease, what was told. ARGV: token, 1 to drop what was told.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if ARGV[2] == '1' then redis.call('DEL', KEYS[2]) end
return 1
"""


class RedisAnswers(AnswerStore, LeaseKeeper):
    """Answers that all processes share. How much room they have is Redis's own setting (``maxmemory``)."""

    def __init__(self, url: str, call_s: float = 0.05) -> None:
        super().__init__()
        self._link = RedisLink(url, logger, call_s, without=_WITHOUT, forgiving=True)

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

    async def take(self, call: Shared, token: str) -> Taken:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _TAKE, 2, _answer(call.key), _lease(call), token, _ms(LEASE_S))
        return _taken(found)

    async def renew(self, call: Shared, token: str) -> bool | None:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _RENEW, 3, *_names(call, token), token, _ms(LEASE_S))
        return None if found is None else bool(found)

    async def tell(self, call: Shared, token: str, number: int, part: bytes, *, oldest: int, last: bool) -> bool:
        """See ``LeaseKeeper``."""
        _, told, _ = _names(call, token)
        life_ms = _ms(REST_S if last else LEASE_S)
        return await self._try("EVAL", _TELL, 1, told, number, part, oldest, life_ms) is not None

    async def hear(self, call: Shared, holder: str, after: int) -> tuple[Standing, list[tuple[int, bytes]]]:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _HEAR, 3, *_names(call, holder), holder, after + 1, PARTS, _ms(LISTENING_S))
        return _heard(found)

    async def release(self, call: Shared, token: str, *, forget: bool) -> None:
        """See ``LeaseKeeper``."""
        lease, told, _ = _names(call, token)
        await self._try("EVAL", _RELEASE, 2, lease, told, token, int(forget))

    async def _try(self, *command: Any) -> Any:
        try:
            return await self._link.ask(*command)
        except RedisUnavailable:
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


# What makes no sense comes from no script of ours, and is as good as no answer.


def _taken(found: Any) -> Taken:
    """Read the answer of ``_TAKE``."""
    match found:
        case [b"won"]:
            return Taken(Standing.WON)
        case [b"held", bytes(kept)]:
            return Taken(Standing.HELD, kept)
        case [b"held", None, bytes(holder)]:
            return Taken(Standing.HELD, holder=holder.decode(errors="replace"))
    return Taken(Standing.ALONE)


def _heard(found: Any) -> tuple[Standing, list[tuple[int, bytes]]]:
    """Read the answer of ``_HEAR``."""
    match found:
        case [b"held" | b"gone" as standing, [*parts]] if all(map(_is_part, parts)):
            numbered = [(int(number.partition(b"-")[0]), part) for number, [_, part] in parts]
            return Standing(standing.decode()), numbered
    return Standing.ALONE, []


def _is_part(found: Any) -> bool:
    match found:
        case [bytes(number), [_, bytes()]]:
            return number.partition(b"-")[0].isdigit()
    return False


# The braces keep all that belongs to one answer on one node of a cluster.


def _answer(key: bytes) -> str:
    return f"one_api:answer:{{{key.hex()}}}"


def _lease(call: Shared) -> str:
    return f"one_api:asking:{{{call.key.hex()}}}:{call.form}"


def _names(call: Shared, token: str) -> tuple[str, str, str]:
    """Return where the lease lies, what its holder tells, and the mark that somebody listens."""
    own = f"{{{call.key.hex()}}}:{call.form}:{token}"
    return _lease(call), f"one_api:told:{own}", f"one_api:listening:{own}"


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
