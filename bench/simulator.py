"""Routing under a virtual clock: the real health, circuits and choice, before deployments that are only numbers.

One run is decided by its seed. Requests arrive at random, at a steady rate; each is tried as the gateway would try it:
at most three times, each time elsewhere, within the same limit to retries.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from one_api.contract import ModelInfo, Usage
from one_api.errors import UpstreamError, UpstreamRateLimited, UpstreamUnreachable
from one_api.models.adapters.base import BaseModelAdapter
from one_api.routing.attempt import Attempt
from one_api.routing.deployment import Deployment
from one_api.routing.health import TYPICAL_TOKENS, Health
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Route
from one_api.routing.selection import candidates, choose, probe_others_now

_ATTEMPTS = 3
_TURN_S = 0.05
"""How often a request that waits for its turn to retry looks."""
_NOISE = 0.4
"""Standard deviation of the logarithm of every duration."""

_START_S = 1_000_000.0
"""What the clock shows at the beginning: an everyday value of a monotonic clock."""


@dataclass(frozen=True)
class Condition:
    """How a deployment is at one time; durations are means, in seconds."""

    first_s: float = 0.5
    token_s: float = 0.01
    error: Callable[[], UpstreamError] | None = None
    """What every attempt ends with, after `error_s`; after the first event if `breaks`."""
    error_s: float = 0.005
    breaks: bool = False
    cuts: bool = False
    """Whether those that wait for their first event are cut off when it begins."""
    slots: int | None = None
    """With more in flight than this, everything takes longer in proportion."""
    quota: float | None = None
    """Requests a second; what comes on top is refused."""

    @property
    def answer_s(self) -> float:
        """A typical answer, when there is no load."""
        return self.first_s + TYPICAL_TOKENS * self.token_s


@dataclass
class Place:
    """A simulated deployment: its condition by the time since the start."""

    name: str
    condition: Callable[[float], Condition]
    weight: float = 1.0
    tokens: float = 1.0
    """What is left of its quota."""
    refilled: float = 0.0

    def admits(self, now: float, quota: float) -> bool:
        """Take one request out of the quota."""
        self.tokens = min(max(1.0, quota), self.tokens + (now - self.refilled) * quota)
        self.refilled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True)
class Asked:
    """One attempt: when it began, where (a number), and what came of it."""

    at: float
    place: int
    ok: bool
    error: str | None = None


@dataclass
class Served:
    """One request: how it ended, and its cost beside the cheapest that was to be had at its time."""

    at: float
    ok: bool = False
    attempts: int = 0
    cost_s: float = 0.0
    best_s: float = 0.0
    retrying: bool = False
    """Whether it is one of those that the retry limit counts."""


@dataclass
class Outcome:
    """What a run gave."""

    names: list[str]
    attempts: list[Asked] = field(default_factory=list)
    requests: list[Served] = field(default_factory=list)

    def share(self, place: int, begin: float, end: float) -> float:
        """The part of the attempts between two times that went to one place."""
        within = [each.place for each in self.attempts if begin <= each.at < end]
        return within.count(place) / len(within) if within else 0.0

    def count(self, place: int, begin: float, end: float) -> int:
        """The attempts between two times that went to one place."""
        return sum(each.place == place and begin <= each.at < end for each in self.attempts)

    def regret(self, begin: float, end: float) -> float:
        """By how much time the requests between two times took more than an oracle's."""
        within = [each for each in self.requests if begin <= each.at < end and each.ok]
        return sum(each.cost_s for each in within) / sum(each.best_s for each in within) - 1

    def failed(self, begin: float = 0.0, end: float = float("inf")) -> int:
        """The requests between two times that ended with an error."""
        return sum(not each.ok for each in self.requests if begin <= each.at < end)

    def amplification(self, begin: float, end: float) -> float:
        """Attempts for each request between two times."""
        within = [each.attempts for each in self.requests if begin <= each.at < end]
        return sum(within) / len(within)


class Nowhere(BaseModelAdapter):
    """The adapter of simulated deployments; nothing is asked of it."""

    def list_models(self) -> list[ModelInfo]:
        """See ``BaseModelAdapter``."""
        return []

    async def generate_completion(self, /, *args: Any, **kwargs: Any) -> Any:
        """See ``BaseModelAdapter``."""
        raise NotImplementedError


class Simulation:
    """One group of deployments, and the requests to it."""

    def __init__(
        self, places: Sequence[Place], rate: float, strategy: str = "adaptive", stream: bool = True, seed: int = 1
    ) -> None:
        self._places = list(places)
        self._rate = rate
        self._stream = stream
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._counted = 0
        self._now = 0.0
        self._retries = RetryLimit()
        adapter = Nowhere()
        self._deployments = [
            Deployment(place.name, adapter, "m", place.weight, health=Health(self._rng)) for place in places
        ]
        self._route = Route("group", self._deployments, [], strategy)
        self.outcome = Outcome([place.name for place in places])

    def run(self, seconds: float) -> Outcome:
        """Let requests arrive for so long, and return what came of them; those at the end are let finish."""
        self._at(self._rng.expovariate(self._rate), lambda: self._arrive(seconds))
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        return self.outcome

    def crowd(self, at: float, requests: int) -> None:
        """Have so many requests arrive in one instant."""
        for _ in range(requests):
            self._at(at, lambda: self._arrive(0))

    def clock(self) -> float:
        """The virtual time."""
        return _START_S + self._now

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._counted += 1
        heapq.heappush(self._events, (time, self._counted, event))

    def _arrive(self, until: float) -> None:
        following = self._now + self._rng.expovariate(self._rate)
        if following < until:
            self._at(following, lambda: self._arrive(until))
        conditions = [place.condition(self._now) for place in self._places]
        healthy = [each.answer_s for each in conditions if each.error is None]
        served = Served(self._now, best_s=min(healthy) if healthy else 0.0)
        self.outcome.requests.append(served)
        self._retries.begin()
        self._try(served, [])

    def _try(self, served: Served, tried: list[Deployment], last: UpstreamError | None = None) -> None:
        """Begin the next attempt, if there is to be one; as `one_api.routing.failover` does it."""
        found = candidates(self._route, tried, self.clock(), self._stream)
        eligible = found if last is None else [each for each in found if each.excluded is None]
        may_probe = len(tried) + 1 < _ATTEMPTS and (served.retrying or self._retries.has_room)
        chosen = choose(eligible, self._route.strategy, self._route.turn, self._rng, may_probe=may_probe)
        self._route.turn += 1
        if len(tried) == _ATTEMPTS or chosen is None:
            self._end(served)
            return
        if not (last is None or isinstance(last, UpstreamUnreachable) or served.retrying):
            served.retrying = self._retries.enter()
            if not served.retrying:
                self._at(self._now + _TURN_S, lambda: self._try(served, tried, last))
                return
        served.attempts += 1
        number = self._deployments.index(chosen.deployment)
        attempt = Attempt(chosen.deployment, self._stream, self.clock)
        self._play(served, [*tried, chosen.deployment], number, attempt)

    def _play(self, served: Served, tried: list[Deployment], number: int, attempt: Attempt) -> None:
        """Decide what the deployment does, and put it into the calendar."""
        place = self._places[number]
        condition = place.condition(self._now)
        error = condition.error() if condition.error else None
        if condition.quota is not None and not place.admits(self._now, condition.quota):
            error = UpstreamRateLimited("over the quota")
        self.outcome.attempts.append(Asked(self._now, number, error is None, type(error).__name__ if error else None))
        if error is not None and not condition.breaks:
            served.cost_s += condition.error_s
            self._at(self._now + condition.error_s, lambda: self._fail(served, tried, attempt, error))
            return
        load = max(1.0, tried[-1].health.in_flight / condition.slots) if condition.slots else 1.0
        tokens = 1 + int(TYPICAL_TOKENS * self._noise())
        rest_s = tokens * condition.token_s * load * self._noise()

        def first_event() -> None:
            now = place.condition(self._now)
            if now.error is not None and now.cuts:
                self._fail(served, tried, attempt, now.error())
                return
            served.cost_s += condition.answer_s * load
            served.ok = error is None
            if self._stream:
                answered()
            self._at(self._now + rest_s, ended)

        def answered() -> None:
            self._leave_retry(served)
            if attempt.answered():
                probe_others_now(self._route, self.clock())

        def ended() -> None:
            if error is None:
                answered()
            attempt.settle(error or "ok", Usage(0, tokens))
            self._end(served)

        self._at(self._now + condition.first_s * load * self._noise(), first_event)

    def _fail(self, served: Served, tried: list[Deployment], attempt: Attempt, error: UpstreamError) -> None:
        attempt.settle(error)
        self._try(served, tried, error)

    def _leave_retry(self, served: Served) -> None:
        if served.retrying:
            served.retrying = False
            self._retries.leave()

    def _end(self, served: Served) -> None:
        self._leave_retry(served)
        self._retries.end()

    def _noise(self) -> float:
        return self._rng.lognormvariate(-_NOISE * _NOISE / 2, _NOISE)
