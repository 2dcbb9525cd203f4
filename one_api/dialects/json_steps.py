"""How a large JSON text is decoded in steps: long containers entry by entry, long strings piece by piece."""

import re
import secrets
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias

from one_api.dialects.elements import Elements, InvalidJSON, Span

#: What decodes in steps, and returns what it has decoded.
Steps: TypeAlias = Generator[None, None, Any]

#: How much is decoded in one step where there are many values, in bytes; and how much of long strings is decoded or
#: encoded in one step. The values of a text up to that size are decoded in one go, unless there are many.
STEP_BYTES, LONG_STEP_BYTES = 64 * 1024, 1024 * 1024
#: How many containers around one another may be longer than a step: each is gone through from its beginning.
_MAX_LONG_LEVELS = 20
#: How many values are looked through in one step.
_STEP_VALUES = 20_000
_FIRST_OF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")


class StepDecoder:
    """Decodes long containers entry by entry, and what is short of them with a decoder."""

    def __init__(
        self,
        decoder: Callable[[Any], Any],
        fields: Callable[[Any], Mapping[str, Any]],
        items: Callable[[Any], list[Any]],
    ) -> None:
        """``fields`` and ``items`` return the entries of an object and of an array, each still encoded."""
        self._decoder, self._fields, self._items = decoder, fields, items

    def decode(self, text: bytes) -> Steps:
        """Return the value of a JSON text; raises what the decoders raise, and InvalidJSON for too many long levels."""
        return (yield from self._value(memoryview(text), _MAX_LONG_LEVELS))

    def _value(self, text: memoryview, levels: int) -> Steps:
        """Return the value of a text whose long containers nest no deeper than ``levels``."""
        if len(text) <= STEP_BYTES:
            return self._decoder(text)
        if not levels:
            raise InvalidJSON(f"{_MAX_LONG_LEVELS} levels of it are longer than {STEP_BYTES} bytes each")
        first = bytes(text[:STEP_BYTES]).lstrip()[:1]
        if first == b"{":
            return (yield from self._object(text, levels - 1))
        if first == b"[":
            return (yield from self._array(text, levels - 1))
        yield
        return self._decoder(text)

    def _object(self, text: memoryview, levels: int) -> Steps:
        yield
        found: dict[str, Any] = {}
        size = 0
        for name, raw in self._fields(text).items():
            long = len(raw) > STEP_BYTES
            found[name] = (yield from self._value(memoryview(raw), levels)) if long else self._decoder(raw)
            size += len(name) + len(raw)
            if size > STEP_BYTES:
                size = 0
                yield
        return found

    def _array(self, text: memoryview, levels: int) -> Steps:
        yield
        found: list[Any] = []
        step: list[Any] = []
        size = 0
        for raw in self._items(text):
            if len(raw) > STEP_BYTES:
                found += self._decoder(b"[" + b",".join(step) + b"]")
                found.append((yield from self._value(memoryview(raw), levels)))
                step, size = [], 0
                continue
            step.append(raw)
            size += len(raw) + 1
            if size > STEP_BYTES:
                found += self._decoder(b"[" + b",".join(step) + b"]")
                step, size = [], 0
                yield
        found += self._decoder(b"[" + b",".join(step) + b"]")
        return found


def without_long_strings(data: bytes | bytearray, held: Elements) -> tuple[bytes, dict[str, Span]]:
    """Return the text with a name in the place of each long string, and where the string of each name stands.

    A client cannot guess the names: they are random, of one length, and new each time.
    """
    if sum(end - start for start, end in held.long_strings) <= LONG_STEP_BYTES:  # they take no time together
        return bytes(data), {}
    parts: list[bytes] = []
    spans: dict[str, Span] = {}
    secret, at = secrets.token_hex(16), 0
    for start, end in held.long_strings:
        name = f"{secret}{len(spans):08}"
        spans[name] = start, end
        parts += [bytes(data[at:start]), b'"%b"' % name.encode()]
        at = end
    return b"".join([*parts, bytes(data[at:])]), spans


def long_strings(data: bytes | bytearray, spans: Mapping[str, Span], decoder: Callable[[bytes], str]) -> Steps:
    """Return the string of each name."""
    found: dict[str, str] = {}
    for name, (start, end) in spans.items():
        # It grows in place: to join all pieces would take the system long to find the memory, all in one step.
        text = ""
        pieces: list[str] = []
        at, last = start + 1, end - 1
        while at < last:
            piece = bytes(data[at : min(at + STEP_BYTES, last)])
            if at + len(piece) < last:
                piece = _cut(piece)
            pieces.append(decoder(b'"%b"' % piece))
            at += len(piece)
            if len(pieces) == LONG_STEP_BYTES // STEP_BYTES:
                text += "".join(pieces)
                pieces.clear()
                yield
        text += "".join(pieces)
        found[name] = text
        yield
    return found


def _cut(piece: bytes) -> bytes:
    """Return the beginning of a string up to where it can be cut: not in an escape, a pair of them, or a character."""
    if _begins_escape(piece, at := piece.rfind(b"\\", max(0, len(piece) - 6))):
        piece = piece[:at]
        if _FIRST_OF_PAIR.fullmatch(piece[-6:]) and _begins_escape(piece, len(piece) - 6):
            piece = piece[:-6]
    for back in range(1, 5):
        if piece[-back] >= 0xC0:
            return piece[:-back]
        if piece[-back] < 0x80:
            break
    return piece


def _begins_escape(piece: bytes, at: int) -> bool:
    """Return whether an escape begins with the backslash at that place, if there is one: not the second of two."""
    before = piece[: at + 1]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def put_in(value: Any, strings: Mapping[str, str]) -> Steps:
    """Put the long strings in the place of their names, in values and keys, and return the value."""
    if isinstance(value, str):
        return strings.get(value, value)
    size, seen, rest = len(next(iter(strings))), 0, [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            if any(len(key) == size and key in strings for key in each):
                items = [(strings.get(key, key), child) for key, child in each.items()]
                each.clear()
                each.update(items)
            children: Any = each.items()
        elif isinstance(each, list):
            children = enumerate(each)
        else:
            continue
        for place, child in children:
            seen += 1
            if isinstance(child, str):
                if len(child) == size and child in strings:
                    each[place] = strings[child]
            elif isinstance(child, (dict, list)):
                rest.append(child)
            if seen % _STEP_VALUES == 0:
                yield
    return value
