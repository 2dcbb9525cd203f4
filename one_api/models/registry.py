"""Which models there are and where they lead: the one resolver behind the model list and every chat request."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, cast, overload

from one_api.cache.answers import Answers, build_answers
from one_api.cache.embeddings import KeptVectors
from one_api.cache.keys import CacheRoute
from one_api.cache.rerankings import KeptRerankings
from one_api.cache.stores import AnswerStore
from one_api.config import Config
from one_api.contract import ByteStream, Call, ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.embeddings import EmbeddingRequest
from one_api.dialects.openai.forwarded import ForwardRequest
from one_api.dialects.openai.text_completion import TextRequest
from one_api.errors import NoDeployment, UnknownModel
from one_api.models.adapters.base import BaseModelAdapter, model_of, models_of
from one_api.records import CallContext
from one_api.routing.attempt import RetryLimit
from one_api.routing.counting import count_tokens
from one_api.routing.deployment import Deployment
from one_api.routing.explain import explain
from one_api.routing.failover import Failover
from one_api.routing.health import Health
from one_api.routing.policy import Policy
from one_api.routing.selection import Route, candidates, choose
from one_api.routing.suited import SuitedRoutes, is_passed_through
from one_api.settings.adapters import Timeouts
from one_api.settings.changes import upstream_of
from one_api.settings.groups import expanded
from one_api.settings.sections import GroupConfig, targets
from one_api.upstream.scrubbing import Scrubber

#: By adapter, what identifies its upstream, and model.
Healths: TypeAlias = dict[tuple[str, object, str], Health]

#: How long an unknown id, or the model list, waits for the first answers of upstreams after the start, in seconds.
_SETTLE_S = 2.5


class ModelRegistry:
    """Keeps the adapters, resolves model ids, and has requests answered."""

    def __init__(self, config: Config, before: "ModelRegistry | None" = None) -> None:
        """``before`` is that of the configuration before this one, whose kept answers are used on."""
        self.adapters: dict[str, BaseModelAdapter] = {}
        self.model_groups: dict[str, GroupConfig] = expanded(config.model_groups, config.adapters)
        self._config = config
        #: By "adapter/upstream model"; bounded by what adapters list and groups name.
        self._deployments: dict[str, Deployment] = {}
        self._routes: dict[str, Route] = {}
        self._suited = SuitedRoutes()
        retry = config.retry
        self._failover = Failover(
            retry.max_attempts, RetryLimit(retry.budget, retry.min_concurrent), deadline_s=retry.deadline_s
        )
        #: Answers that are kept and shared; None when nothing of it is on.
        self._answers: Answers | None = build_answers(config, before._answers if before else None)
        #: How deployments have been doing, by adapter, what identifies its upstream, and model; bounded as above.
        self._healths: Healths = {}
        #: Adapters that were started by the registry before this one.
        self._adopted: set[str] = set()
        #: What is taken out of the texts of all upstreams.
        self.scrubber = Scrubber()
        self._rng = random.Random()
        self._started = False

    # The article's verbs

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
        return self._known(model).targets[0].adapter

    def select_adapter_with_load_balancing(self, model_group: str) -> BaseModelAdapter:
        """Choose among the deployments of a model id; raises UnknownModel, NoDeployment when all are full."""
        route = self._known(model_group)
        chosen = choose(candidates(route, (), time.monotonic()), route.strategy, route.turn, self._rng)
        route.turn += 1
        if chosen is None:
            raise NoDeployment(f"Every deployment of `{model_group}` is busy: try again in a moment.", retry_after_s=1)
        return chosen.deployment.adapter

    def explain(self, model: str, *, stream: bool) -> JSONObject:
        """Return how every deployment of a model looks now, see ``explain.explain``; raises UnknownModel."""
        return explain(self._known(model), stream)

    async def list_all_models(self) -> list[JSONObject]:
        """Return the entries of the ids that are listed; requests may name all of ``model_mapping``."""
        await self._settled()
        return [entry for model in self.listed if (entry := self._entry(model)) is not None]

    async def get_model(self, model: str) -> JSONObject:
        """Return one entry; raises UnknownModel."""
        await self._route(model)
        entry = self._entry(model)
        if entry is None:
            raise _unknown(model)
        return entry

    def deployments_of(self, model: str) -> list[str]:
        """Return the deployments that serve ``model``, as ``adapter/upstream model``, without those of fallbacks."""
        route = self._resolve(model)
        return [] if route is None else [each.name for each in route.targets]

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
        answer = cast(JSONObject, await self._answer(request, context))
        context.record.used(Usage.read(answer.get("usage")))
        return answer

    async def stream(self, request: ChatRequest | TextRequest, context: CallContext) -> ChunkStream:
        """Return the stream that ``request`` asks for, once its first content is there; raises as ``complete``.

        Its usage is not in the record: it is known when the stream has been read.
        """
        return cast(ChunkStream, await self._answer(request, context))

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        """See ``counting.count_tokens``; raises also UnknownModel and NoDeployment."""
        return await count_tokens(await self._route_for(request, context), request, context)

    async def _answer(self, request: ChatRequest | TextRequest, context: CallContext) -> JSONObject | ChunkStream:
        """Return a stream if ``request`` asks for one, else a completion."""
        route = await self._route_for(request, context)
        ask = partial(self._ask, route)
        if self._answers is None or not isinstance(request, ChatRequest) or is_passed_through(route, request):
            return cast("JSONObject | ChunkStream", await ask(request, context))
        return await self._answers.run(CacheRoute.of(route, self._config.adapters), request, context, ask)

    async def embed(self, request: EmbeddingRequest, context: CallContext) -> JSONObject:
        """Return the vectors that ``request`` asks for, see ``embeddings.answer_of``; raises as ``complete``."""
        answer: JSONObject = await self._kept(KeptVectors, request, context)
        context.record.used(Usage.read(answer.get("usage")))
        return answer

    async def forward(self, request: ForwardRequest, context: CallContext) -> ByteStream:
        """Return an upstream's own answer, once its first bytes are there: close it, and note its usage."""
        return cast(ByteStream, await self._kept(KeptRerankings, request, context))

    async def _kept(self, keeper: Callable[[Answers], Any], request: Call, context: CallContext) -> Any:
        """Return the answer to ``request``, which ``keeper`` keeps parts or all of."""
        route = await self._route_for(request, context)
        if self._answers is None:
            return await self._ask(route, request, context)
        known = CacheRoute.of(route, self._config.adapters)
        return await keeper(self._answers).run(known, request, context, partial(self._ask, route))

    async def _ask(self, route: Route, call: Call, context: CallContext) -> Any:
        """Return the answer of a deployment of ``route``: what ``call`` asks for is what it is."""
        ask = partial(self._failover.run, route, call, context)
        if context.within_budgets is None:
            return await ask()
        names = [each.name for each in (*route.targets, *route.fallbacks)]
        return await context.within_budgets.ask(call, names, ask)

    @property
    def model_mapping(self) -> dict[str, tuple[str, ...]]:
        """Return every public id with the deployments behind it: groups, plain ids, then "adapter/model"."""
        mapping: dict[str, tuple[str, ...]] = {
            name: tuple(target.model for target in targets(group.targets)) for name, group in self.model_groups.items()
        }
        qualified = {}
        for name, adapter in self.adapters.items():
            for info in models_of(adapter):
                full = f"{name}/{info.id}"
                qualified[full] = (full,)
                if info.id not in self.model_groups:
                    mapping[info.id] = (*mapping.get(info.id, ()), full)
        return mapping | {full: own for full, own in qualified.items() if full not in self.model_groups}

    @property
    def listed(self) -> list[str]:
        """Return the ids of the model list: every model once, unless ``models.list`` is all.

        "adapter/model" is left out where the plain id leads there; not where that is a group's name, or an address.
        """
        mapping = self.model_mapping
        if self._config.models.list == "all":
            return list(mapping)
        return [
            model
            for model in mapping
            if model in self.model_groups or model not in mapping.get(model.partition("/")[2], ())
        ]

    @property
    def adapter_metrics(self) -> dict[str, Health]:
        """Return the health of every deployment that was used."""
        return {name: each.health for name, each in self._deployments.items()}

    @property
    def deployments(self) -> Mapping[str, Deployment]:
        """Return every deployment that was used, by "adapter/upstream model"."""
        return self._deployments

    # Resolving

    async def _route_for(self, call: Call, context: CallContext) -> Route:
        """Return where ``call`` leads: to what serves its kind. Raises InvalidRequest when its model does not."""
        route = await self._route(call.model)
        context.record.known_model = route.model
        return self._suited.route(route, call.kind)

    async def _route(self, model: str) -> Route:
        """Return where ``model`` leads; right after the start it waits for upstreams to say what they have."""
        route = self._resolve(model)
        if route is None:
            await self._settled()
            route = self._resolve(model)
        if route is None and (waiting := self.pending):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
            raise NoDeployment(
                f"`{model}` is not known, and not every upstream could be asked. {reasons}", retry_after_s=5
            )
        if route is None:
            raise _unknown(model)
        return route

    def _known(self, model: str) -> Route:
        """Return where ``model`` leads; raises UnknownModel."""
        route = self._resolve(model)
        if route is None:
            raise _unknown(model)
        return route

    def _resolve(self, model: str) -> Route | None:
        group = self.model_groups.get(model)
        if group is not None:
            route = self._routes.get(model)
            if route is None:
                route = self._routes[model] = self._group_route(model, group)
            return route
        # An address comes before a plain id: what one upstream calls its models never diverts from another adapter.
        name, slash, upstream_model = model.partition("/")
        if slash and name in self.adapters and model_of(self.adapters[name], upstream_model) is not None:
            return Route(model, [self._deployment(name, upstream_model)])
        serving = [name for name, adapter in self.adapters.items() if model_of(adapter, model) is not None]
        return Route(model, [self._deployment(name, model) for name in serving]) if serving else None

    def _group_route(self, model: str, group: GroupConfig) -> Route:
        served, instead = (
            [self._deployment(*_split(target.model), target.weight) for target in targets(entries)]
            for entries in (group.targets, group.fallbacks)
        )
        return Route(model, served, instead, group.strategy, policy=Policy.of(group))

    def _deployment(self, adapter_name: str, model: str, weight: float | None = None) -> Deployment:
        """Return the one record of a deployment, made on first use. Weights of a group are its own."""
        key = f"{adapter_name}/{model}"
        known = self._deployments.get(key)
        settings = self._config.adapters.get(adapter_name)
        if known is None:
            timeouts: Timeouts | None = getattr(settings, "timeouts", None)
            known = self._deployments[key] = Deployment(
                adapter_name,
                self.adapters[adapter_name],
                model,
                weight=settings.weight if settings else 1.0,
                max_concurrency=getattr(settings, "max_concurrency", 1000),
                first_event_s=timeouts.first_event_s if timeouts else None,
                health=self._healths.setdefault((adapter_name, upstream_of(settings), model), Health(self._rng)),
            )
        if weight is None or weight == known.weight:
            return known
        return replace(known, weight=weight)

    def _entry(self, model: str) -> JSONObject | None:
        """Return the list entry of one id."""
        route = self._resolve(model)
        if route is None:
            return None
        infos = [model_of(each.adapter, each.model, each.adapter_name) for each in route.targets]
        info = next((info for info in infos if info is not None), None)
        if info is None:
            return {"id": model, "object": "model", "created": 0, "owned_by": route.targets[0].adapter_name}
        entry = info.to_openai(model)
        kinds = next((found for each in route.targets if (found := each.adapter.kinds_of(each.model))), None)
        return entry if kinds is None else entry | {"kinds": list(kinds)}

    # Life

    @property
    def pending(self) -> dict[str, str]:
        """Return the adapters whose models are not known yet, with the reason."""
        return {name: reason for name, adapter in self.adapters.items() if (reason := adapter.pending)}

    @property
    def unready(self) -> str | None:
        """Say why nothing can be served; None when something can."""
        if not self.adapters:
            return "no adapter is configured"
        if self.model_mapping:
            return None
        reasons = "; ".join(
            f"{name}: {adapter.pending or 'it lists no models'}" for name, adapter in self.adapters.items()
        )
        return f"no model can be served: {reasons}"

    @property
    def answer_store(self) -> AnswerStore | None:
        """Return where answers are kept; None when nothing is kept."""
        return self._answers.store if self._answers is not None else None

    @property
    def is_started(self) -> bool:
        """Say whether the adapters' background work was started."""
        return self._started

    def take_over(self, before: "ModelRegistry") -> None:
        """Keep how deployments have been doing whose upstream and credential are the same, and what is in flight."""
        upstreams = {(name, upstream_of(self._config.adapters.get(name))) for name in self.adapters}
        self._healths |= {key: health for key, health in before._healths.items() if key[:2] in upstreams}

    async def start(self) -> None:
        """Start the adapters' background work on this loop; does nothing the second time."""
        if not self._started:
            self._started = True
            new = [adapter for name, adapter in self.adapters.items() if name not in self._adopted]
            await asyncio.gather(*(adapter.start() for adapter in new))

    async def settle(self) -> None:
        """Start, and wait for a short time until every upstream has been asked once."""
        await self._settled()

    async def let_go(self, adapters: Collection[BaseModelAdapter]) -> None:
        """Close ``adapters``, which nothing else uses, and end the calls that requests of this registry shared."""
        if self._answers is not None:
            await self._answers.let_go()
        await asyncio.gather(*(adapter.aclose() for adapter in adapters))

    async def _settled(self) -> None:
        """Wait, for a short time after the start, until every upstream has been asked once."""
        await self.start()
        if self.pending:
            await self._each(lambda adapter: adapter.settled(_SETTLE_S))

    async def aclose(self) -> None:
        """End the calls that requests share, and close every adapter."""
        if self._answers is not None:
            await self._answers.aclose()
        await self._each(lambda adapter: adapter.aclose())

    async def _each(self, act: Callable[[BaseModelAdapter], Any]) -> None:
        await asyncio.gather(*(act(adapter) for adapter in self.adapters.values()))


def _unknown(model: str) -> UnknownModel:
    return UnknownModel(f"The model `{model[:256]}` does not exist here: GET /v1/models lists the ids.")


def _split(target: str) -> tuple[str, str]:
    """Split "adapter/upstream model" at the first slash."""
    adapter, _, model = target.partition("/")
    return adapter, model
