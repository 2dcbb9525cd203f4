"""Builders of scripts and payloads: what an upstream that speaks OpenAI's dialect answers.

Those that end in `_chunks`, and `completion`, give payloads (dicts to edit at will); `reply`, `json_reply`, `error`,
`chunked` and `sse` give scripts, lists of actions that may be cut, joined and interleaved with other actions.
"""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TypeAlias

from .actions import Action, Script, Send
from .http1 import HeaderItems, Json, chunk, merged, render_head

Payload: TypeAlias = dict[str, Json]

MODEL = "scripted"
CREATED = 1_700_000_000
DONE = b"data: [DONE]\n\n"


def reply(body: bytes, status: int = 200, headers: HeaderItems | None = None) -> list[Action]:
    """An answer with Content-Length; a header given here replaces the default of that name, also a false length."""
    return [Send(_status_head(status, merged({"Content-Length": str(len(body))}, headers)) + body)]


def json_reply(obj: Json, status: int = 200, headers: HeaderItems | None = None) -> list[Action]:
    """An answer whose body is the object as JSON."""
    return reply(json.dumps(obj).encode(), status, merged({"Content-Type": "application/json"}, headers))


def error(status: int, body: Json = None, headers: HeaderItems | None = None) -> list[Action]:
    """A failure. A body of str or bytes goes out as text/html, anything else as JSON; None gives OpenAI's shape."""
    if isinstance(body, str | bytes):
        raw = body.encode() if isinstance(body, str) else body
        return reply(raw, status, merged({"Content-Type": "text/html"}, headers))
    return json_reply(error_body() if body is None else body, status, headers)


def error_body(message: str = "scripted failure", kind: str = "server_error", code: str | None = None) -> Payload:
    """OpenAI's error object; the payload of an error inside a stream too."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def chunked(*pieces: bytes | Action, status: int = 200, headers: HeaderItems | None = None) -> list[Action]:
    """An answer in the chunked coding, one chunk for each piece; an action among the pieces is done in its place.

    The last chunk comes by itself; to leave it out, let the pieces end with `Close` or `Reset`.
    """
    head = _status_head(status, merged({"Transfer-Encoding": "chunked"}, headers))
    body = [Send(chunk(piece)) if isinstance(piece, bytes) else piece for piece in pieces]
    return [Send(head), *body, Send(chunk(b""))]


def sse(
    *payloads: Mapping[str, Json] | str | bytes | Action, done: bool = True, headers: HeaderItems | None = None
) -> list[Action]:
    """A stream of events in the chunked coding, one chunk for each; `done` adds `data: [DONE]`.

    A mapping becomes an event, str and bytes are sent as they are, an action is done in its place:
    `sse(first, WaitFor(gate), second, Reset())`.
    """
    pieces = [_piece(payload) for payload in payloads] + ([DONE] if done else [])
    return chunked(*pieces, headers=merged({"Content-Type": "text/event-stream; charset=utf-8"}, headers))


def _piece(payload: Mapping[str, Json] | str | bytes | Action) -> bytes | Action:
    match payload:
        case Mapping():
            return event(payload)
        case str():
            return payload.encode()
        case _:
            return payload


def event(payload: Mapping[str, Json]) -> bytes:
    """One event as a stream carries it."""
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def joined(script: Script) -> bytes:
    """The bytes of a script that only sends, to be cut elsewhere: `[Chop(joined(sse(...)), 1)]`."""
    return b"".join([_sent(action) for action in script])


def _sent(action: Action) -> bytes:
    if not isinstance(action, Send):
        raise TypeError(f"{action} cannot be joined: the script must hold nothing but Send")
    return action.data


def tokens(prompt: int, completion: int) -> Payload:
    """A usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(
    text: str | None, *, model: str = MODEL, finish: str = "stop", usage: Payload | None = None, **message: Json
) -> Payload:
    """A chat.completion; further fields of the message, such as `tool_calls`, by name."""
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None, **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": usage or tokens(9, 2),
    }


def text_chunks(
    *pieces: str, finish: str | None = "stop", model: str = MODEL, usage: Payload | None = None
) -> list[Payload]:
    """The chunks of a streamed text in OpenAI's order: role, pieces, finish (unless None), usage (if given)."""
    opening: Payload = {"role": "assistant", "content": "", "refusal": None}
    deltas: list[Payload] = [opening, *({"content": piece} for piece in pieces)]
    return _chunks(deltas, finish, model, usage)


def tool_chunks(
    *calls: tuple[str, *tuple[str, ...]],
    finish: str | None = "tool_calls",
    model: str = MODEL,
    usage: Payload | None = None,
) -> list[Payload]:
    """The chunks of streamed tool calls, each call its name and then the pieces of its arguments.

    `tool_chunks(("weather", '{"city"', ':"Bern"}'))`; the ids are call_0, call_1 and so on.
    """
    deltas: list[Payload] = [{"role": "assistant", "content": None, "refusal": None}]
    for index, (name, *arguments) in enumerate(calls):
        opening = {"index": index, "id": f"call_{index}", "type": "function"}
        deltas.append({"tool_calls": [{**opening, "function": {"name": name, "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in arguments]
    return _chunks(deltas, finish, model, usage)


def custom_call(name: str, *pieces: str, stream: bool, finish: str = "tool_calls") -> list[Action]:
    """An answer that calls a custom tool, with its input in pieces; "call_0" is its id."""
    head: Payload = {"id": "call_0", "type": "custom"}
    if not stream:
        call = {**head, "custom": {"name": name, "input": "".join(pieces)}}
        return json_reply(completion(None, finish=finish, tool_calls=[call]))
    opening: Payload = {"index": 0, **head, "custom": {"name": name, "input": ""}}
    calls: list[Payload] = [opening, *({"index": 0, "custom": {"input": piece}} for piece in pieces)]
    return sse(*_chunks(({"tool_calls": [call]} for call in calls), finish, MODEL, None))


def _chunks(deltas: Iterable[Payload], finish: str | None, model: str, usage: Payload | None) -> list[Payload]:
    common = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": CREATED, "model": model}
    choices = [_choice(delta, None) for delta in deltas] + ([_choice({}, finish)] if finish else [])
    if usage is None:
        return [{**common, "choices": [choice]} for choice in choices]
    return [
        *({**common, "choices": [choice], "usage": None} for choice in choices),
        {**common, "choices": [], "usage": usage},
    ]


def _choice(delta: Payload, finish: str | None) -> Payload:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _status_head(status: int, headers: HeaderItems) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Scripted"
    return render_head(f"HTTP/1.1 {status} {reason}", headers)
