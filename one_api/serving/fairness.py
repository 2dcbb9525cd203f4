"""Fair shares of the event loop: work that need not wait for anything is cut into small shares.

A read can hold thousands of requests, and an upstream can send faster than anybody reads. Such work never waits, so
nothing else runs until it is done. Whoever does it asks here how long it may go on, and queues for its next share.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

#: How long all bursts together may take in one pass of the loop before the next of them has to queue, in seconds.
_PASS_S = 0.004


class FairScheduler:
    """Runs what has used up its share, first come first served: one in each pass of the running loop."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        #: When the first burst of this pass asked; None before.
        self._pass_began: float | None = None

    def is_late(self) -> bool:
        """Return whether the bursts of this pass of the loop have had their time: the caller should queue."""
        now = time.perf_counter()
        if self._pass_began is None:
            self._pass_began = now
            asyncio.get_running_loop().call_soon(self._end_pass)
        return now - self._pass_began > _PASS_S

    def submit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, in a later pass of the loop, after all that were submitted before."""
        self._queue.append(callback)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    async def wait_turn(self) -> None:
        """Wait for the next share."""
        turn = asyncio.get_running_loop().create_future()
        self.submit(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _end_pass(self) -> None:
        self._pass_began = None

    def _run(self) -> None:
        callback = self._queue.popleft()
        self._is_scheduled = bool(self._queue)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._run)
        callback()
