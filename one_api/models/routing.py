"""Who may be chosen, and which: pure functions over deployments and their health."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from one_api.models.deployment import Deployment
from one_api.models.policy import Policy


@dataclass(slots=True)
class Route:
    """Where one model id leads. ``targets`` serve that model; ``fallbacks`` are other models, in order."""

    model: str
    targets: list[Deployment]
    fallbacks: list[Deployment] = field(default_factory=list)
    strategy: str = "weighted"
    policy: Policy = field(default_factory=Policy)
    #: How often a target was chosen here; round robin counts on.
    turn: int = 0


def awake(deployments: Sequence[Deployment], now: float) -> list[Deployment]:
    """Return those that are neither full nor at rest."""
    return [each for each in deployments if _free(each) and not each.health.resting(now)]


def available(deployments: Sequence[Deployment], now: float) -> list[Deployment]:
    """Return those that may be chosen: none is full, and none rests unless all do.

    When all rest, the one whose rest ends first may be chosen: the last one is never taken away.
    """
    if found := awake(deployments, now):
        return found
    resting = [each for each in deployments if _free(each)]
    return [min(resting, key=lambda each: each.health.resting_until)] if resting else []


def _free(deployment: Deployment) -> bool:
    return deployment.health.in_flight < deployment.max_concurrency


def choose(candidates: Sequence[Deployment], strategy: str, turn: int, rng: random.Random) -> Deployment:
    """Choose among ``candidates``, of which there is at least one."""
    if len(candidates) == 1 or strategy == "ordered":
        return candidates[0]
    if strategy == "round_robin":
        return candidates[turn % len(candidates)]
    if strategy == "least_busy":
        return min(candidates, key=lambda each: (each.health.in_flight + 1) / each.weight)
    return rng.choices(candidates, [each.weight for each in candidates])[0]
