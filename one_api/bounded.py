"""What stays small: a map, in which a process keeps answers, responses, thinking and counts; and the log."""

import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

K = TypeVar("K", str, bytes)
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """A map whose entries have a size and a time to live. When it is full, the least recently used entry is dropped.

    It never holds more than ``max_entries`` and ``max_bytes``. Threads that share one need a lock.
    """

    def __init__(
        self,
        *,
        max_entries: float = math.inf,
        max_bytes: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._clock = clock
        #: By key: the value, its size, and when it expires. The most recently used entry is last.
        self._entries: OrderedDict[K, tuple[V, int, float]] = OrderedDict()
        #: When entries expire, the first one first. Some of them have been dropped or renewed since.
        self.expiring: list[tuple[float, K]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> list[tuple[K, V]]:
        """Return all keys and values, the least recently used first; some may have expired."""
        return [(key, value) for key, (value, _, _) in self._entries.items()]

    def get(self, key: K) -> V | None:
        """Return a value that has not expired. It counts as used now."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, _, ends = found
        if ends <= self._clock():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, size: int = 0, ttl_s: float = math.inf) -> bool:
        """Keep a value of ``size`` bytes for ``ttl_s`` seconds. False when it is larger than all that may be kept."""
        self.drop(key)
        if size > self.max_bytes:
            return False
        while self._entries and (len(self._entries) >= self.max_entries or self.size_bytes + size > self.max_bytes):
            self.drop(next(iter(self._entries)))
        self._entries[key] = (value, size, math.inf)
        self.size_bytes += size
        if ttl_s != math.inf:
            self.renew(key, ttl_s)
        return True

    def renew(self, key: K, ttl_s: float) -> None:
        """Keep an entry for ``ttl_s`` seconds from now on."""
        value, size, _ = self._entries[key]
        ends = self._clock() + ttl_s
        self._entries[key] = (value, size, ends)
        if len(self.expiring) > 2 * len(self._entries):
            self.expiring = [(ends, key) for key, (_, _, ends) in self._entries.items()]
            heapq.heapify(self.expiring)
        else:
            heapq.heappush(self.expiring, (ends, key))

    def drop(self, key: K) -> bool:
        """Drop an entry. False when there is none."""
        found = self._entries.pop(key, None)
        if found is not None:
            self.size_bytes -= found[1]
        return found is not None

    def drop_expired(self, most: int) -> float | None:
        """Drop up to ``most`` entries that have expired. Return in how many seconds the next one does, if any."""
        now = self._clock()
        for _ in range(most):
            if not self.expiring or self.expiring[0][0] > now:
                break
            ends, key = heapq.heappop(self.expiring)
            if (found := self._entries.get(key)) is not None and found[2] == ends:
                self.drop(key)
        return self.expiring[0][0] - now if self.expiring else None


def once_a_minute(log: Callable[..., None], message: str, *values: object) -> None:
    """Log a message by ``log``, such as ``logger.error``, once in each minute: it may be true of every request."""
    _log(log, message, values, int(time.monotonic() // 60))


@lru_cache(maxsize=64)
def _log(log: Callable[..., None], message: str, values: tuple[object, ...], minute: int) -> None:
    log(message, *values)
