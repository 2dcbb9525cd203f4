"""How many retries there may be, whom they may go to after an error, and how long to wait before one."""

import math
import random
import time
from collections.abc import Callable, Sequence

from one_api.errors import (
    NoDeployment,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnreachable,
)
from one_api.models.deployment import Deployment
from one_api.models.health import FADE

#: Retries that are always there, on top of the share of the traffic.
_RESERVE = 3.0
#: Less than this part of a retry is nothing.
_EPSILON = 0.001
#: Bounds of a back-off, in seconds.
_BACKOFF_S = (0.05, 1.0)
#: The longest wait for an upstream that says when it will be ready, in seconds.
_LONGEST_WAIT_S = 5.0


class RetryBudget:
    """Retries as a share of the traffic of late, beyond a reserve: ``ratio`` of the requests, and ``reserve`` more.

    Both are counted with the half-life of everything that is known of deployments, so what was saved up in good
    times pays for the requests that a deployment takes with it as it dies, and is not there for an outage that lasts.
    """

    def __init__(self, ratio: float, reserve: float = _RESERVE, clock: Callable[[], float] = time.monotonic) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._clock = clock
        self._requests = self._retries = self._at = 0.0

    def pay_in(self) -> None:
        """Note a request."""
        self._fade()
        self._requests += 1

    def holds(self, retries: int) -> bool:
        """Say whether so many could be taken out."""
        self._fade()
        # An epsilon, since a tenth of ten requests that have faded by nothing worth mentioning is less than one.
        return self._retries + retries <= self._reserve + self._ratio * self._requests + _EPSILON

    def take(self) -> bool:
        """Take one retry out; False when there is none."""
        if not self.holds(1):
            return False
        self._retries += 1
        return True

    def _fade(self) -> None:
        now = self._clock()
        factor = math.exp(FADE * (now - self._at))
        self._requests *= factor
        self._retries *= factor
        self._at = now


def costs_budget(error: UpstreamError) -> bool:
    """Say whether a retry after ``error`` adds to what upstreams have to bear.

    Not if nothing was sent, nor if the request is too long for a model and goes to one that has the room.
    """
    return not isinstance(error, UpstreamUnreachable) and not overflows(error)


def overflows(error: UpstreamError) -> bool:
    """Say whether the request was refused for being longer than the model's context."""
    return isinstance(error, UpstreamRejected) and error.code == "context_length_exceeded"


def has_room(deployment: Deployment, than: Deployment) -> bool:
    """Say whether the context of a deployment is larger than another's, or not known."""
    known, room = _context(than), _context(deployment)
    return known is None or room is None or room > known


def _context(deployment: Deployment) -> int | None:
    info = deployment.adapter.get_model_info(deployment.model)
    return info.context_window if info is not None else None


def wait_before_again(error: UpstreamError, failures: int, rng: random.Random) -> float | None:
    """Return how long to wait before the same deployment is asked again, in seconds; None: not at all.

    It may be asked after what it asks for itself, if that is short, and after a back-off when it failed or hung up.
    One that was silent, that cannot be reached, or that does not speak sense is left alone.
    """
    if not error.retry_same:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= _LONGEST_WAIT_S else None
    if error.cooldown_s:  # a limit is reached, and nobody knows for how long
        return None
    least, most = _BACKOFF_S
    return rng.uniform(least, min(most, 2 * least * 2.0 ** min(failures, 10)))


def worst_news(errors: Sequence[UpstreamError], model: str) -> Exception:
    """Return the error for the client, of all that were met.

    Usually the last. When all were rate limits, the one that is over first; when the request was too long for its
    model, that, since it is what the client can change.
    """
    if not errors:
        return NoDeployment(f"Every deployment of `{model}` is busy: try again in a moment.", retry_after_s=1)
    if all(isinstance(error, UpstreamRateLimited) for error in errors):
        return min(errors, key=lambda error: error.retry_after_s or float("inf"))
    return next((error for error in errors if overflows(error)), errors[-1])
