"""Asking two: when the second is asked, which answer is kept, and what becomes of the other."""

import asyncio
import random
import time
from typing import Any

import pytest

from one_api.contract import ChunkStream
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import UpstreamError, UpstreamFailed, UpstreamRejected
from one_api.records import CallContext
from one_api.routing.deployment import Deployment
from one_api.routing.failover import Failover
from one_api.routing.hedging import Hedging
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Policy, Route
from one_api.settings.sections import HedgeConfig
from tests.utils.fake_adapter import FakeAdapter, FakeStream, Scripted, say

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def place(name: str, *answers: Scripted) -> Deployment:
    """A deployment that answers as scripted."""
    return Deployment(name, FakeAdapter(*answers), "m")


def hedged(*targets: Deployment, after: float = 0.001, budget: float = 1.0) -> tuple[Failover, Route]:
    """What tries the targets of a route in order, the second once the first has been silent for so many seconds."""
    policy = Policy(hedge=HedgeConfig(after=after, budget=budget))
    route = Route("m", list(targets), [], "ordered", policy)
    return Failover(retries=RetryLimit(1.0), rng=random.Random(0)), route


async def begin_both(a: Deployment, b: Deployment) -> "asyncio.Task[object]":
    """Ask for a stream, and return once both have been asked for it."""
    failover, route = hedged(a, b)
    asking: asyncio.Task[object] = asyncio.create_task(
        failover.run(route, ChatRequest.of(BODY | {"stream": True}), CallContext())
    )
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()
    return asking


async def ask(*targets: Deployment, after: float = 0.01, budget: float = 1.0) -> tuple[object, list[tuple[str, str]]]:
    """The answer to a request, or the error; and what became of each try."""
    context = CallContext()
    failover, route = hedged(*targets, after=after, budget=budget)
    try:
        answer: object = await failover.run(route, ChatRequest.of(BODY), context)
    except UpstreamError as error:
        answer = error
    assert [each.health.in_flight for each in targets] == [0] * len(targets)
    return answer, [(each.deployment, each.outcome) for each in context.record.attempts]


async def test_the_second_answers_when_the_first_is_slow() -> None:
    answer, tries = await ask(place("a", asyncio.Event()), place("b", {"text": "b"}))

    assert answer == {"text": "b"}
    assert tries == [("a/m", "hedge_lost"), ("b/m", "ok")]


async def test_a_first_that_is_quick_is_the_only_one() -> None:
    answer, tries = await ask(place("a", {"text": "a"}), place("b", {"text": "b"}), after=60)

    assert answer == {"text": "a"}
    assert tries == [("a/m", "ok")]


async def test_the_first_may_still_win() -> None:
    gate = asyncio.Event()
    a, b = place("a", gate, {"text": "a"}), place("b", asyncio.Event())
    asking = asyncio.create_task(ask(a, b))
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()

    gate.set()

    assert await asking == ({"text": "a"}, [("a/m", "ok"), ("b/m", "hedge_lost")])


async def test_a_second_that_fails_leaves_it_to_the_first() -> None:
    gate = asyncio.Event()
    a, b = place("a", gate, {"text": "a"}), place("b", UpstreamFailed("b"))
    asking = asyncio.create_task(ask(a, b))
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()

    gate.set()

    assert await asking == ({"text": "a"}, [("a/m", "ok"), ("b/m", "UpstreamFailed")])


async def test_when_both_fail_the_third_is_asked() -> None:
    gate = asyncio.Event()
    a, b, c = place("a", gate, UpstreamFailed("a")), place("b", UpstreamFailed("b")), place("c", {"text": "c"})
    asking = asyncio.create_task(ask(a, b, c))
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()

    gate.set()

    answer, tries = await asking
    assert answer == {"text": "c"}
    assert [name for name, _ in tries] == ["a/m", "b/m", "c/m"]


async def test_a_request_that_one_of_both_refuses_goes_no_further_when_the_other_fails() -> None:
    gate, refused = asyncio.Event(), UpstreamRejected("messages is empty")
    a, b, c = place("a", gate, UpstreamFailed("a")), place("b", refused), place("c", {"text": "c"})
    asking = asyncio.create_task(ask(a, b, c))
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()

    gate.set()

    assert await asking == (refused, [("a/m", "UpstreamFailed"), ("b/m", "UpstreamRejected")])


async def test_a_client_that_leaves_ends_both() -> None:
    a, b = place("a", asyncio.Event()), place("b", asyncio.Event())
    asking = asyncio.create_task(ask(a, b))
    assert isinstance(b.adapter, FakeAdapter)
    await b.adapter.asked.wait()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert (a.health.in_flight, b.health.in_flight) == (0, 0)


@pytest.mark.parametrize("turns", range(12))
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_open(turns: int) -> None:
    gate = asyncio.Event()
    a, b = place("a", asyncio.Event()), place("b", gate, [say("x"), asyncio.Event()])
    asking = await begin_both(a, b)
    gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)

    asking.cancel()
    (answer,) = await asyncio.gather(asking, return_exceptions=True)

    if isinstance(answer, ChunkStream):
        await answer.aclose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (a.health.in_flight, b.health.in_flight) == (0, 0)
    assert isinstance(b.adapter, FakeAdapter)
    assert all(stream.closed for stream in b.adapter.streams)


async def test_both_spoke_and_the_client_leaves_while_one_is_let_go() -> None:
    gate = asyncio.Event()
    a, b = place("a", gate, [say("a"), asyncio.Event()]), place("b", gate, [say("b"), asyncio.Event()])
    closing = asyncio.Event()

    class Slow(FakeStream):
        async def aclose(self) -> None:
            closing.set()
            await asyncio.sleep(0.05)
            await super().aclose()

    for each in (a, b):
        assert isinstance(each.adapter, FakeAdapter)
        each.adapter.make_stream = Slow
    asking = await begin_both(a, b)
    gate.set()
    await closing.wait()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    async with asyncio.timeout(10):
        while (a.health.in_flight, b.health.in_flight) != (0, 0):
            await asyncio.sleep(0.01)


async def test_who_chooses_at_the_same_moment_sees_who_has_been_asked() -> None:
    small, large = place("a", asyncio.Event()), place("b", asyncio.Event())
    small.max_concurrency = 2
    failover, route = hedged(small, large, after=60)
    asking = [asyncio.create_task(failover.run(route, ChatRequest.of(BODY), CallContext())) for _ in range(10)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (small.health.in_flight, large.health.in_flight) == (2, 8)

    for each in asking:
        each.cancel()  # some before they have begun
    await asyncio.gather(*asking, return_exceptions=True)
    assert (small.health.in_flight, large.health.in_flight) == (0, 0)


async def test_a_fallback_is_not_asked_because_a_target_is_slow() -> None:
    gate = asyncio.Event()
    a, b = place("a", gate, {"text": "a"}), place("b", {"text": "b"})
    failover, route = hedged(a)
    route.fallbacks = [b]
    asyncio.get_running_loop().call_later(0.05, gate.set)

    assert await failover.run(route, ChatRequest.of(BODY), CallContext()) == {"text": "a"}


async def test_who_is_outrun_seems_slower() -> None:
    a, b = place("a", asyncio.Event()), place("b", {"text": "b"})
    await ask(a, b, after=0.05)

    now = time.monotonic()
    assert a.health.whole.expected_s(0.01, now) > 2 * b.health.whole.expected_s(0.01, now)
    assert a.health.failures == 0


def test_at_most_a_share_is_asked_twice() -> None:
    hedging = Hedging(HedgeConfig(after=1.0, budget=0.05), clock=lambda: 0.0)
    taken = 0
    for _ in range(1000):
        hedging.pay_in()
        taken += hedging.take()

    assert taken == 51


def test_p95_is_known_after_twenty_answers() -> None:
    hedging = Hedging(HedgeConfig())
    for number in range(19):
        hedging.note(float(number))
    assert hedging.after_s is None

    for number in range(19, 200):
        hedging.note(float(number))

    assert hedging.after_s == 194.0
