"""How many values a JSON text holds, counted before it is decoded: thirty bytes of memory may hide behind each byte."""

from collections.abc import Generator
from dataclasses import dataclass

#: How much of a text is looked at in one go, in bytes.
_PIECE_BYTES = 64 * 1024
#: How many of these make a step.
_PIECES_A_STEP = 16
#: No number with so many digits fits a double.
_ENDLESS = b"0" * 310
#: Makes every digit a zero.
_ZEROS = bytes.maketrans(b"123456789", b"000000000")


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
    start, size, counted = 0, len(data), 0
    while start < size and found.values <= max_values:
        end = min(start + _PIECE_BYTES, size)
        if inside:
            # Long texts, such as images, are passed over.
            quote, escape = data.find(b'"', start, end), data.find(b"\\", start, end)
            if quote < 0 and escape < 0:
                start = end
                continue
        end = _after_escape(data, start, end)
        outside, inside = _outside_strings(bytes(data[start:end]), inside)
        opened = outside.count(b"[") + outside.count(b"{")
        found.containers += opened
        found.values += opened + outside.count(b",")
        found.keys += outside.count(b":")
        found.has_endless_number |= _ENDLESS in outside.translate(_ZEROS)
        start = end
        counted += 1
        if counted % _PIECES_A_STEP == 0:
            yield
    return found


def _after_escape(data: bytes | bytearray, start: int, end: int) -> int:
    """Return ``end``, or one more if that would cut an escape sequence of two characters in half."""
    first = end
    while first > start and data[first - 1] == 0x5C:
        first -= 1
    return min(end + (end - first) % 2, len(data))


def _outside_strings(piece: bytes, inside: bool) -> tuple[bytes, bool]:
    """Return what of ``piece`` stands outside strings, and whether it ends inside one."""
    if b"\\" in piece:
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
    parts = piece.split(b'"')
    return b"".join(parts[inside::2]), inside ^ (len(parts) % 2 == 0)
