"""Streams that break after content: what another answer may add, and that no text is lost or said twice."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from one_api.contract import ChunkStream, WholeChunks
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest, UpstreamError, UpstreamFailed, UpstreamRejected, UpstreamTruncated
from one_api.records import CallContext, CallRecord
from one_api.routing.deployment import Deployment
from one_api.routing.failover import Failover
from one_api.routing.resume import Sent, after_the_same, resumable
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Policy, Route
from tests.utils.fake_adapter import END, ROLE, FakeAdapter, Piece, Scripted, say

CUT = UpstreamTruncated("cut")
TOOL: JSONObject = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c"}]}}]}


def think(text: str) -> JSONObject:
    """A chunk of reasoning."""
    return {"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]}


class Groups:
    """A group of targets a, b and c that resumes; some of them go on from a prefill."""

    def __init__(
        self, *answers: list[Scripted], prefill: str = "", fallbacks: int = 0,
        start_of: Callable[[str], str | None] = str,
    ) -> None:  # fmt: skip
        self.targets = [
            Deployment(name, FakeAdapter(*scripts), "m") for name, scripts in zip("abc", answers, strict=False)
        ]
        for name in prefill:
            adapter(self.targets["abc".index(name)]).start_of = start_of
        cut = len(self.targets) - fallbacks
        self.route = Route("m", self.targets[:cut], self.targets[cut:], "ordered", Policy(resume=True))
        self.record = CallRecord("id", "POST", "/")
        self.failover = Failover(retries=RetryLimit(1.0), rng=random.Random(0))

    async def ask(self, **fields: Any) -> ChunkStream:
        """A stream of the group."""
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
        stream = await self.failover.run(self.route, ChatRequest.of(body), CallContext(self.record))
        assert isinstance(stream, ChunkStream)
        return stream

    async def told(self, **fields: Any) -> tuple[str, UpstreamError | None]:
        """The text that a client gets, and the error that ends it."""
        text, failure = "", None
        async with await self.ask(**fields) as stream:
            try:
                async for chunk in stream:
                    for choice in chunk["choices"]:
                        delta = choice["delta"]
                        text += delta.get("content") or delta.get("reasoning_content") or ""
            except UpstreamError as error:
                failure = error
        assert [each.health.in_flight for each in self.targets] == [0] * len(self.targets)
        assert all(each.closed for place in self.targets for each in adapter(place).streams)
        return text, failure

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """What became of each try."""
        return [(each.deployment[0], each.outcome) for each in self.record.attempts]


def adapter(deployment: Deployment) -> FakeAdapter:
    """The fake behind a deployment."""
    assert isinstance(deployment.adapter, FakeAdapter)
    return deployment.adapter


BEGUN: list[Piece] = [ROLE, say("one "), say("two "), CUT]


@pytest.mark.parametrize(
    "pieces",
    [
        [ROLE, say("one "), say("two "), say("three"), END],
        [say("one two three"), END],
        [say("o"), say("ne two"), say(" th"), say("ree"), END],
        [ROLE, say("one two "), say("three"), END],
        [ROLE, *map(say, "one two three"), END],
    ],
    ids=["same", "whole", "odd", "exact", "letters"],
)
async def test_an_answer_that_begins_the_same_gives_the_rest(pieces: list[Piece]) -> None:
    groups = Groups([BEGUN], [pieces])

    assert await groups.told() == ("one two three", None)
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "ok")]
    assert groups.record.deployment == "b/m"


async def test_an_answer_that_has_ended_before_it_is_read_gives_the_rest() -> None:
    stream = WholeChunks([say("ab"), say("cd")])
    stream.ended = True  # all of it came with the first event

    assert await after_the_same(stream, lambda: None, [("content", "ab")]) == [say("cd")]


async def test_every_cut_of_a_text_is_resumed_to_the_same_text() -> None:
    rng, text = random.Random(1), "Grüße aus Bern: alles wird gut. " * 3

    def pieces() -> list[Piece]:
        cuts = sorted(rng.sample(range(1, len(text)), 12))
        return [ROLE, *(say(text[i:j]) for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)), END]

    for _ in range(100):
        first = pieces()
        groups = Groups([[*first[: rng.randrange(2, 12)], CUT]], [pieces()])
        assert await groups.told() == (text, None)


async def test_the_parts_look_like_one_stream() -> None:
    first = [chunk | {"id": "1", "created": 1, "model": "x"} for chunk in (ROLE, say("one "))]
    second = [chunk | {"id": "2", "created": 2, "model": "y"} for chunk in (ROLE, say("one "), say("two"), END)]
    groups = Groups([[*first, CUT]], [list(second)])

    async with await groups.ask() as stream:
        chunks = [chunk async for chunk in stream]

    assert {(each["id"], each["created"], each["model"]) for each in chunks} == {("1", 1, "x")}
    assert sum("role" in choice["delta"] for each in chunks for choice in each["choices"]) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [say("other"), END], [say("one "), END], [say("one two"), END], [say("one too"), END], [ROLE, END],
        [say("one "), TOOL, END], [think("one two "), END], [END],
    ],
    ids=["other", "shorter", "cut", "late", "empty", "tool", "reasoning", "end"],
)  # fmt: skip
async def test_an_answer_that_differs_is_not_taken(pieces: list[Piece]) -> None:
    groups = Groups([BEGUN], [pieces])

    assert await groups.told() == ("one two ", CUT)
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "diverged")]
    assert groups.targets[1].health.failures == 0


async def test_reasoning_is_matched_before_the_text() -> None:
    groups = Groups(
        [[ROLE, think("hm "), say("one "), CUT]],
        [[think("h"), think("m "), say("one "), say("two"), END]],
    )

    assert await groups.told() == ("hm one two", None)


async def test_a_differing_answer_is_replaced_by_a_prefill() -> None:
    groups = Groups([BEGUN], [[say("other"), END], [ROLE, say("three"), END]], prefill="b")

    assert await groups.told(max_tokens=10) == ("one two three", None)
    last = adapter(groups.targets[1]).calls[-1]
    assert last["messages"][-1] == {"role": "assistant", "content": "one two "}
    assert last["max_tokens"] == 8
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "diverged"), ("b", "ok")]


async def test_a_prefill_that_is_refused_does_not_hide_the_first_error() -> None:
    groups = Groups([BEGUN], [[say("other"), END], UpstreamRejected("no prefill here")], prefill="b")

    assert await groups.told() == ("one two ", CUT)


@pytest.mark.parametrize(
    "pieces",
    [[ROLE, say(" "), say("three"), END], [say(" three"), END], [ROLE, say(""), say(" th"), say("ree"), END]],
    ids=["apart", "whole", "pieces"],
)
async def test_a_model_that_goes_on_from_a_shorter_text_says_the_rest_of_it_once(pieces: list[Piece]) -> None:
    groups = Groups([BEGUN], [[say("other"), END], pieces], prefill="b", start_of=str.rstrip)

    assert await groups.told() == ("one two three", None)
    assert adapter(groups.targets[1]).calls[-1]["messages"][-1]["content"] == "one two"


async def test_a_model_that_goes_on_otherwise_than_was_sent_is_not_taken() -> None:
    groups = Groups([BEGUN], [[say("other"), END], [ROLE, say("\nthree"), END]], prefill="b", start_of=str.rstrip)

    assert await groups.told() == ("one two ", CUT)
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "diverged"), ("b", "diverged")]


async def test_a_target_that_cannot_express_the_request_does_not_hide_the_first_error() -> None:
    groups = Groups([BEGUN], [InvalidRequest("not here")])

    assert await groups.told() == ("one two ", CUT)


async def test_a_target_that_speaks_in_time_may_take_its_time_to_come_to_the_place() -> None:
    gate = asyncio.Event()
    groups = Groups([[say("a"), say("b"), CUT]], [[say("a"), gate, say("b"), say("c"), END]])
    groups.route.policy = Policy(resume=True, first_event_s=0.05)
    asyncio.get_running_loop().call_later(0.2, gate.set)

    assert await groups.told() == ("abc", None)
    assert groups.targets[1].health.failures == 0


async def test_a_target_that_says_nothing_in_time_is_not_waited_for() -> None:
    groups = Groups([[say("a"), CUT]], [[asyncio.Event()]], [[say("a"), say("b"), END]])
    groups.route.policy = Policy(resume=True, first_event_s=0.05)

    assert await groups.told() == ("ab", None)
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "UpstreamTimeout"), ("c", "ok")]


async def test_a_stream_is_resumed_more_than_once_within_the_attempts() -> None:
    groups = Groups([BEGUN], [[say("one two three "), CUT]], [[say("one two three four"), END]])

    assert await groups.told() == ("one two three four", None)


async def test_after_the_last_attempt_the_first_error_is_told() -> None:
    groups = Groups([BEGUN], [UpstreamFailed("b")], [UpstreamFailed("c")])

    assert await groups.told() == ("one two ", CUT)


async def test_without_retries_nothing_is_resumed() -> None:
    groups = Groups([BEGUN], [[say("one two three"), END]])
    groups.failover = Failover(retries=RetryLimit(0.0, 0))

    assert await groups.told() == ("one two ", CUT)


async def test_a_fallback_goes_on_when_no_target_does() -> None:
    groups = Groups([BEGUN], [UpstreamFailed("b")], [[say("one two three"), END]], fallbacks=1)

    assert await groups.told() == ("one two three", None)
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "UpstreamFailed"), ("c", "ok")]
    assert groups.record.deployment == "c/m"


async def test_a_fallback_that_says_something_else_goes_on_by_prefill_where_it_is_declared() -> None:
    groups = Groups([BEGUN], [[say("other"), END], [ROLE, say("three"), END]], prefill="b", fallbacks=1)

    assert await groups.told() == ("one two three", None)


async def test_a_fallback_that_says_something_else_and_knows_no_prefill_does_not_hide_the_first_error() -> None:
    groups = Groups([BEGUN], [[say("other"), END]], fallbacks=1)

    assert await groups.told() == ("one two ", CUT)


@pytest.mark.parametrize("alias", ["m", "alias"])
async def test_the_model_changes_where_a_fallback_goes_on(alias: str) -> None:
    first = [chunk | {"id": "1", "created": 1, "model": "first"} for chunk in (ROLE, say("one "))]
    second = [chunk | {"id": "2", "created": 2, "model": "second"} for chunk in (say("one "), say("two"), END)]
    groups = Groups([[*first, CUT]], [list(second)], fallbacks=1)
    groups.route.model = alias

    async with await groups.ask() as stream:
        chunks = [chunk async for chunk in stream]

    shown = "first" if alias == "m" else alias
    assert [each["model"] for each in chunks] == [shown, shown, "second", "second"]
    assert {each["id"] for each in chunks} == {"1"}


@pytest.mark.parametrize("fallbacks", [0, 1], ids=["target", "fallback"])
async def test_a_stream_that_stalls_is_resumed_like_one_that_is_cut(fallbacks: int) -> None:
    groups = Groups([[say("one "), asyncio.Event()]], [[say("one two"), END]], fallbacks=fallbacks)
    groups.route.policy = Policy(resume=True, idle_s=0.05)

    assert await groups.told() == ("one two", None)
    assert groups.outcomes == [("a", "UpstreamTimeout"), ("b", "ok")]


async def test_a_request_is_in_flight_until_the_end_of_what_goes_on() -> None:
    groups = Groups([BEGUN], [[say("one two three"), END]])

    async with await groups.ask() as stream:
        await stream.read()
        assert groups.failover.retries.in_flight == 1
        _ = [chunk async for chunk in stream]

    assert (groups.failover.retries.in_flight, groups.failover.retries.retrying) == (0, 0)


@pytest.mark.parametrize(
    "pieces",
    [
        [ROLE, say("one "), TOOL, CUT], [TOOL, CUT], [say("one "), END, CUT],
        [{"choices": [{"index": 1, "delta": {"content": "x"}}]}, CUT],
        [{"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]}, CUT],
        [say("x", refusal="no"), CUT], [say("one "), UpstreamRejected("no")],
    ],
    ids=["tool after text", "tool", "finished", "second choice", "logprobs", "refusal", "rejected"],
)  # fmt: skip
async def test_what_is_more_than_text_is_not_resumed(pieces: list[Piece]) -> None:
    groups = Groups([pieces], [[say("one two"), END]])

    _, failure = await groups.told()

    assert failure is pieces[-1]
    assert adapter(groups.targets[1]).calls == []


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, True), ({"n": 1}, True), ({"n": 2}, False), ({"logprobs": True}, False), ({"logprobs": False}, True),
        ({"response_format": {"type": "text"}}, True), ({"response_format": {"type": "json_object"}}, False),
        ({"response_format": {"type": "json_schema"}}, False),
    ],
)  # fmt: skip
def test_only_one_plain_text_may_be_resumed(fields: dict[str, Any], allowed: bool) -> None:
    assert resumable({"model": "m", **fields}) is allowed


async def test_a_read_that_is_cancelled_during_the_search_does_not_end_it() -> None:
    gate = asyncio.Event()
    groups = Groups([BEGUN], [[gate, say("one two three"), END]])
    async with await groups.ask() as stream:
        text = await stream.read() + await stream.read()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.read()
        gate.set()
        text += [chunk async for chunk in stream]

    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in text) == "one two three"


async def test_a_client_that_leaves_during_the_search_ends_it() -> None:
    groups = Groups([BEGUN], [[asyncio.Event()]])
    stream = await groups.ask()
    await stream.read()
    await stream.read()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await stream.read()

    await stream.aclose()

    assert [each.health.in_flight for each in groups.targets] == [0, 0]
    assert groups.outcomes == [("a", "UpstreamTruncated"), ("b", "cancelled")]


def test_a_text_that_grows_too_long_is_not_kept() -> None:
    sent = Sent()
    for _ in range(30):
        sent.add(say("x" * 100_000))

    assert not sent.whole
