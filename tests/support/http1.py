"""The little HTTP/1.1 that both ends of the test bed share: heads and chunks, taken off a buffer without I/O."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any
HeaderItems: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

MAX_HEAD_BYTES = 4 * 1024 * 1024
MAX_CHUNK_LINE_BYTES = 4096


class MalformedError(ValueError):
    """The peer sent bytes that are not HTTP/1.1."""


class Headers(list[tuple[str, str]]):
    """Header lines in the order and spelling in which they came; looked up without regard to case."""

    def all(self, name: str) -> list[str]:
        """Every value given for the name."""
        return [value for key, value in self if key.lower() == name.lower()]

    def first(self, name: str) -> str | None:
        """The first value given for the name, None if there is none."""
        values = self.all(name)
        return values[0] if values else None


def merged(defaults: HeaderItems, extra: HeaderItems | None) -> Headers:
    """The defaults, without those that `extra` names too, then `extra`; a name may occur in `extra` many times."""
    added = _pairs(extra or ())
    named = {key.lower() for key, _ in added}
    return Headers([pair for pair in _pairs(defaults) if pair[0].lower() not in named] + added)


def _pairs(items: HeaderItems) -> list[tuple[str, str]]:
    return list(items.items() if isinstance(items, Mapping) else items)


def render_head(start_line: str, headers: HeaderItems) -> bytes:
    """Start line and headers as bytes, with the blank line."""
    lines = [start_line, *(f"{name}: {value}" for name, value in _pairs(headers))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def take_head(buffer: bytearray) -> tuple[str, Headers] | None:
    """Remove one head from the buffer: its start line and headers; None while it is incomplete.

    Raises MalformedError.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise MalformedError(f"no end of the head within {MAX_HEAD_BYTES} bytes")
        return None
    start_line, *lines = buffer[:end].decode("latin-1").split("\r\n")
    del buffer[: end + 4]
    return start_line, Headers([_pair(line) for line in lines])


def _pair(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise MalformedError(f"header line {line!r}")
    return name, value.strip(" \t")


def chunk(data: bytes) -> bytes:
    """The data as one chunk of the chunked coding; no data gives the last chunk, which ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def take_chunk(buffer: bytearray) -> bytes | None:
    """Remove one whole chunk from the buffer: its data, b"" for the last one with its trailers; None while incomplete.

    Raises MalformedError.
    """
    line_end = buffer.find(b"\r\n")
    if line_end < 0:
        if len(buffer) > MAX_CHUNK_LINE_BYTES:
            raise MalformedError(f"no chunk size in {bytes(buffer[:40])!r}")
        return None
    size, start = _chunk_size(bytes(buffer[:line_end])), line_end + 2
    if size == 0:
        return _take_last_chunk(buffer, line_end)
    if len(buffer) < start + size + 2:
        return None
    data, closing = bytes(buffer[start : start + size]), buffer[start + size : start + size + 2]
    if closing != b"\r\n":
        raise MalformedError(f"a chunk of {size} bytes ends with {bytes(closing)!r}")
    del buffer[: start + size + 2]
    return data


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError as error:
        raise MalformedError(f"chunk size {line!r}") from error


def _take_last_chunk(buffer: bytearray, line_end: int) -> bytes | None:
    """The trailers, if any, end as a head does: with a blank line."""
    end = buffer.find(b"\r\n\r\n", line_end)
    if end < 0:
        return None
    del buffer[: end + 4]
    return b""
