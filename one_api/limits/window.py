"""How much a key has used in the last minute: the arithmetic of limits, without clock or storage.

A moving window of whole seconds: what was used in a second counts for at least the 60 s that follow it. So no minute,
wherever it begins, holds more than the limit, and there is no burst at a minute's edge. The counts are one row of
numbers, in memory or in a file, with their sums beside them: a request reads and changes a few of them.

For a period of another length the caller divides its times by ``period / 60``: a window is always of 60 ticks.
"""

import math
from array import array
from dataclasses import dataclass
from typing import Literal, TypeAlias

from msgspec import Struct

#: The window, in seconds; one more bucket than that, because the second that leaves it counts to its end.
WINDOW_S = 60
BUCKETS = WINDOW_S + 1
#: A lease that is not renewed ends after this time, in seconds.
LEASE_S = 60.0

Kind = Literal["requests", "tokens", "concurrent"]
#: 64-bit numbers: the newest second, the sums of requests and tokens, then the requests and the tokens of each second.
Numbers: TypeAlias = "array[int] | memoryview[int]"
_NEWEST, _REQUESTS, _TOKENS, _BUCKETS_OF_REQUESTS = range(4)
_BUCKETS_OF_TOKENS = _BUCKETS_OF_REQUESTS + BUCKETS
NUMBERS = _BUCKETS_OF_TOKENS + BUCKETS
#: Requests a minute where they are not limited: they are counted all the same, for a limit that comes later.
UNLIMITED = 1 << 40
#: No request counts for more, whatever an upstream says that it used.
_MAX_COUNT = 1 << 40
_EMPTY = array("q", bytes(8 * NUMBERS))
#: Where the sum of each kind is, and where its buckets begin.
_KINDS = ((_REQUESTS, _BUCKETS_OF_REQUESTS), (_TOKENS, _BUCKETS_OF_TOKENS))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; None is no limit, of requests ``UNLIMITED``."""

    requests_per_minute: int
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class Verdict(Struct, frozen=True):
    """Whether a request may go on, and what is left. Times are in seconds from now."""

    #: The limit that stands in the way; None admits.
    refused_by: Kind | None
    retry_after_s: float
    remaining_requests: int
    reset_requests_s: float
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


class Window:
    """What one key has used: counts by second, of any clock that only goes forward, and requests in flight by lease."""

    __slots__ = ("leases", "numbers")

    def __init__(self, numbers: "Numbers | None" = None, leases: dict[int, float] | None = None) -> None:
        self.numbers = array("q", _EMPTY) if numbers is None else numbers
        #: Lease -> when it ends.
        self.leases: dict[int, float] = {} if leases is None else leases

    def copy(self) -> "Window":
        """Return one that changes apart from this one."""
        return Window(array("q", self.numbers), dict(self.leases))

    def take(self, limits: Limits, now: float, tokens: int, lease: int, requests: int = 1) -> Verdict:
        """Count a request of ``tokens`` (or several requests) if every limit allows it, else nothing.

        A request larger than the whole token limit is refused as if the window had to be empty for it.
        """
        newest = self._advance(int(now))
        numbers, limit, max_tokens, concurrent = (
            self.numbers, limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent
        )  # fmt: skip
        used, used_tokens = numbers[_REQUESTS], numbers[_TOKENS]
        refused: list[tuple[float, Kind]] = []
        if used + requests > limit:
            needed = min(used + requests - limit, used)
            refused.append((self._until(_BUCKETS_OF_REQUESTS, needed, now), "requests"))
        if max_tokens is not None and used_tokens + tokens > max_tokens:
            needed = min(used_tokens + tokens - max_tokens, used_tokens)
            refused.append((self._until(_BUCKETS_OF_TOKENS, needed, now), "tokens"))
        if concurrent is not None:
            self.leases = {each: ends for each, ends in self.leases.items() if ends > now}
            if len(self.leases) >= concurrent:
                refused.append((1.0, "concurrent"))
        if not refused:
            slot = newest % BUCKETS
            numbers[_BUCKETS_OF_REQUESTS + slot] += requests
            numbers[_REQUESTS] = used = used + requests
            if tokens:
                numbers[_BUCKETS_OF_TOKENS + slot] += tokens
                numbers[_TOKENS] = used_tokens = used_tokens + tokens
            if concurrent is not None:
                self.leases[lease] = now + LEASE_S
        wait_s, kind = max(refused, default=(0.0, None))
        return Verdict(
            kind,
            wait_s,
            max(0, limit - used),
            self._until_empty(_REQUESTS, _BUCKETS_OF_REQUESTS, now),
            None if max_tokens is None else max(0, max_tokens - used_tokens),
            self._until_empty(_TOKENS, _BUCKETS_OF_TOKENS, now) if max_tokens is not None else 0.0,
        )

    def settle(self, now: float, counted_at: float, estimated: int, actual: int) -> None:
        """Replace a request's estimated tokens by the actual ones, in the second in which it was counted."""
        newest = self._advance(int(now))
        if 0 <= newest - int(counted_at) < BUCKETS:
            self._add(_TOKENS, _BUCKETS_OF_TOKENS, int(counted_at), actual - estimated)
        else:
            # The estimate has left the window. What was used beyond it still counts, from now.
            self._add(_TOKENS, _BUCKETS_OF_TOKENS, newest, max(0, actual - estimated))

    def used(self, now: float) -> tuple[int, int]:
        """Return the requests and tokens that count now."""
        self._advance(int(now))
        return self.numbers[_REQUESTS], self.numbers[_TOKENS]

    def add(self, now: float, counted_at: float, requests: int, tokens: int) -> None:
        """Add to what counts (or take from it, down to nothing) in an earlier second that is still in the window."""
        newest = self._advance(int(now))
        if 0 <= newest - int(counted_at) < BUCKETS:
            self._add(_REQUESTS, _BUCKETS_OF_REQUESTS, int(counted_at), requests)
            self._add(_TOKENS, _BUCKETS_OF_TOKENS, int(counted_at), tokens)

    def raise_to(self, now: float, other: "Window") -> None:
        """Let no second count less than it does in ``other``; its leases are kept, too."""
        newest = self._advance(int(now))
        for age, *counts in other.counted(now):
            for (total, buckets), count in zip(_KINDS, counts, strict=True):
                missing = count - self.numbers[buckets + (newest - age) % BUCKETS]
                self._add(total, buckets, newest - age, max(0, missing))
        self.leases = other.leases | self.leases

    def drop_oldest(self, requests: int, tokens: int) -> None:
        """Take so much from the oldest seconds."""
        newest = self.numbers[_NEWEST]
        for (total, buckets), excess in zip(_KINDS, (requests, tokens), strict=True):
            for second in range(newest - WINDOW_S, newest + 1) if excess else ():
                dropped = min(excess, self.numbers[buckets + second % BUCKETS])
                self._add(total, buckets, second, -dropped)
                excess -= dropped

    def counted(self, now: float) -> list[tuple[int, int, int]]:
        """Return what counts now as (age in whole seconds, requests, tokens), for each second that has any."""
        newest, numbers = self._advance(int(now)), self.numbers
        slots = [(age, (newest - age) % BUCKETS) for age in range(BUCKETS)]
        found = [(age, numbers[_BUCKETS_OF_REQUESTS + slot], numbers[_BUCKETS_OF_TOKENS + slot]) for age, slot in slots]
        return [(age, requests, tokens) for age, requests, tokens in found if requests or tokens]

    def oldest_leaves(self, now: float) -> float:
        """Return how long it takes until the oldest request that counts has left the window; 0 when none does."""
        self._advance(int(now))
        return self._until(_BUCKETS_OF_REQUESTS, min(1, self.numbers[_REQUESTS]), now)

    def all_leave(self, now: float) -> float:
        """Return how long it takes until all requests have left the window."""
        self._advance(int(now))
        return self._until_empty(_REQUESTS, _BUCKETS_OF_REQUESTS, now)

    def clear(self) -> None:
        """Forget everything."""
        self.numbers[:] = _EMPTY
        self.leases.clear()

    def renew(self, now: float, lease: int) -> None:
        """Keep a lease alive."""
        self.leases[lease] = now + LEASE_S

    def release(self, lease: int) -> None:
        """End a lease."""
        self.leases.pop(lease, None)

    def _add(self, total: int, buckets: int, second: int, count: int) -> None:
        """Add to one second and to its sum; neither falls below nothing."""
        place = buckets + second % BUCKETS
        count = min(max(count, -self.numbers[place]), _MAX_COUNT)
        self.numbers[place] += count
        self.numbers[total] += count

    def _advance(self, second: int) -> int:
        """Forget what has left the window; returns its newest second."""
        numbers = self.numbers
        newest = numbers[_NEWEST]
        if second - newest >= BUCKETS or second < newest - BUCKETS:
            numbers[:] = _EMPTY
            numbers[_NEWEST] = second
            return second
        while newest < second:
            newest += 1
            for total, buckets in _KINDS:
                if expired := numbers[buckets + newest % BUCKETS]:
                    numbers[total] -= expired
                    numbers[buckets + newest % BUCKETS] = 0
            numbers[_NEWEST] = newest
        return newest

    def _until_empty(self, total: int, buckets: int, now: float) -> float:
        """Return how long it takes until all that was counted has left the window."""
        numbers = self.numbers
        newest = numbers[_NEWEST]
        for second in range(newest, newest - BUCKETS, -1) if numbers[total] else ():
            if numbers[buckets + second % BUCKETS]:
                return max(0.0, second + BUCKETS - now)
        return 0.0

    def _until(self, buckets: int, needed: int, now: float) -> float:
        """Return how long it takes until ``needed`` of what was counted has left the window."""
        if needed <= 0:
            return 0.0
        newest = self.numbers[_NEWEST]
        for second in range(newest - WINDOW_S, newest + 1):
            needed -= self.numbers[buckets + second % BUCKETS]
            if needed <= 0:
                return max(0.0, second + BUCKETS - now)
        return float(math.ceil(newest + BUCKETS - now))
