"""One place where a model is served, how it has been doing, and one try at it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from one_api.errors import UpstreamError
from one_api.models.adapters.base import BaseModelAdapter
from one_api.models.health import FIXED_TOKENS, TYPICAL_TOKENS, Health


@dataclass(slots=True, eq=False)
class Deployment:
    """An adapter, and the name of a model there."""

    adapter_name: str
    adapter: BaseModelAdapter
    model: str
    weight: float = 1.0
    #: Requests in flight at once.
    max_concurrency: int = 1000
    #: How long its first event may take, in seconds, where the configuration says so; the adapter keeps to it.
    first_event_s: float | None = None
    health: Health = field(default_factory=Health)

    @property
    def name(self) -> str:
        """Return "adapter/upstream model", which names it everywhere."""
        return f"{self.adapter_name}/{self.model}"


class Attempt:
    """One try at one deployment. It is settled exactly once, by whichever end comes first."""

    def __init__(
        self, deployment: Deployment, stream: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._deployment = deployment
        self._health = deployment.health
        self._timing = self._health.timing(stream)
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._answered: float | None = None
        #: What the circuit needs to take back the success that an answer is, until the stream breaks.
        self._mark: tuple[int, int] | None = None
        self._open = True
        self._health.in_flight += 1
        self._load = self._health.in_flight
        self._timing.begin(self._began)
        self._probe = self._health.circuit.begin(self._began)

    def answered(self) -> bool:
        """Note that the first event, or the whole answer, is there; say whether this ends an illness."""
        if not self._open or self._answered is not None:
            return False
        now = self._answered = self._clock()
        self._timing.end(self._began)
        was_out = self._health.circuit.open_until > 0
        self._mark = self._health.succeeded(self._began, now)
        if self._stream:
            self._timing.answered(now - self._began, self._load, now)
        return was_out and not self._health.circuit.open_until

    def settle(self, outcome: UpstreamError | str, tokens: int | None = None) -> None:
        """Close the books.

        Args:
            outcome: "ok", "cancelled", what went wrong, or "outrun" when another has answered first, which is time
                without an answer. Whoever leaves and whose request is refused moves nothing.
            tokens: the length of the answer, where it is known.
        """
        if not self._open:
            return
        if outcome == "ok":
            self.answered()
        self._open = False
        self._health.in_flight -= 1
        now = self._clock()
        if self._answered is None:
            self._timing.end(self._began)
        if isinstance(outcome, UpstreamError):
            if outcome.counts_as_failure and self._answered is None:
                self._timing.wasted(now - self._began, now)
            self._health.failed(outcome, now, self._probe, self._mark)
            return
        if outcome == "ok":
            self._finish(now, tokens)
            return
        if outcome == "outrun":
            self._timing.wasted(now - self._began, now)
        if self._probe and self._mark is None:
            self._health.circuit.release()

    def _finish(self, now: float, tokens: int | None) -> None:
        """Note a complete answer and its speed."""
        answered = self._answered or now
        self._health.circuit.confirm(answered)
        if self._stream:
            self._timing.generated(now - answered, tokens or TYPICAL_TOKENS, now)
            return
        # A typical answer would have taken so long.
        scale = (TYPICAL_TOKENS + FIXED_TOKENS) / (tokens + FIXED_TOKENS) if tokens else 1.0
        self._timing.answered((answered - self._began) * scale, self._load, now)
