"""How many values a JSON text holds, counted before it is decoded: thirty bytes of memory may hide behind each byte."""

from dataclasses import dataclass

#: How much of a text is looked at in one go, in bytes.
_PIECE_BYTES = 64 * 1024


@dataclass(slots=True)
class Elements:
    """What a JSON text holds outside its strings."""

    #: Commas and opening brackets: at least as many as there are values, but for one.
    values: int = 0
    #: Opening brackets: at least as many as there are levels.
    containers: int = 0
    #: Colons: as many as there are keys.
    keys: int = 0


def count_elements(data: bytes | bytearray, max_values: int) -> Elements:
    """Count the values of a JSON text; stops soon after ``max_values``.

    What is counted of bytes that are not JSON is right up to their first fault.
    """
    found, inside = Elements(), False
    start, size = 0, len(data)
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
        start = end
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
