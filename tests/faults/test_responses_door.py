"""The fault matrix through ``/v1/responses``: the way behind the door is the one of chat, its words are its own."""

import json
import threading
from typing import Any

import pytest

from tests.api.bed import KEY, Answer
from tests.api.test_errors import Fault, script_of
from tests.support import Close, Hang, WaitFor, error, sse, text_chunks, tokens, tool_chunks
from tests.support.raw import build_request

from .bed import FaultBed
from .test_after_content import BROKEN, SENT, WHOLE, WORDS, breaking
from .test_before_content import INVISIBLE, OWN


def request(faults: FaultBed, model: str, **fields: Any) -> bytes:
    """A request for a response."""
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")]
    body = json.dumps({"model": model, "input": "Hi", **fields}).encode()
    return build_request("POST", "/v1/responses", faults.gateway.host, faults.gateway.port, headers=headers, body=body)


def payloads(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream; a frame without a type is of the type "error"."""
    assert answer.status == 200, answer.body
    return [{"type": "error"} | json.loads(event.rpartition("data: ")[2]) for event in answer.events]


def response(answer: Answer, stream: bool) -> dict[str, Any]:
    """The response that was answered, or that a stream ended with."""
    assert answer.status == 200, answer.body
    found = [each["response"] for each in payloads(answer) if "response" in each] if stream else [answer.json]
    return dict(found[-1])


def text_of(found: dict[str, Any]) -> str:
    """The text of all messages of a response."""
    parts = [part for item in found["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


def told(answer: Answer) -> str:
    """The text that the pieces of a stream amount to."""
    return "".join(each["delta"] for each in payloads(answer) if each["type"] == "response.output_text.delta")


@pytest.mark.parametrize("fault", INVISIBLE, ids=[fault.id for fault in INVISIBLE])
def test_another_answers_before_the_first_content(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(request(faults, model, stream=stream))

    found = response(answer, stream)
    assert (text_of(found), found["status"], found["model"]) == ("Hello", "completed", model)
    assert faults.record_of(answer)["deployment"] == f"b/{model}"


@pytest.mark.parametrize("fault", OWN, ids=[fault.id for fault in OWN])
def test_what_is_wrong_in_the_request_has_its_own_status(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("only")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(request(faults, model, stream=stream))

    assert answer.status == fault.status
    assert answer.error["message"]


@BROKEN
def test_an_equal_answer_goes_on_without_a_seam(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume"), threading.Event()
    gate.set()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks(*WORDS, usage=tokens(3, 60))))

    answer = faults.send(request(faults, model, stream=True))

    found = response(answer, stream=True)
    assert told(answer) == text_of(found) == WHOLE
    assert (found["status"], found["usage"]["output_tokens"]) == ("completed", 60)
    assert [each["sequence_number"] for each in payloads(answer)] == list(range(len(payloads(answer))))


@BROKEN
def test_a_stream_that_nobody_goes_on_with_fails(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume"), threading.Event()
    gate.set()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks("Something else")))
    faults.c.on(model, error(500))

    answer = faults.send(request(faults, model, stream=True))

    failed, frame = payloads(answer)[-2:]
    assert (failed["type"], failed["response"]["status"], failed["response"]["output"]) == (
        "response.failed",
        "failed",
        [],
    )
    assert (frame["type"], frame["error"]["code"]) == ("error", code)
    assert SENT.startswith(told(answer))
    assert not {"response.completed", "response.output_item.done"} & {each["type"] for each in payloads(answer)}


@pytest.mark.parametrize("ending", [Close(), Hang()], ids=["cut", "silent"])
def test_half_a_call_is_never_handed_over(faults: FaultBed, ending: Any) -> None:
    model = faults.model("only")
    faults.a.on(model, sse(*tool_chunks(("f", '{"a"'), finish=None), ending, done=False))

    answer = faults.send(request(faults, model, stream=True, tools=[{"type": "function", "name": "f"}]))

    types = [each["type"] for each in payloads(answer)]
    assert types[-2:] == ["response.failed", "error"]
    assert "response.function_call_arguments.done" not in types


def test_when_all_are_silent_it_is_504(faults: FaultBed, stream: bool) -> None:
    model = faults.model("three")
    for upstream in (faults.a, faults.b, faults.c):
        upstream.on(model, [Hang()])

    answer = faults.send(request(faults, model, stream=stream))

    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


def test_a_client_that_leaves_amid_a_silent_stream(faults: FaultBed) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, sse(*text_chunks("a ", "b ", finish=None), WaitFor(gate), done=False))
    with faults.connect() as client:
        client.send(request(faults, model, stream=True))
        client.read_head()

    assert faults.last(model).closed.wait(1)
    gate.set()
