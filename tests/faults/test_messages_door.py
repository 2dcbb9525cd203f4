"""The fault matrix through ``/v1/messages``: the way behind the door is the one of chat, its words are Anthropic's."""

import threading
from typing import Any

import pytest

from tests.api.bed import Answer, user
from tests.api.messages_bed import message_events, post
from tests.api.test_errors import Fault, script_of
from tests.support import Close, Hang, WaitFor, error, sse, text_chunks, tokens, tool_chunks

from .bed import FaultBed
from .test_after_content import BROKEN, SENT, WHOLE, WORDS, breaking
from .test_before_content import INVISIBLE, OWN


def request(faults: FaultBed, model: str, **fields: Any) -> bytes:
    """A request for a message."""
    return post(faults.gateway, "/v1/messages", {"model": model, "max_tokens": 500, "messages": user(), **fields})


def told(answer: Answer) -> str:
    """The text that the pieces of a stream amount to."""
    deltas = [each["delta"] for each in message_events(answer) if each["type"] == "content_block_delta"]
    return "".join(delta["text"] for delta in deltas)


def text_of(answer: Answer, stream: bool) -> str:
    """The text of an answer that is complete."""
    assert answer.status == 200, answer.body
    if not stream:
        return str(answer.json["content"][0]["text"])
    types = [each["type"] for each in message_events(answer)]
    assert (types[0], types[-1], types.count("message_start")) == ("message_start", "message_stop", 1)
    return told(answer)


def check_failed(answer: Answer) -> dict[str, Any]:
    """The error that a stream ends with; it has no end of a message."""
    events = message_events(answer)
    assert not {"message_delta", "message_stop"} & {each["type"] for each in events}
    assert events[-1]["type"] == "error"
    return dict(events[-1]["error"])


@pytest.mark.parametrize("fault", INVISIBLE, ids=[fault.id for fault in INVISIBLE])
def test_another_answers_before_the_first_content(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(request(faults, model, stream=stream))

    assert text_of(answer, stream) == "Hello"
    assert faults.record_of(answer)["deployment"] == f"b/{model}"


@pytest.mark.parametrize("fault", OWN, ids=[fault.id for fault in OWN])
def test_what_is_wrong_in_the_request_has_its_own_status(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("only")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(request(faults, model, stream=stream))

    assert answer.status == fault.status
    assert answer.json["error"]["message"]


@BROKEN
def test_an_equal_answer_goes_on_without_a_seam(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume"), threading.Event()
    gate.set()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks(*WORDS, usage=tokens(3, 60))))

    answer = faults.send(request(faults, model, stream=True))

    assert text_of(answer, stream=True) == WHOLE
    assert message_events(answer)[-2]["usage"]["output_tokens"] == 60


@BROKEN
def test_a_stream_that_nobody_goes_on_with_fails(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume"), threading.Event()
    gate.set()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks("Something else")))
    faults.c.on(model, error(500))

    answer = faults.send(request(faults, model, stream=True))

    assert check_failed(answer)["message"]
    assert SENT.startswith(told(answer))


@pytest.mark.parametrize("ending", [Close(), Hang()], ids=["cut", "silent"])
def test_half_a_call_is_never_handed_over(faults: FaultBed, ending: Any) -> None:
    model = faults.model("only")
    faults.a.on(model, sse(*tool_chunks(("f", '{"a"'), finish=None), ending, done=False))

    answer = faults.send(request(faults, model, stream=True, tools=[{"name": "f", "input_schema": {}}]))

    check_failed(answer)
    assert "content_block_stop" not in [each["type"] for each in message_events(answer)]


def test_when_all_are_silent_it_is_504(faults: FaultBed, stream: bool) -> None:
    model = faults.model("three")
    for upstream in (faults.a, faults.b, faults.c):
        upstream.on(model, [Hang()])

    answer = faults.send(request(faults, model, stream=stream))

    assert (answer.status, answer.json["error"]["type"]) == (504, "timeout_error")
    assert answer.header("x-should-retry") == "false"


def test_when_none_can_be_reached_it_is_529(faults: FaultBed, stream: bool) -> None:
    answer = faults.send(request(faults, faults.model("hopeless"), stream=stream))

    assert (answer.status, answer.json["error"]["type"]) == (529, "overloaded_error")
    assert answer.header("x-should-retry") == "false"


def test_a_client_that_leaves_amid_a_silent_stream(faults: FaultBed) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, sse(*text_chunks("a ", "b ", finish=None), WaitFor(gate), done=False))
    with faults.connect() as client:
        client.send(request(faults, model, stream=True))
        client.read_head()

    assert faults.last(model).closed.wait(1)
    gate.set()
