"""Long bodies that come at once: others have the loop between two reads."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from one_api.serving.request_body import RequestBody

BODIES = 20
PIECE = b"x" * 32 * 1024
#: How many pieces of each body come, and how many of them may be read before the body counts as long.
PIECES, AT_ONCE = 20, 3


def body(piece_comes: Callable[[int], Awaitable[None]], timeout_s: float = 60.0) -> RequestBody:
    """A body of all its pieces; ``piece_comes`` is awaited for each, with how many have come before."""
    come = 0

    async def receive() -> dict[str, Any]:
        nonlocal come
        come += 1
        await piece_comes(come - 1)
        return {"type": "http.request", "body": PIECE, "more_body": come < PIECES}

    return RequestBody(receive, timeout_s=timeout_s, on_complete=lambda: None)


async def test_in_a_pass_of_the_loop_one_long_body_is_read() -> None:
    reads: list[int] = []
    passes = 0

    async def note(before: int) -> None:
        if before >= AT_ONCE:
            reads.append(passes)

    bodies = [body(note) for _ in range(BODIES)]
    tasks = [asyncio.create_task(each.discard(60.0)) for each in bodies]
    while not all(task.done() for task in tasks):
        passes += 1
        await asyncio.sleep(0)

    assert all(each.complete for each in bodies)
    assert len(reads) == BODIES * (PIECES - AT_ONCE)
    assert max(reads.count(each) for each in set(reads)) == 1


async def test_the_wait_for_a_turn_is_not_taken_off_the_time_of_the_client() -> None:
    timeout_s, work_s = 1.5, 0.006

    async def work(before: int) -> None:
        if before >= AT_ONCE:
            time.sleep(work_s)  # what a piece of a long body takes
        await asyncio.sleep(0)  # and what the client sends comes with the next pass

    bodies = [body(work, timeout_s) for _ in range(BODIES)]
    began = time.monotonic()
    await asyncio.gather(*(each.discard(60.0) for each in bodies))

    assert time.monotonic() - began > timeout_s
    assert all(each.complete for each in bodies)


async def test_long_bodies_leave_half_of_the_processor_to_others_and_still_come_on() -> None:
    work_s, began_s = 0.002, time.perf_counter()

    async def work(_: int) -> None:
        ends = time.thread_time() + work_s
        while time.thread_time() < ends:
            pass

    bodies, cpu_s = [body(work) for _ in range(4)], time.thread_time()
    await asyncio.gather(*(each.discard(60.0) for each in bodies))

    assert all(each.complete for each in bodies)
    assert (time.thread_time() - cpu_s) / (time.perf_counter() - began_s) < 0.75
