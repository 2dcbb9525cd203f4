"""The official `openai` client against the real gateway: the errors that it raises, and when it tries again."""

import threading
from collections.abc import Callable, Iterator
from typing import cast

import openai
import pytest
from openai import OpenAI
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
)

from tests.support import Close, Hang, Reset, Script, WaitFor, completion, error, json_reply, sse, text_chunks

from .bed import KEY, Bed, user

USER = cast(list[ChatCompletionMessageParam], user())


@pytest.fixture
def patient(bed: Bed) -> Iterator[OpenAI]:
    """The client with retries of its own."""
    with OpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=2) as opened:
        yield opened


def contents(chunks: list[ChatCompletionChunk]) -> list[str]:
    """The pieces of text in a stream."""
    return [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]


# Errors

REFUSED = {"message": "no", "type": "invalid_request_error", "param": "messages", "code": "odd"}


@pytest.mark.parametrize(
    ("script", "expected", "status", "code"),
    [
        (error(400, {"error": REFUSED}), openai.BadRequestError, 400, "odd"),
        (error(422, {"error": REFUSED}), openai.UnprocessableEntityError, 422, "odd"),
        (error(413, {"error": REFUSED}), openai.APIStatusError, 413, "odd"),
        (error(401), openai.InternalServerError, 502, "upstream_authentication_error"),
        (error(403), openai.InternalServerError, 502, "upstream_authentication_error"),
        (error(404), openai.InternalServerError, 502, "upstream_error"),
        (error(409), openai.InternalServerError, 502, "upstream_error"),
        (error(408), openai.InternalServerError, 504, "upstream_timeout"),
        (error(429), openai.RateLimitError, 429, "rate_limit_exceeded"),
        (error(500), openai.InternalServerError, 502, "upstream_error"),
        (error(502), openai.InternalServerError, 502, "upstream_error"),
        (error(503), openai.InternalServerError, 503, "overloaded"),
        (error(504), openai.InternalServerError, 504, "upstream_timeout"),
        (error(529), openai.InternalServerError, 503, "overloaded"),
        ([Reset()], openai.InternalServerError, 502, "upstream_error"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_error_of_the_upstream(
    bed: Bed,
    client: OpenAI,
    script: Script,
    expected: type[openai.APIStatusError],
    status: int,
    code: str,
    stream: bool,
) -> None:
    model = bed.model()
    bed.a.on(model, script)

    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=USER, stream=stream)

    assert type(caught.value) is expected
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.message
    assert bed.asked(model).keys() == {"a"}


def test_a_key_that_is_not_known(bed: Bed, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="wrong").chat.completions.create(model=bed.model(), messages=USER)

    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


def test_a_model_that_is_not_known(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody-knows-it", messages=USER)

    assert (caught.value.code, caught.value.param) == ("model_not_found", None)


def test_a_path_that_is_not_known(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.list()

    assert caught.value.code == "unknown_url"


def test_a_client_that_is_out_of_patience(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, [Hang()])

    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(model=model, messages=USER)

    assert bed.last(model).closed.wait(5), "the gateway lets go of the upstream, too"


Read = Callable[[OpenAI, str], list[str]]


def read_plainly(client: OpenAI, model: str) -> list[str]:
    """Stream with `create`; the pieces go into the error's notes."""
    pieces: list[str] = []
    with client.chat.completions.create(model=model, messages=USER, stream=True) as stream:
        try:
            for chunk in stream:
                pieces += contents([chunk])
        except openai.APIError as failure:
            failure.__notes__ = pieces
            raise
    return pieces


def read_with_helper(client: OpenAI, model: str) -> list[str]:
    """The same with `stream`."""
    pieces: list[str] = []
    with client.chat.completions.stream(model=model, messages=USER) as stream:
        try:
            for event in stream:
                pieces += [event.delta] if event.type == "content.delta" and event.delta else []
        except openai.APIError as failure:
            failure.__notes__ = pieces
            raise
    return pieces


@pytest.mark.parametrize("read", [read_plainly, read_with_helper])
def test_a_stream_that_is_cut_is_an_error(bed: Bed, patient: OpenAI, read: Read) -> None:
    gate, model = threading.Event(), bed.model()
    bed.a.on(model, sse(*text_chunks("one", "two", finish=None), WaitFor(gate), Close(), done=False))

    def begin_and_cut() -> None:
        bed.a.wait_for(count + 1)
        gate.set()

    count = len(bed.a.requests)
    thread = threading.Thread(target=begin_and_cut)
    thread.start()
    with pytest.raises(openai.APIError) as caught:
        read(patient, model)
    thread.join()

    assert not isinstance(caught.value, openai.APIStatusError)
    assert caught.value.code == "upstream_stream_truncated"
    assert caught.value.__notes__ == ["one", "two"]
    assert bed.asked(model) == {"a": 1}, "a stream that has begun is never asked for again"


# Retries of the client


def test_a_wait_in_milliseconds_is_obeyed(bed: Bed, patient: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    model = bed.model()
    bed.a.on(model, error(429, headers={"retry-after-ms": "120"}), json_reply(completion("at last")))

    with caplog.at_level("INFO", "openai"):
        answer = patient.chat.completions.create(model=model, messages=USER)

    assert answer.choices[0].message.content == "at last"
    assert "in 0.120000 seconds" in caplog.text, "without the header it would be at least 0.375 s"
    assert bed.asked(model) == {"a": 2}


def test_a_wait_in_seconds_is_obeyed(bed: Bed, patient: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    model = bed.model()
    bed.a.on(model, error(503, headers={"retry-after": "1"}), json_reply(completion("at last")))

    with caplog.at_level("INFO", "openai"):
        answer = patient.chat.completions.create(model=model, messages=USER)

    assert answer.choices[0].message.content == "at last"
    assert "in 1.000000 seconds" in caplog.text
    assert bed.asked(model) == {"a": 2}


def test_a_failure_is_tried_again_by_the_client(bed: Bed, patient: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, error(500), sse(*text_chunks("at last")))

    with patient.chat.completions.create(model=model, messages=USER, stream=True) as stream:
        assert contents(list(stream)) == ["at last"]

    assert bed.asked(model) == {"a": 2}


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_a_retry_cannot_help_is_not_tried_again(bed: Bed, patient: OpenAI, status: int) -> None:
    model = bed.model()
    bed.a.on(model, error(status))

    with pytest.raises(openai.APIStatusError):
        patient.chat.completions.create(model=model, messages=USER)

    assert bed.asked(model) == {"a": 1}


def test_a_quota_that_is_used_up_is_not_tried_again(bed: Bed, patient: OpenAI) -> None:
    model = bed.model()
    bed.a.on(
        model, error(429, {"error": {"message": "pay", "type": "insufficient_quota", "code": "insufficient_quota"}})
    )

    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(model=model, messages=USER)

    assert caught.value.response.headers["x-should-retry"] == "false"
    assert bed.asked(model) == {"a": 1}
