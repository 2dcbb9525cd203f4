"""Identical requests for vectors that are under way: one asks, and the others wait for what it keeps."""

import asyncio
from array import array

import pytest

from one_api.cache.answers import Answers
from one_api.cache.embeddings import KeptVectors
from one_api.cache.keys import CacheRoute
from one_api.cache.stores import MemoryAnswers
from one_api.config import Config
from one_api.contract import Caller
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.embeddings import EmbeddingRequest, answer_of
from one_api.errors import UpstreamOverloaded
from one_api.records import CallContext, CallRecord
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.sections import CacheConfig

from .bed import turns

ROUTE = CacheRoute("m", [("a/m", "https://api.openai.com/v1")], 1)


class Vectors:
    """A cache before upstreams that answer once the gate is open; the first request to them may fail."""

    def __init__(self, *, fails: bool = False, **settings: object) -> None:
        cache = CacheConfig(**({"enabled": True} | settings))  # type: ignore[arg-type]
        config = Config(adapters={"a": OpenAIConfig(models=("m",))}, cache=cache)
        self.answers = Answers(config, MemoryAnswers(10_000_000))
        self.gate = asyncio.Event()
        self.asked: list[list[str]] = []
        self.records: list[CallRecord] = []
        self._fails = fails

    async def _upstream(self, request: EmbeddingRequest, context: CallContext) -> JSONObject:
        texts = [str(each) for each in request.inputs]
        self.asked.append(texts)
        fails, self._fails = self._fails, False
        await self.gate.wait()
        if fails:
            raise UpstreamOverloaded("busy")
        return answer_of([array("f", [len(text), 1.0]) for text in texts], "m", 7)

    async def _embed(self, record: CallRecord, texts: tuple[str, ...], control: str | None) -> list[float]:
        asked = EmbeddingRequest.read({"model": "m", "input": list(texts)})
        context = CallContext(record, Caller("alice"), control)
        answer = await KeptVectors(self.answers).run(ROUTE, asked, context, self._upstream)
        return [entry["embedding"][0] for entry in answer["data"]]

    async def begin(self, *requests: tuple[str, ...], control: str | None = None) -> list[asyncio.Task[list[float]]]:
        """Requests for these texts, each of which has gone as far as it can."""
        tasks = []
        for texts in requests:
            self.records.append(CallRecord("r", "POST", "/", caller="alice"))
            tasks.append(asyncio.create_task(self._embed(self.records[-1], texts, control)))
            await turns()
        return tasks

    def where_from(self) -> list[str | None]:
        """Where the answers came from, in the order of the requests."""
        return [record.cache for record in self.records]


async def test_identical_requests_ask_once() -> None:
    vectors = Vectors()
    tasks = await vectors.begin(("a", "bb"), ("a", "bb"), ("bb",))

    vectors.gate.set()

    assert await asyncio.gather(*tasks) == [[1, 2], [1, 2], [2]]
    assert (vectors.asked, vectors.where_from()) == ([["a", "bb"]], ["miss", "joined", "joined"])
    assert [bool(record.free) for record in vectors.records] == [False, True, True]
    assert not vectors.answers.pending


async def test_who_wants_more_than_is_under_way_waits_for_nothing() -> None:
    vectors = Vectors()
    tasks = await vectors.begin(("a",), ("a", "bb"))

    assert vectors.asked == [["a"], ["a", "bb"]]

    vectors.gate.set()
    await asyncio.gather(*tasks)
    assert not vectors.answers.pending


async def test_when_the_one_that_asks_fails_the_others_ask() -> None:
    vectors = Vectors(fails=True)
    first, *others = await vectors.begin(("a",), ("a",), ("a",))

    vectors.gate.set()

    with pytest.raises(UpstreamOverloaded):
        await first
    assert await asyncio.gather(*others) == [[1], [1]]


async def test_when_the_one_that_asks_leaves_the_others_ask() -> None:
    vectors = Vectors()
    first, other = await vectors.begin(("a",), ("a",))

    first.cancel()
    vectors.gate.set()

    assert await other == [1]
    assert len(vectors.asked) == 2


@pytest.mark.parametrize("control", [None, "no-cache"])
async def test_what_is_not_shared_is_asked_for(control: str | None) -> None:
    vectors = Vectors(single_flight=control is not None)
    tasks = await vectors.begin(("a",)) + await vectors.begin(("a",), control=control)

    assert len(vectors.asked) == 2

    vectors.gate.set()
    await asyncio.gather(*tasks)


async def test_nobody_waits_for_ever() -> None:
    vectors = Vectors(join_wait_s=0.001)
    tasks = await vectors.begin(("a",), ("a",))
    while len(vectors.asked) < 2:
        await asyncio.sleep(0.001)

    vectors.gate.set()

    assert await asyncio.gather(*tasks) == [[1]] * 2
