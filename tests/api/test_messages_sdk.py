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
    custom_call,
    error,
    json_reply,
    sse,
    text_block,
    text_chunks,
    tool_chunks,
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
        (lambda sdk: sdk.beta.files.list(), anthropic.NotFoundError),
        (lambda sdk: sdk.with_options(api_key="wrong").models.list(), anthropic.AuthenticationError),
        (lambda sdk: sdk.messages.create(model="chat-0", max_tokens=-1, messages=HI), anthropic.BadRequestError),
    ],
    ids=["a model", "batches", "files", "a key", "a field"],
)
def test_what_the_gateway_refuses_has_its_class(sdk: Anthropic, ask: Any, expected: Any) -> None:
    with pytest.raises(expected) as caught:
        ask(sdk)

    assert caught.value.request_id
    assert caught.value.body["type"] == "error"


def test_what_is_not_served_is_named(sdk: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no batches here: send each request to /v1/messages"):
        sdk.messages.batches.retrieve("msgbatch_1")
    with pytest.raises(anthropic.NotFoundError, match="no files here"):
        sdk.beta.files.retrieve_metadata("file_1")


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


CITED = {"type": "url_citation", "url_citation": {"url": "https://x.example/a", "title": "A", "start_index": 0,
                                                  "end_index": 5, "content": "all of it"}}  # fmt: skip


def final_of(sdk: Anthropic, model: str, *, stream: bool, **fields: Any) -> anthropic.types.Message:
    """The whole message, however it comes."""
    asked = {"model": model, "max_tokens": 50, "messages": HI, **fields}
    if not stream:
        message: anthropic.types.Message = sdk.messages.create(**asked)
        return message
    with sdk.messages.stream(**asked) as opened:
        return opened.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
def test_citations_of_a_chat_answer_stand_at_its_text(doors: MessagesBed, sdk: Anthropic, stream: bool) -> None:
    model, chunks = doors.model(), text_chunks("Hello")
    chunks[-1]["choices"][0]["delta"] = {"annotations": [CITED, {"type": "file_citation"}]}
    doors.o.on(model, sse(*chunks) if stream else json_reply(completion("Hello", annotations=[CITED])))

    (block,) = final_of(sdk, model, stream=stream).content

    assert block.type == "text"
    cited: Any = block.citations
    assert [(each.type, each.url, each.title, each.cited_text) for each in cited] == [
        ("web_search_result_location", "https://x.example/a", "A", "all of it")
    ]


def test_citations_that_are_ours_are_not_shown_to_anthropic(doors: MessagesBed, sdk: Anthropic) -> None:
    ours = {"type": "web_search_result_location", "url": "x", "title": "", "cited_text": "", "encrypted_index": ""}
    theirs, model = ours | {"encrypted_index": "abc"}, answering(doors, "claude")
    said = [
        {"type": "text", "text": "a", "citations": [ours]},
        {"type": "text", "text": "b", "citations": [ours, theirs]},
    ]

    final_of(sdk, model, stream=False, messages=[*HI, {"role": "assistant", "content": said}, *HI])

    assert doors.sent_to("a", model)["messages"][1]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "citations": [theirs]},
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_the_words_of_a_spoken_answer_are_its_text(doors: MessagesBed, sdk: Anthropic, stream: bool) -> None:
    model, chunks = doors.model(), text_chunks("a", "b")
    for chunk, text in zip(chunks[1:3], ("Hel", "lo"), strict=True):
        audio = {"id": "audio_1", "data": "AAAA", "transcript": text}
        chunk["choices"][0]["delta"] = {"content": None, "audio": audio}
    whole = completion(None, audio={"id": "audio_1", "data": "AAAA", "transcript": "Hello", "expires_at": 1})
    doors.o.on(model, sse(*chunks) if stream else json_reply(whole))

    (block,) = final_of(sdk, model, stream=stream).content

    assert block.type == "text"
    assert block.text == "Hello"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ['*** "Begin"\n', ""])
def test_a_call_of_a_custom_tool_has_its_text_in_an_object(
    doors: MessagesBed, sdk: Anthropic, text: str, stream: bool
) -> None:
    model = doors.model()
    doors.o.on(model, custom_call("patch", text[:5], text[5:], stream=stream))

    message = final_of(sdk, model, stream=stream)

    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.id, block.name, block.input) == ("call_0", "patch", {"input": text})
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_that_are_no_json_are_handed_on_whole(doors: MessagesBed, sdk: Anthropic, stream: bool) -> None:
    model, text = doors.model(), 'in "Berlin"'
    call = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": text}}
    whole = completion(None, finish="tool_calls", tool_calls=[call])
    doors.o.on(model, sse(*tool_chunks(("f", text[:2], text[2:]))) if stream else json_reply(whole))

    message = final_of(sdk, model, stream=stream)

    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.name, block.input, message.stop_reason) == ("f", {"_raw_arguments": text}, "tool_use")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_custom_tool_that_was_cut_is_not_to_be_run(
    doors: MessagesBed, sdk: Anthropic, stream: bool
) -> None:
    model = doors.model()
    doors.o.on(model, custom_call("patch", "*** Be", stream=stream, finish="length"))

    assert final_of(sdk, model, stream=stream).stop_reason == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_with_a_name_that_only_anthropic_takes_is_called_by_it(
    doors: MessagesBed, sdk: Anthropic, stream: bool
) -> None:
    model, name = doors.model(), f"mcp__{'x' * 90}"

    def calls(seen: Any) -> Script:
        (tool,) = seen.json["tools"]
        short = tool["function"]["name"]
        if stream:
            chunks = tool_chunks((short[:10], ""))
            rest = {"index": 0, "function": {"name": short[10:], "arguments": "{}"}}
            chunks[2]["choices"][0]["delta"] = {"tool_calls": [rest]}
            return sse(*chunks)
        call = {"id": "call_0", "type": "function", "function": {"name": short, "arguments": "{}"}}
        return json_reply(completion(None, finish="tool_calls", tool_calls=[call]))

    doors.o.on(model, calls)
    tool: Any = {"name": name, "input_schema": {"type": "object"}}
    used: Any = {"type": "tool_use", "id": "t", "name": name, "input": {}}
    result: Any = {"type": "tool_result", "tool_use_id": "t", "content": "ok"}
    asked = [*HI, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    choice: Any = {"type": "tool", "name": name}

    (block,) = final_of(sdk, model, stream=stream, tools=[tool], tool_choice=choice, messages=asked).content

    sent = doors.sent_to("o", model)
    short = sent["tools"][0]["function"]["name"]
    assert len(short) <= 64
    assert sent["tool_choice"]["function"]["name"] == short
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == short
    assert (block.type, getattr(block, "name", None)) == ("tool_use", name)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"stream": "yes"}, "stream: "),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                    {"type": "container_upload", "file_id": "f"}]}]},
         "messages.0.content.1: "),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(doors: MessagesBed, fields: Any, place: str) -> None:
    answer = doors.message(doors.model(), **fields)

    assert answer.status == 400
    assert answer.json["error"]["message"].startswith(place)
