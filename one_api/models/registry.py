"""The adapters, and the way from a request to its answer: route, kept answers, failover."""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal, cast, overload

from one_api.cache.answers import Answers, build_answers
from one_api.cache.embeddings import KeptVectors
from one_api.cache.keys import CacheRoute
from one_api.cache.rerankings import KeptRerankings
from one_api.cache.stores import AnswerStore
from one_api.config import Config
from one_api.contract import ByteStream, Call, ChunkStream, Usage
from one_api.dialects.json import Encoded, JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.embeddings import EmbeddingRequest
from one_api.dialects.openai.passthrough import PassthroughRequest
from one_api.dialects.openai.text_completion import TextRequest
from one_api.errors import NoDeployment
from one_api.models.adapters.base import BaseModelAdapter
from one_api.records import CallContext
from one_api.routing.counting import count_tokens
from one_api.routing.explain import explain
from one_api.routing.failover import Failover
from one_api.routing.health import Health
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Route
from one_api.routing.routes import Routes, unknown_model
from one_api.routing.selection import candidates, choose
from one_api.routing.suited import SuitedRoutes, is_passed_through
from one_api.settings.sections import GroupConfig
from one_api.upstream.scrubbing import Scrubber

#: How long an unknown id, or the model list, waits for the first answers of upstreams after the start, in seconds.
_DISCOVERY_S = 2.5


class ModelRegistry:
    """Keeps the adapters, and has requests answered by the deployments that their models lead to."""

    def __init__(self, config: Config, before: "ModelRegistry | None" = None) -> None:
        """``before`` is that of the configuration before this one, whose kept answers are used on."""
        self.adapters: dict[str, BaseModelAdapter] = {}
        self._config = config
        self._rng = random.Random()
        #: Which models there are, and where they lead.
        self.routes = Routes(config, self.adapters, self._rng)
        self._suited = SuitedRoutes()
        retry = config.retry
        self._failover = Failover(
            retry.max_attempts, RetryLimit(retry.budget, retry.min_concurrent), deadline_s=retry.deadline_s
        )
        #: Answers that are kept and shared; None when nothing of it is on.
        self._answers: Answers | None = build_answers(config, before._answers if before else None)
        #: Adapters that were started by the registry before this one.
        self._adopted: set[str] = set()
        #: What is taken out of the texts of all upstreams.
        self.scrubber = Scrubber()
        self._started = False

    # Adapters and models; also for callers in Python

    def register_adapter(self, name: str, adapter: BaseModelAdapter) -> None:
        """Add an adapter under a name of its own."""
        if name in self.adapters:
            raise ValueError(f"an adapter named {name!r} is registered already")
        self.adapters[name] = adapter

    def adopt(self, name: str, adapter: BaseModelAdapter, before: "ModelRegistry") -> None:
        """Add an adapter that the registry before this one has already."""
        self.register_adapter(name, adapter)
        if before.is_started:
            self._adopted.add(name)

    def get_adapter_for_model(self, model: str) -> BaseModelAdapter:
        """Return the first adapter that serves ``model``; raises UnknownModel."""
        return self.routes.known(model).targets[0].adapter

    def select_adapter_with_load_balancing(self, model_group: str) -> BaseModelAdapter:
        """Choose among the deployments of a model id; raises UnknownModel, NoDeployment when all are full."""
        route = self.routes.known(model_group)
        chosen = choose(candidates(route, (), time.monotonic(), kind="chat"), route.strategy, route.turn, self._rng)
        route.turn += 1
        if chosen is None:
            raise NoDeployment(f"Every deployment of `{model_group}` is busy: try again in a moment.", retry_after_s=1)
        return chosen.deployment.adapter

    def explain(self, model: str, *, stream: bool) -> JSONObject:
        """Return how every deployment of a model looks now, see ``explain.explain``; raises UnknownModel."""
        return explain(self.routes.known(model), stream)

    async def list_all_models(self) -> list[JSONObject]:
        """Return the entries of the ids that are listed; requests may name all of ``model_mapping``."""
        await self.wait_discovered()
        return self.routes.entries()

    async def get_model(self, model: str) -> JSONObject:
        """Return one entry; raises UnknownModel."""
        await self._route(model)
        entry = self.routes.entry(model)
        if entry is None:
            raise unknown_model(model)
        return entry

    @overload
    async def generate_completion(
        self, /, model: str, messages: list[JSONObject], *, stream: Literal[True], **kwargs: Any
    ) -> ChunkStream: ...

    @overload
    async def generate_completion(
        self, /, model: str, messages: list[JSONObject], *, stream: Literal[False] | None = None, **kwargs: Any
    ) -> JSONObject: ...

    async def generate_completion(
        self, /, model: str, messages: list[JSONObject], *, stream: bool | None = None, **kwargs: Any
    ) -> JSONObject | ChunkStream:
        """Have ``model`` answer; ``kwargs`` are the other fields of an OpenAI chat request.

        For callers in Python; see ``complete`` and ``stream``, which the gateway itself calls.
        """
        given = {} if stream is None else {"stream": stream}
        request = ChatRequest.of({"model": model, "messages": messages, **given, **kwargs})
        context = CallContext()
        return await (self.stream(request, context) if stream else self.complete(request, context))

    async def complete(self, request: ChatRequest | TextRequest, context: CallContext) -> JSONObject:
        """Return the completion that ``request`` asks for; ``context`` gets the record of it.

        Raises:
            UnknownModel, NoDeployment, UpstreamError: see ``errors``.
        """
        answer: JSONObject = await self._answer(request, context)
        context.record.used(Usage.read(answer.get("usage")))
        return answer

    async def complete_encoded(self, request: ChatRequest, context: CallContext) -> JSONObject | Encoded:
        """Return what ``complete`` does, for a door that only sends it: an answer that was kept is not decoded."""
        answer: JSONObject | Encoded = await self._answer(request, context, encoded=True)
        is_new = isinstance(answer, dict) and not context.record.free
        context.record.used(Usage.read(cast(JSONObject, answer).get("usage")) if is_new else None)
        return answer

    async def stream(self, request: ChatRequest | TextRequest, context: CallContext) -> ChunkStream:
        """Return the stream that ``request`` asks for, once its first content is there; raises as ``complete``.

        Its usage is not in the record: it is known when the stream has been read.
        """
        opened: ChunkStream = await self._answer(request, context)
        return opened

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        """See ``counting.count_tokens``; raises also UnknownModel and NoDeployment."""
        return await count_tokens(await self._route_for(request, context), request, context)

    async def _answer(self, request: ChatRequest | TextRequest, context: CallContext, *, encoded: bool = False) -> Any:
        """Return a stream if ``request`` asks for one, else a completion."""
        route = await self._route_for(request, context)
        ask = partial(self._ask, route)
        if self._answers is None or not isinstance(request, ChatRequest) or is_passed_through(route, request):
            return await ask(request, context)
        cache_route = CacheRoute.of(route, self._config.adapters)
        return await self._answers.run(cache_route, request, context, ask, encoded=encoded)

    async def embed(self, request: EmbeddingRequest, context: CallContext) -> JSONObject:
        """Return the vectors that ``request`` asks for, see ``embeddings.answer_of``; raises as ``complete``."""
        answer: JSONObject = await self._kept(KeptVectors, request, context)
        context.record.used(Usage.read(answer.get("usage")))
        return answer

    async def forward(self, request: PassthroughRequest, context: CallContext) -> ByteStream:
        """Return an upstream's own answer, once its first bytes are there: close it, and note its usage."""
        return cast(ByteStream, await self._kept(KeptRerankings, request, context))

    async def _kept(self, keeper: Callable[[Answers], Any], request: Call, context: CallContext) -> Any:
        """Return the answer to ``request``, which ``keeper`` keeps parts or all of."""
        route = await self._route_for(request, context)
        if self._answers is None:
            return await self._ask(route, request, context)
        cache_route = CacheRoute.of(route, self._config.adapters)
        return await keeper(self._answers).run(cache_route, request, context, partial(self._ask, route))

    async def _ask(self, route: Route, call: Call, context: CallContext) -> Any:
        """Return the answer of a deployment of ``route``: what ``call`` asks for is what it is."""
        ask = partial(self._failover.run, route, call, context)
        if context.within_budgets is None:
            return await ask()
        names = [each.name for each in (*route.targets, *route.fallbacks)]
        return await context.within_budgets.ask(call, names, ask)

    # What there is

    @property
    def model_groups(self) -> dict[str, GroupConfig]:
        """Return the groups, by their ids."""
        return self.routes.model_groups

    @property
    def model_mapping(self) -> dict[str, tuple[str, ...]]:
        """See ``Routes.mapping``."""
        return self.routes.mapping

    @property
    def adapter_metrics(self) -> dict[str, Health]:
        """Return the health of every deployment that was used."""
        return {name: each.health for name, each in self.routes.deployments.items()}

    # Resolving

    async def _route_for(self, call: Call, context: CallContext) -> Route:
        """Return where ``call`` leads: to what serves its kind. Raises InvalidRequest when its model does not."""
        route = await self._route(call.model)
        context.record.known_model = route.model
        return self._suited.route(route, call.kind)

    async def _route(self, model: str) -> Route:
        """Return where ``model`` leads; right after the start it waits for upstreams to say what they have."""
        route = self.routes.resolve(model)
        if route is None:
            await self.wait_discovered()
            route = self.routes.resolve(model)
        if route is None and (waiting := self.pending):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
            raise NoDeployment(
                f"`{model}` is not known, and not every upstream could be asked. {reasons}", retry_after_s=5
            )
        if route is None:
            raise unknown_model(model)
        return route

    # Life

    @property
    def pending(self) -> dict[str, str]:
        """Return the adapters whose models are not known yet, with the reason."""
        return {name: reason for name, adapter in self.adapters.items() if (reason := adapter.pending)}

    @property
    def unready(self) -> str | None:
        """Return why nothing can be served; None when something can."""
        if not self.adapters:
            return "no adapter is configured"
        if self.routes.mapping:
            return None
        reasons = "; ".join(
            f"{name}: {adapter.pending or 'it lists no models'}" for name, adapter in self.adapters.items()
        )
        return f"no model can be served, see `one-api doctor`: {reasons}"

    @property
    def answer_store(self) -> AnswerStore | None:
        """Return where answers are kept; None when nothing is kept."""
        return self._answers.store if self._answers is not None else None

    @property
    def is_started(self) -> bool:
        """Return whether the adapters' background work was started."""
        return self._started

    async def start(self) -> None:
        """Start the adapters' background work on this loop; does nothing the second time."""
        if not self._started:
            self._started = True
            new = [adapter for name, adapter in self.adapters.items() if name not in self._adopted]
            await asyncio.gather(*(adapter.start() for adapter in new))

    async def let_go(self, adapters: Collection[BaseModelAdapter]) -> None:
        """Close ``adapters``, which nothing else uses, and end the calls that requests of this registry shared."""
        if self._answers is not None:
            await self._answers.let_go()
        await asyncio.gather(*(adapter.aclose() for adapter in adapters))

    async def wait_discovered(self) -> None:
        """Start, and wait for a short time until every upstream has been asked once."""
        await self.start()
        if self.pending:
            await self._each(lambda adapter: adapter.wait_discovered(_DISCOVERY_S))

    async def aclose(self) -> None:
        """End the calls that requests share, and close every adapter."""
        if self._answers is not None:
            await self._answers.aclose()
        await self._each(lambda adapter: adapter.aclose())

    async def _each(self, act: Callable[[BaseModelAdapter], Any]) -> None:
        await asyncio.gather(*(act(adapter) for adapter in self.adapters.values()))
