"""The slots of an engine: over all processes at most one request per slot, shared fairly between keys.

The engine must not queue requests itself, because it would not notice a client that leaves. Each slot is a file. A
process owns the slot while it holds a flock on the file; the kernel releases it however the process ends. The file
holds the tag of the key that uses the slot. Each key also has a file, locked by the processes in which its requests
wait. So every process knows which key is next.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

from one_api.engine.locks import WaiterLock, try_lock
from one_api.errors import UpstreamOverloaded
from one_api.serving.tasks import stop

if sys.platform != "win32":
    import fcntl

#: How often a waiting process looks for a slot that another process released, in seconds.
_POLL_S = 0.01
#: How long a process leaves a slot to other waiting processes, in seconds: longer than their poll interval.
_YIELD_S = 3 * _POLL_S
#: How often a free slot is left to a key with fewer running requests. After that the process of that key counts as
#: dead.
_MAX_SKIPS = 50
#: Bytes that stand for a key in files.
_TAG_BYTES = 16
#: When to come back to a full queue, in seconds.
_RETRY_AFTER_S = 5.0


class QueueFull(UpstreamOverloaded):
    """Too many wait for the model, or this request has waited for too long. The model is healthy."""

    counts_as_failure = False

    @property
    def cooldown_s(self) -> float:
        """None: the queue is ordered by client, and another client may have its turn at once."""
        return 0.0


class SlotFile:
    """One slot of an engine, as one process sees it."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises OSError."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = False

    @property
    def held(self) -> bool:
        """Return whether this process holds the slot."""
        return self._held

    @property
    def tag(self) -> str:
        """Return the tag that it was taken for; "" when it is free. Of a process that was killed, the tag remains."""
        return os.pread(self._descriptor, _TAG_BYTES, 0).decode("ascii", "replace").strip()

    def take(self, tag: str = "") -> bool:
        """Take the slot if it is free now, and return whether it was; ``tag`` says for whom. Takes microseconds."""
        if self._held or not try_lock(self._descriptor):
            return False
        self._held = True
        self._write_tag(tag)
        os.utime(self._descriptor)  # when it was last used
        return True

    def release(self) -> None:
        """Release the slot for other requests."""
        self._write_tag("")
        self._held = False
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, and give the slot back with it."""
        if self._held:
            self._write_tag("")
        os.close(self._descriptor)

    def _write_tag(self, tag: str) -> None:
        os.pwrite(self._descriptor, tag.ljust(_TAG_BYTES).encode(), 0)


def tag_of(caller: str) -> str:
    """Return what stands for a key in files: its name may hold anything."""
    return hashlib.blake2b(caller.encode(), digest_size=_TAG_BYTES // 2).hexdigest()


class WaitersByKey:
    """The keys whose requests wait for a slot of one engine, in all processes: one ``WaiterLock`` per key.

    There are at most as many files as the configuration has keys.
    """

    def __init__(self, base: Path) -> None:
        """``base`` with an ending names the files."""
        self._folder = base.parent
        self._prefix = f"{base.name}.line-"
        self._own: dict[str, WaiterLock] = {}

    def set_waiting(self, tags: set[str]) -> None:
        """Publish that requests of these keys wait in this process, and no others.

        To be repeated now and then: while another process looks, a lock may not be taken for a moment.
        """
        for tag in self._own.keys() - tags:
            self._own.pop(tag).close()
        for tag in tags:
            with suppress(OSError):  # for example no free descriptor: the key is still served, but less fairly
                if tag not in self._own:
                    self._own[tag] = WaiterLock(self._folder / f"{self._prefix}{tag}")
                self._own[tag].add()

    def waiting_elsewhere(self) -> list[str]:
        """Return the tags of the keys whose requests wait in other processes."""
        found = []
        for entry in os.scandir(self._folder):
            if entry.name.startswith(self._prefix):
                tag = entry.name.removeprefix(self._prefix)
                if self._own[tag].others_wait() if tag in self._own else self._any_wait(entry.path):
                    found.append(tag)
        return found

    @staticmethod
    def _any_wait(path: str) -> bool:
        try:
            waiter_lock = WaiterLock(Path(path))
        except OSError:
            return False
        try:
            return waiter_lock.any_wait()
        finally:
            waiter_lock.close()


class Slot:
    """The right to one request at an engine; give it back with ``release``, which may be called again."""

    def __init__(self, queue: "SlotQueue", file: SlotFile, caller: str) -> None:
        self._queue = queue
        self._file: SlotFile | None = file
        self._caller = caller

    def release(self) -> None:
        """Give the slot back."""
        file, self._file = self._file, None
        if file is not None:
            self._queue.released(file, self._caller)


class SlotQueue:
    """Where the requests of one process wait for the slots of one engine.

    Of those that wait, in all processes, the next is one of the key that has the fewest requests at the engine; among
    such keys of one process it is the one that has waited longest for its turn, and processes share the slots about
    evenly. A full queue refuses a request of the key with the most waiting requests.
    """

    def __init__(self, model: str, base: Path, slots: int, limit: int) -> None:
        """``base`` with an ending names the files, in a folder that exists; ``limit`` requests may wait."""
        self._model = model
        self._limit = limit
        self._files = [SlotFile(base.with_name(f"{base.name}.slot-{number}")) for number in range(slots)]
        self._waiters = WaiterLock(base.with_name(f"{base.name}.waiting"))
        self._waiters_by_key = WaitersByKey(base)
        #: How often in a row a free slot was left to another process.
        self._skips = 0
        #: By caller, in the order of their turns.
        self._waiting: dict[str, deque[asyncio.Future[Slot]]] = {}
        self._busy: Counter[str] = Counter()
        self._not_before = 0.0
        self._freed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Return whether no request of this process has a slot or waits for one."""
        return not self._busy and not self._waiting

    async def take(self, caller: str, limit_s: float) -> Slot:
        """Wait for a slot for at most ``limit_s`` seconds.

        Raises:
            QueueFull: if too many wait, or it takes too long.
        """
        may = not self._waiting and time.monotonic() >= self._not_before and not self._must_yield(caller)
        if may and (slot := self._free_slot(caller)):
            return slot
        waiter = self._enqueue(caller)
        try:
            async with asyncio.timeout(limit_s):
                return await waiter
        except BaseException as error:
            self._stop_waiting(caller, waiter)
            if isinstance(error, TimeoutError):
                raise self._refusal("is busy") from None
            raise

    def _enqueue(self, caller: str) -> "asyncio.Future[Slot]":
        if self._closed:
            raise self._refusal("is shutting down")
        if sum(map(len, self._waiting.values())) >= self._limit:
            self._evict_for(caller)
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(waiter)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name=f"slots of {self._model}")
        return waiter

    def _evict_for(self, caller: str) -> None:
        """Refuse the last of the caller that has the most waiting; that may be the one that has just come."""
        most = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[most]) <= len(self._waiting.get(caller, ())) + 1:
            raise self._refusal("has a full queue")
        last = self._waiting[most].pop()
        if not last.done():
            last.set_exception(self._refusal("has a full queue"))

    def _stop_waiting(self, caller: str, waiter: "asyncio.Future[Slot]") -> None:
        """Forget a request that does not wait any more; a slot that it was given meanwhile goes to another."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            waiter.result().release()
        waiters = self._waiting.get(caller)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[caller]

    async def _serve(self) -> None:
        """Assign slots to waiting requests until none waits."""
        self._waiters.add()
        try:
            while (caller := self._next()) is not None:
                self._waiters_by_key.set_waiting({tag_of(each) for each in self._waiting})
                wait_s = max(_POLL_S, self._not_before - time.monotonic())
                waits = time.monotonic() < self._not_before or self._must_yield(caller)
                if waits or not (slot := self._free_slot(caller)):
                    self._freed.clear()
                    self._waiters.add()  # again: a process that looks for waiters blocks their lock for a moment
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._freed.wait()
                    continue
                self._assign(caller, slot)
        finally:
            self._waiters.remove()
            self._waiters_by_key.set_waiting(set())
            self._serving = None

    def _next(self) -> str | None:
        """Return the caller whose turn it is; None if none waits. The first of those with the fewest at work."""
        at_work = self._at_work()
        return min(self._waiting, key=lambda each: at_work[tag_of(each)], default=None)

    def _at_work(self) -> Counter[str]:
        """Return how many requests each key has at the engine, from all processes, by tag."""
        return Counter(file.tag for file in self._files)

    def _must_yield(self, caller: str) -> bool:
        """Return whether the next slot is for another process, where a key has fewer at work than ``caller``.

        When that one does not take a slot that is free, it is not waited for any longer.
        """
        at_work = self._at_work()
        mine = at_work[tag_of(caller)]
        if not mine or all(at_work[tag] >= mine for tag in self._waiters_by_key.waiting_elsewhere()):
            self._skips = 0
            return False
        self._skips = self._skips + 1 if at_work[""] else 0
        return self._skips <= _MAX_SKIPS

    def _has_priority(self) -> bool:
        """Return whether this process has a request whose key has fewer at work than all that wait in others."""
        at_work = self._at_work()
        fewest = min(at_work[tag_of(each)] for each in self._waiting)
        return all(at_work[tag] > fewest for tag in self._waiters_by_key.waiting_elsewhere())

    def _assign(self, caller: str, slot: Slot) -> None:
        waiters = self._waiting.pop(caller)
        waiter = waiters.popleft()
        if waiters:
            self._waiting[caller] = waiters  # at the end: it has had its turn
        if waiter.done():  # it has left in this very moment
            slot.release()
        else:
            waiter.set_result(slot)

    def _free_slot(self, caller: str) -> Slot | None:
        for file in self._files:
            if file.take(tag_of(caller)):
                self._busy[caller] += 1
                return Slot(self, file, caller)
        return None

    def released(self, file: SlotFile, caller: str) -> None:
        """Take a slot back (for ``Slot``)."""
        self._busy[caller] -= 1
        if not self._busy[caller]:
            del self._busy[caller]
        if self._closed:
            file.close()
            return
        file.release()
        if self._waiting and self._waiters.others_wait() and not self._has_priority():
            self._not_before = time.monotonic() + _YIELD_S
        self._freed.set()

    def _refusal(self, what: str) -> QueueFull:
        return QueueFull(f"The local model `{self._model}` {what}: try again later.", retry_after_s=_RETRY_AFTER_S)

    async def close(self) -> None:
        """Refuse all waiting requests, and close the files, except those of slots that are still held."""
        if self._closed:
            return
        self._closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(self._refusal("is shutting down"))
        self._waiting.clear()
        await stop(self._serving)
        self._waiters.close()
        for file in self._files:
            if not file.held:
                file.close()
