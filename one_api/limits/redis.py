"""Windows in Redis, for several machines: one script per request.

While Redis is dead, slow or frozen, limits are kept in this process, each process with its share.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from one_api.limits.scripts import MERGE, RENEW, SETTLE, TAKE
from one_api.limits.stores import LimitStore, MemoryStore, Ticket
from one_api.limits.window import Kind, Limits, Verdict
from one_api.redis.link import RedisLink, RedisUnavailable, Trip

logger = logging.getLogger(__name__)

#: What stands in a request's way, in the words of ``TAKE``.
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
        found = await self._ask(TAKE, 2, *_names(key), *bounds, tokens, lease)
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
        await self._ask(SETTLE, 2, *_names(ticket.key), ticket.lease, int(ticket.counted_at), change)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        for key in {ticket.key for ticket in tickets}:
            leases = [ticket.lease for ticket in tickets if ticket.key == key and ticket.counted_at >= 0]
            if leases:
                await self._ask(RENEW, 1, _names(key)[1], *leases)
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
        commands = [("EVAL", MERGE, 1, _names(key)[0], *sum(counted, ())) for key, counted in local.items()]
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
    """Read the answer of ``TAKE``: what it says, in which second; None when there is none that makes sense."""
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
    return f"one_api:window:{{{key}}}", f"one_api:leases:{{{key}}}"


def _bound(limit: int | None) -> int:
    return -1 if limit is None else limit
