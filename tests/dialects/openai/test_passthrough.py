"""What passes through: bodies keep their bytes, and answers show their type, their end and what they took."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from one_api.contract import Units, Usage
from one_api.dialects.multipart import find_field
from one_api.dialects.openai.passthrough import (
    IMAGES,
    MODERATIONS,
    SPEECH,
    TRANSCRIPTIONS,
    Door,
    FormBody,
    JSONBody,
    Watcher,
    read_json,
    type_of,
    units_told,
    usage_of,
)
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer


async def _joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def sent(body: Any) -> bytes:
    """All bytes of a body, which it says the number of."""
    data = asyncio.run(_joined(body.__aiter__()))
    assert len(data) == body.size
    return data


def test_a_form_keeps_its_bytes_but_for_the_model() -> None:
    audio = bytes(range(256)) * 1000
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xa4.wav"\r\n\r\n' + audio
    tail = (
        b'\r\n--b\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword\r\n' * 2
        + b"--b--\r\n"
    )
    form = head + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nold' + tail
    field = find_field(form, b"b", "model")
    assert field is not None

    body = FormBody(form, field, "multipart/form-data; boundary=b", b"old").for_model("a-longer-name")

    assert sent(body) == form.replace(b"\r\n\r\nold", b"\r\n\r\na-longer-name")
    assert sent(body) == sent(body), "it may be sent again"


def test_an_object_keeps_the_order_of_its_keys() -> None:
    body = JSONBody({"z": 1, "model": "old", "input": "ä"}).for_model("new")

    assert sent(body) == '{"z":1,"model":"new","input":"ä"}'.encode()


@pytest.mark.parametrize(
    ("label", "start", "door", "found"),
    [
        ("application/json", b"{", MODERATIONS, "json"),
        ("application/json; charset=utf-8", b"", MODERATIONS, "json"),
        ("text/plain", b'{"results"', MODERATIONS, "json"),
        ("application/octet-stream", b" {", IMAGES, "json"),
        ("text/event-stream; charset=utf-8", b"data: ", IMAGES, "events"),
        ("text/html", b"", IMAGES, "html"),
        ("application/json", b"<!DOCTYPE html>", MODERATIONS, "html"),
        ("text/plain", b"[music]", TRANSCRIPTIONS, "text"),
        ("text/vtt", b"WEBVTT", TRANSCRIPTIONS, "text"),
        ("application/json", b"{", TRANSCRIPTIONS, "json"),
        ("audio/mpeg", b"ID3", SPEECH, "binary"),
        ("application/octet-stream", b"ID3", SPEECH, "binary"),
        ("audio/mpeg", b'{"error"', SPEECH, "json"),
    ],
)
def test_what_an_answer_is(label: str, start: bytes, door: Door, found: str) -> None:
    assert type_of(label, start, door) == found


def test_an_error_that_came_with_success() -> None:
    with pytest.raises(ErrorPayload):
        read_json(b'{"error":{"message":"no"}}', MODERATIONS)
    with pytest.raises(InvalidAnswer):
        read_json(b'{"results"', MODERATIONS)


def test_words_in_an_answer_are_no_error() -> None:
    answer = {"results": [{"flagged": True}], "message": "flagged", "status": "error"}

    assert read_json(json.dumps(answer).encode(), MODERATIONS) == answer


LAST = [
    b'event: image_generation.completed\ndata: {"b64_json":"AAAA","type":"image_generation.completed"}\n\n',
    b'data: {"b64_json":"AAAA","type":"image_generation.completed","usage":{"input_tokens":3,"output_tokens":4}}\n\n',
    b'data: {"type":"transcript.text.done","text":"hi"}\n\n',
    b"data: [DONE]\n\n",
]


@pytest.mark.parametrize("last", LAST)
def test_a_stream_of_events_is_complete_after_its_last_event_wherever_it_is_cut(last: bytes) -> None:
    data = b'data: {"type":"transcript.text.delta","delta":"it is \\"type\\":\\"x.done\\""}\n\n' + last
    for at in range(len(data)):
        watcher = Watcher("events")
        watcher.feed(data[:at])
        assert at > len(data) - len(last) or not watcher.is_complete
        watcher.feed(data[at:])
        assert watcher.is_complete


def test_other_answers_end_where_they_end() -> None:
    watcher = Watcher("binary")
    watcher.feed(b"anything")

    assert watcher.is_complete
    assert watcher.usage is None


def test_the_usage_of_an_answer_that_is_too_long_to_be_read() -> None:
    watcher = Watcher("json")
    for piece in (b'{"data":[{"b64_json":"', b"A" * 100_000, b'"}],"usage":{"input_tokens":3,"output', b'_tokens":4}}'):
        watcher.feed(piece)

    assert watcher.usage == Usage(3, 4)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2)),
        ({"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {}}, Usage(1, 2)),
        ({"total_tokens": 5}, Usage(5, 0)),
        ({"type": "duration", "seconds": 9}, None),
        (None, None),
    ],
)
def test_usage_in_any_words(reported: Any, usage: Usage | None) -> None:
    assert usage_of(reported) == usage


@pytest.mark.parametrize("odd", [10**400, "1e999", float("nan"), -1, True, [], "?", 10**10, "-0.5"], ids=repr)
def test_an_amount_that_cannot_be_is_none(odd: Any) -> None:
    assert units_told({"usage": {"seconds": odd}}) is None
    assert units_told({"usage": {"seconds": "9.5"}}) == Units(9.5, "seconds")
