"""Several choices as one stream, from streams that send given texts."""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from one_api.contract import ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamFailed, UpstreamOverloaded
from one_api.upstream.choices import ChoicesStream, OpenedLater


class Scripted(ChunkStream):
    """A stream of given texts; an exception among them is raised. Counts how many are open."""

    open_now = 0
    most_open = 0

    def __init__(self, texts: list[Any], *, include_usage: bool = True) -> None:
        self._texts: Iterator[Any] = iter(texts)
        self._include_usage = include_usage
        self._role: JSONObject = {"role": "assistant"}
        self._counted_out = False
        Scripted.open_now += 1
        Scripted.most_open = max(Scripted.most_open, Scripted.open_now)

    async def read(self) -> list[JSONObject]:
        """One chunk for each text, then the usage and the end."""
        await asyncio.sleep(0)
        text = next(self._texts, None)
        head = {"id": f"own {id(self)}", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        if text is None:
            self.usage, self.ended = Usage(10, 2), True
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            return [{**head, "choices": [], "usage": usage}] if self._include_usage else []
        if isinstance(text, Exception):
            raise text
        delta, self._role = {**self._role, "content": text}, {}
        return [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}]

    async def aclose(self) -> None:
        """Count it out."""
        if not self._counted_out:
            self._counted_out = True
            Scripted.open_now -= 1


def later(*answers: list[Any], at_once: int = 4, include_usage: bool = True) -> list[OpenedLater]:
    """Streams that open in turns; an answer that begins with an overload cannot be opened."""
    Scripted.open_now = Scripted.most_open = 0

    async def open_one(texts: list[Any]) -> ChunkStream:
        if texts and isinstance(texts[0], UpstreamOverloaded):
            raise texts[0]
        return Scripted(texts, include_usage=include_usage)

    turns = asyncio.Semaphore(at_once)
    return [OpenedLater(partial(open_one, texts), turns) for texts in answers]


def choices(*answers: list[Any], at_once: int = 4, include_usage: bool = True, **options: Any) -> ChoicesStream:
    """A stream of as many choices as there are answers."""
    streams = later(*answers, at_once=at_once, include_usage=include_usage)
    return ChoicesStream(streams, include_usage=include_usage, **options)


async def test_choices_are_numbered_and_counted_together() -> None:
    async with choices(["a", "b"], ["c"]) as stream:
        chunks = [chunk async for chunk in stream]
        ended = stream.ended

    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == ["ab", "c"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    roles = [choice["index"] for chunk in chunks for choice in chunk["choices"] if "role" in choice["delta"]]
    assert roles == [0, 1]
    assert chunks[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert stream.usage == Usage(10, 4)
    assert ended
    assert Scripted.open_now == 0


async def test_what_every_choice_pays_stands_beside_the_count() -> None:
    async with choices(["a"], ["b"], ["c"], pays_each=True) as stream:
        chunks = [chunk async for chunk in stream]

    usage = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16, "total_tokens_paid": 36}
    assert chunks[-1]["usage"] == usage
    assert stream.usage == Usage(30, 6)


async def test_each_of_several_prompts_counts_once() -> None:
    async with choices(["a"], ["b"], ["c"], ["d"], prompts=2) as stream:
        chunks = [chunk async for chunk in stream]

    assert chunks[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
    assert stream.usage == Usage(20, 8)


async def test_usage_is_sent_only_when_asked() -> None:
    async with choices(["a"], include_usage=False) as stream:
        chunks = [chunk async for chunk in stream]

    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert stream.usage == Usage(10, 2)


@pytest.mark.parametrize("at_once", [1, 2])
async def test_not_all_are_open_at_once(at_once: int) -> None:
    async with choices(*[["a", "b", "c"]] * 9, at_once=at_once) as stream:
        text = "".join([choice["delta"]["content"] async for chunk in stream for choice in chunk["choices"]])

    assert sorted(text) == sorted("abc" * 9)
    assert Scripted.most_open == at_once


async def test_a_stream_that_cannot_be_opened_says_so_and_gives_up_its_turn() -> None:
    broken, other = later([UpstreamOverloaded("full")], ["a"], at_once=1)

    with pytest.raises(UpstreamOverloaded):
        await broken.start()

    assert (await other.read())[0]["choices"]
    await other.aclose()
    assert Scripted.open_now == 0


async def test_a_choice_that_breaks_breaks_the_answer_and_closes_the_others() -> None:
    stream = choices(["a", UpstreamFailed("gone")], ["b"] * 1000)

    with pytest.raises(UpstreamFailed):
        async for _ in stream:
            pass
    await stream.aclose()

    assert Scripted.open_now == 0


async def test_nothing_is_read_ahead_for_a_slow_reader() -> None:
    async with choices(["a"] * 1000, ["b"] * 1000) as stream:
        await stream.read()
        for _ in range(500):
            await asyncio.sleep(0)

        assert Scripted.open_now == 2, "the answers wait to be read"
    assert Scripted.open_now == 0


async def test_closing_them_can_be_cancelled() -> None:
    closing, gate = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def aclose(self) -> None:
            closing.set()
            await gate.wait()

    stream = ChoicesStream([Slow(["a"] * 100)], include_usage=False)
    await stream.read()
    leaving = asyncio.create_task(stream.aclose())
    await closing.wait()

    leaving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.set()
