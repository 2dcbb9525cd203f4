"""Long bodies that come at once: others have the loop between two reads."""

import asyncio
import time
from typing import Any

from one_api.serving.request_body import RequestBody

BODIES = 20
PIECE = b"x" * 32 * 1024
#: How many pieces of each body come, and how many of them may be read before the body counts as long.
PIECES, AT_ONCE = 20, 3


async def test_in_a_pass_of_the_loop_one_long_body_is_read() -> None:
    reads: list[int] = []
    passes = 0

    def body() -> RequestBody:
        left = PIECES

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left < PIECES - AT_ONCE:
                reads.append(passes)
            return {"type": "http.request", "body": PIECE, "more_body": left > 0}

        return RequestBody(receive, timeout_s=60.0, on_complete=lambda: None)

    bodies = [body() for _ in range(BODIES)]
    tasks = [asyncio.create_task(each.discard(60.0)) for each in bodies]
    while not all(task.done() for task in tasks):
        passes += 1
        await asyncio.sleep(0)

    assert all(each.complete for each in bodies)
    assert len(reads) == BODIES * (PIECES - AT_ONCE)
    assert max(reads.count(each) for each in set(reads)) == 1


async def test_the_wait_for_a_turn_is_not_taken_off_the_time_of_the_client() -> None:
    timeout_s, work_s = 1.5, 0.006

    def body() -> RequestBody:
        left = PIECES

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left < PIECES - AT_ONCE:
                time.sleep(work_s)  # what a piece of a long body takes
            await asyncio.sleep(0)  # and what the client sends comes with the next pass
            return {"type": "http.request", "body": PIECE, "more_body": left > 0}

        return RequestBody(receive, timeout_s=timeout_s, on_complete=lambda: None)

    bodies = [body() for _ in range(BODIES)]
    began = time.monotonic()
    await asyncio.gather(*(each.discard(60.0) for each in bodies))

    assert time.monotonic() - began > timeout_s
    assert all(each.complete for each in bodies)


async def test_long_bodies_leave_half_of_the_processor_to_others_and_still_come_on() -> None:
    work_s, began_s = 0.002, time.perf_counter()

    def body() -> RequestBody:
        left = PIECES

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            ends = time.thread_time() + work_s
            while time.thread_time() < ends:
                pass
            return {"type": "http.request", "body": PIECE, "more_body": left > 0}

        return RequestBody(receive, timeout_s=60.0, on_complete=lambda: None)

    bodies, cpu_s = [body() for _ in range(4)], time.thread_time()
    await asyncio.gather(*(each.discard(60.0) for each in bodies))

    assert all(each.complete for each in bodies)
    assert (time.thread_time() - cpu_s) / (time.perf_counter() - began_s) < 0.75
