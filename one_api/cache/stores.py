"""Stores for answers: the interface, and a store in the memory of this process, limited in bytes."""

import asyncio
import heapq
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

#: The size of one entry beside its value: the key, and the objects of the interpreter and the map.
_OVERHEAD_BYTES = 400
#: How often expired answers are removed at most, in seconds, and how many of them at a time.
_SWEEP_S = 1.0
_MAX_SWEPT = 500


class AnswerStore(ABC):
    """Keeps bytes under keys for a time. It never raises: a failure counts as a miss."""

    @abstractmethod
    async def get(self, key: bytes) -> bytes | None:
        """Return the value kept under ``key``, or None."""

    @abstractmethod
    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds, if there is space."""

    @abstractmethod
    async def delete(self, key: bytes) -> None:
        """Delete the value kept under ``key``."""

    @property
    def degraded(self) -> str | None:
        """Return why the store works only in part; None when it is healthy."""
        return None

    @property
    def held_bytes(self) -> int | None:
        """Return what it takes in the memory of this process; None when it is elsewhere."""
        return None

    async def aclose(self) -> None:  # noqa: B027 - some have nothing open
        """Close connections."""


class MemoryAnswers(AnswerStore):
    """Answers in this process: at most ``max_bytes``. The least recently used answer is dropped first.

    An expired answer is removed within a second or two, whether anybody asks or not.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        #: By key: the value, and when it expires. The most recently used entry is last.
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0

        #: When each answer expires, the first one first; some of them have been dropped or replaced since.
        self._expiring: list[tuple[float, bytes]] = []
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """See ``AnswerStore``."""
        return self.size_bytes

    async def get(self, key: bytes) -> bytes | None:
        """See ``AnswerStore``."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, ends = found
        if self._clock() >= ends:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See ``AnswerStore``."""
        self._forget(key)
        size = len(value) + _OVERHEAD_BYTES
        if size > self.max_bytes:
            return
        while self.size_bytes + size > self.max_bytes:
            _, (oldest, _) = self._entries.popitem(last=False)
            self.size_bytes -= len(oldest) + _OVERHEAD_BYTES
        ends = self._clock() + ttl_s
        self._entries[key] = (value, ends)
        self.size_bytes += size
        if len(self._expiring) > 2 * len(self._entries):
            self._expiring = [(ends, key) for key, (_, ends) in self._entries.items()]
            heapq.heapify(self._expiring)
        else:
            heapq.heappush(self._expiring, (ends, key))
        self._sweep_later()

    async def delete(self, key: bytes) -> None:
        """See ``AnswerStore``."""
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        if (found := self._entries.pop(key, None)) is not None:
            self.size_bytes -= len(found[0]) + _OVERHEAD_BYTES

    def _sweep_later(self) -> None:
        if self._sweeping is None and self._expiring:
            wait_s = max(_SWEEP_S, self._expiring[0][0] - self._clock())
            self._sweeping = asyncio.get_running_loop().call_later(wait_s, self.sweep)

    def sweep(self) -> None:
        """Remove what has expired."""
        self._sweeping = None
        now = self._clock()
        for _ in range(_MAX_SWEPT):
            if not self._expiring or self._expiring[0][0] > now:
                break
            ends, key = heapq.heappop(self._expiring)
            if (found := self._entries.get(key)) is not None and found[1] == ends:
                self._forget(key)
        self._sweep_later()

    async def aclose(self) -> None:
        """See ``AnswerStore``."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
