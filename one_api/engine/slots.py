"""Who may talk to an engine: never more requests at once than it has slots, over all processes, and fair by key.

The engine must not queue by itself, for it would not notice who leaves. Each slot is a file, and to have the slot is to
hold a flock on it, which the kernel releases however a process ends. The file names the key whose request is at work,
and for each key there is a file that processes lock in which its requests wait: so all of them know whose turn it is.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

from one_api.errors import UpstreamOverloaded

if sys.platform != "win32":
    import fcntl

#: How often a process that waits looks for a slot that another has given back, in seconds.
_POLL_S = 0.01
#: How long a process leaves a slot to others that wait, in seconds: longer than they take to look.
_YIELD_S = 3 * _POLL_S
#: How often a slot that is free is left to a key with fewer requests at work, before the process that has those is
#: taken for dead.
_PATIENCE = 50
#: Bytes that stand for a key in files.
_TAG_BYTES = 16
#: When to come back to a full queue, in seconds.
_COME_BACK_S = 5.0


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
        """Say whether this process has it."""
        return self._held

    @property
    def tag(self) -> str:
        """Return the tag that it was taken for; "" when it is free. Of a process that was killed, the tag remains."""
        return os.pread(self._descriptor, _TAG_BYTES, 0).decode("ascii", "replace").strip()

    def take(self, tag: str = "") -> bool:
        """Take the slot if it is free now, and say whether it was; ``tag`` says for whom. Takes microseconds."""
        if self._held or not try_lock(self._descriptor):
            return False
        self._held = True
        self._say(tag)
        os.utime(self._descriptor)  # when it was last used
        return True

    def give_back(self) -> None:
        """Let others have it."""
        self._say("")
        self._held = False
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, and give the slot back with it."""
        if self._held:
            self._say("")
        os.close(self._descriptor)

    def _say(self, tag: str) -> None:
        os.pwrite(self._descriptor, tag.ljust(_TAG_BYTES).encode(), 0)


def tag_of(caller: str) -> str:
    """Return what stands for a key in files: its name may hold anything."""
    return hashlib.blake2b(caller.encode(), digest_size=_TAG_BYTES // 2).hexdigest()


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting, and say whether that worked."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


class Crowd:
    """Whether anybody waits for a slot of one engine: those who do hold a shared lock on a file."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises OSError."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def join(self) -> None:
        """Say that this process waits."""
        try_lock(self._descriptor, shared=True)

    def leave(self) -> None:
        """Say that this process does not wait any more."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def others(self) -> bool:
        """Say whether another process waits; this one does."""
        alone = try_lock(self._descriptor)
        self.join()
        return not alone

    def anybody(self) -> bool:
        """Say whether a process waits; this one does not."""
        nobody = try_lock(self._descriptor)
        self.leave()
        return not nobody

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Lines:
    """For which keys requests wait for a slot of one engine, in this process and in others: a ``Crowd`` for each key.

    There are no more files than the configuration has keys.
    """

    def __init__(self, base: Path) -> None:
        """``base`` with an ending names the files."""
        self._folder = base.parent
        self._prefix = f"{base.name}.line-"
        self._mine: dict[str, Crowd] = {}

    def keep(self, tags: set[str]) -> None:
        """Say that requests of these keys wait in this process, and no others. Say it again now and then: who looks
        whether others wait keeps them out for a moment."""
        for tag in self._mine.keys() - tags:
            self._mine.pop(tag).close()
        for tag in tags:
            with suppress(OSError):  # no descriptor is left, say: without a line it is served, but not as fairly
                if tag not in self._mine:
                    self._mine[tag] = Crowd(self._folder / f"{self._prefix}{tag}")
                self._mine[tag].join()

    def elsewhere(self) -> list[str]:
        """Return the keys whose requests wait in other processes."""
        found = []
        for entry in os.scandir(self._folder):
            if entry.name.startswith(self._prefix):
                tag = entry.name.removeprefix(self._prefix)
                if self._mine[tag].others() if tag in self._mine else self._anybody(entry.path):
                    found.append(tag)
        return found

    @staticmethod
    def _anybody(path: str) -> bool:
        try:
            crowd = Crowd(Path(path))
        except OSError:
            return False
        try:
            return crowd.anybody()
        finally:
            crowd.close()


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
    evenly. A queue that is full refuses whoever has the most in it.
    """

    def __init__(self, model: str, base: Path, slots: int, limit: int) -> None:
        """``base`` with an ending names the files, in a folder that exists; ``limit`` requests may wait."""
        self._model = model
        self._limit = limit
        self._files = [SlotFile(base.with_name(f"{base.name}.slot-{number}")) for number in range(slots)]
        self._crowd = Crowd(base.with_name(f"{base.name}.waiting"))
        self._lines = Lines(base)
        #: How often in a row a free slot was left to another process.
        self._left = 0
        #: By caller, in the order of their turns.
        self._waiting: dict[str, deque[asyncio.Future[Slot]]] = {}
        self._busy: Counter[str] = Counter()
        self._not_before = 0.0
        self._freed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Say whether no request of this process has a slot or waits for one."""
        return not self._busy and not self._waiting

    async def take(self, caller: str, limit_s: float) -> Slot:
        """Wait for a slot for at most ``limit_s`` seconds.

        Raises:
            QueueFull: if too many wait, or it takes too long.
        """
        may = not self._waiting and time.monotonic() >= self._not_before and not self._behind(caller)
        if may and (slot := self._free_slot(caller)):
            return slot
        place = self._line_up(caller)
        try:
            async with asyncio.timeout(limit_s):
                return await place
        except BaseException as error:
            self._step_out(caller, place)
            if isinstance(error, TimeoutError):
                raise self._refusal("is busy") from None
            raise

    def _line_up(self, caller: str) -> "asyncio.Future[Slot]":
        if self._closed:
            raise self._refusal("is shutting down")
        if sum(map(len, self._waiting.values())) >= self._limit:
            self._make_place(caller)
        place: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(place)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name=f"slots of {self._model}")
        return place

    def _make_place(self, caller: str) -> None:
        """Refuse the last of the caller that has the most waiting; that may be the one that has just come."""
        most = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[most]) <= len(self._waiting.get(caller, ())) + 1:
            raise self._refusal("has a full queue")
        last = self._waiting[most].pop()
        if not last.done():
            last.set_exception(self._refusal("has a full queue"))

    def _step_out(self, caller: str, place: "asyncio.Future[Slot]") -> None:
        """Forget a request that does not wait any more; a slot that it was given meanwhile goes to another."""
        if place.done() and not place.cancelled() and place.exception() is None:
            place.result().release()
        places = self._waiting.get(caller)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[caller]

    async def _serve(self) -> None:
        """Hand slots to those who wait until nobody does."""
        self._crowd.join()
        try:
            while (caller := self._next()) is not None:
                self._lines.keep({tag_of(each) for each in self._waiting})
                wait_s = max(_POLL_S, self._not_before - time.monotonic())
                waits = time.monotonic() < self._not_before or self._behind(caller)
                if waits or not (slot := self._free_slot(caller)):
                    self._freed.clear()
                    self._crowd.join()  # again: who looks whether others wait keeps them out for a moment
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._freed.wait()
                    continue
                self._hand(caller, slot)
        finally:
            self._crowd.leave()
            self._lines.keep(set())
            self._serving = None

    def _next(self) -> str | None:
        """Return the caller whose turn it is; None if nobody waits. The first of those with the fewest at work."""
        at_work = self._at_work()
        return min(self._waiting, key=lambda each: at_work[tag_of(each)], default=None)

    def _at_work(self) -> Counter[str]:
        """Return how many requests each key has at the engine, from all processes, by tag."""
        return Counter(file.tag for file in self._files)

    def _behind(self, caller: str) -> bool:
        """Say whether the next slot is for a request in another process, whose key has fewer at work than ``caller``.

        When that one does not take a slot that is free, it is not waited for any longer.
        """
        at_work = self._at_work()
        mine = at_work[tag_of(caller)]
        if not mine or all(at_work[tag] >= mine for tag in self._lines.elsewhere()):
            self._left = 0
            return False
        self._left = self._left + 1 if at_work[""] else 0
        return self._left <= _PATIENCE

    def _ahead(self) -> bool:
        """Say whether this process has a request whose key has fewer at work than all that wait in others."""
        at_work = self._at_work()
        fewest = min(at_work[tag_of(each)] for each in self._waiting)
        return all(at_work[tag] > fewest for tag in self._lines.elsewhere())

    def _hand(self, caller: str, slot: Slot) -> None:
        places = self._waiting.pop(caller)
        place = places.popleft()
        if places:
            self._waiting[caller] = places  # at the end: it has had its turn
        if place.done():  # it has left in this very moment
            slot.release()
        else:
            place.set_result(slot)

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
        file.give_back()
        if self._waiting and self._crowd.others() and not self._ahead():
            self._not_before = time.monotonic() + _YIELD_S
        self._freed.set()

    def _refusal(self, what: str) -> QueueFull:
        return QueueFull(f"The local model `{self._model}` {what}: try again later.", retry_after_s=_COME_BACK_S)

    async def close(self) -> None:
        """Refuse all who wait, and close the files but for those whose slots are still held."""
        if self._closed:
            return
        self._closed = True
        for places in self._waiting.values():
            for place in places:
                if not place.done():
                    place.set_exception(self._refusal("is shutting down"))
        self._waiting.clear()
        if self._serving is not None:
            self._serving.cancel()
            with suppress(asyncio.CancelledError):
                await self._serving
        self._crowd.close()
        for file in self._files:
            if not file.held:
                file.close()
