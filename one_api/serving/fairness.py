"""Fair shares of the event loop: work that need not wait for anything is cut into small shares.

A read can hold thousands of requests, hundreds of clients can connect in one moment, and an upstream can send faster
than it is read. Such work never waits, so nothing else runs until it is done. It asks here how long it
may go on, and queues for its next share.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

#: How long all bursts together may take in one pass of the loop before the next of them has to queue, in seconds.
_PASS_S = 0.004
#: How many requests are started in one pass: the first of a crowd are to be answered before the last have begun.
_STARTS = 4
#: How much of streams under way goes on in one pass while others wait for their start, and after that, in bytes: first
#: chunks come before the later ones of others.
_CROWDED_BYTES, _HELD_BYTES = 1024, 16 * 1024
#: What part of the CPU time that it can have this thread may use, with all that it does, for pipelined requests to
#: start, and how long the first of them waits all the same, in seconds of the thread's own time.
_PIPELINED_PART, _PIPELINED_WAIT_S = 1 / 3, 0.1
#: The same for pieces of long bodies to be read.
_BODIES_PART, _BODIES_WAIT_S = 1 / 2, 0.004
#: How far behind, or ahead, that account may be, in seconds of CPU time.
_MAX_DEBT_S, _MAX_CREDIT_S = 0.01, 0.001
#: How often the account is looked at while something waits, in seconds.
_LOOK_S = 0.001


class TurnQueue:
    """What is submitted is called in its order, one in each pass of the running loop."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def submit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, after all that were submitted before, and never within this call."""
        self._queue.append(callback)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    async def wait_turn(self) -> None:
        """Wait for what is submitted here to be called."""
        await _turn(self.submit)

    def _run(self) -> None:
        callback = self._queue.popleft()
        self._is_scheduled = bool(self._queue)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._run)
        callback()


class FairScheduler(TurnQueue):
    """Decides what may go on in this pass of the running loop, and runs the rest later, in its order."""

    def __init__(self) -> None:
        super().__init__()
        #: When the first burst of this pass asked; None before.
        self._pass_began: float | None = None
        self._starts: deque[Callable[[], None]] = deque()
        self._starts_left = _STARTS
        self._held: deque[Callable[[], int]] = deque()
        #: For how many passes clients are taken to wait for their connection.
        self._clients_wait = 0
        #: Another pass is counted.
        self._is_counting = False
        self.pipelined = SpareTimeQueue(_PIPELINED_PART, _PIPELINED_WAIT_S)
        self.long_bodies = SpareTimeQueue(_BODIES_PART, _BODIES_WAIT_S)

    def is_late(self) -> bool:
        """Return whether the bursts of this pass of the loop have had their time: the caller should queue."""
        now = time.perf_counter()
        if self._pass_began is None:
            self._pass_began = now
            asyncio.get_running_loop().call_soon(self._end_pass)
        return now - self._pass_began > _PASS_S

    def start(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, which starts a request: at once, or in its turn when many start in one moment."""
        self._keep_counting()
        if self._starts_left and not self._starts:
            self._starts_left -= 1
            callback()
        else:
            self._starts.append(callback)

    @property
    def is_crowded(self) -> bool:
        """Whether requests wait for their start, clients for their connection, or streams that gave way to those.

        Streams under way give way. After a crowd they go on in their turns: all at once they would come before the
        first chunks of the last that were started.
        """
        return self._others_wait or bool(self._held)

    @property
    def _others_wait(self) -> bool:
        return self._clients_wait > 0 or bool(self._starts)

    def clients_wait(self) -> None:
        """Note, in each pass, that more clients may have connected than were accepted."""
        self._clients_wait = 2
        self._keep_counting()

    def hold(self, callback: Callable[[], int]) -> None:
        """Call ``callback``, which goes on with a stream, in its turn; for when the loop is crowded.

        It returns how many bytes it went on with.
        """
        self._held.append(callback)
        self._keep_counting()

    def _keep_counting(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        """Begin another pass: start what may be started in it, and go on with some of what has given way."""
        self._clients_wait = max(0, self._clients_wait - 1)
        starts = min(_STARTS, len(self._starts))
        self._starts_left = _STARTS - starts
        for _ in range(starts):
            self._starts.popleft()()
        left = _CROWDED_BYTES if self._others_wait else _HELD_BYTES
        while self._held and left > 0:
            left -= self._held.popleft()()
        self._is_counting = bool(self._starts or self._held or self._clients_wait)
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._count)

    def _end_pass(self) -> None:
        self._pass_began = None


class SpareTimeQueue(TurnQueue):
    """Work of which one peer may ask for much, and hardly one does: it goes on while the loop has time for it.

    One read may hold hundreds of pipelined requests, and a crowd may send long bodies without a pause. One of them goes
    on as soon as the thread, with all that it does, has used no more than a part of the CPU; and one every few
    milliseconds, however much there is to do.
    """

    def __init__(self, part: float, max_wait_s: float) -> None:
        """``part`` is that part; ``max_wait_s``, of the thread's own time, is how long the first in the queue waits."""
        super().__init__()
        self._part, self._max_wait_s = part, max_wait_s
        self._debt_s = 0.0
        self._clock = OwnTime()
        self._now = self._cpu = self._started_at = 0.0

    def _run(self) -> None:
        if self._must_wait():
            asyncio.get_running_loop().call_later(_LOOK_S, self._run)
            return
        self._started_at = self._now
        super()._run()

    def _must_wait(self) -> bool:
        """Return whether this thread has used more CPU time than it should have by now."""
        now, cpu = self._clock.now_s(), time.thread_time()
        debt = self._debt_s + (cpu - self._cpu) - self._part * (now - self._now)
        self._now, self._cpu = now, cpu
        self._debt_s = max(-_MAX_CREDIT_S, min(_MAX_DEBT_S, debt))
        return self._debt_s > 0 and now - self._started_at < self._max_wait_s


class OwnTime:
    """A clock that stands still while its thread is ready to run and other programs have the CPU.

    A part of the time says nothing on a machine that is busy: this thread may never get that much. Only Linux counts
    it; elsewhere the clock never stands still.
    """

    _NO_FILE = -1

    def __init__(self) -> None:
        #: Opened by the thread whose time it is.
        self._file: int | None = None

    def now_s(self) -> float:
        """Return its time, in seconds."""
        if self._file is None:
            self._file = self._opened()
        waited_ns = 0 if self._file == self._NO_FILE else int(os.pread(self._file, 128, 0).split()[1])
        return time.perf_counter() - waited_ns / 1e9

    def _opened(self) -> int:
        try:
            return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return self._NO_FILE

    def __del__(self) -> None:
        if self._file is not None and self._file != self._NO_FILE:
            os.close(self._file)


async def _turn(submit: Callable[[Callable[[], None]], None]) -> None:
    """Wait for ``submit`` to call what it is given."""
    turn = asyncio.get_running_loop().create_future()
    submit(lambda: None if turn.done() else turn.set_result(None))
    await turn


def scheduler() -> FairScheduler:
    """Return the scheduler of the running loop: all that is served on it shares it."""
    return _of(asyncio.get_running_loop())


async def aside(work: Callable[[], T], *, is_short: bool) -> T:
    """Return what ``work`` returns, which is done in a thread unless it ``is_short``: it must not keep others waiting.

    A body of many entries takes as long as a hundred short ones.
    """
    return work() if is_short else await asyncio.to_thread(work)


def finished(steps: Generator[None, None, T]) -> T:
    """Return what ``steps`` returns, all of them at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


async def in_turns(steps: Generator[None, None, T]) -> T:
    """Return what ``steps`` returns; others have the loop between two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await scheduler().wait_turn()


@lru_cache(maxsize=1)
def _of(loop: asyncio.AbstractEventLoop) -> FairScheduler:
    return FairScheduler()
