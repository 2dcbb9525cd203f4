"""Single flight: who asks, who gets what, and who pays."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.cache.chunk_buffer import ChunkBuffer, join
from one_api.contract import ChunkStream, Usage
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.errors import (
    AccountsUnavailable,
    BudgetExceeded,
    ClientTooSlow,
    GatewayError,
    NoDeployment,
    ShuttingDown,
    Unpriced,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamRejected,
)
from tests.utils.fake_adapter import Piece

from .bed import USAGE, Caching, Upstreams, chunk, read_all, stream, text, turns, whole


async def test_two_hundred_identical_misses_are_one_call() -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    cache = Caching(upstreams)
    asked = [cache.ask() for _ in range(200)]
    await turns()
    gate.set()

    answers = await asyncio.gather(*asked)

    assert answers == [whole()] * 200
    assert len(upstreams.calls) == 1
    assert cache.where_from() == ["miss"] + ["joined"] * 199
    assert [record.deployment for record in cache.records] == ["a/m"] * 200
    assert [len(record.attempts) for record in cache.records] == [1] + [0] * 199
    assert [record.free for record in cache.records] == [False] + [True] * 199


async def test_two_callers_have_a_call_each_unless_they_share() -> None:
    for scope, calls in (("key", 2), ("shared", 1)):
        gate = asyncio.Event()
        upstreams = Upstreams(whole(), gate=gate)
        cache = Caching(upstreams, scope=scope)
        asked = [cache.ask(caller=caller) for caller in ("alice", "bob")]
        await turns()
        gate.set()
        await asyncio.gather(*asked)
        assert len(upstreams.calls) == calls


async def test_without_single_flight_each_asks_and_answers_are_kept() -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    cache = Caching(upstreams, single_flight=False)
    asked = [cache.ask() for _ in range(3)]
    await turns()
    gate.set()
    await asyncio.gather(*asked)
    await cache.ask()
    assert (len(upstreams.calls), cache.where_from()) == (3, ["miss", "miss", "miss", "hit"])


async def test_a_late_one_catches_up_and_then_gets_each_piece_as_it_comes() -> None:
    more, end = asyncio.Event(), asyncio.Event()
    cache = Caching(Upstreams(stream("a", "b", more, "c", end, "d")))
    first = await cache.open()
    assert text(await first.read()) == "ab"

    late = await cache.open(stream_options={"include_usage": True})
    assert text(await late.read()) == "ab"
    more.set()
    assert text(await late.read()) == "c"
    end.set()
    rest, others = await read_all(late), await read_all(first)

    assert (text(rest), text(others)) == ("d", "cd")
    assert rest[-1]["usage"] == USAGE
    assert all("usage" not in each for each in others)
    assert cache.where_from() == ["miss", "joined"]


async def test_any_client_may_leave_and_somebody_pays() -> None:
    end = asyncio.Event()
    upstreams = Upstreams(stream("a", end, "b"))
    cache = Caching(upstreams)
    leader, second, third = [await cache.open() for _ in range(3)]
    await leader.aclose()
    await third.aclose()
    await third.aclose()
    end.set()

    assert text(await read_all(second)) == "ab"
    assert upstreams.streams[0].closed == 1
    assert [record.free for record in cache.records] == [True, False, True]
    assert second.usage == Usage(1, 2)
    await cache.ask()
    assert cache.where_from()[-1] == "hit"


async def test_when_all_have_left_the_upstream_is_closed_and_nothing_kept() -> None:
    upstreams = Upstreams(stream("a", asyncio.Event()), stream("b"))
    cache = Caching(upstreams)
    both = [await cache.open() for _ in range(2)]
    for each in both:
        assert upstreams.streams[0].closed == 0
        await each.aclose()
    assert upstreams.streams[0].closed == 1

    assert text(await read_all(await cache.open())) == "b"
    assert cache.where_from() == ["miss", "joined", "miss"]


async def test_one_who_waits_for_a_whole_answer_may_leave() -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    cache = Caching(upstreams)
    leader, other = cache.ask(), cache.ask()
    await turns()
    leader.cancel()
    await turns()
    gate.set()
    assert await other == whole()
    assert len(upstreams.calls) == 1
    assert [record.free for record in cache.records] == [True, False]


async def test_when_the_leaders_call_fails_one_other_tries_once_more() -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(UpstreamFailed("down"), stream("well"), gate=gate)
    cache = Caching(upstreams)
    asked = [cache.ask(stream=True) for _ in range(5)]
    await turns()
    gate.set()
    with pytest.raises(UpstreamFailed):
        await asked[0]
    for other in asked[1:]:
        answer = await other
        assert isinstance(answer, ChunkStream)
        assert text(await read_all(answer)) == "well"
    assert len(upstreams.calls) == 2
    assert cache.where_from() == ["miss", "miss", "joined", "joined", "joined"]
    assert [len(record.attempts) for record in cache.records] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "errors, calls",
    [
        ((UpstreamFailed("one"), UpstreamFailed("two")), 2),
        ((UpstreamRejected("the caller's own"),), 1),
        ((NoDeployment("busy"),), 1),
    ],
)
async def test_when_there_is_no_use_in_trying_all_are_told(errors: tuple[GatewayError, ...], calls: int) -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(*errors, gate=gate)
    cache = Caching(upstreams)
    asked = [cache.ask() for _ in range(5)]
    await turns()
    gate.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert results[1:] == [errors[-1]] * 4
    assert len(upstreams.calls) == calls


@pytest.mark.parametrize("error", [BudgetExceeded("no"), Unpriced("no"), AccountsUnavailable("no")], ids=repr)
async def test_whose_budgets_allow_nothing_is_told_and_the_next_one_asks(error: GatewayError) -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(error, error, error, whole(), gate=gate)
    cache = Caching(upstreams)
    asked = [cache.ask() for _ in range(5)]
    await turns()
    gate.set()

    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers == [error] * 3 + [whole()] * 2
    assert [record.free for record in cache.records[3:]] == [False, True]


async def test_when_the_budgets_of_who_pays_are_at_their_end_another_one_pays() -> None:
    joined = asyncio.Event()
    cache = Caching(Upstreams(stream("a", joined, BudgetExceeded("no more"), "b", BudgetExceeded("no more"), "c")))
    first, second = [await cache.open() for _ in range(2)]
    joined.set()

    with pytest.raises(BudgetExceeded):
        await read_all(first)
    assert [record.free for record in cache.records] == [True, False]
    await first.aclose()
    with pytest.raises(BudgetExceeded):  # nobody is left who could pay
        await read_all(second)
    await second.aclose()


async def test_a_bug_below_reaches_everyone_and_leaves_nothing_behind() -> None:
    gate = asyncio.Event()
    cache = Caching(Upstreams(ZeroDivisionError(), whole(), gate=gate))
    asked = [cache.ask() for _ in range(2)]
    await turns()
    gate.set()
    for each in asked:
        with pytest.raises(ZeroDivisionError):
            await each
    assert await cache.ask() == whole()


async def test_a_stream_that_breaks_is_told_to_everyone_after_what_came() -> None:
    broken = asyncio.Event()
    cache = Caching(Upstreams([chunk("a"), broken, UpstreamBroken("cut")], stream("well")))
    both = [await cache.open() for _ in range(2)]
    broken.set()
    await turns()
    for each in both:
        assert text(await each.read()) == "a"
        with pytest.raises(UpstreamBroken):
            await each.read()
        assert not each.ended
        await each.aclose()
    assert text(await read_all(await cache.open())) == "well"
    assert cache.where_from() == ["miss", "joined", "miss"]


async def test_a_slow_reader_holds_nobody_back_and_is_let_go() -> None:
    pieces = ["x" * 10_000 for _ in range(150)]
    cache = Caching(Upstreams(stream(*pieces)), max_answer_bytes=10_000_000)
    fast, slow = await cache.open(), await cache.open()
    assert len(text(await read_all(fast))) == 1_500_000
    chunks = await slow.read()
    assert 1_000_000 < len(text(chunks)) < 1_400_000
    with pytest.raises(ClientTooSlow):
        await slow.read()
    await slow.aclose()


async def test_one_event_of_more_than_a_megabyte_is_no_fault_of_who_reads_it() -> None:
    cache = Caching(Upstreams(stream("x" * 1_200_000, "tail")), max_answer_bytes=10_000_000)
    assert len(text(await read_all(await cache.open()))) == 1_200_004


async def test_a_late_one_is_not_behind_for_what_had_come_before_it() -> None:
    end = asyncio.Event()
    cache = Caching(Upstreams(stream(*["x" * 65_000] * 30, end, *["y"] * 3)), max_answer_bytes=4_000_000)
    first = await cache.open()
    found = 0
    while found < 30 * 65_000:
        found += len(text(await first.read()))
    late = await cache.open()
    end.set()
    await turns(30)
    assert len(text(await read_all(late))) == 30 * 65_000 + 3
    await first.aclose()


async def test_a_reader_that_is_a_little_slow_gets_everything_in_few_pieces() -> None:
    pieces = [f"{number} " for number in range(5000)]
    cache = Caching(Upstreams(stream(*pieces)), max_answer_bytes=10_000_000)
    fast, slow = await cache.open(), await cache.open()
    await read_all(fast)
    chunks = await read_all(slow)
    assert text(chunks) == "".join(pieces)
    assert len(chunks) < 200


async def test_a_reader_that_is_a_little_slow_gets_what_stands_beside_the_text_too() -> None:
    pieces: list[Piece] = [chunk(f"{number} ") for number in range(100)]
    for number, piece in enumerate(pieces):
        assert isinstance(piece, dict)
        piece["choices"][0]["token_ids"] = [number]
    cache = Caching(Upstreams(stream(*pieces)))
    opened = await cache.open()
    await turns(400)
    chunks = await read_all(opened)
    assert [each for got in chunks for one in got["choices"] for each in one.get("token_ids", ())] == [*range(100)]


@pytest.mark.parametrize("where", ["delta", "choice", "chunk"])
async def test_a_stream_that_one_message_cannot_hold_is_not_kept(where: str) -> None:
    odd = chunk("a")
    {"delta": odd["choices"][0]["delta"], "choice": odd["choices"][0], "chunk": odd}[where]["citations"] = ["https://a"]
    cache = Caching(Upstreams(stream(odd)))
    for _ in range(2):
        assert odd in await read_all(await cache.open(stream_options={"include_usage": True}))
    assert cache.where_from() == ["miss", "miss"]


async def test_the_upstream_is_not_read_faster_than_the_fastest_client() -> None:
    upstreams = Upstreams(stream(*["x" * 10_000 for _ in range(500)]))
    cache = Caching(upstreams)
    only = await cache.open()
    await turns(2000)
    read = 503 - len(upstreams.streams[0].unread)
    assert 20 < read < 40
    assert len(text(await read_all(only))) == 5_000_000


async def test_a_stream_that_has_become_too_large_is_neither_joined_nor_kept() -> None:
    end = asyncio.Event()
    upstreams = Upstreams(stream("x" * 3000, end), stream("y"))
    cache = Caching(upstreams, max_answer_bytes=2000)
    first = await cache.open()
    assert len(text(await first.read())) == 3000
    assert text(await read_all(await cache.open())) == "y"
    end.set()
    await read_all(first)
    assert len(upstreams.calls) == 2


async def test_the_end_of_the_process_is_told() -> None:
    cache = Caching(Upstreams(stream("a", asyncio.Event())))
    opened = await cache.open()
    waiting = Caching(Upstreams(whole(), gate=asyncio.Event()))
    asked = waiting.ask()
    await turns()
    await cache.answers.aclose()
    await waiting.answers.aclose()
    await opened.read()
    with pytest.raises(ShuttingDown):
        while True:
            await opened.read()
    with pytest.raises(ShuttingDown):
        await asked


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_comes_and_goes_nobody_else_notices(seed: int) -> None:
    rng = random.Random(seed)
    upstreams = Upstreams(stream(*(f"{number} " for number in range(60))))
    cache = Caching(upstreams)
    expected = "".join(f"{number} " for number in range(60))

    async def client() -> str | None:
        await turns(rng.randrange(120))
        answer = await cache.open()
        stays, chunks = rng.random() < 0.7, list[JSONObject]()
        async with answer:
            while not answer.ended:
                chunks += await answer.read()
                await turns(rng.randrange(3))
                if not stays and rng.random() < 0.1:
                    return None
        return text(chunks)

    found = await asyncio.gather(*(client() for _ in range(30)))
    assert {each for each in found if each is not None} <= {expected}
    assert all(each.closed for each in upstreams.streams)
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert text(await read_all(await cache.open())) == expected
    assert cache.where_from()[-1] in ("hit", "miss")  # there is no call left to join


# Backlogs

DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b", "tool_calls": None},
    {"reasoning_content": "r"}, {"content": "é", "reasoning_content": None}, {"refusal": "n"}, {},
    {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "1"}}]},
    {"tool_calls": [{"index": 1, "id": "c1", "type": "custom", "custom": {"name": "g", "input": ""}}]},
    {"tool_calls": [{"index": 1, "custom": {"input": "2"}}]},
]  # fmt: skip


def test_what_chunks_hold_beside_text_keeps_them_apart() -> None:
    padded = [chunk("x") | {"obfuscation": "abc", "service_tier": "flex"} for _ in range(3)]
    assert len(join(padded)) == 1
    for odd in ({"citations": ["https://a"]}, {"service_tier": "default"}):
        assert join([padded[0], padded[1] | odd, padded[2]]) == [padded[0], padded[1] | odd, padded[2]]
    beside = chunk("x")
    beside["choices"][0]["native_finish_reason"] = "end_turn"
    assert join([beside] * 3) == [beside] * 3


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(DELTAS[:7]), st.booleans()), max_size=40), st.booleans())
def test_joined_chunks_amount_to_the_same(said: list[tuple[int, dict[str, Any], bool]], calls: bool) -> None:
    opening = DELTAS[7:] if calls else []
    said = [*((0, delta, False) for delta in opening), *said]
    chunks = []
    for index, delta, logprobs in said:
        odds = {"logprobs": {"content": [{"token": "t"}], "refusal": None}} if logprobs else {"logprobs": None}
        chunks.append({**chunk(), "choices": [{"index": index, "delta": delta, "finish_reason": None, **odds}]})
    before = json.encode(chunks)
    one, other = Assembler(), Assembler()
    for each in chunks:
        one.add(each)
    joined = join(chunks)
    for each in joined:
        other.add(each)
    assert other.completion() == one.completion()
    assert len(joined) <= len(chunks)
    assert json.encode(chunks) == before


def test_pieces_of_arguments_are_joined_too() -> None:
    piece = chunk(tool_calls=[{"index": 0, "function": {"arguments": "x"}}])
    (joined,) = join([piece] * 5)
    assert joined["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": "xxxxx"}}]}


def test_a_backlog_grows_with_the_text_and_not_with_the_pieces() -> None:
    chunk_buffer = ChunkBuffer()
    for _ in range(100_000):
        chunk_buffer.add(chunk("x"), 150)
    assert len(chunk_buffer) < 100
    assert chunk_buffer.size_bytes < 130_000
    assert text(chunk_buffer.take()) == "x" * 100_000
    assert (len(chunk_buffer), chunk_buffer.size_bytes) == (0, 0)
