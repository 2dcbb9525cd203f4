"""The input of a custom tool, out of the arguments of the function that stands for it, while they come."""

import re

from one_api.dialects import json
from one_api.dialects.characters import TextJoiner

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
#: Whatever may still become an opening.
_MAY_OPEN = re.compile(r'\s*(\{\s*("(i(n(p(u(t("\s*(:\s*)?)?)?)?)?)?)?)?)?\Z')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
#: An escape sequence, or a quote, that the next piece may complete. A quote that nothing closes belongs to the text.
_UNFINISHED = re.compile(r"\\(u[0-9a-fA-F]{0,3})?\Z")
_CLOSING = re.compile(r'"\s*([,}]|\Z)')


class CustomInput:
    """Reads pieces of ``{"input": "..."}`` and returns the characters of the text as soon as they are known.

    Arguments of another form are held back, and judged at the end: models write them as they like.
    """

    def __init__(self) -> None:
        #: What is not read yet.
        self._left = ""
        self._all: list[str] = []
        self._pieces: list[str] = []
        self._joiner = TextJoiner()
        self._state = "opening"

    def feed(self, piece: str) -> str:
        """Return what ``piece`` adds to the input; "" when nothing is known yet."""
        self._all.append(piece)
        if self._state == "opening":
            self._left += piece
            if found := _OPENING.match(self._left):
                self._left, self._state = self._left[found.end() :], "text"
            elif not _MAY_OPEN.match(self._left):
                self._state = "odd"
        elif self._state == "text":
            self._left += piece
        return self._take(self._read()) if self._state == "text" else ""

    def end(self) -> str:
        """Return what is still missing of the input once all pieces have come."""
        if self._state in ("text", "closed"):
            self._pieces.append(self._joiner.rest(""))
            return self._pieces[-1]
        return self._take(input_of("".join(self._all)))

    @property
    def text(self) -> str:
        """The input so far."""
        return "".join(self._pieces)

    def _take(self, text: str) -> str:
        text = self._joiner.join("", text)
        self._pieces.append(text)
        return text

    def _read(self) -> str:
        """Take as many characters of the text as are whole."""
        found: list[str] = []
        at, left = 0, self._left
        while at < len(left):
            if plain := _PLAIN.match(left, at):
                found.append(plain[0])
                at = plain.end()
            elif closing := _CLOSING.match(left, at):
                if not closing[1]:
                    break
                self._state, at = "closed", len(left)
            elif _UNFINISHED.match(left, at):
                break
            elif escape := _ESCAPE.match(left, at):
                found.append(chr(int(escape[1], 16)) if escape[1] else _ESCAPES[escape[2]])
                at = escape.end()
            else:  # no JSON: it is passed on as it was written
                found.append(left[at])
                at += 1
        self._left = left[at:]
        return "".join(found)


def input_of(arguments: str) -> str:
    """Return the input that whole arguments mean: none where nothing is given, and what is no object as it is."""
    try:
        value = json.decode(arguments.encode("utf-8", "replace"))
    except json.InvalidJSON:
        return arguments
    if isinstance(value, dict):
        if isinstance(value.get("input"), str):
            return str(value["input"])
        texts = [each for each in value.values() if isinstance(each, str)]
        if len(texts) == 1:
            return texts[0]
        if all(each is None for each in value.values()):
            return ""
    return arguments
