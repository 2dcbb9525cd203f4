"""Answers in Redis, and the leases with which processes share a call. An unhealthy Redis is a miss, without a lease."""

import logging
from typing import Any

from one_api.breaker import Breaker
from one_api.cache.lease import (
    KEPT_AFTER_END_S,
    LEASE_S,
    LISTENING_S,
    MAX_SEGMENTS,
    CallKey,
    LeaseKeeper,
    LeaseResult,
    LeaseStatus,
)
from one_api.cache.stores import AnswerStore
from one_api.redis.link import RedisLink, RedisRefusal, RedisUnavailable

logger = logging.getLogger(__name__)

#: The effect of an unhealthy Redis, for log lines.
_WITHOUT = "answers are neither kept nor found"

#: KEYS: the answer, the lease. ARGV: token, milliseconds.
_TAKE = f"""
local kept = redis.call('GET', KEYS[1])
if kept then return {{'{LeaseStatus.HELD}', kept}} end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return {{'{LeaseStatus.HELD}', false, holder}} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {{'{LeaseStatus.WON}'}}
"""
#: KEYS: the lease, the segments, the subscriber mark. ARGV: token, milliseconds.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('EXISTS', KEYS[3])
"""
#: KEYS: the segments. ARGV: number, segment, oldest number to keep, milliseconds. A repetition changes nothing.
_PUBLISH = """
local done = redis.pcall('XADD', KEYS[1], 'MINID', ARGV[3], ARGV[1], 'part', ARGV[2])
if type(done) == 'table' and not string.find(done.err, 'equal or smaller') then return done end
return redis.call('PEXPIRE', KEYS[1], ARGV[4])
"""
#: KEYS: the lease, the segments, the subscriber mark. ARGV: token, first number, count, milliseconds.
_POLL = f"""
redis.call('SET', KEYS[3], '', 'PX', ARGV[4])
local segments = redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])
local there = redis.call('EXISTS', KEYS[2]) == 1 or redis.call('GET', KEYS[1]) == ARGV[1]
return {{there and '{LeaseStatus.HELD}' or '{LeaseStatus.GONE}', segments}}
"""
#: KEYS: the lease, the segments. ARGV: token, 1 to drop the segments.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if ARGV[2] == '1' then redis.call('DEL', KEYS[2]) end
return 1
"""


class RedisAnswers(AnswerStore, LeaseKeeper):
    """Answers that all processes share. Their size is limited by Redis itself (``maxmemory``)."""

    def __init__(self, url: str, call_s: float = 0.05, breaker: Breaker | None = None) -> None:
        super().__init__()
        self._link = RedisLink(url, logger, call_s, without=_WITHOUT, forgiving=True, patient=True, breaker=breaker)

    @property
    def degraded(self) -> str | None:
        """See ``AnswerStore``."""
        return f"{problem}: {_WITHOUT}" if (problem := self._link.problem) else None

    async def get(self, key: bytes) -> bytes | None:
        """See ``AnswerStore``."""
        try:
            found = await self._link.ask("GET", _answer(key))
        except RedisRefusal:  # the value is not a string: no process of the gateway wrote it
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

    async def take(self, call: CallKey, token: str) -> LeaseResult:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _TAKE, 2, _answer(call.key), _lease(call), token, _ms(LEASE_S))
        return _lease_result(found)

    async def renew(self, call: CallKey, token: str) -> bool | None:
        """See ``LeaseKeeper``."""
        found = await self._try("EVAL", _RENEW, 3, *_names(call, token), token, _ms(LEASE_S))
        return None if found is None else bool(found)

    async def publish(self, call: CallKey, token: str, number: int, segment: bytes, *, oldest: int, last: bool) -> bool:
        """See ``LeaseKeeper``."""
        _, segments, _ = _names(call, token)
        life_ms = _ms(KEPT_AFTER_END_S if last else LEASE_S)
        return await self._try("EVAL", _PUBLISH, 1, segments, number, segment, oldest, life_ms) is not None

    async def poll(self, call: CallKey, holder: str, after: int) -> tuple[LeaseStatus, list[tuple[int, bytes]]]:
        """See ``LeaseKeeper``."""
        found = await self._try(
            "EVAL", _POLL, 3, *_names(call, holder), holder, after + 1, MAX_SEGMENTS, _ms(LISTENING_S)
        )
        return _poll_result(found)

    async def release(self, call: CallKey, token: str, *, forget: bool) -> None:
        """See ``LeaseKeeper``."""
        lease, segments, _ = _names(call, token)
        await self._try("EVAL", _RELEASE, 2, lease, segments, token, int(forget))

    async def _try(self, *command: Any) -> Any:
        try:
            return await self._link.ask(*command)
        except RedisUnavailable:
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


# A result in another form does not come from these scripts; it counts as no answer.


def _lease_result(found: Any) -> LeaseResult:
    """Read the answer of ``_TAKE``."""
    match found:
        case [b"won"]:
            return LeaseResult(LeaseStatus.WON)
        case [b"held", bytes(kept)]:
            return LeaseResult(LeaseStatus.HELD, kept)
        case [b"held", None, bytes(holder)]:
            return LeaseResult(LeaseStatus.HELD, holder=holder.decode(errors="replace"))
    return LeaseResult(LeaseStatus.ALONE)


def _poll_result(found: Any) -> tuple[LeaseStatus, list[tuple[int, bytes]]]:
    """Read the answer of ``_POLL``."""
    match found:
        case [b"held" | b"gone" as status, [*segments]] if all(map(_is_segment, segments)):
            numbered = [(int(number.partition(b"-")[0]), segment) for number, [_, segment] in segments]
            return LeaseStatus(status.decode()), numbered
    return LeaseStatus.ALONE, []


def _is_segment(found: Any) -> bool:
    match found:
        case [bytes(number), [_, bytes()]]:
            return number.partition(b"-")[0].isdigit()
    return False


# The braces (hash tag) keep all keys of one answer on one node of a cluster.


def _answer(key: bytes) -> str:
    return f"one_api:answer:{{{key.hex()}}}"


def _lease(call: CallKey) -> str:
    return f"one_api:asking:{{{call.key.hex()}}}:{call.form}"


def _names(call: CallKey, token: str) -> tuple[str, str, str]:
    """Return the keys of the lease, of its holder's segments, and of the subscriber mark."""
    own = f"{{{call.key.hex()}}}:{call.form}:{token}"
    return _lease(call), f"one_api:told:{own}", f"one_api:listening:{own}"


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
