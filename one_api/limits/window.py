"""How much a key has used in the last minute: the arithmetic of limits, without clock or storage.

A moving window of whole seconds: what was used in a second counts for at least the 60 s that follow it. So no minute,
wherever it begins, holds more than the limit, and there is no burst at a minute's edge.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

#: The window, in seconds; one more bucket than that, because the second that leaves it counts to its end.
WINDOW_S = 60
BUCKETS = WINDOW_S + 1
#: A lease that is not renewed ends after this time, in seconds.
LEASE_S = 60.0

Kind = Literal["requests", "tokens", "concurrent"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; None is no limit."""

    requests_per_minute: int
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go on, and what is left. Times are in seconds from now."""

    #: The limit that stands in the way; None admits.
    refused_by: Kind | None
    retry_after_s: float
    remaining_requests: int
    reset_requests_s: float
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


def empty() -> list[int]:
    """Return counts of nothing."""
    return [0] * BUCKETS


@dataclass(slots=True)
class Window:
    """What one key has used: counts by second, and requests in flight by lease."""

    #: The newest second, of any clock that only goes forward.
    newest: int = 0
    requests: list[int] = field(default_factory=empty)
    tokens: list[int] = field(default_factory=empty)
    #: Lease -> when it ends.
    leases: dict[int, float] = field(default_factory=dict)

    def take(self, limits: Limits, now: float, tokens: int, lease: int) -> Verdict:
        """Count a request of ``tokens`` if every limit allows it, else nothing.

        A request larger than the whole token limit is refused as if the window had to be empty for it.
        """
        self._advance(int(now))
        most = limits.tokens_per_minute
        used, used_tokens = sum(self.requests), 0 if most is None else sum(self.tokens)
        refused: list[tuple[float, Kind]] = []
        if used >= limits.requests_per_minute:
            refused.append((self._until(self.requests, used - limits.requests_per_minute + 1, now), "requests"))
        if most is not None and used_tokens + tokens > most:
            refused.append((self._until(self.tokens, min(used_tokens + tokens - most, used_tokens), now), "tokens"))
        if limits.concurrent is not None:
            self.leases = {each: ends for each, ends in self.leases.items() if ends > now}
            if len(self.leases) >= limits.concurrent:
                refused.append((1.0, "concurrent"))
        if not refused:
            slot = self.newest % BUCKETS
            self.requests[slot] += 1
            self.tokens[slot] += tokens
            used, used_tokens = used + 1, used_tokens + tokens
            if limits.concurrent is not None:
                self.leases[lease] = now + LEASE_S
        wait_s, kind = max(refused, default=(0.0, None))
        return Verdict(
            kind,
            wait_s,
            max(0, limits.requests_per_minute - used),
            self._until_empty(self.requests, now),
            None if most is None else max(0, most - used_tokens),
            self._until_empty(self.tokens, now) if most is not None else 0.0,
        )

    def settle(self, now: float, counted_at: float, estimated: int, actual: int) -> None:
        """Replace a request's estimated tokens by the actual ones, in the second in which it was counted."""
        self._advance(int(now))
        age = self.newest - int(counted_at)
        if not 0 <= age < BUCKETS:
            # The estimate has left the window. What was used beyond it still counts, from now.
            self.tokens[self.newest % BUCKETS] += max(0, actual - estimated)
            return
        slot = int(counted_at) % BUCKETS
        self.tokens[slot] = max(0, self.tokens[slot] + actual - estimated)

    def used(self, now: float) -> tuple[int, int]:
        """Return the requests and tokens that count now."""
        self._advance(int(now))
        return sum(self.requests), sum(self.tokens)

    def add(self, now: float, counted_at: float, requests: int, tokens: int) -> None:
        """Add to what counts (or take from it, down to nothing) in an earlier second that is still in the window."""
        self._advance(int(now))
        if 0 <= self.newest - int(counted_at) < BUCKETS:
            slot = int(counted_at) % BUCKETS
            self.requests[slot] = max(0, self.requests[slot] + requests)
            self.tokens[slot] = max(0, self.tokens[slot] + tokens)

    def raise_to(self, now: float, other: "Window") -> None:
        """Let no second count less than it does in ``other``; its leases are kept, too."""
        self._advance(int(now))
        for age, requests, tokens in other.counted(now):
            slot = (self.newest - age) % BUCKETS
            self.requests[slot] = max(self.requests[slot], requests)
            self.tokens[slot] = max(self.tokens[slot], tokens)
        self.leases = other.leases | self.leases

    def drop_oldest(self, requests: int, tokens: int) -> None:
        """Take so much from the oldest seconds."""
        for counts, excess in ((self.requests, requests), (self.tokens, tokens)):
            for second in range(self.newest - WINDOW_S, self.newest + 1) if excess else ():
                dropped = min(excess, counts[second % BUCKETS])
                counts[second % BUCKETS] -= dropped
                excess -= dropped

    def counted(self, now: float) -> list[tuple[int, int, int]]:
        """Return what counts now as (age in whole seconds, requests, tokens), for each second that has any."""
        self._advance(int(now))
        slots = [(age, (self.newest - age) % BUCKETS) for age in range(BUCKETS)]
        found = [(age, self.requests[slot], self.tokens[slot]) for age, slot in slots]
        return [(age, requests, tokens) for age, requests, tokens in found if requests or tokens]

    def renew(self, now: float, lease: int) -> None:
        """Keep a lease alive."""
        self.leases[lease] = now + LEASE_S

    def release(self, lease: int) -> None:
        """End a lease."""
        self.leases.pop(lease, None)

    def _advance(self, second: int) -> None:
        """Forget what has left the window."""
        if second - self.newest >= BUCKETS or second < self.newest - BUCKETS:
            self.requests, self.tokens, self.newest = empty(), empty(), second
            return
        while self.newest < second:
            self.newest += 1
            self.requests[self.newest % BUCKETS] = 0
            self.tokens[self.newest % BUCKETS] = 0

    def _until_empty(self, counts: list[int], now: float) -> float:
        """Return how long it takes until all that was counted has left the window."""
        for second in range(self.newest, self.newest - BUCKETS, -1):
            if counts[second % BUCKETS]:
                return max(0.0, second + BUCKETS - now)
        return 0.0

    def _until(self, counts: list[int], needed: int, now: float) -> float:
        """Return how long it takes until ``needed`` of what was counted has left the window."""
        if needed <= 0:
            return 0.0
        for second in range(self.newest - WINDOW_S, self.newest + 1):
            needed -= counts[second % BUCKETS]
            if needed <= 0:
                return max(0.0, second + BUCKETS - now)
        return float(math.ceil(self.newest + BUCKETS - now))
