"""Tasks that are not wanted any more: none is left behind, and nothing that one has opened."""

import asyncio
from collections.abc import Awaitable, Callable
from operator import methodcaller
from typing import Any, TypeVar

T = TypeVar("T")


async def stop(*tasks: "asyncio.Future[Any] | None") -> None:
    """Cancel tasks and wait for their ends, whatever those are; None stands for a task that was never begun."""
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    if begun:
        await asyncio.wait(begun)  # not gather, which hands a cancellation down: two tasks may stop each other
    for task in begun:
        task.cancelled() or task.exception()  # else asyncio would report errors that were never looked at


async def ended(task: "asyncio.Future[Any]", limit_s: float) -> None:
    """Wait for the end of a task, at most for so long; ``asyncio.wait`` takes many more steps for one task."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(limit_s, wake)
    task.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(wake)


async def abandon(
    task: "asyncio.Future[T]", release: Callable[[T], Awaitable[object]] = methodcaller("aclose")
) -> None:
    """Stop a task; if it had a result by then, ``release`` lets go of that: its own ``aclose()``, if nothing else."""
    await stop(task)
    if not task.cancelled() and task.exception() is None:
        await release(task.result())
