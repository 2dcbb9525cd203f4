"""Single flight across gateways and workers that share a Redis, as clients meet it."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.limits.conftest import OwnRedis, own_redis
from tests.support import (
    Gateway,
    Hang,
    ScriptedUpstream,
    WaitFor,
    completion,
    error,
    freeze,
    json_reply,
    sse,
    text_chunks,
    tokens,
)

from .bed import Bed, Begun, adapter, running_bed, yaml

__all__ = ["own_redis"]

USAGE = tokens(9, 2)
#: How long a trip to Redis may take: longer than a machine stands still, or is busy with a crowd. In seconds.
STORAGE_S = 1.0
CHUNKS = text_chunks("a", "b", "c", "d", model="m", usage=USAGE)


@pytest.fixture
def pair(own_redis: OwnRedis) -> Iterator[tuple[Bed, Bed]]:
    """Two gateways over one upstream and one Redis."""
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(ScriptedUpstream(["m"]))
        settings = yaml(
            adapters={"a": adapter(upstream, ["m"])},
            retry={"budget": 1.0},
            server={"commit_s": 0.1},
            cache={"enabled": True, "storage": own_redis[0], "storage_timeout_s": STORAGE_S},
        )
        one, two = (held.enter_context(Gateway(config_yaml=settings)) for _ in range(2))
        yield Bed(one, {"a": upstream}), Bed(two, {"a": upstream})


def heard(stream: Begun, said: str) -> list[str]:
    """Read events until exactly so much has been said, and return them."""
    events: list[str] = []
    while (found := stream.answer(events).text if events else "") != said:
        assert said.startswith(found), found
        events.append(stream.next())
    return events


def test_the_tail_is_live_across_gateways(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    gate = threading.Event()
    one.a.on("m", sse(*CHUNKS[:3], WaitFor(gate), *CHUNKS[3:]))
    with one.begin("m") as leader:
        early = heard(leader, "ab")
        with two.begin("m", stream_options={"include_usage": True}) as late, two.begin("m") as later:
            caught_up = [heard(late, "ab"), heard(later, "ab")]
            gate.set()
            answers = [
                leader.answer([*early, *leader.rest()]),
                late.answer([*caught_up[0], *late.rest()]),
                later.answer([*caught_up[1], *later.rest()]),
            ]

    assert [(answer.text, answer.stream_error) for answer in answers] == [("abcd", None)] * 3
    assert answers[1].chunks[-1]["usage"] == USAGE
    assert one.asked("m") == {"a": 1}
    # In the log, not in the heads: those may be sent before anything has come from the other gateway.
    records = [two.record_of(answer) for answer in answers[1:]]
    assert [(record["cache"], record["deployment"]) for record in records] == [("joined", "a/m")] * 2
    assert [(record["attempts"], record["completion_tokens"]) for record in records] == [(0, 0)] * 2


def test_the_leaders_client_may_leave_and_its_gateway_goes_on(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    gate = threading.Event()
    one.a.on("m", sse(*CHUNKS[:2], WaitFor(gate), *CHUNKS[2:]))
    with contextlib.ExitStack() as held:
        with one.begin("m") as leader:
            heard(leader, "a")
            follower = held.enter_context(two.begin("m"))
            events = heard(follower, "a")
        one.gateway.wait_for_log(str(leader.head.headers.first("x-request-id")))
        gate.set()
        answer = follower.answer([*events, *follower.rest()])

    assert (answer.text, answer.stream_error) == ("abcd", None)
    assert one.asked("m") == {"a": 1}


def test_one_who_listens_may_leave_and_when_all_have_left_the_upstream_is_closed(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    one.a.on("m", sse(*CHUNKS[:2], Hang(), done=False))
    with one.begin("m") as leader:
        heard(leader, "a")
        with two.begin("m") as follower:
            heard(follower, "a")
        two.gateway.wait_for_log(str(follower.head.headers.first("x-request-id")))
        assert not one.last("m").ended.is_set()
    assert one.last("m").ended.wait(5)
    assert one.asked("m") == {"a": 1}


def test_when_the_upstream_fails_one_new_leader_tries(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    gate = threading.Event()
    one.a.on("m", [WaitFor(gate), *error(500)], sse(*CHUNKS))
    with one.begin("m") as leader, contextlib.ExitStack() as held:
        others = [held.enter_context(two.begin("m")) for _ in range(5)]
        gate.set()
        failed, *served = [stream.answer(stream.rest()) for stream in (leader, *others)]

    assert failed.stream_error is not None
    assert [(answer.text, answer.stream_error) for answer in served] == [("abcd", None)] * 5
    assert one.asked("m") == {"a": 2}


def test_a_leader_that_is_killed_is_replaced_for_those_who_have_heard_nothing(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    never = threading.Event()
    one.a.on("m", [WaitFor(never), *error(500)], sse(*CHUNKS))
    with contextlib.ExitStack() as held:
        held.enter_context(one.begin("m"))
        others = [held.enter_context(two.begin("m")) for _ in range(5)]
        one.gateway.kill()
        answers = [stream.answer(stream.rest()) for stream in others]
    never.set()

    assert {(answer.text, answer.stream_error is None) for answer in answers} == {("abcd", True)}
    assert one.asked("m") == {"a": 2}


def test_a_leader_that_is_killed_amid_a_stream_is_an_honest_end(pair: tuple[Bed, Bed]) -> None:
    one, two = pair
    never = threading.Event()
    one.a.on("m", sse(*CHUNKS[:3], WaitFor(never), *CHUNKS[3:]), sse(*CHUNKS))
    with one.begin("m") as leader, two.begin("m") as follower:
        heard(leader, "ab")
        events = heard(follower, "ab")
        one.gateway.kill()
        cut = follower.answer([*events, *follower.rest()])
    never.set()

    assert cut.text == "ab"
    assert cut.stream_error is not None
    assert cut.stream_error["code"] == "upstream_stream_truncated"
    assert two.ask("m", stream=True).text == "abcd"
    assert one.asked("m") == {"a": 2}


def test_a_redis_frozen_amid_a_stream_hurts_only_those_who_listen(pair: tuple[Bed, Bed], own_redis: OwnRedis) -> None:
    one, two = pair
    gate = threading.Event()
    one.a.on("m", sse(*CHUNKS[:3], WaitFor(gate), *CHUNKS[3:]))
    with one.begin("m") as leader, two.begin("m") as follower:
        mine, others = heard(leader, "ab"), heard(follower, "ab")
        freeze(own_redis[1].pid)
        gate.set()
        whole = leader.answer([*mine, *leader.rest()])
        cut = follower.answer([*others, *follower.rest()])

    assert (whole.text, whole.stream_error) == ("abcd", None)
    assert cut.text == "ab"
    assert cut.stream_error is not None
    assert cut.stream_error["code"] == "upstream_stream_truncated"


# K01


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_two_hundred_identical_misses_are_one_upstream_call(own_redis: OwnRedis, workers: int, stream: bool) -> None:
    gate = threading.Event()
    caching: dict[str, Any] = {"enabled": True, "join_wait_s": 60}
    if workers > 1:
        caching |= {"storage": own_redis[0], "storage_timeout_s": STORAGE_S}
    with running_bed(env={"WEB_CONCURRENCY": str(workers)}, cache=caching) as running:
        model = running.model()
        reply = sse(*CHUNKS) if stream else json_reply(completion("abcd", model="m"))
        running.a.on(model, [WaitFor(gate), *reply])
        with ThreadPoolExecutor(200) as pool:
            asked = [pool.submit(running.ask, model, stream=stream) for _ in range(200)]
            deadline = time.monotonic() + 20
            while open_connections(running.gateway) < 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            gate.set()
            answers = [each.result(30) for each in asked]

        texts = {answer.text if stream else answer.json["choices"][0]["message"]["content"] for answer in answers}
        assert texts == {"abcd"}
        assert running.asked(model) == {"a": 1}
        assert {answer.header("x-gateway-cache") for answer in answers} <= {"miss", "joined", "hit"}


def open_connections(gateway: Gateway) -> int:
    """How many connections of clients the gateway's workers have accepted."""
    port, found = f":{gateway.port:04X}", 0
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, _, state, *rest = line.split()[:10]
        # Established, and accepted: it has an inode.
        found += local.endswith(port) and state == "01" and rest[-1] != "0"
    return found
