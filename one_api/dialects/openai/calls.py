"""The tool calls of one streamed choice: which piece belongs to which call, and what a client is sent of it.

Servers distinguish calls by id, by number or by neither; they repeat ids and names, or send a name in pieces.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject

_NO_IDS = frozenset({"", "null", "None", "undefined"})
#: What an entry of our own making holds; all else in it is the upstream's.
_OWN_KEYS = frozenset({"index", "id", "type", "function", "custom", "name", "arguments", "input"})
_MARKS = re.compile(r'["\\{}\[\]]')


class ValueScanner:
    """Says when the pieces of a JSON text have amounted to a whole object or list; looks at each character once."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._closed = False

    def add(self, piece: str) -> None:
        """Add one piece; it is looked at when it matters."""
        self._pieces.append(piece)

    @property
    def is_whole(self) -> bool:
        """Say whether the outermost bracket has been closed."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self._scan(piece)
        return self._closed

    def _scan(self, piece: str) -> None:
        end = 1 if self._escaped and piece else 0
        self._escaped = self._escaped and not piece
        for found in _MARKS.finditer(piece):
            if found.start() < end:
                continue
            mark = found[0]
            if self._in_string:
                self._in_string = mark != '"'
                if mark == "\\":
                    end = found.end() + 1
                    self._escaped = end > len(piece)
            elif mark == '"':
                self._in_string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                self._closed = self._closed or self._depth <= 0


@dataclass(slots=True)
class _Call:
    """A call under way: ``name`` is what was sent of it, ``wrote`` whether any of its arguments was."""

    index: int
    kind: str
    name: str = ""
    wrote: bool = False
    arguments: ValueScanner = field(default_factory=ValueScanner)

    @property
    def text_key(self) -> str:
        """What the arguments are called."""
        return "input" if self.kind == "custom" else "arguments"


def own_call_id(answer_id: str, position: int) -> str:
    """Return an id for a tool call that came without one."""
    return f"call_{answer_id[-24:]}_{position}"


def call_id_of(entry: JSONObject) -> str | None:
    """Return the id of a call; None if it has none, or a word for none (Mistral: "null")."""
    call_id = entry.get("id")
    return call_id if isinstance(call_id, str) and call_id not in _NO_IDS else None


def whole_arguments(arguments: Any) -> str:
    """Return the arguments with which a call opens as JSON text: "" for none, and not encoded twice."""
    text = arguments_text(arguments)
    if text.strip() == "null":
        return ""
    if text[:1] == '"' == text[-1:]:
        try:
            inner = json.decode(text.encode("utf-8", "surrogatepass"))
            if isinstance(inner, str) and isinstance(json.decode(inner.encode()), dict):
                return inner
        except ValueError:
            return text
    return text


def arguments_text(arguments: Any) -> str:
    """Return tool-call arguments as the JSON text that they are in OpenAI's format."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.encode([arguments]).decode()[1:-1]


class CallReader:
    """Reads the entries of ``delta.tool_calls``; ``tools`` are the names of the tools that there are, if known."""

    def __init__(self, tools: Collection[str] = ()) -> None:
        self.count = 0
        self._tools = tools
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_number: dict[int, _Call] = {}

    def read(self, entries: list[Any], answer_id: str) -> list[JSONObject]:
        """Return the entries with dense indices: id, type and name once, where a call opens, and pieces after that."""
        touched: set[int] = set()
        read = [self._read(entry, answer_id, touched) for entry in entries if isinstance(entry, dict)]
        self.count = len(self._calls)
        return [entry for entry in read if entry is not None]

    def _read(self, entry: JSONObject, answer_id: str, touched: set[int]) -> JSONObject | None:
        kind, body = _body_of(entry)
        name = body["name"] if isinstance(body.get("name"), str) else ""
        text = arguments_text(body.get("input" if kind == "custom" else "arguments"))
        call = self._continued(entry, name, text, touched)
        if call is None and not (name or text or call_id_of(entry)):
            return None
        others = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
        if call is None:
            call, opening = self._open(entry, kind, answer_id)
            added = name
            text = whole_arguments(text) if kind == "function" else text
            entry = {**opening, kind: {**body, call.text_key: text}, **others}
        else:
            if call.kind != kind:
                text = arguments_text(body.get(call.text_key))
            added = "" if call.wrote and call.name else _rest_of_name(call.name, name)
            piece = {"name": added, call.text_key: text} if added else {call.text_key: text}
            entry = {"index": call.index, call.kind: piece, **others}
        touched.add(call.index)
        call.name += added
        call.wrote = call.wrote or bool(text)
        call.arguments.add(text)
        return entry

    def _open(self, entry: JSONObject, kind: str, answer_id: str) -> tuple[_Call, JSONObject]:
        """Return a new call, and its id and type as the client is to see them."""
        call = _Call(len(self._calls), kind)
        call_id = call_id_of(entry)
        if call_id is None or call_id in self._by_id:
            call_id = own_call_id(answer_id, call.index)
        self._calls.append(call)
        self._by_id[call_id] = call
        if isinstance(number := entry.get("index"), int):
            self._by_number[number] = call
        return call, {"index": call.index, "id": call_id, "type": kind}

    def _continued(self, entry: JSONObject, name: str, text: str, touched: set[int]) -> _Call | None:
        """Return the call that ``entry`` continues, or None when it opens one."""
        call_id, number = call_id_of(entry), entry.get("index")
        last = self._calls[-1] if self._calls else None
        call = self._by_number.get(number) if isinstance(number, int) and (self._by_number or name) else last
        if call_id is not None:
            known = self._by_id.get(call_id)
            if known is None:
                return None if name else call
            # One id under two numbers may be of two calls.
            moved = isinstance(number, int) and call is None and bool(self._by_number)
            return None if moved and name and self._is_another(known, name, text) else known
        if call is None or not name:
            return call
        return None if (call.name and call.index in touched) or self._is_another(call, name, text) else call

    def _is_another(self, call: _Call, name: str, text: str) -> bool:
        """Say whether a name opens a call beside ``call``, and does not repeat or continue its name."""
        if not call.name:
            return False
        if name == call.name:
            return bool(text) and call.arguments.is_whole
        return call.wrote or (call.name in self._tools and name in self._tools)

    def empty(self) -> list[_Call]:
        """Return the function calls that have had no arguments; they count as written from now on."""
        found = [call for call in self._calls if not call.wrote and call.kind == "function"]
        for call in found:
            call.wrote = True
        return found


def _body_of(entry: JSONObject) -> tuple[str, JSONObject]:
    """Return the kind of an entry, and what it holds of its call; some put that into the entry itself."""
    kind = "custom" if isinstance(entry.get("custom"), dict) or entry.get("type") == "custom" else "function"
    body = entry.get(kind)
    if isinstance(body, dict):
        return kind, body
    return kind, {key: entry[key] for key in ("name", "arguments", "input") if entry.get(key) is not None}


def _rest_of_name(known: str, name: str) -> str:
    """Return what a piece adds to a name: nothing if it repeats it, its rest if it begins with it."""
    return name.removeprefix(known) if known and name.startswith(known) else name
