"""Windows in Redis, for several machines: one script per request.

While Redis is dead, slow or frozen, limits are kept in this process, each process with its share.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from one_api.limits.stores import LimitStore, MemoryStore, Ticket
from one_api.limits.window import BUCKETS, LEASE_S, WINDOW_S, Kind, Limits, Verdict
from one_api.redis.link import RedisLink, RedisUnavailable, Trip

logger = logging.getLogger(__name__)

#: The arithmetic of ``window.Window.take``, in Redis's own time. Fields r<second> and t<second>; leases by their end.
_TAKE = f"""
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local second = tonumber(clock[1])
local most_requests, most_tokens, most_leases = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tokens, lease = tonumber(ARGV[4]), ARGV[5]
local counts = {{r = {{}}, t = {{}}}}
local used = {{r = 0, t = 0}}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local kind, at = string.sub(all[i], 1, 1), tonumber(string.sub(all[i], 2))
  if at <= second - {BUCKETS} then
    redis.call('HDEL', KEYS[1], all[i])
  else
    counts[kind][at] = tonumber(all[i + 1])
    used[kind] = used[kind] + tonumber(all[i + 1])
  end
end
local function wait(kind, needed)
  if needed <= 0 then return 0 end
  for at = second - {WINDOW_S}, second do
    needed = needed - (counts[kind][at] or 0)
    if needed <= 0 then return math.max(0, at + {BUCKETS} - now) end
  end
  return {BUCKETS}
end
local refused, longest = '', -1
local function refuse(kind, seconds)
  if seconds > longest then refused, longest = kind, seconds end
end
if used.r >= most_requests then refuse('requests', wait('r', used.r - most_requests + 1)) end
if most_tokens >= 0 and used.t + tokens > most_tokens then
  refuse('tokens', wait('t', math.min(used.t + tokens - most_tokens, used.t)))
end
if most_leases >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most_leases then refuse('concurrent', 1) end
end
if refused == '' then
  redis.call('HINCRBY', KEYS[1], 'r' .. second, 1)
  redis.call('HINCRBY', KEYS[1], 't' .. second, tokens)
  redis.call('EXPIRE', KEYS[1], {BUCKETS + 1})
  counts.r[second] = (counts.r[second] or 0) + 1
  counts.t[second] = (counts.t[second] or 0) + tokens
  used.r, used.t = used.r + 1, used.t + tokens
  if most_leases >= 0 then
    redis.call('ZADD', KEYS[2], now + {LEASE_S}, lease)
    redis.call('EXPIRE', KEYS[2], {int(LEASE_S) + 1})
  end
end
return {{refused, tostring(math.max(0, longest)), used.r, tostring(wait('r', used.r)),
        used.t, tostring(wait('t', used.t)), second}}
"""

_SETTLE = f"""
local second = tonumber(redis.call('TIME')[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local counted, change = tonumber(ARGV[2]), tonumber(ARGV[3])
if second - counted >= {BUCKETS} then
  counted, change = second, math.max(0, change)
end
if change ~= 0 then
  local now = redis.call('HINCRBY', KEYS[1], 't' .. counted, change)
  if now < 0 then redis.call('HSET', KEYS[1], 't' .. counted, 0) end
  redis.call('EXPIRE', KEYS[1], {BUCKETS + 1})
end
return 1
"""

_RENEW = f"""
local now = tonumber(redis.call('TIME')[1])
for _, lease in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now + {LEASE_S}, lease) end
redis.call('EXPIRE', KEYS[1], {int(LEASE_S) + 1})
return 1
"""

#: Adds what was counted elsewhere: triples of age, requests and tokens.
_MERGE = f"""
local second = tonumber(redis.call('TIME')[1])
for i = 1, #ARGV, 3 do
  local at = second - tonumber(ARGV[i])
  redis.call('HINCRBY', KEYS[1], 'r' .. at, ARGV[i + 1])
  redis.call('HINCRBY', KEYS[1], 't' .. at, ARGV[i + 2])
end
redis.call('EXPIRE', KEYS[1], {BUCKETS + 1})
return 1
"""


#: What stands in a request's way, in the words of ``_TAKE``.
_KINDS: dict[bytes, Kind | None] = {
    b"": None,
    b"requests": "requests",
    b"tokens": "tokens",
    b"concurrent": "concurrent",
}


class RedisStore(LimitStore):
    """Windows in Redis, or, while it is ill, in this process with ``1/processes`` of each limit."""

    def __init__(self, url: str, processes: int | Callable[[], int], call_s: float = 0.05) -> None:
        """``processes`` share the limits while Redis is ill: their number, or what returns it now."""
        self._link = RedisLink(
            url, logger, call_s, without="limits are kept per process", forgiving=False, recovered=self._merge
        )
        self._processes = processes
        self._local = MemoryStore()

    @property
    def degraded(self) -> str | None:
        """See ``LimitStore``."""
        return "Redis does not answer: limits are kept per process" if self._link.ill else None

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        bounds = [limits.requests_per_minute, _bound(limits.tokens_per_minute), _bound(limits.concurrent)]
        found = await self._ask(_TAKE, 2, *_names(key), *bounds, tokens, lease)
        if (taken := _taken(found, limits)) is None:
            verdict, ticket = await self._local.take(key, self._share(limits), tokens, lease)
            return verdict, Ticket(key, lease, tokens, -ticket.counted_at)  # negative: it was counted here
        verdict, second = taken
        return verdict, Ticket(key, lease, tokens, second)

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""
        if ticket.counted_at < 0:
            await self._local.settle(Ticket(ticket.key, ticket.lease, ticket.tokens, -ticket.counted_at), tokens)
            return
        change = tokens - ticket.tokens
        await self._ask(_SETTLE, 2, *_names(ticket.key), ticket.lease, int(ticket.counted_at), change)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        for key in {ticket.key for ticket in tickets}:
            leases = [ticket.lease for ticket in tickets if ticket.key == key and ticket.counted_at >= 0]
            if leases:
                await self._ask(_RENEW, 1, _names(key)[1], *leases)
        await self._local.renew([ticket for ticket in tickets if ticket.counted_at < 0])

    async def _ask(self, *command: Any) -> Any:
        """Return what a script answers, or None when Redis is ill."""
        try:
            return await self._link.ask("EVAL", *command)
        except RedisUnavailable:
            return None

    async def _merge(self, trip: Trip) -> None:
        """Add to Redis what was counted here while it was ill, so that nobody's minute begins anew."""
        local = self._local.counted()
        commands = [("EVAL", _MERGE, 1, _names(key)[0], *sum(counted, ())) for key, counted in local.items()]
        if commands and not any(isinstance(answer, Exception) for answer in await trip(commands)):
            self._local.forget()

    def _share(self, limits: Limits) -> Limits:
        """Return this process's part of the limits."""

        def part(limit: int) -> int:
            return max(1, limit // processes)

        processes = self._processes() if callable(self._processes) else self._processes
        tokens, concurrent = limits.tokens_per_minute, limits.concurrent
        return Limits(
            part(limits.requests_per_minute),
            None if tokens is None else part(tokens),
            None if concurrent is None else part(concurrent),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


def _taken(found: Any, limits: Limits) -> tuple[Verdict, int] | None:
    """Read the answer of ``_TAKE``: what it says, in which second; None when there is none that makes sense."""
    try:
        refused, wait_s, used, reset_s, used_tokens, reset_tokens_s, second = found
        most = limits.tokens_per_minute
        verdict = Verdict(
            _KINDS[refused],
            float(wait_s),
            max(0, limits.requests_per_minute - used),
            float(reset_s),
            None if most is None else max(0, most - used_tokens),
            float(reset_tokens_s),
        )
        return verdict, int(second)
    except (TypeError, ValueError, KeyError):
        return None


def _names(key: str) -> tuple[str, str]:
    """Return the names of a key's window and leases; the braces keep both on one node of a cluster."""
    return f"one_api:limits:{{{key}}}", f"one_api:leases:{{{key}}}"


def _bound(limit: int | None) -> int:
    return -1 if limit is None else limit
