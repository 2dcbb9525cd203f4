"""Windows that several processes share, in a file and in Redis."""

import asyncio
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import random
import shlex
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from one_api.breaker import OPEN_S, Breaker
from one_api.limits.redis import RedisStore
from one_api.limits.shared import SharedStore
from one_api.limits.stores import LimitStore, MemoryStore
from one_api.limits.window import UNLIMITED, Limits
from tests.support import freeze
from tests.support.busy import busy_machine
from tests.support.clock import Clock
from tests.support.gateway import free_port
from tests.support.loop_time import LoopTime
from tests.support.running_time import PATIENCE_S

from .conftest import OwnRedis, odd_redis

REDIS = "redis://127.0.0.1:6379/0"
#: How long a store waits for a Redis that is well: longer than a machine stands still, or is busy with a race.
PATIENT_S = 5.0
#: How long one waits for a Redis that may be frozen.
CALL_S = 1.0


def _make(where: str, keys: list[str]) -> LimitStore:
    return RedisStore(where, 4, PATIENT_S) if where.startswith("redis") else SharedStore(Path(where), "test")


@contextlib.contextmanager
def _racers() -> Iterator[Pool]:
    """Four processes that begin each race together."""
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(4, _meet_at, [spawning.Barrier(4)]) as pool:
        yield pool


def _meet_at(start: Barrier) -> None:
    """Let this process begin its races when the others do."""
    global _start
    _start = start


_start: Barrier


def _race(where: str, key: str) -> int:
    """Ask 50 times from a process of its own; returns how often it was let in."""

    async def ask() -> int:
        store = _make(where, [key])
        _start.wait(PATIENCE_S)
        answers = await asyncio.gather(*(store.take(key, Limits(50), 5, random.getrandbits(60)) for _ in range(50)))
        await store.aclose()
        return sum(verdict.refused_by is None for verdict, _ in answers)

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_four_processes_share_one_limit_exactly(kind: str, tmp_path: Path) -> None:
    key = uuid.uuid4().hex
    where = str(tmp_path) if kind == "file" else REDIS
    with _racers() as racers:
        admitted = racers.starmap(_race, [(where, key)] * 4)
    assert sum(admitted) == 50, admitted


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_limit_is_exact_on_a_busy_machine(kind: str, tmp_path: Path) -> None:
    where = str(tmp_path) if kind == "file" else REDIS
    with _racers() as racers, busy_machine():
        for _ in range(3):
            admitted = racers.starmap(_race, [(where, uuid.uuid4().hex)] * 4)
            assert sum(admitted) == 50, admitted


@pytest.mark.parametrize("kind", ["memory", "file", "redis"])
async def test_every_store_keeps_requests_tokens_and_leases_alike(kind: str, tmp_path: Path) -> None:
    key = uuid.uuid4().hex
    places = {"file": str(tmp_path), "redis": REDIS}
    store: LimitStore = MemoryStore() if kind == "memory" else _make(places[kind], [key])
    limits = Limits(4, tokens_per_minute=100, concurrent=2)

    began = time.monotonic()
    first, ticket = await store.take(key, limits, 60, 7)
    assert (first.refused_by, first.remaining_requests, first.remaining_tokens) == (None, 3, 40)
    assert (await store.take(key, limits, 60, 8))[0].refused_by == "tokens"
    await store.settle(ticket, 10)
    second, _ = await store.take(key, limits, 60, 8)
    assert (second.refused_by, second.remaining_tokens) == (None, 30)
    third, open_ticket = await store.take(key, limits, 1, 9)
    assert third.refused_by is None
    await store.renew([open_ticket])
    assert (await store.take(key, limits, 1, 10))[0].refused_by == "concurrent"
    await store.settle(open_ticket, 1)
    assert (await store.take(key, limits, 1, 10))[0].refused_by is None
    await store.settle(dataclasses.replace(open_ticket, lease=10), 1)
    last, _ = await store.take(key, limits, 1, 11)
    assert last.refused_by == "requests"
    # The first leaves the window after a minute, and the second in which it was counted.
    assert last.retry_after_s + (time.monotonic() - began) >= 59
    assert last.retry_after_s <= 61.1
    await store.aclose()


@pytest.mark.parametrize("kind", ["memory", "file", "redis"])
async def test_requests_without_a_limit_count_for_one_that_comes_later(kind: str, tmp_path: Path) -> None:
    key = uuid.uuid4().hex
    places = {"file": str(tmp_path), "redis": REDIS}
    store: LimitStore = MemoryStore() if kind == "memory" else _make(places[kind], [key])

    for lease in range(1, 6):
        assert (await store.take(key, Limits(UNLIMITED), 0, lease))[0].refused_by is None

    assert (await store.take(key, Limits(6), 0, 6))[0].refused_by is None
    assert (await store.take(key, Limits(6), 0, 7))[0].refused_by == "requests"
    await store.aclose()


async def test_counts_outlive_a_restart_and_another_scope_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = SharedStore(tmp_path, "test")
    assert (await store.take("a", Limits(1), 0, 1))[0].refused_by is None
    await store.aclose()
    again, other = SharedStore(tmp_path, "test"), SharedStore(tmp_path, "other")
    assert (await again.take("a", Limits(1), 0, 1))[0].refused_by == "requests"
    assert (await again.take("b", Limits(1), 0, 1))[0].refused_by is None
    assert (await other.take("a", Limits(1), 0, 1))[0].refused_by is None
    await again.aclose()
    await other.aclose()


async def test_a_frozen_redis_costs_a_few_calls_and_then_nothing(own_redis: OwnRedis) -> None:
    url, process = own_redis
    limits = Limits(1000)
    store = RedisStore(url, 2, CALL_S)
    assert (await store.take("k", limits, 0, 1))[0].remaining_requests == 999
    freeze(process.pid)

    waits = []
    async with LoopTime() as clock:
        for _ in range(20):
            began = clock.now_s
            taking = asyncio.create_task(store.take("k", limits, 0, 1))
            await asyncio.sleep(0)
            if not taking.done():  # it waits
                await taking
                waits.append(clock.now_s - began)
            assert taking.result()[0].refused_by is None
    assert 1 <= len(waits) <= 3, waits
    assert sum(waits) < 2 * CALL_S, "each is half as long as the one before"
    assert store.degraded

    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(15):
        while store.degraded:
            await store.take("k", limits, 0, 1)
            await asyncio.sleep(0.05)
    assert (await store.take("k", limits, 0, 1))[0].refused_by is None
    await store.aclose()


async def test_limits_are_shared_out_while_redis_is_away() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", processes=4)
    answers = [await store.take("k", Limits(40), 0, 1) for _ in range(30)]
    assert sum(verdict.refused_by is None for verdict, _ in answers) == 10
    assert store.degraded
    await store.settle(answers[0][1], 0)
    await store.aclose()


@pytest.mark.parametrize(
    "says",
    [
        b":1\r\n", b"$3\r\nabc\r\n", b"*0\r\n", b"*8\r\n" + b":1\r\n" * 8,
        b"*8\r\n$3\r\nodd\r\n" + b"$1\r\n0\r\n:1\r\n" * 3 + b":9\r\n",
        b"*8\r\n$0\r\n\r\n" + b"$1\r\nx\r\n:1\r\n" * 3 + b":9\r\n",
        b"*8\r\n$0\r\n\r\n" + b"$1\r\n0\r\n$1\r\n1\r\n" * 3 + b":9\r\n",
    ],
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_as_good_as_none(says: bytes) -> None:
    async with odd_redis() as server, asyncio.timeout(10):
        server.says = says
        store = RedisStore(server.url, processes=4)
        answers = [await store.take("k", Limits(40, tokens_per_minute=1000), 0, 1) for _ in range(30)]
        assert sum(verdict.refused_by is None for verdict, _ in answers) == 10
        await store.aclose()


async def test_what_was_counted_while_redis_was_away_is_added_to_what_it_knows(own_redis: OwnRedis) -> None:
    """R10: neither is forgotten."""
    url, process = own_redis
    clock = Clock()
    store = RedisStore(url, processes=1, breaker=Breaker(clock))
    limits = Limits(20, tokens_per_minute=1000)
    for _ in range(4):
        await store.take("k", limits, 10, 1)
    freeze(process.pid)
    while not store.degraded:
        await store.take("k", limits, 10, 1)
    for _ in range(5):
        await store.take("k", limits, 10, 1)
    process.send_signal(signal.SIGCONT)
    await until_well(store, clock, "other", limits)

    verdict, _ = await store.take("k", limits, 10, 1)

    # Redis may also have run, late, the calls that nobody waited for any more: they count twice, never not at all.
    assert verdict.remaining_requests <= 20 - 4 - 5 - 1
    assert verdict.remaining_tokens is not None
    assert verdict.remaining_tokens <= 1000 - 10 * (4 + 5 + 1)
    await store.aclose()


async def test_a_slow_redis_is_waited_for_once_however_many_ask(own_redis: OwnRedis) -> None:
    """R04: within the deadline of a call it is no fault, and callers share its delay."""
    url, _ = own_redis
    async with slow_way(url, 0.2) as slow_url, LoopTime() as clock:
        store = RedisStore(slow_url, 1, PATIENT_S)
        await store.take("k", Limits(1000), 0, 1)
        began = clock.now_s

        answers = await asyncio.gather(*(store.take("k", Limits(10), 0, n) for n in range(30)))

        assert clock.now_s - began < 1, "one after the other they would wait for six seconds"
        assert sum(verdict.refused_by is None for verdict, _ in answers) == 9
        assert not store.degraded
        await store.aclose()


async def test_a_redis_that_is_far_away_is_waited_for_as_long_as_the_settings_say(own_redis: OwnRedis) -> None:
    url, _ = own_redis
    async with slow_way(url, 0.3) as slow_url:
        for call_s, degraded in ((5.0, False), (0.05, True)):
            store = RedisStore(slow_url, 1, call_s)
            for lease in range(3):
                await store.take("k", Limits(10), 0, lease)
            assert (store.degraded is not None) == degraded
            await store.aclose()


@contextlib.asynccontextmanager
async def slow_way(url: str, *delays_s: float) -> AsyncIterator[str]:
    """A port that leads to Redis; its answers arrive so much later, one after the other and then from the first on."""
    delays = itertools.cycle(delays_s)
    redis_port = int(url.split(":")[-1].split("/")[0])
    flows: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, waits_s: Iterator[float]) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(next(waits_s))
            writer.write(data)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", redis_port)
        there = asyncio.ensure_future(pass_on(reader, far_writer, itertools.repeat(0.0)))
        back = asyncio.ensure_future(pass_on(far_reader, writer, delays))
        flows.update({there, back})
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        back.cancel()
        for each in (writer, far_writer):
            each.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)


async def until_well(store: RedisStore, clock: Clock, key: str, limits: Limits) -> None:
    """Have Redis probed, on the clock of its breaker, until it is well; it may have lost counts."""
    async with asyncio.timeout(15):
        while "lost counts" not in (store.degraded or "lost counts"):
            clock.now += OPEN_S
            await store.take(key, limits, 0, 1)
            await asyncio.sleep(0.05)


BROKEN = {
    "read-only, as after a failover": ("REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE"),
    "out of memory": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "another password": ("CONFIG SET requirepass x", "CONFIG SET requirepass ''"),
    "scripts forbidden": ("ACL SETUSER default -@scripting", "ACL SETUSER default +@scripting"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_redis_that_refuses_is_as_good_as_none_until_it_is_well(name: str, own_redis: OwnRedis) -> None:
    url, _ = own_redis
    broken, healed = BROKEN[name]
    operator: Any = redis.asyncio.Redis.from_url(url)
    clock = Clock()
    store = RedisStore(url, processes=1, breaker=Breaker(clock))
    assert (await store.take("k", Limits(1000), 0, 1))[0].refused_by is None

    await operator.execute_command(*shlex.split(broken))
    await operator.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    for _ in range(10):
        assert (await store.take("k", Limits(1000), 0, 1))[0].refused_by is None
    assert store.degraded

    await operator.execute_command(*shlex.split(healed))
    await until_well(store, clock, "k", Limits(1000))
    await store.aclose()
    await operator.aclose()


async def test_a_redis_that_is_killed_fails_no_request(own_redis: OwnRedis) -> None:
    url, process = own_redis
    store = RedisStore(url, 2, PATIENT_S)
    assert (await store.take("k", Limits(1000), 0, 1))[0].remaining_requests == 999
    process.kill()
    process.wait(5)
    for _ in range(10):
        assert (await store.take("k", Limits(1000), 0, 1))[0].refused_by is None
    assert store.degraded
    await store.aclose()


async def test_a_redis_that_forgets_is_reminded(own_redis: OwnRedis) -> None:
    url, _ = own_redis
    store = RedisStore(url, 1, PATIENT_S)
    for _ in range(2):
        await store.take("k", Limits(1), 0, 1)
    operator: Any = redis.asyncio.Redis.from_url(url)
    await operator.flushall()
    answers = [(await store.take("k", Limits(1), 0, 1))[0].refused_by for _ in range(2)]
    assert answers == ["requests", "requests"]
    await operator.aclose()
    await store.aclose()


def test_the_breaker_lets_one_probe_through() -> None:
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0])
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    assert not breaker.admits()
    now[0] = 5.1
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert breaker.admits()


async def test_a_killed_process_leaks_no_lease_for_long(tmp_path: Path) -> None:
    store = SharedStore(tmp_path, "test")
    child = os.fork()
    if child == 0:
        asyncio.run(SharedStore(tmp_path, "test").take("k", Limits(9, concurrent=1), 0, 5))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (await store.take("k", Limits(9, concurrent=1), 0, 6))[0].refused_by == "concurrent"
    held = await store.change("k", lambda window: dict(window.leases), leases=True)
    assert all(ends <= time.monotonic() + 60 for ends in held.values())
    await store.aclose()
