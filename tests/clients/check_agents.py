"""The Agents SDK over an upstream that speaks Chat Completions only: a tool, a handoff, and a response gone on from."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.bed import KEY, adapter, yaml
from tests.support import Gateway, Script, ScriptedUpstream, Seen, completion, json_reply, sse, text_chunks, tool_chunks

PROGRAM = """
import asyncio, json, sys
from agents import Agent, Runner, function_tool

@function_tool
def weather(city: str) -> str:
    "The weather in a city."
    return f"sunny in {city}"

poet = Agent(name="Poet", instructions="Rhyme.", model="m")
host = Agent(name="Host", instructions="Help.", model="m", tools=[weather], handoffs=[poet])

async def main():
    whole = await Runner.run(host, "weather?")
    streamed = Runner.run_streamed(host, "weather?")
    kinds = [event.type async for event in streamed.stream_events()]
    handed = await Runner.run(host, "a poem")
    again = await Runner.run(host, "and again", previous_response_id=whole.last_response_id)
    print(json.dumps([whole.final_output, streamed.final_output, handed.final_output, handed.last_agent.name,
                      again.final_output]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python(pip_install: Callable[[str], Path]) -> Path:
    """A Python that has the SDK."""
    return pip_install("openai-agents")


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(default=answer) as running:
        yield running


def answer(seen: Seen) -> Script:
    """Call the tool when asked for the weather, hand over when asked for a poem; then answer."""
    body = seen.json
    said, last = body["messages"][0]["content"], body["messages"][-1]
    if last["role"] == "tool" and said == "Help.":
        return _text(body, f"It is {last['content']}.")
    if said == "Rhyme.":
        return _text(body, "Roses are red.")
    if last["content"] == "weather?":
        return _call(body, "weather", '{"city":"Bern"}')
    if last["content"] == "a poem":
        return _call(body, "transfer_to_poet", "{}")
    return _text(body, f"{len(body['messages'])} messages")


def _text(body: dict[str, object], text: str) -> Script:
    return sse(*text_chunks(text)) if body.get("stream") else json_reply(completion(text))


def _call(body: dict[str, object], name: str, arguments: str) -> Script:
    if body.get("stream"):
        return sse(*tool_chunks((name, arguments)))
    call = {"id": "call_0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return json_reply(completion(None, finish="tool_calls", tool_calls=[call]))


def test_an_agent_uses_a_tool_hands_over_and_goes_on(python: Path, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
    gateway.config_yaml = yaml(
        adapters={"a": adapter(upstream, ["m"])},
        server={"host": gateway.host, "port": gateway.port},
        responses={"state": "memory"},
    )
    with gateway:
        done = subprocess.run(
            [str(python), "-c", PROGRAM],
            env={"HOME": str(tmp_path), "OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": KEY,
                 "OPENAI_AGENTS_DISABLE_TRACING": "1"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    # Going on: system, the question, its call, the result, the answer, and the new question.
    assert json.loads(done.stdout) == [
        "It is sunny in Bern.", "It is sunny in Bern.", "Roses are red.", "Poet", "6 messages"
    ]  # fmt: skip
