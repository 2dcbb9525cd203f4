"""Answers and leases in Redis: shared among processes, and never in the way when Redis is ill."""

import asyncio
import os
import signal
from typing import Any

import pytest

from one_api.breaker import OPEN_S, Breaker
from one_api.cache.keys import CacheRoute, key_of
from one_api.cache.lease import CallKey, LeaseResult, LeaseStatus
from one_api.cache.redis import RedisAnswers
from one_api.errors import UpstreamFailed
from tests.support import freeze
from tests.support.clock import Clock
from tests.support.gateway import free_port
from tests.support.running_time import RunningTime

from .bed import Caching, Upstreams, read_all, stream, text, whole
from .conftest import OwnRedis, odd_redis

#: The key of the request that ``Caching.ask`` makes.
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
KEY = key_of("alice", CacheRoute("m", [("a/m", "https://api.openai.com/v1")], 1), BODY)
CALL = CallKey(KEY, "whole")
NAME = f"one_api:answer:{{{KEY.hex()}}}"


def caching(url: str, upstreams: Upstreams, **settings: Any) -> Caching:
    """The cache of one process."""
    store = RedisAnswers(url)
    return Caching(upstreams, store, store, **settings)


async def until_asked(upstreams: Upstreams) -> None:
    """Wait until an upstream call is under way."""
    async with asyncio.timeout(10):
        await upstreams.asked.wait()


async def test_what_one_process_keeps_another_finds(own_redis: OwnRedis, operator: Any) -> None:
    upstreams = Upstreams(stream("a", "b"), whole("never"))
    one, other = caching(own_redis[0], upstreams, ttl_s=60), caching(own_redis[0], upstreams, ttl_s=60)
    assert text(await read_all(await one.open())) == "ab"
    async with asyncio.timeout(10):
        while not await operator.exists(NAME):
            await asyncio.sleep(0.01)
    answer = await other.ask()
    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"] == "ab"
    assert (len(upstreams.calls), other.where_from()) == (1, ["hit"])
    assert 50_000 < await operator.pttl(NAME) <= 60_000
    await one.answers.aclose()
    await other.answers.aclose()
    assert [name async for name in operator.scan_iter("one_api:asking:*")] == []


async def test_processes_share_a_call(own_redis: OwnRedis) -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    processes = [caching(own_redis[0], upstreams) for _ in range(3)]
    first = processes[0].ask()
    await until_asked(upstreams)
    others = [each.ask() for each in processes[1:] for _ in range(5)]
    await asyncio.sleep(0.2)  # long enough for a second call, if there were to be one
    gate.set()
    assert await asyncio.gather(first, *others) == [whole()] * 11
    assert text(await read_all(await processes[2].open())) == "Hello"
    assert len(upstreams.calls) == 1
    assert set(processes[1].where_from()) <= {"joined", "hit"}
    assert all(record.free for record in processes[1].records)
    for each in processes:
        await each.answers.aclose()


async def test_when_the_leading_process_fails_another_asks(own_redis: OwnRedis) -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(UpstreamFailed("down"), whole("well"), gate=gate)
    one, two = caching(own_redis[0], upstreams), caching(own_redis[0], upstreams)
    first = one.ask()
    await until_asked(upstreams)
    second = two.ask()
    gate.set()
    with pytest.raises(UpstreamFailed):
        await first
    assert await second == whole("well")
    assert two.where_from() == ["miss"]
    await one.answers.aclose()
    await two.answers.aclose()


async def test_what_is_not_kept_is_not_waited_for(own_redis: OwnRedis) -> None:
    gate = asyncio.Event()
    refused = whole()
    refused["choices"][0]["message"]["refusal"] = "No."
    upstreams = Upstreams(refused, gate=gate)
    one, two = caching(own_redis[0], upstreams), caching(own_redis[0], upstreams, join_wait_s=60.0)
    first = one.ask()
    await until_asked(upstreams)
    second = two.ask()
    gate.set()
    async with asyncio.timeout(20):
        await first
        await second
    assert len(upstreams.calls) == 2
    await one.answers.aclose()
    await two.answers.aclose()


async def test_one_who_has_waited_long_enough_asks(own_redis: OwnRedis) -> None:
    held, upstreams = Upstreams(whole(), gate=asyncio.Event()), Upstreams(whole("own"))
    one, two = caching(own_redis[0], held), caching(own_redis[0], upstreams, join_wait_s=0.2)
    first = one.ask()
    await until_asked(held)
    assert await two.ask() == whole("own")
    first.cancel()
    await asyncio.wait([first])
    await one.answers.aclose()
    await two.answers.aclose()


async def test_a_lease_ends_with_the_process_that_held_it(own_redis: OwnRedis, operator: Any) -> None:
    store = RedisAnswers(own_redis[0])
    assert await store.take(CALL, "dead") == LeaseResult(LeaseStatus.WON)
    assert await store.take(CALL, "other") == LeaseResult(LeaseStatus.HELD, holder="dead")
    lease = f"one_api:asking:{{{KEY.hex()}}}:whole"
    assert 0 < await operator.pttl(lease) <= 5000
    await operator.pexpire(lease, 100)
    await store.renew(CALL, "other")
    assert await operator.pttl(lease) <= 100
    await store.renew(CALL, "dead")
    assert await operator.pttl(lease) > 1000
    await store.release(CALL, "other", forget=True)
    assert await store.take(CALL, "other") == LeaseResult(LeaseStatus.HELD, holder="dead")
    await store.release(CALL, "dead", forget=True)
    assert await store.take(CALL, "other") == LeaseResult(LeaseStatus.WON)
    await store.aclose()


async def test_what_is_told_is_heard_once_and_in_its_order(own_redis: OwnRedis, operator: Any) -> None:
    store = RedisAnswers(own_redis[0])
    assert await store.poll(CALL, "me", 0) == (LeaseStatus.GONE, [])
    await store.take(CALL, "me")
    assert await store.poll(CALL, "me", 0) == (LeaseStatus.HELD, [])
    assert await store.renew(CALL, "me") is True
    for number in (1, 2, 2, 3):
        assert await store.publish(CALL, "me", number, b"%d" % number, oldest=1, last=False)
    assert await store.poll(CALL, "me", 0) == (LeaseStatus.HELD, [(1, b"1"), (2, b"2"), (3, b"3")])
    assert await store.publish(CALL, "me", 4, b"4", oldest=3, last=True)
    await store.release(CALL, "me", forget=False)
    assert await store.poll(CALL, "me", 3) == (LeaseStatus.HELD, [(4, b"4")])
    assert await store.poll(CALL, "me", 1) == (LeaseStatus.HELD, [(3, b"3"), (4, b"4")])
    assert {name async for name in operator.scan_iter("one_api:*") if await operator.pttl(name) < 0} == set()
    await store.release(CALL, "me", forget=True)
    assert await store.poll(CALL, "me", 4) == (LeaseStatus.GONE, [])
    await store.aclose()


GARBAGE: dict[str, tuple[Any, ...]] = {
    "bytes": ("SET", NAME, b"\x00\xff not json"),
    "an object of somebody else": ("SET", NAME, b'{"a": 1}'),
    "nothing": ("SET", NAME, b""),
    "a list": ("RPUSH", NAME, b"x"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_a_miss_and_is_replaced(name: str, own_redis: OwnRedis, operator: Any) -> None:
    await operator.execute_command(*GARBAGE[name])
    cache = caching(own_redis[0], Upstreams(whole()))
    assert await cache.ask() == whole()
    assert await cache.ask() == whole()
    await cache.answers.aclose()
    assert await operator.type(NAME) == b"string"
    again = caching(own_redis[0], Upstreams(whole("never")))
    assert await again.ask() == whole()
    assert (cache.where_from()[0], again.where_from()) == ("miss", ["hit"])
    await again.answers.aclose()


REFUSING = {
    "out of memory": ("CONFIG", "SET", "maxmemory", "1"),
    "read-only": ("REPLICAOF", "127.0.0.1", "9"),
    "scripts forbidden": ("ACL", "SETUSER", "default", "-eval"),
    "another password": ("CONFIG", "SET", "requirepass", "x"),
}


@pytest.mark.parametrize("name", REFUSING)
async def test_a_redis_that_refuses_is_a_miss(name: str, own_redis: OwnRedis, operator: Any) -> None:
    await operator.execute_command(*REFUSING[name])
    await operator.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    upstreams = Upstreams(whole())
    cache = caching(own_redis[0], upstreams)
    for _ in range(5):
        assert await cache.ask() == whole()
    await cache.answers.aclose()


#: Well-formed answers that none of our scripts gives.
SENSELESS = [
    b":1\r\n", b"$-1\r\n", b"$3\r\nabc\r\n", b"*0\r\n", b"*1\r\n:1\r\n", b"*1\r\n$3\r\nyes\r\n",
    b"*1\r\n$4\r\nheld\r\n",
    b"*2\r\n$4\r\nheld\r\n:1\r\n", b"*3\r\n$4\r\nheld\r\n$-1\r\n:1\r\n", b"*2\r\n$4\r\nheld\r\n*1\r\n:1\r\n",
    b"*2\r\n$4\r\nheld\r\n*1\r\n*2\r\n$1\r\nx\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*2\r\n$4\r\nheld\r\n*1\r\n*2\r\n$1\r\n1\r\n*2\r\n$1\r\na\r\n:1\r\n",
]  # fmt: skip


@pytest.mark.parametrize("says", SENSELESS)
async def test_an_answer_that_makes_no_sense_is_as_good_as_none(says: bytes) -> None:
    async with odd_redis() as server, asyncio.timeout(10):
        store = RedisAnswers(server.url)
        await store.get(KEY)
        server.says = says
        assert await store.take(CALL, "me") == LeaseResult(LeaseStatus.ALONE)
        assert await store.poll(CALL, "other", 0) == (LeaseStatus.ALONE, [])
        cache = Caching(Upstreams(whole()), store, store)
        assert await cache.ask() == whole()
        assert cache.where_from() == ["miss"]
        await cache.answers.aclose()


async def test_a_frozen_redis_costs_a_few_requests_a_moment_and_then_nothing(own_redis: OwnRedis) -> None:
    url, process = own_redis
    upstreams = Upstreams(whole())
    clock = Clock()
    store = RedisAnswers(url, breaker=Breaker(clock))
    cache = Caching(upstreams, store, store)
    assert await cache.ask() == whole()
    freeze(process.pid)
    waits = []
    for number in range(20):
        with RunningTime() as took:
            assert await cache.ask(seed=number) == whole()
        waits.append(took.seconds)
    assert sum(wait > 0.04 for wait in waits) <= 3, waits
    assert max(waits) < 1, waits

    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(20):
        while cache.where_from()[-1] != "hit":
            clock.now += OPEN_S
            await cache.ask(seed=99)
            await asyncio.sleep(0.05)
    await cache.answers.aclose()


async def test_a_dead_redis_is_a_miss_and_calls_are_shared_in_the_process() -> None:
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    cache = caching(f"redis://127.0.0.1:{free_port()}/0", upstreams)
    asked = [cache.ask() for _ in range(20)]
    await until_asked(upstreams)
    gate.set()
    assert await asyncio.gather(*asked) == [whole()] * 20
    assert len(upstreams.calls) == 1
    await cache.answers.aclose()


async def test_a_redis_that_dies_while_we_hold_a_lease_fails_nobody(own_redis: OwnRedis) -> None:
    url, process = own_redis
    gate = asyncio.Event()
    upstreams = Upstreams(whole(), gate=gate)
    cache = caching(url, upstreams)
    asked = cache.ask()
    await until_asked(upstreams)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)
    gate.set()
    assert await asked == whole()
    await cache.answers.aclose()
