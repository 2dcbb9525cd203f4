"""The two doors beside chat, as the fault matrix sees them: how each is asked, and how its answers are read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.api.bed import KEY, Answer, user
from tests.api.messages_bed import message_events, post
from tests.support.raw import build_request

from .bed import FaultBed


@dataclass(frozen=True, slots=True)
class Door:
    """How a door is asked, and how its answers are read."""

    request: Callable[..., bytes]
    #: The fields of a question.
    question: Callable[[str], dict[str, Any]]
    #: What a request for an answer of a fixed form says.
    schema: dict[str, Any]
    #: What a tool looks like.
    tool: dict[str, Any]
    #: The text of a whole answer, or of a stream that is complete.
    text: Callable[[Answer, bool], str]
    #: How many tokens a stream says that it had.
    output_tokens: Callable[[Answer], int]
    #: The text that has come of a stream that failed, and its error; an answer or a call that is complete raises.
    failed: Callable[[Answer], tuple[str, str]]
    #: The error of an answer that is one as a whole.
    error: Callable[[Answer], str]
    #: What errors are called here, by chat's codes.
    errors: Mapping[str, str]
    #: The header ``x-should-retry`` of what the gateway's own attempts could not mend.
    should_retry: str | None
    #: What a silent stream is filled with.
    heartbeat: str


def _ask_messages(faults: FaultBed, model: str, **fields: Any) -> bytes:
    return post(faults.gateway, "/v1/messages", {"model": model, "max_tokens": 500, "messages": user(), **fields})


def _messages_told(answer: Answer) -> str:
    return "".join(each["delta"].get("text", "") for each in message_events(answer) if "delta" in each)


def _messages_text(answer: Answer, stream: bool) -> str:
    assert answer.status == 200, answer.body
    if not stream:
        return str(answer.json["content"][0]["text"])
    types = [each["type"] for each in message_events(answer)]
    assert (types[0], types[-1], types.count("message_start")) == ("message_start", "message_stop", 1)
    return _messages_told(answer)


def _messages_failed(answer: Answer) -> tuple[str, str]:
    events = message_events(answer)
    types = [each["type"] for each in events]
    assert not {"message_delta", "message_stop"} & set(types)
    calls = [each["index"] for each in events if each.get("content_block", {}).get("type") == "tool_use"]
    assert not [each for each in events if each["type"] == "content_block_stop" and each["index"] in calls]
    assert types[-1] == "error"
    assert events[-1]["error"]["message"]
    return _messages_told(answer), events[-1]["error"]["type"]


def _ask_responses(faults: FaultBed, model: str, **fields: Any) -> bytes:
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")]
    body = json.dumps({"model": model, "input": "Hi", **fields}).encode()
    return build_request("POST", "/v1/responses", faults.gateway.host, faults.gateway.port, headers=headers, body=body)


def _responses_events(answer: Answer) -> list[dict[str, Any]]:
    """The payloads of a stream's events; a frame without a type is of the type "error"."""
    assert answer.status == 200, answer.body
    return [{"type": "error"} | json.loads(event.rpartition("data: ")[2]) for event in answer.events]


def _responses_told(answer: Answer) -> str:
    return "".join(each["delta"] for each in _responses_events(answer) if each["type"] == "response.output_text.delta")


def _response(answer: Answer, stream: bool) -> dict[str, Any]:
    """The response that was answered, or that a stream ended with."""
    assert answer.status == 200, answer.body
    if not stream:
        return dict(answer.json)
    return dict([each["response"] for each in _responses_events(answer) if "response" in each][-1])


def _responses_text(answer: Answer, stream: bool) -> str:
    found = _response(answer, stream)
    assert found["status"] == "completed"
    parts = [part for item in found["output"] if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in parts)
    if stream:
        assert _responses_told(answer) == text
        numbers = [each["sequence_number"] for each in _responses_events(answer)]
        assert numbers == list(range(len(numbers)))
    return text


def _responses_failed(answer: Answer) -> tuple[str, str]:
    events = _responses_events(answer)
    types = [each["type"] for each in events]
    assert not {"response.completed", "response.function_call_arguments.done"} & set(types)
    begun, done = (
        [each["output_index"] for each in events if each["type"] == f"response.output_item.{step}"]
        for step in ("added", "done")
    )
    assert done == begun[:-1], "the last one is not whole"
    assert types[-2:] == ["response.failed", "error"]
    failed = events[-2]["response"]
    assert (failed["status"], len(failed["output"])) == ("failed", len(done))
    return _responses_told(answer), events[-1]["error"]["code"]


_FORM = {"type": "json_schema", "schema": {"type": "object"}}
_PARAMETERS = {"type": "object"}

MESSAGES = Door(
    request=_ask_messages,
    question=lambda text: {"messages": user(text)},
    schema={"output_config": {"format": _FORM}},
    tool={"name": "weather", "input_schema": _PARAMETERS},
    text=_messages_text,
    output_tokens=lambda answer: int(message_events(answer)[-2]["usage"]["output_tokens"]),
    failed=_messages_failed,
    error=lambda answer: str(answer.json["error"]["type"]),
    errors={
        "upstream_stream_truncated": "api_error",
        "upstream_invalid_response": "api_error",
        "upstream_timeout": "timeout_error",
        "overloaded": "overloaded_error",
        "rate_limit_exceeded": "rate_limit_error",
    },
    should_retry="false",
    heartbeat="event: ping",
)
_CODES = list(MESSAGES.errors)
RESPONSES = Door(
    request=_ask_responses,
    question=lambda text: {"input": text},
    schema={"text": {"format": _FORM | {"name": "x"}}},
    tool={"type": "function", "name": "weather", "parameters": _PARAMETERS},
    text=_responses_text,
    output_tokens=lambda answer: int(_response(answer, stream=True)["usage"]["output_tokens"]),
    failed=_responses_failed,
    error=lambda answer: str(answer.error["code"]),
    errors=dict(zip(_CODES, _CODES, strict=True)),
    should_retry=None,
    heartbeat="event: response.in_progress",
)
DOORS = {"messages": MESSAGES, "responses": RESPONSES}
