"""Official SDKs, Codex and Claude Code over the local model: nobody foresees its words, so their form and end count."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support import Gateway

from .claude_code import run_claude_code
from .codex import run_codex

MODEL = "small"
TIMEOUT_S = 300.0
#: A schema binds the engine's words, and a tool that has to be called its choice.
OPENAI = """
import json
from openai import OpenAI
from pydantic import BaseModel
from typing import Literal

class Answer(BaseModel):
    colour: Literal["red", "blue"]

client = OpenAI(max_retries=0)
asked = {"model": "small", "input": "What is the colour of the sky?", "max_output_tokens": 40, "temperature": 0}
whole = client.responses.create(**asked)
with client.responses.stream(**asked) as stream:
    events = list(stream)
streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
parsed = client.responses.parse(**asked, text_format=Answer)
city = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"]}
city["additionalProperties"] = False
tool = {"type": "function", "name": "weather", "parameters": city, "strict": True}
called = client.responses.create(**asked, tools=[tool], tool_choice="required")
(call,) = [each for each in called.output if each.type == "function_call"]
print(json.dumps([whole.output_text, streamed, events[-1].type, parsed.output_parsed.colour, call.name,
                  json.loads(call.arguments)]))
"""
ANTHROPIC = """
import json
from anthropic import Anthropic

client = Anthropic(max_retries=0)
words = [{"role": "user", "content": "What is the colour of the sky?"}]
asked = {"model": "small", "messages": words, "max_tokens": 40}
whole = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    text = stream.get_final_text()
    final = stream.get_final_message()
city = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"]}
called = client.messages.create(**asked, tools=[{"name": "weather", "input_schema": city}], tool_choice={"type": "any"})
(call,) = [each for each in called.content if each.type == "tool_use"]
counted = client.messages.count_tokens(model="small", messages=words)
print(json.dumps([whole.content[0].text, text, final.stop_reason, call.name, call.input, called.stop_reason,
                  counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens]))
"""
AGENTS = """
import asyncio, json
from agents import Agent, ModelSettings, Runner

# The SDK raises an error where an answer is cut at its limit.
settings = ModelSettings(max_tokens=400, temperature=0)
agent = Agent(name="A", instructions="Answer briefly.", model="small", model_settings=settings)

async def main():
    whole = await Runner.run(agent, "Hello!")
    streamed = Runner.run_streamed(agent, "Hello!")
    kinds = [event.type async for event in streamed.stream_events()]
    print(json.dumps([whole.final_output, streamed.final_output, len(kinds)]))

asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture(scope="module")
def gateway(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("models")
    (folder / f"{MODEL}.gguf").symlink_to(model_file)
    local = {"type": "local", "models_dir": str(folder), "default_max_tokens": 64}
    # The prompts of Codex and Claude Code have thousands of tokens, and the machine may have other work.
    local["timeouts"] = {"first_event_s": TIMEOUT_S}
    config = json.dumps({"adapters": {"local": local}})
    with Gateway(config_yaml=config, env={"RATE_LIMIT_ENABLED": "false"}, ready_path="/ready") as running:
        yield running


def run(python: Path, program: str, gateway: Gateway) -> Any:
    """Return what a program prints that knows the gateway by the variables of its SDK."""
    env = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": "test-key",
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_API_KEY": "test-key",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    done = subprocess.run(
        [str(python), "-c", program], env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_sdk_of_openai(pip_install: Callable[[str], Path], gateway: Gateway) -> None:
    whole, streamed, last, colour, name, arguments = run(pip_install("openai"), OPENAI, gateway)

    assert whole.strip()
    assert streamed.strip()
    assert last in ("response.completed", "response.incomplete")
    assert colour in ("red", "blue")
    assert (name, arguments) == ("weather", {"city": "Bern"})


def test_the_sdk_of_anthropic(pip_install: Callable[[str], Path], gateway: Gateway) -> None:
    whole, streamed, end, name, given, called, counted, read = run(pip_install("anthropic"), ANTHROPIC, gateway)

    assert whole.strip()
    assert streamed.strip()
    assert end in ("end_turn", "max_tokens")
    assert (name, given, called) == ("weather", {"city": "Bern"}, "tool_use")
    assert counted == read


def test_the_agents_sdk(pip_install: Callable[[str], Path], gateway: Gateway) -> None:
    whole, streamed, events = run(pip_install("openai-agents"), AGENTS, gateway)

    assert whole.strip()
    assert streamed.strip()
    assert events


def test_codex(npm_install: Callable[[str], Path], gateway: Gateway, tmp_path: Path) -> None:
    """Its prompt of some thousand tokens takes the engine a minute or more, in which the gateway keeps it waiting."""
    command = npm_install("@openai/codex") / "codex"

    done = run_codex(command, tmp_path, gateway, MODEL, "--sandbox", "read-only", "Say hello.", timeout_s=TIMEOUT_S)

    assert done.returncode == 0 or "reason: max_output_tokens" in done.stderr, done.stderr[-3000:]
    assert gateway.call_records()[-1]["completion_tokens"]
    assert gateway.call_records()[-1]["outcome"] == "ok"


def test_claude_code(npm_install: Callable[[str], Path], gateway: Gateway, tmp_path: Path) -> None:
    """It asks four times for an answer that is cut at its limit, and then says so: the small model ends none."""
    command = npm_install("@anthropic-ai/claude-code") / "claude"
    limit = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "64"}

    done = run_claude_code(command, tmp_path, gateway, MODEL, "Say hello.", timeout_s=TIMEOUT_S, **limit)

    assert done.returncode == 0 or "output token maximum" in done.stdout, done.stdout + done.stderr
    asked = [each for each in gateway.call_records() if each["path"] == "/v1/messages" and each["stream"]]
    assert asked[-1]["completion_tokens"]
    assert {each["outcome"] for each in asked} == {"ok"}
