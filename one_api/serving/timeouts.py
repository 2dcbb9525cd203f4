"""Deadlines: for one wait, and for many in a row (the events of a stream, for example) with one timer for all.

None of them counts against a peer what has arrived: after a process, or its machine, has stood still, timers expire
before sockets are read.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

#: So many turns the loop has after a deadline to read what has arrived, and to hand it to the task that waits for it.
_LAST_LOOKS = 10
#: So many waits in a row may be ended by such a look: a trickle of bytes is to end, too.
MAX_LATE_WAITS = 128


class Expiry:
    """Calls ``callback`` after a time, unless it is cancelled before, or by what the loop reads in its last looks."""

    __slots__ = ("_callback", "_handle", "_looks", "_loop")

    def __init__(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        #: None once it is of no use any more: it leads back to the owner of this.
        self._callback: Callable[[], object] | None = callback
        self._looks = 0
        self._handle: asyncio.Handle = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        if self._looks < _LAST_LOOKS:
            self._looks += 1
            self._handle = self._loop.call_soon(self._look)
        elif (callback := self._callback) is not None:
            self.cancel()
            callback()

    def cancel(self) -> None:
        """Call nothing."""
        self._handle.cancel()
        self._callback = None


class Deadline:
    """Limits what is awaited inside ``with``: it raises TimeoutError, as ``asyncio.timeout`` does.

    Each request has several; this one needs no coroutine at its begin and end.
    """

    __slots__ = ("_cancellations", "_expired", "_limit_s", "_task", "_timer")

    _task: asyncio.Task[Any]
    _timer: Expiry

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._expired = False
        self._cancellations = 0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task, self._cancellations = task, task.cancelling()
        self._timer = Expiry(self._limit_s, self._expire)
        return self

    def lift(self) -> None:
        """Limit nothing any more."""
        self._timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()
        # Cancelled from outside as well, it stays cancelled.
        is_late = self._expired and self._task.uncancel() <= self._cancellations
        del self._task  # it leads to the error that it ends with, and that to the frame that holds this
        if is_late and kind is asyncio.CancelledError:
            raise TimeoutError from error


class ReusableTimeout:
    """Limits waits, one at a time: ``with timeout.limit(seconds): await ...`` raises TimeoutError after that time.

    A wait is cheap: the timer moves when it expires, not at every wait. The owner calls ``close()``; otherwise the
    timer expires once more, without an effect.
    """

    __slots__ = (
        "_began",
        "_cancellations",
        "_expired",
        "_expires_at",
        "_late_waits",
        "_looks",
        "_loop",
        "_task",
        "_timer",
        "_until",
        "_waited_s",
    )

    _loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._timer: asyncio.Handle | None = None
        #: Last looks of this wait; and waits since ``reset`` that had some.
        self._looks = self._late_waits = 0
        #: When the timer expires, in the loop's time (not every handle of uvloop has ``when()``).
        self._expires_at = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._cancellations = 0
        self._began = self._until = 0.0
        self._expired = False
        self._waited_s = 0.0

    def limit(self, limit_s: float, until: float = math.inf) -> Self:
        """Return the context of the next wait, to be entered at once.

        It and all waits since ``reset`` together may take ``limit_s`` seconds; it ends at ``until`` in the loop's time.
        """
        if not self._began:  # once: to look it up takes a system call
            self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._until = min(self._began + limit_s - self._waited_s, until)
        return self

    def reset(self) -> None:
        """Count the time of waits from zero again: the awaited event has arrived."""
        self._waited_s = 0.0
        self._late_waits = 0

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task(self._loop)
        self._expired = False
        self._looks = 0
        self._cancellations = task.cancelling() if task is not None else 0
        if self._timer is None or self._until < self._expires_at:
            self._start_timer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._waited_s += self._loop.time() - self._began
        task, self._task = self._task, None
        self._late_waits += self._looks > 0
        if not self._expired or task is None:
            return
        # Cancelled from outside as well, it stays cancelled.
        if task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise TimeoutError from None

    def _start_timer(self) -> None:
        self.close()
        self._expires_at = self._until
        self._timer = self._loop.call_at(self._until, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._until:
            self._start_timer()
        elif self._looks < _LAST_LOOKS and self._late_waits < MAX_LATE_WAITS:
            self._looks += 1
            self._timer = self._loop.call_soon(self._on_timer)
        else:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
