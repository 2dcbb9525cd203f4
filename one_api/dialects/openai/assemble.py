"""A whole answer, put together from the chunks of a stream."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import arguments_text

#: Fields of a delta whose pieces are joined.
_JOINED = ("content", "refusal", "reasoning_content")
#: Fields of a delta that have a place of their own. Of all others lists add up, and anything else is sent once, whole.
_PLACED = frozenset({"role", "tool_calls", "function_call", *_JOINED})
#: Fields of the chunks that the whole answer has, too; each stands in one chunk or in all of them.
HEAD = ("id", "created", "model", "system_fingerprint", "service_tier", "provider")
#: Fields of a chunk that say nothing: they hide how long it is (OpenAI's, Mistral's).
PADDING = frozenset({"obfuscation", "p"})
#: Fields of a chunk that have a place of their own. All others (a search's citations, timings) are kept as sent last.
USUAL = frozenset({"object", "choices", "usage", *HEAD, *PADDING})


@dataclass(slots=True)
class _Call:
    """A tool call: its opening entry, and the pieces of its arguments or input."""

    entry: JSONObject
    pieces: list[str]


@dataclass(slots=True)
class _Choice:
    """The pieces of one choice, joined only at the end: to join as they come would take a square of the time."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    wholes: JSONObject = field(default_factory=dict)
    calls: list[_Call] = field(default_factory=list)
    function_call: _Call | None = None
    logprobs: JSONObject | None = None
    ends: JSONObject = field(default_factory=lambda: {"finish_reason": None})


def has_only(names: Collection[str], found: JSONObject) -> bool:
    """Return whether an object holds nothing but these; what is null is not there."""
    return all(name in names or value is None for name, value in found.items())


class Assembler:
    """Takes the chunks of one answer, in order, and returns the completion that they amount to."""

    def __init__(self) -> None:
        self._head: JSONObject = {}
        self._others: JSONObject = {}
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}

    def add(self, chunk: JSONObject) -> None:
        """Add one chunk, as our streams send them."""
        for key in HEAD:
            if key in chunk and self._head.get(key) is None:
                self._head[key] = chunk[key]
        if not chunk.keys() <= USUAL:
            self._others |= {key: value for key, value in chunk.items() if key not in USUAL and value is not None}
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for piece in chunk["choices"]:
            choice = self._choices.setdefault(piece["index"], _Choice())
            _add_delta(choice, piece["delta"])
            _add_logprobs(choice, piece.get("logprobs"))
            for key in ("finish_reason", "native_finish_reason"):
                if piece.get(key):
                    choice.ends[key] = piece[key]

    def completion(self) -> JSONObject:
        """Return the completion; call it when the stream has ended well."""
        usage = {"usage": self._usage} if self._usage is not None else {}
        choices = [
            {"index": index, "message": _message(choice), "logprobs": choice.logprobs, **choice.ends}
            for index, choice in sorted(self._choices.items())
        ]
        return {**self._others, **self._head, "object": "chat.completion", "choices": choices, **usage}


def _add_delta(choice: _Choice, delta: JSONObject) -> None:
    for key in _JOINED:
        if isinstance(delta.get(key), str):
            choice.texts.setdefault(key, []).append(delta[key])
    if not delta.keys() <= _PLACED:
        _add_others(choice, delta)
    for entry in delta.get("tool_calls") or ():
        if "id" in entry:
            kind = entry["type"]
            whole = {key: value for key, value in entry.items() if key != "index"} | {kind: dict(entry[kind])}
            opened = _Call(whole, [entry[kind][_text_key(kind)]])
            choice.calls.append(opened)
            continue
        call = choice.calls[entry["index"]]
        kind = call.entry["type"]
        if "name" in entry[kind]:
            call.entry[kind]["name"] = (call.entry[kind].get("name") or "") + entry[kind]["name"]
        call.pieces.append(entry[kind][_text_key(kind)])
        call.entry |= {key: value for key, value in entry.items() if key not in ("index", kind)}
    if isinstance(delta.get("function_call"), dict):
        _add_function_call(choice, delta["function_call"])


def _add_others(choice: _Choice, delta: JSONObject) -> None:
    for key, value in delta.items():
        if key in _PLACED:
            continue
        if isinstance(value, list):
            choice.lists.setdefault(key, []).extend(value)
        elif value is not None:
            choice.wholes[key] = value


def _add_function_call(choice: _Choice, piece: JSONObject) -> None:
    """Add a piece of a call in the deprecated form."""
    if choice.function_call is None:
        choice.function_call = _Call({"name": piece.get("name") or ""}, [])
    choice.function_call.pieces.append(arguments_text(piece.get("arguments")))


def _message(choice: _Choice) -> JSONObject:
    """Return the message that the pieces amount to."""
    texts = {key: "".join(pieces) for key, pieces in choice.texts.items()}
    message: JSONObject = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        **texts,
        **choice.lists,
        **choice.wholes,
    }
    for call in choice.calls:
        kind = call.entry["type"]
        call.entry[kind][_text_key(kind)] = "".join(call.pieces)
    if choice.calls:
        message["tool_calls"] = [call.entry for call in choice.calls]
    if choice.function_call is not None:
        message["function_call"] = {**choice.function_call.entry, "arguments": "".join(choice.function_call.pieces)}
    if (choice.calls or choice.function_call) and message["content"] == "":
        message["content"] = None
    return message


def _text_key(kind: str) -> str:
    return "input" if kind == "custom" else "arguments"


def _add_logprobs(choice: _Choice, piece: Any) -> None:
    if not isinstance(piece, dict):
        return
    if choice.logprobs is None:
        choice.logprobs = {"content": None, "refusal": None}
    for key in ("content", "refusal"):
        if piece.get(key):
            choice.logprobs[key] = (choice.logprobs[key] or []) + piece[key]
