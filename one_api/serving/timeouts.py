"""Deadlines for many waits in a row, such as those of a stream between its events, with one timer for all."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Bounds waits, one at a time. Its timer is moved when it goes off, not with every wait: a wait costs next to none.

    Whoever has it calls ``close()``, or the timer goes off once more, for nothing.
    """

    __slots__ = ("_expired", "_rings", "_task", "_timer", "_until", "_waited_s")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer goes off (uvloop's handles do not always tell).
        self._rings = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._until = 0.0
        self._expired = False
        self._waited_s = 0.0

    def until(self, limit_s: float) -> float:
        """Return by when, in the loop's time, a wait from now on and those since ``begin_anew`` take ``limit_s``."""
        return asyncio.get_running_loop().time() + limit_s - self._waited_s

    def begin_anew(self) -> None:
        """Forget how long the waits took: what was waited for has come."""
        self._waited_s = 0.0

    async def wait(self, coroutine: Coroutine[Any, Any, T], until: float) -> T:
        """Await ``coroutine`` until then, in the loop's time; raises TimeoutError, after cancelling it."""
        clock = asyncio.get_running_loop().time
        task, began = asyncio.current_task(), clock()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        cancellations = task.cancelling()
        self._task, self._until, self._expired = task, until, False
        if self._timer is None or until < self._rings:
            self._wind()
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

    def _wind(self) -> None:
        self.close()
        self._rings = self._until
        self._timer = asyncio.get_running_loop().call_at(self._until, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if asyncio.get_running_loop().time() < self._until:
            self._wind()
        else:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
