"""Stores for answers: the interface, and a store in the memory of this process, limited in bytes."""

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

#: The size of one entry beside its value: the key, and the objects of the interpreter and the map.
_OVERHEAD_BYTES = 400


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

    async def aclose(self) -> None:  # noqa: B027 - some have nothing open
        """Close connections."""


class MemoryAnswers(AnswerStore):
    """Answers in this process: at most ``max_bytes``. The least recently used answer is dropped first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        #: By key: the value, and when it expires. The most recently used entry is last.
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0

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
        self._entries[key] = (value, self._clock() + ttl_s)
        self.size_bytes += size

    async def delete(self, key: bytes) -> None:
        """See ``AnswerStore``."""
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        if (found := self._entries.pop(key, None)) is not None:
            self.size_bytes -= len(found[0]) + _OVERHEAD_BYTES
