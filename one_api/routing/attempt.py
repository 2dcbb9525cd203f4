"""One request on its way through the deployments of its route, and each attempt for it."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from one_api.contract import ByteStream, Call, ChunkStream, Kind, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.traces import traced_parameters
from one_api.errors import UpstreamError
from one_api.records import AttemptContext, AttemptKind, AttemptRecord, CallContext, CandidateRecord, Trace
from one_api.routing.deployment import Deployment
from one_api.routing.health import FIXED_TOKENS, TYPICAL_TOKENS
from one_api.routing.resume import Sent
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Route
from one_api.routing.selection import Candidate


class Attempt:
    """One attempt at one deployment, from its begin to its settling.

    It holds the answer, and keeps the health of the deployment and the record of the request up to date. It is settled
    exactly once, by whichever end comes first.
    """

    def __init__(
        self,
        deployment: Deployment,
        stream: bool = False,
        clock: Callable[[], float] = time.monotonic,
        candidates: Sequence[Candidate] = (),
        context: AttemptContext | None = None,
        kind: AttemptKind = "first",
        asked_for: Kind = "chat",
    ) -> None:
        self.deployment = deployment
        #: What its adapter knows of the call, and where it puts what clients are to know of the answer.
        self.context = context or AttemptContext()
        self.record = AttemptRecord(deployment.name, kind=kind, candidates=[_as_seen(each) for each in candidates])
        #: A whole answer, once it has come.
        self.whole: JSONObject = {}
        #: What the upstream calls its model in it.
        self.upstream_model: object = None
        #: The stream, if the answer is one, once it has opened.
        self.stream: ChunkStream | ByteStream | None = None
        #: What was read from a stream and has not been sent.
        self.chunks: list[JSONObject] = []
        self._health = deployment.health
        self._timing = self._health.timing(stream)
        self._is_streamed = stream
        self._asked_for = asked_for
        self._clock = clock
        self._began = self.record.began = clock()
        self._answered: float | None = None
        #: What the circuit needs to take back the success that an answer is, until the stream breaks.
        self._mark: tuple[int, int] | None = None
        self._health.in_flight += 1
        self._load = self._health.in_flight
        self._timing.begin(self._began)
        self._probe = self._health.circuit.begin(self._began)

    @property
    def is_open(self) -> bool:
        """Return whether it has not been settled."""
        return self.record.seconds is None

    def answered(self) -> bool:
        """Note that the first content, or the whole answer, is there; return whether this ends an outage."""
        if not self.is_open or self._answered is not None:
            return False
        now = self._answered = self._clock()
        self.record.first_s = now - self._began
        self._timing.end(self._began)
        was_out = self._health.circuit.open_until > 0
        self._mark = self._health.succeeded(self._began, now, self._asked_for)
        if self._is_streamed:
            self._timing.answered(now - self._began, self._load, now)
        return was_out and not self._health.circuit.open_until

    def settle(self, outcome: UpstreamError | str, usage: Usage | None = None) -> None:
        """Note how it ended, for the health of its deployment and for the record; a second time does nothing.

        Args:
            outcome: "ok", "cancelled", "diverged", what went wrong, the name of our own refusal, or "hedge_lost" when
                another has answered first, which is time without an answer. A client that leaves and a request that
                is refused move nothing.
            usage: what the answer took, where it is known.
        """
        if not self.is_open:
            return
        if outcome == "ok" and self._answered is None:
            self.answered()
        now = self._clock()
        took_s = self.record.seconds = now - self._began
        self.record.usage = usage
        self._note_response()
        self.record.outcome = type(outcome).__name__ if isinstance(outcome, UpstreamError) else outcome
        self._health.in_flight -= 1
        if self._answered is None:
            self._timing.end(self._began)
        if isinstance(outcome, UpstreamError):
            if outcome.counts_as_failure and self._answered is None:
                self._timing.wasted(took_s, now)
            self._health.failed(outcome, now, self._probe, self._mark, took_s, self._asked_for)
        elif outcome == "ok":
            self._finish(now, usage.completion_tokens if usage is not None else None)
        else:
            if outcome == "hedge_lost":
                self._timing.wasted(took_s, now)
            if self._probe and self._mark is None:
                self._health.circuit.release()

    def _note_response(self) -> None:
        """Note what the upstream's response says of itself."""
        record = self.record
        record.status, record.upstream_request_id = self.context.status, self.context.upstream_request_id
        record.native = self.context.native
        if self.stream is not None:
            record.units = self.stream.units
            record.describe(self.stream.finish_reason, self.stream.response_id, self.stream.response_model)
        elif self.whole:
            choices = self.whole.get("choices") or [{}]
            record.describe(choices[0].get("finish_reason"), self.whole.get("id"), self.upstream_model)

    async def drop(self, outcome: UpstreamError | str) -> None:
        """Let go of the upstream, and settle."""
        if self.stream is None:
            self.settle(outcome)
            return
        try:
            await self.stream.aclose()
        finally:
            self.settle(outcome, self.stream.usage)

    def _finish(self, now: float, tokens: int | None) -> None:
        """Note a complete answer and its speed."""
        answered = self._answered or now
        self._health.circuit.confirm(answered)
        if self._is_streamed:
            self._timing.generated(now - answered, tokens or TYPICAL_TOKENS, now)
            return
        # A typical answer would have taken so long.
        scale = (TYPICAL_TOKENS + FIXED_TOKENS) / (tokens + FIXED_TOKENS) if tokens else 1.0
        self._timing.answered((answered - self._began) * scale, self._load, now)


def _as_seen(candidate: Candidate) -> CandidateRecord:
    return CandidateRecord(
        candidate.deployment.name, str(candidate.state), candidate.cost_s, candidate.excluded, candidate.fallback
    )


class RequestState(Struct):
    """One request: what it asks for, and what has been tried for it."""

    route: Route
    request: Call
    context: CallContext
    max_attempts: int
    #: For all attempts together, in seconds.
    deadline_s: float
    retries: RetryLimit
    attempts: list[Attempt] = field(default_factory=list)
    errors: list[UpstreamError] = field(default_factory=list)
    #: How many attempts ended by a timeout.
    silences: int = 0
    #: The deployment whose context was too small for the request.
    overflowed: Deployment | None = None
    #: What the client has of the answer, once its stream has broken.
    sent: Sent | None = None
    #: When it began, in the loop's time.
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _is_retrying: bool = False
    _ended: bool = False

    def __post_init__(self) -> None:
        self.retries.begin()

    @property
    def left_s(self) -> float:
        """Return how much of the time for all attempts is left, in seconds."""
        return self._began + self.deadline_s - asyncio.get_running_loop().time()

    @property
    def stream(self) -> bool:
        """Return whether a stream is asked for."""
        return self.request.stream

    @property
    def tried(self) -> list[Deployment]:
        """Return the deployments that were asked, in order."""
        return [each.deployment for each in self.attempts]

    @property
    def attempts_left(self) -> int:
        """Return how many more attempts there may be: one may take over from a silent deployment, not two."""
        return 0 if self.silences >= 2 else max(0, self.max_attempts - len(self.attempts))

    @property
    def may_probe(self) -> bool:
        """Return whether the next attempt may go to a deployment that has just been out.

        Only if the request could be repeated elsewhere at once; where no request ever could, any may.
        """
        if self.max_attempts == 1 or not self.retries.allows_any:
            return True
        has_room = self._is_retrying or self.retries.has_room
        return self.attempts_left > 1 and not self.silences and has_room

    def begin(
        self, deployment: Deployment, candidates: Sequence[Candidate], kind: AttemptKind | None = None
    ) -> Attempt:
        """Begin an attempt; ``kind`` is left out where it is neither a hedge nor to resume a stream."""
        context = self.context.for_attempt()
        kind = kind or self._kind_of_next(deployment)
        attempt = Attempt(
            deployment,
            self.stream,
            candidates=candidates,
            context=context,
            kind=kind,
            asked_for=self.request.kind,
        )
        self.attempts.append(attempt)
        self.context.begins(attempt.record)
        if self.context.record.trace is not None:
            self._trace(self.context.record.trace, attempt)
        return attempt

    def _trace(self, trace: Trace, attempt: Attempt) -> None:
        """Give an attempt an id of its own, which may be sent to its upstream."""
        attempt.record.span_id = span_id = os.urandom(8).hex()
        attempt.context.trace_headers = trace.headers(span_id)
        if not trace.operation:
            trace.operation = self.request.kind
            trace.parameters = traced_parameters(getattr(self.request, "body", None))

    def _kind_of_next(self, deployment: Deployment) -> AttemptKind:
        if deployment not in self.route.targets:
            return "fallback"
        return "retry" if self.attempts else "first"

    def answered_by(self, attempt: Attempt) -> None:
        """Note whose answer the client gets, and what there is to know of it."""
        record = self.context.record
        record.deployment = attempt.deployment.name
        record.warnings += attempt.context.warnings
        self.note_headers(attempt)

    def note_headers(self, attempt: Attempt) -> None:
        """Note the headers that an attempt's upstream responded with, if it has: the last ones are shown."""
        if attempt.context.headers is not None:
            self.context.record.upstream_headers = attempt.context.headers

    def shown_model(self, deployment: Deployment) -> str | None:
        """Return the name that the client is to see; None leaves the upstream's own."""
        is_alias = deployment in self.route.targets and self.route.model != deployment.model
        return self.route.model if is_alias else None

    # The retry limit

    async def enter_retry(self, timeout_s: float) -> bool:
        """Begin a retry, after a wait if there is no room; False if there is none in time."""
        if not self._is_retrying:
            self._is_retrying = await self.retries.wait(timeout_s)
        return self._is_retrying

    def leave_retry(self) -> None:
        """Note that the retry is over, if there was one."""
        if self._is_retrying:
            self._is_retrying = False
            self.retries.leave()

    def end(self) -> None:
        """Note that nothing of the request is under way any more."""
        self.leave_retry()
        self.errors.clear()  # the frames that they hold lead back here: only the collector would free all of it
        if not self._ended:
            self._ended = True
            self.retries.end()
