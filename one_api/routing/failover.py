"""The attempt loop: ask a deployment, and after an error do what ``retries.next_step`` says."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from msgspec import Struct

from one_api.contract import Answer, ByteStream, Call, ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from one_api.records import AttemptKind, CallContext
from one_api.routing.attempt import Attempt, RequestState
from one_api.routing.delivery import ByteDelivery, Delivery
from one_api.routing.first_content import OnFirstContent, read_to_first_content
from one_api.routing.hedging import Hedging, first_to_answer
from one_api.routing.resume import Diverged, Sent, after_the_same, resumable
from one_api.routing.retries import NextAttempt, error_for_client, first_step, look, next_step, overflows
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Route
from one_api.routing.selection import choose, probe_others_now
from one_api.serving.timeouts import Deadline

#: First content of a stream while another candidate is left, where no limit is set, in seconds.
_FIRST_EVENT_S = 30.0
#: How long a retry waits for its turn at most, in seconds.
_MAX_TURN_S = 30.0

#: Reads a stream up to where the client is to have it from, and calls back once it has content.
Begin: TypeAlias = Callable[[ChunkStream, OnFirstContent], Awaitable[list[JSONObject]]]


@dataclass(slots=True)
class Failover:
    """Asks the deployments of a route until one answers."""

    max_attempts: int = 3
    retries: RetryLimit = field(default_factory=RetryLimit)
    rng: random.Random = field(default_factory=random.Random)
    #: For all attempts of a request together, up to its answer or the first content of its stream.
    deadline_s: float = 600.0
    #: By model id and by kind, streamed or whole; bounded by the groups that are configured to hedge.
    _hedging: dict[tuple[str, bool], Hedging] = field(default_factory=dict)

    async def run(self, route: Route, request: Call, context: CallContext) -> Answer:
        """Return the first answer to be had for ``request``; a stream has come to its first content.

        Raises:
            UpstreamError: when no deployment answers; see ``error_for_client``.
            NoDeployment: when none may be asked.
        """
        state = RequestState(route, request, context, self.max_attempts, self.deadline_s, self.retries)
        delivery: Delivery | ByteDelivery | None = None
        try:
            attempt = await self._find(state)
            state.answered_by(attempt)
            if attempt.stream is None:
                return attempt.whole
            delivery = self._deliver(state, attempt, attempt.stream)
            return delivery
        finally:
            state.leave_retry()
            if delivery is None:
                state.end()

    async def _find(self, state: RequestState) -> Attempt:
        """Go through the candidates until one answers."""
        step = first_step(state, self.rng)
        while step is not None:
            try:
                return await self._ask_or_hedge(state, step)
            except (UpstreamError, InvalidRequest) as error:
                step = await self._step_after(state, error)
                if step is None:
                    raise error_for_client(state, error)  # noqa: B904 - it is this very error, or one that was met before
        raise error_for_client(state, None)

    async def _step_after(self, state: RequestState, error: UpstreamError | InvalidRequest) -> NextAttempt | None:
        """Return what ``next_step`` says, once its wait is over and the retry limit has room."""
        step = next_step(state, error, self.rng)
        if step is not None and step.wait_s:
            await asyncio.sleep(step.wait_s)
        if step is None or not step.limited:
            return step
        waits = not self.retries.has_room
        max_turn_s = _MAX_TURN_S if state.sent is not None else min(_MAX_TURN_S, state.left_s)
        if not await state.enter_retry(max_turn_s):
            state.context.record.retries_refused += 1
            return None
        return next_step(state, error, self.rng) if waits else step

    # Asking

    async def _ask_or_hedge(self, state: RequestState, step: NextAttempt) -> Attempt:
        hedging = self._hedging_of(state)
        after_s = hedging.after_s if hedging else None
        if hedging is None or after_s is None:
            return await self._ask(state, step, state.begin(step.deployment, step.candidates))
        begun: list[Attempt] = []

        def start(step: NextAttempt, kind: AttemptKind | None = None) -> asyncio.Future[Attempt]:
            # It begins at once, so that the next choice knows of it, and is settled also if the task never runs.
            attempt = state.begin(step.deployment, step.candidates, kind)
            begun.append(attempt)
            asking = asyncio.ensure_future(self._ask(state, step, attempt))
            asking.add_done_callback(lambda done: attempt.settle("cancelled") if done.cancelled() else None)
            return asking

        def second() -> asyncio.Future[Attempt] | None:
            # A fallback is another model: slowness alone does not lead to it.
            found = [each for each in look(state) if each.excluded is None and not each.fallback]
            route = state.route
            other = choose(found, route.strategy, route.turn, self.rng) if state.attempts_left else None
            if other is None or not hedging.take():
                return None
            return start(NextAttempt(other.deployment, found, others_left=False), "hedge")

        def hedge_lost() -> None:
            for each in begun:
                if each.record.first_s is None:
                    each.settle("hedge_lost")

        return await first_to_answer(start(step), after_s, second, hedge_lost, _drop)

    def _hedging_of(self, state: RequestState) -> Hedging | None:
        config = state.route.policy.hedge
        if config is None or not state.request.repeats:
            return None
        hedging = self._hedging.setdefault((state.route.model, state.stream), Hedging(config))
        hedging.pay_in()
        return hedging

    async def _ask(self, state: RequestState, step: NextAttempt, attempt: Attempt) -> Attempt:
        """Ask one deployment; notes in ``state`` what goes wrong."""
        policy = state.route.policy
        own_s, left_s = _limit_s(state, step), state.left_s
        limit_s = left_s if own_s is None else min(own_s, left_s)
        # A deployment that is asked late in the time of a request has not failed when that time ends.
        counts = limit_s == own_s or 2 * limit_s >= state.deadline_s
        begin = partial(read_to_first_content, hold_back=policy.hold_back)
        try:
            await _try(state, attempt, state.request, _Limit(limit_s, counts), begin)
            return attempt
        except UpstreamError as error:
            state.errors.append(error)
            state.silences += isinstance(error, UpstreamTimeout)
            if overflows(error):
                state.overflowed = step.deployment
            raise
        finally:
            hedging = self._hedging.get((state.route.model, state.stream))
            if hedging is not None and attempt.record.first_s is not None:
                hedging.note(attempt.record.first_s)

    # After content

    def _deliver(
        self, state: RequestState, attempt: Attempt, stream: ChunkStream | ByteStream
    ) -> Delivery | ByteDelivery:
        if isinstance(stream, ByteStream):
            return ByteDelivery(state, attempt, stream)
        asked = state.request
        can_resume = stream.is_chat and isinstance(asked, ChatRequest) and resumable(asked.body)
        resumes = can_resume and state.route.policy.resume
        return Delivery(state, attempt, stream, partial(self._resume, state) if resumes else None)

    async def _resume(self, state: RequestState, sent: Sent, error: UpstreamError) -> Attempt:
        """Return an attempt elsewhere that goes on from what was sent; raises ``error`` when there is none."""
        state.sent = sent
        try:
            while (step := await self._step_after(state, error)) is not None:
                with suppress(UpstreamError, InvalidRequest, Diverged):
                    return await self._continue_at(state, step, sent)
            raise error
        finally:
            state.leave_retry()
            del error  # its traceback holds this frame, and so the request: only the collector would free them

    async def _continue_at(self, state: RequestState, step: NextAttempt, sent: Sent) -> Attempt:
        """Ask a deployment for the whole answer again; if that differs, ask it to go on from what was sent."""
        deployment = step.deployment
        limit = _Limit(state.route.policy.first_event_s or _FIRST_EVENT_S)
        attempt = state.begin(deployment, step.candidates, "resume")
        try:
            await _try(state, attempt, state.request, limit, partial(after_the_same, sent=sent.said))
        except Diverged:
            text = sent.text
            start = deployment.adapter.prefill_start(deployment.model, text) if text else None
            if not text or start is None or state.attempts_left == 0:
                raise
            attempt = state.begin(deployment, step.candidates, "resume")
            assert isinstance(state.request, ChatRequest)  # noqa: S101 - nothing else is resumed
            longer = ChatRequest.of(sent.prefilled(state.request.body, start))
            await _try(state, attempt, longer, limit, _after(text[len(start) :]))
        state.answered_by(attempt)
        return attempt


class _Limit(Struct, frozen=True):
    """How long an attempt has for its answer or its first content, and whether it counts as a failure to exceed it."""

    seconds: float
    counts: bool = True


def _after(text: str) -> Begin:
    """Return how to read a stream that goes on just before ``text``, which was sent."""
    return partial(after_the_same, sent=[("content", text)]) if text else read_to_first_content


def _limit_s(state: RequestState, step: NextAttempt) -> float | None:
    """Return how long an attempt may take to its content, in seconds; None: as long as its adapter says."""
    policy = state.route.policy
    if not step.others_left:
        return None
    if not state.stream:
        return policy.total_s
    own = step.deployment.first_event_s
    return policy.first_event_s or (_FIRST_EVENT_S if own is None else None)


async def _try(state: RequestState, attempt: Attempt, request: Call, limit: _Limit, begin: Begin) -> None:
    """Have one deployment answer into ``attempt``, which is settled here unless a stream takes it along."""
    outcome: UpstreamError | str = "cancelled"
    try:
        with Deadline(limit.seconds) as deadline:
            await _ask_adapter(state, attempt, request)
            if isinstance(attempt.stream, ChunkStream):
                attempt.chunks = await begin(attempt.stream, deadline.lift)
        if attempt.answered():
            probe_others_now(state.route, time.monotonic())
        outcome = "ok"
    except TimeoutError:
        if limit.counts:
            outcome = _too_late(state, limit.seconds)
        raise _too_late(state, limit.seconds) from None
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
            state.note_headers(attempt)
            await attempt.drop(outcome)
        del outcome  # see ``_resume``
    if attempt.stream is None:
        attempt.settle("ok", Usage.read(attempt.whole.get("usage")))


async def _ask_adapter(state: RequestState, attempt: Attempt, request: Call) -> None:
    """Have one deployment answer, under the name that the client is to see; a stream shows it as it is delivered."""
    deployment = attempt.deployment
    answer = await deployment.adapter.answer(request.for_model(deployment.model), attempt.context)
    if isinstance(answer, dict):
        shown_model = state.shown_model(deployment)
        attempt.upstream_model = answer.get("model")
        attempt.whole = answer if shown_model is None else answer | {"model": shown_model}
        return
    attempt.stream = answer
    answer.idle_s = state.route.policy.idle_s


def _too_late(state: RequestState, limit_s: float) -> UpstreamTimeout:
    awaited = "the first content" if state.stream else "the answer"
    return UpstreamTimeout(f"The upstream did not send {awaited} within {limit_s:g} s.")


async def _drop(attempt: Attempt) -> None:
    """Let go of an answer that came second."""
    await attempt.drop("cancelled")
