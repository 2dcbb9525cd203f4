"""Long bodies that come at once: others have the loop between two reads."""

import asyncio
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
