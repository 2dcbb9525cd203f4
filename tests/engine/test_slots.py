"""The queue for an engine's slots: bounded, fair by key, and one for all processes. Each queue here is a process."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from one_api.engine.slots import QueueFull, Slot, SlotQueue, WaitersByKey, tag_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no flocks")

LIMIT_S = 30.0
Make = Callable[..., SlotQueue]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Return a function that makes queues for the same engine; all are closed at the end."""
    made: list[SlotQueue] = []

    def make_queue(slots: int = 1, limit: int = 100) -> SlotQueue:
        made.append(SlotQueue("tiny", tmp_path / "tiny-1", slots, limit))
        return made[-1]

    yield make_queue
    for queue in made:
        await queue.close()


async def settled() -> None:
    """Let every task go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def asking(queue: SlotQueue, caller: str, order: list[str] | None = None) -> "asyncio.Task[Slot]":
    """A request that waits for a slot, and notes its caller when it has one."""

    async def ask() -> Slot:
        slot = await queue.take(caller, LIMIT_S)
        if order is not None:
            order.append(caller)
        return slot

    return asyncio.create_task(ask())


async def served(tasks: "list[asyncio.Task[Slot]]") -> None:
    """Wait until all have had a slot; each gives it back at once."""
    for task in tasks:
        task.add_done_callback(lambda done: done.result().release())
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)


async def test_no_more_than_the_slots_are_given_out(make: Make) -> None:
    queue = make(slots=2)
    first, second = await queue.take("a", LIMIT_S), await queue.take("a", LIMIT_S)
    third = asking(queue, "a")
    await settled()

    assert not third.done()

    first.release()
    (await asyncio.wait_for(third, LIMIT_S)).release()
    second.release()


async def test_two_processes_share_the_slots(make: Make) -> None:
    here, there = make(slots=2), make(slots=2)
    mine, theirs = await here.take("a", LIMIT_S), await there.take("a", LIMIT_S)
    waiting = asking(there, "a")
    with pytest.raises(QueueFull):
        await here.take("a", 0.1)

    mine.release()

    (await asyncio.wait_for(waiting, LIMIT_S)).release()
    theirs.release()


async def test_a_slot_given_back_twice_is_given_back_once(make: Make) -> None:
    queue = make()
    slot = await queue.take("a", LIMIT_S)
    slot.release()
    other = await queue.take("b", LIMIT_S)

    slot.release()

    with pytest.raises(QueueFull):
        await queue.take("a", 0.05)
    other.release()


async def test_keys_take_turns(make: Make) -> None:
    queue = make()
    held = await queue.take("x", LIMIT_S)
    order: list[str] = []
    tasks = [asking(queue, caller, order) for caller in ("", "", "", "", "b", "b", "c")]
    await settled()

    held.release()
    await served(tasks)

    assert order == ["", "b", "c", "", "b", "", ""]


async def test_a_key_with_requests_at_work_comes_after_one_without(make: Make) -> None:
    queue = make(slots=2)
    long, short = await queue.take("greedy", LIMIT_S), await queue.take("greedy", LIMIT_S)
    order: list[str] = []
    tasks = [asking(queue, caller, order) for caller in ("greedy", "modest", "modest")]
    await settled()

    short.release()
    await served(tasks)

    assert order == ["modest", "modest", "greedy"]
    long.release()


async def test_a_process_does_not_keep_a_slot_that_others_wait_for(make: Make) -> None:
    """The one process has many requests, the other has one; which must not wait for all of them."""
    busy, modest = make(), make()
    held = await busy.take("a", LIMIT_S)
    order: list[str] = []
    tasks = [asking(busy, "a", order) for _ in range(50)] + [asking(modest, "b", order)]
    await settled()

    held.release()
    await served(tasks)

    assert order.index("b") < 25


async def test_keys_take_turns_among_processes(make: Make) -> None:
    """The greedy key has a request at work all the time; whoever has none comes first, whichever process it is in."""
    one, two, three = make(slots=2), make(slots=2), make(slots=2)
    long, short = await one.take("greedy", LIMIT_S), await two.take("greedy", LIMIT_S)
    order: list[str] = []
    tasks = [asking(queue, "greedy", order) for queue in (one, two, three) for _ in range(5)]
    tasks += [asking(queue, "modest", order) for queue in (two, three, three)]
    await settled()

    short.release()
    await served(tasks)

    assert order == ["modest"] * 3 + ["greedy"] * 15
    long.release()


async def test_a_newcomer_of_a_greedy_key_lines_up_behind_those_who_wait_elsewhere(make: Make) -> None:
    one, two = make(slots=2), make(slots=2)
    long, short = await one.take("greedy", LIMIT_S), await one.take("greedy", LIMIT_S)
    order: list[str] = []
    modest = asking(two, "modest", order)
    await settled()
    short.release()

    greedy = asking(one, "greedy", order)
    await served([modest, greedy])

    assert order == ["modest", "greedy"]
    long.release()


async def test_a_process_that_takes_no_turn_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    """It is stopped, say: it holds its place in the line, and never comes."""
    queue = make(slots=2)
    long = await queue.take("greedy", LIMIT_S)
    stopped = WaitersByKey(tmp_path / "tiny-1")
    stopped.set_waiting({tag_of("modest")})

    (await queue.take("greedy", LIMIT_S)).release()

    stopped.set_waiting(set())
    long.release()


async def test_a_full_queue_refuses(make: Make) -> None:
    queue = make(limit=2)
    held = await queue.take("a", LIMIT_S)
    tasks = [asking(queue, "a") for _ in range(2)]
    await settled()

    with pytest.raises(QueueFull) as caught:
        await queue.take("a", LIMIT_S)

    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)
    held.release()
    await served(tasks)


async def test_a_full_queue_refuses_whoever_has_the_most_in_it(make: Make) -> None:
    queue = make(limit=3)
    held = await queue.take("greedy", LIMIT_S)
    tasks = [asking(queue, "greedy") for _ in range(3)]
    await settled()

    modest = asking(queue, "modest")
    with pytest.raises(QueueFull):
        await tasks.pop()

    held.release()
    await served([*tasks, modest])


async def test_who_waits_too_long_is_refused_and_forgotten(make: Make) -> None:
    queue = make(limit=1)
    held = await queue.take("a", LIMIT_S)

    for _ in range(2):
        with pytest.raises(QueueFull, match="busy"):
            await queue.take("a", 0.02)

    held.release()
    (await queue.take("a", LIMIT_S)).release()


async def test_a_request_that_leaves_takes_no_slot(make: Make) -> None:
    queue = make()
    for meanwhile in range(8):
        held = await queue.take("a", LIMIT_S)
        leaving = asking(queue, "b")
        await settled()
        held.release()
        for _ in range(meanwhile):
            await asyncio.sleep(0)
        leaving.cancel()
        with suppress(asyncio.CancelledError):  # at the end it had the slot before it could leave
            (await leaving).release()

        (await queue.take("a", LIMIT_S)).release()


async def test_a_killed_process_leaves_its_slot_to_others(make: Make, tmp_path: Path) -> None:
    queue = make()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "tiny-1.slot-0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        await asyncio.to_thread(other.stdout.readline)
        waiting = asking(queue, "a")
        await asyncio.sleep(0.05)
        assert not waiting.done()

        other.kill()

        (await asyncio.wait_for(waiting, LIMIT_S)).release()


async def test_closing_refuses_who_waits_and_leaves_those_at_work_alone(make: Make) -> None:
    queue, other = make(), make()
    held = await queue.take("a", LIMIT_S)
    waiting = asking(queue, "a")
    await settled()

    await queue.close()

    with pytest.raises(QueueFull, match="shutting down"):
        await waiting
    with pytest.raises(QueueFull):
        await other.take("b", 0.05)
    held.release()
    (await other.take("b", LIMIT_S)).release()
