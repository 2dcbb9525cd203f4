"""Calls across processes: processes that share a Redis share an answer while it arrives."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from one_api.cache.followed_stream import FollowedStream, InvalidSegment, Segment
from one_api.cache.lease import LEASE_S, MAX_SEGMENTS, CallKey, LeaseResult, LeaseStatus
from one_api.cache.redis import RedisAnswers
from one_api.contract import ChunkStream
from one_api.errors import UpstreamBroken, UpstreamFailed, UpstreamRejected
from tests.support import freeze
from tests.support.running_time import RunningTime

from .bed import USAGE, Caching, Upstreams, chunk, read_all, stream, text, turns, whole
from .conftest import OwnRedis


@asynccontextmanager
async def processes(
    url: str, *upstreams: Upstreams, redis: Callable[[str], RedisAnswers] = RedisAnswers, **settings: Any
) -> AsyncIterator[list[Caching]]:
    """Caches that share a Redis, as of several processes; each has its own way to upstreams."""
    stores = [redis(url) for _ in upstreams]
    found = [Caching(each, store, store, **settings) for each, store in zip(upstreams, stores, strict=True)]
    try:
        async with asyncio.timeout(30):
            yield found
    finally:
        for each in found:
            await each.answers.aclose()


async def until(stream: ChunkStream, said: str) -> None:
    """Read until exactly so much has been said."""
    found = ""
    while found != said:
        found += text(await stream.read())
        assert said.startswith(found), found


async def until_there(operator: Any, pattern: str) -> None:
    """Wait until Redis has such a key."""
    async with asyncio.timeout(10):
        while not [name async for name in operator.scan_iter(pattern)]:
            await asyncio.sleep(0.01)


async def until_listening(operator: Any) -> None:
    """Wait until a process listens to another."""
    await until_there(operator, "one_api:listening:*")


async def test_another_process_gets_what_was_sent_and_then_the_live_tail(own_redis: OwnRedis) -> None:
    more, end = asyncio.Event(), asyncio.Event()
    asked, never = Upstreams(stream("a", "b", more, "c", end, "d")), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        first = await one.open()
        await until(first, "ab")
        late = await two.open(stream_options={"include_usage": True})
        await until(late, "ab")
        more.set()
        await until(late, "c")
        later = await two.open()
        await until(later, "abc")
        end.set()
        rests = [await read_all(each) for each in (first, late, later)]

        assert [text(rest) for rest in rests] == ["cd", "d", "d"]
        assert rests[1][-1]["usage"] == USAGE
        assert "usage" not in rests[2][-1]
        assert never.calls == []
        assert two.where_from() == ["joined", "joined"]
        assert [(record.free, record.deployment) for record in two.records] == [(True, "a/m")] * 2


async def test_what_is_not_kept_is_shared_all_the_same(own_redis: OwnRedis, operator: Any) -> None:
    refused, gate = whole(), asyncio.Event()
    refused["choices"][0]["message"]["refusal"] = "No."
    asked, never = Upstreams(refused, gate=gate), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        first = one.ask()
        await asked.asked.wait()
        second = two.ask()
        await until_listening(operator)
        gate.set()
        assert [await first, await second] == [refused, refused]


class Inattentive(RedisAnswers):
    """Whoever holds a lease here learns that others listen only when the test says so."""

    attentive = False

    async def renew(self, call: CallKey, token: str) -> bool | None:
        """See ``LeaseKeeper``."""
        return await super().renew(call, token) and self.attentive


@pytest.mark.parametrize(
    "asked",
    [Upstreams(stream("x" * 3000)), Upstreams([])],
    ids=["too large", "nothing"],
)
async def test_one_who_is_seen_too_late_to_be_told_everything_asks(
    asked: Upstreams, own_redis: OwnRedis, operator: Any
) -> None:
    gate = asked.gate = asyncio.Event()
    again = Upstreams(stream("own"))
    async with processes(own_redis[0], asked, again, redis=Inattentive, max_answer_bytes=2000) as (one, two):
        first = one.ask(stream=True)
        await asked.asked.wait()
        second = asyncio.create_task(two.open())
        await until_listening(operator)
        assert isinstance(one.answers.leases, Inattentive)
        one.answers.leases.attentive = True
        gate.set()

        answer = await first
        assert isinstance(answer, ChunkStream)
        await read_all(answer)
        assert text(await read_all(await second)) == "own"
        assert two.where_from() == ["miss"]


async def test_the_leaders_clients_may_leave_and_those_of_other_processes_go_on(own_redis: OwnRedis) -> None:
    end = asyncio.Event()
    asked, never = Upstreams(stream("a", end, "b")), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        leader = await one.open()
        follower = await two.open()
        await until(follower, "a")
        await leader.aclose()
        assert asked.streams[0].closed == 0
        end.set()
        assert text(await read_all(follower)) == "b"


async def test_who_follows_another_process_pays_nothing_whoever_leaves(own_redis: OwnRedis, operator: Any) -> None:
    gate = asyncio.Event()
    asked, never = Upstreams(whole(), gate=gate), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        first = one.ask()
        await asked.asked.wait()
        leaving = two.ask()
        await turns()
        staying = two.ask()
        await until_listening(operator)
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.set()
        assert [await first, await staying] == [whole(), whole()]
        assert never.calls == []
        assert [record.free for record in (*one.records, *two.records)] == [False, True, True]


async def test_when_the_last_one_leaves_in_whatever_process_the_upstream_is_closed(own_redis: OwnRedis) -> None:
    asked, again = Upstreams(stream("a", asyncio.Event())), Upstreams(stream("well"))
    async with processes(own_redis[0], asked, again) as (one, two):
        leader = await one.open()
        follower = await two.open()
        await until(follower, "a")
        await leader.aclose()
        await follower.aclose()
        async with asyncio.timeout(10):
            while not asked.streams[0].closed:
                await asyncio.sleep(0.01)
        assert text(await read_all(await two.open())) == "well"


async def test_one_who_leaves_in_another_process_changes_nothing(own_redis: OwnRedis) -> None:
    end = asyncio.Event()
    asked, never = Upstreams(stream("a", end, "b")), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        leader, follower = await one.open(), await two.open()
        await until(follower, "a")
        await follower.aclose()
        end.set()
        assert text(await read_all(leader)) == "ab"


async def test_when_the_upstream_fails_one_process_after_the_other_tries(own_redis: OwnRedis, operator: Any) -> None:
    gate, go = asyncio.Event(), asyncio.Event()
    go.set()
    failing = Upstreams(UpstreamFailed("down"), gate=gate)
    others = [Upstreams(stream("well"), gate=go) for _ in range(3)]
    async with processes(own_redis[0], failing, *others) as (one, *rest):
        first = one.ask(stream=True)
        await failing.asked.wait()
        asked = [asyncio.create_task(each.open()) for each in rest for _ in range(4)]
        await until_listening(operator)
        gate.set()
        with pytest.raises(UpstreamFailed):
            await first
        assert {text(await read_all(await each)) for each in asked} == {"well"}
        assert sum(len(each.calls) for each in others) == 1


async def test_when_the_upstream_fails_clients_of_the_same_process_come_first(
    own_redis: OwnRedis, operator: Any
) -> None:
    gate = asyncio.Event()
    asked, never = Upstreams(UpstreamFailed("down"), stream("well"), gate=gate), Upstreams(whole("never"))
    noticed = asyncio.Event()

    class Noticing(RedisAnswers):
        """Tells that the holder of a lease has learnt of others that listen."""

        async def renew(self, call: CallKey, token: str) -> bool | None:
            """See ``LeaseKeeper``."""
            if found := await super().renew(call, token):
                noticed.set()
            return found

    async with processes(own_redis[0], asked, never, redis=Noticing) as (one, two):
        first = one.ask(stream=True)
        await asked.asked.wait()
        outside = asyncio.create_task(two.open())
        await noticed.wait()
        second = asyncio.create_task(one.open())
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(UpstreamFailed):
            await first
        assert [text(await read_all(await each)) for each in (second, outside)] == ["well", "well"]
        assert [len(record.attempts) for record in one.records] == [1, 1]
        assert never.calls == []


async def test_a_stream_that_breaks_is_told_after_what_came(own_redis: OwnRedis) -> None:
    broken = asyncio.Event()
    asked = Upstreams([chunk("a"), broken, UpstreamRejected("cut")], stream("well"))
    never = Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        leader, follower = await one.open(), await two.open()
        await until(follower, "a")
        broken.set()
        with pytest.raises(UpstreamBroken):
            await read_all(follower)
        with pytest.raises(UpstreamRejected):
            await read_all(leader)
        assert never.calls == []


async def test_a_leader_whose_lease_has_ended_is_followed_no_more(own_redis: OwnRedis, operator: Any) -> None:
    asked, again = Upstreams(stream("a", asyncio.Event())), Upstreams(stream("well"))
    async with processes(own_redis[0], asked, again) as (one, two):
        await one.open()
        follower = await two.open()
        await until(follower, "a")
        await operator.delete(*[name async for name in operator.scan_iter("one_api:[at]*")])
        with pytest.raises(UpstreamBroken):
            await read_all(follower)
        assert text(await read_all(await two.open())) == "well"


@pytest.mark.parametrize("ill", [signal.SIGSTOP, signal.SIGKILL])
async def test_an_ill_redis_amid_a_stream_ends_it_for_those_who_listen_only(
    own_redis: OwnRedis, ill: signal.Signals
) -> None:
    end = asyncio.Event()
    asked, again = Upstreams(stream("a", end, "b")), Upstreams(stream("well"))
    async with processes(own_redis[0], asked, again) as (one, two):
        leader, follower = await one.open(), await two.open()
        await until(follower, "a")
        os.kill(own_redis[1].pid, ill)
        late = await two.ask(stream=True, seed=1)
        assert isinstance(late, ChunkStream)
        assert text(await read_all(late)) == "well"
        end.set()
        assert text(await read_all(leader)) == "ab"
        with pytest.raises(UpstreamBroken):
            await read_all(follower)


async def test_one_who_waits_for_the_first_piece_asks_when_redis_falls_ill(own_redis: OwnRedis, operator: Any) -> None:
    gate, go = asyncio.Event(), asyncio.Event()
    go.set()
    asked, again = Upstreams(stream("a"), gate=gate), Upstreams(stream("own"), gate=go)
    async with processes(own_redis[0], asked, again) as (one, two):
        first = one.ask(stream=True)
        await asked.asked.wait()
        second = asyncio.create_task(two.open())
        await until_listening(operator)
        freeze(own_redis[1].pid)
        assert text(await read_all(await second)) == "own"
        gate.set()
        answer = await first
        assert isinstance(answer, ChunkStream)
        assert text(await read_all(answer)) == "a"


class Stumbling(RedisAnswers):
    """One that stops its Redis when it asks for a lease; the test lets it go on."""

    def __init__(self, url: str, call_s: float = 0.05) -> None:
        super().__init__(url, call_s)
        self.pid: int | None = None
        self.stopped = asyncio.Event()

    async def take(self, call: CallKey, token: str) -> LeaseResult:
        """See ``LeaseKeeper``."""
        if self.pid is not None:
            freeze(self.pid)
            self.stopped.set()
        return await super().take(call, token)


async def stumbling(url: str, pid: int, call_s: float, upstreams: Upstreams) -> tuple[Caching, Stumbling]:
    """A cache that will stumble, once it is connected."""
    store = Stumbling(url, call_s)
    await store.get(b"")
    store.pid = pid
    return Caching(upstreams, store, store), store


async def test_one_who_leaves_while_the_lease_is_being_taken_leaves_no_lease(own_redis: OwnRedis) -> None:
    url, process = own_redis
    one, store = await stumbling(url, process.pid, 5.0, Upstreams(stream("never")))
    async with processes(url, Upstreams(stream("own"))) as (two,):
        first = one.ask(stream=True)
        await store.stopped.wait()
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        process.send_signal(signal.SIGCONT)
        await asyncio.wait([first])
        with RunningTime() as took:
            assert text(await read_all(await two.open())) == "own"
        assert took.seconds < LEASE_S / 2
        await one.answers.aclose()


async def test_a_lease_that_is_granted_late_is_held_all_the_same(own_redis: OwnRedis, operator: Any) -> None:
    url, process = own_redis
    end = asyncio.Event()
    one, _ = await stumbling(url, process.pid, 0.05, Upstreams(stream("a", end, "b")))
    async with processes(url, Upstreams(stream("never"))) as (two,):
        asyncio.get_running_loop().call_later(0.09, process.send_signal, signal.SIGCONT)
        first = await one.open()
        await until(first, "a")
        await until_there(operator, "one_api:asking:*")
        second = await two.open()
        await until(second, "a")
        end.set()
        assert [text(await read_all(each)) for each in (first, second)] == ["b", "b"]
        assert two.where_from() == ["joined"]
        await one.answers.aclose()


async def test_a_redis_that_stumbles_loses_nothing(own_redis: OwnRedis) -> None:
    gates = [asyncio.Event() for _ in range(6)]
    pieces = [piece for number, gate in enumerate(gates) for piece in (gate, str(number))]
    asked, never = Upstreams(stream("a", *pieces)), Upstreams(whole("never"))
    async with processes(own_redis[0], asked, never) as (one, two):
        leader, follower = await one.open(), await two.open()
        await until(follower, "a")
        for number, gate in enumerate(gates):
            freeze(own_redis[1].pid)
            gate.set()
            await until(leader, "a0" if number == 0 else str(number))
            await asyncio.sleep(0.06)  # more than a call may take, less than three of them
            own_redis[1].send_signal(signal.SIGCONT)
            await until(follower, str(number))
        await leader.aclose()


async def test_a_long_stream_is_bounded_in_redis_and_whole_for_all(own_redis: OwnRedis, operator: Any) -> None:
    gates = [asyncio.Event() for _ in range(30)]
    pieces = [piece for gate in gates for piece in (gate, "x" * 50_000)]
    asked, never = Upstreams(stream("a", *pieces)), Upstreams(stream("own"))
    async with processes(own_redis[0], asked, never, max_answer_bytes=300_000) as (one, two):
        leader, follower = await one.open(), await two.open()
        for each in (leader, follower):
            await until(each, "a")
        sizes = []
        for gate in gates:
            gate.set()
            for each in (leader, follower):
                await until(each, "x" * 50_000)
            sizes += [await operator.memory_usage(name) async for name in operator.scan_iter("one_api:told:*")]
        assert [text(await read_all(each)) for each in (leader, follower)] == ["", ""]
        assert len(sizes) == 30
        assert max(sizes) < 500_000
        # It is too late to join, so the next one asks anew.
        assert never.calls == []
        assert text(await read_all(await two.open())) == "own"


async def test_one_who_comes_late_from_another_process_is_not_behind_for_what_had_come(own_redis: OwnRedis) -> None:
    end = asyncio.Event()
    asked, never = Upstreams(stream(*["x" * 50_000] * 40, end, "tail")), Upstreams(stream("never"))
    patient = partial(RedisAnswers, call_s=5.0)  # two megabytes are on their way
    async with processes(own_redis[0], asked, never, redis=patient, max_answer_bytes=8_000_000) as (one, two):
        leader = await one.open()
        found = 0
        while found < 2_000_000:
            found += len(text(await leader.read()))
        late = await two.open()
        asyncio.get_running_loop().call_later(0.2, end.set)
        assert len(text(await read_all(late))) == 2_000_004
        await leader.aclose()


async def test_a_past_that_takes_several_looks_leaves_no_time_to_read(own_redis: OwnRedis) -> None:
    store = RedisAnswers(own_redis[0], call_s=5.0)
    call = CallKey(b"key", "stream")
    await store.take(call, "me")
    texts = ["x" * 2_000_000, *["x"] * MAX_SEGMENTS, "y" * 1_200_000, "z"]
    for number, said in enumerate(texts, 1):
        last = number == len(texts)
        segment = Segment([chunk(said)], complete=True if last else None)
        assert await store.publish(call, "me", number, segment.encode(), oldest=1, last=last)
    followed = FollowedStream(store, call, "me")
    assert await followed.begin(0.0) is LeaseStatus.HELD
    async with asyncio.timeout(10):
        while not followed.segment.complete:
            await asyncio.sleep(0.01)
    assert text(await read_all(followed)) == "".join(texts)
    await store.aclose()


async def test_parts_are_bounded_in_bytes(own_redis: OwnRedis) -> None:
    lengths = [400, 400, 200, 1, 3000, 400]
    published: list[tuple[int, int]] = []
    more = [asyncio.Event() for _ in lengths]

    class Counting(RedisAnswers):
        """Notes what is published, and lets the next piece come."""

        async def publish(
            self, call: CallKey, token: str, number: int, data: bytes, *, oldest: int, last: bool
        ) -> bool:
            """See ``LeaseKeeper``."""
            published.append((len(data), oldest))
            more[min(number, len(more)) - 1].set()
            return await super().publish(call, token, number, data, oldest=oldest, last=last)

    pieces = [piece for length, event in zip(lengths, more, strict=True) for piece in ("x" * length, event)]
    asked, never = Upstreams(stream(*pieces)), Upstreams(stream("own"))
    async with processes(own_redis[0], asked, never, redis=Counting, max_answer_bytes=2000) as (one, two):
        first = await one.open()
        follower = await two.open()
        whole_text = "".join("x" * length for length in lengths)
        assert [text(await read_all(each)) for each in (first, follower)] == [whole_text] * 2

    sizes = [size for size, _ in published]
    assert len(sizes) >= len(lengths)
    for number, (_, oldest) in enumerate(published, 1):
        assert sum(sizes[oldest - 1 : number]) <= 2000 or oldest == number
        assert oldest == 1 or sum(sizes[oldest - 2 : number]) > 2000
    assert published[-1][1] > 1


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{", b"\xff", b'{"surprise": 1}', b'{"chunks": 1}', b'{"chunks": [1]}', b'{"chunks": [{}]}',
        b'{"chunks": [{"choices": [{}]}]}', b'{"whole": []}', b'{"complete": 1}', b'{"warnings": "x"}',
        b'{"deployment": 1}', b'{"skipped_events": 0}',
    ],
)  # fmt: skip
def test_what_is_no_part_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidSegment):
        Segment.decode(data)


def test_a_part_is_read_as_it_was_written() -> None:
    segment = Segment([chunk("é")], whole(), "a/m", ["dropped"], True)
    assert Segment.decode(segment.encode()) == segment
