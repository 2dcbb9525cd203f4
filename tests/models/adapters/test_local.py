"""The local adapter: the real engine with the default model, through the real gateway, asked by the official client."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.serving.clients import wait_until
from tests.support import Gateway, RawClient, post_chat

ROOT = Path(__file__).parents[3]
#: What one slot holds, and what an answer may hold when the request does not say; in tokens.
CONTEXT, DEFAULT_MOST = 256, 12
#: How long the engine may take for anything short; the machine may be busy. Seconds.
LIMIT_S = 60.0
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello! Who are you?"}]

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture(scope="module")
def gateway(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose only adapter is the local one: one slot, so that whoever holds it is noticed."""
    folder = tmp_path_factory.mktemp("models")
    (folder / model_file.name).symlink_to(model_file)
    (folder / "broken.gguf").write_bytes(b"not a model")
    local = {
        "type": "local", "models_dir": str(folder), "slots": 1, "slot_context": CONTEXT,
        "default_max_tokens": DEFAULT_MOST, "aliases": {"small": model_file.stem, "ghost": "no-such-file"},
    }  # fmt: skip
    config = json.dumps({"adapters": {"local": local}})
    with Gateway(config_yaml=config, env={"RATE_LIMIT_REQUESTS": "100000"}, ready_path="/ready") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key="test-key", max_retries=0, timeout=LIMIT_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(model_file: Path) -> str:
    """The id of the model: its file's name without the extension."""
    return model_file.stem


def text(answer: ChatCompletion) -> str:
    """What the answer says."""
    return answer.choices[0].message.content or ""


# Models


def test_the_models_of_the_folder_are_listed(client: OpenAI, model: str) -> None:
    found = client.models.list().data

    assert sorted(each.id for each in found) == sorted([model, "small"])
    assert found[0].owned_by == "local"
    assert found[0].created > 0
    assert found[0].to_dict()["context_window"] == CONTEXT
    assert client.models.retrieve(model).id == model


def test_a_file_that_cannot_be_read_is_told_in_the_log(gateway: Gateway) -> None:
    gateway.wait_for_log("broken.gguf")

    assert "is left out" in gateway.log


# Answers


def test_a_completion(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8, temperature=0)

    assert text(answer).strip()
    assert (answer.object, answer.model) == ("chat.completion", model)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.refusal is None
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert not {"timings", "__verbose"} & answer.to_dict().keys()


def test_a_stream(client: OpenAI, model: str) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, temperature=0, stream=True, stream_options=options
    ) as stream:
        *chunks, last = list(stream)

    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert 1 < len(pieces) <= 8
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] in ("stop", "length")
    assert {(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, last]} == {(last.id, last.created, model)}
    assert not [chunk for chunk in [*chunks, last] if {"timings", "__verbose"} & chunk.to_dict().keys()]
    assert last.choices == []
    assert last.usage is not None
    assert 0 < last.usage.completion_tokens <= 8


def test_usage_is_not_shown_where_nobody_asked(client: OpenAI, model: str) -> None:
    with client.chat.completions.create(model=model, messages=HELLO, max_tokens=3, stream=True) as stream:
        assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_the_stream_helper(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(model=model, messages=HELLO, max_tokens=5, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion

        with pytest.raises(openai.LengthFinishReasonError) as caught:
            final()

    assert "".join(deltas) == text(caught.value.completion)


def test_streamed_or_not_the_answer_is_the_same(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 10, "temperature": 0, "seed": 1}

    whole = client.chat.completions.create(**asked)
    with client.chat.completions.create(**asked, stream=True) as stream:
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert text(whole) == streamed


def test_an_answer_is_limited_when_the_request_does_not_say(client: OpenAI, model: str) -> None:
    counting: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 1 to 100: 1, 2, 3,"}]

    answer = client.chat.completions.create(model=model, messages=counting)

    assert answer.usage is not None
    assert answer.usage.completion_tokens == DEFAULT_MOST
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_of_the_limit_is_obeyed(client: OpenAI, model: str, name: str) -> None:
    limit: Any = {name: DEFAULT_MOST + 6}

    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count from 1 to 100: 1, 2, 3,"}], temperature=0, **limit
    )

    assert answer.usage is not None
    assert answer.usage.completion_tokens == DEFAULT_MOST + 6


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    free = text(client.chat.completions.create(**asked))
    word = free.split()[2]

    answer = client.chat.completions.create(**asked, stop=[word])

    assert answer.choices[0].finish_reason == "stop"
    assert text(answer) == free[: free.index(word)]


def test_developer_messages_and_parts_are_understood(client: OpenAI, model: str) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "developer", "content": "Answer in one word."},
        {"role": "user", "content": [{"type": "text", "text": "Say yes."}]},
    ]

    assert text(client.chat.completions.create(model=model, messages=messages, max_tokens=3, temperature=0))


def test_the_log_has_the_tokens(gateway: Gateway, client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=2)

    record = gateway.record_of(raw.headers["x-request-id"])
    assert (record["deployment"], record["completion_tokens"]) == (f"local/{model}", 2)


# Refusals


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_is_too_long(client: OpenAI, model: str, stream: bool) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 2 * CONTEXT}]

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=messages, stream=stream)

    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "context_length_exceeded", "messages", "invalid_request_error"
    )  # fmt: skip
    assert f"reads at most {CONTEXT}" in caught.value.message
    assert "`slot_context`" in caught.value.message
    assert "increasing" not in caught.value.message


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


#: One keyword of it cannot be enforced, and the rest would keep the engine busy for minutes.
LARGE_TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {
        "u": {"type": "string", "format": "uri"}, "x": {"enum": [f"value {i}" for i in range(20_000)]}}}},
}  # fmt: skip
ODD_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "odd"}}}}}


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "decimal_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice",
         "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "unsupported_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}}},
         "response_format.json_schema.schema", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "array", "items": {"type": "integer"}, "uniqueItems": True}}}},
         "response_format.json_schema.schema", "unsupported_value"),
        ({"tools": [ODD_TOOL], "tool_choice": "required"}, "tools", "invalid_function_parameters"),
        ({"tools": [LARGE_TOOL], "tool_choice": "required"}, "tools", "unsupported_value"),
        ({"grammar": "root ::= ("}, "grammar", "invalid_value"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_would_not_do_is_refused(
    client: OpenAI, model: str, more: dict[str, Any], param: str, code: str | None, stream: bool
) -> None:
    body: Any = {"model": model, "messages": HELLO, "stream": stream}

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**body, extra_body=more)

    assert (caught.value.param, caught.value.code) == (param, code)


def test_what_does_nothing_is_told(client: OpenAI, model: str) -> None:
    more: Any = {"tools": [TOOL], "guided_json": {}, "top_k": 5, "user": "u", "bad\nname": 1}

    raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=2, extra_body=more)

    assert raw.headers["x-gateway-warnings"] == "guided_json, tools"


# Tools, schemas, choices

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}},
            "required": ["city"],
            "$defs": {"City": {"type": "string", "enum": ["Berlin", "Tokyo"]}},
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather like in Berlin?"}]


def named(name: str) -> dict[str, Any]:
    """The choice of one function."""
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", {"get_weather", "get_time"}),
        (named("get_time"), {"get_time"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("get_weather")]}},
         {"get_weather"}),
    ],
    ids=["required", "named", "allowed"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_can_be_forced(client: OpenAI, model: str, choice: Any, expected: set[str], stream: bool) -> None:
    asked: Any = {
        "model": model, "messages": ASK, "tools": [WEATHER, TIME], "tool_choice": choice, "temperature": 0,
        "max_tokens": 120,
    }  # fmt: skip
    if stream:
        with client.chat.completions.stream(**asked) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)

    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert call.function.name in expected
    arguments = json.loads(call.function.arguments)
    assert arguments == ({} if call.function.name == "get_time" else {"city": arguments["city"]})
    assert arguments.get("city", "Berlin") in ("Berlin", "Tokyo")


def test_a_forced_call_is_streamed_as_one_opening_and_pieces(client: OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=ASK, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=120, stream=True
    ) as stream:
        choices = [choice for chunk in stream for choice in chunk.choices]

    deltas = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [bool(call.id) for call in deltas] == [True] + [False] * (len(deltas) - 1)
    assert [bool(call.function and call.function.name) for call in deltas] == [True] + [False] * (len(deltas) - 1)
    assert len(deltas) > 2
    assert {call.index for call in deltas} == {0}
    assert not [choice for choice in choices if choice.delta.content]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_that_is_cut_short_ends_by_length(client: OpenAI, model: str, stream: bool) -> None:
    asked: Any = {"model": model, "messages": ASK, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 9}
    if stream:
        with client.chat.completions.create(**asked, stream=True) as chunks:
            reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    else:
        reasons = [client.chat.completions.create(**asked).choices[0].finish_reason]

    assert reasons == ["length"]


HARD: dict[str, dict[str, Any]] = {
    "bounds of numbers": {"type": "number", "minimum": 5.5, "maximum": 6},
    "multiples": {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 7, "maximum": 21},
    "a pattern": {"type": "string", "pattern": "^[A-C]{2}[0-9]$"},
    "a format": {"type": "string", "format": "ipv4"},
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_schema_that_the_converter_would_skip_is_kept(client: OpenAI, model: str, name: str, stream: bool) -> None:
    schema = {"type": "object", "properties": {"a": HARD[name]}, "required": ["a"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema}}

    answer: Any = client.chat.completions.create(
        model=model, messages=ASK, response_format=wanted, max_tokens=60, temperature=1.5, seed=3, stream=stream
    )

    said = "".join(each.choices[0].delta.content or "" for each in answer if each.choices) if stream else text(answer)
    assert jsonschema_rs.is_valid(schema, json.loads(said), validate_formats=True)


def test_a_schema_is_kept(client: OpenAI, model: str) -> None:
    schema = {
        "type": "object", "properties": {"city": {"enum": ["Berlin", "Rome"]}, "cold": {"type": "boolean"}},
        "required": ["city", "cold"], "additionalProperties": False,
    }  # fmt: skip
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema, "strict": True}}

    answer = client.chat.completions.create(
        model=model, messages=ASK, response_format=wanted, max_tokens=120, temperature=0
    )

    report = json.loads(text(answer))
    assert report.keys() == {"city", "cold"}
    assert report["city"] in ("Berlin", "Rome")


@pytest.mark.parametrize("stream", [False, True])
def test_a_large_schema_costs_the_engine_no_more_than_a_small_one(client: OpenAI, model: str, stream: bool) -> None:
    values = [f"value {i}" for i in range(20_000)]
    schema = {"type": "object", "properties": {"value": {"enum": values}}, "required": ["value"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}}
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 60, "response_format": wanted}

    if stream:
        with client.chat.completions.create(**asked, stream=True) as chunks:
            answer = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    else:
        answer = text(client.chat.completions.create(**asked))

    assert json.loads(answer)["value"] in values


@pytest.mark.parametrize("stop", ["", [""]])
def test_an_empty_stop_string_does_not_end_an_answer(client: OpenAI, model: str, stop: Any) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4, temperature=0, stop=stop)

    assert (answer.choices[0].finish_reason, bool(text(answer))) == ("length", True)


def test_any_object_can_be_asked_for(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, response_format={"type": "json_object"}, max_tokens=120, temperature=0
    )

    assert isinstance(json.loads(text(answer)), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(client: OpenAI, model: str, stream: bool) -> None:
    one: Any = {"model": model, "messages": HELLO, "max_tokens": 6, "temperature": 1.5, "seed": 7}
    alone = client.chat.completions.create(**one).usage
    if stream:
        with client.chat.completions.create(
            **one, n=3, stream=True, stream_options={"include_usage": True}
        ) as stream_of_all:
            chunks = list(stream_of_all)
        texts = [
            "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == i)
            for i in range(3)
        ]
        usage = chunks[-1].usage
        assert len({chunk.id for chunk in chunks}) == 1
        assert [choice.index for chunk in chunks for choice in chunk.choices if choice.delta.role] == [0, 1, 2]
        assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    else:
        answer = client.chat.completions.create(**one, n=3)
        texts, usage = [choice.message.content or "" for choice in answer.choices], answer.usage
        assert [choice.index for choice in answer.choices] == [0, 1, 2]

    assert len(set(texts)) > 1, "seeds differ"
    assert alone is not None
    assert usage is not None
    assert usage.prompt_tokens == alone.prompt_tokens
    assert 3 <= usage.completion_tokens <= 18
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("more", "listed"), [({"top_logprobs": 2}, 2), ({"top_logprobs": 0}, 0), ({}, 0)])
def test_log_probabilities(client: OpenAI, model: str, more: dict[str, int], listed: int, stream: bool) -> None:
    asked: Any = {
        "model": model,
        "messages": HELLO,
        "max_tokens": 3,
        "temperature": 0,
        "logprobs": True,
        **more,
    }
    if stream:
        with client.chat.completions.create(**asked, stream=True) as chunks:
            found = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
        tokens = [token for each in found for token in each.content or ()]
    else:
        logprobs = client.chat.completions.create(**asked).choices[0].logprobs
        assert logprobs is not None
        tokens = logprobs.content or []

    assert len(tokens) >= 2
    for token in tokens:
        assert bytes(token.bytes or []).decode() == token.token
        assert token.logprob <= 0
        assert len(token.top_logprobs) == listed
        assert token.to_dict().keys() == {"token", "bytes", "logprob", "top_logprobs"}


def test_an_alias_is_a_model(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model="small", messages=HELLO, max_tokens=2)

    assert answer.model == "small"
    assert client.models.retrieve("small").to_dict()["context_window"] == CONTEXT


@pytest.mark.parametrize("part", ["image_url", "input_audio", "file"])
def test_what_is_no_text_is_refused(client: OpenAI, model: str, part: str) -> None:
    content: Any = [{"type": "text", "text": "What is this?"}, {"type": part, part: {"url": "http://x.invalid/y.png"}}]

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=[*HELLO, {"role": "user", "content": content}])

    assert (caught.value.code, caught.value.param) == ("unsupported_value", "messages[1].content[1].type")


@pytest.mark.parametrize("more", [{"n": 1}, {"n": None}, {"tools": [TOOL], "tool_choice": "auto"}], ids=str)
def test_what_changes_nothing_is_not_refused(client: OpenAI, model: str, more: dict[str, Any]) -> None:
    body: Any = {"model": model, "messages": HELLO, "max_tokens": 2}

    assert client.chat.completions.create(**body, extra_body=more).choices


def test_a_model_that_is_not_in_the_folder(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="broken", messages=HELLO)


# Slots


def left_early(gateway: Gateway) -> list[Any]:
    """The log lines of requests whose client has left."""
    return [record for record in gateway.call_records() if record["status"] == 499]


def long_answer(gateway: Gateway, model: str, *, stream: bool) -> bytes:
    """A request for some 100 tokens, which take seconds."""
    body = {
        "model": model, "max_tokens": 100, "stream": stream, "temperature": 1.5, "logit_bias": {"2": -100, "0": -100},
        "messages": [{"role": "user", "content": "Count from 1 to 1000: 1, 2, 3,"}],
    }  # fmt: skip
    return post_chat(gateway.host, gateway.port, body)


@pytest.fixture(scope="module")
def long_s(gateway: Gateway, model: str) -> float:
    """How long such an answer takes on this machine, in seconds."""
    with RawClient(gateway.host, gateway.port, timeout_s=LIMIT_S) as waiting:
        began = time.monotonic()
        waiting.send(long_answer(gateway, model, stream=False))
        assert waiting.read_response().status == 200
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_gives_its_slot_back(
    gateway: Gateway, client: OpenAI, model: str, long_s: float, stream: bool
) -> None:
    """The only slot is held by a long answer; the next one starts long before that would have ended."""
    before = len(left_early(gateway))
    with RawClient(gateway.host, gateway.port, timeout_s=LIMIT_S) as leaving:
        leaving.send(long_answer(gateway, model, stream=stream))
        if stream:
            events = leaving.iter_events(leaving.read_head())
            for _ in range(3):
                next(events)
        else:
            time.sleep(long_s / 10)  # nothing tells that the engine has begun
    left = time.monotonic()

    client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
    waited_s = time.monotonic() - left

    assert waited_s < long_s / 2
    wait_until(lambda: len(left_early(gateway)) == before + 1, "the answer that was not over when the client left")


def test_requests_wait_for_a_slot_and_never_mix(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    alone = text(client.chat.completions.create(**asked))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: text(client.chat.completions.create(**asked)), range(4)))

    assert together == [alone] * 4
