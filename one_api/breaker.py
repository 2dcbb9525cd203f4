"""A circuit breaker for services that we can do without for a while."""

import time
from collections.abc import Callable

#: Failures in a row that open it, and how long it stays open, in seconds.
_FAILURES = 3
OPEN_S = 5.0


class Breaker:
    """Keeps calls from a service that fails: after failures in a row, only one probe goes through now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether it is open: the service has failed several times in a row."""
        return self._failures >= _FAILURES

    @property
    def failures(self) -> int:
        """Return how often the service has failed in a row."""
        return self._failures

    def admits(self) -> bool:
        """Return whether to call now. While open, the call for which it says yes is the probe."""
        if self._failures < _FAILURES:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + OPEN_S
        return True

    def succeeded(self) -> None:
        """Close."""
        self._failures = 0

    def failed(self) -> None:
        """Count a failure; the third in a row opens."""
        self._failures += 1
        if self.is_open:
            self._open_until = self._clock() + OPEN_S
