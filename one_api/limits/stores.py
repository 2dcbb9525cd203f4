"""Where the windows of keys are kept: in this process, or in a file that all processes of this machine share."""

import functools
import hashlib
import mmap
import os
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from one_api.limits.window import BUCKETS, Limits, Verdict, Window, empty

try:
    import fcntl
except ImportError:  # not a Unix: there is one process, and MemoryStore
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was counted for one request, so that it can be settled: ``counted_at`` is on this machine's own clock."""

    key: str
    lease: int
    tokens: int
    counted_at: float
    #: The second of Redis in which it was counted there; None if it was counted here.
    second: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What a shared file has room for: the keys that will be asked for, leases of each, and whether tokens count."""

    keys: tuple[str, ...]
    leases: int
    tokens: bool


class LimitStore(ABC):
    """Keeps one window per key; each call changes one window as a whole, whoever else asks at the same time."""

    @abstractmethod
    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """Count a request if the limits allow it. ``lease`` is a random number that stands for it."""

    @abstractmethod
    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """End a request that was admitted: its lease, and its estimate, which ``tokens`` replaces."""

    @abstractmethod
    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """Keep the leases of requests that are still under way."""

    @property
    def degraded(self) -> str | None:
        """Say why limits are kept less exactly than they should be; None when they are not."""
        return None

    async def aclose(self) -> None:  # noqa: B027 - some have nothing open
        """Let go of what is open."""


class LocalStore(LimitStore):
    """Windows within reach of this process: ``_change`` runs an act on one of them, alone and at once."""

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        now = time.monotonic()
        verdict = self._change(key, lambda window: window.take(limits, now, tokens, lease))
        return verdict, Ticket(key, lease, tokens, now)

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""

        def act(window: Window) -> None:
            window.release(ticket.lease)
            window.settle(time.monotonic(), ticket.counted_at, ticket.tokens, tokens)

        self._change(ticket.key, act)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        now = time.monotonic()
        for ticket in tickets:
            self._change(ticket.key, functools.partial(Window.renew, now=now, lease=ticket.lease))

    @abstractmethod
    def _change(self, key: str, act: Callable[[Window], T]) -> T:
        """Let ``act`` read and change the window of ``key``, and return what it returns."""


class MemoryStore(LocalStore):
    """Windows in this process. Keys come from the configuration, so there are no more than it names."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}

    def _change(self, key: str, act: Callable[[Window], T]) -> T:
        return act(self._windows.setdefault(key, Window()))


class SharedStore(LocalStore):
    """Windows in a file that the processes of one machine map into memory, each change under a file lock.

    A change takes some ten microseconds. The kernel gives the lock back when a process dies; a window that it left
    half written is one key's counts of one minute.
    """

    def __init__(self, folder: Path, scope: str, layout: Layout) -> None:
        """Processes with the same ``scope`` and ``layout`` share a file in ``folder``."""
        self._places = {key: place for place, key in enumerate(sorted(set(layout.keys)))}
        self._leases = layout.leases
        self._counts = 2 * BUCKETS if layout.tokens else BUCKETS
        self._record = struct.Struct(f"=q{self._counts}I" + "Qd" * layout.leases)
        name = hashlib.sha256("\0".join([scope, *self._places, self._record.format]).encode()).hexdigest()
        size = self._record.size * max(1, len(self._places))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(folder / f"limits-{name[:16]}.bin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._locked():
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _change(self, key: str, act: Callable[[Window], T]) -> T:
        offset = self._places[key] * self._record.size
        with self._locked():
            window = self._read(offset)
            result = act(window)
            self._write(offset, window)
        return result

    def _read(self, offset: int) -> Window:
        newest, *rest = self._record.unpack_from(self._memory, offset)
        leases = rest[self._counts :]
        held = {lease: ends for lease, ends in zip(leases[::2], leases[1::2], strict=True) if lease}
        return Window(newest, rest[:BUCKETS], rest[BUCKETS : self._counts] or empty(), held)

    def _write(self, offset: int, window: Window) -> None:
        held = list(window.leases.items())[: self._leases]
        flat = [part for lease in held for part in lease] + [0, 0.0] * (self._leases - len(held))
        counts = [min(count, 0xFFFFFFFF) for count in (window.requests + window.tokens)[: self._counts]]
        self._record.pack_into(self._memory, offset, window.newest, *counts, *flat)

    async def aclose(self) -> None:
        """Unmap the file."""
        self._memory.close()
        os.close(self._file)
