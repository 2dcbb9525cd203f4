"""Groups under long faults (G of the fault matrix): all down, one flapping, one poisoned, one alone."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.bed import ADMIN_KEY, Answer
from tests.serving.clients import wait_until
from tests.support import Action, Reset, Script, Seen, WaitFor, completion, error, json_reply, sse, text_chunks
from tests.support.running_time import RunningTime

from .bed import FEW, FaultBed, running_faults


@pytest.fixture(scope="module")
def thrifty() -> Iterator[FaultBed]:
    """A gateway of its own, for long faults and crowds."""
    with running_faults(FEW, alone_s=20.0) as running:
        yield running


@pytest.mark.parametrize("script", [error(500), [Reset()], error(503)], ids=["500", "reset", "503"])
def test_g01_a_total_outage_is_not_made_worse(thrifty: FaultBed, script: Script, stream: bool) -> None:
    model, calls = thrifty.model("three"), 200
    for upstream in thrifty.upstreams.values():
        upstream.on(model, script)

    with RunningTime() as took:
        answers = [thrifty.ask(model, stream=stream) for _ in range(calls)]

    assert {answer.status for answer in answers} <= {502, 503}
    assert took.seconds / calls < 0.1
    asked = thrifty.asked(model)
    assert sum(asked.values()) <= 1.2 * calls
    assert len(asked) == 3, "none is left out for good"


def test_g01_g03_an_outage_that_ends_is_over_within_five_seconds(thrifty: FaultBed) -> None:
    model = thrifty.model("three")
    for upstream in thrifty.upstreams.values():
        upstream.on(model, error(500))
    for _ in range(20):
        thrifty.ask(model)
    for upstream in thrifty.upstreams.values():
        upstream.on(model, json_reply(completion("well")))

    with ThreadPoolExecutor(30) as crowd:
        with RunningTime() as took:
            while thrifty.ask(model).status != 200:
                assert took.seconds < 5
        statuses = Counter(answer.status for answer in crowd.map(lambda _: thrifty.ask(model), range(200)))

    assert statuses == {200: 200}


def states(bed: FaultBed, model: str) -> dict[str, str]:
    """The state of each deployment of a group, by the name of its adapter."""
    candidates = bed.get(f"/admin/routes/{model}", key=ADMIN_KEY).json["tables"][0]["candidates"]
    return {each["deployment"].partition("/")[0]: each["state"] for each in candidates}


def well(stream: bool, *before: Action) -> Script:
    """A good answer, after what is to come before it."""
    return [*before, *(sse(*text_chunks("well")) if stream else json_reply(completion("well")))]


def fail_until_open(bed: FaultBed, model: str, names: str) -> None:
    """Let these upstreams fail until their circuits are open."""
    for name in names:
        bed.upstreams[name].on(model, error(500))
    while any(states(bed, model)[name] != "open" for name in names):
        bed.ask(model)


CROWD = 500


def test_g03_each_that_comes_back_gets_one_probe_of_a_crowd_and_then_a_ramp(thrifty: FaultBed, stream: bool) -> None:
    model, gate = thrifty.model("even"), threading.Event()
    fail_until_open(thrifty, model, "bc")
    for upstream, first in ((thrifty.a, []), (thrifty.b, [WaitFor(gate)]), (thrifty.c, [WaitFor(gate)])):
        upstream.on(model, well(stream, *first))
    rested = {"a": "closed", "b": "half-open", "c": "half-open"}
    wait_until(lambda: states(thrifty, model) == rested, "the end of a cooldown of about five seconds")
    failed, before = thrifty.asked(model), len(thrifty.a.requests)

    with thrifty.crowd(model, CROWD, stream=stream) as waiting:
        thrifty.a.wait_for(before + CROWD - 2, 20)
        probed = thrifty.asked(model)
        gate.set()
        statuses = Counter(client.read_response().status for client in waiting)
    assert {name: probed[name] - failed[name] for name in "abc"} == {"a": CROWD - 2, "b": 1, "c": 1}
    assert statuses == {200: CROWD}
    assert states(thrifty, model) == {"a": "closed", "b": "ramping", "c": "ramping"}

    with thrifty.crowd(model, CROWD, stream=stream) as waiting:
        statuses = Counter(client.read_response().status for client in waiting)
    assert statuses == {200: CROWD}
    ramped = thrifty.asked(model)
    assert 0 < ramped["b"] + ramped["c"] - probed["b"] - probed["c"] < CROWD / 2


@pytest.mark.parametrize("kind", ["even", "spread"], ids=["weighted", "adaptive"])
def test_g03_all_that_come_back_at_once_share_the_crowd(thrifty: FaultBed, kind: str, stream: bool) -> None:
    model, gate = thrifty.model(kind), threading.Event()
    fail_until_open(thrifty, model, "abc")
    before = thrifty.asked(model)
    for upstream in thrifty.upstreams.values():
        upstream.on(model, well(stream))

    assert [thrifty.ask(model, stream=stream).status for _ in range(3)] == [200] * 3
    assert states(thrifty, model) == dict.fromkeys("abc", "ramping"), "who is back first does not carry all alone"
    for upstream in thrifty.upstreams.values():
        upstream.on(model, well(stream, WaitFor(gate)))
    arrived = thrifty.arrived
    with thrifty.crowd(model, CROWD, stream=stream) as waiting:
        wait_until(lambda: thrifty.arrived == arrived + CROWD, "all of the crowd")
        gate.set()
        statuses = Counter(client.read_response().status for client in waiting)

    assert statuses == {200: CROWD}
    shares = {name: count - before[name] for name, count in thrifty.asked(model).items()}
    assert sum(shares.values()) == CROWD + 3, "one call for each request"
    assert max(shares.values()) <= 0.45 * CROWD


def test_one_that_dies_with_50_requests_in_flight_takes_none_with_it(thrifty: FaultBed, stream: bool) -> None:
    model, gate, dying = thrifty.model("three"), threading.Event(), 50
    with ThreadPoolExecutor(20) as crowd:
        list(crowd.map(thrifty.ask, [model] * 1000))
    before = len(thrifty.a.requests)
    thrifty.a.on(model, [WaitFor(gate), Reset()])
    with thrifty.crowd(model, dying, stream=stream) as waiting:
        thrifty.a.wait_for(before + dying)
        gate.set()
        statuses = Counter(client.read_response().status for client in waiting)

    assert statuses == {200: dying}


def test_g02_one_of_three_that_flaps_is_not_noticed(thrifty: FaultBed) -> None:
    model, began = thrifty.model("spread"), time.monotonic()

    def flapping(seen: Seen) -> Script:
        return [Reset()] if int(time.monotonic() - began) % 2 else json_reply(completion("well"))

    thrifty.a.on(model, flapping)

    def one(number: int) -> Answer:
        time.sleep(max(0.0, began + number / 100 - time.monotonic()))  # a hundred a second: the rate is the test
        return thrifty.ask(model)

    with ThreadPoolExecutor(20) as crowd:
        statuses = Counter(answer.status for answer in crowd.map(one, range(800)))

    assert statuses == {200: 800}
    assert thrifty.asked(model)["a"] > 1


def test_g04_a_poisoned_request_is_its_senders_alone(faults: FaultBed, stream: bool) -> None:
    model = faults.model("three")

    def answer(seen: Seen) -> Script:
        if "poison" in str(seen.json["messages"]):
            return error(400)
        return sse(*text_chunks("well")) if stream else json_reply(completion("well"))

    faults.a.on(model, answer)
    for _ in range(10):
        assert faults.ask(model, stream=stream, messages=[{"role": "user", "content": "poison"}]).status == 400
        assert faults.ask(model, stream=stream).status == 200

    assert faults.asked(model) == {"a": 20}, "no deployment was blamed, and nobody else was asked"


def test_g05_the_only_deployment_is_used_though_it_fails_often(faults: FaultBed, stream: bool) -> None:
    model, lock, count = faults.model("only"), threading.Lock(), iter(range(10**6))

    def mostly_failing(seen: Seen) -> Script:
        with lock:
            number = next(count)
        if number % 5 < 3:
            return error(500)
        return sse(*text_chunks("well")) if stream else json_reply(completion("well"))

    faults.a.on(model, mostly_failing)

    statuses = Counter(faults.ask(model, stream=stream).status for _ in range(50))

    assert statuses == {200: 20, 502: 30}
