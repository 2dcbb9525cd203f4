"""The official `openai` client's Responses API against the real gateway: what its users rely on."""

from typing import Any

import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support import Close, completion, error, json_reply, sse, text_chunks, tool_chunks

from .bed import KEY, Bed

WEATHER: Any = {
    "type": "function", "name": "weather", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
}  # fmt: skip


class City(pydantic.BaseModel):
    """A structured answer."""

    name: str


def test_a_response(bed: Bed, client: OpenAI) -> None:
    answer = client.responses.create(model=bed.model(), input="Hi")

    assert (answer.output_text, answer.status) == ("Hello", "completed")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11


async def test_a_response_of_the_asynchronous_client(bed: Bed) -> None:
    async with AsyncOpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=0) as client:
        answer = await client.responses.create(model=bed.model(), input="Hi")

    assert answer.output_text == "Hello"


def test_a_plain_stream(bed: Bed, client: OpenAI) -> None:
    with client.responses.create(model=bed.model(), input="Hi", stream=True) as stream:
        events = list(stream)

    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Hel", "lo"]
    assert events[-1].type == "response.completed"


def test_the_stream_helper(bed: Bed, client: OpenAI) -> None:
    with client.responses.stream(model=bed.model(), input="Hi") as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert texts == ["Hel", "Hello"]
    assert final.output_text == "Hello"


def test_the_stream_helper_with_reasoning_and_two_calls(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    reasoned = text_chunks()[0]
    reasoned["choices"] = [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}]
    calls = tool_chunks(("weather", '{"city"', ':"Bern"}'), ("weather", '{"city":"Ulm"}'))
    bed.a.on(model, sse(reasoned, *calls[1:]))

    with client.responses.stream(model=model, input="Hi", tools=[WEATHER], reasoning={"summary": "auto"}) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()

    assert pieces == ['{"city"', ':"Bern"}', '{"city":"Ulm"}']
    assert [item.type for item in final.output] == ["reasoning", "function_call", "function_call"]


def test_a_tool_loop(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    called = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    bed.a.on(
        model,
        json_reply(completion(None, finish="tool_calls", tool_calls=[called])),
        json_reply(completion("Sunny.")),
    )
    items: list[Any] = [{"role": "user", "content": "Weather in Bern?"}]

    first = client.responses.create(model=model, input=items, tools=[WEATHER])
    items += [item.model_dump() for item in first.output]
    items += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sun"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = client.responses.create(model=model, input=items, tools=[WEATHER])

    assert second.output_text == "Sunny."
    assert [message["role"] for message in bed.last(model).json["messages"]] == ["user", "assistant", "tool"]


def test_a_structured_answer(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion('{"name": "Bern"}')))

    answer = client.responses.parse(model=model, input="A city.", text_format=City)

    assert answer.output_parsed == City(name="Bern")
    assert bed.last(model).json["response_format"]["json_schema"]["name"] == "City"


def test_a_cut_stream_raises(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hel", "lo", finish=None), Close(), done=False))

    with (
        pytest.raises(openai.APIError) as caught,
        client.responses.create(model=model, input="Hi", stream=True) as stream,
    ):
        list(stream)

    assert caught.value.code == "upstream_stream_truncated"


def test_errors_are_the_clients_own_classes(bed: Bed, client: OpenAI) -> None:
    model = bed.model()
    bed.a.on(model, error(429, headers={"Retry-After": "7"}))

    with pytest.raises(openai.RateLimitError) as limited:
        client.responses.create(model=model, input="Hi")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="Hi", background=True)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")

    assert limited.value.response.headers["retry-after"]
    assert refused.value.param == "background"


def test_input_tokens(bed: Bed, client: OpenAI) -> None:
    assert client.responses.input_tokens.count(model=bed.model(), input="Hi there").input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_words_of_a_spoken_answer_are_its_text(bed: Bed, client: OpenAI, stream: bool) -> None:
    model, chunks = bed.model(), text_chunks("a", "b")
    for chunk, text in zip(chunks[1:3], ("Hel", "lo"), strict=True):
        audio = {"id": "audio_1", "data": "AAAA", "transcript": text}
        chunk["choices"][0]["delta"] = {"content": None, "audio": audio}
    whole = completion(None, audio={"id": "audio_1", "data": "AAAA", "transcript": "Hello", "expires_at": 1})
    bed.a.on(model, sse(*chunks) if stream else json_reply(whole))

    if stream:
        with client.responses.stream(model=model, input="Hi") as opened:
            final: Any = opened.get_final_response()
    else:
        final = client.responses.create(model=model, input="Hi")

    assert final.output_text == "Hello"


@pytest.mark.parametrize("stream", [False, True])
def test_images_of_a_chat_answer_are_items(bed: Bed, client: OpenAI, stream: bool) -> None:
    model, chunks = bed.model(), text_chunks("Look:", "x")
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{each}"}} for each in ("AAAA", "BBBB")]
    chunks[2]["choices"][0]["delta"] = {"images": images}
    bed.a.on(model, sse(*chunks) if stream else json_reply(completion("Look:", images=images)))

    if stream:
        with client.responses.stream(model=model, input="Hi") as opened:
            final: Any = opened.get_final_response()
    else:
        final = client.responses.create(model=model, input="Hi")

    text, *made = final.output
    assert text.content[0].text == "Look:"
    assert [(item.type, item.status, item.result) for item in made] == [
        ("image_generation_call", "completed", "AAAA"),
        ("image_generation_call", "completed", "BBBB"),
    ]


def test_citations_and_probabilities_are_as_a_strict_client_reads_them(bed: Bed, stream: bool) -> None:
    """Chat upstreams leave out where a citation stands, its title, and the bytes of a token."""
    model = bed.model()
    cited = [{"type": "url_citation", "url_citation": {"url": "https://example.org", "title": None}}]
    measured = {"content": [{"token": "é", "logprob": -0.1, "top_logprobs": [{"token": "é", "logprob": -0.1}]}]}
    chunks, whole = text_chunks("é", ""), completion("é", annotations=cited)
    chunks[1]["choices"][0]["logprobs"] = whole["choices"][0]["logprobs"] = measured
    chunks[2]["choices"][0]["delta"] = {"annotations": cited}
    bed.a.on(model, sse(*chunks) if stream else json_reply(whole))
    asked: Any = {"model": model, "input": "hi", "include": ["message.output_text.logprobs"]}

    with OpenAI(base_url=bed.gateway.base_url, api_key=KEY, _strict_response_validation=True) as strict:
        if stream:
            with strict.responses.stream(**asked) as events:
                answer: Any = events.get_final_response()
        else:
            answer = strict.responses.create(**asked)

    (part,) = answer.output[0].content
    (citation,), (token,) = part.annotations, part.logprobs
    assert (citation.type, citation.url, citation.title) == ("url_citation", "https://example.org", "")
    assert (token.bytes, token.top_logprobs[0].bytes) == ([0xC3, 0xA9], [0xC3, 0xA9])
