"""Limits hold while Redis answers late, is restarted or flushed: more than a limit is never let in."""

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from one_api.limits.redis import RedisStore
from one_api.limits.stores import Ticket
from one_api.limits.window import Limits
from tests.support.gateway import free_port

from .conftest import OwnRedis, redis_at
from .test_stores import slow_way, until_well

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


async def test_a_request_that_redis_counted_late_counts_once(own_redis: OwnRedis) -> None:
    async with slow_way(own_redis[0], 0.0, 0.0, 0.0, 0.0, 0.2, 0.0) as slow_url:
        store, exact = RedisStore(slow_url, 1), RedisStore(own_redis[0], 1, 5)
        await let_in(store, Limits(100, tokens_per_minute=1000), 10, tokens=10)
        async with asyncio.timeout(10):
            while store._usage["k"].late:
                await asyncio.sleep(0.01)

        verdict, _ = await exact.take("k", Limits(100, tokens_per_minute=1000), 10, 1)

        assert (verdict.remaining_requests, verdict.remaining_tokens) == (100 - 11, 1000 - 110)
        await store.aclose()
        await exact.aclose()


async def test_some_late_answers_are_degraded_though_others_come_in_time(own_redis: OwnRedis) -> None:
    url, process = own_redis
    store = RedisStore(url, 1)
    for _ in range(3):
        await let_in(store, Limits(30), 2)
        assert store.degraded is None
        process.send_signal(signal.SIGSTOP)
        await let_in(store, Limits(30), 1)
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            while store._usage["k"].late:
                await asyncio.sleep(0.01)
    assert "late" in str(store.degraded)
    assert not store._link.ill
    await store.aclose()


@pytest.mark.parametrize("ends", ["before its answer", "after its answer"])
async def test_a_request_that_redis_counted_late_is_settled_there(ends: str, own_redis: OwnRedis) -> None:
    url, process = own_redis
    store, exact = RedisStore(url, 1), RedisStore(url, 1, 5)
    limits = Limits(100, tokens_per_minute=1000, concurrent=2)
    await store.settle((await let_in(store, limits, 1))[0], 0)
    process.send_signal(signal.SIGSTOP)
    (ticket,) = await let_in(store, limits, 1, tokens=500)
    if ends == "before its answer":
        await store.settle(ticket, 20)
    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while store._usage["k"].late or store._tasks:
            await asyncio.sleep(0.01)
    await store.settle(ticket, 20)

    found = [(await exact.take("k", limits, 1, lease))[0] for lease in (7, 8)]

    assert [verdict.refused_by for verdict in found] == [None, None]
    assert found[0].remaining_tokens == 1000 - 20 - 1
    await store.aclose()
    await exact.aclose()


#: Which of two processes let in each request, and how many may be let in: not what one process knows of.
HISTORIES = {
    "in turn": ("ab" * 30, 61),
    "one alone": ("a" * 60, 60 + 30),
    "one after the other": ("a" * 15 + "b" * 45, 90),
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("asked_meanwhile", [0, 40])
async def test_what_was_used_is_remembered_over_a_restart(history: str, asked_meanwhile: int, tmp_path: Path) -> None:
    order, most = HISTORIES[history]
    port, limits, admitted = free_port(), Limits(60), 0
    with redis_at(port, tmp_path) as (url, _):
        stores = {name: RedisStore(url, processes=2, call_s=5) for name in "ab"}
        for name in order:
            admitted += len(await let_in(stores[name], limits, 1))
    assert admitted == 60
    for store in stores.values():
        admitted += len(await let_in(store, limits, asked_meanwhile))
    with redis_at(port, tmp_path):
        for store in (*stores.values(), *stores.values()):
            if store._link.ill:
                await until_well(store, "other", limits)
            admitted += len(await let_in(store, limits, 70))
        for store in stores.values():
            await store.aclose()

    assert admitted <= most


@pytest.mark.parametrize("kind", ["requests", "tokens", "concurrent"])
async def test_a_flushed_redis_is_reminded_of_every_limit(kind: str, own_redis: OwnRedis) -> None:
    store, operator = RedisStore(own_redis[0], 1, 5), redis.asyncio.Redis.from_url(own_redis[0])
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
