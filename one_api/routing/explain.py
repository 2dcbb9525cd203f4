"""Why a request would go where it goes: how every deployment of a route looks now."""

import time
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.routing.deployment import Deployment
from one_api.routing.route import Route
from one_api.routing.selection import Candidate, candidates, shares


def explain(route: Route, stream: bool, now: float | None = None) -> JSONObject:
    """Return the live table of a route, for streamed requests or for others; times in seconds."""
    now = time.monotonic() if now is None else now
    found = candidates(route, (), now, stream)
    usable = [each for each in found if each.excluded is None and not each.fallback]
    parts = shares(usable) if route.strategy == "adaptive" and usable else []
    by_name = {each.deployment.name: part / sum(parts) for each, part in zip(usable, parts, strict=False)}
    return {
        "model": route.model,
        "strategy": route.strategy,
        "stream": stream,
        "candidates": [_row(each, stream, by_name.get(each.deployment.name), now) for each in found],
    }


def _row(candidate: Candidate, stream: bool, share: float | None, now: float) -> dict[str, Any]:
    deployment, health = candidate.deployment, candidate.deployment.health
    timing = health.timing(stream)
    return {
        "deployment": deployment.name,
        "fallback": candidate.fallback,
        "state": str(candidate.state),
        "score": _rounded(candidate.cost_s),
        "share": _rounded(share),
        "success": _rounded(health.success(now)),
        "first_event_s": _rounded(timing.first_event_s),
        "per_token_s": _rounded(timing.per_token_s),
        "in_flight": health.in_flight,
        "failures": health.failures,
        "why": candidate.excluded,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def state_of(deployment: Deployment, now: float) -> str:
    """Return what state a deployment is in: that of its circuit, unless it is full or cools down."""
    health = deployment.health
    if health.in_flight >= deployment.max_concurrency:
        return "full"
    return "cooling-down" if now < health.cools_until(None) else health.circuit.state(now)
