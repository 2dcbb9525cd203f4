"""Answers to chat requests: from the cache if possible, otherwise from upstreams."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from msgspec import Struct

from one_api.cache.entry import Entry, InvalidEntry
from one_api.cache.followed_stream import FollowedStream
from one_api.cache.keys import CacheRoute, key_of, key_of_large
from one_api.cache.lease import CallKey, LeaseKeeper
from one_api.cache.leased_call import LeasedCall
from one_api.cache.pending_keys import PendingKeys
from one_api.cache.policy import CacheDirectives, CachePolicy, may_be_kept
from one_api.cache.single_flight import Flight, Flights, SharedCall, Source
from one_api.cache.stores import AnswerStore, MemoryAnswers
from one_api.config import Config
from one_api.contract import ChunkStream, WholeChunks
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.split import chunks_of
from one_api.records import CallContext, CallRecord
from one_api.serving.fairness import in_turns
from one_api.settings.sections import GroupCacheConfig

logger = logging.getLogger(__name__)

Answer: TypeAlias = JSONObject | ChunkStream
#: Has a request answered by upstreams.
Ask: TypeAlias = Callable[[ChatRequest, CallContext], Awaitable[Answer]]


class Answers:
    """Runs before the attempt loop: caches its answers, and lets identical requests share them.

    ``leases`` lets processes share calls; None shares them in this process only.
    """

    def __init__(
        self,
        config: Config,
        store: AnswerStore,
        leases: LeaseKeeper | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.leases = leases
        self.now = now
        self.join_wait_s = config.cache.join_wait_s
        self._common = CachePolicy.of(config.cache, GroupCacheConfig())
        self._own = {name: CachePolicy.of(config.cache, group.cache) for name, group in config.model_groups.items()}
        self.max_bytes = config.cache.max_answer_bytes
        self.store = store
        self._flights = Flights(self.max_bytes)
        #: Vectors and rankings that this process is asking for.
        self.pending = PendingKeys()

    async def run(
        self, route: CacheRoute, asked: ChatRequest, context: CallContext, ask: Ask, *, encoded: bool = False
    ) -> Any:
        """Return an answer to ``asked``, and write to the call's record where it came from.

        ``ask`` has it answered by upstreams, if there is no other answer. Where that is wanted, a whole one that
        is kept is returned ``encoded`` as it is.

        Raises:
            GatewayError: what asking raises.
        """
        rules = self.rules(route, context)
        if rules is None:
            return await ask(asked, context)
        key = await rules.key(asked.body, is_short=context.is_short)
        return await self._answer(CacheRequest(key, rules, asked, context, encoded), ask)

    def rules(self, route: CacheRoute, context: CallContext) -> "CacheRules | None":
        """Return the rules by which answers to a request are kept; None, and a note in its record, when none is."""
        policy, caller = self._own.get(route.model, self._common), context.caller
        if not policy.enabled or (policy.scope == "key" and caller is None):
            return None
        directives = CacheDirectives.read(context.cache_control)
        if directives.no_store:
            context.record.cache = "bypass"
            return None
        scope = caller.name if caller is not None and policy.scope == "key" else None
        return CacheRules(scope, route, policy, directives)

    async def _answer(self, request: "CacheRequest", ask: Ask) -> Any:
        """Join a running call, or use the cached answer, or ask."""
        record, wants_usage = request.context.record, request.asked.include_usage
        with_usage = wants_usage or request.rules.route.streams_usage
        key = (request.key, request.asked.stream, with_usage) if request.rules.may_share else None
        subscriber = self._flights.join(key, request.context, include_usage=wants_usage)
        if subscriber is None and not request.rules.directives.no_cache:
            if (found := await self._find(request)) is not None:
                return found
            # Another request may have started a call while the store was asked.
            subscriber = self._flights.join(key, request.context, include_usage=wants_usage)
        if subscriber is not None:
            record.cache, record.free = "joined", True
            return await subscriber.answer()
        record.cache = "bypass" if request.rules.directives.no_cache else "miss"
        call = _UpstreamCall(self, request, ask, with_usage=with_usage)
        return await self._flights.begin(call, request.context, include_usage=wants_usage, key=key).answer()

    async def _find(self, request: "CacheRequest") -> Any:
        """Return the cached answer, unless it is too old for the request; an invalid entry is deleted."""
        asked = time.monotonic()
        data = await self.store.get(request.key)
        request.context.record.waited_s += time.monotonic() - asked
        if data is None:
            return None
        try:
            return request.served(Entry.decode(request.key, data), "hit", self.now(), request.context.record)
        except InvalidEntry as error:
            logger.warning("an answer in the cache cannot be used, and is deleted: %s", error)
            await self.store.delete(request.key)
            return None

    async def keep(self, request: "CacheRequest", answer: JSONObject, source: Source) -> bool:
        """Cache an answer if it is usable and not too large; return whether it was cached."""
        if not may_be_kept(answer, tool_calls=request.rules.policy.store_tool_calls):
            return False
        value = Entry.of(answer, self.now(), source.deployment, list(source.warnings)).encode(request.key)
        if len(value) > self.max_bytes:
            return False
        await self.store.put(request.key, value, request.rules.policy.ttl_s)
        return True

    async def let_go(self) -> None:
        """End the calls under way; the store goes on with those that stand in place of these."""
        await self._flights.aclose()

    async def aclose(self) -> None:
        """End the running calls, and close the store."""
        await self._flights.aclose()
        await self.store.aclose()


class CacheRules(Struct, frozen=True):
    """By which rules the answers to a request are kept: its caller's scope, route, policy and directives."""

    scope: str | None
    route: CacheRoute
    policy: CachePolicy
    directives: CacheDirectives

    @property
    def may_share(self) -> bool:
        """Return whether a request may share a call with others."""
        return self.policy.single_flight and not self.directives.no_cache

    async def key(self, body: JSONObject, *, is_short: bool = False) -> bytes:
        """Return the key of the answer to ``body``; others have the loop meanwhile, unless it ``is_short``."""
        if is_short:
            return key_of(self.scope, self.route, body)
        return await in_turns(key_of_large(self.scope, self.route, body))

    def accepts(self, stored_at: float, now: float) -> bool:
        """Return whether what was kept at ``stored_at`` is young enough at ``now``, in Unix seconds."""
        age_s, max_age_s = max(0, int(now - stored_at)), self.directives.max_age_s
        return age_s < self.policy.ttl_s and (max_age_s is None or age_s <= max_age_s)


class CacheRequest(Struct, frozen=True):
    """One request for a chat, with the rules of the cache."""

    key: bytes
    rules: CacheRules
    asked: ChatRequest
    context: CallContext
    #: A whole answer is wanted as it is kept.
    encoded: bool = False

    def served(self, entry: Entry, where_from: str, now: float, record: CallRecord) -> Any:
        """Return a cached answer in the requested form, and note in ``record`` that it costs nothing.

        None when it is not young enough at Unix time ``now``. Raises InvalidEntry.
        """
        if not self.rules.accepts(entry.stored_at, now):
            return None
        answer: Any = entry.encoded if self.encoded and not self.asked.stream else entry.answer
        record.cache, record.free = where_from, True
        record.cache_age_s = entry.age_s(now) if where_from == "hit" else None
        record.deployment = entry.deployment
        record.warnings += entry.warnings
        if self.asked.stream:
            return WholeChunks(chunks_of(answer, include_usage=self.asked.include_usage))
        return answer


class _UpstreamCall(SharedCall):
    """One request to upstreams, for all requests that share it."""

    def __init__(self, answers: Answers, request: CacheRequest, ask: Ask, *, with_usage: bool) -> None:
        self._answers = answers
        self._ask = ask
        self._request = request
        self._asked = request.asked
        if request.asked.stream and with_usage and not request.asked.include_usage:
            # Another request may want usage, and a cached answer has it. It is removed for clients that do not want it.
            body = request.asked.body
            options = {**(body.get("stream_options") or {}), "include_usage": True}
            self._asked = ChatRequest.of(body | {"stream_options": options})
        leases = answers.leases if request.rules.may_share else None
        form = ("usage" if with_usage else "stream") if request.asked.stream else "whole"
        shared = CallKey(request.key, form)
        self._leased_call = (
            LeasedCall(leases, shared, answers.join_wait_s, answers.max_bytes) if leases is not None else None
        )
        #: The answer is in the store; this or another process put it there.
        self._kept = False

    async def ask(self, flight: Flight, context: CallContext) -> Answer:
        """See ``SharedCall``. If another process already asks the same, its answer is followed or awaited."""
        found = await self._leased_call.acquire_or_follow(flight) if self._leased_call is not None else None
        if isinstance(found, FollowedStream):
            return self._followed(found, context.record)
        if found is not None and (answer := self._served(found, context.record)) is not None:
            self._kept = self.free = True
            return answer
        return await self._ask(self._asked, context)

    def _followed(self, followed: FollowedStream, record: CallRecord) -> Answer:
        """Return the answer that another process receives, and record that it costs nothing here."""
        self._kept = self.free = True
        segment = followed.segment
        record.cache, record.free = "joined", True
        record.deployment = segment.deployment
        record.warnings += segment.warnings
        return segment.whole if segment.whole is not None else followed

    def _served(self, data: bytes, record: CallRecord) -> Answer | None:
        """Return the answer that another process has cached, if it can be used."""
        request = self._request
        led = CacheRequest(request.key, request.rules, self._asked, request.context)
        try:
            answer: Answer | None = led.served(Entry.decode(request.key, data), "joined", self._answers.now(), record)
        except InvalidEntry:
            return None
        return answer

    async def keep(self, answer: JSONObject, source: Source) -> None:
        """See ``SharedCall``. The answer of a fallback is not cached: the requested model may soon be back."""
        request = self._request
        # A whole answer made from a stream without usage would lack it.
        whole = not request.asked.stream or "usage" in answer
        if not self._kept and whole and request.rules.route.is_target(source.deployment):
            self._kept = await self._answers.keep(request, answer, source)

    async def aclose(self, *, complete: bool) -> None:
        """See ``SharedCall``."""
        if self._leased_call is not None:
            await self._leased_call.release(unkept=complete and not self._kept)


def build_answers(config: Config, before: Answers | None = None) -> Answers | None:
    """Return the cache; None if no model caches answers, and none did ``before``.

    The store of ``before`` is used on.
    """
    if before is not None:
        if isinstance(before.store, MemoryAnswers):
            before.store.entries.max_bytes = config.cache.max_bytes
        return Answers(config, before.store, before.leases)
    if not config.cache.enabled and not any(group.cache.enabled for group in config.model_groups.values()):
        return None
    if config.cache.storage == "memory":
        return Answers(config, MemoryAnswers(config.cache.max_bytes))
    # Imported here, so that a gateway without Redis does not import its client.
    from one_api.cache.redis import RedisAnswers

    shared = RedisAnswers(config.cache.storage, config.cache.storage_timeout_s)
    return Answers(config, shared, leases=shared)
