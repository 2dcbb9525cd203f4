"""The attempt loop: choose a deployment, try it, and decide whether to go on."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

from one_api.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from one_api.models.adapters.base import ChunkStream
from one_api.models.attempts import Trip, Try
from one_api.models.delivery import Answered, Delivery, Opened
from one_api.models.deployment import Deployment
from one_api.models.hedge import Hedging, first_to_speak
from one_api.models.opening import Heard, until_content
from one_api.models.policy import Policy
from one_api.models.resume import Diverged, Sent, after_the_same, resumable
from one_api.models.retries import RetryBudget, costs_budget, has_room, overflows, wait_before_again, worst_news
from one_api.models.routing import Candidate, Route, candidates, choose, hurry_others
from one_api.schema import ChatRequest, Usage
from one_api.wire.json import JSONObject

#: First content of a stream while another candidate is left, where nobody has set a limit, in seconds.
_FIRST_EVENT_S = 30.0

#: The state of a candidate whose context is too small for the request.
_SMALL = "small"

#: What a try comes to: a whole answer, or a stream that has begun.
Found: TypeAlias = Answered | Opened
#: Reads a stream up to where the client is to have it from, and tells when it has first content.
Begin: TypeAlias = Callable[[ChunkStream, Heard], Awaitable[list[JSONObject]]]


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
    #: By model id and by kind, streamed or whole; bounded by the groups that are configured to hedge.
    _hedging: dict[tuple[str, bool], Hedging] = field(default_factory=dict)

    async def run(self, route: Route, request: ChatRequest) -> JSONObject | ChunkStream:
        """Return the first answer to be had for ``request``; a stream has come to its first content.

        Raises:
            UpstreamError: when no deployment answers; see ``worst_news``.
            NoDeployment: when none may be tried.
        """
        self.budget.pay_in()
        trip = Trip(route, request, self.max_attempts, self.deadline_s)
        found = await self._find(trip)
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
            except InvalidRequest:
                # Only this one cannot express the request: that does not hide what became of it elsewhere.
                if not trip.errors:
                    raise
        if trip.left_s <= 0:
            raise UpstreamTimeout(f"No upstream has answered within {self.deadline_s:g} s.")
        raise worst_news(trip.errors, trip.route.model)

    # Choosing

    def _next(self, trip: Trip) -> Step | None:
        """Return what to try next, if anything may be tried."""
        last = trip.errors[-1] if trip.errors else None
        if trip.spent or trip.left_s <= 0 or (last is not None and not (last.try_another or overflows(last))):
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
        if wait_s is None or wait_s >= trip.left_s or trip.tried != route.targets or not self.budget.holds(2):
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

    def _others_left(self, trip: Trip, others: int) -> bool:
        """Say whether one of so many others would be tried if the next try falls silent."""
        allowed = len(trip.tries) + 1 < trip.most_attempts and not trip.silences
        return allowed and others > 0 and self.budget.holds(1)

    # Trying

    async def _ask_or_hedge(self, trip: Trip, step: Step) -> Found:
        hedging = self._hedging_of(trip)
        after_s = hedging.after_s if hedging else None
        if hedging is None or after_s is None:
            return await self._ask(trip, step, trip.begin(step.deployment, step.candidates))
        begun: list[Try] = []

        def start(step: Step) -> asyncio.Future[Found]:
            # Its books are open at once, for whoever chooses next, and closed also if the task never runs.
            attempt = trip.begin(step.deployment, step.candidates)
            begun.append(attempt)
            asking = asyncio.ensure_future(self._ask(trip, step, attempt))
            asking.add_done_callback(lambda done: attempt.settle("cancelled") if done.cancelled() else None)
            return asking

        def second() -> asyncio.Future[Found] | None:
            # A fallback is another model: slowness alone does not lead to it.
            found = [each for each in _look(trip) if each.excluded is None and not each.fallback]
            other = None if trip.spent else choose(found, trip.route.strategy, trip.route.turn, self.rng)
            if other is None or not hedging.take():
                return None
            return start(Step(other.deployment, found, others_left=False))

        def outrun() -> None:
            for each in begun:
                if each.record.first_s is None:
                    each.settle("outrun")

        return await first_to_speak(start(step), after_s, second, outrun, _drop)

    def _hedging_of(self, trip: Trip) -> Hedging | None:
        config = trip.route.policy.hedge
        if config is None:
            return None
        hedging = self._hedging.setdefault((trip.route.model, trip.stream), Hedging(config))
        hedging.pay_in()
        return hedging

    async def _ask(self, trip: Trip, step: Step, attempt: Try) -> Found:
        """Try one deployment; notes in ``trip`` what goes wrong."""
        policy = trip.route.policy
        own_s, left_s = _limit_s(trip, step, policy), trip.left_s
        limit_s = left_s if own_s is None else min(own_s, left_s)
        # Who is asked late in the time of a request is not to blame for its end.
        blamed = limit_s == own_s or 2 * limit_s >= trip.deadline_s
        try:
            return await _tried(
                trip, attempt, trip.request, limit_s, partial(until_content, hold_back=policy.hold_back), blamed=blamed
            )
        except UpstreamError as error:
            # Without its frames: they hold all that was read, and lead back here, so only the collector would free it.
            trip.errors.append(error.with_traceback(None))
            trip.silences += isinstance(error, UpstreamTimeout)
            if overflows(error):
                trip.overflowed = step.deployment
            raise
        finally:
            hedging = self._hedging.get((trip.route.model, trip.stream))
            if hedging is not None and attempt.record.first_s is not None:
                hedging.note(attempt.record.first_s)

    # After content

    def _deliver(self, trip: Trip, opened: Opened) -> Delivery:
        policy = trip.route.policy

        async def resume(sent: Sent, error: UpstreamError) -> Opened:
            return await self._resume(trip, sent, error)

        return Delivery(opened, resume if policy.resume and resumable(trip.request.body) else None)

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
            found = await _tried(trip, attempt, trip.request, limit_s, partial(after_the_same, sent=sent.said))
        except Diverged:
            text = sent.text
            start = deployment.adapter.goes_on_from(deployment.model, text) if text else None
            if not text or start is None or len(trip.tries) >= trip.most_attempts or not self.budget.take():
                raise
            attempt = trip.begin(deployment, step.candidates)
            longer = ChatRequest.of(sent.prefilled(trip.request.body, start))
            found = await _tried(trip, attempt, longer, limit_s, _after(text[len(start) :]))
        assert isinstance(found, Opened)  # noqa: S101 - a stream was asked for
        trip.answered_by(deployment)
        return found


def _after(text: str) -> Begin:
    """Return how to read a stream that goes on just before ``text``, which was sent."""
    return partial(after_the_same, sent=[("content", text)]) if text else until_content


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


async def _tried(
    trip: Trip, attempt: Try, request: ChatRequest, limit_s: float, begin: Begin, *, blamed: bool = True
) -> Found:
    """Ask one deployment; the attempt is settled here unless a stream takes it along.

    It has ``limit_s`` for its answer or its first content; ``blamed`` says whether it is to blame if there is none.
    """
    found: Found | None = None
    outcome: UpstreamError | str = "cancelled"
    try:
        async with asyncio.timeout(limit_s) as limit:
            found = await _answer(trip, attempt, request)
            if isinstance(found, Opened):
                found.chunks = await begin(found.stream, lambda: limit.reschedule(None))
        if attempt.answered():
            hurry_others(trip.route, time.monotonic())
        outcome = "ok"
    except TimeoutError:
        error = _too_late(trip, limit_s)
        outcome = error if blamed else "cancelled"
        raise error from None
    except Diverged:
        outcome = "diverged"
        raise
    except InvalidRequest as error:
        outcome = type(error).__name__
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


async def _answer(trip: Trip, attempt: Try, request: ChatRequest) -> Found:
    """Have one deployment answer, under the name that the client is to see."""
    deployment = attempt.deployment
    shown_model = trip.shown_model(deployment)
    asked = request.for_model(deployment.model)
    if asked.stream:
        stream = await deployment.adapter.stream(asked)
        stream.idle_s = trip.route.policy.idle_s
        return Opened(stream, attempt, shown_model)
    answer = await deployment.adapter.complete(asked)
    return Answered(answer if shown_model is None else answer | {"model": shown_model}, attempt)


def _too_late(trip: Trip, limit_s: float) -> UpstreamTimeout:
    awaited = "the first content" if trip.stream else "the answer"
    return UpstreamTimeout(f"The upstream did not send {awaited} within {limit_s:g} s.")


async def _drop(found: Found) -> None:
    """Let go of an answer that came second."""
    await found.drop("cancelled")
