"""Windows in a file that the processes of one machine share, for keys that are not known before they come."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from one_api.breaker import Breaker
from one_api.limits import table
from one_api.limits.shared_file import SharedFile
from one_api.limits.stores import ByKey, LocalStore, Stats, Ticket, settle_here
from one_api.limits.window import WINDOW_S, Limits, Verdict, Window
from one_api.settings.private_files import check_owned_folder, private_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: How long ``degraded`` says that there was no place for a key, in seconds.
_FULL_S = 60.0


class _Key:
    """What this process knows of one key."""

    __slots__ = ("alone", "digest", "leases", "place", "seen", "sequence")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        #: Where its record was when last seen.
        self.place: int | None = None
        #: Its record and leases as this process last saw them: a file that is replaced gets them back.
        self.seen: bytearray | None = None
        #: The number of the last change that was seen; 0 before the first.
        self.sequence = 0
        self.leases: dict[int, float] = {}
        #: What this process has counted while the file could not be used.
        self.alone: Window | None = None

    def known(self) -> Window:
        """Return what was last seen of it."""
        return (
            Window(leases=dict(self.leases))
            if self.seen is None
            else Window(table.numbers_of(self.seen), self.leases).copy()
        )


class SharedStore(LocalStore):
    """Windows in a file that the processes of one machine share, each change under a file lock.

    A change takes some ten microseconds, and never blocks the loop. The kernel gives the lock back when a process
    dies. Each process remembers the windows as it last saw them, and a file that is cut short gets them back; one that
    takes the place of another gets all that the other holds. While the file cannot be used, each process keeps its part
    of what was left.
    """

    def __init__(
        self,
        folder: Path,
        scope: str,
        spare: Path | None = None,
        processes: Callable[[], int] = lambda: 1,
        breaker: Breaker | None = None,
    ) -> None:
        """Processes with the same ``scope`` share a file in ``folder``, or else in ``spare``.

        ``spare`` may lie where others can write. ``processes`` returns how many processes there are. A
        ``breaker`` is given for a clock other than the usual one.
        """
        form = f"{scope}\0{table.FORM}"
        name = f"limits-{hashlib.sha256(form.encode()).hexdigest()[:16]}.bin"
        paths = [lambda: _own_folder(folder) / name]
        if spare is not None:
            paths.append(lambda: private_folder(spare) / name)
        self._file = SharedFile(paths, table.TABLE_BYTES, self._remember)
        self._processes = processes
        #: Has another file taken the place of ours, which need not have our counts yet?
        self._owes_counts = False
        #: By the digests of keys, which are all that the file has of them.
        self._keys = ByKey(_Key)
        self._breaker = breaker or Breaker()
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
            known = self._known(ticket.key)
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
            return Stats.of(self._known(key).alone or Window(), now, period_s / WINDOW_S)

    async def clear(self, key: str) -> None:
        """See ``LimitStore``."""
        with suppress(OSError):
            await super().clear(key)

    def change(
        self, key: str, act: Callable[[Window], T], tick_s: float = 1.0, *, leases: bool = False
    ) -> Coroutine[Any, Any, T]:
        """See ``LocalStore``; raises OSError when the file cannot be used."""
        return self._change(self._known(key), act, tick_s, leases=leases)

    async def _change(self, known: _Key, act: Callable[[Window], T], tick_s: float, *, leases: bool = False) -> T:
        if not self._breaker.admits():
            raise BlockingIOError(self._problem)
        try:
            file = await self._file.acquire()
            try:
                result = self._change_record(file, known, act, tick_s, leases=leases)
            finally:
                self._file.release(file)
        except table.TableFull:
            self._full_until = time.monotonic() + _FULL_S
            raise
        except OSError as error:
            self._fail(error)
            raise
        if self._problem is not None:
            self._recover()
        return result

    def _change_record(self, file: int, known: _Key, act: Callable[[Window], T], tick_s: float, *, leases: bool) -> T:
        """Let ``act`` change one record of the locked file, with what was lost of it or counted without it."""
        record, place = table.find(file, known.digest, known.place, known.seen)
        known.place = place
        window = Window(table.numbers_of(record))
        sequence, held = table.state_of(record)
        lost = sequence < known.sequence
        with_leases = leases or lost or known.alone is not None
        if with_leases and held:
            window.leases = table.read_leases(file, place, held)
        if lost or known.alone is not None:
            sequence = self._restore(known, window, sequence, time.monotonic() / tick_s)
        result = act(window)
        if with_leases:
            held = table.write_leases(file, place, window.leases) if held or window.leases else 0
            known.leases = window.leases
        table.set_head(record, known.digest, sequence + 1, tick_s, held)
        table.write(file, place, record)
        known.seen, known.sequence, known.alone = record, sequence + 1, None
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
        if not (self._owes_counts or self._file.is_lost):
            return
        try:
            self._file.release(await self._file.acquire())
            self._owes_counts = False
            for _, known in self._keys.items():
                if known.seen is not None and not table.is_over(known.seen, time.monotonic()):
                    await self._change(known, lambda _: None, table.tick_of(known.seen))
                    await asyncio.sleep(0)  # there may be thousands
        except OSError:
            self._owes_counts = True

    def _known(self, key: str) -> _Key:
        return self._keys.known(table.digest_of(key))

    def _remember(self, file: int) -> None:
        """The file has lost its name: what is in it now is the last of it, also of keys that others have asked for."""
        self._owes_counts = True
        for place, digest in table.in_use(file):
            self._keys.known(digest).place = place
        for _, known in self._keys.items():
            if known.place is not None:
                self._look(file, known)
                known.place = None

    def _look(self, file: int, known: _Key) -> None:
        """Note what the file says of a key, without the lock: a record that is just being written is passed over."""
        with suppress(OSError):
            record, known.place = table.find(file, known.digest, known.place, known.seen)
            sequence, held = table.state_of(record)
            if sequence > known.sequence:
                known.leases = table.read_leases(file, known.place, held)
                known.seen, known.sequence = record, sequence

    def _alone(self, key: str, limits: Limits, now: float) -> tuple[Window, Limits]:
        """Return where this process counts without the file, and its part of what was left when it last saw that."""
        known = self._known(key)
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
        logger.warning("The file of the limits can be used again")
        self._problem = None

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


def _own_folder(folder: Path) -> Path:
    """Return ``folder``, made if need be; raises PermissionError where others can put files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owned_folder(folder)
    return folder
