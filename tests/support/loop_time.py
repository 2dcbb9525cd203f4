"""Time in which a loop could run: bounds on waiting mean the same on a machine that is busy, or stands still."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

TICK_S = 0.01


class LoopTime:
    """A clock of the running loop that never goes ahead of the real one, and stands still while the loop cannot run.

    An asynchronous context manager, in which it runs.
    """

    def __init__(self) -> None:
        self._ticks = 0

    @property
    def now_s(self) -> float:
        """How long it has run, in seconds."""
        return self._ticks * TICK_S

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticking.cancel()
        await asyncio.wait({self._ticking})

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._ticks += 1


async def passes_beside(work: Callable[[], Awaitable[Any]]) -> tuple[Any, int]:
    """What the work returns, and how often another task had its turn meanwhile."""
    passes = 0

    async def be_another() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(be_another())
    result = await work()
    other.cancel()
    return result, passes
