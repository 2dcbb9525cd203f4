"""Where answers are kept: in this process, bounded in bytes."""

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

#: What one entry takes beside its value: the key, and the records of the interpreter and of the map.
_OVERHEAD_BYTES = 400


class AnswerStore(ABC):
    """Keeps bytes under keys for a time. It never fails: what it cannot do now is a miss."""

    @abstractmethod
    async def get(self, key: bytes) -> bytes | None:
        """Return what is kept under ``key``, or None."""

    @abstractmethod
    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep ``value`` for so long, if there is room."""

    @abstractmethod
    async def delete(self, key: bytes) -> None:
        """Forget what is kept under ``key``."""

    @property
    def degraded(self) -> str | None:
        """Say why less is kept than could be; None when all is well."""
        return None

    async def aclose(self) -> None:  # noqa: B027 - some have nothing open
        """Let go of what is open."""


class MemoryAnswers(AnswerStore):
    """Answers in this process: at most ``max_bytes``, the one that was used least recently goes first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        #: By key: the value, and when it ends. The one used last stands last.
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
