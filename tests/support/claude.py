"""Anthropic's dialect for the scripted upstream: whole event streams in its grammar, errors, and model lists."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .actions import Action, Script
from .http1 import HeaderItems, Json
from .replies import Payload, json_reply, sse
from .seen import Seen
from .upstream import ScriptedUpstream

CLAUDE = "claude-opus-5"
Block: TypeAlias = tuple[Payload, list[Payload]]


def text_block(*pieces: str, citations: Sequence[Payload] = ()) -> Block:
    """A block of text: how it starts, and its deltas."""
    deltas: list[Payload] = [{"type": "text_delta", "text": piece} for piece in pieces]
    return {"type": "text", "text": ""}, deltas + [{"type": "citations_delta", "citation": each} for each in citations]


def thinking_block(*pieces: str, signature: str = "sig==") -> Block:
    """A block of thinking, signed at its end."""
    deltas: list[Payload] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    signed: Payload = {"type": "signature_delta", "signature": signature}
    return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]


def redacted_block(data: str = "opaque") -> Block:
    """A block of thinking that only the provider can read."""
    return {"type": "redacted_thinking", "data": data}, []


def tool_block(call_id: str, name: str, *pieces: str, kind: str = "tool_use") -> Block:
    """A tool call whose input comes in these pieces; the first one is empty, as Anthropic sends it."""
    deltas: list[Payload] = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    return {"type": kind, "id": call_id, "name": name, "input": {}}, deltas


def claude_events(
    *blocks: Block,
    stop: str | None = "end_turn",
    model: str = CLAUDE,
    usage: Payload | None = None,
    end_usage: Payload | None = None,
    message_id: str = "msg_01",
    **delta: Json,
) -> list[Payload]:
    """The events of one message: start, blocks, delta (unless `stop` is None) and stop, with a ping among them."""
    begun = {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    message: Payload = {
        "id": message_id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage or begun,
    }  # fmt: skip
    events: list[Payload] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    for index, (start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": each} for each in deltas]
        events.append({"type": "content_block_stop", "index": index})
    if stop is not None:
        ended = {"stop_reason": stop, "stop_sequence": None, **delta}
        events.append({"type": "message_delta", "delta": ended, "usage": end_usage or {"output_tokens": 2}})
        events.append({"type": "message_stop"})
    return events


def claude_bytes(*events: Mapping[str, Json]) -> bytes:
    """The events as they go over the wire, each under its name."""
    return "".join(map(_framed, events)).encode()


def claude_sse(*events: Mapping[str, Json] | Action, headers: HeaderItems | None = None) -> list[Action]:
    """An answer of these events; an action among them is done in its place."""
    pieces = [_framed(each) if isinstance(each, Mapping) else each for each in events]
    return sse(*pieces, done=False, headers=headers)


def claude_error(
    status: int, kind: str, message: str = "scripted failure", headers: HeaderItems | None = None, **more: Json
) -> list[Action]:
    """A failure in Anthropic's envelope."""
    return json_reply(claude_error_body(kind, message, **more), status, headers)


def claude_error_body(kind: str, message: str = "scripted failure", **more: Json) -> Payload:
    """Anthropic's error object; the payload of an error inside a stream too."""
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_scripted"}


def claude_model(model_id: str, **more: Json) -> Payload:
    """An entry of Anthropic's model list."""
    given = {"display_name": model_id.title(), "created_at": "2025-11-24T00:00:00Z", "lifecycle": "active"}
    return {"type": "model", "id": model_id, **given, **more}


def model_page(*entries: Payload, more: bool = False) -> list[Action]:
    """One page of a model list."""
    last = entries[-1]["id"] if entries else None
    return json_reply({"data": list(entries), "has_more": more, "first_id": None, "last_id": last})


def claude_upstream(*models: str) -> ScriptedUpstream:
    """A scripted upstream that says "Hello" in Anthropic's dialect."""
    upstream = ScriptedUpstream(default=_say_hello)
    upstream.on_models(model_page(*map(claude_model, models)))
    return upstream


def _say_hello(seen: Seen) -> Script:
    return claude_sse(*claude_events(text_block("Hel", "lo"), model=seen.model))


def _framed(payload: Mapping[str, Json]) -> str:
    return f"event: {payload['type']}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n"
