"""``/metrics``, for Prometheus: what every process of this gateway has counted, gathered by the one that is scraped."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

from flask import Blueprint, Response, request

from one_api.api.service import Service, service
from one_api.dialects.json import JSONObject
from one_api.models.registry import ModelRegistry
from one_api.observability.metrics import Metrics, exposition
from one_api.observability.process import process_state
from one_api.routing.explain import state_of
from one_api.serving.responses import PlainResponse
from one_api.settings.sections import targets
from one_api.utils.auth import for_scrapers

metrics = Blueprint("metrics", __name__)

#: How long another process may be silent, in seconds; one that is for longer is left out.
_ANSWER_S = 0.5
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: How much of the text is put together, and sent, before others have the loop, in bytes.
_PIECE_BYTES = 16 * 1024
#: Steps of a long loop after which others have the loop.
_AT_ONCE = 100


@metrics.get("/metrics")
@for_scrapers
async def scrape() -> Response:
    """Answer with the metrics of every process, in the text format of Prometheus."""
    parts = service()
    if parts.scrape is None or parts.scrape.done():  # those that come meanwhile get the same
        parts.scrape = asyncio.create_task(_gather(parts))
    pieces = await asyncio.shield(parts.scrape)
    headers = {"vary": "accept-encoding"}
    if request.accept_encodings["gzip"]:
        pieces = [await asyncio.to_thread(_compressed, pieces)]
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(sum(map(len, pieces)))
    return PlainResponse(pieces, content_type=_TYPE, headers=headers)


def _compressed(pieces: list[bytes]) -> bytes:
    return gzip.compress(b"".join(pieces), 1)


async def _gather(parts: Service) -> list[bytes]:
    """Return the text of all processes, in pieces."""
    own, others = await asyncio.gather(_own(parts), parts.siblings.ask_each({"metrics": True}, _ANSWER_S))
    name = parts.metrics.worker_up.name
    for slot, answer in others.items():
        own += [{name: f'{name}{{worker="{slot}"}} 0\n'}] if answer is None else answer
    pieces: list[bytes] = []
    held = bytearray()
    for text in exposition(parts.metrics, own):
        held += text.encode()
        if len(held) >= _PIECE_BYTES:
            pieces.append(bytes(held))
            held.clear()
            await asyncio.sleep(0)
    return [*pieces, bytes(held)]


async def _own(parts: Service) -> list[JSONObject]:
    return [part async for part in own_samples(parts)]


async def own_samples(parts: Service) -> AsyncIterator[JSONObject]:
    """Yield what this process has counted, its levels as they are now, see ``Metrics.samples``."""
    found = parts.metrics
    state = await asyncio.to_thread(process_state)
    calls = [*parts.calls]  # under other servers, threads change it meanwhile
    for family, value in (
        (found.cpu, state.cpu_s),
        (found.memory, state.memory_bytes),
        (found.open_fds, state.open_fds),
        (found.max_fds, state.max_fds),
        (found.started, state.started),
        (found.in_flight, len(calls)),
        (found.streams, sum(call.is_streamed for call in calls)),
        (found.connections, parts.connections()),
        (found.draining, parts.draining),
        (found.spans_dropped, parts.tracing.dropped if parts.tracing is not None else 0),
        (found.log_dropped, parts.log_writer.dropped if parts.log_writer is not None else 0),
    ):
        if value is not None:
            family.at().value = value
    _set_configuration(parts, found)
    _set_parts(parts, found)
    await _set_deployments(parts.snapshot.registry, found)
    async for part in found.samples(str(parts.siblings.slot)):
        yield part


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
    found.cache_bytes.clear()
    if store is not None and (held := store.held_bytes) is not None:
        found.cache_bytes.at().value = held


async def _set_deployments(registry: ModelRegistry, found: Metrics) -> None:
    routes = registry.routes
    groups = {
        each.model: model
        for model, group in routes.model_groups.items()
        for each in targets(group.targets + group.fallbacks)
    }
    gone = set()
    for number, name in enumerate(found.deployments):
        # Whatever is resolved is among the deployments again, which a reload has begun anew.
        if not routes.deployments_of(name) and not (name in groups and routes.deployments_of(groups[name])):
            gone.add(name)
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
    now = time.monotonic()
    found.set_circuits(
        {
            name: (state_of(deployment, now).replace("-", "_"), deployment.health.circuit)
            for name, deployment in routes.deployments.items()
        }
    )
    found.forget(gone, now)
