"""Which models there are and where they lead: the one resolver behind the model list and every request."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from one_api.config import Config
from one_api.contract import ModelInfo
from one_api.dialects.json import JSONObject
from one_api.errors import UnknownModel
from one_api.models.adapters.base import BaseModelAdapter, RequestAdapter, model_of, models_of
from one_api.routing.deployment import Deployment
from one_api.routing.health import Health
from one_api.routing.route import Policy, Route
from one_api.settings.adapters import Timeouts
from one_api.settings.changes import upstream_of
from one_api.settings.groups import expanded
from one_api.settings.sections import GroupConfig, targets

#: By adapter, what identifies its upstream, and model.
Healths: TypeAlias = dict[tuple[str, object, str], Health]


class Routes:
    """Resolves model ids to deployments, and keeps what is known of these."""

    def __init__(self, config: Config, adapters: Mapping[str, BaseModelAdapter], rng: random.Random) -> None:
        """``adapters`` by their names; more may come later."""
        self.model_groups: dict[str, GroupConfig] = expanded(config.model_groups, config.adapters)
        self._config = config
        self._adapters = adapters
        self._rng = rng
        #: By "adapter/upstream model"; bounded by what adapters list and groups name.
        self.deployments: dict[str, Deployment] = {}
        self._of_groups: dict[str, Route] = {}
        #: How deployments have been doing, by adapter, what identifies its upstream, and model; bounded as above.
        self._healths: Healths = {}
        #: The model list, and what of the adapters it was made of.
        self._entries: tuple[list[list[ModelInfo]], list[JSONObject]] = [], []

    def known(self, model: str) -> Route:
        """Return where ``model`` leads; raises UnknownModel."""
        route = self.resolve(model)
        if route is None:
            raise unknown_model(model)
        return route

    def resolve(self, model: str) -> Route | None:
        """Return where ``model`` leads; None when it is not known."""
        group = self.model_groups.get(model)
        if group is not None:
            route = self._of_groups.get(model)
            if route is None:
                route = self._of_groups[model] = self._group_route(model, group)
            return route
        # An address comes before a plain id: what one upstream calls its models never diverts from another adapter.
        name, slash, upstream_model = model.partition("/")
        if slash and name in self._adapters and model_of(self._adapters[name], upstream_model) is not None:
            return Route(model, [self._deployment(name, upstream_model)])
        serving = [name for name, adapter in self._adapters.items() if model_of(adapter, model) is not None]
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
        known = self.deployments.get(key)
        settings = self._config.adapters.get(adapter_name)
        if known is None:
            timeouts: Timeouts | None = getattr(settings, "timeouts", None)
            known = self.deployments[key] = Deployment(
                adapter_name,
                self._adapters[adapter_name],
                model,
                weight=settings.weight if settings else 1.0,
                max_concurrency=getattr(settings, "max_concurrency", 1000),
                first_event_s=timeouts.first_event_s if timeouts else None,
                health=self._healths.setdefault((adapter_name, upstream_of(settings), model), Health(self._rng)),
            )
        if weight is None or weight == known.weight:
            return known
        return replace(known, weight=weight)

    @property
    def mapping(self) -> dict[str, tuple[str, ...]]:
        """Return every public id with the deployments behind it: groups, plain ids, then "adapter/model"."""
        mapping: dict[str, tuple[str, ...]] = {
            name: tuple(target.model for target in targets(group.targets)) for name, group in self.model_groups.items()
        }
        qualified = {}
        for name, adapter in self._adapters.items():
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
        mapping = self.mapping
        if self._config.models.list == "all":
            return list(mapping)
        return [
            model
            for model in mapping
            if model in self.model_groups or model not in mapping.get(model.partition("/")[2], ())
        ]

    def entries(self) -> list[JSONObject]:
        """Return the entries of the ids that are listed: the same ones, as long as the adapters list the same models.

        What a foreign adapter says of one model may change without its list.
        """
        known = [models_of(adapter) for adapter in self._adapters.values()]
        if known != self._entries[0] or not all(isinstance(each, RequestAdapter) for each in self._adapters.values()):
            self._entries = known, [entry for model in self.listed if (entry := self.entry(model)) is not None]
        return self._entries[1]

    def deployments_of(self, model: str) -> list[str]:
        """Return the deployments that serve ``model``, as ``adapter/upstream model``, without those of fallbacks."""
        route = self.resolve(model)
        return [] if route is None else [each.name for each in route.targets]

    def entry(self, model: str) -> JSONObject | None:
        """Return the list entry of one id."""
        route = self.resolve(model)
        if route is None:
            return None
        infos = [model_of(each.adapter, each.model, each.adapter_name) for each in route.targets]
        info = next((info for info in infos if info is not None), None)
        if info is None:
            return {"id": model, "object": "model", "created": 0, "owned_by": route.targets[0].adapter_name}
        entry = info.to_openai(model)
        kinds = next((found for each in route.targets if (found := each.adapter.kinds_of(each.model))), None)
        return entry if kinds is None else entry | {"kinds": list(kinds)}

    def take_over(self, before: "Routes") -> None:
        """Keep how deployments have been doing whose upstream and credential are the same, and what is in flight."""
        upstreams = {(name, upstream_of(self._config.adapters.get(name))) for name in self._adapters}
        self._healths |= {key: health for key, health in before._healths.items() if key[:2] in upstreams}


def unknown_model(model: str) -> UnknownModel:
    """Return the error for an id that leads nowhere; of a long one the beginning is shown."""
    return UnknownModel(f"The model `{model[:256]}` does not exist here: GET /v1/models lists the ids.")


def _split(target: str) -> tuple[str, str]:
    """Split "adapter/upstream model" at the first slash."""
    adapter, _, model = target.partition("/")
    return adapter, model
