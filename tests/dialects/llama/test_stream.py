"""The local engine's stream is read as any other: in its own identity, with the same classes of events."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.stream import LocalStream
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.sse import EventReader
from tests.dialects.recorded import OURS, chunk, said, stream, usage

TEXT, FINISH = chunk({"content": "a"}), chunk({}, "stop")
CALL = ['{"name": "f", ', '"arguments": {"x": "', "😀", '"}}']


def read(raw: bytes, *, forced: bool = False) -> tuple[JSONObject, LocalStream]:
    """The completion that the engine's bytes amount to, and the stream that read them."""
    reader, events, assembler = LocalStream(OURS, include_usage=True, forced=forced), EventReader(), Assembler()
    for event in [*events.feed(raw), *events.end()]:
        for each in reader.feed(event):
            assembler.add(each)
    for each in reader.end():
        assembler.add(each)
    return assembler.completion(), reader


@pytest.mark.parametrize(
    "event",
    ['error: {"code":500,"message":"oom"}\n\n', '{"error":{"message":"oom"}}\n', "event: error\ndata: oom\n\n",
     'data: {"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}\n\n'],
)  # fmt: skip
@pytest.mark.parametrize("forced", [False, True])
def test_an_error_of_the_engine_is_one_in_whatever_words(event: str, forced: bool) -> None:
    with pytest.raises(ErrorPayload):
        read(stream(TEXT, event), forced=forced)


@pytest.mark.parametrize("silent", ["data: null\n\n", "data: {}\n\n", "event: ping\n\n"])
def test_an_event_that_says_nothing_is_skipped(silent: str) -> None:
    assert read(stream(silent, TEXT, silent, FINISH))[0]["choices"] == [said("a")]


def test_an_event_that_cannot_be_read_ends_the_stream() -> None:
    with pytest.raises(InvalidAnswer):
        read(stream(TEXT, "data: {junk\n\n", FINISH))


def test_halves_of_a_character_are_joined_in_texts_and_in_forced_calls() -> None:
    def event(text: str) -> str:
        return f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n'

    halves = [event("\\ud83d"), event("\\ude00")]
    first, last = (json.encode([each]).decode()[2:-2] for each in ("".join(CALL[:2]), CALL[3]))

    assert read(stream(*halves, FINISH))[0]["choices"] == [said("😀")]
    (choice,) = read(stream(event(first), *halves, event(last), FINISH), forced=True)[0]["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": "😀"}'}


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_a_log_probability_that_is_none_is_very_unlikely(number: str) -> None:
    entry = f'{{"id":7,"token":"a","logprob":{number},"bytes":[97],"top_logprobs":null}}'
    event = f'data: {{"choices":[{{"index":0,"delta":{{"content":"a"}},"logprobs":{{"content":[{entry}]}}}}]}}\n\n'

    (choice,) = read(stream(event, FINISH))[0]["choices"]

    (found,) = choice["logprobs"]["content"]
    assert (found["token"], found["logprob"], "id" in found) == ("a", -9999.0, False)


def test_a_last_word_of_zeros_takes_no_count_away() -> None:
    payloads: list[Any] = [{"choices": [], "usage": each} for each in (usage(9, 3), usage(0, 0))]

    assert read(stream(TEXT, FINISH, *payloads))[1].usage == usage(9, 3)


def test_the_engines_finish_reason_completes_it() -> None:
    _, reader = read(stream(TEXT, FINISH, done=False))

    assert (reader.is_complete, reader.finished) == (True, True)
