"""Answers to chat requests: from the cache if possible, otherwise from upstreams."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from one_api.cache.entry import Entry, InvalidEntry
from one_api.cache.followed_stream import FollowedStream
from one_api.cache.keys import RouteFingerprint, key_of
from one_api.cache.lease import CallKey, LeaseKeeper
from one_api.cache.leased_call import LeasedCall
from one_api.cache.policy import CacheDirectives, CachePolicy, cache_control, may_be_kept
from one_api.cache.single_flight import Flight, Flights, SharedCall, Source
from one_api.cache.stores import AnswerStore, MemoryAnswers
from one_api.config import Config
from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.split import chunks_of
from one_api.observability.records import CallRecord, current_call
from one_api.routing.deployment import Deployment
from one_api.routing.selection import Route
from one_api.settings.sections import GroupCacheConfig

logger = logging.getLogger(__name__)

Answer: TypeAlias = JSONObject | ChunkStream
#: Has a request answered by the deployments of a route.
Ask: TypeAlias = Callable[[Route, ChatRequest], Awaitable[Answer]]


class Replay(ChunkStream):
    """A cached answer as a stream: one batch holds all chunks."""

    def __init__(self, answer: JSONObject, *, include_usage: bool) -> None:
        self._chunks = chunks_of(answer, include_usage=include_usage)

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks, self._chunks, self.ended = self._chunks, [], True
        return chunks

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self._chunks, self.ended = [], True


class Answers:
    """Runs before the attempt loop: caches its answers, and lets identical requests share them.

    ``leases`` lets processes share calls; None shares them in this process only.
    """

    def __init__(
        self,
        config: Config,
        ask: Ask,
        store: AnswerStore,
        leases: LeaseKeeper | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ask = ask
        self.leases = leases
        self.now = now
        self.join_wait_s = config.cache.join_wait_s
        self._common = CachePolicy.of(config.cache, GroupCacheConfig())
        self._own = {name: CachePolicy.of(config.cache, group.cache) for name, group in config.model_groups.items()}
        #: The address of each adapter's upstream: another address may give other answers.
        self._addresses = {name: str(getattr(settings, "base_url", "")) for name, settings in config.adapters.items()}
        #: Adapters whose streams have usage only if the client asks for it.
        self._without_usage = {
            name for name, settings in config.adapters.items() if not getattr(settings, "stream_usage", True)
        }
        self.max_bytes = config.cache.max_answer_bytes
        self._store = store
        self._flights = Flights(self.max_bytes)

    async def run(self, route: Route, asked: ChatRequest) -> Answer:
        """Return an answer to ``asked``, and write to the current call's record where it came from.

        Raises:
            GatewayError: what asking raises.
        """
        policy, record = self._own.get(route.model, self._common), current_call.get()
        if not policy.enabled or record is None or (policy.scope == "key" and record.caller is None):
            return await self.ask(route, asked)
        directives = CacheDirectives.read(cache_control.get())
        if directives.no_store:
            record.cache = "bypass"
            return await self.ask(route, asked)
        key = key_of(record.caller if policy.scope == "key" else None, self._fingerprint(route), asked.body)
        return await self._answer(CacheRequest(key, policy, directives, route, asked, record))

    async def _answer(self, request: "CacheRequest") -> Answer:
        """Join a running call, or use the cached answer, or ask."""
        record, wants_usage = request.record, request.wants_usage
        with_usage = wants_usage or not any(
            each.adapter_name in self._without_usage for each in _deployments(request.route)
        )
        key = (request.key, request.streams, with_usage) if request.joins else None
        subscriber = self._flights.join(key, record, include_usage=wants_usage)
        if subscriber is None and not request.directives.no_cache:
            if (entry := await self._find(request)) is not None:
                return request.served(entry, "hit", self.now())
            # Another request may have started a call while the store was asked.
            subscriber = self._flights.join(key, record, include_usage=wants_usage)
        if subscriber is not None:
            record.cache, record.free = "joined", True
            return await subscriber.answer()
        record.cache = "bypass" if request.directives.no_cache else "miss"
        call = _UpstreamCall(self, request, with_usage=with_usage)
        return await self._flights.begin(call, record, include_usage=wants_usage, key=key).answer()

    def _fingerprint(self, route: Route) -> RouteFingerprint:
        deployments = [(each.name, self._addresses.get(each.adapter_name, "")) for each in _deployments(route)]
        return RouteFingerprint(route.model, deployments, len(route.targets))

    async def _find(self, request: "CacheRequest") -> Entry | None:
        """Return the cached entry, unless it is too old for the request; an invalid entry is deleted."""
        data = await self._store.get(request.key)
        if data is None:
            return None
        try:
            entry = Entry.decode(request.key, data)
        except InvalidEntry as error:
            logger.warning("an answer in the cache cannot be used, and is deleted: %s", error)
            await self._store.delete(request.key)
            return None
        return entry if request.accepts(entry, self.now()) else None

    async def keep(self, request: "CacheRequest", answer: JSONObject, source: Source) -> bool:
        """Cache an answer if it is usable and not too large; return whether it was cached."""
        if not may_be_kept(answer, tool_calls=request.policy.store_tool_calls):
            return False
        value = Entry(answer, self.now(), source.deployment, list(source.warnings)).encode(request.key)
        if len(value) > self.max_bytes:
            return False
        await self._store.put(request.key, value, request.policy.ttl_s)
        return True

    @property
    def degraded(self) -> str | None:
        """Return why the store works only in part; None when it is healthy."""
        return self._store.degraded

    @property
    def store(self) -> AnswerStore:
        """Return where answers are kept."""
        return self._store

    async def let_go(self) -> None:
        """End the calls under way; the store goes on with those that stand in place of these."""
        await self._flights.aclose()

    async def aclose(self) -> None:
        """End the running calls, and close the store."""
        await self._flights.aclose()
        await self._store.aclose()


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """One request, with its cache policy and directives."""

    key: bytes
    policy: CachePolicy
    directives: CacheDirectives
    route: Route
    asked: ChatRequest
    record: CallRecord

    @property
    def streams(self) -> bool:
        """Return whether the client wants a stream."""
        return self.asked.stream

    @property
    def wants_usage(self) -> bool:
        """Return whether the client wants the usage chunk of a stream."""
        return self.asked.include_usage

    @property
    def joins(self) -> bool:
        """Return whether it may share a call with other requests."""
        return self.policy.single_flight and not self.directives.no_cache

    def accepts(self, entry: Entry, now: float) -> bool:
        """Return whether a cached answer is young enough at Unix time ``now``."""
        age_s, max_age_s = entry.age_s(now), self.directives.max_age_s
        return age_s < self.policy.ttl_s and (max_age_s is None or age_s <= max_age_s)

    def served(self, entry: Entry, where_from: str, now: float) -> Answer:
        """Return a cached answer in the requested form, and record that it costs nothing."""
        record = self.record
        record.cache, record.free = where_from, True
        record.cache_age_s = entry.age_s(now) if where_from == "hit" else None
        record.deployment = entry.deployment
        record.warnings += entry.warnings
        return Replay(entry.answer, include_usage=self.wants_usage) if self.streams else entry.answer


class _UpstreamCall(SharedCall):
    """One request to upstreams, for all requests that share it."""

    def __init__(self, answers: Answers, request: CacheRequest, *, with_usage: bool) -> None:
        self._answers = answers
        self._request = request
        self._asked = request.asked
        if request.streams and with_usage and not request.wants_usage:
            # Another request may want usage, and a cached answer has it. It is removed for clients that do not want it.
            body = request.asked.body
            options = {**(body.get("stream_options") or {}), "include_usage": True}
            self._asked = ChatRequest.of(body | {"stream_options": options})
        leases = answers.leases if request.joins else None
        form = ("usage" if with_usage else "stream") if request.streams else "whole"
        shared = CallKey(request.key, form)
        self._leased_call = (
            LeasedCall(leases, shared, answers.join_wait_s, answers.max_bytes) if leases is not None else None
        )
        #: The answer is in the store; this or another process put it there.
        self._kept = False

    async def ask(self, flight: Flight) -> Answer:
        """See ``SharedCall``. If another process already asks the same, its answer is followed or awaited."""
        found = await self._leased_call.acquire_or_follow(flight) if self._leased_call is not None else None
        if isinstance(found, FollowedStream):
            return self._followed(found)
        if found is not None and (entry := self._read(found)) is not None:
            self._kept = self.free = True
            record = current_call.get() or self._request.record
            led = replace(self._request, record=record, asked=self._asked)
            return led.served(entry, "joined", self._answers.now())
        return await self._answers.ask(self._request.route, self._asked)

    def _followed(self, followed: FollowedStream) -> Answer:
        """Return the answer that another process receives, and record that it costs nothing here."""
        self._kept = self.free = True
        record, segment = current_call.get() or self._request.record, followed.segment
        record.cache, record.free = "joined", True
        record.deployment = segment.deployment
        record.warnings += segment.warnings
        return segment.whole if segment.whole is not None else followed

    def _read(self, data: bytes) -> Entry | None:
        """Return the answer that another process has cached, if it can be used."""
        try:
            entry = Entry.decode(self._request.key, data)
        except InvalidEntry:
            return None
        return entry if self._request.accepts(entry, self._answers.now()) else None

    async def keep(self, answer: JSONObject, source: Source) -> None:
        """See ``SharedCall``. The answer of a fallback is not cached: the requested model may soon be back."""
        request = self._request
        as_asked = any(target.name == source.deployment for target in request.route.targets)
        # A whole answer made from a stream without usage would lack it.
        whole = not request.streams or "usage" in answer
        if not self._kept and as_asked and whole:
            self._kept = await self._answers.keep(request, answer, source)

    async def aclose(self, *, complete: bool) -> None:
        """See ``SharedCall``."""
        if self._leased_call is not None:
            await self._leased_call.release(unkept=complete and not self._kept)


def _deployments(route: Route) -> tuple[Deployment, ...]:
    return (*route.targets, *route.fallbacks)


def build_answers(config: Config, ask: Ask, before: Answers | None = None) -> Answers | None:
    """Return the cache before ``ask``; None if no model caches answers, and none did ``before``.

    The store of ``before`` is used on.
    """
    if before is not None:
        if isinstance(before.store, MemoryAnswers):
            before.store.max_bytes = config.cache.max_bytes
        return Answers(config, ask, before.store, before.leases)
    if not config.cache.enabled and not any(group.cache.enabled for group in config.model_groups.values()):
        return None
    if config.cache.storage == "memory":
        return Answers(config, ask, MemoryAnswers(config.cache.max_bytes))
    # Imported here, so that a gateway without Redis does not import its client.
    from one_api.cache.redis import RedisAnswers

    shared = RedisAnswers(config.cache.storage, config.cache.storage_timeout_s)
    return Answers(config, ask, shared, leases=shared)
