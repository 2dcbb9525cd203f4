"""Windows in a file that the processes of one machine share, for keys that are not known before they come.

The file is a table of 8192 places, each with room for one window. A key's place is one of 32 that its digest leads to:
the one that holds its digest, else the first whose window is over. Its leases, if requests at a time are limited, are
behind the table, in space that is taken when it is needed.
"""

import hashlib
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from one_api.limits.shared_file import SharedFile
from one_api.limits.stores import MAX_KEYS, ByKey, LocalStore, Stats, Ticket, settle_here
from one_api.limits.window import BUCKETS, LEASE_S, NUMBERS, WINDOW_S, Limits, Verdict, Window
from one_api.redis.breaker import Breaker
from one_api.settings.private_files import check_owned_folder, private_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: A record begins with the digest of its key, a number that each change raises, how long a tick is, in seconds, and
#: how many leases it has; then come the numbers of its window, and a checksum of it all.
_HEAD = struct.Struct("=16sqdq")
_CHECKSUM = struct.Struct("=q")
_LEASE = struct.Struct("=qd")
_BODY = _HEAD.size + 8 * NUMBERS
_RECORD = _BODY + _CHECKSUM.size
#: Places in the table, and how many of them a key may be in.
_PLACES, _WAYS = MAX_KEYS, 32
#: Leases of one key that there is room for; ``rate_limit.concurrent`` allows no more. Behind them is a checksum.
_MAX_LEASES = 1024
_LEASES_BYTES = _MAX_LEASES * _LEASE.size + _CHECKSUM.size
#: How long ``degraded`` says that there was no place for a key, in seconds.
_FULL_S = 60.0


class _TableFull(OSError):
    """There is no place for one more key; the others are not concerned."""


class _Key:
    """What this process knows of one key."""

    __slots__ = ("alone", "digest", "leases", "place", "seen")

    def __init__(self, key: str) -> None:
        self.digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        #: Where its record was when last seen.
        self.place: int | None = None
        #: Its record and leases as this process last saw them: a file that is replaced gets them back.
        self.seen: bytearray | None = None
        self.leases: dict[int, float] = {}
        #: What this process has counted while the file could not be used.
        self.alone: Window | None = None

    @property
    def sequence(self) -> int:
        """Return the number of the last change that was seen."""
        return 0 if self.seen is None else _sequence(self.seen)

    def known(self) -> Window:
        """Return what was last seen of it."""
        return (
            Window(leases=dict(self.leases)) if self.seen is None else Window(_numbers(self.seen), self.leases).copy()
        )

    def places(self) -> Sequence[int]:
        """Return where its record may be."""
        home = int.from_bytes(self.digest[:4], "big")
        return [(home + way) % _PLACES for way in range(_WAYS)]


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
        spare: Path | None = None,
        processes: Callable[[], int] = lambda: 1,
    ) -> None:
        """Processes with the same ``scope`` share a file in ``folder``, or else in ``spare``.

        ``spare`` may lie where others can write. ``processes`` returns how many processes there are.
        """
        form = f"{scope}\0{_RECORD}\0{_PLACES}\0{_WAYS}"
        name = f"limits-{hashlib.sha256(form.encode()).hexdigest()[:16]}.bin"
        paths = [lambda: _own_folder(folder) / name]
        if spare is not None:
            paths.append(lambda: private_folder(spare) / name)
        self._file = SharedFile(paths, _RECORD * _PLACES, self._remember)
        self._processes = processes
        self._keys = ByKey(_Key)
        self._breaker = Breaker()
        self._problem: str | None = None
        self._full_until = 0.0
        try:
            self._file.open()
        except OSError as error:
            self._fail(error)

    @property
    def degraded(self) -> str | None:
        """See ``LimitStore``."""
        if self._problem is not None:
            return f"the file of the limits cannot be used, limits are kept per process: {self._problem}"
        if time.monotonic() < self._full_until:
            return "the file of the limits has no place for more keys, those are limited per process"
        return None

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        try:
            return await super().take(key, limits, tokens, lease)
        except OSError:
            now = time.monotonic()
            window, left = self._alone(key, limits, now)
            ticket = Ticket(key, lease, tokens, now, leased=limits.concurrent is not None)
            return window.take(left, now, tokens, lease), ticket

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""
        try:
            await super().settle(ticket, tokens)
        except OSError:
            known = self._keys.known(ticket.key)
            known.alone = known.alone or Window()
            settle_here(known.alone, ticket, tokens)

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        with suppress(OSError):
            await super().renew(tickets)

    async def hit(self, key: str, limit: int, period_s: float, amount: int) -> bool:
        """See ``LimitStore``."""
        try:
            return await super().hit(key, limit, period_s, amount)
        except OSError:
            now = time.monotonic() * WINDOW_S / period_s
            window, left = self._alone(key, Limits(limit), now)
            return window.take(left, now, 0, 0, amount).refused_by is None

    async def stats(self, key: str, period_s: float) -> Stats:
        """See ``LimitStore``."""
        try:
            return await super().stats(key, period_s)
        except OSError:
            now = time.monotonic() * WINDOW_S / period_s
            return Stats.of(self._keys.known(key).alone or Window(), now, period_s / WINDOW_S)

    async def clear(self, key: str) -> None:
        """See ``LimitStore``."""
        with suppress(OSError):
            await super().clear(key)

    async def change(self, key: str, act: Callable[[Window], T], tick_s: float = 1.0, *, leases: bool = False) -> T:
        """See ``LocalStore``; raises OSError when the file cannot be used."""
        if not self._breaker.admits():
            raise BlockingIOError(self._problem)
        try:
            file = await self._file.acquire()
            try:
                known = self._keys.known(key)
                result = self._change_record(file, known, act, tick_s, leases=leases)
            finally:
                self._file.release(file)
        except _TableFull:
            self._full_until = time.monotonic() + _FULL_S
            raise
        except OSError as error:
            self._fail(error)
            raise
        if self._problem is not None or self._breaker.has_failed:
            self._recover()
        return result

    def _change_record(self, file: int, known: _Key, act: Callable[[Window], T], tick_s: float, *, leases: bool) -> T:
        """Let ``act`` change one record of the locked file, with what was lost of it or counted without it."""
        record = _find(file, known)
        window, sequence = Window(_numbers(record)), _sequence(record)
        lost = sequence < known.sequence
        held = _held(record)
        with_leases = leases or lost or known.alone is not None
        if with_leases and held:
            window.leases = _read_leases(file, known.place or 0, held)
        if lost or known.alone is not None:
            sequence = self._restore(known, window, sequence, time.monotonic() / tick_s)
        result = act(window)
        if with_leases:
            held = min(len(window.leases), _MAX_LEASES)
            if held or _held(record):
                _write_leases(file, known.place or 0, window.leases)
            known.leases = window.leases
        _HEAD.pack_into(record, 0, known.digest, sequence + 1, tick_s, held)
        _CHECKSUM.pack_into(record, _BODY, _checksum(record))
        if os.pwrite(file, record, _RECORD * (known.place or 0)) != _RECORD:
            raise OSError("no room for a record")
        known.seen, known.alone = record, None
        return result

    @staticmethod
    def _restore(known: _Key, window: Window, sequence: int, now: float) -> int:
        """Add what the record has lost, and what this process counted without it; returns the record's number."""
        if sequence < known.sequence:
            window.raise_to(now, known.known())
            sequence = known.sequence
        if known.alone is not None:
            for age, requests, tokens in known.alone.counted(now):
                window.add(now, now - age, requests, tokens)
            window.leases |= known.alone.leases
        return sequence

    async def look_after(self) -> None:
        """Give a file that has taken the place of ours the counts that it lacks, before a new process relies on it."""
        if not self._file.is_lost:
            return
        with suppress(OSError):
            for key, known in self._keys.items():
                if known.seen is not None and not _is_over(known.seen, time.monotonic()):
                    await self.change(key, lambda _: None, _tick_s(known.seen))

    def _remember(self, file: int) -> None:
        """The file has lost its name: what is in it now is the last that this process sees of it."""
        for _, known in self._keys.items():
            if known.place is not None:
                self._look(file, known)
                known.place = None

    def _look(self, file: int, known: _Key) -> None:
        """Note what the file says of a key, without the lock: a record that is just being written is passed over."""
        with suppress(OSError):
            record = _find(file, known)
            if _sequence(record) > known.sequence:
                known.seen, known.leases = record, _read_leases(file, known.place or 0, _held(record))

    def _alone(self, key: str, limits: Limits, now: float) -> tuple[Window, Limits]:
        """Return where this process counts without the file, and its part of what was left when it last saw that."""
        known = self._keys.known(key)
        if self._file.descriptor is not None:
            self._look(self._file.descriptor, known)  # it can be read while another process holds its lock
        known.alone = known.alone or Window()
        return known.alone, self._left(known.known(), limits, now)

    def _left(self, known: Window, limits: Limits, now: float) -> Limits:
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

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


# Records


def _numbers(record: bytearray) -> memoryview:
    return memoryview(record)[_HEAD.size : _BODY].cast("q")


def _sequence(record: bytearray) -> int:
    found: int = _HEAD.unpack_from(record)[1]
    return found


def _tick_s(record: bytearray) -> float:
    found: float = _HEAD.unpack_from(record)[2]
    return found


def _held(record: bytearray) -> int:
    found: int = _HEAD.unpack_from(record)[3]
    return found


def _checksum(record: bytearray) -> int:
    return zlib.crc32(memoryview(record)[:_BODY])


def _is_over(record: bytearray, now: float) -> bool:
    """Return whether nothing in a record counts any more; one of the future is from before the machine was started."""
    tick_s, newest = _tick_s(record), _numbers(record)[0]
    begun = newest * tick_s
    return begun > now + tick_s or begun + max(BUCKETS, LEASE_S / tick_s + 1) * tick_s <= now


def _read(file: int, place: int) -> bytearray:
    """Return the record at a place; what was cut off reads as zeros."""
    record = bytearray(_RECORD)
    os.preadv(file, [record], _RECORD * place)
    return record


def _is_intact(record: bytearray) -> bool:
    return bool(_CHECKSUM.unpack_from(record, _BODY)[0] == _checksum(record))


def _find(file: int, known: _Key) -> bytearray:
    """Return the record of a key, a new one if there is none, and note its place; raises _TableFull."""
    digest = known.digest
    if known.place is not None:
        record = _read(file, known.place)
        if record.startswith(digest) and _is_intact(record):
            return record
    free, now = None, time.monotonic()
    for place in known.places():
        record = _read(file, place)
        intact = _is_intact(record)
        if intact and record.startswith(digest):
            known.place = place
            return record
        if free is None and (not intact or _is_over(record, now)):
            free = place
    if free is None:
        raise _TableFull("there is no place for one more key")
    known.place = free
    return bytearray(_RECORD)


def _read_leases(file: int, place: int, held: int) -> dict[int, float]:
    """Return the leases of the record at a place; none when they are damaged."""
    size = min(held, _MAX_LEASES) * _LEASE.size
    data = os.pread(file, size + _CHECKSUM.size, _RECORD * _PLACES + _LEASES_BYTES * place)
    if len(data) != size + _CHECKSUM.size or _CHECKSUM.unpack_from(data, size)[0] != zlib.crc32(data[:size]):
        return {}
    return dict(_LEASE.iter_unpack(data[:size]))


def _write_leases(file: int, place: int, leases: dict[int, float]) -> None:
    data = b"".join(_LEASE.pack(*lease) for lease in list(leases.items())[:_MAX_LEASES])
    data += _CHECKSUM.pack(zlib.crc32(data))
    if os.pwrite(file, data, _RECORD * _PLACES + _LEASES_BYTES * place) != len(data):
        raise OSError("no room for leases")


def _own_folder(folder: Path) -> Path:
    """Return ``folder``, made if need be; raises PermissionError where others can put files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owned_folder(folder)
    return folder
