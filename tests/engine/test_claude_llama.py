"""Claude's dialect as llama.cpp speaks it: through the real gateway, to a server that nobody here wrote."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from one_api.engine.download import fetch_default_model
from tests.api.bed import yaml
from tests.support import Gateway, free_port

ROOT = Path(__file__).parents[2]
MODEL = "claude-haiku-4-5"
#: How long the engine may take for anything short; the machine may be busy. Seconds.
LIMIT_S = 60.0
HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@contextlib.contextmanager
def llama_server() -> Iterator[str]:
    """The address of a server that runs the default model."""
    model_file = fetch_default_model(Path(os.environ.get("ONE_API_TEST_MODELS") or ROOT / "models"), print)
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(model_file), str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    """The official client of a gateway over that server."""
    with contextlib.ExitStack() as held:
        url = held.enter_context(llama_server())
        adapter = {"type": "claude", "base_url": url, "api_key": "sk-llama", "key_header": "bearer"}
        wrong = adapter | {"api_key": "sk-wrong", "models": ["claude-wrong"]}
        gateway = Gateway(config_yaml=yaml(adapters={"llama": adapter, "wrong": wrong}), ready_path="/ready")
        held.enter_context(gateway)
        opened = OpenAI(base_url=gateway.base_url, api_key="test-key", max_retries=0, timeout=LIMIT_S)
        yield held.enter_context(opened)


def test_its_models_are_listed(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]


def test_a_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12, temperature=0)

    choice = answer.choices[0]
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 5
    assert 0 < answer.usage.completion_tokens <= 12


def test_a_stream_says_the_same(client: OpenAI) -> None:
    request: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**request).choices[0]

    with client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


def test_a_stop_string(client: OpenAI) -> None:
    request: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 30, "temperature": 0}
    text = client.chat.completions.create(**request).choices[0].message.content or ""
    stop = text.split()[2]

    answer = client.chat.completions.create(**request, stop=[stop]).choices[0]

    assert (answer.message.content, answer.finish_reason) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called(client: OpenAI, streamed: bool) -> None:
    """So small a model calls a tool only after examples of it."""
    turns: list[Any] = []
    for city in ("Rome", "Oslo", "Bern", "Lima"):
        called = f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
        turns += [{"role": "user", "content": f"Weather in {city}?"}, {"role": "assistant", "content": called}]
    request: Any = {
        "model": MODEL, "messages": [*turns, {"role": "user", "content": "Weather in Paris?"}], "tools": [WEATHER],
        "temperature": 0, "max_tokens": 60,
    }  # fmt: skip

    if streamed:
        with client.chat.completions.stream(**request) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**request).choices[0]

    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    request["messages"] += [{"role": "assistant", "tool_calls": [call.model_dump(exclude_none=True)]}, result]
    assert client.chat.completions.create(**request).choices[0].message.role == "assistant"


def test_a_conversation_that_is_too_long(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}])

    assert caught.value.code == "context_length_exceeded"


def test_a_wrong_credential(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="claude-wrong", messages=HELLO)

    assert caught.value.code == "upstream_authentication_error"
