"""One timer for many waits: each is bounded, none is cut short, and a cancellation from outside stays one."""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import pytest

from one_api.serving.timeouts import ReusableTimeout
from tests.support.loop_time import LoopTime

T = TypeVar("T")

LONG_S = 60.0
#: Longer than anything that should not wait takes; shorter than LONG_S.
SHORT_S = 0.05


@pytest.fixture
def timeout() -> Iterator[ReusableTimeout]:
    made = ReusableTimeout()
    yield made
    made.close()


async def wait(timeout: ReusableTimeout, awaited: Awaitable[T], limit_s: float) -> T:
    """The result of what is awaited, at most for so long, whatever was awaited before."""
    timeout.reset()
    with timeout.limit(limit_s):
        return await awaited


def now() -> float:
    return asyncio.get_running_loop().time()


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_ends_in_time_gives_its_result(timeout: ReusableTimeout) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert await wait(timeout, answer(), LONG_S) == 42


async def test_what_takes_too_long_is_cancelled(timeout: ReusableTimeout) -> None:
    with pytest.raises(TimeoutError):
        await wait(timeout, forever(), SHORT_S)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_comes_through(timeout: ReusableTimeout) -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await wait(timeout, fail(), LONG_S)


async def test_a_later_deadline_moves_the_timer(timeout: ReusableTimeout) -> None:
    """The timer of the first wait goes off during the second, which has more time."""
    await wait(timeout, asyncio.sleep(0), SHORT_S)
    began = now()

    with pytest.raises(TimeoutError):
        await wait(timeout, forever(), 3 * SHORT_S)

    assert now() >= began + 3 * SHORT_S


async def test_an_earlier_deadline_counts(timeout: ReusableTimeout) -> None:
    await wait(timeout, asyncio.sleep(0), LONG_S)
    began = now()

    with pytest.raises(TimeoutError):
        await wait(timeout, forever(), SHORT_S)

    assert now() < began + LONG_S


async def test_a_cancellation_from_outside_stays_one(timeout: ReusableTimeout) -> None:
    task = asyncio.ensure_future(wait(timeout, forever(), LONG_S))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("inner_s, outer_s", [(SHORT_S, LONG_S), (LONG_S, SHORT_S)], ids=["inner first", "outer first"])
async def test_nested_waits_know_whose_time_is_up(timeout: ReusableTimeout, inner_s: float, outer_s: float) -> None:
    inner = ReusableTimeout()
    told = []

    async def wait_within() -> None:
        try:
            await wait(inner, forever(), inner_s)
        except TimeoutError:
            told.append("inner")
            raise KeyError from None

    with pytest.raises((KeyError, TimeoutError)) as caught:
        await wait(timeout, wait_within(), outer_s)
    inner.close()

    assert told == (["inner"] if inner_s < outer_s else [])
    assert isinstance(caught.value, KeyError if inner_s < outer_s else TimeoutError)


async def test_a_timer_that_nobody_waits_for_does_nothing(timeout: ReusableTimeout) -> None:
    await wait(timeout, asyncio.sleep(0), SHORT_S)
    await asyncio.sleep(2 * SHORT_S)

    assert await wait(timeout, asyncio.sleep(0, "still"), LONG_S) == "still"


async def test_waits_add_up_until_the_event_has_come(timeout: ReusableTimeout) -> None:
    with timeout.limit(1.0):
        await asyncio.sleep(0.5)

    async with LoopTime() as clock:
        with pytest.raises(TimeoutError), timeout.limit(1.0):
            await forever()

    assert clock.now_s < 0.9


async def test_no_wait_goes_beyond_a_moment(timeout: ReusableTimeout) -> None:
    with pytest.raises(TimeoutError), timeout.limit(LONG_S, now() + SHORT_S):
        await forever()
