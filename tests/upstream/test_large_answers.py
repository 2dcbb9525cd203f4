"""Answers that take long to decode: others have the loop meanwhile."""

import pytest

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.answer import read_in_steps
from one_api.serving.fairness import in_turns
from one_api.upstream.client import decode_large
from tests.dialects.recorded import OURS, chunk, said, stream, usage
from tests.support.loop_time import passes_beside


async def test_a_large_answer_is_decoded_in_turns_with_others() -> None:
    answer = json.encode({"rows": [{"a": 1, "b": 0.5}] * 20_000})

    decoded, passes = await passes_beside(lambda: decode_large(answer))

    assert decoded == json.decode(answer)
    assert passes > 5


CHUNKS = [*(chunk({"content": f"{number} "}) for number in range(5_000)), chunk({}, "stop", usage=usage(9, 3))]
#: An answer of many chunks, in the forms that it may come in.
LARGE = {
    "events": stream(*CHUNKS),
    "lines": b"".join(json.encode(each) + b"\n" for each in CHUNKS),
    "list": json.encode(CHUNKS),
    "lines of a list": b"[" + b",\n".join(map(json.encode, CHUNKS)) + b"]",
}


@pytest.mark.parametrize("answer", list(LARGE.values()), ids=list(LARGE))
async def test_many_chunks_in_one_body_are_put_together_in_turns_with_others(answer: bytes) -> None:
    async def read() -> JSONObject:
        found: JSONObject = await in_turns(read_in_steps(answer, OURS, decoded=await decode_large(answer)))
        return found

    found, passes = await passes_beside(read)

    assert found["choices"] == [said("".join(f"{number} " for number in range(5_000)))]
    assert found["usage"] == usage(9, 3)
    assert passes > len(answer) // 20_000


async def test_what_is_small_or_no_object_is_left_to_the_reader() -> None:
    assert await decode_large(b'{"a": 1}') is None
    assert await decode_large(b"data: {}\n\n" * 20_000) is None
