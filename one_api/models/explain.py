"""How the deployments of a route look to a request that is to be sent to one of them."""

from collections.abc import Sequence

from one_api.models.deployment import Deployment
from one_api.models.routing import Route
from one_api.telemetry import CandidateRecord


def looked_at(route: Route, tried: Sequence[Deployment], now: float) -> list[CandidateRecord]:
    """Return the state of every target and fallback, and why it cannot be chosen, if it cannot."""
    return [_record(each, tried, now) for each in (*route.targets, *route.fallbacks)]


def _record(deployment: Deployment, tried: Sequence[Deployment], now: float) -> CandidateRecord:
    health = deployment.health
    if deployment in tried:
        return CandidateRecord(deployment.name, "tried", why="it was tried for this request")
    if health.in_flight >= deployment.max_concurrency:
        return CandidateRecord(deployment.name, "full", why=f"{health.in_flight} requests are in flight")
    if health.resting(now):
        return CandidateRecord(deployment.name, "resting", why=f"it rests for {health.resting_until - now:.1f} s more")
    return CandidateRecord(deployment.name, "ready")
