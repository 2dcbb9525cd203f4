"""The arguments of a tool call: JSON text that comes whole, in pieces, or with all that came before in each piece."""

import re
from typing import Any

from one_api.dialects import json

_MARKS = re.compile(r'["\\{}\[\]]')
_SEVERAL = re.compile(r"\}\s*\{")
#: After one of these an object may begin inside an object.
_BEFORE_VALUE = (":", ",", "[")


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
        """Return whether the outermost bracket has been closed."""
        self._catch_up()
        return self._closed

    @property
    def is_open(self) -> bool:
        """Return whether the pieces end inside an object or list."""
        self._catch_up()
        return self._depth > 0

    @property
    def in_string(self) -> bool:
        """Return whether the pieces end inside a string."""
        self._catch_up()
        return self._in_string

    def _catch_up(self) -> None:
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self._scan(piece)

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


class Arguments:
    """The arguments of one call under way. What is said twice is passed on once.

    Servers were seen to send all arguments again at the end (GLM parsers, gateways over OpenAI's Responses), as text
    within a text (LiteLLM), to send in each piece all that came before (DeepSeek at Qianfan, MiMo), and to open a call
    with an empty object although arguments follow (gateways over Claude): one that comes first of all waits for these.
    """

    def __init__(self) -> None:
        self._scanner = ValueScanner()
        self._pieces: list[str] = []
        self._length = 0
        #: Each piece holds all that came before.
        self._repeats = False
        #: An empty object has come that was not passed on: it may be none of the arguments.
        self._is_empty = False
        #: A piece has come, which may have been blank.
        self._begun = False

    @property
    def is_whole(self) -> bool:
        """Return whether they are whole."""
        return self._scanner.is_whole

    @property
    def is_open(self) -> bool:
        """Return whether they end in the middle."""
        return self._scanner.is_open

    @property
    def sent(self) -> bool:
        """Return whether any were passed on."""
        return bool(self._length) and not self._is_empty

    def add(self, piece: str) -> str:
        """Return what of the next piece is to be passed on."""
        if self._is_empty and piece.strip():
            if piece.strip() == "{}":
                return ""
            self._scanner, self._pieces, self._length = ValueScanner(), [], 0
        if not self._length:
            piece = piece.lstrip()
            self._is_empty = not self._begun and piece.strip() == "{}"
        self._begun = True
        new = self._new_in(piece)
        self._scanner.add(new)
        self._pieces.append(new)
        self._length += len(new)
        return "" if self._is_empty else new

    def _new_in(self, piece: str) -> str:
        """Return what of a piece has not come before."""
        if not self._length or not piece or not (self._repeats or piece[0] in '{["'):
            return piece
        if self._scanner.is_whole:
            return "" if self._has_come(piece) else piece
        if len(piece) < self._length or not piece.startswith(text := "".join(self._pieces)):
            return piece
        # ``{"a":`` may be followed by ``{"a":1}``: only where no object can begin is it certain that it is not.
        fits = not self._scanner.in_string and text.rstrip().endswith(_BEFORE_VALUE)
        self._repeats = self._repeats or (len(piece) > self._length and not fits)
        return piece[self._length :] if self._repeats else piece

    def _has_come(self, piece: str) -> bool:
        """Return whether a piece after whole arguments holds the same again, or nothing."""
        again = whole_arguments(piece)
        return again in ("", "{}") or _same(again, "".join(self._pieces))


def _same(one: str, other: str) -> bool:
    """Return whether two texts hold the same value."""
    try:
        return bool(json.decode(one.encode()) == json.decode(other.encode()))
    except (ValueError, UnicodeEncodeError):
        return one == other


def whole_arguments(arguments: Any) -> str:
    """Return arguments that came at once as JSON text: "" for none, and each of them once.

    They may be a text within a text, or the same object several times.
    """
    text = arguments_text(arguments)
    if text.strip() in ("", "null"):
        return ""
    if text[:1] == '"' == text[-1:]:
        try:
            inner = json.decode(text.encode("utf-8", "surrogatepass"))
            if isinstance(inner, str) and isinstance(json.decode(inner.encode()), dict):
                return inner
        except ValueError:
            return text
    return _once(text) if _SEVERAL.search(text) else text


def _once(text: str) -> str:
    """Return the one object that a text holds several times, empty ones beside it left out; else the text."""
    parts = json.split(text.encode("utf-8", "surrogatepass"))
    found = [part.decode("utf-8", "surrogatepass") for part in parts if part != b"{}"] or ["{}"]
    return found[0] if len(parts) > 1 and all(_same(found[0], each) for each in found[1:]) else text


def arguments_text(arguments: Any) -> str:
    """Return tool-call arguments as the JSON text that they are in OpenAI's format."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.encode([arguments]).decode()[1:-1]
