"""The attempt loop: whom it asks, in which order, when it stops, and that its books always balance."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from string import ascii_lowercase
from typing import Any

import pytest

from one_api.contract import Answer, ChunkStream, ModelInfo
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import (
    GatewayError,
    InvalidRequest,
    NoDeployment,
    UpstreamBroken,
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
    UpstreamUnsuitable,
)
from one_api.records import CallContext, CallRecord
from one_api.routing.deployment import Deployment
from one_api.routing.failover import Failover
from one_api.routing.retries import wait_before_again
from one_api.routing.retry_limit import RetryLimit
from one_api.routing.route import Policy, Route
from one_api.settings.sections import HoldBackConfig
from tests.utils.fake_adapter import END, ROLE, FakeAdapter, FakeStream, Scripted, say

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = BODY | {"stream": True}
FAR = float("inf")

Make = Callable[..., Deployment]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes deployments named a, b, c and so on; at the end nothing may be in flight on any of them."""
    made: list[Deployment] = []

    def make_deployment(*answers: Scripted, **settings: Any) -> Deployment:
        made.append(Deployment(ascii_lowercase[len(made)], FakeAdapter(*answers), "m", **settings))
        return made[-1]

    yield make_deployment
    assert [each.health.in_flight for each in made] == [0] * len(made)


@pytest.fixture
def failover() -> Failover:
    return Failover(retries=RetryLimit(1.0), rng=random.Random(0))


def adapter(deployment: Deployment) -> FakeAdapter:
    """The fake behind a deployment."""
    assert isinstance(deployment.adapter, FakeAdapter)
    return deployment.adapter


def asked(*deployments: Deployment) -> list[int]:
    """How often each was asked."""
    return [len(adapter(each).calls) for each in deployments]


def in_turn(targets: list[Deployment], fallbacks: list[Deployment] | None = None, model: str = "m") -> Route:
    """A route whose targets are asked in turn while none of them is busy; none is preferred to the others."""
    return Route(model, targets, fallbacks or [], "least_busy")


async def ask(failover: Failover, route: Route, body: dict[str, Any] = BODY) -> Answer:
    """The answer to a request."""
    return await failover.run(route, ChatRequest.of(body), CallContext())


async def failure(
    failover: Failover, route: Route, body: dict[str, Any] = BODY, record: CallRecord | None = None
) -> GatewayError:
    """The error that a request ends with."""
    with pytest.raises(GatewayError) as caught:
        await failover.run(route, ChatRequest.of(body), CallContext(record) if record else CallContext())
    return caught.value


# Whom it asks


async def test_the_first_answer_is_the_answer(make: Make, failover: Failover) -> None:
    a, b = make({"text": "from a"}), make()

    assert await ask(failover, in_turn([a, b])) == {"text": "from a"}
    assert asked(a, b) == [1, 0]


async def test_the_upstreams_name_of_the_model_is_sent_with_all_the_rest(make: Make, failover: Failover) -> None:
    a = make()

    await ask(failover, in_turn([a], model="alias"), BODY | {"model": "alias", "temperature": 0.5, "odd": [1]})

    (call,) = adapter(a).calls
    assert (call["model"], call["temperature"], call["odd"], call["messages"]) == ("m", 0.5, [1], BODY["messages"])


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnreachable("x"), UpstreamFailed("x"), UpstreamTimeout("x"), UpstreamBroken("x"),
        UpstreamOverloaded("x"), UpstreamRateLimited("x"), UpstreamMisconfigured("x"),
    ],
)  # fmt: skip
async def test_after_a_failure_the_next_is_asked(make: Make, failover: Failover, error: UpstreamError) -> None:
    a, b = make(error), make({"text": "from b"})

    assert await ask(failover, in_turn([a, b])) == {"text": "from b"}
    assert asked(a, b) == [1, 1]


@pytest.mark.parametrize("error", [UpstreamRejected("x"), InvalidRequest("x")])
async def test_after_a_refusal_nobody_else_is_asked(make: Make, failover: Failover, error: GatewayError) -> None:
    a, b = make(error), make()

    assert await failure(failover, in_turn([a, b])) is error
    assert asked(a, b) == [1, 0]
    assert a.health.failures == 0


async def test_one_that_cannot_express_a_request_does_not_hide_a_failure(make: Make, failover: Failover) -> None:
    a, b, c = make(UpstreamFailed("down")), make(InvalidRequest("not here")), make({"text": "from c"})

    assert await ask(failover, in_turn([a, b, c])) == {"text": "from c"}
    assert (await failure(failover, in_turn([a, b]))).message == "down"
    assert b.health.failures == 0


async def test_targets_come_before_fallbacks_and_each_is_asked_once(make: Make) -> None:
    deployments = [make(UpstreamFailed(name)) for name in "abcd"]
    failover = Failover(max_attempts=9, retries=RetryLimit(1.0))
    record = CallRecord("id", "POST", "/")

    error = await failure(failover, in_turn(deployments[:2], deployments[2:]), record=record)

    assert [attempt.deployment for attempt in record.attempts] == ["a/m", "b/m", "c/m", "d/m"]
    assert error.message == "d"


@pytest.mark.parametrize("strategy", ["weighted", "round_robin", "least_busy"])
async def test_one_that_has_failed_is_not_asked_again_for_the_same_request(make: Make, strategy: str) -> None:
    deployments = [make(UpstreamFailed("x")) for _ in range(4)]

    await failure(Failover(max_attempts=9, retries=RetryLimit(1.0)), Route("m", deployments, [], strategy))

    assert asked(*deployments) == [1, 1, 1, 1]


async def test_fallbacks_are_asked_in_their_order(make: Make, failover: Failover) -> None:
    a = make(UpstreamFailed("x"), weight=1.0)
    b, c = make({"text": "from b"}, weight=0.001), make({"text": "from c"}, weight=1000.0)

    for _ in range(5):
        assert await ask(failover, Route("m", [a], [b, c], "weighted")) == {"text": "from b"}


async def test_one_that_rests_is_passed_over(make: Make, failover: Failover) -> None:
    a, b = make(), make({"text": "from b"})
    a.health.cooling_until = FAR

    assert await ask(failover, in_turn([a, b])) == {"text": "from b"}
    assert asked(a) == [0]


async def test_a_fallback_that_is_well_comes_before_a_target_that_rests(make: Make, failover: Failover) -> None:
    a, b = make(), make({"text": "from b"})
    a.health.cooling_until = FAR

    assert await ask(failover, in_turn([a], [b])) == {"text": "from b"}
    assert asked(a) == [0]


async def test_a_fallback_that_is_well_comes_before_the_second_target_that_rests(
    make: Make, failover: Failover
) -> None:
    a, b, c = make(UpstreamFailed("x")), make(), make({"text": "from c"})
    b.health.cooling_until = FAR

    assert await ask(failover, in_turn([a, b], [c])) == {"text": "from c"}
    assert asked(b) == [0]


async def test_when_all_rest_the_one_whose_rest_ends_first_is_asked(make: Make, failover: Failover) -> None:
    a, b = make({"text": "from a"}), make({"text": "from b"})
    a.health.cooling_until, b.health.cooling_until = FAR, 1e300

    assert await ask(failover, in_turn([a], [b])) == {"text": "from b"}


async def test_one_that_is_full_is_passed_over(make: Make, failover: Failover) -> None:
    a, b = make([say("1")], max_concurrency=1), make({"text": "from b"})
    stream = await ask(failover, in_turn([a]), STREAM)
    assert isinstance(stream, ChunkStream)

    async with stream:
        assert await ask(failover, in_turn([a, b])) == {"text": "from b"}
        assert isinstance(await failure(failover, in_turn([a])), NoDeployment)


async def test_when_all_are_full_it_says_when_to_come_back(make: Make, failover: Failover) -> None:
    full = make(max_concurrency=0)

    error = await failure(failover, in_turn([full]))

    assert (error.status, error.code, error.retry_after_s) == (503, "no_backend_available", 1)
    assert asked(full) == [0]


# When it stops


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_there_is_a_limit_to_attempts(make: Make, most: int) -> None:
    deployments = [make(UpstreamFailed("x")) for _ in range(5)]

    await failure(Failover(max_attempts=most, retries=RetryLimit(1.0)), in_turn(deployments))

    assert sum(asked(*deployments)) == most


async def test_without_a_budget_and_a_minimum_nothing_is_retried(make: Make) -> None:
    a, b = make(UpstreamFailed("x")), make()

    await failure(Failover(retries=RetryLimit(0.0, 0)), in_turn([a, b]))

    assert asked(a, b) == [1, 0]


async def test_no_retry_goes_to_one_that_is_not_well(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x")), make()
    b.health.cooling_until = FAR

    await failure(failover, in_turn([a, b]))

    assert asked(a, b) == [1, 0]


class Hasty(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s = 0.0

    def time(self) -> float:
        """The time, ahead of the real one."""
        return super().time() + self._ahead_s

    def jump(self, seconds: float) -> None:
        """Put the clock forward."""
        self._ahead_s += seconds


#: Of the loop, in which all ends that a deadline ends: it looks several times at what has arrived before.
_TURNS = 20


async def waits(failover: Failover, route: Route, body: dict[str, Any], seconds: int) -> Any:
    """What a request ends with that is cancelled after so many seconds of a hasty loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Hasty)
    task = asyncio.create_task(ask(failover, route, body))
    await adapter(route.targets[0]).asked.wait()
    for _ in range(seconds):
        loop.jump(1)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    task.cancel()
    found = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(found, ChunkStream):
        await found.aclose()
    return found


@pytest.mark.parametrize(
    ("body", "first_event_s", "seconds", "moves_on"),
    [
        (STREAM, None, 29, False), (STREAM, None, 31, True), (STREAM, 60.0, 59, False), (BODY, None, 59, False)
    ],
)  # fmt: skip
def test_a_first_event_may_take_30_seconds_while_another_is_left(
    make: Make, body: dict[str, Any], first_event_s: float | None, seconds: int, moves_on: bool
) -> None:
    a, b = make(asyncio.Event(), first_event_s=first_event_s), make([say("from b")])

    with asyncio.Runner(loop_factory=Hasty) as runner:
        answer = runner.run(waits(Failover(), in_turn([a, b]), body, seconds))

    assert isinstance(answer, ChunkStream) is moves_on
    assert asked(a, b) == [1, int(moves_on)]


def test_the_last_candidate_has_all_the_time(make: Make) -> None:
    a = make(asyncio.Event())

    with asyncio.Runner(loop_factory=Hasty) as runner:
        answer = runner.run(waits(Failover(), in_turn([a]), STREAM, 300))

    assert isinstance(answer, asyncio.CancelledError)


def test_all_attempts_together_have_a_deadline(make: Make) -> None:
    a, b = make(asyncio.Event()), make()
    failover = Failover(deadline_s=100)

    with asyncio.Runner(loop_factory=Hasty) as runner:
        error = runner.run(waits(failover, Route("m", [a], [b], "least_busy", Policy(first_event_s=200)), STREAM, 101))

    assert isinstance(error, UpstreamTimeout)
    assert (asked(b), failover.retries.in_flight, failover.retries.retrying) == ([0], 0, 0)


def test_who_was_silent_for_all_the_time_that_a_request_has_is_to_blame(make: Make) -> None:
    a = make(asyncio.Event())

    with asyncio.Runner(loop_factory=Hasty) as runner:
        error = runner.run(waits(Failover(deadline_s=100), in_turn([a]), BODY, 101))

    assert isinstance(error, UpstreamTimeout)
    assert a.health.failures == 1


def test_who_was_asked_late_in_the_time_that_a_request_has_is_not(make: Make) -> None:
    a, b = make(asyncio.Event()), make(asyncio.Event())
    route = Route("m", [a, b], [], "least_busy", Policy(total_s=60))

    with asyncio.Runner(loop_factory=Hasty) as runner:
        error = runner.run(waits(Failover(deadline_s=100), route, BODY, 101))

    assert isinstance(error, UpstreamTimeout)
    assert (asked(a, b), [a.health.failures, b.health.failures]) == ([1, 1], [1, 0])


def test_with_no_retry_left_the_last_one_has_all_the_time(make: Make) -> None:
    a, b = make(asyncio.Event()), make()
    failover = Failover(retries=RetryLimit(0.0, 0))

    with asyncio.Runner(loop_factory=Hasty) as runner:
        answer = runner.run(waits(failover, in_turn([a, b]), STREAM, 300))

    assert isinstance(answer, asyncio.CancelledError)


async def test_one_takes_over_from_a_silent_deployment_and_not_two(make: Make, failover: Failover) -> None:
    a, b, c = make(UpstreamTimeout("a")), make(UpstreamTimeout("b")), make()

    assert (await failure(failover, in_turn([a, b, c]))).message == "b"
    assert asked(a, b, c) == [1, 1, 0]


async def test_a_connection_that_is_not_made_is_no_retry_for_the_limit(make: Make) -> None:
    failover = Failover(retries=RetryLimit(0.0, 0))
    a, b = make(UpstreamUnreachable("x")), make({"text": "from b"})

    for _ in range(10):
        assert await ask(failover, in_turn([a, b])) == {"text": "from b"}


# The limit to retries


@pytest.mark.parametrize("pace", ["one after the other", "all at once"])
async def test_a_client_with_a_dead_provider_is_served_elsewhere_every_time(make: Make, pace: str) -> None:
    dead = [make(UpstreamFailed("down")) for _ in range(20)]
    healthy, failover = make({"text": "well"}), Failover()
    requests = [ask(failover, in_turn([each], [healthy])) for each in dead]

    answers = await asyncio.gather(*requests) if pace == "all at once" else [await each for each in requests]

    assert answers == [{"text": "well"}] * 20
    assert (failover.retries.in_flight, failover.retries.retrying) == (0, 0)


class Crowded(FakeAdapter):
    """Answers after a few turns of the loop, and counts how many wait at a time."""

    inside = most = 0

    async def generate_completion(self, /, *args: Any, **kwargs: Any) -> Any:
        """See ``BaseModelAdapter``."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(5):
            await asyncio.sleep(0)
        self.inside -= 1
        return {"text": "well"}


@pytest.mark.parametrize(("budget", "most"), [(0.2, 10), (0.0, 3), (1.0, 50)])
async def test_those_that_die_together_are_all_served_a_few_at_a_time(make: Make, budget: float, most: int) -> None:
    gate, crowded = asyncio.Event(), Crowded()
    dying = [Deployment(str(number), FakeAdapter(gate, UpstreamFailed("died")), "m") for number in range(50)]
    failover, other = Failover(retries=RetryLimit(budget)), Deployment("other", crowded, "m")
    tasks = [asyncio.create_task(ask(failover, in_turn([each, other]))) for each in dying]
    for each in dying:
        await adapter(each).asked.wait()

    gate.set()
    answers = await asyncio.gather(*tasks)

    assert answers == [{"text": "well"}] * 50
    assert crowded.most <= most


@pytest.mark.parametrize("strategy", ["ordered", "adaptive", "weighted"])
async def test_a_total_outage_is_not_made_worse(make: Make, strategy: str) -> None:
    deployments = [make(UpstreamFailed("x")) for _ in range(3)]
    route, failover = Route("m", deployments[:2], deployments[2:], strategy), Failover(rng=random.Random(1))

    for _ in range(10):
        tasks = [ask(failover, route) for _ in range(20)]
        await asyncio.gather(*tasks, return_exceptions=True)

    assert sum(asked(*deployments)) <= 1.2 * 200


async def test_a_retry_is_over_with_the_first_content(make: Make) -> None:
    a, b = make(UpstreamFailed("x")), make([say("1"), say("2")])
    failover = Failover(retries=RetryLimit(0.0, 1))

    stream = await ask(failover, in_turn([a, b]), STREAM)

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert (failover.retries.in_flight, failover.retries.retrying) == (1, 0)
    assert failover.retries.in_flight == 0


@pytest.mark.parametrize(("in_flight", "expected"), [(0, 3), (10, 3), (19, 3), (20, 4), (100, 20)])
def test_a_share_of_those_in_flight_may_retry_and_a_few_always(in_flight: int, expected: int) -> None:
    limit = RetryLimit(0.2, 3)
    for _ in range(in_flight):
        limit.begin()

    assert sum(limit.enter() for _ in range(200)) == expected


async def test_those_that_find_no_room_wait_in_turn() -> None:
    limit, order = RetryLimit(0.0, 1), []
    assert limit.enter()

    async def one(number: int) -> None:
        assert await limit.wait(60)
        order.append(number)
        limit.leave()

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == []
    limit.leave()
    await asyncio.gather(*tasks)

    assert (order, limit.retrying, limit.has_room) == ([0, 1, 2, 3, 4], 0, True)


@pytest.mark.parametrize("granted", [False, True])
async def test_one_that_leaves_while_it_waits_takes_nobodys_turn(granted: bool) -> None:
    limit = RetryLimit(0.0, 1)
    limit.enter()
    waiting = asyncio.create_task(limit.wait(60))
    await asyncio.sleep(0)

    if granted:
        limit.leave()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert (limit.retrying, limit.has_room) == ((0, True) if granted else (1, False))


async def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    limit = RetryLimit(0.0, 1)
    limit.enter()

    assert not await limit.wait(0.01)
    limit.leave()
    assert limit.has_room


# Probes


def has_been_out(deployment: Deployment) -> None:
    """Let its circuit have opened a minute ago: the next attempt there is its probe."""
    for _ in range(3):
        deployment.health.circuit.failed(time.monotonic() - 60)


@pytest.mark.parametrize(("most", "probed"), [(2, 0), (3, 1)])
async def test_the_last_attempt_is_no_probe_while_another_is_healthy(make: Make, most: int, probed: int) -> None:
    gate = asyncio.Event()
    a, out, healthy = make(gate, UpstreamFailed("x")), make(UpstreamFailed("still out")), make({"text": "well"})
    asking = asyncio.create_task(ask(Failover(max_attempts=most), in_turn([a, out], [healthy])))
    await adapter(a).asked.wait()

    has_been_out(out)
    gate.set()

    assert await asking == {"text": "well"}
    assert asked(out) == [probed]


async def test_there_is_no_probe_while_its_failure_would_have_to_wait(make: Make) -> None:
    out, healthy = make({"text": "back"}), make({"text": "well"})
    failover = Failover(retries=RetryLimit(0.0, 1))
    has_been_out(out)

    failover.retries.enter()
    busy = await ask(failover, in_turn([out, healthy]))
    failover.retries.leave()

    assert (busy, await ask(failover, in_turn([out, healthy]))) == (
        {"text": "well"},
        {"text": "back"},
    )


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_one_that_is_back_is_probed_however_few_attempts_there_are(make: Make, most: int) -> None:
    back, healthy = make({"text": "back"}), make({"text": "well"})
    has_been_out(back)

    answer = await ask(Failover(max_attempts=most), in_turn([healthy, back]))

    assert answer == {"text": "back"}


# What one deployment cannot do


UNSUITABLE = UpstreamUnsuitable("no endpoint supports tools")


async def test_a_request_that_one_cannot_serve_goes_elsewhere_and_the_one_does_not_rest(make: Make) -> None:
    a, b = make(UNSUITABLE), make({"text": "from b"})
    failover = Failover()

    for _ in range(5):
        assert await ask(failover, Route("m", [a], [b], "ordered")) == {"text": "from b"}

    assert (asked(a, b), a.health.failures, a.health.cooling_until) == ([5, 5], 0, 0)


async def test_what_one_cannot_do_does_not_hide_a_failure(make: Make, failover: Failover) -> None:
    a, b, c = make(UpstreamFailed("down")), make(UNSUITABLE), make(UNSUITABLE)

    assert (await failure(failover, in_turn([a, b, c]))).message == "down"
    assert await failure(failover, in_turn([b, c])) is UNSUITABLE


# The first in order once more


@pytest.mark.parametrize(
    ("error", "least_s"),
    [
        (UpstreamFailed("x"), 0.05), (UpstreamOverloaded("x"), 0.05), (UpstreamTruncated("x"), 0.05),
        (UpstreamRateLimited("x", retry_after_s=2), 2), (UpstreamOverloaded("x", retry_after_s=1), 1),
    ],
)  # fmt: skip
def test_the_first_of_several_in_order_is_asked_once_more(make: Make, error: UpstreamError, least_s: float) -> None:
    a, b = make(error, {"text": "from a"}), make({"text": "from b"})
    with asyncio.Runner(loop_factory=Hasty) as runner:
        answer, took_s = runner.run(hastily(Failover(), Route("m", [a, b], [], "ordered"), BODY))

    assert (answer, asked(a, b)) == ({"text": "from a"}, [2, 0])
    assert least_s <= took_s < least_s + 0.5


async def hastily(failover: Failover, route: Route, body: dict[str, Any]) -> tuple[Any, float]:
    """The answer, and how much time of a hasty loop passes before it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Hasty)
    began = loop.time()
    task = asyncio.create_task(ask(failover, route, body))
    while not task.done():
        loop.jump(0.01)
        await asyncio.sleep(0)
    return task.result(), loop.time() - began


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRateLimited("x", retry_after_s=3), UpstreamRateLimited("x"), UpstreamUnreachable("x"),
        UpstreamTimeout("x"), UpstreamBroken("x"), UpstreamMisconfigured("x"), UNSUITABLE,
    ],
)  # fmt: skip
async def test_the_first_in_order_is_left_for_the_next_at_once(make: Make, error: UpstreamError) -> None:
    a, b = make(error), make({"text": "from b"})

    assert await ask(Failover(), Route("m", [a, b], [], "ordered")) == {"text": "from b"}
    assert asked(a, b) == [1, 1]


@pytest.mark.parametrize("strategy", ["adaptive", "weighted", "round_robin", "least_busy"])
async def test_without_an_order_another_is_asked_at_once(make: Make, strategy: str) -> None:
    limited, *others = (
        make(UpstreamRateLimited("x", retry_after_s=1)),
        make({"text": "at once"}),
        make({"text": "at once"}),
    )
    deployments = [limited, *others]

    answers = [await ask(Failover(), Route("m", deployments, [], strategy)) for _ in range(10)]

    assert answers == [{"text": "at once"}] * 10


async def test_after_the_second_failure_in_a_row_it_goes_down_the_order(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x")), make({"text": "from b"})

    assert await ask(failover, Route("m", [a, b], [], "ordered")) == {"text": "from b"}
    assert asked(a, b) == [2, 1]


async def test_one_whose_circuit_is_open_is_not_asked_again(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x")), make({"text": "from b"})
    a.health.failed(UpstreamFailed("x"), time.monotonic())
    a.health.failed(UpstreamFailed("x"), time.monotonic())

    await ask(failover, Route("m", [a, b], [], "ordered"))

    assert asked(a, b) == [1, 1]


# The same once more, before another model


def patience(error: UpstreamError) -> float | None:
    """How long is waited before the same deployment is asked again."""
    return wait_before_again(error, 5.0, random.Random(0))


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (UpstreamFailed("x"), 0.05, 0.2), (UpstreamOverloaded("x"), 0.05, 0.2),
        (UpstreamTruncated("x"), 0.05, 0.2),
        (UpstreamOverloaded("x", retry_after_s=2), 2, 2), (UpstreamRateLimited("x", retry_after_s=5), 5, 5),
    ],
)  # fmt: skip
def test_the_only_target_is_asked_again_after_a_wait(error: UpstreamError, least: float, most: float) -> None:
    wait_s = patience(error)

    assert wait_s is not None
    assert least <= wait_s <= most


@pytest.mark.parametrize(
    "error",
    [
        UpstreamTimeout("x"), UpstreamUnreachable("x"), UpstreamBroken("x"), UpstreamMisconfigured("x"),
        UpstreamExhausted("x", retry_after_s=1), UpstreamRateLimited("x"), UpstreamRateLimited("x", retry_after_s=6),
        UpstreamRedirected("x"),
    ],
)  # fmt: skip
def test_the_only_target_is_not_asked_again(error: UpstreamError) -> None:
    assert patience(error) is None


async def test_before_a_fallback_the_only_target_is_asked_once_more(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x"), {"text": "from a"}), make()

    assert await ask(failover, in_turn([a], [b])) == {"text": "from a"}
    assert asked(a, b) == [2, 0]


async def test_the_fallback_answers_when_that_fails_too(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x")), make({"text": "from b"})

    assert await ask(failover, in_turn([a], [b])) == {"text": "from b"}
    assert asked(a, b) == [2, 1]


async def test_the_last_attempt_goes_to_the_fallback(make: Make) -> None:
    a, b = make(UpstreamFailed("x")), make({"text": "from b"})

    answer = await ask(Failover(max_attempts=2), in_turn([a], [b]))

    assert (answer, asked(a, b)) == ({"text": "from b"}, [1, 1])


async def test_without_a_fallback_or_with_two_targets_nobody_is_asked_again(make: Make, failover: Failover) -> None:
    a, b, c, d = (make(UpstreamFailed("x")) for _ in range(4))

    await failure(failover, in_turn([a]))
    await failure(failover, in_turn([b, c], [d]))

    assert asked(a, b, c, d) == [1, 1, 1, 1]


# Requests that are too long


def sized(make: Make, window: int | None, answer: Scripted) -> Deployment:
    """A deployment whose model has a context of so many tokens."""
    made = make(answer)
    adapter(made).models = [ModelInfo("m", "fake", context_window=window)]
    return made


OVERFLOW = UpstreamRejected("too long", code="context_length_exceeded")


@pytest.mark.parametrize(("windows", "answers"), [((4, 4, 8), "c"), ((4, None, 8), "b"), ((None, 4, 8), "b")])
async def test_a_context_that_is_too_small_leads_to_a_larger_one(
    make: Make, failover: Failover, windows: tuple[int | None, ...], answers: str
) -> None:
    a, other = sized(make, windows[0], OVERFLOW), sized(make, windows[0], {"model": "same"})
    b, c = sized(make, windows[1], {"model": "b"}), sized(make, windows[2], {"model": "c"})

    assert await ask(failover, in_turn([a, other], [b, c])) == {"model": answers}
    assert asked(other) == [0], "the same model has the same context"
    assert a.health.failures == 0


async def test_the_way_to_a_larger_context_is_no_retry(make: Make) -> None:
    a, b = sized(make, 4, OVERFLOW), sized(make, 8, {"model": "b"})
    failover = Failover(retries=RetryLimit(0.0, 0))

    assert [await ask(failover, in_turn([a], [b])) for _ in range(20)] == [{"model": "b"}] * 20


async def test_a_refusal_by_the_larger_one_is_final(make: Make, failover: Failover) -> None:
    a, b, c = sized(make, 4, OVERFLOW), sized(make, 8, UpstreamRejected("no")), sized(make, 8, {"model": "c"})

    await failure(failover, in_turn([a], [b, c]))

    assert asked(a, b, c) == [1, 1, 0]


async def test_a_context_that_is_too_small_is_told_when_no_larger_one_answers(make: Make, failover: Failover) -> None:
    a, b = sized(make, 4, OVERFLOW), sized(make, 8, UpstreamFailed("down"))

    assert await failure(failover, in_turn([a], [b])) is OVERFLOW


# The first content


@pytest.mark.parametrize("silent", [[ROLE], [ROLE, ROLE]])
async def test_a_stream_that_dies_before_its_content_is_replaced(
    make: Make, failover: Failover, silent: list[Any]
) -> None:
    a, b = make([*silent, UpstreamBroken("cut")]), make([ROLE, say("from b"), END])

    stream = await ask(failover, in_turn([a, b]), STREAM)

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert [chunk async for chunk in stream] == [ROLE, say("from b"), END]
    assert adapter(a).streams[0].closed == 1
    assert a.health.failures == 1


async def test_a_stream_that_dies_while_it_is_held_back_is_replaced(make: Make, failover: Failover) -> None:
    a, b = make([say("1"), say("2"), UpstreamBroken("cut")]), make([say("from b"), END])
    policy = Policy(hold_back=HoldBackConfig(ms=60_000, tokens=3))

    stream = await ask(failover, Route("m", [a, b], [], "least_busy", policy), STREAM)

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert [chunk async for chunk in stream] == [say("from b"), END]


@pytest.mark.parametrize("hold", [HoldBackConfig(ms=60_000, tokens=2), HoldBackConfig(ms=1, tokens=99)], ids=str)
async def test_holding_back_ends_with_its_time_or_its_tokens(
    make: Make, failover: Failover, hold: HoldBackConfig
) -> None:
    a = make([say("1"), say("2"), asyncio.Event()])

    stream = await failover.run(
        Route("m", [a], [], "least_busy", Policy(hold_back=hold)), ChatRequest.of(STREAM), CallContext()
    )

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert (await stream.read())[:2] == [say("1"), say("2")]


async def test_what_is_held_back_has_its_own_time(make: Make, failover: Failover) -> None:
    a, b = make([say("1"), asyncio.Event()]), make()
    policy = Policy(first_event_s=0.05, hold_back=HoldBackConfig(ms=200, tokens=9))

    stream = await ask(failover, Route("m", [a, b], [], "least_busy", policy), STREAM)

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert await stream.read() == [say("1")]
    assert (asked(a, b), a.health.failures) == ([1, 0], 0)


async def test_a_group_may_have_less_patience_between_events_than_its_adapter(make: Make, failover: Failover) -> None:
    a = make([say("1"), asyncio.Event()])
    stream = await ask(failover, Route("m", [a], policy=Policy(idle_s=0.05)), STREAM)
    assert isinstance(stream, ChunkStream)
    async with stream:
        assert await stream.read() == [say("1")]

        with pytest.raises(UpstreamTimeout, match="next event"):
            await stream.read()

    assert a.health.failures == 1


# The news


async def test_of_several_errors_the_last_is_told(make: Make, failover: Failover) -> None:
    a, b, c = make(UpstreamRateLimited("limit")), make(UpstreamTimeout("late")), make(UpstreamFailed("down"))

    assert (await failure(failover, in_turn([a, b, c]))).message == "down"


@pytest.mark.parametrize(
    ("waits", "expected"),
    [((7, 3, 9), 3), ((None, 3, 9), 3), ((7, None, None), 7), ((None, None, None), None), ((0.2, 3, 9), 0.2)],
)
async def test_of_several_rate_limits_the_shortest_is_told(
    make: Make, failover: Failover, waits: tuple[float | None, ...], expected: float | None
) -> None:
    deployments = [make(UpstreamRateLimited("x", retry_after_s=wait)) for wait in waits]

    error = await failure(failover, in_turn(deployments))

    assert (error.status, error.retry_after_s) == (429, expected)


# The record


async def test_every_attempt_is_recorded(make: Make, failover: Failover) -> None:
    record = CallRecord("id", "POST", "/")
    a, b = make(UpstreamFailed("x")), make()

    await failover.run(in_turn([a, b]), ChatRequest.of(BODY), CallContext(record))

    assert [(each.deployment, each.outcome) for each in record.attempts] == [("a/m", "UpstreamFailed"), ("b/m", "ok")]
    assert record.deployment == "b/m"


async def test_a_failed_request_has_no_deployment(make: Make, failover: Failover) -> None:
    record = CallRecord("id", "POST", "/")

    await failure(failover, in_turn([make(UpstreamFailed("x"))]), record=record)

    assert (record.deployment, len(record.attempts)) == (None, 1)


# Names


@pytest.mark.parametrize(("model", "shown"), [("m", "upstream-name"), ("alias", "alias"), ("a/m", "a/m")])
async def test_an_alias_is_the_name_in_the_answer(make: Make, failover: Failover, model: str, shown: str) -> None:
    a = make({"model": "upstream-name"})

    answer = await ask(failover, in_turn([a], model=model))

    assert answer == {"model": shown}


async def test_a_fallback_answers_under_its_own_name(make: Make, failover: Failover) -> None:
    a, b = make(UpstreamFailed("x")), make({"model": "other"})

    assert await ask(failover, in_turn([a], [b], "alias")) == {"model": "other"}


async def test_an_alias_is_the_name_in_every_chunk(make: Make, failover: Failover) -> None:
    a = make([say("1") | {"model": "x"}, say("2") | {"model": "x"}])

    stream = await ask(failover, in_turn([a], model="alias"), STREAM)

    assert isinstance(stream, ChunkStream)
    async with stream:
        assert [chunk async for chunk in stream] == [
            say("1") | {"model": "alias"},
            say("2") | {"model": "alias"},
        ]


# Streams, and the books


async def opened(failover: Failover, deployment: Deployment) -> ChunkStream:
    """A stream of the deployment."""
    stream = await ask(failover, in_turn([deployment]), STREAM)
    assert isinstance(stream, ChunkStream)
    return stream


async def test_a_stream_is_in_flight_until_its_end(make: Make, failover: Failover) -> None:
    a = make([say("1"), say("2")])
    stream = await opened(failover, a)

    assert await stream.read() == [say("1")]
    assert (a.health.in_flight, stream.ended) == (1, False)
    assert await stream.read() == [say("2")]
    assert (a.health.in_flight, stream.ended, stream.usage is not None) == (0, True, True)
    await stream.aclose()


async def test_a_stream_that_is_closed_early_is_cancelled(make: Make, failover: Failover) -> None:
    a = make([say("1"), say("2")])
    stream = await opened(failover, a)
    await stream.read()

    for _ in range(3):
        await stream.aclose()

    assert (a.health.in_flight, a.health.failures) == (0, 0)
    assert adapter(a).streams[0].closed >= 1


async def test_a_stream_that_is_never_read_is_let_go(make: Make, failover: Failover) -> None:
    a = make([say("1")])

    await (await opened(failover, a)).aclose()

    assert a.health.in_flight == 0
    assert adapter(a).streams[0].closed == 1


async def test_a_stream_that_breaks_counts_against_its_deployment(make: Make, failover: Failover) -> None:
    a, b = make([say("1"), UpstreamBroken("cut")]), make()
    stream = await ask(failover, in_turn([a, b]), STREAM)
    assert isinstance(stream, ChunkStream)

    await stream.read()
    with pytest.raises(UpstreamBroken):
        await stream.read()
    await stream.aclose()

    assert (a.health.in_flight, a.health.failures) == (0, 1)
    assert asked(b) == [0]


async def test_a_close_that_fails_still_settles(make: Make, failover: Failover) -> None:
    class Stubborn(FakeStream):
        async def aclose(self) -> None:
            raise OSError("no")

    a = make([say("1")])
    stream = await opened(failover, a)
    adapter(a).streams[0].__class__ = Stubborn

    with pytest.raises(OSError, match="no"):
        await stream.aclose()

    assert a.health.in_flight == 0


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_a_client_that_leaves_settles_the_attempt(make: Make, failover: Failover, body: dict[str, Any]) -> None:
    record = CallRecord("id", "POST", "/")
    a, b = make(asyncio.Event()), make()
    task = asyncio.create_task(failover.run(in_turn([a, b]), ChatRequest.of(body), CallContext(record)))
    await adapter(a).asked.wait()
    assert a.health.in_flight == 1

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (a.health.in_flight, a.health.failures) == (0, 0)
    assert [each.outcome for each in record.attempts] == ["cancelled"]
    assert asked(b) == [0]


async def test_a_bug_in_an_adapter_is_a_failure_of_its_deployment(make: Make, failover: Failover) -> None:
    a, b = make(ZeroDivisionError("bug")), make({"text": "from b"})

    assert await ask(failover, in_turn([a, b])) == {"text": "from b"}

    assert (a.health.in_flight, asked(a, b)) == (0, [1, 1])


async def test_the_books_balance_after_any_mixture(make: Make) -> None:
    rng, gate = random.Random(5), asyncio.Event()
    failover = Failover(retries=RetryLimit(1.0), rng=rng)
    kinds: list[Scripted] = [
        {"text": "well"}, UpstreamFailed("x"), UpstreamRateLimited("x", retry_after_s=0.01), UpstreamRejected("x"),
        [say("1")], [say("1"), UpstreamBroken("x")], [say("1"), gate, say("2")], ZeroDivisionError("bug"),
    ]  # fmt: skip
    deployments = [make(*rng.choices(kinds, k=200)) for _ in range(4)]

    async def one(cancelled: bool) -> None:
        stream = await ask(failover, Route("m", deployments, [], "least_busy"))
        if isinstance(stream, ChunkStream):
            async with stream:
                await (asyncio.sleep(0) if cancelled else stream.read())
                _ = [chunk async for chunk in stream] if not cancelled else []

    tasks = [asyncio.create_task(one(rng.random() < 0.3)) for _ in range(300)]
    for task in rng.sample(tasks, 60):
        await asyncio.sleep(0)
        task.cancel()
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert len(results) == 300
    assert all(each.health.in_flight == 0 for each in deployments)
    assert all(stream.closed for each in deployments for stream in adapter(each).streams)
