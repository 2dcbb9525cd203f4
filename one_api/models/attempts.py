"""One request on its way through the deployments of its route, and each try that is made for it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from one_api.errors import UpstreamError
from one_api.models.deployment import Attempt, Deployment
from one_api.models.routing import Candidate, Route
from one_api.schema import ChatRequest, Usage
from one_api.telemetry import AttemptRecord, CallRecord, CandidateRecord, current_call


class Try:
    """One try at one deployment: its health's books and its record, closed together and once."""

    def __init__(
        self,
        deployment: Deployment,
        candidates: Sequence[Candidate] = (),
        stream: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deployment = deployment
        self.record = AttemptRecord(deployment.name, candidates=[_as_seen(each) for each in candidates])
        self._attempt = Attempt(deployment, stream, clock)
        self._clock = clock
        self._began = clock()

    def answered(self) -> bool:
        """Note that the first content, or the whole answer, is there; say whether this ends an illness."""
        self.record.first_s = self._clock() - self._began
        return self._attempt.answered()

    def settle(self, outcome: UpstreamError | str, usage: Usage | None = None) -> None:
        """Close the books: ``outcome`` is as ``Attempt.settle`` has it, "diverged", or the name of our own refusal."""
        if self.record.seconds is not None:
            return
        self.record.seconds = self._clock() - self._began
        self.record.usage = usage
        self.record.outcome = type(outcome).__name__ if isinstance(outcome, UpstreamError) else outcome
        self._attempt.settle(outcome, usage.completion_tokens if usage is not None else None)


def _as_seen(candidate: Candidate) -> CandidateRecord:
    return CandidateRecord(
        candidate.deployment.name, str(candidate.state), candidate.cost_s, candidate.excluded, candidate.fallback
    )


@dataclass(slots=True)
class Trip:
    """One request: what it asks for, and what has been tried for it."""

    route: Route
    request: ChatRequest
    most_attempts: int
    #: For all tries together, in seconds.
    deadline_s: float
    record: CallRecord | None = field(default_factory=current_call.get)
    tries: list[Try] = field(default_factory=list)
    errors: list[UpstreamError] = field(default_factory=list)
    #: How many tries ended in silence.
    silences: int = 0
    #: The deployment whose context was too small for the request.
    overflowed: Deployment | None = None
    #: When it began, in the loop's time.
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def left_s(self) -> float:
        """Return how much of the time for all tries is left, in seconds."""
        return self._began + self.deadline_s - asyncio.get_running_loop().time()

    @property
    def stream(self) -> bool:
        """Say whether a stream is asked for."""
        return self.request.stream

    @property
    def tried(self) -> list[Deployment]:
        """Return the deployments that were asked, in order."""
        return [each.deployment for each in self.tries]

    @property
    def spent(self) -> bool:
        """Say whether there may be no further try: one may take over from a silent deployment, not two."""
        return len(self.tries) >= self.most_attempts or self.silences >= 2

    def begin(self, deployment: Deployment, candidates: Sequence[Candidate]) -> Try:
        """Open the books of a try."""
        attempt = Try(deployment, candidates, self.stream)
        self.tries.append(attempt)
        if self.record is not None:
            self.record.attempts.append(attempt.record)
        return attempt

    def answered_by(self, deployment: Deployment) -> None:
        """Note whose answer the client gets."""
        if self.record is not None:
            self.record.deployment = deployment.name

    def shown_model(self, deployment: Deployment) -> str | None:
        """Return the name that the client is to see; None leaves the upstream's own."""
        is_alias = deployment in self.route.targets and self.route.model != deployment.model
        return self.route.model if is_alias else None
