"""Faults after the first content (M of the fault matrix), where a group can make them invisible.

What they are without a group, and M03 to M11, is in ``tests/api/test_stream_errors.py`` and
``tests/serving/test_slow_reader.py``.
"""

import threading
import time
from typing import Any

import pytest

from tests.api.bed import Answer, Body
from tests.support import (
    Action,
    Close,
    Hang,
    RawClient,
    Reset,
    Script,
    WaitFor,
    error,
    error_body,
    event,
    post_chat,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import FaultBed

WORDS = [f"word{number} " for number in range(60)]
WHOLE = "".join(WORDS)
SENT = "".join(WORDS[:40])
ASKED: Body = {"stream_options": {"include_usage": True}}

#: How a stream breaks after 40 words, and the code of that when nobody goes on with it.
BREAKS: dict[str, tuple[list[Any], str]] = {
    "M01 end": ([Close()], "upstream_stream_truncated"),
    "M01 reset": ([Reset()], "upstream_stream_truncated"),
    "M03 silence": ([Hang()], "upstream_timeout"),
    "M03 comments": ([b": still here\n\n", Hang()], "upstream_timeout"),
    "M05 junk": ([b"data: junk\n\n" * 4], "upstream_invalid_response"),
    "M06 overloaded": ([event(error_body("busy", "overloaded_error"))], "overloaded"),
    "M06 limit": ([event(error_body("slow", "rate_limit_error"))], "rate_limit_exceeded"),
    "M08 too big": ([b"data: " + b"x" * (9 * 1024 * 1024)], "upstream_invalid_response"),
}
BROKEN = pytest.mark.parametrize(("ending", "code"), list(BREAKS.values()), ids=list(BREAKS))


def breaking(gate: threading.Event, ending: list[Any], begun: list[Body] | None = None) -> Script:
    """A stream that breaks once the client has what was sent so far."""
    chunks = text_chunks(*WORDS[:40], finish=None) if begun is None else begun
    return sse(*chunks, WaitFor(gate), *ending, done=False)


def read(faults: FaultBed, model: str, gate: threading.Event, count: int = 41, **fields: Any) -> Answer:
    """The answer to a stream; the gate is opened when so many events have come."""
    with faults.begin(model, **fields) as begun:
        events: list[str] = []
        while sum(each.startswith("data: ") for each in events) < count:
            events.append(begun.next())
        gate.set()
        return begun.answer([*events, *begun.rest()])


@BROKEN
def test_m02_an_equal_answer_goes_on_without_a_seam(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume", silent=code == "upstream_timeout"), threading.Event()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks(*WORDS, usage=tokens(3, 60))))

    answer = read(faults, model, gate, **ASKED)

    assert (answer.text, answer.stream_error) == (WHOLE, None)
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert sum("role" in delta for delta in answer.deltas) == 1
    assert [chunk["usage"] for chunk in answer.chunks if chunk.get("usage")] == [tokens(3, 60)]
    record = faults.record_of(answer)
    assert (record["attempts"], record["deployment"], record["completion_tokens"]) == (2, f"b/{model}", 60)
    assert faults.asked(model) == {"a": 1, "b": 1}


def test_m02_an_equal_answer_that_comes_all_at_once_goes_on_as_well(faults: FaultBed) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Reset()]))
    at_once = b"".join(event(chunk) for chunk in text_chunks(*WORDS)) + b"data: [DONE]\n\n"
    faults.b.on(model, sse(at_once, done=False))

    answer = read(faults, model, gate)

    assert (answer.text, answer.stream_error) == (WHOLE, None)
    assert faults.asked(model) == {"a": 1, "b": 1}


@BROKEN
def test_m02_a_differing_answer_is_replaced_by_a_prefill(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("prefill", silent=code == "upstream_timeout"), threading.Event()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks("Something else")), sse(*text_chunks(*WORDS[40:])))

    answer = read(faults, model, gate)

    assert (answer.text, answer.stream_error) == (WHOLE, None)
    assert faults.b.requests[-1].json["messages"][-1] == {"role": "assistant", "content": SENT}


@BROKEN
def test_m01_the_first_error_is_told_when_nobody_goes_on(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume", silent=code == "upstream_timeout"), threading.Event()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks("Something else")))
    faults.c.on(model, error(500))

    answer = read(faults, model, gate)

    assert answer.stream_error is not None
    assert (answer.stream_error["code"], answer.text) == (code, SENT)
    assert all(choice["finish_reason"] is None for each in answer.chunks for choice in each["choices"])


def test_m02_a_prefill_that_is_refused_does_not_hide_the_first_error(faults: FaultBed) -> None:
    model, gate = faults.model("prefill"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(
        model, sse(*text_chunks("Something else")), error(400, error_body("no prefill", "invalid_request_error"))
    )

    answer = read(faults, model, gate)

    assert answer.stream_error is not None
    assert (answer.stream_error["code"], answer.text) == ("upstream_stream_truncated", SENT)


FIXED: dict[str, Body] = {
    "json": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
}


@pytest.mark.parametrize("fields", list(FIXED.values()), ids=list(FIXED))
def test_m02_answers_of_a_fixed_form_are_never_resumed(faults: FaultBed, fields: Body) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))

    answer = read(faults, model, gate, **fields)

    assert (answer.text, faults.asked(model)) == (SENT, {"a": 1})
    assert answer.stream_error is not None


@pytest.mark.parametrize("before", [[], text_chunks("I look. ", finish=None)], ids=["call", "text and call"])
def test_m02_a_tool_call_is_never_resumed(faults: FaultBed, before: list[Body]) -> None:
    model, gate = faults.model("resume"), threading.Event()
    begun = [*before, *tool_chunks(("weather", '{"city": "Be'), finish=None)[bool(before) :]]
    faults.a.on(model, breaking(gate, [Close()], begun))

    answer = read(faults, model, gate, count=len(begun))

    assert answer.stream_error is not None
    assert faults.asked(model) == {"a": 1}


def test_m02_a_stream_may_break_twice(faults: FaultBed) -> None:
    model, first, second = faults.model("resume"), threading.Event(), threading.Event()
    faults.a.on(model, breaking(first, [Close()]))
    faults.b.on(model, breaking(second, [Reset()], text_chunks(*WORDS[:50], finish=None)))
    faults.c.on(model, sse(*text_chunks(*WORDS)))

    with faults.begin(model) as begun:
        events = [begun.next() for _ in range(41)]
        first.set()
        events += [begun.next() for _ in range(10)]
        second.set()
        answer = begun.answer([*events, *begun.rest()])

    assert (answer.text, answer.stream_error) == (WHOLE, None)


def test_m02_heartbeats_go_on_while_another_is_asked(eager: FaultBed) -> None:
    model, gate, late = eager.model("resume"), threading.Event(), threading.Event()
    eager.a.on(model, breaking(gate, [Close()]))
    eager.b.on(model, sse(WaitFor(late), *text_chunks(*WORDS)))

    with eager.begin(model) as begun:
        events = [begun.next() for _ in range(41)]
        gate.set()
        while events[-1] != ": keep-alive":
            events.append(begun.next())
        late.set()
        answer = begun.answer([*events, *begun.rest()])

    assert (answer.text, answer.stream_error) == (WHOLE, None)


def test_m02_a_client_that_leaves_while_another_is_asked(faults: FaultBed) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(model, [Hang()])
    before = len(faults.b.requests)

    with faults.begin(model) as begun:
        for _ in range(41):
            begun.next()
        gate.set()
        seen = faults.b.wait_for(before + 1)

    assert seen.closes_within(2)


@pytest.mark.parametrize("ending", [[Close()], [Reset()], [Hang()], [event(error_body())]], ids=str)
def test_m01_an_early_death_is_invisible_while_the_answer_is_held_back(faults: FaultBed, ending: list[Action]) -> None:
    model = faults.model("hold", silent=isinstance(ending[0], Hang))
    faults.a.on(model, sse(*text_chunks(*WORDS[:2], finish=None), *ending, done=False))
    faults.b.on(model, sse(*text_chunks("Another ", "whole ", "answer")))

    answer = faults.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("Another whole answer", None)
    assert faults.asked(model) == {"a": 1, "b": 1}


def test_m05_a_junk_event_ends_a_stream_that_goes_on_elsewhere(faults: FaultBed) -> None:
    model = faults.model("resume")
    faults.a.on(model, sse(*text_chunks(*WORDS[:30], finish=None), b"data: {junk\n\n", *text_chunks(*WORDS[30:])[1:]))
    faults.b.on(model, sse(*text_chunks(*WORDS)))

    answer = faults.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == (WHOLE, None)
    assert faults.asked(model) == {"a": 1, "b": 1}


@pytest.mark.parametrize("kind", ["twins", "resume", "brief"])
def test_m11_a_client_slower_than_any_deadline_is_waited_for(faults: FaultBed, kind: str) -> None:
    model, text = faults.model(kind, silent=True), "x" * 100_000
    faults.a.on(model, sse(*text_chunks(*[f"{number} {text}" for number in range(300)])))
    request = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    address = (faults.gateway.host, faults.gateway.port)

    with RawClient(*address, timeout_s=20, receive_buffer_bytes=4096) as client:
        client.send(post_chat(*address, request))
        events = client.iter_events(client.read_head())
        begun = [next(events)]
        time.sleep(1.5)  # three times as long as an upstream may be silent
        held = faults.last(model).sent_bytes
        begun += events

    assert held < 15_000_000, "half of it had not been taken yet"
    assert (begun[-1], len(begun)) == ("data: [DONE]", 303)
    assert faults.asked(model) == {"a": 1}
