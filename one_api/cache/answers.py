"""Answers to chat requests, from the cache where they can be had, and from upstreams where not."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from one_api.cache.claim import Claim
from one_api.cache.entry import Entry, InvalidEntry
from one_api.cache.flight import Call, Flight, Flights, Source
from one_api.cache.keys import Place, key_of
from one_api.cache.lease import LeaseKeeper, Shared
from one_api.cache.policy import Policy, Wish, cache_control, may_be_kept
from one_api.cache.stores import AnswerStore, MemoryAnswers
from one_api.cache.tail import Tail
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
    """A kept answer as a stream: all of it is there at once."""

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
    """Stands before the attempt loop: keeps its answers, and lets identical requests share them.

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
        self._common = Policy.of(config.cache, GroupCacheConfig())
        self._own = {name: Policy.of(config.cache, group.cache) for name, group in config.model_groups.items()}
        #: Where each adapter's upstream is: another address may give other answers.
        self._addresses = {name: str(getattr(settings, "base_url", "")) for name, settings in config.adapters.items()}
        #: Adapters that must not be asked for usage in a stream unless the client does.
        self._reticent = {
            name for name, settings in config.adapters.items() if not getattr(settings, "stream_usage", True)
        }
        self.most_bytes = config.cache.max_answer_bytes
        self._store = store
        self._flights = Flights(self.most_bytes)

    async def run(self, route: Route, asked: ChatRequest) -> Answer:
        """Return an answer to ``asked``, and note in the current call's record where it came from.

        Raises:
            GatewayError: what asking raises.
        """
        policy, record = self._own.get(route.model, self._common), current_call.get()
        if not policy.enabled or record is None or (policy.scope == "key" and record.caller is None):
            return await self.ask(route, asked)
        wish = Wish.read(cache_control.get())
        if wish.no_store:
            record.cache = "bypass"
            return await self.ask(route, asked)
        key = key_of(record.caller if policy.scope == "key" else None, self._place(route), asked.body)
        return await self._answer(Request(key, policy, wish, route, asked, record))

    async def _answer(self, request: "Request") -> Answer:
        """Take part in a call under way, or use what is kept, or ask."""
        record, wants_usage = request.record, request.wants_usage
        with_usage = wants_usage or not any(each.adapter_name in self._reticent for each in _deployments(request.route))
        key = (request.key, request.streams, with_usage) if request.joins else None
        seat = self._flights.join(key, record, include_usage=wants_usage)
        if seat is None and not request.wish.no_cache:
            if (entry := await self._find(request)) is not None:
                return request.served(entry, "hit", self.now())
            # Somebody has perhaps begun while the store was asked.
            seat = self._flights.join(key, record, include_usage=wants_usage)
        if seat is not None:
            record.cache, record.free = "joined", True
            return await seat.answer()
        record.cache = "bypass" if request.wish.no_cache else "miss"
        call = _Asking(self, request, with_usage=with_usage)
        return await self._flights.begin(call, record, include_usage=wants_usage, key=key).answer()

    def _place(self, route: Route) -> Place:
        deployments = [(each.name, self._addresses.get(each.adapter_name, "")) for each in _deployments(route)]
        return Place(route.model, deployments, len(route.targets))

    async def _find(self, request: "Request") -> Entry | None:
        """Return what is kept, unless it is too old for the request; garbage is deleted."""
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

    async def keep(self, request: "Request", answer: JSONObject, source: Source) -> bool:
        """Keep an answer if it is good and not too large; says whether it was."""
        if not may_be_kept(answer, tool_calls=request.policy.store_tool_calls):
            return False
        value = Entry(answer, self.now(), source.deployment, list(source.warnings)).encode(request.key)
        if len(value) > self.most_bytes:
            return False
        await self._store.put(request.key, value, request.policy.ttl_s)
        return True

    @property
    def degraded(self) -> str | None:
        """Say why less is kept than could be; None when all is well."""
        return self._store.degraded

    @property
    def store(self) -> AnswerStore:
        """Return where answers are kept."""
        return self._store

    async def let_go(self) -> None:
        """End the calls under way; the store goes on with those that stand in place of these."""
        await self._flights.aclose()

    async def aclose(self) -> None:
        """End the calls under way, and close the store."""
        await self._flights.aclose()
        await self._store.aclose()


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and what it may be answered with."""

    key: bytes
    policy: Policy
    wish: Wish
    route: Route
    asked: ChatRequest
    record: CallRecord

    @property
    def streams(self) -> bool:
        """Say whether it wants a stream."""
        return self.asked.stream

    @property
    def wants_usage(self) -> bool:
        """Say whether it wants the usage chunk of a stream."""
        return self.asked.include_usage

    @property
    def joins(self) -> bool:
        """Say whether it may share a call with others."""
        return self.policy.single_flight and not self.wish.no_cache

    def accepts(self, entry: Entry, now: float) -> bool:
        """Say whether a kept answer is young enough at Unix time ``now``."""
        age_s, max_age_s = entry.age_s(now), self.wish.max_age_s
        return age_s < self.policy.ttl_s and (max_age_s is None or age_s <= max_age_s)

    def served(self, entry: Entry, where_from: str, now: float) -> Answer:
        """Return a kept answer as it is wanted, and write down that it costs nothing."""
        record = self.record
        record.cache, record.free = where_from, True
        record.cache_age_s = entry.age_s(now) if where_from == "hit" else None
        record.deployment = entry.deployment
        record.warnings += entry.warnings
        return Replay(entry.answer, include_usage=self.wants_usage) if self.streams else entry.answer


class _Asking(Call):
    """One request to upstreams, on behalf of all who share it."""

    def __init__(self, answers: Answers, request: Request, *, with_usage: bool) -> None:
        self._answers = answers
        self._request = request
        self._asked = request.asked
        if request.streams and with_usage and not request.wants_usage:
            # Somebody may want usage, and what is kept has it; those who do not want it are not told.
            body = request.asked.body
            options = {**(body.get("stream_options") or {}), "include_usage": True}
            self._asked = ChatRequest.of(body | {"stream_options": options})
        leases = answers.leases if request.joins else None
        form = ("usage" if with_usage else "stream") if request.streams else "whole"
        shared = Shared(request.key, form)
        self._claim = Claim(leases, shared, answers.join_wait_s, answers.most_bytes) if leases is not None else None
        #: The answer is in the store, by us or by another process.
        self._kept = False

    async def ask(self, flight: Flight) -> Answer:
        """See ``Call``. Another process that asks the same already is listened to, or waited for."""
        found = await self._claim.win(flight) if self._claim is not None else None
        if isinstance(found, Tail):
            return self._followed(found)
        if found is not None and (entry := self._read(found)) is not None:
            self._kept = self.free = True
            record = current_call.get() or self._request.record
            led = replace(self._request, record=record, asked=self._asked)
            return led.served(entry, "joined", self._answers.now())
        return await self._answers.ask(self._request.route, self._asked)

    def _followed(self, tail: Tail) -> Answer:
        """Return what another process is getting, and write down that it costs nothing here."""
        self._kept = self.free = True
        record, part = current_call.get() or self._request.record, tail.part
        record.cache, record.free = "joined", True
        record.deployment = part.deployment
        record.warnings += part.warnings
        return part.whole if part.whole is not None else tail

    def _read(self, data: bytes) -> Entry | None:
        """Return what another process has kept, if it can be used."""
        try:
            entry = Entry.decode(self._request.key, data)
        except InvalidEntry:
            return None
        return entry if self._request.accepts(entry, self._answers.now()) else None

    async def keep(self, answer: JSONObject, source: Source) -> None:
        """See ``Call``. What a fallback said is not kept: the model that was asked for may be back in a moment."""
        request = self._request
        as_asked = any(target.name == source.deployment for target in request.route.targets)
        # A stream without usage would be short of it as a whole answer.
        whole = not request.streams or "usage" in answer
        if not self._kept and as_asked and whole:
            self._kept = await self._answers.keep(request, answer, source)

    async def aclose(self, *, complete: bool) -> None:
        """See ``Call``."""
        if self._claim is not None:
            await self._claim.release(unkept=complete and not self._kept)


def _deployments(route: Route) -> tuple[Deployment, ...]:
    return (*route.targets, *route.fallbacks)


def build_answers(config: Config, ask: Ask, before: Answers | None = None) -> Answers | None:
    """Return what stands before ``ask``; None when no model keeps answers, and none did ``before``.

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
    # Only here, so that a gateway without Redis imports nothing of its client.
    from one_api.cache.redis import RedisAnswers

    shared = RedisAnswers(config.cache.storage, config.cache.storage_timeout_s)
    return Answers(config, ask, shared, leases=shared)
