"""Limits hold while Redis answers late, is restarted or flushed: more than a limit is never let in."""

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from one_api.breaker import Breaker
from one_api.limits.redis import RedisStore
from one_api.limits.stores import Ticket
from one_api.limits.window import Limits
from tests.support import freeze
from tests.support.clock import Clock
from tests.support.gateway import free_port

from .conftest import OwnRedis, redis_at
from .test_stores import CALL_S, PATIENT_S, slow_way, until_well

_LEASES = itertools.count(1)


async def let_in(store: RedisStore, limits: Limits, count: int, tokens: int = 0) -> list[Ticket]:
    """Ask so often; returns what was let in."""
    answers = [await store.take("k", limits, tokens, next(_LEASES)) for _ in range(count)]
    return [ticket for verdict, ticket in answers if verdict.refused_by is None]


@pytest.mark.parametrize("delays_s", [(0.0, 0.2), (0.2, 0.0, 0.0), (0.2, 0.2, 0.0)], ids=str)
@pytest.mark.parametrize("processes", [1, 2])
async def test_late_answers_let_in_no_more_than_the_limit(
    delays_s: tuple[float, ...], processes: int, own_redis: OwnRedis
) -> None:
    async with slow_way(own_redis[0], *delays_s) as slow_url:
        store = RedisStore(slow_url, processes)

        admitted = await let_in(store, Limits(30), 60)

        assert 0 < len(admitted) <= 30
        assert store.degraded
        await store.aclose()


def is_down(store: RedisStore) -> bool:
    """Whether Redis has failed several times in a row."""
    return "does not answer" in str(store.degraded)


async def test_a_request_that_redis_counted_late_counts_once(own_redis: OwnRedis) -> None:
    async with slow_way(own_redis[0], *[0.0] * 9, 1.5 * CALL_S, *[0.0] * 20) as slow_url:
        store, exact = RedisStore(slow_url, 1, CALL_S), RedisStore(own_redis[0], 1, PATIENT_S)
        await let_in(store, Limits(100, tokens_per_minute=1000), 10, tokens=10)
        async with asyncio.timeout(10):
            while store.awaited:
                await asyncio.sleep(0.01)

        verdict, _ = await exact.take("k", Limits(100, tokens_per_minute=1000), 10, 1)

        assert (verdict.remaining_requests, verdict.remaining_tokens) == (100 - 11, 1000 - 110)
        await store.aclose()
        await exact.aclose()


async def test_some_late_answers_are_degraded_though_others_come_in_time(own_redis: OwnRedis) -> None:
    url, process = own_redis
    store = RedisStore(url, 1, CALL_S)
    for _ in range(3):
        await let_in(store, Limits(30), 2)
        assert store.degraded is None
        freeze(process.pid)
        await let_in(store, Limits(30), 1)
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            while store.awaited:
                await asyncio.sleep(0.01)
    assert "late" in str(store.degraded)
    assert not is_down(store)
    await store.aclose()


@pytest.mark.parametrize("ends", ["before its answer", "after its answer"])
async def test_a_request_that_redis_counted_late_is_settled_there(ends: str, own_redis: OwnRedis) -> None:
    url, process = own_redis
    store, exact = RedisStore(url, 1, CALL_S), RedisStore(url, 1, PATIENT_S)
    limits = Limits(100, tokens_per_minute=1000, concurrent=2)
    await store.settle((await let_in(store, limits, 1))[0], 0)
    freeze(process.pid)
    (ticket,) = await let_in(store, limits, 1, tokens=500)
    if ends == "before its answer":
        await store.settle(ticket, 20)
    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while store.awaited:
            await asyncio.sleep(0.01)
    await store.settle(ticket, 20)

    found = [(await exact.take("k", limits, 1, lease))[0] for lease in (7, 8)]

    assert [verdict.refused_by for verdict in found] == [None, None]
    assert found[0].remaining_tokens == 1000 - 20 - 1
    await store.aclose()
    await exact.aclose()


#: Which of the processes let in each request of a limit of 60.
HISTORIES = {
    2: {"in turn": "ab" * 30, "one alone": "a" * 60, "one after the other": "a" * 15 + "b" * 45},
    4: {
        "in turn": "abcd" * 15,
        "one alone": "a" * 60,
        "one, then all": "a" * 40 + "abcd" * 5,
        "all, then one": "abcd" * 5 + "d" * 40,
        "two": "a" * 30 + "b" * 30,
        "nobody": "",
        "half of it": "abcd" * 5 + "a" * 10,
    },
    6: {"in turn": "abcdef" * 10, "one alone": "a" * 60, "some": "aab" * 20},
}


@pytest.mark.parametrize("order", ["", "backwards"])
@pytest.mark.parametrize("asked_meanwhile", [0, 40])
@pytest.mark.parametrize(
    ("processes", "history"), [(count, name) for count, histories in HISTORIES.items() for name in histories]
)
async def test_a_lost_redis_lets_in_one_share_more_at_most(
    processes: int, history: str, asked_meanwhile: int, order: str, tmp_path: Path
) -> None:
    """However many processes there are, whoever has let in what before, and whoever asks first afterwards."""
    port, limits, admitted, clock = free_port(), Limits(60), 0, Clock()
    with redis_at(port, tmp_path) as (url, _):
        stores = {name: RedisStore(url, processes, PATIENT_S, Breaker(clock)) for name in "abcdef"[:processes]}
        for store in stores.values():
            await store.look_after()
        for name in HISTORIES[processes][history]:
            admitted += len(await let_in(stores[name], limits, 1))
    assert admitted == len(HISTORIES[processes][history])
    asking = list(stores.values())[:: -1 if order else 1]
    for store in asking:
        # Not one alone asks: that would be another limit for each.
        admitted += len(await let_in(store, limits, asked_meanwhile))
        assert not asked_meanwhile or "per process" in str(store.degraded)
    with redis_at(port, tmp_path):
        for store in (*asking, *asking):
            if is_down(store):
                await until_well(store, clock, "other", limits)
            admitted += len(await let_in(store, limits, 70))
        for store in stores.values():
            await store.aclose()

    assert admitted <= 60 + 60 // processes


async def test_a_flushed_redis_is_noticed_by_processes_that_are_idle(own_redis: OwnRedis) -> None:
    busy, idle = (RedisStore(own_redis[0], 4, PATIENT_S) for _ in range(2))
    for store in (busy, idle):
        await store.look_after()
    assert len(await let_in(busy, Limits(60), 70)) == 60
    operator = redis.asyncio.Redis.from_url(own_redis[0])
    flush: Any = operator.flushall()
    await flush

    for store in (idle, busy):
        await store.look_after()

    assert await let_in(idle, Limits(60), 70) == []
    for closing in (busy, idle, operator):
        await closing.aclose()


async def test_an_older_copy_in_the_place_of_redis_lets_in_one_share_more_at_most(tmp_path: Path) -> None:
    """As after a restart from a snapshot, or a failover to a replica that was behind."""
    port, limits, clock = free_port(), Limits(60), Clock()
    with redis_at(port, tmp_path) as (url, _):
        stores = [RedisStore(url, 3, PATIENT_S, Breaker(clock)) for _ in range(3)]
        for store in stores:
            await store.look_after()
        admitted = [len(await let_in(stores[0], limits, 5))]
        operator = redis.asyncio.Redis.from_url(url)
        save: Any = operator.save()
        await save
        await operator.aclose()
        admitted += [len(await let_in(store, limits, 70)) for store in stores]
    assert sum(admitted) == 60

    with redis_at(port, tmp_path):
        for store in stores:
            await until_well(store, clock, "other", limits)
            admitted.append(len(await let_in(store, limits, 70)))
            await store.aclose()

    assert sum(admitted) <= 60 + 60 // 3


async def test_counts_that_redis_throws_away_are_counted_again_and_that_is_degraded(own_redis: OwnRedis) -> None:
    busy, idle = (RedisStore(own_redis[0], 2, PATIENT_S) for _ in range(2))
    for store in (busy, idle):
        await store.look_after()
    assert len(await let_in(busy, Limits(60), 70)) == 60
    operator = redis.asyncio.Redis.from_url(own_redis[0])
    for setting, value in (("maxmemory-policy", "volatile-random"), ("maxmemory", "1"), ("maxmemory", "0")):
        await operator.config_set(setting, value)
    assert await operator.exists("one_api:window:{k}") == 0

    for store in (busy, idle):
        await store.look_after()

    assert await let_in(idle, Limits(60), 70) == []
    assert "noeviction" in str(busy.degraded)
    assert "noeviction" in str(idle.degraded)
    for closing in (busy, idle, operator):
        await closing.aclose()


async def test_processes_of_other_machines_have_a_share_too(own_redis: OwnRedis) -> None:
    url, process = own_redis
    stores = [RedisStore(url, 1, PATIENT_S) for _ in range(3)]
    for store in stores * 2:
        await store.look_after()
    process.kill()
    process.wait(5)

    # Twenty for each, were it not the first minute, in which nobody knows what others have let in.
    assert [len(await let_in(store, Limits(60), 60)) for store in stores] == [20 // 3] * 3

    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("kind", ["requests", "tokens", "concurrent"])
async def test_a_flushed_redis_is_reminded_of_every_limit(kind: str, own_redis: OwnRedis) -> None:
    store, operator = RedisStore(own_redis[0], 1, PATIENT_S), redis.asyncio.Redis.from_url(own_redis[0])
    limits = {
        "requests": Limits(4), "tokens": Limits(99, tokens_per_minute=40), "concurrent": Limits(99, concurrent=4)
    }[kind]  # fmt: skip
    assert len(await let_in(store, limits, 4, tokens=10)) == 4
    flush: Any = operator.flushall()
    await flush

    refused = {(await store.take("k", limits, 10, next(_LEASES)))[0].refused_by for _ in range(3)}

    assert refused == {kind}
    await operator.aclose()
    await store.aclose()
