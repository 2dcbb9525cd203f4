"""Windows in Redis, for several machines: one script per request.

While Redis is dead, slow or frozen, limits are kept in this process, each process with its share, and with what it
knows of the others. A Redis that has lost its windows is reminded of what this process let in.
"""

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from one_api.breaker import Breaker
from one_api.limits.scripts import BEAT, MERGE, RENEW, SETTLE, STATS, TAKE
from one_api.limits.stores import ByKey, LimitStore, Stats, Ticket
from one_api.limits.usage import Counts, KeyUsage, LateTake
from one_api.limits.window import BUCKETS, WINDOW_S, Kind, Limits, Verdict
from one_api.redis.link import RedisLink, RedisUnavailable, SendPipeline
from one_api.redis.script import Script

logger = logging.getLogger(__name__)

#: What stands in a request's way, in the words of ``TAKE``.
_KINDS: dict[bytes, Kind | None] = {
    b"": None,
    b"requests": "requests",
    b"tokens": "tokens",
    b"concurrent": "concurrent",
}


#: The memory of Redis has a name that is lost with it; and the processes that share the limits.
_MEMORY, _PROCESSES = "one_api:memory", "one_api:processes"
#: Keys that are merged in one trip.
_MERGED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Hit:
    """What is asked of a window; ``tick_s`` is a sixtieth of its length."""

    limits: Limits
    requests: int = 1
    tick_s: float = 1.0


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

    def __init__(
        self, url: str, processes: int | Callable[[], int], call_s: float = 0.05, breaker: Breaker | None = None
    ) -> None:
        """``processes`` share the limits while Redis is unhealthy: their number, or what returns it now.

        Redis knows of those on other machines, too: the larger number counts.
        """
        self._link = RedisLink(
            url,
            logger,
            call_s,
            without="limits are kept per process",
            forgiving=False,
            recovered=self._recover,
            scripts=(BEAT, MERGE, RENEW, SETTLE, STATS, TAKE),
            breaker=breaker,
        )
        self._processes = processes
        self._usage = ByKey(lambda _: KeyUsage())
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = secrets.token_hex(8)
        #: What Redis and its memory were called when last heard of; another name means that counts may be lost.
        self._memory: bytes | None = None
        self._processes_heard_of = 1
        #: Redis has answered since it was lost last; and when that was.
        self._heard = False
        self._lost_at = -math.inf
        #: Until then not all that others have let in may be in Redis again.
        self._doubtful_until = -math.inf
        #: How many keys Redis has thrown away when last heard of; and when that became more.
        self._evicted: int | None = None
        self._evicted_at = -math.inf

    @property
    def degraded(self) -> str | None:
        """See ``LimitStore``."""
        if problem := self._link.problem:
            return f"{problem}: limits are kept per process"
        if time.monotonic() < self._doubtful_until:
            return "Redis has lost counts: for a minute, each process keeps to its bounds, too"
        if time.monotonic() - self._evicted_at < BUCKETS:
            return "Redis throws counts away to save memory: give it more, and the policy noeviction"
        return "Redis often answers late: then, limits are kept per process" if self._link.unreliable else None

    @property
    def awaited(self) -> int:
        """Return how many late answers of Redis are awaited, and how many of its answers to what follows from them."""
        return len(self._tasks) + sum(len(usage.late) for _, usage in self._usage.items())

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        ticket = Ticket(key, lease, tokens, time.monotonic(), leased=limits.concurrent is not None)
        return await self._take(ticket, _Hit(limits))

    async def hit(self, key: str, limit: int, period_s: float, amount: int) -> bool:
        """See ``LimitStore``."""
        tick_s = period_s / WINDOW_S
        ticket = Ticket(key, random.getrandbits(52) | 1, 0, time.monotonic() / tick_s, leased=False)
        verdict, _ = await self._take(ticket, _Hit(Limits(limit), amount, tick_s))
        return verdict.refused_by is None

    async def stats(self, key: str, period_s: float) -> Stats:
        """See ``LimitStore``."""
        tick_s = period_s / WINDOW_S
        match await self._ask(STATS, [_names(key)[0]], tick_s):
            case [int(used), bytes(oldest), bytes(newest)]:
                return Stats(used, float(oldest) * tick_s, float(newest) * tick_s)
        usage, now = self._usage.known(key), time.monotonic() / tick_s
        known = usage.counted.copy()
        for age, requests, tokens in usage.uncounted.counted(now):
            known.add(now, now - age, requests, tokens)
        return Stats.of(known, now, tick_s)

    async def clear(self, key: str) -> None:
        """See ``LimitStore``."""
        self._usage.drop(key)
        with suppress(RedisUnavailable):
            await self._link.ask("DEL", *_names(key))

    async def _take(self, ticket: Ticket, hit: _Hit) -> tuple[Verdict, Ticket]:
        usage, limits = self._usage.known(ticket.key), hit.limits
        usage.tick_s, lost_at = hit.tick_s, self._lost_at
        if (refusal := self._doubted(usage, ticket, hit)) is not None:
            return refusal, ticket
        try:
            found = await self._ask_take(ticket, hit)
        except RedisUnavailable as unavailable:
            return self._decide(ticket, hit, unavailable.late), ticket
        if (answer := _read(found, limits)) is None:
            return self._decide(ticket, hit, None), ticket
        if self._lost_at > lost_at and (refusal := self._doubted(usage, ticket, hit)) is not None:
            return refusal, ticket  # on its way to Redis it was learnt that not all can be counted there
        self._note(usage, ticket, hit, answer)
        if any(usage.uncounted.used(self._now(usage))):
            await self._merge(ticket.key)
        return answer.verdict, replace(ticket, second=answer.second)

    def _doubted(self, usage: KeyUsage, ticket: Ticket, hit: _Hit) -> Verdict | None:
        """Return a refusal that Redis, which has lost its memory, cannot know of; None when it is to be asked."""
        now = ticket.counted_at
        if now >= max(usage.remembered_until, self._doubtful_until / hit.tick_s):
            return None
        bounds = self._own_bounds(usage, hit.limits, now)
        return usage.remembered_refusal(hit.limits, bounds, now, ticket.tokens, hit.requests)

    async def _ask_take(self, ticket: Ticket, hit: _Hit) -> Any:
        """Return what ``TAKE`` answers; a Redis that has lost the window is reminded, and asked again."""
        usage, limits = self._usage.known(ticket.key), hit.limits
        bounds = [limits.requests_per_minute, _bound(limits.tokens_per_minute), _bound(limits.concurrent)]
        arguments = [_tick(hit.tick_s), *bounds, hit.requests, ticket.tokens, ticket.lease]
        names = _names(ticket.key)
        found = await self._link.run(TAKE, names, *arguments, usage.known_birth(self._now(usage)))
        match found:
            case [b"lost", int(birth)]:
                usage.forget_birth(self._now(usage), birth)
                await self._merge(ticket.key)
                if leases := list(usage.counted.leases):
                    await self._ask(RENEW, [names[1]], "CH", *leases)
                return await self._link.run(TAKE, names, *arguments, 0)
        return found

    def _note(self, usage: KeyUsage, ticket: Ticket, hit: _Hit, answer: _Answer) -> None:
        """Remember what Redis has answered in time."""
        now, self._heard = self._now(usage), True
        if answer.verdict.refused_by is None:
            usage.admitted(now, ticket.tokens, ticket.lease if ticket.leased else None, hit.requests)
        usage.update(now, answer.birth, answer.requests, answer.tokens)

    def _decide(self, ticket: Ticket, hit: _Hit, late: asyncio.Future[Any] | None) -> Verdict:
        """Decide without Redis. Its late answer says whether it has counted the request, too."""
        if self._heard:
            self._heard, self._lost_at = False, time.monotonic()
        usage, now, limits = self._usage.known(ticket.key), ticket.counted_at, hit.limits
        bounds = self._own_bounds(usage, limits, now)
        verdict = usage.decide(limits, bounds, now, ticket.tokens, ticket.lease, hit.requests)
        if late is not None:
            if verdict.refused_by is None:
                usage.late[ticket.lease] = LateTake(now, ticket.tokens, requests=hit.requests)
            late.add_done_callback(lambda done: self._late_answer(ticket, limits, done.result()))
        return verdict

    def _own_bounds(self, usage: KeyUsage, limits: Limits, now: float) -> Limits:
        """Return what this process may have let in of what counts now."""
        usage.lost(self._lost_at / usage.tick_s, now)
        return usage.own_bounds(self._share(limits), self._count(), now)

    def _late_answer(self, ticket: Ticket, limits: Limits, found: Any) -> None:
        """Count a request that Redis has counted, late, no longer here; take back what it has counted in vain."""
        usage = self._usage.known(ticket.key)
        now, answer = self._now(usage), _read(found, limits)
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
        usage = self._usage.known(ticket.key)
        second = usage.settle(time.monotonic(), ticket, tokens)
        if second is not None:
            await self._settle_in_redis(ticket, second, tokens - ticket.tokens)

    async def _settle_in_redis(self, ticket: Ticket, second: int, change: int) -> None:
        await self._ask(SETTLE, _names(ticket.key), 1, ticket.lease, second, change)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        now = time.monotonic()
        for key in {ticket.key for ticket in tickets}:
            usage, own = self._usage.known(key), [ticket for ticket in tickets if ticket.key == key]
            for ticket in own:
                usage.renew(now, ticket.lease)
            leases = [each.lease for each in own if each.second is not None or each.lease in usage.counted_late]
            if leases:
                await self._ask(RENEW, [_names(key)[1]], "XX", *leases)

    async def _ask(self, script: Script, names: Sequence[str], *arguments: Any) -> Any:
        """Return what a script answers, or None when Redis is unhealthy."""
        try:
            return await self._link.run(script, names, *arguments)
        except RedisUnavailable:
            return None

    async def look_after(self) -> None:
        """Report this process to Redis, and notice when Redis has lost counts, also without requests."""
        with suppress(RedisUnavailable):
            if self._note_beat(await self._link.run(BEAT, *self._beat())):
                await self._merge_all(self._link.ask_all)

    def _beat(self) -> tuple[tuple[str, str], str, str]:
        return (_MEMORY, _PROCESSES), secrets.token_hex(8), self._name

    def _note_beat(self, answer: Any) -> bool:
        """Note what ``BEAT`` answers; return whether Redis has lost counts since the last time."""
        match answer:
            case [bytes(memory), int(processes), int(evicted)]:
                lost, self._memory = self._memory not in (None, memory), memory
                has_evicted, self._evicted = self._evicted is not None and evicted > self._evicted, evicted
                self._processes_heard_of, self._heard = processes, True
                if lost:
                    logger.warning("Redis has lost counts of limits: each process adds what it let in")
                    self._lost_at = time.monotonic()
                    self._doubtful_until = self._lost_at + BUCKETS
                if has_evicted:
                    self._note_eviction()
                return lost or has_evicted
        return False

    def _note_eviction(self) -> None:
        if self.degraded is None:
            logger.warning("Redis throws counts of limits away to save memory: give it more, and the policy noeviction")
        self._evicted_at = time.monotonic()

    async def _recover(self, send: SendPipeline) -> None:
        """Redis answers again: what it has lost is added to it before anything relies on it."""
        (answer,) = await send([BEAT.command(*self._beat())])
        if isinstance(answer, Exception):
            raise answer
        self._note_beat(answer)
        await self._merge_all(send)

    async def _merge(self, key: str) -> None:
        """Add to Redis what one key was let in for elsewhere."""
        usage = self._usage.known(key)
        if counts := usage.begin_merge(self._now(usage)):
            self._finish_merge(usage, counts, await self._ask(MERGE, *_merging(key, usage, counts)))

    async def _merge_all(self, send: SendPipeline) -> None:
        """Add to Redis what was counted here while it was away, so that no key's minute begins anew.

        The first round shows which windows Redis has lost, the second adds what had been counted in them.
        """
        for _ in range(2):
            used = [(key, usage) for key, usage in self._usage.items() if usage.is_used(self._now(usage))]
            for begin in range(0, len(used), _MERGED_AT_ONCE):
                await self._merge_some(send, used[begin : begin + _MERGED_AT_ONCE])

    async def _merge_some(self, send: SendPipeline, used: list[tuple[str, KeyUsage]]) -> None:
        counts = [(key, usage, usage.begin_merge(self._now(usage))) for key, usage in used]
        answers: list[Any] = [None] * len(counts)
        try:
            answers = await send([MERGE.command(*_merging(*each)) for each in counts])
        finally:
            for (_, usage, each), answer in zip(counts, answers, strict=True):
                self._finish_merge(usage, each, answer)

    def _finish_merge(self, usage: KeyUsage, counts: Counts, answer: Any) -> None:
        """Note what became of a merge: ``answer`` is the birth of the window that ``counts`` were added to."""
        if isinstance(answer, int):
            usage.merged(self._now(usage), counts, answer)
        else:
            usage.merge_failed(self._now(usage), counts)

    @staticmethod
    def _now(usage: KeyUsage) -> float:
        return time.monotonic() / usage.tick_s

    def _count(self) -> int:
        """Return how many processes share the limits."""
        return max(self._processes_heard_of, self._processes() if callable(self._processes) else self._processes)

    def _share(self, limits: Limits) -> Limits:
        """Return this process's part of the limits."""
        processes = self._count()

        def part(limit: int) -> int:
            return max(1, limit // processes)

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
    """Read the answer of ``TAKE``; None when it makes no sense."""
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


def _merging(key: str, usage: KeyUsage, counts: Counts) -> tuple[Any, ...]:
    return [_names(key)[0]], _tick(usage.tick_s), *sum(counts, ())


def _tick(tick_s: float) -> int | float:
    return int(tick_s) if tick_s.is_integer() else tick_s


def _names(key: str) -> tuple[str, str]:
    """Return the names of a key's window and leases; the braces keep both on one node of a cluster."""
    return f"one_api:window:{{{key}}}", f"one_api:leases:{{{key}}}"


def _bound(limit: int | None) -> int:
    return -1 if limit is None else limit
