"""The quick way of a stream gives what the usual way gives, byte for byte, wherever the stream is cut."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import sse
from one_api.dialects.anthropic.inbound.native import NativeMessage
from one_api.dialects.anthropic.response import ResponseOptions
from one_api.dialects.anthropic.stream import ClaudeStream
from one_api.dialects.frames import FramedReader, Item, Translator, chunks_of, encoded
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.stream import LocalStream
from one_api.dialects.openai.chat_events import ChatEventWriter
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from tests.dialects import recorded
from tests.dialects.recorded import OURS, chunk, opened, piece, usage
from tests.support import claude_bytes, claude_events, text_block, thinking_block, tool_block

Make = Callable[[], Translator]

#: Texts with all that JSON escapes, and with what looks like a part of an event.
TEXTS = [
    "Hel",
    " wörld 😀",
    'a "quoted" \\ text',
    "\n\n",
    "\u2028\x7f\t\x00",
    '"}}],"x":"',
    "data: {",
    "",
    "Hello",
    "<b>",
]
SOME = ["Hel", '"lo"', "Hello", "é"]
OPENING = chunk({"role": "assistant", "content": ""})
CLOSING = chunk({}, "stop")


def raw(*payloads: JSONObject | str, done: bool = True) -> bytes:
    """See ``recorded.stream``."""
    return recorded.stream(*payloads, done=done)


def plain(*texts: str, **fields: Any) -> list[JSONObject | str]:
    """A chunk for each text, with further fields."""
    return [chunk({"content": text}, **fields) for text in texts]


def written(text: str) -> str:
    """The event of a text that is written in JSON already."""
    return raw(chunk({"content": "@"}), done=False).decode().replace("@", text)


def with_logprobs(text: str) -> JSONObject:
    """A chunk that holds its text once more."""
    (choice,) = chunk({"content": text})["choices"]
    return chunk() | {"choices": [choice | {"logprobs": {"content": [{"token": text}]}}]}


OPENAI = {
    "text": raw(OPENING, *plain(*TEXTS), CLOSING),
    "usage": raw(
        OPENING | {"usage": None}, *plain(*SOME, usage=None), {**CLOSING, "choices": [], "usage": usage(9, 3)}
    ),
    "padding": raw(OPENING, *(chunk({"content": text}, obfuscation="x" * i) for i, text in enumerate(TEXTS)), CLOSING),
    "padding before the text": raw(
        OPENING, *({"obfuscation": each} | chunk({"content": each}) for each in SOME), CLOSING
    ),
    "a role in every chunk": raw(*(chunk({"role": "assistant", "content": text}) for text in SOME), CLOSING),
    "reasoning under another name": raw(
        OPENING,
        *(chunk({"reasoning": text}) for text in SOME),
        *(chunk({"reasoning": "", "content": text}) for text in SOME),
        CLOSING,
    ),
    "the text once more beside it": raw(OPENING, *(chunk({"content": text}, said=text) for text in SOME), CLOSING),
    "logprobs": raw(OPENING, *map(with_logprobs, SOME), CLOSING),
    "two choices": raw(
        OPENING,
        chunk({"role": "assistant"}, index=1),
        *(chunk({"content": text}, index=i % 3 % 2) for i, text in enumerate(TEXTS)),
        CLOSING,
        chunk({}, "stop", 1),
    ),
    "comments, and lines without data": raw(
        OPENING,
        *(part for each in SOME for part in (": ping\n\n", *plain(each, each))),
        *("\n", *plain("x"), "\n\n", *plain("y"), "id: 7\n\n", *plain("z"), CLOSING),
    ),
    "a call in between": raw(
        OPENING,
        *plain("a", "b"),
        chunk(opened("c", "f", "", index=0)),
        chunk(piece("{}", index=0)),
        *plain("c", "d"),
        chunk({}, "tool_calls"),
    ),
    "ids that change": raw(OPENING, *(chunk({"content": text}, id=f"c{text}") for text in SOME), CLOSING),
    "escapes that need not be": raw(OPENING, *plain("a", "b"), written("\\u0061\\u00e9\\/"), *plain("c"), CLOSING),
    "halves of characters": raw(
        OPENING, *plain("a", "b"), *map(written, ("\\ud83d", "\\ude00", "\\ud83d", "x")), *plain("c", "d"), CLOSING
    ),
    "no UTF-8": raw(OPENING, *plain("a", "b@", "c", "d"), CLOSING).replace(b"@", b"\xc3"),
    "control characters": raw(OPENING, *plain("a", "b@", "c"), CLOSING).replace(b"@", b"\x01"),
    "text after the end": raw(OPENING, *plain("a"), CLOSING, *plain("b", "c")),
    "text after the end mark": raw(OPENING, *plain("a", "b"), recorded.DONE, *plain("c")),
    "an error": raw(OPENING, *plain("a", "b"), {"error": {"message": "no"}}, *plain("c")),
    "no end": raw(OPENING, *plain(*SOME), done=False),
    "a mark of ours": raw(OPENING, *plain("<one_api:text>", "<one_api:text>", "a"), CLOSING),
    "events of two lines": raw(OPENING, *plain(*"abc"), CLOSING).replace(b',"choices', b'\ndata: ,"choices'),
    "one line end between events": raw(OPENING, *plain("a", "b")).replace(b"\n\n", b"\n"),
    "carriage returns": raw(OPENING, *plain(*"abc"), CLOSING).replace(b"\n", b"\r\n"),
}
MIXED = (thinking_block("Hm", "m."), text_block(*SOME), tool_block("t", "f", '{"a":', "1}"), text_block("x", "", "y"))
CLAUDE = {
    "text": claude_bytes(*claude_events(text_block(*TEXTS))),
    "thinking, text and a call": claude_bytes(*claude_events(*MIXED)),
    "pings": claude_bytes(*claude_events(text_block(*SOME))).replace(
        b"event: content_block_stop", b'event: ping\ndata: {"type": "ping"}\n\nevent: content_block_stop'
    ),
}
#: So many bytes hold several events.
SEVERAL = 600
RESPONSE_OPTIONS = {
    "stops": ResponseOptions(stops=("lo",)),
    "fence": ResponseOptions(unfence=True),
    "a forced tool": ResponseOptions(forced_tool="f"),
    "a JSON tool": ResponseOptions(json_tool="f"),
}


@dataclass(frozen=True)
class Outcome:
    """What a client gets of a stream, and what is known of it at the end."""

    sent: bytes
    error: str | None
    finished: bool
    usage: JSONObject | None
    more: Any


def usual(make: Make, pieces: Iterable[bytes]) -> Outcome:
    """What comes out when every event is decoded."""
    translator, reader, sent = make(), sse.EventReader(), list[bytes]()

    def run() -> None:
        for each in pieces:
            for event in reader.feed(each):
                write(translator.feed(event), sent)
        for event in reader.end():
            write(translator.feed(event), sent)

    return outcome(translator, sent, run)


def quick(make: Make, pieces: Iterable[bytes]) -> Outcome:
    """What comes out by way of frames, written from its texts alone; its chunks amount to the same."""
    translator, sent, found = make(), list[bytes](), list[Item]()
    framed = FramedReader(sse.EventReader(), translator)

    def run() -> None:
        try:
            for each in pieces:
                framed.feed(each, found)
            framed.end(found)
        finally:
            sent.append(encoded(found, ChatEventWriter().write))
            assert ChatEventWriter().write(chunks_of(found)) == sent[0]

    return outcome(translator, sent, run)


def write(chunks: list[JSONObject], sent: list[bytes]) -> None:
    """Add chunks to what was sent."""
    sent.append(ChatEventWriter().write(chunks))


def outcome(translator: Translator, sent: list[bytes], run: Callable[[], None]) -> Outcome:
    """Run, and look at what has become of it."""
    error = None
    try:
        run()
        write(translator.end(), sent)
    except ErrorPayload as caught:
        write(caught.chunks, sent)
        error = repr(caught.payload)
    except InvalidAnswer as caught:
        error = repr(caught)
    more = (translator.text, translator.blocks, translator.calls) if isinstance(translator, ClaudeStream) else None
    return Outcome(b"".join(sent), error, translator.finished, translator.usage, more)


def assert_same(make: Make, data: bytes) -> None:
    """However a stream is cut, both ways give the same; each of its bytes is a cut, with whole events before it."""
    whole = usual(make, [data])
    assert quick(make, [data]) == whole
    for cuts in recorded.every_cut(len(data), SEVERAL):
        pieces = [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]
        assert quick(make, pieces) == whole, f"cut at {cuts}"
    for size in (1, 7, 100):
        assert quick(make, [data[start : start + size] for start in range(0, len(data), size)]) == whole


@pytest.mark.parametrize("name", OPENAI)
def test_openais_streams(name: str) -> None:
    assert_same(openai, OPENAI[name])


@pytest.mark.parametrize("recording", recorded.ALL, ids=lambda recording: recording.name)
def test_recorded_streams(recording: recorded.Recording) -> None:
    assert_same(openai, recording.raw)
    assert_same(lambda: OpenAIStream(OURS, include_usage=False), recording.raw)


@pytest.mark.parametrize("name", CLAUDE)
def test_claudes_streams(name: str) -> None:
    assert_same(lambda: ClaudeStream(OURS, include_usage=True), CLAUDE[name])


@pytest.mark.parametrize("name", CLAUDE)
def test_claudes_streams_that_are_passed_on(name: str) -> None:
    assert_same(NativeMessage, CLAUDE[name])


@pytest.mark.parametrize(
    "written",
    [
        b"event: content_block_delta\r\ndata: {}\r\n\r\n",
        b"event: content_block_delta\ndata:{}\n\n",
        b"event: content_block_delta\ndata:  {}\n\n",
        b"event: content_block_delta\ndata: {\ndata: }\n\n",
        b"event: content_block_delta\nid: 7\ndata: {}\n\n",
        b"event: content_block_delta\ndata: \n\n",
        b"event: content_block_delta\ndata: \xff\n\n",
        b": a comment\nevent: content_block_delta\ndata: {}\n\n",
        b"data: {}\nevent: content_block_delta\ndata: {}\n\n",
    ],
    ids=repr,
)
def test_events_that_are_passed_on_look_the_same_however_they_are_written(written: bytes) -> None:
    whole = claude_bytes(*claude_events(text_block("a", "b")))
    delta = whole.index(b"event: content_block_delta")

    assert_same(NativeMessage, whole[:delta] + written + whole[delta:] + written)


def test_an_event_that_is_passed_on_is_not_read() -> None:
    class Counting(NativeMessage):
        fed = 0

        def feed(self, event: sse.Event) -> list[JSONObject]:
            self.fed += 1
            return super().feed(event)

    translator, found = Counting(), list[Item]()
    FramedReader(sse.EventReader(), translator).feed(claude_bytes(*claude_events(text_block(*("w" * 100)))), found)

    assert sum(b"content_block_delta" in chunk.get("native", b"") for chunk in chunks_of(found)) == 100
    assert translator.fed <= 10


@pytest.mark.parametrize("options", RESPONSE_OPTIONS)
def test_claudes_streams_in_which_something_is_looked_for(options: str) -> None:
    # A short one: each of its bytes is a cut.
    blocks = (thinking_block("Hm"), text_block("Hel", '"lo"', "x"), tool_block("t", "f", '{"a":', "1}"))

    assert_same(
        lambda: ClaudeStream(OURS, RESPONSE_OPTIONS[options], include_usage=True), claude_bytes(*claude_events(*blocks))
    )


@pytest.mark.parametrize("forced", [False, True])
def test_the_engines_streams(forced: bool) -> None:
    assert_same(lambda: LocalStream(OURS, include_usage=True, forced=forced), OPENAI["text"])


@given(st.lists(st.text(), max_size=8), st.integers(1, 400), st.booleans())
def test_any_texts(texts: list[str], size: int, padded: bool) -> None:
    pads = [{"obfuscation": text} if padded else {} for text in reversed(texts)]
    data = raw(OPENING, *(chunk({"content": text}, **pad) for text, pad in zip(texts, pads, strict=True)), CLOSING)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    assert quick(openai, pieces) == usual(openai, pieces)


def openai() -> OpenAIStream:
    """A translator of OpenAI's dialect."""
    return OpenAIStream(OURS, include_usage=True)


class CountingStream(OpenAIStream):
    """Counts the events that go the usual way."""

    fed = 0

    def feed(self, event: sse.Event) -> list[JSONObject]:
        """See ``OpenAIStream``."""
        self.fed += 1
        return super().feed(event)


@pytest.mark.parametrize("size", [100_000, 250, 7])
@pytest.mark.parametrize("fields", [{}, {"usage": None}, {"obfuscation": "abc"}], ids=str)
def test_an_event_like_the_one_before_is_not_decoded(fields: dict[str, Any], size: int) -> None:
    data = raw(OPENING, *(chunk({"content": f"word {i}"}, **fields) for i in range(100)), CLOSING)
    translator, found = CountingStream(OURS, include_usage=True), list[Item]()
    framed = FramedReader(sse.EventReader(), translator)

    for start in range(0, len(data), size):
        framed.feed(data[start : start + size], found)

    assert encoded(found, ChatEventWriter().write).count(b"word") == 100
    assert translator.fed <= 5


def test_blank_lines_are_looked_at_together() -> None:
    class Counting(sse.EventReader):
        fed = 0

        def feed(self, received: bytes) -> list[sse.Event]:
            self.fed += 1
            return super().feed(received)

    reader, found = Counting(), list[Item]()
    stream = FramedReader(reader, OpenAIStream(OURS, include_usage=False))
    for received in [raw(*plain("a", "b"), done=False), b"\n" * 10_000, b"\n" * 9_999 + raw(*plain("c"), done=False)]:
        stream.feed(received, found)
    assert [each["choices"][0]["delta"]["content"] for each in chunks_of(found)] == ["a", "b", "c"]
    assert reader.fed < 10
