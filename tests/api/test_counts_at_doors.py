"""What upstreams report beside the sums of tokens, where the dialects of the other doors have a place for it."""

from collections.abc import Iterator

import pytest

from tests.support import Script, completion, json_reply, sse, text_chunks, tokens

from .bed import Body, user
from .messages_bed import MessagesBed, message_events, running_messages_bed

USAGE = tokens(10, 7) | {
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 3, "image_tokens": 1, "text_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 2, "image_tokens": 0},
}


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


def script(stream: bool) -> Script:
    return sse(*text_chunks("Hi", usage=USAGE)) if stream else json_reply(completion("Hi", usage=USAGE))


def test_tokens_by_modality_are_in_a_response(doors: MessagesBed, stream: bool) -> None:
    model = doors.model()
    doors.o.on(model, script(stream))

    answer = doors.post_to("/v1/responses", {"model": model, "input": "Hi", "stream": stream})

    usage: Body = message_events(answer)[-1]["response"]["usage"] if stream else answer.json["usage"]
    assert usage["input_tokens_details"] == {
        "cached_tokens": 2, "cache_write_tokens": 0, "audio_tokens": 3, "image_tokens": 1, "text_tokens": 6,
    }  # fmt: skip
    assert usage["output_tokens_details"] == {"reasoning_tokens": 4, "audio_tokens": 2}


def test_thinking_is_counted_in_a_message(doors: MessagesBed, stream: bool) -> None:
    model = doors.model()
    doors.o.on(model, script(stream))

    answer = doors.message(model, stream=stream, messages=user())

    usage: Body = message_events(answer)[-2]["usage"] if stream else answer.json["usage"]
    assert usage == {
        "input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 4},
    }  # fmt: skip
