"""What Anthropic's own client makes of the door: its classes of errors, ids, retries, raw and parsed answers."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from tests.support import (
    Script,
    claude_error,
    claude_events,
    claude_sse,
    completion,
    error,
    json_reply,
    sse,
    text_block,
    text_chunks,
)

from .bed import KEY
from .messages_bed import MessagesBed, running_messages_bed

HI: Any = [{"role": "user", "content": "Hi"}]
CITY = '{"city": "Berlin"}'
KINDS = pytest.mark.parametrize("kind", ["chat", "claude"])


class Place(BaseModel):
    city: str


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


@pytest.fixture(scope="module")
def sdk(doors: MessagesBed) -> Iterator[Anthropic]:
    with doors.anthropic() as opened:
        yield opened


def answering(doors: MessagesBed, kind: str, text: str = "Hello") -> str:
    """A model of that kind which says the text, whole or streamed as it is asked."""
    model = doors.model(kind)

    def native(seen: Any) -> Script:
        if seen.json.get("stream"):
            return claude_sse(*claude_events(text_block(text), model=model))
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
        counts = {"input_tokens": 3, "output_tokens": 2}
        content = [{"type": "text", "text": text}]
        return json_reply(
            message | {"content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": counts}
        )

    def chat(seen: Any) -> Script:
        return sse(*text_chunks(text)) if seen.json.get("stream") else json_reply(completion(text))

    (doors.a.on if kind == "claude" else doors.o.on)(model, native if kind == "claude" else chat)
    return model


@KINDS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "expected", "error_type"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.InternalServerError, "api_error"),
        (413, anthropic.APIStatusError, "request_too_large"),
        (422, anthropic.UnprocessableEntityError, "invalid_request_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.InternalServerError, "overloaded_error"),
        (504, anthropic.InternalServerError, "timeout_error"),
    ],
)
def test_an_error_has_its_class_and_an_id(
    doors: MessagesBed, sdk: Anthropic, kind: str, stream: bool, status: int, expected: Any, error_type: str
) -> None:
    model = doors.model(kind)
    upstream = doors.a if kind == "claude" else doors.o
    upstream.on(model, claude_error(status, "any") if kind == "claude" else error(status))

    with pytest.raises(expected) as caught:
        sdk.messages.create(model=model, max_tokens=5, messages=HI, stream=stream)

    headers = caught.value.response.headers
    assert caught.value.body["error"]["type"] == error_type
    assert caught.value.request_id == headers["request-id"] == headers["x-request-id"]
    assert headers.get("x-should-retry") == ("false" if status >= 500 or status == 401 else None)
    assert ("retry-after" in headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda sdk: sdk.messages.create(model="nobody", max_tokens=5, messages=HI), anthropic.NotFoundError),
        (lambda sdk: sdk.messages.batches.list(), anthropic.NotFoundError),
        (lambda sdk: sdk.with_options(api_key="wrong").models.list(), anthropic.AuthenticationError),
        (lambda sdk: sdk.messages.create(model="chat-0", max_tokens=-1, messages=HI), anthropic.BadRequestError),
    ],
    ids=["a model", "an address", "a key", "a field"],
)
def test_what_the_gateway_refuses_has_its_class(sdk: Anthropic, ask: Any, expected: Any) -> None:
    with pytest.raises(expected) as caught:
        ask(sdk)

    assert caught.value.request_id


@KINDS
def test_answers_can_be_had_raw(doors: MessagesBed, sdk: Anthropic, kind: str) -> None:
    model = answering(doors, kind)
    asked: Any = {"model": model, "max_tokens": 5, "messages": HI}

    raw = sdk.messages.with_raw_response.create(**asked)
    with sdk.messages.with_streaming_response.create(**asked) as response:
        read = response.parse()
    with sdk.messages.with_streaming_response.create(**asked, stream=True) as response:
        lines = list(response.iter_lines())

    assert raw.parse().content == read.content
    assert raw.parse()._request_id == raw.headers["request-id"]
    assert raw.headers["x-gateway-deployment"].endswith(model)
    assert lines[0] == "event: message_start"
    assert "event: message_stop" in lines


@KINDS
def test_answers_can_be_parsed(doors: MessagesBed, sdk: Anthropic, kind: str) -> None:
    model = answering(doors, kind, CITY)
    asked: Any = {"model": model, "max_tokens": 50, "messages": HI, "output_format": Place}

    with sdk.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    whole = sdk.messages.parse(**asked)

    assert whole.parsed_output == Place(city="Berlin")
    assert streamed.parsed_output == whole.parsed_output
    if kind == "chat":
        sent = doors.sent_to("o", model)["response_format"]
        assert sent["json_schema"]["schema"]["properties"].keys() == {"city"}


@KINDS
async def test_the_asynchronous_client(doors: MessagesBed, kind: str) -> None:
    model = answering(doors, kind)
    asked: Any = {"model": model, "max_tokens": 5, "messages": HI}
    async with AsyncAnthropic(base_url=doors.gateway.url, api_key=KEY, max_retries=0) as client:
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            streamed = await stream.get_final_text()
        ids = [info.id async for info in client.models.list(limit=1000)]

    assert whole.content[0].text == streamed == "Hello"
    assert model in ids


def test_a_limit_is_tried_again_and_what_cannot_be_mended_is_not(doors: MessagesBed) -> None:
    limited, broken = doors.model(), doors.model()
    soon = error(429, headers={"Retry-After-Ms": "1", "Retry-After": "0"})
    doors.o.on(limited, soon, json_reply(completion("Hello")))
    doors.o.on(broken, error(500))
    with doors.anthropic(max_retries=2) as patient:
        answer = patient.messages.create(model=limited, max_tokens=5, messages=HI)
        with pytest.raises(anthropic.InternalServerError):
            patient.messages.create(model=broken, max_tokens=5, messages=HI)

    assert answer.content[0].text == "Hello"  # type: ignore[union-attr]
    assert doors.asked(limited) == {"o": 2}
    assert doors.asked(broken) == {"o": 1}
