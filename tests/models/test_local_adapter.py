"""The local adapter: the real engine with the default model, through the real gateway, asked by the official client."""

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from one_api.models.fetch import fetch_default_model
from tests.support import Gateway, RawClient, post_chat

ROOT = Path(__file__).parents[2]
#: What one slot holds, and what an answer may hold when the request does not say; in tokens.
CONTEXT, DEFAULT_MOST = 256, 12
#: How long the engine may take for anything short; the machine may be busy. Seconds.
LIMIT_S = 60.0
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello! Who are you?"}]

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture(scope="module")
def model_file() -> Path:
    """The default model, fetched once for all runs."""
    folder = Path(os.environ.get("ONE_API_TEST_MODELS") or ROOT / "models")
    return fetch_default_model(folder, print)


@pytest.fixture(scope="module")
def gateway(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose only adapter is the local one: one slot, so that whoever holds it is noticed."""
    folder = tmp_path_factory.mktemp("models")
    (folder / model_file.name).symlink_to(model_file)
    (folder / "broken.gguf").write_bytes(b"not a model")
    local = {
        "type": "local", "models_dir": str(folder), "slots": 1, "slot_context": CONTEXT,
        "default_max_tokens": DEFAULT_MOST,
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

    assert [each.id for each in found] == [model, f"local/{model}"]
    assert found[0].owned_by == "local"
    assert found[0].created > 0
    assert found[0].to_dict()["context_window"] == CONTEXT
    assert client.models.retrieve(model).id == model


def test_a_file_that_cannot_be_read_is_told_in_the_log(gateway: Gateway) -> None:
    gateway.wait_for_log("broken.gguf")

    assert "is left out" in gateway.log


# Answers


def test_a_completion(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8)

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
        model=model, messages=HELLO, max_tokens=8, stream=True, stream_options=options
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
        model=model, messages=[{"role": "user", "content": "Count from 1 to 100: 1, 2, 3,"}], **limit
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

    assert text(client.chat.completions.create(model=model, messages=messages, max_tokens=3))


def test_the_log_has_the_tokens(gateway: Gateway, client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=2)

    request_id = raw.headers["x-request-id"]
    gateway.wait_for_log(request_id)
    (record,) = [each for each in gateway.call_records() if each["request_id"] == request_id]
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
    assert str(CONTEXT) in caught.value.message


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_would_not_do_is_refused(
    client: OpenAI, model: str, field: str, value: Any, stream: bool
) -> None:
    more: Any = {field: value, "tools": [TOOL]}

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO, max_tokens=2, stream=stream, **more)

    assert (caught.value.code, caught.value.param) == ("unsupported_value", field)


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


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_gives_its_slot_back(gateway: Gateway, client: OpenAI, model: str, stream: bool) -> None:
    """The only slot is held by an answer of some 200 tokens, which take seconds; the next one starts long before."""
    body = {
        "model": model, "max_tokens": 200, "stream": stream, "temperature": 1.5, "logit_bias": {"2": -100, "0": -100},
        "messages": [{"role": "user", "content": "Count from 1 to 1000: 1, 2, 3,"}],
    }  # fmt: skip
    before = len(left_early(gateway))
    with RawClient(gateway.host, gateway.port, timeout_s=LIMIT_S) as leaving:
        leaving.send(post_chat(gateway.host, gateway.port, body))
        if stream:
            events = leaving.iter_events(leaving.read_head())
            for _ in range(3):
                next(events)
        else:
            time.sleep(0.5)  # nothing tells that the engine has begun
    left = time.monotonic()

    client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
    waited_s = time.monotonic() - left

    assert waited_s < 2
    assert len(left_early(gateway)) == before + 1, "the answer was not over when the client left"


def test_requests_wait_for_a_slot_and_never_mix(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    alone = text(client.chat.completions.create(**asked))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: text(client.chat.completions.create(**asked)), range(4)))

    assert together == [alone] * 4
