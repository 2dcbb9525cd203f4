"""One place where a model is served, how it has been doing, and one try at it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from one_api.errors import UpstreamError, UpstreamMisconfigured
from one_api.models.adapters.base import BaseModelAdapter

#: Failures in a row after which a deployment rests.
_FAILURES_TO_REST = 3
#: The first rest after failures, and the longest; it doubles in between. Seconds.
_REST_S = (5.0, 300.0)
#: How long a deployment with a bad credential or model name is left alone, in seconds.
_MISCONFIGURED_S = 1800.0


@dataclass(slots=True)
class Health:
    """How a deployment has been doing. Times are monotonic seconds."""

    in_flight: int = 0
    #: Failures since the last success.
    failures: int = 0
    resting_until: float = 0.0

    def resting(self, now: float) -> bool:
        """Say whether it should be left alone for now."""
        return now < self.resting_until

    def succeeded(self) -> None:
        """Note a good answer."""
        self.failures = 0
        self.resting_until = 0.0

    def failed(self, error: UpstreamError, now: float) -> None:
        """Note a failure: the error's class decides whether it is blamed, and how long it rests."""
        rest_s = error.retry_after_s or 0.0
        if isinstance(error, UpstreamMisconfigured):
            rest_s = _MISCONFIGURED_S
        elif error.blames:
            self.failures += 1
            if self.failures >= _FAILURES_TO_REST:
                first, longest = _REST_S
                rest_s = max(rest_s, min(first * 2.0 ** min(self.failures - _FAILURES_TO_REST, 10), longest))
        self.resting_until = max(self.resting_until, now + rest_s if rest_s else 0.0)


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
    #: It goes on with a last message of the assistant's.
    prefill: bool = False
    health: Health = field(default_factory=Health)

    @property
    def name(self) -> str:
        """Return "adapter/upstream model", which names it everywhere."""
        return f"{self.adapter_name}/{self.model}"


class Attempt:
    """One try at one deployment. It is settled exactly once, by whichever end comes first."""

    def __init__(self, deployment: Deployment, clock: Callable[[], float] = time.monotonic) -> None:
        self._deployment = deployment
        self._clock = clock
        self._open = True
        deployment.health.in_flight += 1

    def answered(self) -> None:
        """Note that the first event, or the whole answer, is there."""
        self._deployment.health.succeeded()

    def settle(self, outcome: UpstreamError | str) -> None:
        """Close the books: ``outcome`` is "ok", "cancelled", or what went wrong."""
        if not self._open:
            return
        self._open = False
        self._deployment.health.in_flight -= 1
        if isinstance(outcome, UpstreamError):
            self._deployment.health.failed(outcome, self._clock())
