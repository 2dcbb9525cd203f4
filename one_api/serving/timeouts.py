"""Deadlines for many waits in a row (the events of a stream, for example), with one timer for all of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ReusableTimeout:
    """Limits waits, one at a time. A wait is cheap: the timer moves when it expires, not at every wait.

    The owner calls ``close()``; otherwise the timer expires once more, without an effect.
    """

    __slots__ = ("_expired", "_expires_at", "_task", "_timer", "_until", "_waited_s")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer expires, in the loop's time (not every handle of uvloop has ``when()``).
        self._expires_at = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._until = 0.0
        self._expired = False
        self._waited_s = 0.0

    def until(self, limit_s: float) -> float:
        """Return the deadline of the next wait, in the loop's time.

        The next wait and all waits since ``reset`` together may take ``limit_s`` seconds.
        """
        return asyncio.get_running_loop().time() + limit_s - self._waited_s

    def reset(self) -> None:
        """Count the time of waits from zero again: the awaited event has arrived."""
        self._waited_s = 0.0

    async def wait(self, coroutine: Coroutine[Any, Any, T], until: float) -> T:
        """Await ``coroutine`` until a time of the loop's clock; on timeout cancel it and raise TimeoutError."""
        clock = asyncio.get_running_loop().time
        task, began = asyncio.current_task(), clock()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        cancellations = task.cancelling()
        self._task, self._until, self._expired = task, until, False
        if self._timer is None or until < self._expires_at:
            self._start_timer()
        try:
            return await coroutine
        except asyncio.CancelledError:
            if self._expired and task.cancelling() - 1 <= cancellations:
                raise TimeoutError from None
            raise
        finally:
            self._task = None
            self._waited_s += clock() - began
            if self._expired:
                task.uncancel()

    def _start_timer(self) -> None:
        self.close()
        self._expires_at = self._until
        self._timer = asyncio.get_running_loop().call_at(self._until, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if asyncio.get_running_loop().time() < self._until:
            self._start_timer()
        else:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
