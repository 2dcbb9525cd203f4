"""Stores for answers: the interface, and a store in the memory of this process, limited in bytes."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from one_api.bounded import BoundedMap

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

    An expired answer is removed within a second or two, also without requests.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.entries: BoundedMap[bytes, bytes] = BoundedMap(max_bytes=max_bytes, clock=clock)
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """See ``AnswerStore``."""
        return self.entries.size_bytes

    async def get(self, key: bytes) -> bytes | None:
        """See ``AnswerStore``."""
        return self.entries.get(key)

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See ``AnswerStore``."""
        self.entries.put(key, value, len(value) + _OVERHEAD_BYTES, ttl_s)
        if self._sweeping is None:
            self._sweep_after(self.entries.drop_expired(0))

    async def delete(self, key: bytes) -> None:
        """See ``AnswerStore``."""
        self.entries.drop(key)

    def sweep(self) -> None:
        """Remove what has expired."""
        self._sweep_after(self.entries.drop_expired(_MAX_SWEPT))

    def _sweep_after(self, wait_s: float | None) -> None:
        """Sweep when the next answer expires; None when there is none."""
        self._sweeping = None
        if wait_s is not None:
            self._sweeping = asyncio.get_running_loop().call_later(max(_SWEEP_S, wait_s), self.sweep)

    async def aclose(self) -> None:
        """See ``AnswerStore``."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
