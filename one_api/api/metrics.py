"""``/metrics``, for Prometheus: what every process of this gateway has counted, gathered by the one that is scraped."""

import asyncio
import gzip
import time
from functools import partial

from flask import Blueprint, Response, request

from one_api.api.service import Service, service
from one_api.dialects.json import JSONObject
from one_api.models.adapters.base import model_of
from one_api.models.registry import ModelRegistry
from one_api.observability.metrics import Metrics, exposition
from one_api.observability.process import process_state
from one_api.routing.explain import state_of
from one_api.serving.responses import PlainResponse
from one_api.settings.sections import targets
from one_api.utils.auth import for_scrapers

metrics = Blueprint("metrics", __name__)

#: How long another process may take to answer, in seconds; one that takes longer is left out.
_ANSWER_S = 0.5
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: What a deployment can be in, see ``state_of``.
_STATES = ("closed", "open", "half-open", "probing", "ramping", "cooling-down", "full")


@metrics.get("/metrics")
@for_scrapers
async def scrape() -> Response:
    """Answer with the metrics of every process, in the text format of Prometheus."""
    parts = service()
    if parts.scrape is None or parts.scrape.done():  # those that come meanwhile get the same
        parts.scrape = asyncio.create_task(_gather(parts))
    text = await asyncio.shield(parts.scrape)
    headers = {"vary": "accept-encoding"}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        text = await asyncio.to_thread(partial(gzip.compress, text, 1))
        headers["content-encoding"] = "gzip"
    return PlainResponse(text, content_type=_TYPE, headers=headers)


async def _gather(parts: Service) -> bytes:
    """Return the text of all processes."""
    own, others = await asyncio.gather(own_samples(parts), parts.siblings.ask_each({"metrics": True}, _ANSWER_S))
    name = parts.metrics.worker_up.name
    silent = [{name: f'{name}{{worker="{slot}"}} 0\n'} for slot, answer in others.items() if answer is None]
    workers = [own, *(answer for answer in others.values() if answer is not None), *silent]
    pieces = []
    for text in exposition(parts.metrics, workers):
        pieces.append(text.encode(errors="replace"))
        await asyncio.sleep(0)
    return b"".join(pieces)


async def own_samples(parts: Service) -> JSONObject:
    """Return what this process has counted, by the metric's name, its levels as they are now."""
    found = parts.metrics
    state = await asyncio.to_thread(process_state)
    for family, value in (
        (found.cpu, state.cpu_s),
        (found.memory, state.memory_bytes),
        (found.open_fds, state.open_fds),
        (found.max_fds, state.max_fds),
        (found.started, state.started),
        (found.in_flight, len(parts.calls)),
        (found.streams, sum(call.is_streamed for call in parts.calls)),
        (found.connections, parts.connections()),
        (found.draining, parts.draining),
        (found.spans_dropped, parts.tracing.dropped if parts.tracing is not None else 0),
        (found.log_dropped, parts.log_writer.dropped if parts.log_writer is not None else 0),
    ):
        if value is not None:
            family.at().value = value
    _set_configuration(parts, found)
    _set_parts(parts, found)
    _set_deployments(parts.snapshot.registry, found)
    return await found.samples(str(parts.siblings.slot))


def _set_configuration(parts: Service, found: Metrics) -> None:
    used = parts.snapshot
    found.reload_successful.at().value = not parts.reload.was_refused
    found.reload_time.at().value = parts.reload.loaded_at
    found.config_info.clear()
    found.config_info.at(used.digest[:12]).value = 1
    found.restart_needed.at().value = bool(used.restart_needed)


def _set_parts(parts: Service, found: Metrics) -> None:
    used, accounts = parts.snapshot, parts.accounts
    store = used.registry.answer_store
    found.degraded.at("limits").value = bool(used.limits.enabled and used.limits.degraded)
    found.degraded.at("cache").value = bool(store and store.degraded)
    found.degraded.at("ledger").value = bool(accounts and accounts.degraded)
    if store is not None and (held := store.held_bytes) is not None:
        found.cache_bytes.at().value = held


def _set_deployments(registry: ModelRegistry, found: Metrics) -> None:
    now = time.monotonic()
    found.circuit.clear()
    for name, deployment in registry.deployments.items():
        state = state_of(deployment, now)
        for each in _STATES:
            found.circuit.at(name, each.replace("-", "_")).value = each == state
        if openings := deployment.health.circuit.openings:
            found.openings.at(name).value = openings
    found.forget({name for name in found.deployments if not _is_served(registry, name)}, now)


def _is_served(registry: ModelRegistry, deployment: str) -> bool:
    """Say whether a deployment is still there: its adapter lists the model, or a group names it."""
    name, _, model = deployment.partition("/")
    if name in registry.adapters and model_of(registry.adapters[name], model) is not None:
        return True
    groups = registry.model_groups.values()
    return any(each.model == deployment for group in groups for each in targets(group.targets + group.fallbacks))
