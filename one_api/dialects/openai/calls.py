"""The tool calls of one streamed choice: which piece belongs to which call, and what a client is sent of it.

Servers distinguish calls by id, by number or by neither; they repeat ids and names, or send a name in pieces.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import Arguments, arguments_text, whole_arguments
from one_api.dialects.payloads import InvalidAnswer

#: More of the arguments of a call that has no name yet is not kept, in characters.
_MAX_HELD = 1024 * 1024
#: More calls no answer has: each of them is kept to its end.
_MAX_CALLS = 1000
_NO_IDS = frozenset({"", "null", "None", "undefined"})
#: What an entry of our own making holds; all else in it is the upstream's.
_OWN_KEYS = frozenset({"index", "id", "type", "function", "custom", "name", "arguments", "parameters", "input", "args"})
#: What servers call the arguments: OpenAI; Llama's own format; Claude; Gemini.
_ARGUMENTS = ("arguments", "parameters", "input", "args")


@dataclass(slots=True)
class _Call:
    """A call under way: ``name`` is what has come of it, ``wrote`` whether any of its arguments came."""

    #: Among all that have come.
    position: int
    kind: str
    #: What is sent first of it: its id, type and all beside name and arguments. It waits for the name.
    opening: JSONObject
    #: Among those that are sent; -1 until it is.
    index: int = -1
    name: str = ""
    wrote: bool = False
    #: Its arguments before it had a name.
    held: list[str] = field(default_factory=list)
    #: It has had its end.
    closed: bool = False
    arguments: Arguments = field(default_factory=Arguments)

    def add(self, text: str) -> str:
        """Take a piece of the arguments, and return what of it is passed on."""
        return self.arguments.add(text) if self.kind == "function" else text

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


def calls_in(said: JSONObject, answer_id: str) -> list[JSONObject]:
    """Return the calls in a chat message, or in a delta of one; the only one of the deprecated form gets an id."""
    calls = said.get("tool_calls")
    function = said.get("function_call")
    if calls or not isinstance(function, dict):
        return calls or []
    return [{"index": 0, "id": own_call_id(answer_id, 0), "type": "function", "function": function}]


class CallReader:
    """Reads the entries of ``delta.tool_calls``; ``tools`` are the names of the tools that there are, if known."""

    def __init__(self, tools: Collection[str] = ()) -> None:
        self.count = 0
        self._tools = tools
        self._calls: list[_Call] = []
        #: How many have been sent.
        self._sent = 0
        #: Characters of arguments that wait for a name.
        self._held = 0
        self._by_id: dict[str, _Call] = {}
        self._by_number: dict[int, _Call] = {}

    def read(self, entries: list[Any], answer_id: str) -> list[JSONObject]:
        """Return the entries with dense indices: id, type and name once, where a call opens, and pieces after that."""
        touched: set[int] = set()
        read = [self._read(entry, answer_id, touched) for entry in entries if isinstance(entry, dict)]
        self.count = len(self._calls)
        return [entry for entry in read if entry is not None]

    def _read(self, entry: JSONObject, answer_id: str, touched: set[int]) -> JSONObject | None:
        kind, body = body_of(entry)
        name = body["name"] if isinstance(body.get("name"), str) else ""
        text = arguments_text(body.get("input" if kind == "custom" else "arguments"))
        number = number_of(entry)
        call = self._continued(entry, number, name, text, touched)
        if call is None and not (name or text or call_id_of(entry)):
            return None
        others = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
        if call is None:
            call, added = self._open(entry, number, kind, answer_id), name
            call.opening |= {kind: body, **others}
            text = whole_arguments(text) if kind == "function" else text
        else:
            if call.kind != kind:
                text = arguments_text(body.get(call.text_key))
            added = "" if call.wrote and call.name else _rest_of_name(call.name, name)
        touched.add(call.position)
        call.name += added
        call.wrote = call.wrote or bool(text)
        return self._written(call, added, call.add(text), others)

    def _written(self, call: _Call, added: str, new: str, others: JSONObject) -> JSONObject | None:
        """Return what is sent of a piece: nothing of a call without a name, for nothing can be called by it."""
        if call.index < 0:
            call.held.append(new)
            self._held += len(new)
            call.opening |= others
            if self._held > _MAX_HELD:
                raise InvalidAnswer("a tool call has no name")
            return self._opened(call) if call.name else None
        piece = {"name": added, call.text_key: new} if added else {call.text_key: new}
        return {"index": call.index, call.kind: piece, **others} if added or new or others else None

    def _opened(self, call: _Call) -> JSONObject:
        """Return what is sent first of a call that has its name."""
        call.index, self._sent = self._sent, self._sent + 1
        arguments, call.held = "".join(call.held), []
        self._held -= len(arguments)
        body = {**call.opening[call.kind], "name": call.name, call.text_key: arguments}
        return {"index": call.index, **call.opening, call.kind: body}

    def _open(self, entry: JSONObject, number: int | None, kind: str, answer_id: str) -> _Call:
        """Return a new call, with its id and type as the client is to see them."""
        call_id, position = call_id_of(entry), len(self._calls)
        if position == _MAX_CALLS:
            raise InvalidAnswer(f"it has more than {_MAX_CALLS} tool calls")
        if call_id is None or call_id in self._by_id:
            call_id = own_call_id(answer_id, position)
        call = _Call(position, kind, {"id": call_id, "type": kind})
        self._calls.append(call)
        self._by_id[call_id] = call
        if number is not None:
            self._by_number[number] = call
        return call

    def _continued(
        self, entry: JSONObject, number: int | None, name: str, text: str, touched: set[int]
    ) -> _Call | None:
        """Return the call that ``entry`` continues, or None when it opens one."""
        call_id = call_id_of(entry)
        last = self._calls[-1] if self._calls else None
        call = self._by_number.get(number) if number is not None and (self._by_number or name) else last
        if call_id is not None:
            known = self._by_id.get(call_id)
            if known is None:
                return call if not name or (number is not None and _goes_on(call, name, touched)) else None
            # One id may be of two calls: under two numbers, in one event, or with two names.
            apart = number is not None and call is None and bool(self._by_number)
            apart = apart or known.position in touched or name != known.name
            return None if apart and name and self._is_another(known, name, text) else known
        if call is None or not name:
            return call
        return None if (call.name and call.position in touched) or self._is_another(call, name, text) else call

    def _is_another(self, call: _Call, name: str, text: str) -> bool:
        """Return whether a name opens a call beside ``call``, and does not repeat or continue its name."""
        if not call.name:
            return False
        if name == call.name:
            return bool(text) and call.arguments.is_whole
        return call.wrote or (call.name in self._tools and name in self._tools)

    @property
    def has_nameless(self) -> bool:
        """Return whether a call has no name, so that nothing can be called."""
        return not all(call.name for call in self._calls)

    @property
    def is_open(self) -> bool:
        """Return whether the arguments of a call end in the middle."""
        return any(call.arguments.is_open for call in self._calls)

    def empty(self) -> list[_Call]:
        """Return the function calls that were sent without arguments; they count as written from now on."""
        found = [
            call
            for call in self._calls
            if call.index >= 0 and not call.closed and not call.arguments.sent and call.kind == "function"
        ]
        for call in found:
            call.closed = True
        return found


def body_of(entry: JSONObject) -> tuple[str, JSONObject]:
    """Return the kind of a call, and its name and arguments under OpenAI's names, taken out of the call itself."""
    kind = "custom" if isinstance(entry.get("custom"), dict) or entry.get("type") == "custom" else "function"
    found = entry.get(kind)
    body = found if isinstance(found, dict) else {key: entry.pop(key) for key in ("name", *_ARGUMENTS) if key in entry}
    if kind == "function" and body.get("arguments") is None:
        given = next((body[key] for key in _ARGUMENTS if body.get(key) is not None), None)
        body = {key: value for key, value in body.items() if key not in _ARGUMENTS} | {"arguments": given}
    return kind, body


def number_of(entry: JSONObject) -> int | None:
    """Return the number of a call or choice; some servers write it as a text."""
    number = entry.get("index")
    if isinstance(number, str) and number.isascii() and number.isdigit():
        return int(number[:9])
    return number if isinstance(number, int) else None


def _goes_on(call: _Call | None, name: str, touched: set[int]) -> bool:
    """Return whether a name under another id is of ``call``: some servers make up an id for each piece."""
    return call is not None and name == call.name and call.position not in touched and not call.arguments.is_whole


def _rest_of_name(known: str, name: str) -> str:
    """Return what a piece adds to a name: nothing if it repeats it, its rest if it begins with it."""
    return name.removeprefix(known) if known and name.startswith(known) else name
