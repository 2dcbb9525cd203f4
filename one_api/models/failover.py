"""The attempt loop: choose a deployment, try it, and decide whether to go on."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from one_api.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from one_api.models.adapters.base import ChunkStream
from one_api.models.attempts import Trip, Try
from one_api.models.delivery import Answered, Delivery, Opened
from one_api.models.deployment import Deployment
from one_api.models.hedge import Hedging, first_to_speak
from one_api.models.opening import until_content
from one_api.models.policy import Policy
from one_api.models.resume import Diverged, Sent, after_the_same, resumable
from one_api.models.retries import RetryBudget, costs_budget, has_room, overflows, wait_before_again, worst_news
from one_api.models.routing import Candidate, Route, candidates, choose, hurry_others
from one_api.schema import Usage
from one_api.wire.json import JSONObject

#: First content of a stream while another candidate is left, where nobody has set a limit, in seconds.
_FIRST_EVENT_S = 30.0

#: The state of a candidate whose context is too small for the request.
_SMALL = "small"

#: What a try comes to: a whole answer, or a stream that has begun.
Found: TypeAlias = Answered | Opened
#: Reads a stream up to where the client is to have it from.
Begin: TypeAlias = Callable[[ChunkStream], Awaitable[list[JSONObject]]]


class Step(NamedTuple):
    """What to try next, out of which candidates, after which wait, and whether another could be tried after it."""

    deployment: Deployment
    candidates: list[Candidate]
    others_left: bool
    wait_s: float = 0.0


@dataclass(slots=True)
class Failover:
    """Tries the deployments of a route until one answers."""

    max_attempts: int = 3
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(0.1))
    rng: random.Random = field(default_factory=random.Random)
    #: For all attempts of a request together, up to its answer or the first content of its stream.
    deadline_s: float = 600.0
    #: By model id; bounded by the groups that are configured to hedge.
    _hedging: dict[str, Hedging] = field(default_factory=dict)

    async def run(self, route: Route, body: JSONObject) -> JSONObject | ChunkStream:
        """Return the first answer to be had for ``body``; a stream has come to its first content.

        Raises:
            UpstreamError: when no deployment answers; see ``worst_news``.
            NoDeployment: when none may be tried.
        """
        self.budget.pay_in()
        trip = Trip(route, body, self.max_attempts)
        try:
            async with asyncio.timeout(self.deadline_s):
                found = await self._find(trip)
        except TimeoutError:
            raise UpstreamTimeout(f"No upstream has answered within {self.deadline_s:g} s.") from None
        trip.answered_by(found.attempt.deployment)
        return self._deliver(trip, found) if isinstance(found, Opened) else found.payload

    async def _find(self, trip: Trip) -> Found:
        """Go through the candidates until one answers."""
        while (step := self._next(trip)) is not None:
            if step.wait_s:
                await asyncio.sleep(step.wait_s)
            try:
                return await self._ask_or_hedge(trip, step)
            except UpstreamError:
                continue
        raise worst_news(trip.errors, trip.route.model)

    # Choosing

    def _next(self, trip: Trip) -> Step | None:
        """Return what to try next, if anything may be tried."""
        last = trip.errors[-1] if trip.errors else None
        if trip.spent or (last is not None and not (last.try_another or overflows(last))):
            return None
        chosen = self._again(trip) or self._another(trip)
        retries = last is not None and costs_budget(last)
        return None if chosen is None or (retries and not self.budget.take()) else chosen

    def _again(self, trip: Trip) -> Step | None:
        """Return the group's only target once more, before a fallback brings another model into it."""
        route = trip.route
        if trip.overflowed or not trip.errors or len(trip.tries) != 1 or len(route.targets) != 1 or not route.fallbacks:
            return None
        wait_s = wait_before_again(trip.errors[-1], len(trip.errors), self.rng)
        # When one retry is all that is left, the fallback has it.
        if wait_s is None or trip.tried != route.targets or not self.budget.holds(2):
            return None
        return Step(route.targets[0], _look(trip), self._others_left(trip, len(route.fallbacks)), wait_s)

    def _another(self, trip: Trip) -> Step | None:
        """Return one that has not been tried: a target by the group's strategy, then a fallback in order."""
        found = _look(trip)
        # The least bad serves when nobody is well, but as a first try only: in an outage retries would add to it.
        eligible = [each for each in found if each.excluded is None] if trip.errors else found
        chosen = choose(eligible, trip.route.strategy, trip.route.turn, self.rng)
        trip.route.turn += 1
        if chosen is None:
            return None
        others = sum(each.excluded is None for each in found if each is not chosen)
        return Step(chosen.deployment, found, self._others_left(trip, others))

    @staticmethod
    def _others_left(trip: Trip, others: int) -> bool:
        """Say whether one of so many others would be tried if the next try falls silent."""
        return others > 0 and len(trip.tries) + 1 < trip.most_attempts and not trip.silences

    # Trying

    async def _ask_or_hedge(self, trip: Trip, step: Step) -> Found:
        hedging = self._hedging_of(trip.route)
        after_s = hedging.after_s if hedging else None
        if hedging is None or after_s is None:
            return await self._ask(trip, step)

        def second() -> Coroutine[Any, Any, Found] | None:
            found = [each for each in _look(trip) if each.excluded is None]
            other = None if trip.spent else choose(found, trip.route.strategy, trip.route.turn, self.rng)
            if other is None or not hedging.take():
                return None
            return self._ask(trip, Step(other.deployment, found, others_left=False))

        return await first_to_speak(self._ask(trip, step), after_s, second, _drop)

    def _hedging_of(self, route: Route) -> Hedging | None:
        if route.policy.hedge is None:
            return None
        hedging = self._hedging.setdefault(route.model, Hedging(route.policy.hedge))
        hedging.pay_in()
        return hedging

    async def _ask(self, trip: Trip, step: Step) -> Found:
        """Try one deployment; notes in ``trip`` what goes wrong."""
        policy = trip.route.policy
        limit_s = _limit_s(trip, step, policy)
        attempt = trip.begin(step.deployment, step.candidates)
        try:
            return await _tried(
                trip, attempt, trip.body, limit_s, lambda stream: until_content(stream, policy.hold_back)
            )
        except UpstreamError as error:
            # Without its frames: they hold all that was read, and lead back here, so only the collector would free it.
            trip.errors.append(error.with_traceback(None))
            trip.silences += isinstance(error, UpstreamTimeout)
            if overflows(error):
                trip.overflowed = step.deployment
            raise
        finally:
            if trip.route.model in self._hedging and attempt.record.first_s is not None:
                self._hedging[trip.route.model].note(attempt.record.first_s)

    # After content

    def _deliver(self, trip: Trip, opened: Opened) -> Delivery:
        policy = trip.route.policy

        async def resume(sent: Sent, error: UpstreamError) -> Opened:
            return await self._resume(trip, sent, error)

        return Delivery(opened, policy.idle_s, resume if policy.resume and resumable(trip.body) else None)

    async def _resume(self, trip: Trip, sent: Sent, error: UpstreamError) -> Opened:
        """Return a stream of another target that goes on from what was sent; raises ``error`` when there is none."""
        limit_s = trip.route.policy.first_event_s or _FIRST_EVENT_S
        while len(trip.tries) < trip.most_attempts:
            found = [each for each in _look(trip) if each.excluded is None and not each.fallback]
            chosen = choose(found, trip.route.strategy, trip.route.turn, self.rng)
            if chosen is None or not self.budget.take():
                break
            try:
                return await self._go_on_at(trip, Step(chosen.deployment, found, others_left=False), sent, limit_s)
            except (UpstreamError, InvalidRequest, Diverged):
                continue
        raise error

    async def _go_on_at(self, trip: Trip, step: Step, sent: Sent, limit_s: float) -> Opened:
        """Ask a deployment afresh, and if it says something else, to go on from what was sent."""
        deployment = step.deployment
        attempt = trip.begin(deployment, step.candidates)
        try:
            found = await _tried(trip, attempt, trip.body, limit_s, lambda stream: after_the_same(stream, sent.said))
        except Diverged:
            text = sent.text
            start = deployment.adapter.goes_on_from(deployment.model, text) if text else None
            if not text or start is None or len(trip.tries) >= trip.most_attempts or not self.budget.take():
                raise
            attempt = trip.begin(deployment, step.candidates)
            found = await _tried(trip, attempt, sent.prefilled(trip.body, start), limit_s, _after(text[len(start) :]))
        assert isinstance(found, Opened)  # noqa: S101 - a stream was asked for
        trip.answered_by(deployment)
        return found


def _after(text: str) -> Begin:
    """Return how to read a stream that goes on just before ``text``, which was sent."""
    return (lambda stream: after_the_same(stream, [("content", text)])) if text else until_content


def _look(trip: Trip) -> list[Candidate]:
    """Return how every deployment looks for the request now; one that is too small for it cannot be chosen."""
    found = candidates(trip.route, trip.tried, time.monotonic(), trip.stream)
    if trip.overflowed is not None:
        for each in found:
            if not each.fallback or not has_room(each.deployment, trip.overflowed):
                each.state, each.excluded = _SMALL, "the request is too long for its context"
    return found


def _limit_s(trip: Trip, step: Step, policy: Policy) -> float | None:
    """Return how long a try may take to its content, in seconds; None: as long as its adapter says."""
    if not step.others_left:
        return None
    if not trip.stream:
        return policy.total_s
    own = step.deployment.first_event_s
    return policy.first_event_s or (_FIRST_EVENT_S if own is None else None)


async def _tried(trip: Trip, attempt: Try, body: JSONObject, limit_s: float | None, begin: Begin) -> Found:
    """Ask one deployment; the attempt is settled here unless a stream takes it along."""
    found: Found | None = None
    outcome: UpstreamError | str = "cancelled"
    try:
        async with asyncio.timeout(limit_s):
            found = await _answer(trip, attempt, body)
            if isinstance(found, Opened):
                found.chunks = await begin(found.stream)
        if attempt.answered():
            hurry_others(trip.route, time.monotonic())
        outcome = "ok"
    except TimeoutError:
        outcome = _too_late(trip, limit_s)
        raise outcome from None
    except Diverged:
        outcome = "diverged"
        raise
    except UpstreamError as error:
        outcome = error
        raise
    finally:
        if outcome != "ok":
            await found.drop(outcome) if found is not None else attempt.settle(outcome)
    if isinstance(found, Answered):
        attempt.settle("ok", Usage.read(found.payload.get("usage")))
    return found


async def _answer(trip: Trip, attempt: Try, body: JSONObject) -> Found:
    """Have one deployment answer, under the name that the client is to see."""
    deployment = attempt.deployment
    shown_model = trip.shown_model(deployment)
    answer = await deployment.adapter.generate_completion(**(body | {"model": deployment.model}))
    if isinstance(answer, ChunkStream):
        return Opened(answer, attempt, shown_model)
    return Answered(answer if shown_model is None else answer | {"model": shown_model}, attempt)


def _too_late(trip: Trip, limit_s: float | None) -> UpstreamTimeout:
    awaited = "the first content" if trip.stream else "the answer"
    return UpstreamTimeout(f"The upstream did not send {awaited} within {limit_s or 0:g} s.")


async def _drop(found: Found) -> None:
    """Let go of an answer that came second."""
    await found.drop("cancelled")
