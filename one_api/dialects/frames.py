"""The quick way of a stream: events that differ in their text only are not decoded.

Nearly all events of a stream look alike: the same bytes around another text. Once the usual way has made a chunk of one
of them, it is known what stands around its text as received, and as sent: that is a frame. The next event in the same
frame goes out as the sent half of the frame around its own text. Any other event takes the usual way and ends the
frame: it may have changed what such an event means.

Where upstream and client speak the same dialect, some events are passed on whatever they say: those are not even cut
into lines (``PassingTranslator``).
"""

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol, Self, TypeAlias

from one_api.dialects import json, sse
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import PADDING

#: Writes chunks, each for itself: what it makes of two is what it makes of the one, and then of the other.
Encode: TypeAlias = Callable[[list[JSONObject]], bytes]

_END = b"\n\n"
#: Stand for the text and for the padding while a frame is cut out.
_TEXT, _PADDED = "<one_api:text>", "<one_api:padding>"
_MARKS = re.compile(rb"(<one_api:text>|<one_api:padding>)")
#: The inside of a JSON string that ``json`` writes as it was written: escapes only where there must be some. (Python
#: 3.11.2 mistakes possessive quantifiers; there is only one way to match here, so nothing is tried twice without them.)
_PLAIN = rb'[^"\\\x00-\x1f]*(?:\\[bfnrt"\\][^"\\\x00-\x1f]*)*'
_plain = re.compile(_PLAIN).fullmatch
_line_ends = re.compile(rb"\n*").match
#: Where nearly every event needs another frame, none is looked for after so many.
_MAX_FRAMES = 32
#: The beginning of an event that is longer than this takes the usual way, in bytes.
_MAX_HELD_BYTES = 64 * 1024
#: How many lines the beginning of an event has at most: what has more may be many events, to be looked at as they come.
_MAX_HELD_LINES = 8


class Translator(Protocol):
    """Turns the events of one stream into OpenAI chunks.

    One that derives from this without ``text_in`` always goes the usual way.
    """

    #: The upstream has said that its stream is over: its end mark has come. That nothing more can be read, for whatever
    #: reason, is ``ended`` of an ``AnswerStream``.
    finished: bool
    usage: JSONObject | None
    #: The end mark has come, and only usage may follow.
    is_over: bool = False
    #: Enough has come to say what an event means, whatever its text is: from now on frames are looked for.
    is_settled: bool = True
    #: ``add_text`` does something.
    notes_texts: ClassVar[bool] = False

    @property
    def is_complete(self) -> bool:
        """Return whether the upstream has sent all of the answer, though perhaps not the end mark."""

    def feed(self, event: sse.Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to."""

    def end(self) -> list[JSONObject]:
        """Return what is still owed when the bytes have ended."""

    def text_in(self, payload: JSONObject) -> str | None:
        """Return the text of a decoded event, if ``feed`` would only pass it on, in one chunk, as things are now."""
        return None

    def add_text(self, text: str) -> None:
        """Take note of a text that is passed on without ``feed``: of an event like the last one but for its text."""
        return


class PassingTranslator(Translator):
    """A translator that passes some events on as they came, whatever they say."""

    #: What such an event begins with, and what follows on that to its end, as things are now; None while there is none.
    verbatim: tuple[bytes, re.Pattern[bytes]] | None

    @abstractmethod
    def pass_on(self, event: bytes) -> JSONObject:
        """Return the chunk for such an event: what ``feed`` would make of it."""


class TextRun:
    """Events in a row that differ in their text only, not decoded yet: read as chunks, or written as they are sent."""

    __slots__ = ("_frame", "_padding", "_written")

    def __init__(self, frame: "Frame", written: list[bytes], padding: bytes | None = None) -> None:
        """``written`` are the texts as JSON, without quotes; an event with padding comes alone."""
        self._frame = frame
        self._written = written
        self._padding = padding

    def __len__(self) -> int:
        return len(self._written)

    @property
    def texts(self) -> list[str]:
        """The texts of the events."""
        texts: list[str] = json.decode(b'["%b"]' % b'","'.join(self._written))
        return texts

    def chunks(self) -> list[JSONObject]:
        """Return the chunk of each event."""
        padding = None if self._padding is None else json.decode_text(b'"%b"' % self._padding)
        return [self._frame.chunk(text, padding) for text in self.texts]

    def encoded(self, encode: Encode) -> bytes:
        """Return what ``encode`` makes of the chunks."""
        around = self._frame.around(encode)
        if around is None:
            return encode(self.chunks())
        first, between, last = around
        if self._padding is not None:
            return first + self._written[0] + between + self._padding + last
        return first + (last + first).join(self._written) + last


#: What a stream amounts to, in order.
Item: TypeAlias = JSONObject | TextRun


def chunks_of(items: list[Item]) -> list[JSONObject]:
    """Return the chunks that ``items`` are."""
    chunks: list[JSONObject] = []
    for item in items:
        if isinstance(item, TextRun):
            chunks += item.chunks()
        else:
            chunks.append(item)
    return chunks


def encoded(items: list[Item], encode: Encode) -> bytes:
    """Return what ``encode`` makes of the chunks that ``items`` are."""
    return b"".join([item.encoded(encode) if isinstance(item, TextRun) else encode([item]) for item in items])


class Frame:
    """What stands around the text of an event, and around its padding if it has some: as received, and as sent.

    All of it ends with or begins with a quote, which no text holds: what is found between its parts is the text.
    """

    __slots__ = ("_around", "_between", "_choice", "_chunk", "_delta", "_first", "_last", "_name", "_padding")

    def __init__(self, received: list[bytes], chunk: JSONObject) -> None:
        """``received`` are the parts of an event, ``chunk`` is what it becomes, with marks in their places."""
        self._first, self._last = received[0], received[-1]
        self._between = b"".join(received[1:-1])
        self._chunk = chunk
        (self._choice,) = chunk["choices"]
        self._delta = self._choice["delta"]
        (self._name,) = [name for name, value in self._delta.items() if value == _TEXT]
        self._padding = next((name for name in PADDING if chunk.get(name) == _PADDED), None)
        #: Of a chunk as it is sent: what stands before the text, what between it and its padding, and what after that.
        self._around: tuple[bytes, bytes, bytes] | None = None

    @classmethod
    def of(cls, event: bytes, chunk: JSONObject, translator: Translator) -> Self | None:
        """Return the frame of ``event``, which has just become ``chunk``; None if none is certain."""
        try:
            received, marked = _marked(event, chunk, translator)
        except (json.InvalidJSON, _NoFrameError):
            return None
        parts = _MARKS.split(received)
        if parts[1::2] not in ([_TEXT.encode()], [_TEXT.encode(), _PADDED.encode()]):
            return None
        frame = cls(parts[::2], marked)
        run, _ = frame.read(event)
        return frame if run is not None and run.chunks() == [chunk] else None

    def read(self, events: bytes, start: int = 0) -> tuple[TextRun | None, int]:
        """Return what comes in this frame from ``start`` on, and where that ends; of events with padding only one."""
        first, last, begin = self._first, self._last, start
        before, after = len(first), len(last)
        texts: list[bytes] = []
        padding = None
        while events.startswith(first, start) and (end := events.find(last, start + before)) > 0:
            texts.append(events[start + before : end])
            start = end + after
            if self._between:
                text, _, padding = texts[0].partition(self._between)
                texts = [text]
                break
        is_certain = all(texts) and all(map(_plain, [*texts, padding or b""])) and _is_utf8(events[begin:start])
        return (TextRun(self, texts, padding), start) if texts and is_certain else (None, begin)

    def chunk(self, text: str, padding: str | None) -> JSONObject:
        """Return the chunk of an event."""
        choice = self._choice | {"delta": self._delta | {self._name: text}}
        chunk = self._chunk | {"choices": [choice]}
        return chunk if self._padding is None else chunk | {self._padding: padding}

    def around(self, encode: Encode) -> tuple[bytes, bytes, bytes] | None:
        """Return what stands around a text that is sent; None if that is not certain."""
        if self._around is None:
            parts = _MARKS.split(encode([self.chunk(_TEXT, _PADDED)]))
            if parts[1::2] == [_TEXT.encode()] and self._padding is None:
                self._around = parts[0], b"", parts[2]
            elif parts[1::2] == [_TEXT.encode(), _PADDED.encode()]:
                self._around = parts[0], parts[2], parts[4]
        return self._around


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


class _NoFrameError(Exception):
    """Nothing is certain about what stands around the text."""


def _marked(event: bytes, chunk: JSONObject, translator: Translator) -> tuple[bytes, JSONObject]:
    """Return an event and its chunk with marks in place of the text and of the padding."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise _NoFrameError
    delta = choices[0].get("delta", {})
    texts = {name: value for name, value in delta.items() if value}  # with a role it is the first: not again
    name, text = texts.popitem() if len(texts) == 1 else ("", None)
    if not isinstance(text, str):
        raise _NoFrameError
    start = event.find(b"{")
    head, data, end = event[:start], event[start : -len(_END)], event[-len(_END) :]
    if b"\n" in data or b"\r" in event or _MARKS.search(event) is not None:
        raise _NoFrameError
    data, payload = _mark(data, text, _TEXT)
    if translator.text_in(payload) != _TEXT:
        raise _NoFrameError
    marked = chunk | {"choices": [choices[0] | {"delta": delta | {name: _TEXT}}]}
    for padding in PADDING.intersection(payload):
        data, payload = _mark(data, payload[padding], _PADDED)
        marked[padding] = _PADDED
    return head + data + end, marked


def _mark(data: bytes, text: object, mark: str) -> tuple[bytes, JSONObject]:
    """Return JSON with ``mark`` in place of ``text``, which it must hold once, and the object that it then is."""
    written = json.encode_text(text) if isinstance(text, str) else b""
    if not written or data.count(written) != 1:
        raise _NoFrameError
    marked = data.replace(written, json.encode_text(mark))
    return marked, json.decode_object(marked)


def _after_blank_lines(received: bytes, position: int) -> int:
    """Return where the blank lines end that follow on one: they say nothing more, and there may be millions."""
    found = _line_ends(received, position)
    return position if found is None else found.end()


class FramedReader:
    """Reads the events of one stream, the quick way where there is one."""

    __slots__ = ("_ends_with_blank_lines", "_frame", "_frames_left", "_held", "_passing", "_reader", "_translator")

    def __init__(self, reader: sse.EventReader, translator: Translator) -> None:
        self._reader = reader
        self._translator = translator
        self._passing = translator if isinstance(translator, PassingTranslator) else None
        #: Of the event that came last; only while nothing has come after it but events of this frame.
        self._frame: Frame | None = None
        self._frames_left = _MAX_FRAMES
        #: The beginning of an event: it is looked at when it is whole.
        self._held = b""
        self._ends_with_blank_lines = False

    def feed(self, received: bytes, found: list[Item]) -> None:
        """Add to ``found`` what ``received`` amounts to; raises what the reader and the translator raise."""
        received = self._held + received
        self._held, position = b"", 0
        while (blank_line := received.find(_END, position)) >= 0:
            if (end := self._pass_verbatim(received, position, found)) > position:
                position = end
                continue
            run, position = self._frame.read(received, position) if self._frame is not None else (None, position)
            if run is not None:
                self._note(run, found)
            else:
                event_end = blank_line + len(_END)
                self._take(received[position:event_end], found)
                position = _after_blank_lines(received, event_end)
        rest = received[position:]
        self._ends_with_blank_lines = self._ends_with_blank_lines or position > 0
        may_hold = self._ends_with_blank_lines and self._reader.is_between_events and len(rest) < _MAX_HELD_BYTES
        if may_hold and rest.count(b"\n") <= _MAX_HELD_LINES:
            self._held = rest
        elif rest:
            self._take(rest, found)

    def _pass_verbatim(self, received: bytes, position: int, found: list[Item]) -> int:
        """Add the events from ``position`` on that are passed on as they came, and return where they end."""
        passing = self._passing
        if passing is None or passing.verbatim is None or not self._reader.is_between_events:
            return position
        head, tail = passing.verbatim
        while received.startswith(head, position) and (rest := tail.match(received, position + len(head))) is not None:
            event = received[position : rest.end()]
            if not _is_utf8(event):
                break
            found.append(passing.pass_on(event))
            self._reader.blocks += 1
            position = rest.end()
        return position

    def _note(self, run: TextRun, found: list[Item]) -> None:
        """Add what came in the frame."""
        if self._translator.notes_texts:
            for text in run.texts:
                self._translator.add_text(text)
        self._reader.blocks += len(run)
        found.append(run)

    def end(self, found: list[Item]) -> None:
        """Add what the end of the bytes completes, beside what the translator still owes."""
        held, self._held = self._held, b""
        self._pass_on(self._reader.feed(held), found)
        self._pass_on(self._reader.end(), found)

    def _take(self, data: bytes, found: list[Item]) -> None:
        """Go the usual way; what was one event and became one chunk may have a frame."""
        self._frame = None
        was_between = self._reader.is_between_events
        events = self._reader.feed(data)
        chunks = self._pass_on(events, found)
        is_one = len(events) == len(chunks) == 1 and was_between and self._reader.is_between_events
        if is_one and self._translator.is_settled and self._frames_left:
            self._frames_left -= 1
            self._frame = Frame.of(data, chunks[0], self._translator)

    def _pass_on(self, events: list[sse.Event], found: list[Item]) -> list[JSONObject]:
        chunks: list[JSONObject] = []
        try:
            for event in events:
                if not self._translator.finished:
                    chunks += self._translator.feed(event)
        finally:
            found += chunks
        return chunks
