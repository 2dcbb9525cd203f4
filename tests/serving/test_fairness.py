"""Fair shares of the loop: who goes on at once, who waits, and in which order."""

import asyncio
import time

from one_api.serving.fairness import FairScheduler, SpareTimeQueue


async def passes(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_few_requests_start_at_once_and_a_crowd_in_its_order() -> None:
    fair, started = FairScheduler(), list[int]()

    for number in range(20):
        fair.start(lambda number=number: started.append(number))  # type: ignore[misc]
    at_once = len(started)
    await passes(20)

    assert 1 <= at_once < 10
    assert started == list(range(20))


async def test_later_starts_wait_behind_those_that_wait_already() -> None:
    fair, started = FairScheduler(), list[int]()
    for number in range(10):
        fair.start(lambda number=number: started.append(number))  # type: ignore[misc]
    await passes()

    fair.start(lambda: started.append(10))
    await passes(20)

    assert started == list(range(11))


async def test_streams_give_way_to_a_crowd_and_none_of_them_for_ever() -> None:
    fair, done = FairScheduler(), list[str]()
    for _ in range(12):
        fair.start(lambda: done.append("start"))
    assert fair.is_crowded
    for _ in range(12):
        fair.hold(lambda: done.append("read") or 1500)  # type: ignore[func-returns-value]

    await passes(20)

    assert not fair.is_crowded
    assert (done.count("start"), done.count("read")) == (12, 12)
    half = done[: done.index("start", 9)]
    assert "read" in half, "a crowd of starts stops no stream"
    assert done.index("start") < done.index("read")


async def test_after_a_crowd_streams_that_gave_way_go_on_in_turns() -> None:
    fair, done = FairScheduler(), list[str]()
    for _ in range(12):
        fair.start(lambda: done.append("start"))
    for _ in range(12):
        fair.hold(lambda: done.append("read") or 20_000)  # type: ignore[func-returns-value]

    while done.count("start") < 12:
        await passes()

    assert done.count("read") < 12
    assert fair.is_crowded, "what comes of other streams waits behind those"
    await passes(20)
    assert (done.count("read"), fair.is_crowded) == (12, False)


async def test_clients_that_wait_for_their_connection_make_a_crowd() -> None:
    fair = FairScheduler()
    fair.clients_wait()
    assert fair.is_crowded

    await passes(4)
    assert not fair.is_crowded


async def test_pipelined_requests_start_at_once_on_an_idle_loop() -> None:
    queue, started = SpareTimeQueue(1 / 3, 0.02), list[int]()
    for number in range(3):
        queue.submit(lambda number=number: started.append(number))  # type: ignore[misc]
    assert started == []

    async with asyncio.timeout(1):
        while len(started) < 3:
            await asyncio.sleep(0.001)

    assert started == [0, 1, 2]


async def test_pipelined_requests_leave_most_of_the_processor_to_others_and_still_come_on() -> None:
    queue, started = SpareTimeQueue(1 / 3, 0.02), list[float]()

    def work() -> None:
        started.append(time.thread_time())
        ends = time.thread_time() + 0.004
        while time.thread_time() < ends:
            pass

    for _ in range(10):
        queue.submit(work)
    began, cpu = time.perf_counter(), time.thread_time()
    async with asyncio.timeout(10):
        while len(started) < 10:
            await asyncio.sleep(0.001)

    share = (time.thread_time() - cpu) / (time.perf_counter() - began)
    assert share < 0.6


async def test_a_busy_loop_starts_a_pipelined_request_all_the_same() -> None:
    queue, started = SpareTimeQueue(1 / 3, 0.02), list[int]()
    for number in range(3):
        queue.submit(lambda number=number: started.append(number))  # type: ignore[misc]

    async with asyncio.timeout(5):
        while len(started) < 3:
            ends = time.thread_time() + 0.002
            while time.thread_time() < ends:
                pass
            await asyncio.sleep(0)

    assert started == [0, 1, 2]
