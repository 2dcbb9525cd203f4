"""How many values a JSON text holds, counted before it is decoded: thirty bytes of memory may hide behind each byte."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: How much of a text is looked at in one go, in bytes.
_PIECE_BYTES = 64 * 1024
#: A string is long from this size on, in bytes.
_LONG_BYTES = 8 * 1024
#: How many of these make a step.
_PIECES_A_STEP = 16
#: Where in a text something stands: the first byte of it, and the first after it.
Span: TypeAlias = tuple[int, int]
#: No number with so many digits fits a double.
_ENDLESS = b"0" * 310
#: Makes every digit a zero.
_ZEROS = bytes.maketrans(b"123456789", b"000000000")

#: Makes every bracket a round one, and drops the rest.
_ROUND, _NO_BRACKETS = bytes.maketrans(b"[{]}", b"(())"), bytes(set(range(256)).difference(b"[{]}"))

_CONTAINERS = frozenset((dict, list))


class InvalidJSON(ValueError):
    """The bytes are not the JSON that was expected; the message says why, without quoting them."""


class TooMuchJSON(InvalidJSON):
    """The bytes hold more than is read, or nest deeper: to read them in another way makes no difference."""


@dataclass(slots=True)
class Elements:
    """What a JSON text holds outside its strings."""

    #: Commas and opening brackets: at least as many as there are values, but for one.
    values: int = 0
    #: Opening brackets: at least as many as there are levels.
    containers: int = 0
    #: Colons: as many as there are keys.
    keys: int = 0
    #: A number is longer than any that a double can hold: to decode it takes time by the square of its length.
    has_endless_number: bool = False
    #: It ends inside a string.
    is_cut: bool = False
    #: Where long strings stand, quotes included.
    long_strings: list[Span] = field(default_factory=list, compare=False)
    #: All brackets in their order, as round ones.
    brackets: bytes = field(default=b"", compare=False)

    def is_deeper(self, levels: int) -> bool:
        """Return whether containers nest deeper than that; of a text that is no JSON it may not be known."""
        left = self.brackets
        for _ in range(levels):
            if not left:
                return False
            left = left.replace(b"()", b"")  # the innermost
        return b"()" in left


def count_elements(data: bytes | bytearray, max_values: int) -> Elements:
    """Count the values of a JSON text; stops soon after ``max_values``.

    What is counted of bytes that are not JSON is right up to their first fault.
    """
    steps = count_in_steps(data, max_values)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Elements = done.value
            return found


def count_in_steps(data: bytes | bytearray, max_values: int) -> Generator[None, None, Elements]:
    """Do as ``count_elements``, in steps none of which takes long."""
    found, inside = Elements(), False
    start, size, counted, opened = 0, len(data), 0, 0
    brackets: list[bytes] = []
    while start < size and found.values <= max_values:
        end = min(start + _PIECE_BYTES, size)
        counted += 1
        if counted % _PIECES_A_STEP == 0:
            yield
        if inside:
            # Long strings, such as images, are passed over.
            quote, escape = data.find(b'"', start, end), data.find(b"\\", start, end)
            if quote < 0 and escape < 0:
                start = end
                continue
        end = _after_escape(data, start, end)
        parts = _between_quotes(bytes(data[start:end]))
        if inside and len(parts) > 1 and start + len(parts[0]) - opened > _LONG_BYTES:
            found.long_strings.append((opened, start + len(parts[0]) + 1))
        if len(max(parts, key=len)) > _LONG_BYTES:
            found.long_strings += _long_between(parts, start, inside)
        outside = b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        if inside and len(parts) > 1:
            opened = end - len(parts[-1]) - 1
        brackets.append(outside.translate(_ROUND, _NO_BRACKETS))
        more = brackets[-1].count(b"(")
        found.containers += more
        found.values += more + outside.count(b",")
        found.keys += outside.count(b":")
        found.has_endless_number |= _ENDLESS in outside.translate(_ZEROS)
        start = end
    found.is_cut, found.brackets = inside, b"".join(brackets)
    return found


def _long_between(parts: list[bytes], start: int, inside: bool) -> Iterator[Span]:
    """Yield where the long strings stand that begin and end in a piece, which begins at ``start``."""
    at = start + len(parts[0])
    for number, part in enumerate(parts[1:-1], 1):
        if (number % 2 == 0) == inside and len(part) > _LONG_BYTES:
            yield at, at + len(part) + 2
        at += len(part) + 1


def _after_escape(data: bytes | bytearray, start: int, end: int) -> int:
    """Return ``end``, or one more if that would cut an escape sequence of two characters in half."""
    piece = bytes(data[start:end])
    return min(end + (len(piece) - len(piece.rstrip(b"\\"))) % 2, len(data))


def _between_quotes(piece: bytes) -> list[bytes]:
    """Return what stands before, between and after the quotes of strings, at its length."""
    if b"\\" in piece:
        piece = piece.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
    return piece.split(b'"')


def is_deeper(value: Any, levels: int) -> bool:
    """Return whether the containers of a decoded text nest deeper than ``levels``; looks at each of them once."""
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) in _CONTAINERS
        ]
        if not layer:
            return False
    return True
