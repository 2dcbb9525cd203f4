"""Where the windows of keys are kept: in this process, or in a file that all processes of this machine share."""

import functools
import hashlib
import logging
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from one_api.limits.shared_file import SharedFile
from one_api.limits.window import BUCKETS, Limits, Verdict, Window, empty
from one_api.redis.breaker import Breaker
from one_api.settings.private_files import check_owned_folder, private_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: Stands at the end of each record of a shared file.
_CHECKSUM = struct.Struct("=I")


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

    async def look_after(self) -> None:  # noqa: B027 - some need no care
        """Do what is needed also while nobody asks; called about twice a second."""

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
        verdict = await self._change(key, lambda window: window.take(limits, now, tokens, lease))
        return verdict, Ticket(key, lease, tokens, now)

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""

        def act(window: Window) -> None:
            window.release(ticket.lease)
            window.settle(time.monotonic(), ticket.counted_at, ticket.tokens, tokens)

        await self._change(ticket.key, act)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        now = time.monotonic()
        for ticket in tickets:
            await self._change(ticket.key, functools.partial(Window.renew, now=now, lease=ticket.lease))

    @abstractmethod
    async def _change(self, key: str, act: Callable[[Window], T]) -> T:
        """Let ``act`` read and change the window of ``key``, and return what it returns."""


class MemoryStore(LocalStore):
    """Windows in this process. Keys come from the configuration, so there are no more than it names."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}

    async def _change(self, key: str, act: Callable[[Window], T]) -> T:
        return act(self._windows.setdefault(key, Window()))


class SharedStore(LocalStore):
    """Windows in a file that the processes of one machine share, each change under a file lock.

    A change takes some ten microseconds, and never blocks the loop. The kernel gives the lock back when a process
    dies. Each process remembers the windows as it last saw them: a file that is deleted, replaced or cut short gets
    them back. While the file cannot be used, each process keeps its part of what was left.
    """

    def __init__(
        self,
        folder: Path,
        scope: str,
        layout: Layout,
        spare: Path | None = None,
        processes: Callable[[], int] = lambda: 1,
    ) -> None:
        """Processes with the same ``scope`` and ``layout`` share a file in ``folder``, or else in ``spare``.

        ``spare`` may lie where others can write. ``processes`` returns how many processes there are.
        """
        self._places = {key: place for place, key in enumerate(sorted(set(layout.keys)))}
        self._leases = layout.leases
        self._counts = 2 * BUCKETS if layout.tokens else BUCKETS
        #: A record: a number that each change raises, the newest second, counts, leases; then a checksum.
        self._body = struct.Struct(f"=Qq{self._counts}I" + "Qd" * layout.leases)
        self._record_bytes = self._body.size + _CHECKSUM.size
        digest = hashlib.sha256("\0".join([scope, *self._places, self._body.format]).encode()).hexdigest()
        name = f"limits-{digest[:16]}.bin"
        size = self._record_bytes * max(1, len(self._places))
        paths = [lambda: _own_folder(folder) / name]
        if spare is not None:
            paths.append(lambda: private_folder(spare) / name)
        self._file = SharedFile(paths, size, self._remember)
        self._processes = processes
        #: The records as this process last saw them, and what it has counted while the file could not be used.
        self._seen: dict[str, bytes] = {}
        self._alone: dict[str, Window] = {}
        self._breaker = Breaker()
        self._problem: str | None = None
        try:
            self._file.open()
        except OSError as error:
            self._fail(error)

    @property
    def degraded(self) -> str | None:
        """See ``LimitStore``."""
        if self._problem is None:
            return None
        return f"the file of the limits cannot be used, limits are kept per process: {self._problem}"

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        try:
            return await super().take(key, limits, tokens, lease)
        except OSError:
            now = time.monotonic()
            window = self._alone.setdefault(key, Window())
            return window.take(self._left(key, limits, now), now, tokens, lease), Ticket(key, lease, tokens, now)

    async def _change(self, key: str, act: Callable[[Window], T]) -> T:
        """See ``LocalStore``; raises OSError when the file cannot be used."""
        results: list[T] = []

        def change(found: bytes) -> bytes:
            sequence, window = self._restore(key, found)
            results.append(act(window))
            return self._encode(sequence + 1, window)

        if not self._breaker.admits():
            raise BlockingIOError(self._problem)
        try:
            offset = self._places[key] * self._record_bytes
            self._seen[key] = await self._file.change(offset, self._record_bytes, change)
        except OSError as error:
            self._fail(error)
            raise
        self._alone.pop(key, None)
        self._recover()
        return results[-1]

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""
        try:
            await super().settle(ticket, tokens)
        except OSError:
            window = self._alone.setdefault(ticket.key, Window())
            window.release(ticket.lease)
            window.settle(time.monotonic(), ticket.counted_at, ticket.tokens, tokens)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        with suppress(OSError):
            await super().renew(tickets)

    async def look_after(self) -> None:
        """Give a file that has taken the place of ours the counts that it lacks, before a new process relies on it."""
        if not self._file.is_lost:
            return
        with suppress(OSError):
            for key in tuple(self._seen):
                await self._change(key, lambda _: None)

    def _restore(self, key: str, found: bytes) -> tuple[int, Window]:
        """Return the window in a record, with what was lost of it, and what was counted without it."""
        now = time.monotonic()
        sequence, window = self._decode(found)
        seen_sequence, seen = self._decode(self._seen.get(key, found))
        if sequence < seen_sequence:
            sequence = seen_sequence
            window.raise_to(now, seen)
        if (alone := self._alone.get(key)) is not None:
            for age, requests, tokens in alone.counted(now):
                window.add(now, now - age, requests, tokens)
            window.leases |= alone.leases
        return sequence, window

    def _remember(self, records: bytes) -> None:
        """The file has lost its name: what is in it now is the last that this process sees of it."""
        for key, place in self._places.items():
            self._seen[key] = records[place * self._record_bytes : (place + 1) * self._record_bytes]

    def _left(self, key: str, limits: Limits, now: float) -> Limits:
        """Return this process's part of what was left when it last saw the file."""
        known = self._decode(self._seen[key])[1] if key in self._seen else Window()
        used, used_tokens = known.used(now)
        processes = max(1, self._processes())

        def part(limit: int, used: int) -> int:
            return max(1, (limit - used) // processes) if limit > used else 0

        held = sum(ends > now for ends in known.leases.values())
        tokens, concurrent = limits.tokens_per_minute, limits.concurrent
        return Limits(
            part(limits.requests_per_minute, used),
            None if tokens is None else part(tokens, used_tokens),
            None if concurrent is None else part(concurrent, held),
        )

    def _fail(self, error: OSError) -> None:
        self._breaker.failed()
        if self._problem is None:
            logger.warning("The file of the limits cannot be used, limits are kept per process: %s", error)
        self._problem = str(error)

    def _recover(self) -> None:
        self._breaker.succeeded()
        if self._problem is not None:
            logger.warning("The file of the limits can be used again")
            self._problem = None

    def _decode(self, record: bytes) -> tuple[int, Window]:
        """Return what a record holds; one that is new or damaged holds nothing, and has the number 0."""
        body = record[: self._body.size]
        if _CHECKSUM.unpack_from(record, self._body.size)[0] != zlib.crc32(body):
            return 0, Window()
        sequence, newest, *rest = self._body.unpack(body)
        leases = rest[self._counts :]
        held = {lease: ends for lease, ends in zip(leases[::2], leases[1::2], strict=True) if lease}
        return sequence, Window(newest, rest[:BUCKETS], rest[BUCKETS : self._counts] or empty(), held)

    def _encode(self, sequence: int, window: Window) -> bytes:
        held = list(window.leases.items())[: self._leases]
        flat = [part for lease in held for part in lease] + [0, 0.0] * (self._leases - len(held))
        counts = [min(count, 0xFFFFFFFF) for count in (window.requests + window.tokens)[: self._counts]]
        body = self._body.pack(sequence, window.newest, *counts, *flat)
        return body + _CHECKSUM.pack(zlib.crc32(body))

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


def _own_folder(folder: Path) -> Path:
    """Return ``folder``, made if need be; raises PermissionError where others can put files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owned_folder(folder)
    return folder
