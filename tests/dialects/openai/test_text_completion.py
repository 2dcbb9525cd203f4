"""The legacy Completions format: what is checked of a request, and when a stream is complete."""

import json
from typing import Any

import pytest

from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.text_completion import TextRequest, TextStream, prepare, read_answer
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.sse import Event
from one_api.errors import InvalidRequest

IDENTITY = Identity("cmpl-ours", 7, "m")


def events(*payloads: Any) -> list[Event]:
    return [Event(each if isinstance(each, bytes) else json.dumps(each).encode(), "", bare=False) for each in payloads]


def text(said: str, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"text": said, "index": index, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "up", "choices": [choice], **fields}


def stream(include_usage: bool = False, choices: int = 1) -> TextStream:
    return TextStream(IDENTITY, include_usage=include_usage, choices=choices)


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]], "n": 3}, 6),
        ({"n": 2}, 2),
        ({"n": "2", "prompt": []}, 1),
    ],
)
def test_how_many_choices_are_asked_for(body: dict[str, Any], choices: int) -> None:
    assert TextRequest.read({"model": "m", **body}).choices == choices


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"model": "m", "messages": []}, "prompt"),
        ({"model": "m", "stream": "yes"}, "stream"),
        ({"model": "m", "stream_options": {}}, "stream_options"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        TextRequest.read(body)

    assert caught.value.param == param


def test_the_body_is_touched_for_usage_in_streams_only() -> None:
    body = {"model": "m", "prompt": [1, 2], "echo": True, "max_tokens": 0, "logprobs": 1, "best_of": 3, "foo": {}}

    assert prepare(TextRequest.read(body), stream_usage=True) is body
    streamed = body | {"stream": True}
    assert prepare(TextRequest.read(streamed), stream_usage=False) is streamed
    assert prepare(TextRequest.read(streamed), stream_usage=True) == streamed | {
        "stream_options": {"include_usage": True}
    }


def test_a_whole_answer_is_passed_on() -> None:
    answer = text("hi", "stop", extra=1)

    assert read_answer(json.dumps(answer).encode(), IDENTITY) == answer


def test_what_an_answer_lacks_is_filled_up() -> None:
    answer = read_answer(b'{"choices":[{"text":"a"},{"text":null}]}', IDENTITY)

    assert (answer["id"], answer["object"], answer["model"]) == ("cmpl-ours", "text_completion", "m")
    assert answer["choices"] == [{"text": "a", "index": 0}, {"text": "", "index": 1}]


@pytest.mark.parametrize("data", [b"<html>", b"{}", b'{"choices":[]}', b'{"choices":[{"text":1}]}', b'{"choices":[3]}'])
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read_answer(data, IDENTITY)


def test_an_error_in_a_choice() -> None:
    with pytest.raises(ErrorPayload):
        read_answer(b'{"choices":[{"error":{"message":"no"}}]}', IDENTITY)


def test_a_stream_ends_with_its_mark() -> None:
    reader = stream()

    chunks = [chunk for event in events(text("a"), text("b", "stop"), b"[DONE]") for chunk in reader.feed(event)]

    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b"]
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert reader.finished


def test_a_stream_whose_choices_have_all_ended_is_complete_without_the_mark() -> None:
    reader = stream(choices=2)
    for event in events(text("a", "stop"), text("b", None, index=1)):
        reader.feed(event)
    reader.end()
    assert not reader.finished

    reader.feed(events(text("", "length", index=1))[0])
    reader.end()

    assert reader.finished


def test_a_stream_that_stops_is_not_complete() -> None:
    reader = stream()
    reader.feed(events(text("a"))[0])

    assert reader.end() == []
    assert not reader.finished


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_is_passed_on_to_those_who_asked(wanted: bool) -> None:
    reader = stream(include_usage=wanted)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

    reader.feed(events(text("a", "stop"))[0])
    (event,) = events({"choices": [], "usage": usage})
    chunks = reader.feed(event) + reader.end()

    assert reader.usage == usage
    assert [chunk["usage"] for chunk in chunks] == ([usage] if wanted else [])


def test_an_error_in_a_stream() -> None:
    with pytest.raises(ErrorPayload):
        stream().feed(events({"error": {"message": "no"}})[0])
