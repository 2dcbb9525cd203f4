"""The rest of the fault matrix through ``/v1/messages`` and ``/v1/responses``: what groups, clients and attackers do.

What both doors make of faults before content, and of streams that break, is in the two files of their own.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.bed import Answer, user
from tests.api.messages_bed import message_events
from tests.api.test_errors import TOO_LONG
from tests.support import (
    Action,
    Close,
    Hang,
    Reset,
    Send,
    WaitFor,
    error,
    error_body,
    event,
    sse,
    text_chunks,
    tool_chunks,
)

from . import test_messages_door as messages
from . import test_responses_door as responses
from .bed import FaultBed
from .test_after_content import SENT, WHOLE, WORDS, breaking
from .test_hostile import ATTACKS, CODERS, ODD, TYPES, encoded, plain


@dataclass(frozen=True, slots=True)
class Door:
    """How a door is asked, and how its answers are read."""

    request: Callable[..., bytes]
    #: The text of a whole answer, or of a stream that is complete.
    text: Callable[[Answer, bool], str]
    #: The text that has come of a stream that failed; an answer that is complete raises.
    failed: Callable[[Answer], str]
    #: What a request for an answer of a fixed form says.
    schema: dict[str, Any]
    #: What a tool looks like.
    tool: dict[str, Any]
    #: What a silent stream is filled with.
    heartbeat: str


def _messages_failed(answer: Answer) -> str:
    messages.check_failed(answer)
    return "".join(each["delta"].get("text", "") for each in message_events(answer) if "delta" in each)


def _responses_text(answer: Answer, stream: bool) -> str:
    found = responses.response(answer, stream)
    assert found["status"] == "completed"
    return responses.text_of(found)


def _responses_failed(answer: Answer) -> str:
    types = [each["type"] for each in responses.payloads(answer)]
    assert types[-2:] == ["response.failed", "error"]
    return responses.told(answer)


#: The last word that is sent before a stream breaks.
LAST = "word39 "
FORM = {"type": "json_schema", "schema": {"type": "object"}}
DOORS = {
    "messages": Door(
        messages.request,
        messages.text_of,
        _messages_failed,
        {"output_config": {"format": FORM}},
        {"name": "weather", "input_schema": {"type": "object"}},
        "event: ping",
    ),
    "responses": Door(
        responses.request,
        _responses_text,
        _responses_failed,
        {"text": {"format": FORM | {"name": "x"}}},
        {"type": "function", "name": "weather", "parameters": {"type": "object"}},
        "event: response.in_progress",
    ),
}


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest) -> Door:
    """Each of the two doors."""
    return DOORS[request.param]


def read(faults: FaultBed, request: bytes, *steps: tuple[str, Callable[[], object]]) -> Answer:
    """The answer to a stream; each step is done when an event with its text has come, one after the other."""
    left = list(steps)
    with faults.connect() as client:
        client.send(request)
        head = client.read_head()
        events: list[str] = []
        for each in client.iter_events(head):
            events.append(each)
            if left and left[0][0] in each:
                left.pop(0)[1]()
    return Answer(head.status, head.headers, "".join(f"{each}\n\n" for each in events).encode())


# Streams that break, in groups that go on


def test_m02_a_differing_answer_is_replaced_by_a_prefill(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("prefill"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(model, sse(*text_chunks("Something else")), sse(*text_chunks(*WORDS[40:])))

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert door.text(answer, True) == WHOLE
    assert faults.b.requests[-1].json["messages"][-1] == {"role": "assistant", "content": SENT}


def test_m02_a_prefill_that_is_refused_does_not_hide_the_first_error(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("prefill"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    refusal = error(400, error_body("no prefill", "invalid_request_error"))
    faults.b.on(model, sse(*text_chunks("Something else")), refusal)

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert door.failed(answer) == SENT
    assert "no prefill" not in answer.body.decode()


def test_m02_a_stream_may_break_twice(faults: FaultBed, door: Door) -> None:
    model, first, second = faults.model("resume"), threading.Event(), threading.Event()
    second.set()
    faults.a.on(model, breaking(first, [Close()]))
    faults.b.on(model, breaking(second, [Reset()], text_chunks(*WORDS[:50], finish=None)))
    faults.c.on(model, sse(*text_chunks(*WORDS)))

    assert door.text(read(faults, door.request(faults, model, stream=True), (LAST, first.set)), True) == WHOLE
    assert faults.asked(model) == {"a": 1, "b": 1, "c": 1}


def test_m02_heartbeats_go_on_while_another_is_asked(eager: FaultBed, door: Door) -> None:
    model, gate, late = eager.model("resume"), threading.Event(), threading.Event()
    eager.a.on(model, breaking(gate, [Close()]))
    eager.b.on(model, sse(WaitFor(late), *text_chunks(*WORDS)))

    steps = [(LAST, gate.set), (door.heartbeat, late.set)]
    answer = read(eager, door.request(eager, model, stream=True), *steps)

    assert late.is_set()
    assert door.text(answer, True) == WHOLE


def test_m02_a_client_that_leaves_while_another_is_asked(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(model, [Hang()])
    before = len(faults.b.requests)

    with faults.connect() as client:
        client.send(door.request(faults, model, stream=True))
        events = client.iter_events(client.read_head())
        while LAST not in next(events):
            pass
        gate.set()
        seen = faults.b.wait_for(before + 1)

    assert seen.closed.wait(2)


def test_m02_answers_of_a_fixed_form_are_never_resumed(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))

    answer = read(faults, door.request(faults, model, stream=True, **door.schema), (LAST, gate.set))

    assert (door.failed(answer), faults.asked(model)) == (SENT, {"a": 1})


def test_m02_a_tool_call_is_never_resumed(faults: FaultBed, door: Door) -> None:
    model = faults.model("resume")
    begun = [*text_chunks("I look. ", finish=None), *tool_chunks(("weather", '{"city": "Be'), finish=None)[1:]]
    faults.a.on(model, sse(*begun, Close(), done=False))

    answer = faults.send(door.request(faults, model, stream=True, tools=[door.tool]))

    assert door.failed(answer) == "I look. "
    assert faults.asked(model) == {"a": 1}


@pytest.mark.parametrize("ending", [[Close()], [Reset()], [Hang()], [event(error_body())]], ids=str)
def test_m01_an_early_death_is_invisible_while_the_answer_is_held_back(
    faults: FaultBed, door: Door, ending: list[Action]
) -> None:
    model = faults.model("hold")
    faults.a.on(model, sse(*text_chunks(*WORDS[:2], finish=None), *ending, done=False))
    faults.b.on(model, sse(*text_chunks("Another ", "whole ", "answer")))

    answer = faults.send(door.request(faults, model, stream=True))

    assert door.text(answer, True) == "Another whole answer"
    assert faults.asked(model) == {"a": 1, "b": 1}


def test_m05_a_junk_event_ends_a_stream_that_goes_on_elsewhere(faults: FaultBed, door: Door) -> None:
    model = faults.model("resume")
    faults.a.on(model, sse(*text_chunks(*WORDS[:30], finish=None), b"data: {junk\n\n", *text_chunks(*WORDS[30:])[1:]))
    faults.b.on(model, sse(*text_chunks(*WORDS)))

    assert door.text(faults.send(door.request(faults, model, stream=True)), True) == WHOLE
    assert faults.asked(model) == {"a": 1, "b": 1}


# The request, the account, and clients that leave


def test_u12_an_account_without_credit_is_left_alone(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, error(429, error_body("pay", "insufficient_quota", "insufficient_quota")))

    for _ in range(3):
        assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "Hello"

    assert faults.asked(model) == {"a": 1, "b": 3}


def test_u18_a_context_that_is_too_small_leads_to_a_fallback_and_to_no_target(
    faults: FaultBed, door: Door, stream: bool
) -> None:
    spare, twins = faults.model("spare"), faults.model("twins")
    for model in (spare, twins):
        faults.a.on(model, error(400, TOO_LONG))

    answered, refused = (faults.send(door.request(faults, model, stream=stream)) for model in (spare, twins))

    assert door.text(answered, stream) == "Hello"
    assert refused.status == 400
    assert (faults.asked(spare), faults.asked(twins)) == ({"a": 1, "b": 1}, {"a": 1})


def test_u17_a_refusal_of_content_goes_nowhere(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(400, error_body("not that", "invalid_request_error", "content_filter")))

    answer = faults.send(door.request(faults, model, stream=stream))

    assert (answer.status, faults.asked(model)) == (400, {"a": 1})
    assert "not that" in answer.json["error"]["message"]


def test_u06_a_large_request_is_sent_again_whole(faults: FaultBed, door: Door) -> None:
    model, text = faults.model("spare"), "x" * 5_000_000
    faults.a.on(model, [Reset()])
    given = {"messages": user(text)} if door is DOORS["messages"] else {"input": text}

    assert door.text(faults.send(door.request(faults, model, **given)), False) == "Hello"
    assert faults.b.requests[-1].json["messages"] == user(text)


def test_c02_a_client_that_leaves_ends_both_questions_of_a_hedge(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("hedge")
    faults.a.on(model, [Hang()])
    faults.b.on(model, [Hang()])
    before = {name: len(faults.upstreams[name].requests) for name in "ab"}

    with faults.connect() as client:
        client.send(door.request(faults, model, stream=stream))
        asked = [faults.upstreams[name].wait_for(before[name] + 1) for name in "ab"]

    assert all(seen.closed.wait(2) for seen in asked)


# What an upstream may not do, and what it may


@pytest.mark.parametrize("label", CODERS)
def test_u26_an_encoded_answer_is_read(faults: FaultBed, door: Door, label: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, encoded(CODERS[label](plain(stream)), label, stream))

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "from a"
    assert faults.asked(model) == {"a": 1}


@pytest.mark.parametrize("name", ATTACKS)
def test_u26_u27_u28_another_answers(faults: FaultBed, door: Door, name: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, ATTACKS[name](stream))

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "Hello"
    assert faults.asked(model) == {"a": 1, "b": 1}


@pytest.mark.parametrize("odd", list(ODD.values()), ids=list(ODD))
def test_u29_an_odd_head_is_no_reason_to_ask_another(faults: FaultBed, door: Door, odd: bytes, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, [Send(odd.replace(b"{}", TYPES[stream].encode()) + plain(stream)), Close()])

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "from a"
    assert faults.asked(model) == {"a": 1}
