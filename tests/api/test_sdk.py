"""The official `openai` client against the real gateway: what its users rely on."""

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamEvent
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
    ParsedChatCompletion,
)

from tests.support import Gateway, ScriptedUpstream, WaitFor, completion, json_reply, sse, text_chunks, tool_chunks

from .bed import KEY, Bed, adapter, user, yaml

USER = cast(list[ChatCompletionMessageParam], user())


class Weather(pydantic.BaseModel):
    """The weather in a city."""

    city: str


class Answer(pydantic.BaseModel):
    """What a structured answer holds."""

    value: int
    reason: str


TOOLS: list[ChatCompletionFunctionToolParam] = [openai.pydantic_function_tool(Weather, name="weather")]


@pytest.fixture
async def aclient(bed: Bed) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=0) as opened:
        yield opened


def contents(chunks: list[ChatCompletionChunk]) -> list[str]:
    """The pieces of text in a stream."""
    return [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]


# Answers


def test_a_completion(bed: Bed, client: OpenAI) -> None:
    model = bed.model()

    answer = client.chat.completions.create(model=model, messages=USER)

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    assert (answer.model, answer.object, answer.created) == (model, "chat.completion", 1_700_000_000)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 2, 11)


async def test_a_completion_of_the_asynchronous_client(bed: Bed, aclient: AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(model=bed.model(), messages=USER)

    assert answer.choices[0].message.content == "Hello"


def test_a_stream(bed: Bed, client: OpenAI) -> None:
    with client.chat.completions.create(model=bed.model(), messages=USER, stream=True) as stream:
        chunks = list(stream)

    assert contents(chunks) == ["Hel", "lo"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk.id, chunk.object, chunk.usage) for chunk in chunks} == {
        ("chatcmpl-scripted", "chat.completion.chunk", None)
    }


def test_a_stream_with_usage(bed: Bed, client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model=bed.model(), messages=USER, stream=True, stream_options=options
    ) as stream:
        *chunks, last = list(stream)

    assert contents(chunks) == ["Hel", "lo"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 11


async def test_a_stream_of_the_asynchronous_client(bed: Bed, aclient: AsyncOpenAI) -> None:
    async with await aclient.chat.completions.create(model=bed.model(), messages=USER, stream=True) as stream:
        chunks = [chunk async for chunk in stream]

    assert contents(chunks) == ["Hel", "lo"]


def test_a_stream_comes_while_it_is_made(bed: Bed, client: OpenAI) -> None:
    gate, model = threading.Event(), bed.model()
    first, *rest = text_chunks("early", "late")
    bed.a.on(model, sse(first, rest[0], WaitFor(gate), *rest[1:]))
    with client.chat.completions.create(model=model, messages=USER, stream=True) as stream:
        pieces = (piece for chunk in stream for piece in contents([chunk]))

        assert next(pieces) == "early"
        gate.set()
        assert list(pieces) == ["late"]


def test_several_choices(bed: Bed, client: OpenAI) -> None:
    model, whole = bed.model(), completion("one")
    whole["choices"].append(completion("two")["choices"][0] | {"index": 1})
    bed.a.on(model, json_reply(whole))

    answer = client.chat.completions.create(model=model, messages=USER, n=2)

    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "one"), (1, "two")]


# Helpers: the strictest readers of a stream


def test_the_stream_helper_with_text(bed: Bed, client: OpenAI) -> None:
    with client.chat.completions.stream(model=bed.model(), messages=USER) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta" and event.delta]
        final = stream.get_final_completion()

    assert deltas == ["Hel", "lo"]
    assert (final.choices[0].message.content, final.choices[0].message.role) == ("Hello", "assistant")
    assert final.choices[0].finish_reason == "stop"


def test_the_stream_helper_with_usage(bed: Bed, client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.stream(model=bed.model(), messages=USER, stream_options=options) as stream:
        final = stream.get_final_completion()

    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (9, 2)


def test_the_stream_helper_with_a_tool(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*tool_chunks(("weather", '{"ci', 'ty":"Bern"}'))))

    with client.chat.completions.stream(model=model, messages=USER, tools=TOOLS) as stream:
        arguments = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message

    assert "".join(arguments) == '{"city":"Bern"}'
    assert message.content is None
    assert message.tool_calls is not None
    assert message.tool_calls[0].id == "call_0"
    assert message.tool_calls[0].function.parsed_arguments == Weather(city="Bern")


PARALLEL = tool_chunks(("weather", '{"city":', '"Bern"}'), ("weather", '{"city":"Ulm"}'), ("clock", "{}"))


def check_parallel(final: ParsedChatCompletion[None], events: list[ChatCompletionStreamEvent]) -> None:
    """Three whole calls, each announced once."""
    calls = final.choices[0].message.tool_calls or []
    assert [(call.id, call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("call_0", "function", "weather", '{"city":"Bern"}'),
        ("call_1", "function", "weather", '{"city":"Ulm"}'),
        ("call_2", "function", "clock", "{}"),
    ]
    done = [(event.index, event.name) for event in events if event.type == "tool_calls.function.arguments.done"]
    assert done == [(0, "weather"), (1, "weather"), (2, "clock")]
    assert final.choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_with_parallel_tools(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*PARALLEL))

    with client.chat.completions.stream(model=model, messages=USER) as stream:
        events = list(stream)
        final = stream.get_final_completion()

    check_parallel(final, events)


async def test_the_asynchronous_stream_helper_with_parallel_tools(bed: Bed, aclient: AsyncOpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*PARALLEL))

    async with aclient.chat.completions.stream(model=model, messages=USER) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()

    check_parallel(final, events)


def test_the_stream_helper_with_a_schema(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks('{"value": 4, ', '"reason": "sum"}')))

    with client.chat.completions.stream(model=model, messages=USER, response_format=Answer) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.parsed == Answer(value=4, reason="sum")


def test_a_message_of_the_stream_helper_can_be_sent_back(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*tool_chunks(("weather", '{"city":"Bern"}'))), json_reply(completion("Sunny")))
    with client.chat.completions.stream(model=model, messages=USER, tools=TOOLS) as stream:
        called = stream.get_final_completion().choices[0].message
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": "call_0", "content": "20 degrees"}

    history = [*USER, cast(ChatCompletionMessageParam, called.to_dict()), result]
    answer = client.chat.completions.create(model=model, messages=history, tools=TOOLS)

    assert answer.choices[0].message.content == "Sunny"
    sent = next(seen for seen in reversed(bed.a.requests) if seen.model == model).json["messages"][1]
    assert sent["tool_calls"][0].keys() == {"id", "type", "function"}


def test_parse_with_a_schema(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion('{"value": 4, "reason": "sum"}')))

    answer = client.chat.completions.parse(model=model, messages=USER, response_format=Answer)

    assert answer.choices[0].message.parsed == Answer(value=4, reason="sum")
    schema = bed.a.requests[-1].json["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("Answer", True)
    assert list(schema["schema"]["properties"]) == ["value", "reason"]


def test_parse_with_tools(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    bed.a.on(model, json_reply(completion(None, finish="tool_calls", tool_calls=[call])))

    answer = client.chat.completions.parse(model=model, messages=USER, tools=TOOLS)

    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [Weather(city="Bern")]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", openai.LengthFinishReasonError), ("content_filter", openai.ContentFilterFinishReasonError)],
)
def test_parse_says_why_there_is_no_whole_answer(
    bed: Bed, client: OpenAI, reason: str, expected: type[Exception]
) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion('{"value": 4, ', finish=reason)))

    with pytest.raises(expected):
        client.chat.completions.parse(model=model, messages=USER, response_format=Answer)


def test_parse_with_a_refusal(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion(None, refusal="I will not.")))

    message = client.chat.completions.parse(model=model, messages=USER, response_format=Answer).choices[0].message

    assert (message.parsed, message.content, message.refusal) == (None, None, "I will not.")


# Models


def test_models_are_listed(bed: Bed, client: OpenAI) -> None:
    ids = [model.id for model in client.models.list()]

    assert {"solo-0", "pair-0"} <= set(ids)
    assert len(ids) == len(set(ids))


async def test_models_are_listed_for_the_asynchronous_client(aclient: AsyncOpenAI) -> None:
    assert "solo-0" in [model.id async for model in aclient.models.list()]


@pytest.mark.parametrize("model", ["solo-0", "a/solo-0", "org/name:free", "a/org/name:free", "50%2Foff", "模型"])
def test_a_model_is_retrieved(odd: OpenAI, model: str) -> None:
    found = odd.models.retrieve(model)

    assert (found.id, found.object, found.owned_by) == (model, "model", "a")


@pytest.mark.parametrize("model", ["org/name:free", "a/org/name:free", "50%2Foff", "模型"])
def test_a_model_with_an_odd_id_answers(odd: OpenAI, model: str) -> None:
    assert odd.chat.completions.create(model=model, messages=USER).choices[0].message.content == "Hello"


@pytest.fixture(scope="module")
def odd() -> Iterator[OpenAI]:
    """A client of a gateway whose models have odd ids."""
    with ScriptedUpstream() as upstream:
        models = ["solo-0", "org/name:free", "50%2Foff", "模型"]
        config = yaml(adapters={"a": adapter(upstream, models)})
        with (
            Gateway(config_yaml=config) as gateway,
            OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0) as client,
        ):
            yield client


def test_an_unknown_model_cannot_be_retrieved(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/knows:it")

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# Headers


def test_the_headers_of_an_answer(bed: Bed, client: OpenAI) -> None:
    model = bed.model()

    raw = client.chat.completions.with_raw_response.create(model=model, messages=USER)

    answer = raw.parse()
    assert isinstance(answer, ChatCompletion)
    assert answer._request_id is not None
    assert answer._request_id == raw.headers["x-request-id"] == raw.request_id
    assert (raw.headers["x-gateway-attempts"], raw.headers["x-gateway-deployment"]) == ("1", f"a/{model}")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])


def test_the_headers_of_a_stream(bed: Bed, client: OpenAI) -> None:
    model = bed.model()

    raw = client.chat.completions.with_raw_response.create(model=model, messages=USER, stream=True)

    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert raw.headers["x-gateway-deployment"] == f"a/{model}"
    assert contents(list(raw.parse())) == ["Hel", "lo"]


def test_the_request_id_of_an_error(bed: Bed, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=bed.model(), messages=[])

    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
