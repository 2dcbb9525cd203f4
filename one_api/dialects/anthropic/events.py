"""The events of Anthropic's Messages API as servers write them that imitate it loosely, brought into its own form.

Anthropic's own format is https://platform.claude.com/docs/en/build-with-claude/streaming. Other servers leave types and
numbers out, write texts as lists of parts and inputs as JSON texts, and put counts wherever they like. Nothing here
looks at more than one event: what belongs together is for ``ClaudeStream``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from one_api.dialects import json, usage
from one_api.dialects.characters import TextJoiner, all_whole
from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import ErrorPayload

#: The events that are read. All others are skipped, as Anthropic asks of its clients.
EVENTS = frozenset(
    [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "message",
    ]
)  # fmt: skip
#: The type of a delta -> its kind.
_DELTAS = {
    "text_delta": "text", "text": "text", "thinking_delta": "thinking", "thinking": "thinking",
    "reasoning_delta": "thinking", "input_json_delta": "input", "signature_delta": "signature",
    "citations_delta": "citation",
}  # fmt: skip
#: The fields of a delta without a type -> its kind; the first one found counts.
_DELTA_FIELDS = {
    "partial_json": "input", "thinking": "thinking", "signature": "signature", "citation": "citation", "text": "text",
    "content": "text",
}  # fmt: skip
#: Kind -> the fields that hold its value; the first one that is not empty counts.
_VALUES = {
    "text": ("text", "content"),
    "thinking": ("thinking", "reasoning", "reasoning_content", "text"),
    "input": ("partial_json", "input", "arguments"),
    "signature": ("signature",),
    "citation": ("citation",),
}
#: Names of block types in other dialects.
_BLOCK_TYPES = {
    "output_text": "text", "reasoning": "thinking", "tool_call": "tool_use", "function_call": "tool_use",
    "function": "tool_use",
}  # fmt: skip
#: The fields of a block without a type -> its type.
_BLOCK_FIELDS = {"name": "tool_use", "thinking": "thinking", "text": "text"}
_INPUTS = ("input", "arguments", "parameters")
#: More texts within texts than this are not opened.
_MAX_WRAPPED = 4


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a block. ``kind`` is text, thinking, input, signature or citation; only a citation is an object."""

    kind: str
    value: Any

    def joined(self, joiner: TextJoiner, number: int | None) -> "Delta":
        """Return it with whole characters; one that has only begun waits for the next piece of block ``number``."""
        if self.kind == "citation":
            return Delta(self.kind, all_whole(self.value))
        return Delta(self.kind, joiner.join((number, self.kind), self.value))


def kind_of(payload: JSONObject, name: str) -> str:
    """Return what an event is: by its type, the name that it was sent under, or what it holds."""
    kind = payload.get("type")
    if isinstance(kind, str) and kind in EVENTS:
        return kind
    if name in EVENTS:
        return name
    if isinstance(kind, str) and kind:
        return "content_block_delta" if kind in _DELTAS else kind
    if payload.get("content_block") is not None:
        return "content_block_start"
    if isinstance(payload.get("message"), dict):
        return "message_start"
    if payload.get("delta") is not None:
        return "content_block_delta" if stop_of(payload) is None else "message_delta"
    if payload.get("role") == "assistant":
        return "message"
    return "content_block_delta" if any(key in payload for key in _DELTA_FIELDS) else ""


def number_of(payload: JSONObject) -> int | None:
    """Return the number of the block that an event is of, if it has one."""
    number = payload.get("index")
    if isinstance(number, str) and number.isdecimal() and len(number) < 10:
        return int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def deltas_of(payload: JSONObject) -> list[Delta]:
    """Return the pieces in a ``content_block_delta``; none if its type is unknown."""
    found = first_of(payload, ("delta", "content_block"))
    return list(_deltas(payload if found is None else found))


def _deltas(found: Any) -> Iterator[Delta]:
    if not isinstance(found, dict):
        yield from _pieces("text", found)
        return
    given = found.get("type")
    kind = _DELTAS.get(given) if isinstance(given, str) else None
    if kind is None and given in (None, "", "content_block_delta"):
        kind = next((each for key, each in _DELTA_FIELDS.items() if not _is_empty(found.get(key))), None)
    if kind is None:
        return
    value = first_of(found, _VALUES[kind])
    if kind == "citation":
        if isinstance(value, dict):
            yield Delta(kind, value)
    elif kind == "input" and isinstance(value, dict | list):
        yield Delta(kind, json.encode(value).decode())
    else:
        yield from _pieces(kind, value)


def _pieces(kind: str, value: Any) -> Iterator[Delta]:
    """Give the texts in a value, each as the kind that it is of."""
    if isinstance(value, list):
        for each in value:
            yield from _pieces(kind, each)
    elif isinstance(value, dict):
        own = _DELTAS.get(value["type"], kind) if isinstance(value.get("type"), str) else kind
        yield from _pieces(own, first_of(value, _VALUES[own]))
    elif text := _text(value):
        yield Delta(kind, text)


def blocks_of(value: Any) -> list[JSONObject]:
    """Return the content blocks in a value: text, a list, a block; each with a type, texts and inputs in their form."""
    if isinstance(value, list):
        return [block for each in value for block in blocks_of(each)]
    if not isinstance(value, dict):
        text = _text(value)
        return [{"type": "text", "text": text}] if text else []
    kind = value.get("type")
    if not isinstance(kind, str) or not kind:
        kind = next((each for key, each in _BLOCK_FIELDS.items() if value.get(key) is not None), None)
    kind = _BLOCK_TYPES.get(kind, kind) if kind else None
    if kind in ("text", "thinking"):
        return list(_worded(value, kind))
    if kind == "tool_use":
        return [_call(value)]
    return [{**value, "type": kind}] if kind else []


def _worded(block: JSONObject, kind: str) -> Iterator[JSONObject]:
    """Give a block of text or thinking, and such as its text is made of."""
    found = first_of(block, _VALUES[kind])
    if isinstance(found, list | dict):
        for piece in _pieces(kind, found):
            if piece.kind in ("text", "thinking"):
                yield {"type": piece.kind, piece.kind: piece.value}
        return
    yield {**block, "type": kind, kind: _text(found)}


def _call(block: JSONObject) -> JSONObject:
    """Return a call with its name, id and input where Anthropic has them."""
    inner = block.get("function")
    given = {**block, **inner} if isinstance(inner, dict) else block
    kept = {key: value for key, value in block.items() if key not in ("function", *_INPUTS)}
    found = {"type": "tool_use", "id": _text(given.get("id")), "name": _text(given.get("name"))}
    return {**kept, **found, "input": opened(first_of(given, _INPUTS))}


def opened(value: Any) -> JSONObject | str:
    """Return the object that a call's input is, also when it came as a JSON text; any other text stays."""
    found = value
    for _ in range(_MAX_WRAPPED):
        if not isinstance(found, str):
            break
        try:
            found = json.decode(found.encode())
        except (json.InvalidJSON, UnicodeEncodeError):
            break
    if _is_empty(found) or (isinstance(found, str) and not found.strip()):
        return {}
    return found if isinstance(found, dict) else _text(value)


def stop_of(payload: JSONObject) -> str | None:
    """Return the stop reason in an event, or None."""
    delta = payload.get("delta")
    for holder in (delta, payload):
        if isinstance(holder, dict):
            reason = first_of(holder, ("stop_reason", "finish_reason"))
            if isinstance(reason, str):
                return reason
    return None


def stop_details_of(payload: JSONObject) -> Any:
    """Return what is said of a stop beside its reason, or None: in a whole message there is no delta."""
    delta = payload.get("delta")
    return (isinstance(delta, dict) and delta.get("stop_details")) or payload.get("stop_details")


def check_inner(payload: JSONObject) -> None:
    """Raise ErrorPayload when the inner object of an event reports an error."""
    for inner in (payload.get("delta"), payload.get("message")):
        if isinstance(inner, dict) and inner.get("error"):
            raise ErrorPayload({"error": inner["error"]})


def usages_of(payload: JSONObject) -> Iterator[JSONObject]:
    """Give the usage objects in an event, wherever they stand, in Anthropic's names."""
    for holder in (payload, payload.get("message"), payload.get("delta")):
        if isinstance(holder, dict) and isinstance(found := holder.get("usage"), dict):
            yield _in_anthropics_names(found)
    if isinstance(metrics := payload.get("amazon-bedrock-invocationMetrics"), dict):
        yield {name: metrics.get(key) for key, name in _METRICS.items()}


def _in_anthropics_names(reported: JSONObject) -> JSONObject:
    """Return a report of counts in Anthropic's names; one in OpenAI's counts cached tokens as a part of the prompt."""
    if not _COUNTS.isdisjoint(reported):
        return reported
    counts = usage.merge(None, reported)
    if "prompt_tokens" not in counts:
        return reported
    details = counts.get("prompt_tokens_details")
    read, written = ((details or {}).get(name) or 0 for name in ("cached_tokens", "cache_write_tokens"))
    return {
        "input_tokens": max(0, counts["prompt_tokens"] - read - written),
        "output_tokens": counts["completion_tokens"],
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }


#: Names of counts that are Anthropic's own.
_COUNTS = frozenset({"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"})
_METRICS = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}


def first_of(holder: JSONObject, keys: tuple[str, ...]) -> Any:
    """Return the first of some fields that is not null or empty; None when all are."""
    return next((holder[key] for key in keys if not _is_empty(holder.get(key))), None)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _text(value: Any) -> str:
    """Return a value as text: null is "", and a number is its digits."""
    if isinstance(value, str):
        return value
    return "" if _is_empty(value) else json.encode([value])[1:-1].decode()
