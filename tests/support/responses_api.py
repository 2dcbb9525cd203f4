"""The Responses dialect for the scripted upstream: whole answers and event streams."""

import json
from collections.abc import Sequence

from .actions import Action, Script
from .http1 import Json
from .replies import Payload, json_reply, sse

UPSTREAM_ID = "resp_of_the_upstream"


def message(text: str, index: int = 0) -> Payload:
    """A message of the model."""
    part: Payload = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": f"msg_up{index}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def call(name: str, arguments: str, index: int = 0) -> Payload:
    """The call of a function."""
    head: Payload = {"id": f"fc_up{index}", "type": "function_call", "status": "completed", "call_id": f"call_{index}"}
    return head | {"name": name, "arguments": arguments}


def response(*output: Payload, status: str = "completed", **more: Json) -> Payload:
    """A response object."""
    usage: Payload = {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 11,
    }  # fmt: skip
    return {
        "id": UPSTREAM_ID, "object": "response", "created_at": 1_700_000_000, "status": status, "error": None,
        "incomplete_details": None, "model": "upstream-name", "output": list(output), "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "previous_response_id": None, "store": False, "usage": usage, **more,
    }  # fmt: skip


def whole(*output: Payload, **more: Json) -> list[Action]:
    """A whole answer."""
    return json_reply(response(*output, **more))


def opening() -> list[Payload]:
    """The two events before any content."""
    begun = response(status="in_progress") | {"usage": None}
    return [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]


def text_events(*pieces: str) -> list[Payload]:
    """The events of one message, in pieces."""
    at: Payload = {"item_id": "msg_up0", "output_index": 0, "content_index": 0}
    done = message("".join(pieces))
    return [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": done | {"content": [], "status": "in_progress"},
        },
        {"type": "response.content_part.added", **at, "part": {"type": "output_text", "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces),
        {"type": "response.output_text.done", **at, "text": "".join(pieces)},
        {"type": "response.content_part.done", **at, "part": dict(done["content"][0])},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
    ]


def completed(*output: Payload, **more: Json) -> Payload:
    """The last event of an answer."""
    ended = response(*output, **more)
    return {"type": f"response.{ended['status']}", "response": ended}


def stream(*events: Payload | Action) -> Script:
    """A stream of events, numbered and each under its name."""
    return sse(*_framed(events), done=False)


def _framed(events: Sequence[Payload | Action]) -> list[str | Action]:
    found: list[str | Action] = []
    for number, each in enumerate(events):
        if isinstance(each, dict):
            numbered = each | {"sequence_number": number}
            found.append(f"event: {each['type']}\ndata: {json.dumps(numbered, ensure_ascii=False)}\n\n")
        else:
            found.append(each)
    return found


def text_stream(*pieces: str) -> Script:
    """A whole stream of one message."""
    return stream(*opening(), *text_events(*pieces), completed(message("".join(pieces))))
