"""Answers that take long to decode: others have the loop meanwhile."""

import asyncio

from one_api.dialects import json
from one_api.upstream.client import decode_large


async def test_a_large_answer_is_decoded_in_turns_with_others() -> None:
    answer = json.encode({"rows": [{"a": 1, "b": 0.5}] * 20_000})
    passes = 0

    async def be_another() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(be_another())
    decoded = await decode_large(answer)
    other.cancel()

    assert decoded == json.decode(answer)
    assert passes > 5


async def test_what_is_small_or_no_object_is_left_to_the_reader() -> None:
    assert await decode_large(b'{"a": 1}') is None
    assert await decode_large(b"data: {}\n\n" * 20_000) is None
