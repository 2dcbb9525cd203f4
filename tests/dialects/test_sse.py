"""Events come out of a stream the same, however its bytes are framed and wherever they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects.sse import DONE, HEARTBEAT, Event, EventReader, EventTooLarge, encode_event

#: Everything that framing allows, in one stream; the name says what the line end is.
TORTURE = (
    "\ufeffdata: right after the mark\n"
    "\n"
    ": a comment\n"
    "\n"
    'data: {"content":"plain"}\n'
    "\n"
    'data:{"content":"no space"}\n'
    "\n"
    "data:  two spaces keep one\n"
    "\n"
    "event: named\n"
    "data: first line\n"
    "data:\n"
    "data: third line\n"
    "\n"
    ": OPENROUTER PROCESSING\n"
    "\n"
    "id: 7\n"
    "retry: 1000\n"
    "nonsense\n"
    "data: héllo 😀 \u2028 end\n"
    ": a comment within\n"
    "\n"
    "event: ping\n"
    "\n"
    "\n"
    "\n"
    "data: a: b: c\n"
    "\n"
    "data: [DONE]\n"
    "\n"
)
EVENTS = [
    Event(b"right after the mark"),
    Event(b'{"content":"plain"}'),
    Event(b'{"content":"no space"}'),
    Event(b" two spaces keep one"),
    Event(b"first line\n\nthird line", "named"),
    Event("héllo 😀 \u2028 end".encode()),
    Event(b"a: b: c"),
    Event(b"[DONE]"),
]
LINE_ENDS = pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])


def torture(line_end: str) -> bytes:
    """The stream with that line end."""
    return TORTURE.replace("\n", line_end).encode()


def read(*pieces: bytes, max_bytes: int = 1024) -> list[Event]:
    """All events of a stream that arrives in these pieces."""
    reader = EventReader(max_bytes)
    return [event for piece in pieces for event in reader.feed(piece)]


@LINE_ENDS
def test_every_legal_framing_gives_its_events(line_end: str) -> None:
    assert read(torture(line_end)) == EVENTS


@LINE_ENDS
def test_a_cut_at_any_byte_changes_nothing(line_end: str) -> None:
    raw = torture(line_end)

    for cut in range(len(raw) + 1):
        assert read(raw[:cut], raw[cut:]) == EVENTS, f"cut at {cut}"


@LINE_ENDS
def test_one_byte_at_a_time_changes_nothing(line_end: str) -> None:
    raw = torture(line_end)

    assert read(*(raw[i : i + 1] for i in range(len(raw)))) == EVENTS


@given(st.data())
def test_many_cuts_and_mixed_line_ends_change_nothing(data: st.DataObject) -> None:
    lines = TORTURE.split("\n")[:-1]
    ends = data.draw(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=len(lines), max_size=len(lines)))
    # A CR before an LF of the next, empty line would be one line end, not two.
    mixed = "".join(line + end for line, end in zip(lines, ends, strict=True))
    raw = mixed.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))

    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    assert read(*pieces) == read(raw)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_there_as_soon_as_its_blank_line_is(line_end: bytes) -> None:
    reader = EventReader()

    assert reader.feed(b"data: now" + line_end) == []
    assert reader.feed(line_end) == [Event(b"now")]


def test_the_second_half_of_a_cut_line_end_is_no_blank_line() -> None:
    reader = EventReader()

    assert reader.feed(b"data: a\r") == []
    assert reader.feed(b"\ndata: b\r") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\n\r") == [Event(b"a\nb")]
    assert reader.feed(b"\n") == []


def test_an_event_without_its_blank_line_is_none() -> None:
    assert read(b"data: whole\n\n", b"data: cut") == [Event(b"whole")]
    assert read(b"data: whole\n\n", b"data: cut\n") == [Event(b"whole")]


@pytest.mark.parametrize("block", [b"event: ping\n\n", b"data\n\n", b"data:\n\n", b"data: \n\n", b": x\n\n", b"\n\n\n"])
def test_a_block_without_data_is_no_event(block: bytes) -> None:
    assert read(block + b"data: next\n\n") == [Event(b"next")]


def test_a_name_ends_with_its_event() -> None:
    assert read(b"event: a\ndata: 1\n\ndata: 2\n\n") == [Event(b"1", "a"), Event(b"2")]


def test_a_byte_order_mark_is_dropped_at_the_start_only() -> None:
    mark = b"\xef\xbb\xbf"
    raw = mark + b"data: 1\n\n" + mark + b"data: hidden\n\ndata: " + mark + b"\n\n"

    for cut in range(len(raw)):
        assert read(raw[:cut], raw[cut:]) == [Event(b"1"), Event(mark)], f"cut at {cut}"


def test_field_names_are_matched_exactly() -> None:
    assert read(b" data: a\nDATA: b\ndata : c\ndatas: d\n\n") == []


# Bounds


@pytest.mark.parametrize("framing", [b"data: %b\n\n", b"data:%b\n\n", b"event: e\ndata: %b\n\n"])
def test_an_event_within_the_bound_passes_however_it_is_cut(framing: bytes) -> None:
    raw = framing % (b"x" * (64 - 6)) * 2

    for cut in range(len(raw) + 1):
        events = read(raw[:cut], raw[cut:], max_bytes=64)
        assert [event.data for event in events] == [b"x" * (64 - 6)] * 2, f"cut at {cut}"


@pytest.mark.parametrize(
    "raw",
    [
        b"data: " + b"x" * 100 + b"\n\n",
        b"data: xxxxxxxxxxxxx\n" * 8 + b"\n",
        b"data:\n" * 1000 + b"\n",
        b": " + b"x" * 100 + b"\n\n",
        b"event: " + b"x" * 100 + b"\n\n",
        b"x" * 100 + b"\r",
    ],
    ids=["one line", "many lines", "empty lines", "comment", "name", "no field"],
)
def test_an_event_over_the_bound_is_refused_however_it_is_cut(raw: bytes) -> None:
    for cut in range(len(raw) + 1):
        with pytest.raises(EventTooLarge):
            read(raw[:cut], raw[cut:], max_bytes=64)


def test_an_endless_line_is_refused_before_it_is_kept() -> None:
    reader = EventReader(max_bytes=1000)
    fed = 0

    with pytest.raises(EventTooLarge):
        while fed < 10_000:
            reader.feed(b"x" * 100)
            fed += 100

    assert fed == 1000


def test_many_events_may_exceed_the_bound_together() -> None:
    raw = b"data: 0123456789\n\n" * 100

    assert len(read(raw, max_bytes=64)) == 100


def test_the_default_bound_is_eight_mebibytes() -> None:
    most = 8 * 1024 * 1024 - len("data: ")

    assert [len(event.data) for event in EventReader().feed(b"data: %b\n\n" % (b"x" * most))] == [most]
    with pytest.raises(EventTooLarge):
        EventReader().feed(b"data: %b\n\n" % (b"x" * (most + 1)))


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    piece = b"x" * 100
    reader = EventReader()

    reader.feed(b"data: ")
    for _ in range(80_000):
        assert reader.feed(piece) == []

    assert len(reader.feed(b"\n\n")[0].data) == 8_000_000


# What we write


def test_what_we_write_reads_back() -> None:
    payload = {"text": "line\nbreak \r and \u2028, 😀", "n": 1.0}

    written = HEARTBEAT + encode_event(payload) + DONE
    first, last = read(written)

    assert first.data == '{"text":"line\\nbreak \\r and \u2028, 😀","n":1.0}'.encode()
    assert last == Event(b"[DONE]")


def test_an_event_is_one_line_of_json_and_a_blank_line() -> None:
    assert encode_event({"a": "ä\n"}) == 'data: {"a":"ä\\n"}\n\n'.encode()
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")


def test_a_page_after_events_is_an_error() -> None:
    reader = EventReader()

    events = reader.feed(b"data: {}\n\n<html><title>502 Bad Gateway</title></html>\n\ndata: [DONE]\n\n")

    assert events[1] == Event(b"<html><title>502 Bad Gateway</title></html>", "error")


WORDS = [
    "Internal Server Error", "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    "<html><body>502 Bad Gateway</body></html>", "no healthy upstream",
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_words_where_the_next_event_belongs_are_an_error(words: str) -> None:
    reader = EventReader()
    first = reader.feed(b"data: {}\n\n")

    assert [*reader.feed(f"{words}\n".encode()), *reader.end()] == [Event(words.encode(), "error")]
    assert first == [Event(b"{}")]


@pytest.mark.parametrize("line", ["nonsense", "x-field: some words", ": a comment of words", "retry: 3000"])
def test_an_unknown_field_is_ignored(line: str) -> None:
    reader = EventReader()
    reader.feed(b"data: {}\n\n")

    assert reader.feed(f"{line}\n\n".encode()) == []
