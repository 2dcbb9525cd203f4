"""Server-sent events: a bounded, incremental reader, and the three things that we write.

The reader follows the WHATWG's definition (https://html.spec.whatwg.org/multipage/server-sent-events.html): lines
end with LF, CRLF or CR, several ``data`` lines of an event are joined with LF, one space after the colon is not part
of the value, comments and unknown fields are ignored, and a byte-order mark at the start is dropped.
"""

from dataclasses import dataclass
from typing import Any

from one_api.wire import json

#: A comment line: keeps proxies from closing a silent stream, and clients ignore it.
HEARTBEAT = b": keep-alive\n\n"
#: The end of a stream in OpenAI's dialect.
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event is larger than the reader's bound."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its ``event`` field ("" when absent) and its data, still encoded."""

    data: bytes
    name: str = ""


def encode_event(payload: dict[str, Any]) -> bytes:
    """Return the bytes of one event whose data is ``payload``, as JSON on one line."""
    return b"data: %b\n\n" % json.encode(payload)


class EventReader:
    """Cuts a stream of bytes into events; it keeps at most ``max_bytes`` of an unfinished one.

    The bound counts the lines of an event's data, field name included, and any line that is not whole yet.
    """

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._start = True
        #: The last byte was a CR: an LF that follows belongs to it.
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""

    def feed(self, received: bytes) -> list[Event]:
        """Return the events that ``received`` completes.

        Raises:
            EventTooLarge: when an event exceeds the bound.
        """
        if self._after_cr and received:
            received = received.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or received.endswith(b"\r")
        self._rest.append(received)
        self._rest_size += len(received)
        events = self._cut() if b"\n" in received or b"\r" in received or self._start else []
        self._bound(self._rest_size)
        return events

    def _bound(self, more: int) -> None:
        if self._size + more > self._max_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_bytes} bytes")

    def _cut(self) -> list[Event]:
        """Take the whole lines out of what has arrived, and return the events that they close."""
        block = self._rest[0] if len(self._rest) == 1 else b"".join(self._rest)
        if self._start:
            if len(block) < len(_BOM) and _BOM.startswith(block):
                return []
            block = block.removeprefix(_BOM)
            self._start = False
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = block.split(b"\n")
        self._rest, self._rest_size = ([rest] if rest else []), len(rest)
        events: list[Event] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data or self._name:
                events.extend(self._dispatch())
        return events

    def _take(self, line: bytes) -> None:
        """Add one line to the event under way."""
        self._bound(len(line))
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(line)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")

    def _dispatch(self) -> list[Event]:
        """Close the event under way; one without data is none."""
        data, name = b"\n".join(self._data), self._name
        self._data, self._name, self._size = [], "", 0
        return [Event(data, name)] if data else []
