"""Windows in Redis, for several machines: one script per request.

While Redis is dead, slow or frozen, limits are kept in this process, each process with its share, and with what it
knows of the others. A Redis that has lost its windows is reminded of what this process let in.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from one_api.limits.scripts import MERGE, RENEW, SETTLE, TAKE
from one_api.limits.stores import LimitStore, Ticket
from one_api.limits.usage import Counts, KeyUsage, LateTake
from one_api.limits.window import Kind, Limits, Verdict
from one_api.redis.link import RedisLink, RedisUnavailable, SendPipeline

logger = logging.getLogger(__name__)

#: What stands in a request's way, in the words of ``TAKE``.
_KINDS: dict[bytes, Kind | None] = {
    b"": None,
    b"requests": "requests",
    b"tokens": "tokens",
    b"concurrent": "concurrent",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer of ``TAKE``: a verdict, when it was counted, and what all processes use."""

    verdict: Verdict
    second: int
    birth: int
    requests: int
    tokens: int


class RedisStore(LimitStore):
    """Windows in Redis, or, while it is unhealthy, in this process with ``1/processes`` of each limit."""

    def __init__(self, url: str, processes: int | Callable[[], int], call_s: float = 0.05) -> None:
        """``processes`` share the limits while Redis is unhealthy: their number, or what returns it now."""
        self._link = RedisLink(
            url, logger, call_s, without="limits are kept per process", forgiving=False, recovered=self._merge_all
        )
        self._processes = processes
        #: By key. Keys come from the configuration, so there are no more than it names.
        self._usage: dict[str, KeyUsage] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def degraded(self) -> str | None:
        """See ``LimitStore``."""
        if self._link.ill:
            return "Redis does not answer: limits are kept per process"
        return "Redis often answers late: then, limits are kept per process" if self._link.unreliable else None

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        usage, now = self._usage_of(key), time.monotonic()
        ticket = Ticket(key, lease, tokens, now)
        if (refusal := usage.remembered_refusal(limits, self._share(limits), now, tokens)) is not None:
            return refusal, ticket
        try:
            found = await self._ask_take(ticket, limits)
        except RedisUnavailable as unavailable:
            return self._decide(ticket, limits, unavailable.late), ticket
        if (answer := _read(found, limits)) is None:
            return self._decide(ticket, limits, None), ticket
        self._note(usage, ticket, limits, answer)
        if any(usage.uncounted.used(time.monotonic())):
            await self._merge(key)
        return answer.verdict, replace(ticket, second=answer.second)

    async def _ask_take(self, ticket: Ticket, limits: Limits) -> Any:
        """Return what ``TAKE`` answers; a Redis that has lost the window is reminded, and asked again."""
        usage = self._usage_of(ticket.key)
        bounds = [limits.requests_per_minute, _bound(limits.tokens_per_minute), _bound(limits.concurrent)]
        command = ("EVAL", TAKE, 2, *_names(ticket.key), *bounds, ticket.tokens, ticket.lease)
        found = await self._link.ask(*command, usage.known_birth(time.monotonic()))
        match found:
            case [b"lost", int(birth)]:
                usage.forget_birth(time.monotonic(), birth)
                await self._merge(ticket.key)
                if leases := list(usage.counted.leases):
                    await self._ask("EVAL", RENEW, 1, _names(ticket.key)[1], "CH", *leases)
                return await self._link.ask(*command, 0)
        return found

    def _note(self, usage: KeyUsage, ticket: Ticket, limits: Limits, answer: _Answer) -> None:
        """Remember what Redis has answered in time."""
        now = time.monotonic()
        if answer.verdict.refused_by is None:
            usage.admitted(now, ticket.tokens, None if limits.concurrent is None else ticket.lease)
        usage.update(now, answer.birth, answer.requests, answer.tokens)

    def _decide(self, ticket: Ticket, limits: Limits, late: asyncio.Future[Any] | None) -> Verdict:
        """Decide without Redis. Its late answer says whether it has counted the request, too."""
        usage, now = self._usage_of(ticket.key), ticket.counted_at
        verdict = usage.decide(limits, self._share(limits), now, ticket.tokens, ticket.lease)
        if late is not None:
            if verdict.refused_by is None:
                usage.late[ticket.lease] = LateTake(now, ticket.tokens)
            late.add_done_callback(lambda done: self._late_answer(ticket, limits, done.result()))
        return verdict

    def _late_answer(self, ticket: Ticket, limits: Limits, found: Any) -> None:
        """Count a request that Redis has counted, late, no longer here; take back what it has counted in vain."""
        usage, now = self._usage_of(ticket.key), time.monotonic()
        answer = _read(found, limits)
        if answer is not None:
            usage.update(now, answer.birth, answer.requests, answer.tokens)
        second = answer.second if answer is not None and answer.verdict.refused_by is None else None
        if ticket.lease not in usage.late:
            if second is not None:
                self._start(self._settle_in_redis(ticket, second, -ticket.tokens))
            return
        settles = limits.tokens_per_minute is not None or limits.concurrent is not None
        late = usage.late_answer(now, ticket.lease, second, settles=settles)
        if second is not None and late.settled is not None:
            self._start(self._settle_in_redis(ticket, second, late.settled - ticket.tokens))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""
        usage = self._usage_of(ticket.key)
        second = usage.settle(time.monotonic(), ticket, tokens)
        if second is not None:
            await self._settle_in_redis(ticket, second, tokens - ticket.tokens)

    async def _settle_in_redis(self, ticket: Ticket, second: int, change: int) -> None:
        await self._ask("EVAL", SETTLE, 2, *_names(ticket.key), ticket.lease, second, change)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        now = time.monotonic()
        for key in {ticket.key for ticket in tickets}:
            usage, own = self._usage_of(key), [ticket for ticket in tickets if ticket.key == key]
            for ticket in own:
                usage.renew(now, ticket.lease)
            leases = [each.lease for each in own if each.second is not None or each.lease in usage.counted_late]
            if leases:
                await self._ask("EVAL", RENEW, 1, _names(key)[1], "XX", *leases)

    async def _ask(self, *command: Any) -> Any:
        """Return what a script answers, or None when Redis is unhealthy."""
        try:
            return await self._link.ask(*command)
        except RedisUnavailable:
            return None

    async def _merge(self, key: str) -> None:
        """Add to Redis what one key was let in for elsewhere."""
        usage = self._usage_of(key)
        if counts := usage.begin_merge(time.monotonic()):
            _finish_merge(usage, counts, await self._ask(*_merge_command(key, counts)))

    async def _merge_all(self, send: SendPipeline) -> None:
        """Add to Redis what was counted here while it was away, so that nobody's minute begins anew.

        The first round shows which windows Redis has lost, the second adds what had been counted in them.
        """
        for _ in range(2):
            now = time.monotonic()
            counts = {key: usage.begin_merge(now) for key, usage in self._usage.items() if usage.is_used(now)}
            answers = await send([_merge_command(*each) for each in counts.items()]) if counts else []
            for (key, each), answer in zip(counts.items(), answers, strict=True):
                _finish_merge(self._usage[key], each, answer)

    def _usage_of(self, key: str) -> KeyUsage:
        return self._usage.setdefault(key, KeyUsage())

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
        """Close the connections; what is on its way to Redis arrives first."""
        await asyncio.gather(*self._tasks)
        await self._link.aclose()


def _read(found: Any, limits: Limits) -> _Answer | None:
    """Read the answer of ``TAKE``; None when there is none that makes sense."""
    try:
        refused, wait_s, used, reset_s, used_tokens, reset_tokens_s, second, birth = found
        most = limits.tokens_per_minute
        verdict = Verdict(
            _KINDS[refused],
            float(wait_s),
            max(0, limits.requests_per_minute - used),
            float(reset_s),
            None if most is None else max(0, most - used_tokens),
            float(reset_tokens_s),
        )
        return _Answer(verdict, int(second), int(birth), int(used), int(used_tokens))
    except (TypeError, ValueError, KeyError):
        return None


def _merge_command(key: str, counts: Counts) -> tuple[Any, ...]:
    return ("EVAL", MERGE, 1, _names(key)[0], *sum(counts, ()))


def _finish_merge(usage: KeyUsage, counts: Counts, answer: Any) -> None:
    """Note what became of a merge: ``answer`` is the birth of the window that ``counts`` were added to."""
    if isinstance(answer, int):
        usage.merged(time.monotonic(), counts, answer)
    else:
        usage.merge_failed(time.monotonic(), counts)


def _names(key: str) -> tuple[str, str]:
    """Return the names of a key's window and leases; the braces keep both on one node of a cluster."""
    return f"one_api:window:{{{key}}}", f"one_api:leases:{{{key}}}"


def _bound(limit: int | None) -> int:
    return -1 if limit is None else limit
