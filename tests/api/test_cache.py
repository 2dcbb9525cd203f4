"""The response cache as clients meet it: K01 to K05, through the real gateway."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.limits.conftest import OwnRedis, own_redis
from tests.support import (
    Close,
    Gateway,
    Hang,
    ScriptedUpstream,
    WaitFor,
    completion,
    error,
    freeze,
    json_reply,
    post_chat,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import KEY, SETTLE_S, Answer, Bed, Begun, Body, adapter, running_bed, user, yaml

__all__ = ["own_redis"]

OTHER = "other-key"
USAGE = tokens(9, 2)


@pytest.fixture(scope="module")
def cached() -> Iterator[Bed]:
    """A gateway that keeps answers, and knows two callers."""
    with running_bed(
        env={"API_KEYS": f"{KEY},{OTHER}"}, cache={"enabled": True, "max_answer_bytes": 200_000}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def early() -> Iterator[Bed]:
    """One that sends the status line before the upstream has said anything."""
    with running_bed({"commit_s": 0.1}, cache={"enabled": True}) as running:
        yield running


@pytest.fixture(autouse=True)
def all_settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no exchange is open, and the gateway met no bug of its own."""
    yield
    for name in {"cached", "early"} & set(request.fixturenames):
        running: Bed = request.getfixturevalue(name)
        running.check_settled()


def until_asked(bed: Bed, model: str, times: int) -> None:
    """Wait until upstream a has been asked so often for a model."""
    deadline = time.monotonic() + 10
    while bed.asked(model).get("a", 0) < times:
        assert time.monotonic() < deadline, bed.asked(model)
        time.sleep(0.01)


def where_from(answer: Answer) -> str | None:
    """Where the gateway says that an answer came from."""
    assert answer.status == 200, answer.body
    return answer.header("x-gateway-cache")


def twice(bed: Bed, model: str, **fields: Any) -> list[str | None]:
    """Where two answers to the same request come from; the second is asked for when the call for the first is over."""
    first = where_from(bed.ask(model, **fields))
    # Until the upstream has ended its answer, others may still join it.
    assert all(seen.ended.wait(SETTLE_S) for seen in bed.a.requests if seen.model == model)
    return [first, where_from(bed.ask(model, **fields))]


# Hits


def test_the_same_request_is_answered_from_the_cache(cached: Bed) -> None:
    model = cached.model()
    first, second = cached.ask(model), cached.ask(model)

    assert [where_from(first), where_from(second)] == ["miss", "hit"]
    assert second.body == first.body
    assert (first.header("age"), second.header("age")) == (None, "0")
    assert (second.header("x-gateway-attempts"), second.header("x-gateway-deployment")) == ("0", f"a/{model}")
    assert cached.asked(model) == {"a": 1}
    record = cached.record_of(second)
    assert (record["cache"], record["attempts"]) == ("hit", 0)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (0, 0)


@pytest.mark.parametrize("asked", [True, False])
def test_what_was_answered_whole_is_told_as_a_stream(cached: Bed, asked: bool) -> None:
    model = cached.model()
    cached.a.on(model, json_reply(completion("Hello there", model=model, usage=USAGE)))
    cached.ask(model)
    options: Body = {"stream_options": {"include_usage": True}} if asked else {}

    replay = cached.ask(model, stream=True, **options)

    assert where_from(replay) == "hit"
    assert replay.header("content-type") == "text/event-stream; charset=utf-8"
    assert replay.stream_error is None
    assert replay.text == "Hello there"
    assert replay.deltas[0]["role"] == "assistant"
    assert [chunk["usage"] for chunk in replay.chunks if chunk.get("usage")] == ([USAGE] if asked else [])
    assert cached.record_of(replay)["completion_tokens"] == 0


def test_what_was_streamed_is_answered_whole(cached: Bed) -> None:
    model = cached.model()
    cached.a.on(model, sse(*text_chunks("Hel", "lo", model=model, usage=USAGE)))

    stream, whole = cached.ask(model, stream=True), cached.ask(model)

    assert [where_from(stream), where_from(whole)] == ["miss", "hit"]
    assert whole.json["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (whole.json["usage"], whole.json["object"]) == (USAGE, "chat.completion")
    assert cached.asked(model) == {"a": 1}


def test_official_clients_read_a_replay(cached: Bed) -> None:
    model = cached.model()
    with cached.sdk() as client:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
        with client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "Hi"}]) as stream:
            final = stream.get_final_completion()

    assert final.choices[0].message.content == "Hello"
    assert cached.asked(model) == {"a": 1}


def test_a_stream_is_to_the_byte_what_it_is_without_a_cache(cached: Bed, bed: Bed) -> None:
    model = "trio-0"  # one that both have, and neither gives to a test
    for each in (cached, bed):
        each.a.on(model, sse(*text_chunks("Hel", "lo", model="x", usage=USAGE)))
    asked: list[Body] = [{}, {"stream_options": {"include_usage": True}}]
    for options in asked:
        with_cache = cached.ask(model, stream=True, headers={"Cache-Control": "no-cache"}, **options)
        assert with_cache.body == bed.ask(model, stream=True, **options).body


def test_a_hit_costs_no_tokens() -> None:
    upstream = ScriptedUpstream(["m"])
    with upstream:
        upstream.on("m", json_reply(completion("Hi", model="m", usage=tokens(500, 300))))
        settings = yaml(
            adapters={"a": adapter(upstream, ["m"])},
            rate_limit={"tokens_per_minute": 1000, "requests_per_minute": 1000},
            cache={"enabled": True},
        )
        with Gateway(config_yaml=settings, env={}) as gateway:
            one = Bed(gateway, {"a": upstream})
            answers = [one.ask("m") for _ in range(12)]
            assert [answer.status for answer in answers] == [200] * 12
            left = one.ask("m", stream=True).header("x-ratelimit-remaining-tokens")
            # 800 for the one call, and the estimate of the request that asks.
            assert left is not None
            assert 0 < 200 - int(left) < 100


# K05: what the request says


POLICY: dict[str, tuple[Body, Body, str]] = {
    "the same": ({}, {}, "hit"),
    "another end user": ({"user": "a"}, {"user": "b", "metadata": {"x": "y"}}, "hit"),
    "temperature": ({"temperature": 1}, {"temperature": 1.0}, "miss"),
    "temperature above zero": ({"temperature": 0.9}, {"temperature": 0.9}, "hit"),
    "unicode forms": ({"messages": user("\u00e9")}, {"messages": user("e\u0301")}, "miss"),
    "a field that we do not know": ({}, {"unheard_of": 1}, "miss"),
    "order": ({"seed": 1, "top_p": 1}, {"top_p": 1, "seed": 1}, "hit"),
}


@pytest.mark.parametrize("name", POLICY)
def test_what_makes_two_requests_the_same(cached: Bed, name: str) -> None:
    one, other, expected = POLICY[name]
    model = cached.model()
    cached.ask(model, **one)

    assert where_from(cached.ask(model, **other)) == expected


CONTROL = {
    "no-store": "bypass",
    "no-cache": "bypass",
    "max-age=0": "bypass",
    "max-age=3600": "hit",
    "no-transform": "hit",
}


@pytest.mark.parametrize("header", CONTROL)
def test_a_request_says_what_it_takes_from_the_cache(cached: Bed, header: str, stream: bool) -> None:
    model = cached.model()
    cached.ask(model, stream=stream)

    assert where_from(cached.ask(model, stream=stream, headers={"Cache-Control": header})) == CONTROL[header]


@pytest.mark.parametrize("header, then", [("no-store", "miss"), ("no-cache", "hit")])
def test_a_request_says_whether_its_answer_is_kept(cached: Bed, header: str, then: str, stream: bool) -> None:
    model = cached.model()
    cached.ask(model, stream=stream, headers={"Cache-Control": header})

    assert where_from(cached.ask(model)) == then


def test_a_request_on_its_way_says_nothing_of_the_next(cached: Bed) -> None:
    model = cached.model()
    with cached.connect() as client:
        found = []
        for headers in ({"Cache-Control": "no-store"}, {}, {}):
            client.send(
                post_chat(cached.gateway.host, cached.gateway.port, {"model": model, "messages": user()}, KEY, headers)
            )
            found.append(client.read_response().headers.first("x-gateway-cache"))
    assert found == ["bypass", "miss", "hit"]


# K03: what is not kept


FINISHES = {
    "length": (sse(*text_chunks("a", finish="length", usage=USAGE)), json_reply(completion("a", finish="length"))),
    "withheld": (
        sse(*text_chunks("a", finish="content_filter", usage=USAGE)),
        json_reply(completion("a", finish="content_filter")),
    ),
    "tool calls": (
        sse(*tool_chunks(("f", "{}"), usage=USAGE)),
        json_reply(completion(None, finish="tool_calls", tool_calls=[
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}])),
    ),
    "refusal": (None, json_reply(completion(None, refusal="No."))),
    "nothing said": (sse(*text_chunks(usage=USAGE)), json_reply(completion(""))),
    "without usage": (sse(*text_chunks("a")), None),
    "too large": (sse(*text_chunks("x" * 300_000, usage=USAGE)), json_reply(completion("x" * 300_000))),
}  # fmt: skip


@pytest.mark.parametrize("name", FINISHES)
def test_an_answer_that_is_not_whole_and_good_is_not_kept(cached: Bed, name: str, stream: bool) -> None:
    script = FINISHES[name][not stream]
    if script is None:
        pytest.skip("one way only")
    model = cached.model()
    cached.a.on(model, script)

    assert twice(cached, model, stream=stream) == ["miss", "miss"]


FAULTS = {
    "an error": [error(400)],
    "a cut": [sse(text_chunks("a")[0], text_chunks("a")[1], Close(), done=False)],
    "an error inside": [sse(text_chunks("a")[0], b'data: {"error": {"message": "x"}}\n\n', done=False)],
    "an error in other words": [sse(*text_chunks("a", finish=None), b'data: {"code": 500, "msg": "x"}\n\n')],
    "an error as a field": [sse(*text_chunks("a", finish=None), b'error: {"code": 500, "message": "x"}\n\n')],
    "an error in plain words": [sse(*text_chunks("a", finish=None), b"event: error\ndata: out of memory\n\n")],
    "an answer given up": [sse(*text_chunks("a", finish="abort", usage=USAGE))],
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_fails_is_not_kept(cached: Bed, name: str) -> None:
    model = cached.model()
    cached.a.on(model, *FAULTS[name], sse(*text_chunks("well", usage=USAGE)))
    first = cached.ask(model, stream=True)
    assert first.status != 200 or first.stream_error is not None

    second = cached.ask(model, stream=True)

    assert (where_from(second), second.text) == ("miss", "well")


def test_a_client_that_leaves_alone_closes_the_upstream_and_nothing_is_kept(cached: Bed) -> None:
    model = cached.model()
    cached.a.on(model, sse(*text_chunks("a")[:2], Hang(), done=False), sse(*text_chunks("well")))
    with cached.begin(model) as leaving:
        leaving.next()
    assert cached.last(model).ended.wait(SETTLE_S)

    assert where_from(cached.ask(model, stream=True)) == "miss"


# K04: two callers


def test_two_callers_never_share(cached: Bed, stream: bool) -> None:
    model = cached.model()
    found = [where_from(cached.ask(model, stream=stream, key=key)) for key in (KEY, OTHER, KEY, OTHER)]

    assert found == ["miss", "miss", "hit", "hit"]
    assert cached.asked(model) == {"a": 2}


def test_a_second_caller_waits_for_the_upstream_as_the_first_did(cached: Bed, stream: bool) -> None:
    """Timing tells nothing: the answer is kept for the first, and the second is asked for upstream all the same."""
    model, gate = cached.model(), threading.Event()
    script = sse(*text_chunks("a", usage=USAGE)) if stream else json_reply(completion("a"))
    cached.a.on(model, script, [WaitFor(gate), *script])
    first = cached.ask(model, stream=stream)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(cached.ask, model, stream=stream, key=OTHER)
        until_asked(cached, model, 2)
        # Meanwhile the first one has its hit, and the second has nothing before its upstream speaks.
        assert where_from(cached.ask(model, stream=stream)) == "hit"
        assert not asked.done()
        gate.set()
        second = asked.result(10)

    assert (where_from(first), where_from(second)) == ("miss", "miss")
    assert {name for name, _ in second.headers} == {name for name, _ in first.headers}
    assert second.header("x-gateway-attempts") == "1"
    assert second.body == first.body
    assert cached.asked(model) == {"a": 2}


def test_two_callers_do_not_share_what_is_under_way_either(cached: Bed) -> None:
    model, gate = cached.model(), threading.Event()
    cached.a.on(model, sse(*text_chunks("a")[:2], WaitFor(gate), *text_chunks("a")[2:]))
    with cached.begin(model) as mine, ThreadPoolExecutor(1) as pool:
        mine.next()
        other = pool.submit(cached.ask, model, stream=True, key=OTHER)
        until_asked(cached, model, 2)
        gate.set()
        assert where_from(other.result(10)) == "miss"
        mine.rest()


# K01 and K02: single flight


@contextlib.contextmanager
def begun(bed: Bed, model: str, count: int) -> Iterator[list[Begun]]:
    """Streams that all wait for one answer: each head has come, so each of them has its place."""
    with contextlib.ExitStack() as held:
        yield [held.enter_context(bed.begin(model)) for _ in range(count)]


def said(streams: list[Begun]) -> list[str | None]:
    """Where the heads say that the answers come from."""
    return [stream.head.headers.first("x-gateway-cache") for stream in streams]


def read_all(streams: list[Begun]) -> list[Answer]:
    """The answers, each read to its end."""
    return [stream.answer(stream.rest()) for stream in streams]


def test_fifty_identical_streams_are_one_upstream_call(cached: Bed) -> None:
    model, gate = cached.model(), threading.Event()
    pieces = [f"{number} " for number in range(40)]
    chunks = text_chunks(*pieces, model=model, usage=USAGE)
    cached.a.on(model, sse(*chunks[:20], WaitFor(gate), *chunks[20:]))
    with begun(cached, model, 50) as streams:
        gate.set()
        answers = read_all(streams)
        assert said(streams) == ["miss"] + ["joined"] * 49

    assert cached.asked(model) == {"a": 1}
    assert {answer.text.encode() for answer in answers} == {"".join(pieces).encode()}
    assert all(answer.stream_error is None for answer in answers)
    records = [cached.record_of(answer) for answer in answers]
    assert [record["attempts"] for record in records] == [1] + [0] * 49
    assert [record["completion_tokens"] for record in records] == [2] + [0] * 49


def test_a_late_joiner_gets_what_was_sent_and_then_the_live_tail(cached: Bed) -> None:
    model, gate = cached.model(), threading.Event()
    chunks = text_chunks("a", "b", "c", model=model, usage=USAGE)
    cached.a.on(model, sse(*chunks[:3], WaitFor(gate), *chunks[3:]))
    with cached.begin(model) as leader:
        early = [leader.next() for _ in range(3)]
        with cached.begin(model, stream_options={"include_usage": True}) as late:
            caught_up = [late.next() for _ in range(3)]
            gate.set()
            mine, others = leader.answer([*early, *leader.rest()]), late.answer([*caught_up, *late.rest()])
    assert late.head.headers.first("x-gateway-cache") == "joined"
    assert late.head.headers.first("x-gateway-deployment") == f"a/{model}"
    assert (mine.text, others.text) == ("abc", "abc")
    assert all("usage" not in chunk for chunk in mine.chunks)
    assert others.chunks[-1]["usage"] == USAGE
    assert cached.asked(model) == {"a": 1}


def test_the_leaders_client_may_leave(cached: Bed) -> None:
    model, gate = cached.model(), threading.Event()
    chunks = text_chunks("a", "b", model=model, usage=USAGE)
    cached.a.on(model, sse(*chunks[:2], WaitFor(gate), *chunks[2:]))
    with cached.begin(model) as leader:
        leader.next()
        late = cached.begin(model)
        joined = late.__enter__()
        events = [joined.next()]
    cached.gateway.wait_for_log(str(leader.head.headers.first("x-request-id")))
    gate.set()
    whole = joined.answer([*events, *joined.rest()])
    late.__exit__(None, None, None)

    assert (whole.text, whole.stream_error) == ("ab", None)
    assert cached.asked(model) == {"a": 1}
    assert where_from(cached.ask(model)) == "hit"
    # Somebody who was there answers for the cost.
    assert cached.record_of(whole)["completion_tokens"] == 2


def test_when_all_leave_the_upstream_is_closed(cached: Bed) -> None:
    model = cached.model()
    cached.a.on(model, sse(*text_chunks("a", model=model)[:2], Hang(), done=False))
    with cached.begin(model) as one, cached.begin(model) as other:
        one.next(), other.next()
    assert cached.last(model).ended.wait(SETTLE_S)
    assert cached.asked(model) == {"a": 1}


def test_when_the_upstream_fails_one_new_leader_tries(early: Bed) -> None:
    model, gate = early.model(), threading.Event()
    early.a.on(model, [WaitFor(gate), *error(500)], sse(*text_chunks("well", model=model)))
    with begun(early, model, 5) as streams:
        assert said(streams) == ["miss"] + ["joined"] * 4
        gate.set()
        first, *others = read_all(streams)

    assert first.stream_error is not None
    assert [(answer.text, answer.stream_error) for answer in others] == [("well", None)] * 4
    assert early.asked(model) == {"a": 2}
    assert [early.record_of(answer)["cache"] for answer in others] == ["miss"] + ["joined"] * 3


def test_when_it_fails_again_all_are_told(early: Bed) -> None:
    model, gate = early.model(), threading.Event()
    early.a.on(model, [WaitFor(gate), *error(500)], error(503))
    with begun(early, model, 5) as streams:
        gate.set()
        answers = read_all(streams)

    assert all(answer.stream_error for answer in answers)
    assert early.asked(model) == {"a": 2}


def test_what_the_caller_did_wrong_is_tried_once(early: Bed) -> None:
    model, gate = early.model(), threading.Event()
    early.a.on(model, [WaitFor(gate), *error(400)])
    with begun(early, model, 5) as streams:
        gate.set()
        answers = read_all(streams)

    assert all(answer.stream_error for answer in answers)
    assert early.asked(model) == {"a": 1}


# Redis


def test_workers_share_answers_and_calls_through_redis_and_do_without(own_redis: OwnRedis) -> None:
    url, process = own_redis
    gate = threading.Event()
    caching: Body = {"enabled": True, "storage": url, "storage_timeout_s": 1.0}
    with running_bed(env={"WEB_CONCURRENCY": "2"}, cache=caching) as running:
        model = running.model()
        running.a.on(model, [WaitFor(gate), *json_reply(completion("Hello", model=model))])
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(running.ask, model) for _ in range(16)]
            until_asked(running, model, 1)
            gate.set()
            answers = [each.result(20) for each in asked]
        assert {answer.body for answer in answers} == {answers[0].body}
        assert sorted(str(where_from(answer)) for answer in answers)[-1] == "miss"
        assert running.asked(model) == {"a": 1}
        assert {where_from(running.ask(model, stream=True)) for _ in range(8)} == {"hit"}

        freeze(process.pid)
        other = running.model()
        assert {where_from(running.ask(other, seed=number)) for number in range(12)} == {"miss"}
        running.check_settled()


def test_an_ill_redis_is_told_by_ready_and_makes_nothing_unready(own_redis: OwnRedis) -> None:
    url, process = own_redis
    with running_bed(cache={"enabled": True, "storage": url, "storage_timeout_s": 1.0}) as running:
        model = running.model()
        running.ask(model)
        well = running.get("/ready", key=None)
        freeze(process.pid)
        for number in range(3):
            assert where_from(running.ask(model, seed=number)) == "miss"
        ill = running.get("/ready", key=None)
        process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 20
        while "cache" in (again := running.get("/ready", key=None)).json:
            assert time.monotonic() < deadline
            running.ask(model)

    assert [answer.status for answer in (well, ill, again)] == [200, 200, 200]
    assert ill.json == {**well.json, "cache": "Redis does not answer: answers are neither kept nor found"}
    assert again.json == well.json


# Groups, and without


def test_a_group_may_keep_what_others_do_not() -> None:
    with ScriptedUpstream(["m", "n"]) as upstream:
        calls = completion(
            None, finish="tool_calls", model="n",
            tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        )  # fmt: skip
        upstream.on("n", json_reply(calls))
        upstream.on("gone", error(500))
        groups = {
            "kept": {"targets": ["a/m"], "cache": {"enabled": True, "scope": "shared"}},
            "tools": {"targets": ["a/n"], "cache": {"enabled": True, "store_tool_calls": True}},
            "shaky": {"targets": ["a/gone"], "fallbacks": ["a/m"], "cache": {"enabled": True}},
        }
        settings = yaml(adapters={"a": adapter(upstream, ["m", "n", "gone"])}, model_groups=groups)
        with Gateway(config_yaml=settings, env={"API_KEYS": f"{KEY},{OTHER}"}) as gateway:
            one = Bed(gateway, {"a": upstream})
            assert [where_from(one.ask("kept", key=key)) for key in (KEY, OTHER)] == ["miss", "hit"]
            assert twice(one, "m") == [None, None]
            assert twice(one, "tools") == ["miss", "hit"]
            replay = one.ask("tools", stream=True)
            assert replay.deltas[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
            assert replay.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
            # What a fallback said is not kept for the model that was asked for.
            assert twice(one, "shaky") == ["miss", "miss"]


def test_a_server_that_is_not_asked_for_usage_is_not_asked_for_it_here_either() -> None:
    with ScriptedUpstream(["m"]) as upstream:
        settings = yaml(adapters={"a": adapter(upstream, ["m"], stream_usage=False)}, cache={"enabled": True})
        with Gateway(config_yaml=settings) as gateway:
            one = Bed(gateway, {"a": upstream})
            assert twice(one, "m", stream=True) == ["miss", "miss"]
            assert all("stream_options" not in seen.json for seen in upstream.requests)
            wanting: Body = {"stream": True, "stream_options": {"include_usage": True}}
            assert twice(one, "m", **wanting) == ["miss", "hit"]


def test_without_a_cache_nothing_is_said_of_it(bed: Bed, stream: bool) -> None:
    model = bed.model()
    answers = [bed.ask(model, stream=stream, headers={"Cache-Control": "max-age=60"}) for _ in range(2)]

    assert [where_from(answer) for answer in answers] == [None, None]
    assert bed.asked(model) == {"a": 2}
