"""The circuit breaker of one deployment: when it is left alone after failures, and how it comes back.

closed -> open        after 3 failures in a row, or when half of at least 10 outcomes of the last 30 s are failures
open -> half-open     after 5 s, doubling with each opening in a row, give or take 15 %; at most 15 s after a probe that
                      failed at once, at most 300 s after one that was silent: ten times what the probe took
half-open -> ramping  when its one probe succeeds; -> open when it fails
ramping -> closed     after 30 s, in which its share of the traffic grows from a tenth to the whole; -> open as above

Only the clock that is handed in counts; the caller decides which outcomes are failures.
"""

import random
from enum import StrEnum

#: Failures in a row that open the circuit.
FAILURES_IN_A_ROW = 3
#: Outcomes of the last ``WINDOW_S`` seconds of which half must be failures.
WINDOW_OUTCOMES = 10
WINDOW_S = 30.0
#: The first cooldown, in seconds.
FIRST_COOLDOWN_S = 5.0
#: The longest cooldown follows what a failed probe costs its client: so many times what the probe took, within these
#: bounds in seconds. With its jitter the lower one is less than 15 s.
COOLDOWN_PER_PROBE, MAX_COOLDOWN_S = 10.0, (13.0, 300.0)
#: How much a cooldown may differ, so that circuits which opened together do not close together.
JITTER = 0.15
#: How long a probe keeps others away at most, in seconds; one that is lost does not keep them away for ever.
LEASE_S = 30.0
#: How long the way back to the whole share takes, in seconds, and the share that it begins with.
RAMP_S, RAMP_START = 30.0, 0.1

_BUCKETS = 6
_BUCKET_S = WINDOW_S / _BUCKETS


class State(StrEnum):
    """What a circuit lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    #: Half-open, and its probe is under way.
    PROBING = "probing"
    RAMPING = "ramping"


class Circuit:
    """The state of one circuit. Times are monotonic seconds."""

    __slots__ = (
        "_buckets", "_confirmed", "_failed_at", "_leased_until",
        "_opened_at", "_rng", "_row", "failures", "open_until", "openings", "ramped_at",
    )  # fmt: skip

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        #: Failures since the last success.
        self.failures = 0
        #: How often it has opened.
        self.openings = 0
        #: When the latest way back ends; traffic is whole from then on.
        self.ramped_at = 0.0
        #: Openings in a row, none of them followed by a whole way back.
        self._row = 0
        self._opened_at = 0.0
        #: When its cooldown ends; 0 while it is not open.
        self.open_until = 0.0
        self._leased_until = 0.0
        self._failed_at = 0.0
        #: Successes that nothing can take back any more.
        self._confirmed = 0
        #: Outcomes by time: [number of the bucket, successes, failures].
        self._buckets = [[-1, 0, 0] for _ in range(_BUCKETS)]

    @property
    def is_closed(self) -> bool:
        """Return whether it has been closed for long, whatever the time: its state need not be looked at."""
        return not self.open_until and not self.ramped_at

    def state(self, now: float, short_cooldown: bool = False) -> State:
        """Return what it lets through; ``short_cooldown`` cuts cooldowns to the shortest: the group is mostly out."""
        if self.open_until:
            if now < self._leased_until:
                return State.PROBING
            until = min(self.open_until, self._opened_at + FIRST_COOLDOWN_S) if short_cooldown else self.open_until
            return State.OPEN if now < until else State.HALF_OPEN
        return State.RAMPING if now < self.ramped_at else State.CLOSED

    def share(self, now: float) -> float:
        """Return how much of its traffic it may have, above 0 to 1."""
        left_s = self.ramped_at - now
        return 1.0 if left_s <= 0 else max(RAMP_START, 1 - (1 - RAMP_START) * left_s / RAMP_S)

    def probe_now(self, now: float) -> None:
        """Note a reason to believe that it is healthy again: its probe is due now."""
        if self.open_until:
            self.open_until = min(self.open_until, now)

    def begin(self, now: float) -> bool:
        """Note that an attempt begins, and return whether it is the probe, which is leased to it."""
        if not self.open_until or self.state(now, short_cooldown=True) is not State.HALF_OPEN:
            return False
        self._leased_until = now + LEASE_S
        return True

    def release(self) -> None:
        """Note that the probe has ended without a result: the next attempt may be one."""
        self._leased_until = 0.0

    def succeeded(self, began: float, now: float) -> tuple[int, int]:
        """Note that an attempt of ``began`` answers; the mark that is returned lets ``failed`` take this back.

        An attempt from before the opening says nothing about now; every later one closes the circuit.
        """
        mark = (self.failures, self._confirmed)
        if self.open_until:
            if began < self._opened_at:
                return mark
            self.open_until = self._leased_until = 0.0
            self.ramped_at = now + RAMP_S
            self._buckets = [[-1, 0, 0] for _ in range(_BUCKETS)]
        elif self.ramped_at and now >= self.ramped_at + RAMP_S:
            self.ramped_at, self._row = 0.0, 0
        self.failures = 0
        self._bucket(now)[1] += 1
        return mark

    def confirm(self, answered: float) -> None:
        """Note that a success has become final; one from before the latest failure says nothing about that."""
        if answered >= self._failed_at:
            self._confirmed += 1
            self.failures = 0

    def failed(self, now: float, probe: bool = False, mark: tuple[int, int] | None = None, took_s: float = 0.0) -> None:
        """Note a failure that took ``took_s`` seconds; ``mark`` is that of a success which it takes back.

        What else fails while the circuit is open changes nothing: it was known.
        """
        bucket = self._bucket(now)
        if mark is not None:
            bucket[1] -= 1
            if mark[1] == self._confirmed:
                self.failures = max(self.failures, mark[0])
        bucket[2] += 1
        self.failures += 1
        self._failed_at = now
        if self.open_until:
            opens = probe
        else:
            opens = (probe and now < self.ramped_at) or self.failures >= FAILURES_IN_A_ROW or self._half_fail(now)
        if opens:
            self._open(now, took_s)

    def _open(self, now: float, took_s: float) -> None:
        if not self.open_until and now >= self.ramped_at:
            self._row = 0
        self._row += 1
        self.openings += 1
        shortest_s, longest_s = MAX_COOLDOWN_S
        max_cooldown_s = min(max(shortest_s, COOLDOWN_PER_PROBE * took_s), longest_s)
        cooldown_s = min(FIRST_COOLDOWN_S * 2.0 ** min(self._row - 1, 16), max_cooldown_s)
        self._opened_at = now
        self.open_until = now + cooldown_s * (1 + JITTER * (2 * self._rng.random() - 1))
        self._leased_until = self.ramped_at = 0.0

    def _bucket(self, now: float) -> list[int]:
        number = int(now / _BUCKET_S)
        bucket = self._buckets[number % _BUCKETS]
        if bucket[0] != number:
            bucket[:] = [number, 0, 0]
        return bucket

    def _half_fail(self, now: float) -> bool:
        oldest = int(now / _BUCKET_S) - _BUCKETS
        recent = [bucket for bucket in self._buckets if bucket[0] > oldest]
        good, bad = sum(bucket[1] for bucket in recent), sum(bucket[2] for bucket in recent)
        return good + bad >= WINDOW_OUTCOMES and bad >= good
