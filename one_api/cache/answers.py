"""Answers to chat requests, from the cache where they can be had, and from upstreams where not."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from one_api.cache.entry import Entry, InvalidEntry
from one_api.cache.flight import Call, Flights, Source
from one_api.cache.keys import Place, key_of
from one_api.cache.policy import Policy, Wish, cache_control, may_be_kept
from one_api.cache.stores import AnswerStore, MemoryAnswers
from one_api.config import Config
from one_api.models.adapters.base import ChunkStream
from one_api.models.deployment import Deployment
from one_api.models.routing import Route
from one_api.settings import GroupCacheConfig
from one_api.telemetry import CallRecord, current_call
from one_api.wire.json import JSONObject
from one_api.wire.replay import chunks_of

logger = logging.getLogger(__name__)

Answer: TypeAlias = JSONObject | ChunkStream
#: Has a request answered by the deployments of a route.
Ask: TypeAlias = Callable[[Route, JSONObject], Awaitable[Answer]]


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
    """Stands before the attempt loop: keeps its answers, and lets identical requests share them."""

    def __init__(self, config: Config, ask: Ask, store: AnswerStore, now: Callable[[], float] = time.time) -> None:
        self.ask = ask
        self._common = Policy.of(config.cache, GroupCacheConfig())
        self._own = {name: Policy.of(config.cache, group.cache) for name, group in config.model_groups.items()}
        #: Where each adapter's upstream is: another address may give other answers.
        self._addresses = {name: str(getattr(settings, "base_url", "")) for name, settings in config.adapters.items()}
        #: Adapters that must not be asked for usage in a stream unless the client does.
        self._reticent = {
            name for name, settings in config.adapters.items() if not getattr(settings, "stream_usage", True)
        }
        self._most_bytes = config.cache.max_answer_bytes
        self._store = store
        self._flights = Flights(self._most_bytes)
        self._now = now

    async def run(self, route: Route, body: JSONObject) -> Answer:
        """Return an answer to ``body``, and note in the current call's record where it came from.

        Raises:
            GatewayError: what asking raises.
        """
        policy, record = self._own.get(route.model, self._common), current_call.get()
        if not policy.enabled or record is None or (policy.scope == "key" and record.caller is None):
            return await self.ask(route, body)
        wish = Wish.read(cache_control.get())
        if wish.no_store:
            record.cache = "bypass"
            return await self.ask(route, body)
        key = key_of(record.caller if policy.scope == "key" else None, self._place(route), body)
        options = body.get("stream_options") or {}
        wants_usage = bool(options.get("include_usage"))
        with_usage = wants_usage or not any(each.adapter_name in self._reticent for each in _deployments(route))
        flight_key = (key, bool(body.get("stream")), with_usage)
        alone = wish.no_cache or not policy.single_flight
        if not alone and (seat := self._flights.join(flight_key, record, include_usage=wants_usage)):
            record.cache, record.free = "joined", True
            return await seat.answer()
        if not wish.no_cache and (entry := await self.find(key, policy, wish)) is not None:
            note(entry, record, "hit", self._now())
            return Replay(entry.answer, include_usage=wants_usage) if body.get("stream") else entry.answer
        record.cache = "bypass" if wish.no_cache else "miss"
        if body.get("stream") and with_usage:
            # Somebody may want usage, and what is kept has it; those who do not want it are not told.
            body = body | {"stream_options": {**options, "include_usage": True}}
        call = _Asking(self, key, policy, route, body)
        seat = self._flights.begin(call, record, include_usage=wants_usage, key=None if alone else flight_key)
        return await seat.answer()

    def _place(self, route: Route) -> Place:
        deployments = [(each.name, self._addresses.get(each.adapter_name, "")) for each in _deployments(route)]
        return Place(route.model, deployments, len(route.targets))

    async def find(self, key: bytes, policy: Policy, wish: Wish) -> Entry | None:
        """Return what is kept under ``key``, unless it is older than policy or request allow, or garbage."""
        data = await self._store.get(key)
        if data is None:
            return None
        try:
            entry = Entry.decode(key, data)
        except InvalidEntry as error:
            logger.warning("an answer in the cache cannot be used, and is deleted: %s", error)
            await self._store.delete(key)
            return None
        age_s = entry.age_s(self._now())
        fresh = age_s < policy.ttl_s and (wish.max_age_s is None or age_s <= wish.max_age_s)
        return entry if fresh else None

    async def keep(self, key: bytes, policy: Policy, answer: JSONObject, source: Source) -> bool:
        """Keep an answer if it is good and not too large; says whether it was."""
        if not may_be_kept(answer, tool_calls=policy.store_tool_calls):
            return False
        value = Entry(answer, self._now(), source.deployment, list(source.warnings)).encode(key)
        if len(value) > self._most_bytes:
            return False
        await self._store.put(key, value, policy.ttl_s)
        return True

    async def aclose(self) -> None:
        """End the calls under way, and close the store."""
        await self._flights.aclose()
        await self._store.aclose()


class _Asking(Call):
    """One request to upstreams, on behalf of all who share it."""

    def __init__(self, answers: Answers, key: bytes, policy: Policy, route: Route, body: JSONObject) -> None:
        self._answers = answers
        self._key = key
        self._policy = policy
        self._route = route
        self._body = body

    async def ask(self) -> Answer:
        """See ``Call``."""
        return await self._answers.ask(self._route, self._body)

    async def keep(self, answer: JSONObject, source: Source) -> None:
        """See ``Call``. What a fallback said is not kept: the model that was asked for may be back in a moment."""
        if self._body.get("stream") and "usage" not in answer:
            return  # as a whole answer it would be short of it
        if any(target.name == source.deployment for target in self._route.targets):
            await self._answers.keep(self._key, self._policy, answer, source)

    async def aclose(self, *, complete: bool) -> None:
        """See ``Call``."""


def _deployments(route: Route) -> tuple[Deployment, ...]:
    return (*route.targets, *route.fallbacks)


def note(entry: Entry, record: CallRecord, where_from: str, now: float) -> None:
    """Write down that a request was answered by ``entry``, and costs nothing."""
    record.cache, record.free = where_from, True
    record.cache_age_s = entry.age_s(now)
    record.deployment = entry.deployment
    record.warnings += entry.warnings


def build_answers(config: Config, ask: Ask) -> Answers | None:
    """Return what stands before ``ask``; None when no model keeps answers."""
    if not config.cache.enabled and not any(group.cache.enabled for group in config.model_groups.values()):
        return None
    return Answers(config, ask, MemoryAnswers(config.cache.max_bytes))
