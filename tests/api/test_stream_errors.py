"""Faults of an upstream after its first event: M of the fault matrix. For the framing of events see protocol case 30.

What has come until then reaches the client; the stream ends with one error event, and no other deployment is asked.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import (
    DONE,
    Chop,
    Close,
    Hang,
    Reset,
    Send,
    Wait,
    WaitFor,
    chunk,
    chunked,
    completion,
    error_body,
    event,
    joined,
    json_reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import SETTLE_S, Answer, Bed, Body, running_bed

WORDS = [f"word{number} " for number in range(60)]


@pytest.fixture(scope="module")
def impatient() -> Iterator[Bed]:
    """A gateway that waits for the next event for a second."""
    timeouts = {"idle_s": 1.0, "first_event_s": 20.0}
    with running_bed({"heartbeat_s": 0.1}, {"timeouts": timeouts}) as running:
        yield running


def broken(answer: Answer) -> Body:
    """The error with which a stream ended that had begun well."""
    assert answer.status == 200
    assert answer.stream_error is not None
    assert answer.stream_error.keys() == {"message", "type", "param", "code"}
    assert all(choice["finish_reason"] is None for each in answer.chunks for choice in each["choices"])
    return answer.stream_error


# M01: the upstream leaves


@pytest.mark.parametrize("leaving", [Close(), Reset()], ids=["end", "reset"])
def test_m01_an_upstream_that_leaves_after_40_of_60_tokens(bed: Bed, leaving: Close | Reset) -> None:
    model, gate = bed.model("pair"), threading.Event()
    bed.a.on(model, sse(*text_chunks(*WORDS)[:41], WaitFor(gate), leaving, done=False))
    with bed.begin(model) as begun:
        events = [begun.next() for _ in range(41)]
        gate.set()
        answer = begun.answer([*events, *begun.rest()])

    assert broken(answer)["code"] == "upstream_stream_truncated"
    assert answer.text == "".join(WORDS[:40])
    assert bed.asked(model) == {"a": 1}, "nobody else can go on with it"


def test_m01_a_tool_call_that_is_cut(bed: Bed) -> None:
    begun = tool_chunks(("weather", '{"city": "Be'), finish=None)

    answer = bed.stream_in_two_parts(begun, [Close()])

    assert broken(answer)["code"] == "upstream_stream_truncated"


def test_m01_an_end_within_the_framing(bed: Bed) -> None:
    model, gate = bed.model(), threading.Event()
    *first, second = text_chunks("one", "two")[:3]
    bed.a.on(model, [*sse(*first, done=False)[:-1], WaitFor(gate), Send(chunk(event(second))[:20]), Close()])
    with bed.begin(model) as begun:
        events = [begun.next() for _ in first]
        gate.set()
        answer = begun.answer([*events, *begun.rest()])

    assert broken(answer)["code"] == "upstream_stream_truncated"


# M03: the upstream falls silent


@pytest.mark.parametrize("silence", [[Hang()], [b": still here\n\n", Hang()]], ids=["nothing", "a comment"])
def test_m03_an_upstream_that_falls_silent(impatient: Bed, silence: list[Any]) -> None:
    model = impatient.model("pair")
    impatient.a.on(model, sse(*text_chunks(*WORDS[:20], finish=None), *silence, done=False))

    answer = impatient.ask(model, stream=True)

    assert broken(answer)["code"] == "upstream_timeout"
    assert answer.text == "".join(WORDS[:20])
    assert ": keep-alive" in answer.events
    assert impatient.last(model).closes_within(1), "the upstream is let go"
    assert impatient.asked(model) == {"a": 1}


def test_m03_a_pause_between_events_that_is_short_enough(impatient: Bed) -> None:
    pauses = [each for payload in text_chunks(*WORDS[:6]) for each in (payload, Wait(0.2))]

    answer = impatient.stream(sse(*pauses))

    assert (answer.text, answer.stream_error) == ("".join(WORDS[:6]), None)


@pytest.mark.parametrize("silent", ["data: null\n\n", "event: ping\n\n", "event: ping\ndata: {}\n\n"])
def test_m03_an_event_that_says_nothing_is_a_sign_of_life(impatient: Bed, silent: str) -> None:
    first, *rest = text_chunks("one", "two")
    pings = [each for _ in range(8) for each in (silent, Wait(0.2))]

    answer = impatient.stream(sse(first, *pings, *rest))

    assert (answer.text, answer.stream_error) == ("onetwo", None)


def test_m04_a_trickle_within_one_event_is_silence(impatient: Bed) -> None:
    *first, second = text_chunks("one", "two")[:3]
    trickle = Chop(chunk(event(second)), 4, 0.1)

    answer = impatient.stream([*sse(*first, done=False)[:-1], trickle, Hang()])

    assert broken(answer)["code"] == "upstream_timeout"


# M05: what cannot be read

JUNK = {
    "text": b"data: junk\n\n",
    "cut": b'data: {"choices": [{"delta"\n\n',
    "list": b"data: [1, 2]\n\n",
    "no choices": b'data: {"x": 1}\n\n',
    "a choice of another kind": b'data: {"choices": ["x"]}\n\n',
    "deep": b"data: " + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"\n\n",
}


@pytest.mark.parametrize("junk", list(JUNK.values()), ids=list(JUNK))
def test_m05_an_event_that_cannot_be_read_ends_a_text(bed: Bed, junk: bytes) -> None:
    answer = bed.stream_in_two_parts(text_chunks(*WORDS[:10], finish=None), [junk, event(text_chunks("end")[1]), DONE])

    assert broken(answer)["code"] == "upstream_invalid_response"
    assert answer.text == "".join(WORDS[:10])


@pytest.mark.parametrize("junk", list(JUNK.values()), ids=list(JUNK))
def test_m05_an_event_that_cannot_be_read_ends_a_tool_call(bed: Bed, junk: bytes) -> None:
    begun = tool_chunks(("weather", '{"city": "Be'), finish=None)

    answer = bed.stream_in_two_parts(begun, [junk, DONE])

    assert broken(answer)["code"] == "upstream_invalid_response"


@pytest.mark.parametrize("count", [1, 5, 40])
def test_m05_what_came_in_the_same_packet_is_not_lost(bed: Bed, count: int) -> None:
    packet = b"".join(event(each) for each in text_chunks(*WORDS[:count], finish=None)[1:]) + JUNK["text"] * 4

    answer = bed.stream_in_two_parts(text_chunks("now ", finish=None), [packet])

    assert broken(answer)["code"] == "upstream_invalid_response"
    assert answer.text == "now " + "".join(WORDS[:count])


@pytest.mark.parametrize("before", [[], text_chunks(finish=None)], ids=["nothing", "a role"])
def test_m05_junk_before_content_is_a_reason_to_ask_another(bed: Bed, before: list[Body]) -> None:
    model = bed.model("pair")
    bed.a.on(model, sse(*before, JUNK["text"], *text_chunks("never seen")))

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("Hello", None)
    assert bed.asked(model) == {"a": 1, "b": 1}


# M06: the upstream reports an error

REPORTS = [
    (error_body("busy", "overloaded_error"), "overloaded", "server_error"),
    (error_body("slow", "rate_limit_error"), "rate_limit_exceeded", "requests"),
    ({"error": {"message": "no", "code": 500}}, "upstream_error", "server_error"),
    (error_body("no", "invalid_request_error", "odd"), "odd", "invalid_request_error"),
    ({"error": "text"}, "upstream_error", "server_error"),
    ({"error": {"message": "no", "code": 401}}, "upstream_authentication_error", "server_error"),
]


@pytest.mark.parametrize(("payload", "code", "kind"), REPORTS, ids=str)
def test_m06_an_error_that_is_reported_at_token_10(bed: Bed, payload: Body, code: str, kind: str) -> None:
    answer = bed.stream_in_two_parts(text_chunks(*WORDS[:10], finish=None), [event(payload), DONE])

    found = broken(answer)
    assert (found["code"], found["type"]) == (code, kind)
    assert answer.text == "".join(WORDS[:10])


def test_m06_an_error_beside_the_choices(bed: Bed) -> None:
    mixed = text_chunks("x")[1] | {"error": {"message": "no", "code": 502}}
    mixed["choices"][0]["finish_reason"] = "error"

    answer = bed.stream_in_two_parts(text_chunks("one", finish=None), [event(mixed), DONE])

    assert broken(answer)["code"] == "upstream_error"


def test_m06_the_log_tells_of_it(bed: Bed) -> None:
    payload = error_body("busy", "overloaded_error")

    record = bed.record_of(bed.stream_in_two_parts(text_chunks("one", finish=None), [event(payload)]))

    assert (record["status"], record["error"], record["stream"]) == (200, "overloaded", True)


# M07, M08: big events, in any pieces


@pytest.mark.parametrize("size", [1024 * 1024, 8 * 1024 * 1024 - 1000])
def test_m08_a_big_event(bed: Bed, size: int) -> None:
    text = "x" * size

    answer = bed.stream(sse(*text_chunks(text, "end")))

    assert answer.stream_error is None
    assert answer.text == text + "end"


def test_m08_an_event_that_is_too_big(bed: Bed) -> None:
    huge = event(text_chunks("x" * (9 * 1024 * 1024))[1])

    answer = bed.stream_in_two_parts(text_chunks("one", finish=None), [huge, DONE])

    assert broken(answer)["code"] == "upstream_invalid_response"
    assert answer.text == "one"


def test_m08_a_line_without_an_end(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(b"data: " + b"x" * (9 * 1024 * 1024), Hang(), done=False))

    answer = bed.ask(model, stream=True)

    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert bed.last(model).closes_within(1)


def test_m07_pieces_of_one_byte_with_a_big_event_between(bed: Bed) -> None:
    model, pieces = bed.model(), ["ä", "x" * 300_000, "ö"]
    first, big, *rest = (event(each) for each in text_chunks(*pieces)[1:])
    script = [*chunked(headers={"Content-Type": "text/event-stream"})[:1], Chop(chunk(first), 1), Send(chunk(big))]
    bed.a.on(model, [*script, *(Chop(chunk(each), 1) for each in rest), Send(chunk(DONE) + chunk(b""))])

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("".join(pieces), None)


# M09: usage

USAGES: list[tuple[list[Any], Any, tuple[Any, Any]]] = [
    ([], None, (None, None)),
    ([tokens(0, 0)], tokens(0, 0), (0, 0)),
    ([tokens(5, 1), tokens(5, 2)], tokens(5, 2), (5, 2)),
    ([{"prompt_tokens": -5, "completion_tokens": 3}], tokens(0, 3), (0, 3)),
    ([{"prompt_tokens": 1e308, "completion_tokens": 10**30}], tokens(10**9, 10**9), (10**9, 10**9)),
    ([{"prompt_tokens": "12", "completion_tokens": None}], tokens(12, 0), (12, 0)),
    ([{"prompt_tokens": True, "completion_tokens": [1]}], None, (None, None)),
    ([{}], None, (None, None)),
    ([None, "text", 7], None, (None, None)),
]


@pytest.mark.parametrize(("said", "shown", "logged"), USAGES, ids=str)
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
def test_m09_usage_of_every_kind(bed: Bed, said: list[Any], shown: Any, logged: tuple[Any, Any], asked: bool) -> None:
    chunks = text_chunks("Hi")
    reports = [{**chunks[0], "choices": [], "usage": usage} for usage in said]

    answer = bed.stream(sse(*chunks, *reports), stream_options={"include_usage": asked})

    assert (answer.text, answer.stream_error) == ("Hi", None)
    usages = [each["usage"] for each in answer.chunks if each.get("usage") is not None]
    assert usages == ([shown] if asked and shown is not None else [])
    record = bed.record_of(answer)
    assert (record["prompt_tokens"], record["completion_tokens"]) == logged


def test_m09_usage_of_an_answer_that_is_not_streamed(bed: Bed) -> None:
    model, odd = bed.model(), {"prompt_tokens": -5, "completion_tokens": 1e308}
    bed.a.on(model, json_reply(completion("Hi") | {"usage": odd}))

    record = bed.record_of(bed.ask(model))

    assert (record["prompt_tokens"], record["completion_tokens"]) == (0, 10**9)


# M10: the end


def test_m10_a_finish_reason_without_done(bed: Bed) -> None:
    answer = bed.stream(sse(*text_chunks("Hi"), done=False))

    assert (answer.text, answer.stream_error) == ("Hi", None)


@pytest.mark.parametrize("surplus", [event(text_chunks("more")[1]), b"data: junk\n\n", DONE, b"x" * 100_000], ids=len)
def test_m10_what_follows_the_end_is_dropped(bed: Bed, surplus: bytes) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi"), DONE, surplus, done=False))

    answers = [bed.ask(model, stream=True) for _ in range(3)]

    assert [(answer.text, answer.stream_error) for answer in answers] == [("Hi", None)] * 3


POISON = joined(json_reply(completion("for somebody else")))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_m10_bytes_after_an_answer_are_never_the_answer_to_the_next_request(bed: Bed, stream: bool, late: bool) -> None:
    model, gate = bed.model(), threading.Event()
    script = sse(*text_chunks("mine")) if stream else json_reply(completion("mine"))
    bed.a.on(model, [*script, *([WaitFor(gate)] if late else []), Send(POISON)], json_reply(completion("next")))

    bed.ask(model, stream=stream)
    poisoned = bed.last(model)
    gate.set()
    assert poisoned.ended.wait(SETTLE_S)

    assert bed.ask(model).json["choices"][0]["message"]["content"] == "next"


def test_m10_an_upstream_that_never_ends_after_done(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi"), DONE, Hang(), done=False))

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("Hi", None)
    assert bed.last(model).closes_within(1)


def test_a_whole_stream_leaves_its_connection_to_the_next(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi")))

    for _ in range(5):
        answer = bed.ask(model, stream=True)
        bed.record_of(answer)  # written once the upstream's connection is given back
        assert answer.text == "Hi"

    assert len({seen.connection for seen in bed.a.requests if seen.model == model}) == 1


def test_an_unfinished_choice_is_no_end(bed: Bed) -> None:
    chunks = text_chunks("one")
    other = json.loads(json.dumps(chunks[:2]))
    for each in other:
        each["choices"][0]["index"] = 1

    answer = bed.stream_in_two_parts([*chunks[:2], *other], [event(chunks[-1])])

    assert answer.stream_error is not None
    assert answer.stream_error["code"] == "upstream_stream_truncated"
