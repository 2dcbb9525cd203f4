"""Several choices as one stream, from streams that do as they are told."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from one_api.contract import ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import Identity
from one_api.engine.choices import ChoicesStream
from one_api.errors import UpstreamFailed, UpstreamOverloaded

IDENTITY = Identity("chatcmpl-1", 1, "tiny")


class Told(ChunkStream):
    """A stream of given texts; an exception among them is raised. Counts how many are open."""

    open_now = 0
    most_open = 0

    def __init__(self, texts: list[Any]) -> None:
        self._texts: Iterator[Any] = iter(texts)
        Told.open_now += 1
        Told.most_open = max(Told.most_open, Told.open_now)

    async def read(self) -> list[JSONObject]:
        """One chunk for each text, then the end."""
        await asyncio.sleep(0)
        text = next(self._texts, None)
        if text is None:
            self.usage, self.ended = Usage(10, 2), True
            return []
        if isinstance(text, Exception):
            raise text
        choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        return [{"id": "other", "choices": [choice]}, {"id": "other", "choices": [], "usage": {}}]

    async def aclose(self) -> None:
        """Count it out."""
        Told.open_now -= 1


def choices(*answers: list[Any], at_once: int = 4, include_usage: bool = True) -> ChoicesStream:
    """A stream of as many choices as there are answers."""
    Told.open_now = Told.most_open = 0

    async def open_one(index: int) -> ChunkStream:
        if answers[index] and isinstance(answers[index][0], UpstreamOverloaded):
            raise answers[index][0]
        return Told(answers[index])

    return ChoicesStream(IDENTITY, len(answers), at_once, open_one, include_usage=include_usage)


async def test_choices_are_numbered_and_counted_together() -> None:
    async with choices(["a", "b"], ["c"]) as stream:
        await stream.wait_for_first()
        chunks = [chunk async for chunk in stream]
        ended = stream.ended

    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == ["ab", "c"]
    assert [each["delta"].get("role") for chunk in chunks[:2] for each in chunk["choices"]] == ["assistant"] * 2
    assert not [each for chunk in chunks[2:] for each in chunk["choices"] if "role" in each["delta"]]
    assert chunks[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert stream.usage == Usage(10, 4)
    assert ended
    assert Told.open_now == 0


async def test_usage_is_told_only_when_asked() -> None:
    async with choices(["a"], include_usage=False) as stream:
        chunks = [chunk async for chunk in stream]

    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


async def test_not_all_are_open_at_once() -> None:
    async with choices(*[["a", "b", "c"]] * 9, at_once=2) as stream:
        async for _ in stream:
            pass

    assert Told.most_open == 2


async def test_the_first_failure_is_raised_before_anything_is_said() -> None:
    stream = choices([UpstreamOverloaded("full")])

    with pytest.raises(UpstreamOverloaded):
        await stream.wait_for_first()

    assert Told.open_now == 0


async def test_a_choice_that_breaks_breaks_the_answer_and_closes_the_others() -> None:
    stream = choices(["a", UpstreamFailed("gone")], ["b"] * 1000)

    with pytest.raises(UpstreamFailed):
        async for _ in stream:
            pass
    await stream.aclose()

    assert Told.open_now == 0


async def test_nobody_reads_ahead_for_a_slow_reader() -> None:
    stream = choices(["a"] * 1000)
    for _ in range(500):
        await asyncio.sleep(0)

    assert Told.open_now == 1, "the answer waits to be read"
    await stream.aclose()


async def test_whoever_lets_go_of_them_can_be_cancelled() -> None:
    closing, gate = asyncio.Event(), asyncio.Event()

    class Slow(Told):
        async def aclose(self) -> None:
            closing.set()
            await gate.wait()

    async def open_one(_: int) -> ChunkStream:
        return Slow(["a"] * 100)

    stream = ChoicesStream(IDENTITY, 1, 1, open_one, include_usage=False)
    await stream.wait_for_first()
    leaving = asyncio.create_task(stream.aclose())
    await closing.wait()

    leaving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.set()
