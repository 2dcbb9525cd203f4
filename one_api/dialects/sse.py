"""Server-sent events: a bounded, incremental reader, and the three things that we write.

The reader follows the WHATWG's definition (https://html.spec.whatwg.org/multipage/server-sent-events.html): lines
end with LF, CRLF or CR, several ``data`` lines of an event are joined with LF, one space after the colon is not part
of the value, comments and unknown fields are ignored, and a byte-order mark at the start is dropped. Where servers are
known to write otherwise, it reads more than that: a field ``error``, JSON without any framing (whole answers, reports
of errors, one text a line, one list of all as Gemini sends it), and events with one line end between them.
"""

import re
from typing import Any

from msgspec import Struct

from one_api.dialects import json

#: A comment line: keeps proxies from closing a silent stream, and clients ignore it.
HEARTBEAT = b": keep-alive\n\n"
#: The end of a stream in OpenAI's dialect.
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"
#: The bytes around the data of nearly every event, and before its name.
_DATA, _BLANK, _NAME = b"data: ", b"\n\n", b"event: "


class EventTooLarge(ValueError):
    """One event is larger than the reader's bound."""


class Event(Struct, frozen=True):
    """One event: its ``event`` field ("" when absent) and its data, still encoded.

    ``bare`` is JSON that stood there without a field name. What a field ``error`` says is an event of that name.
    """

    data: bytes
    name: str = ""
    bare: bool = False


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
        #: Lines of a JSON text without framing that is not whole yet.
        self._bare: list[bytes] = []
        #: The list without framing that is under way.
        self._list: _ListCutter | None = None
        #: No blank line has come so far / an event has ended without one.
        self._no_blank = True
        self._by_line = False
        #: Blocks that ended, those without data included: signs that the server is alive.
        self.blocks = 0
        #: No event has come in part, and events end with a blank line as they should.
        self.is_between_events = False

    @property
    def held_bytes(self) -> int:
        """How much has come of an event that is not whole yet, in bytes."""
        return self._size + self._rest_size

    def feed(self, received: bytes) -> list[Event]:
        """Return the events that ``received`` completes.

        Raises:
            EventTooLarge: when an event exceeds the bound.
        """
        if self.is_between_events and len(received) <= self._max_bytes and (event := _usual(received)) is not None:
            self._no_blank = self._after_cr = False
            self.blocks += 1
            return [event]
        self.is_between_events = False
        if self._after_cr and received:
            received = received.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or received.endswith(b"\r")
        self._rest.append(received)
        self._rest_size += len(received)
        events = self._cut() if b"\n" in received or b"\r" in received or self._start else []
        self._bound(self._rest_size)
        held = self._rest or self._data or self._name or self._bare or self._list is not None
        self.is_between_events = not (held or self._start or self._by_line or self._size)
        return events

    def end(self) -> list[Event]:
        """Return the events that the end of the bytes completes: JSON without framing, and lines of events by line.

        An event that lacks the blank line after it is cut short otherwise, and is none.
        """
        rest, self._rest = b"".join(self._rest), []
        events: list[Event] = []
        is_bare = self._bare or self._list is not None or rest[:1] in _BRACKETS
        if rest and (is_bare or self._no_blank or rest[:6].lower() == b"error:"):
            self._take(rest, events)
        if self._list is not None:
            events += map(Event, self._list.taken())
        if self._bare:
            events.append(self._bare_event())
        if self._no_blank and self._data and _closes(self._data[-1]):
            events.extend(self._dispatch())
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
                self._take(line, events)
            elif self._data or self._name:
                self._no_blank = False
                events.extend(self._dispatch())
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        """Add one line to the event under way; ``events`` gets those that it completes."""
        self._bound(len(line))
        if self._list is not None:
            self._take_items(self._list, line, events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            if self._data and _another(self._data[-1], value):
                self._by_line = True
                events.extend(self._dispatch())
            self._data.append(value)
            self._size += len(line)
            if self._by_line and _closes(value):
                events.extend(self._dispatch())
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif self._bare or line.lstrip()[:1] in _BRACKETS or _is_text(line):
            self._take_bare(line, events)
        elif field.lower() == b"error":
            events.extend(self._dispatch())
            events.append(Event(value, "error"))
        elif self.blocks and (line.lstrip()[:1] == b"<" or b" " in field.strip()):  # the page or words of a proxy
            events.extend(self._dispatch())
            events.append(Event(line, "error"))
        elif field:
            self._size += len(line)

    def _take_bare(self, line: bytes, events: list[Event]) -> None:
        """Add a line of JSON without framing. It is whole on one line, or where its outermost bracket closes one."""
        if not self._bare and _OPENS_LIST.match(line):
            self._list = _ListCutter()
            self._take_items(self._list, line, events)
            return
        self._bare.append(line)
        self._size += len(line)
        first = self._bare[0].lstrip()[:1]
        if line.rstrip() == _CLOSING.get(first) or (len(self._bare) == 1 and line.rstrip()[-1:] == _CLOSING.get(first)):
            events.append(self._bare_event())

    def _take_items(self, cutter: "_ListCutter", line: bytes, events: list[Event]) -> None:
        """Add a line of a list without framing, whose items are events; the only one of a list may be the answer."""
        items = cutter.feed(line)
        self._size = cutter.size
        self._bound(0)
        self.blocks += len(items)
        events += [Event(item, bare=cutter.is_over and cutter.count == 1) for item in items]
        if cutter.is_over:
            self._list, self._size = None, 0

    def _bare_event(self) -> Event:
        text, self._bare, self._size = b"\n".join(self._bare), [], 0
        self.blocks += 1
        return Event(text.strip(), bare=True)

    def _dispatch(self) -> list[Event]:
        """Close the event under way; one without data is left out, unless it is called an error."""
        data, name = b"\n".join(self._data), self._name
        self.blocks += bool(data or name)
        self._data, self._name, self._size = [], "", 0
        return [Event(data, name)] if data or name.lower() == "error" else []


class _ListCutter:
    """Cuts a list of objects into its items, line by line; it looks at each byte once."""

    def __init__(self) -> None:
        self.count = 0
        #: The list is closed.
        self.is_over = False
        #: How much has come of the next item, in bytes.
        self.size = 0
        self._pieces: list[bytes] = []
        self._depth = 0
        self._in_string = False

    def feed(self, line: bytes) -> list[bytes]:
        """Return the items that ``line`` completes; whatever stands between them and is no comma is one, too."""
        items: list[bytes] = []
        start = 0
        for found in _MARKS.finditer(line):
            mark = found[0]
            if self._in_string or mark == b'"':
                self._in_string = self._in_string != (mark == b'"')
                continue
            opens = mark in _BRACKETS
            self._depth += 1 if opens else -1
            if self._depth > 1 + opens:
                continue
            is_own = self._depth == opens  # the list's own bracket
            end = found.start() if opens or is_own else found.end()
            self._hold(line[start:end])
            items += self.taken()
            start = found.end() if is_own else end
            if not self._depth:
                self.is_over = True
                break
        self._hold(line[start:])
        return [*items, *self.taken()] if self.is_over else items

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)

    def taken(self) -> list[bytes]:
        """Return what has come of the next item, if anything has."""
        item = b"\n".join(self._pieces).strip(b" \t\r\n,")
        self._pieces, self.size = [], 0
        self.count += bool(item)
        return [item] if item else []


_CLOSING = {b"{": b"}", b"[": b"]", b'"': b'"'}
_BRACKETS = frozenset((b"{", b"["))
#: The beginning of a list of objects.
_OPENS_LIST = re.compile(rb"\s*\[\s*(?:\{|$)")
#: What matters in a line of JSON: brackets, quotes, and what is escaped.
_MARKS = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)


def _usual(received: bytes) -> Event | None:
    """Return the event that bytes are, if it has nothing but one line of data, and perhaps its name before that."""
    start = received.find(b"\n") + 1 if received.startswith(_NAME) else 0
    begin, end = start + len(_DATA), len(received) - len(_BLANK)
    is_framed = received.startswith(_DATA, start) and received.endswith(_BLANK) and end > begin
    if not is_framed or received.find(b"\n", begin) != end or b"\r" in received:
        return None
    return Event(received[begin:end], received[len(_NAME) : start - 1].decode("utf-8", "replace") if start else "")


def _is_text(line: bytes) -> bool:
    """Return whether a line is a JSON text, which may hold another."""
    return len(line) > 1 and line[:1] == b'"' == line.rstrip()[-1:]


def _closes(line: bytes) -> bool:
    """Return whether a line may be the last of an event's data."""
    return line.rstrip()[-1:] == b"}" or b"[DONE]" in line


def _another(last: bytes, value: bytes) -> bool:
    """Return whether two lines of data are of two events: no JSON text goes on so."""
    return (last.rstrip()[-1:] == b"}" and value[:1] in (b"{", b"[")) or b"[DONE]" in (last.strip(), value.strip())
