"""Which deployments may be chosen, and which one is: pure functions over deployments, their health and the time.

First those that cannot serve are set aside, with the reason; then the route's strategy chooses among the rest.
``docs/routing.md`` explains the choice and has its figures.
"""

import math
import random
from collections.abc import Sequence

from msgspec import Struct

from one_api.contract import Kind
from one_api.routing.circuit import State
from one_api.routing.deployment import Deployment
from one_api.routing.health import Timing
from one_api.routing.route import Route

#: ``adaptive`` gives each a share by (best cost / its cost) to this power: 2 times slower gets a 400th.
POWER = 10.0
#: What each that can serve gets at least, as a part of what the best one gets: so one that has recovered is seen.
EXPLORE = 0.005
#: How much dearer than the best one may be, as a factor, without getting less.
TOLERANCE = 1.1
#: Added to what is in flight and to what usually is, so that one or two more make no difference.
LOAD_SLACK = 3.0
#: Added to every time, in seconds: no client notices smaller differences.
LATENCY_FLOOR_S = 0.02
#: The expected time where none of the group has answered yet, in seconds; only its ratio to others counts.
_UNKNOWN_S = 1.0

_FULL, _TRIED, _COOLING_DOWN = "full", "tried", "cooling-down"
_OUT = (State.OPEN, State.PROBING)


class Candidate(Struct):
    """A deployment as it looks for one request."""

    deployment: Deployment
    fallback: bool
    #: That of its circuit, or "full", "tried" or "cooling-down".
    state: str
    #: Expected seconds for a typical answer, made dearer by failures and load: the lower the better.
    cost_s: float
    #: Why it cannot be chosen, for people; None when it can.
    excluded: str | None = None
    #: The part of its traffic that it may have, while it comes back.
    ramp: float = 1.0
    #: Until when it cools down, in monotonic seconds.
    cooling_until: float = 0.0


def candidates(
    route: Route, tried: Sequence[Deployment], now: float, stream: bool = False, kind: Kind | None = None
) -> list[Candidate]:
    """Return every target and then every fallback of ``route`` with its state, cost, and why it is excluded.

    Without ``kind`` one that cools down for any kind of request does so.
    """
    everyone = [*route.targets, *route.fallbacks] if route.fallbacks else route.targets
    timings = [each.health.streamed if stream else each.health.whole for each in everyone]
    median_s = _median([timing.answer_s for timing in timings if timing.answer_s])
    done = [each.health for each in tried]
    targets = len(route.targets)
    found = []
    for index, (each, timing) in enumerate(zip(everyone, timings, strict=True)):
        health = each.health
        fair_load = 0.0 if health.circuit.is_closed else each.weight * _per_weight(everyone)
        cost = cost_s(each, timing, median_s, fair_load, now)
        candidate = Candidate(each, index >= targets, State.CLOSED, cost)
        if done and health in done:
            candidate.state, candidate.excluded = _TRIED, "it was tried for this request"
        elif health.in_flight >= each.max_concurrency:
            candidate.state, candidate.excluded = _FULL, f"{health.in_flight} requests are in flight there"
        elif now < (until := health.cools_until(kind)):
            candidate.cooling_until = until
            candidate.state, candidate.excluded = _COOLING_DOWN, f"it cools down for {until - now:.0f} s more"
        elif not health.circuit.is_closed:
            _look_at_circuit(candidate, now, short_cooldown=2 * len(_out(everyone)) > len(everyone))
        found.append(candidate)
    return found


def cost_s(deployment: Deployment, timing: Timing, median_s: float, fair_load: float, now: float) -> float:
    """Return what a typical answer costs there: expected seconds, made dearer by load and by failures.

    A queue shows in the requests in flight at once, and in the measured times only later. So a deployment with more in
    flight than usual costs more. One whose circuit is not closed has no usual load: there the requests above
    ``fair_load`` count, which is its part of what is in flight in the group.
    """
    health = deployment.health
    in_flight = health.in_flight
    load = 1 + in_flight / (deployment.max_concurrency or 1)
    if not health.circuit.is_closed:
        if in_flight >= fair_load:
            load *= (in_flight + 1 + LOAD_SLACK) / (fair_load + LOAD_SLACK)
    elif in_flight >= timing.usual_load > 0:
        load *= math.sqrt((in_flight + 1 + LOAD_SLACK) / (timing.usual_load + LOAD_SLACK))
    return (timing.expected_s(median_s, now) + LATENCY_FLOOR_S) * load / health.success(now)


def _per_weight(everyone: Sequence[Deployment]) -> float:
    """Return how many requests are in flight for each unit of weight."""
    in_flight = sum([each.health.in_flight for each in everyone])
    return in_flight / sum([each.weight for each in everyone]) if in_flight else 0.0


def _median(known: list[float]) -> float:
    if not known:
        return _UNKNOWN_S
    known.sort()
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def _out(everyone: Sequence[Deployment]) -> list[Deployment]:
    """Return those that their circuits keep out."""
    return [each for each in everyone if each.health.circuit.open_until > 0]


def probe_others_now(route: Route, now: float) -> None:
    """Note that one has come back: where most were out the others may be probed at once, or it would bear all alone."""
    everyone = [*route.targets, *route.fallbacks]
    out = _out(everyone)
    if 2 * (len(out) + 1) > len(everyone):
        for each in out:
            each.health.circuit.probe_now(now)


def _look_at_circuit(candidate: Candidate, now: float, short_cooldown: bool) -> None:
    circuit = candidate.deployment.health.circuit
    candidate.state = circuit.state(now, short_cooldown)
    if candidate.state is State.OPEN:
        candidate.excluded = f"its circuit is open for {circuit.open_until - now:.0f} s more"
    elif candidate.state is State.PROBING:
        candidate.excluded = "its circuit is open, and a probe is under way"
    elif candidate.state is State.RAMPING:
        candidate.ramp = circuit.share(now)


def choose(
    found: Sequence[Candidate], strategy: str, turn: int, rng: random.Random, *, may_probe: bool = True
) -> Candidate | None:
    """Choose one of ``candidates``; None when each is full or was tried.

    A target comes before a fallback, and a healthy fallback before a target that is not. When none is healthy, the
    least bad serves: one whose circuit is open before one that cools down, of those the one whose cooldown ends
    first. Without ``may_probe`` a probe is left to another request, as long as another is healthy.
    """
    usable = [each for each in found if each.excluded is None]
    if not may_probe:
        usable = [each for each in usable if each.state is not State.HALF_OPEN] or usable
    targets = [each for each in usable if not each.fallback]
    if targets:
        return _pick(targets, strategy, turn, rng)
    if usable:
        return usable[0]
    out = [each for each in found if each.state in _OUT]
    if out:
        targets = [each for each in out if not each.fallback]
        return _pick(targets, strategy, turn, rng) if targets else out[0]
    cooling = [each for each in found if each.state == _COOLING_DOWN]
    return min(cooling, key=lambda each: each.cooling_until) if cooling else None


def _pick(usable: list[Candidate], strategy: str, turn: int, rng: random.Random) -> Candidate:
    """Choose by strategy. A probe comes first: it is due, and there is one at a time."""
    if len(usable) == 1:
        return usable[0]
    probe = next((each for each in usable if each.state is State.HALF_OPEN), None)
    if probe is not None:
        return probe
    if strategy == "adaptive":
        return _draw(usable, shares(usable), rng)
    if strategy == "weighted":
        return _draw(usable, [each.deployment.weight * each.ramp for each in usable], rng)
    let_in = [each for each in usable if each.ramp >= 1 or rng.random() < each.ramp] or usable
    if strategy == "ordered":
        return let_in[0]
    if strategy == "round_robin":
        return let_in[turn % len(let_in)]
    return min(let_in, key=lambda each: (each.deployment.health.in_flight + 1) / each.deployment.weight)


def shares(usable: Sequence[Candidate]) -> list[float]:
    """Return how much of the traffic each would get by ``adaptive``, in proportion; the sum is not 1."""
    best_s = min([each.cost_s for each in usable]) * TOLERANCE
    return [
        each.deployment.weight * each.ramp * min(1.0, max((best_s / each.cost_s) ** POWER, EXPLORE)) for each in usable
    ]


def _draw(usable: list[Candidate], parts: list[float], rng: random.Random) -> Candidate:
    point = rng.random() * sum(parts)
    for each, part in zip(usable, parts, strict=True):
        point -= part
        if point < 0:
            return each
    return usable[-1]
