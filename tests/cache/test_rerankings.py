"""Identical requests for a ranking that are under way: one asks, and the others wait for what it keeps."""

import asyncio
from collections.abc import Callable

import pytest

from one_api.cache.answers import Answers
from one_api.cache.keys import CacheRoute
from one_api.cache.rerankings import KeptRerankings
from one_api.cache.stores import MemoryAnswers
from one_api.config import Config
from one_api.contract import ByteStream, Caller, Units, Usage, WholeBytes
from one_api.dialects.openai.passthrough import RERANK, JSONBody, PassthroughRequest
from one_api.errors import UpstreamOverloaded
from one_api.records import CallContext, CallRecord
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.sections import CacheConfig

from .bed import turns

ROUTE = CacheRoute("m", [("a/m", "https://api.openai.com/v1")], 1)
#: What a call is answered with.
Scripted = Exception | bytes


class Rankings:
    """A cache before upstreams that answer once the gate is open; the last script counts for ever."""

    def __init__(self, *scripts: Scripted, deployment: str = "a/m", **settings: object) -> None:
        cache = CacheConfig(**({"enabled": True} | settings))  # type: ignore[arg-type]
        config = Config(adapters={"a": OpenAIConfig(models=("m",))}, cache=cache)
        self.answers = Answers(config, MemoryAnswers(10_000_000))
        self.gate = asyncio.Event()
        self.asked = 0
        self.records: list[CallRecord] = []
        self._scripts = list(scripts)
        self._deployment = deployment

    async def _upstream(self, request: PassthroughRequest, context: CallContext) -> ByteStream:
        self.asked += 1
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await self.gate.wait()
        if isinstance(script, Exception):
            raise script
        context.record.deployment = self._deployment
        return WholeBytes(script, usage=Usage(7, 0), units=Units(1, "search_units"))

    async def _rank(self, record: CallRecord, control: str | None) -> bytes:
        asked = PassthroughRequest(RERANK, "m", JSONBody({"model": "m", "query": "q", "documents": ["a"]}))
        context = CallContext(record, Caller("alice"), control)
        async with await KeptRerankings(self.answers).run(ROUTE, asked, context, self._upstream) as stream:
            data = await stream.read()
            record.used(stream.usage, stream.units)
        return data

    async def begin(self, count: int, control: str | None = None) -> list[asyncio.Task[bytes]]:
        """So many identical requests, each of which has gone as far as it can."""
        self.records += (records := [CallRecord("r", "POST", "/", caller="alice") for _ in range(count)])
        tasks = [asyncio.create_task(self._rank(record, control)) for record in records]
        await turns()
        return tasks

    def where_from(self) -> list[str | None]:
        """Where the answers came from, in the order of the requests."""
        return [record.cache for record in self.records]


async def test_identical_requests_ask_once() -> None:
    rankings = Rankings(b"{}")
    tasks = await rankings.begin(5)

    rankings.gate.set()

    assert await asyncio.gather(*tasks) == [b"{}"] * 5
    assert (rankings.asked, rankings.where_from()) == (1, ["miss"] + ["joined"] * 4)
    assert [record.units is None for record in rankings.records] == [False] + [True] * 4


async def test_when_the_one_that_asks_fails_the_others_ask() -> None:
    rankings = Rankings(UpstreamOverloaded("busy"), b"{}")
    first, *others = await rankings.begin(3)

    rankings.gate.set()

    with pytest.raises(UpstreamOverloaded):
        await first
    assert await asyncio.gather(*others) == [b"{}"] * 2


async def test_when_the_one_that_asks_leaves_the_others_ask() -> None:
    rankings = Rankings(b"{}")
    first, *others = await rankings.begin(2)

    first.cancel()
    rankings.gate.set()

    assert await asyncio.gather(*others) == [b"{}"]
    assert rankings.asked == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rankings(b"{}", single_flight=False),
        lambda: Rankings(b"{}", deployment="b/other"),  # the answer of a fallback is not kept
        lambda: Rankings(b"{}" * 1000, max_answer_bytes=1024),
    ],
    ids=["switched off", "fallback", "too large"],
)
async def test_what_is_not_shared_is_asked_for(make: Callable[[], Rankings]) -> None:
    rankings = make()
    tasks = await rankings.begin(2)

    rankings.gate.set()
    await asyncio.gather(*tasks)

    assert (rankings.asked, rankings.where_from()) == (2, ["miss", "miss"])


async def test_a_client_that_wants_no_kept_answer_waits_for_none() -> None:
    rankings = Rankings(b"{}")
    tasks = await rankings.begin(1) + await rankings.begin(1, "no-cache")

    assert rankings.asked == 2

    rankings.gate.set()
    await asyncio.gather(*tasks)


async def test_nobody_waits_for_ever() -> None:
    rankings = Rankings(b"{}", join_wait_s=0.001)
    tasks = await rankings.begin(2)
    while rankings.asked < 2:
        await asyncio.sleep(0.001)

    rankings.gate.set()

    assert await asyncio.gather(*tasks) == [b"{}"] * 2
