"""What changes in a body on its way to an OpenAI-compatible upstream: as little as possible."""

import operator
from dataclasses import dataclass
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.reasoning_names import renamed

#: What we add to answers beyond OpenAI's format: it is for clients, and no upstream knows it.
_OURS = frozenset({"provider_specific", "native_finish_reason"})
#: Where in a message it may stand. Elsewhere it is a client's own data, which is not touched.
_HOLDERS = frozenset({"content", "tool_calls", "function_call", "function", "custom"})
_MAY_HOLD = _OURS | _HOLDERS
#: In a message whose content is a text these alone are to be looked at.
_HELD = _MAY_HOLD - {"content"}
#: Keys that answers carry and that upstreams refuse when a client replays them with the value given here.
_EMPTY_ECHOES: tuple[tuple[str, Any], ...] = (
    ("tool_calls", []), ("audio", None), ("function_call", None), ("refusal", None),
)  # fmt: skip
#: Keys that only answers have.
_ECHOES = ("annotations", "citations", "parsed", "thinking_blocks")


@dataclass(frozen=True, slots=True)
class Quirks:
    """What one server wants differently."""

    #: Ask for usage in streams.
    stream_usage: bool = True
    #: Send ``developer`` messages as ``system``.
    developer_as_system: bool = False


def prepare(body: JSONObject, quirks: Quirks, reasoning_name: str | None = None) -> JSONObject:
    """Return the body to send; ``body`` itself, and every value that need not change, stays as it is.

    ``reasoning_name`` is what the upstream calls reasoning; None leaves the client's word.
    """
    prepared = {key: value for key, value in body.items() if key not in _OURS}
    messages = _without_ours(body["messages"])
    prepared["messages"] = [_message(message, quirks, reasoning_name) for message in messages]
    if body.get("stream") and quirks.stream_usage:
        prepared["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return prepared


def _without_ours(value: Any) -> Any:
    """Return messages, parts or calls without our own extensions; the value itself when it holds none."""
    if isinstance(value, list):
        entries = [_without_ours(each) for each in value]
        return value if all(map(operator.is_, entries, value)) else entries
    if not isinstance(value, dict):
        return value
    if type(value.get("content")) is str and _HELD.isdisjoint(value):
        return value  # as nearly always
    if _MAY_HOLD.isdisjoint(value):
        return value  # nearly every part of a content
    kept = {key: _without_ours(each) if key in _HOLDERS else each for key, each in value.items() if key not in _OURS}
    same = len(kept) == len(value) and all(map(operator.is_, kept.values(), value.values()))
    return value if same else kept


def _message(message: JSONObject, quirks: Quirks, reasoning_name: str | None) -> JSONObject:
    """Return a message without what only answers carry."""
    if message["role"] == "developer" and quirks.developer_as_system:
        return {**message, "role": "system"}
    if message["role"] != "assistant":
        return message
    if reasoning_name is not None:
        message = renamed(message, reasoning_name)
    drop = {key for key in _ECHOES if key in message}
    drop |= {key for key, empty in _EMPTY_ECHOES if key in message and message[key] == empty}
    calls = message.get("tool_calls")
    indexed = isinstance(calls, list) and any(isinstance(call, dict) and "index" in call for call in calls)
    if not drop and not indexed:
        return message
    kept = {key: value for key, value in message.items() if key not in drop}
    if indexed:
        kept["tool_calls"] = [_without_index(call) for call in message["tool_calls"]]
    return kept


def _without_index(call: Any) -> Any:
    """Drop the ``index`` that the SDK's stream helper leaves in a tool call."""
    return {key: value for key, value in call.items() if key != "index"} if isinstance(call, dict) else call
