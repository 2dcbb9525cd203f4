"""Libraries that programs are written with, and `llm`: text, a stream of it, and a tool; and one that ranks."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.bed import KEY, adapter, yaml
from tests.support import Gateway, Script, ScriptedUpstream, Seen, completion, json_reply, sse, text_chunks, tool_chunks

MODELS = ["whole", "streamed", "tool"]
#: Asked for by Cohere's client, at the addresses of both versions.
RANKED = "ranked"

LANGCHAIN = """
import json
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from langchain_core.tools import tool

@tool
def add(a: int, b: int) -> int:
    "Add."
    return a + b

found = []
for make in (ChatOpenAI, lambda **given: ChatOpenAI(use_responses_api=True, **given), ChatAnthropic):
    found.append(make(model="whole").invoke("hi").text)
    found.append("".join(piece.text for piece in make(model="streamed").stream("hi")))
    pieces = make(model="tool").bind_tools([add]).stream("hi")
    found.append([call["name"] for piece in pieces for call in piece.tool_calls if call["name"]])
print(json.dumps(found))
"""

LLAMA_INDEX = """
import json
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

def add(a: int, b: int) -> int:
    "Add."
    return a + b

def make(model):
    return OpenAILike(model=model, is_chat_model=True, is_function_calling_model=True, context_window=4096)

hi = [ChatMessage(role="user", content="hi")]
called = make("tool").chat_with_tools([FunctionTool.from_defaults(add)], user_msg="hi")
calls = make("tool").get_tool_calls_from_response(called)
print(json.dumps([
    make("whole").chat(hi).message.content,
    "".join(piece.delta for piece in make("streamed").stream_chat(hi)),
    [[call.tool_name, call.tool_kwargs] for call in calls],
]))
"""

AI_SDK = """
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

const [baseURL, apiKey] = [process.env.OPENAI_BASE_URL, process.env.OPENAI_API_KEY];
const openai = createOpenAI({ baseURL, apiKey });
const providers = [
  createOpenAICompatible({ name: "gateway", baseURL, apiKey }),
  openai.chat,
  openai.responses,
  createAnthropic({ baseURL, apiKey }),
];
const properties = { a: { type: "number" }, b: { type: "number" } };
const add = tool({ description: "Add.", inputSchema: jsonSchema({ type: "object", properties }) });
const found = [];
for (const provider of providers) {
  found.push((await generateText({ model: provider("whole"), prompt: "hi" })).text);
  let text = "";
  for await (const piece of streamText({ model: provider("streamed"), prompt: "hi" }).textStream) text += piece;
  found.push(text);
  const called = streamText({ model: provider("tool"), prompt: "hi", tools: { add } });
  found.push((await called.toolCalls).map((call) => [call.toolName, call.input]));
}
console.log(JSON.stringify(found));
"""

PYDANTIC_AI = """
import asyncio, json
from pydantic_ai import Agent, ToolDefinition
from pydantic_ai.direct import model_request_sync
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
tools = ModelRequestParameters(function_tools=[ToolDefinition(name="add", parameters_json_schema=schema)])

async def streamed(model):
    async with Agent(model).run_stream("hi") as answer:
        return "".join([piece async for piece in answer.stream_text(delta=True)])

found = []
for make in (OpenAIChatModel, OpenAIResponsesModel, AnthropicModel):
    found.append(Agent(make("whole")).run_sync("hi").output)
    found.append(asyncio.run(streamed(make("streamed"))))
    hi = [ModelRequest.user_text_prompt("hi")]
    called = model_request_sync(make("tool"), hi, model_request_parameters=tools)
    found.append([[call.tool_name, call.args_as_dict()] for call in called.tool_calls])
print(json.dumps(found))
"""

LITELLM = """
import json, os
import litellm

schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
tools = [{"type": "function", "function": {"name": "add", "parameters": schema}}]
hi = [{"role": "user", "content": "hi"}]
found = []
for provider, base in (("openai", os.environ["OPENAI_BASE_URL"]), ("anthropic", os.environ["ANTHROPIC_BASE_URL"])):
    def ask(model, **more):
        return litellm.completion(f"{provider}/{model}", hi, api_base=base, max_tokens=99, **more)
    found.append(ask("whole").choices[0].message.content)
    found.append("".join(piece.choices[0].delta.content or "" for piece in ask("streamed", stream=True)))
    calls = ask("tool", tools=tools).choices[0].message.tool_calls
    found.append([[call.function.name, json.loads(call.function.arguments)] for call in calls])
print(json.dumps(found))
"""

ANTHROPIC_NODE = """
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ maxRetries: 0 });
const given = { max_tokens: 99, messages: [{ role: "user", content: "hi" }] };
const properties = { a: { type: "number" }, b: { type: "number" } };
const tools = [{ name: "add", input_schema: { type: "object", properties } }];
const whole = await client.messages.create({ ...given, model: "whole" });
const streamed = await client.messages.stream({ ...given, model: "streamed" }).finalText();
const called = await client.messages.stream({ ...given, model: "tool", tools }).finalMessage();
console.log(JSON.stringify([whole.content[0].text, streamed, called.content.map((call) => [call.name, call.input])]));
"""

COHERE = """
import json, os
import cohere

found = []
for make in (cohere.Client, cohere.ClientV2):
    client = make(api_key=os.environ["OPENAI_API_KEY"], base_url=os.environ["ANTHROPIC_BASE_URL"])
    ranked = client.rerank(model="ranked", query="q", documents=["a", "b"], top_n=1)
    found.append([[each.index, each.relevance_score] for each in ranked.results])
print(json.dumps(found))
"""

LLM_MODEL = """
- {{model_id: {model}, model_name: {model}, api_base: "{url}", api_key_name: gateway}}
"""


def call(seen: Seen) -> Script:
    """A call of a tool, whole or streamed as it was asked for."""
    function = {"name": "add", "arguments": '{"a":1,"b":2}'}
    if seen.json.get("stream"):
        return sse(*tool_chunks((function["name"], function["arguments"])))
    calls = [{"id": "call_1", "type": "function", "function": function}]
    return json_reply(completion(None, finish="tool_calls", tool_calls=calls))


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    """An upstream that knows chat only."""
    with ScriptedUpstream() as running:
        running.on("whole", json_reply(completion("Hello")))
        running.on("streamed", sse(*text_chunks("Hel", "lo")))
        running.on("tool", call)
        running.on(RANKED, json_reply({"id": "r", "results": [{"index": 1, "relevance_score": 0.9}], "meta": {}}))
        yield running


@pytest.fixture
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
    gateway.config_yaml = yaml(
        adapters={"a": adapter(upstream, [*MODELS, RANKED])},
        server={"host": gateway.host, "port": gateway.port, "rerank_paths": ["/v2/rerank"]},
    )
    with gateway:
        yield gateway


def printed(command: list[str], gateway: Gateway, folder: Path, **env: str) -> str:
    """What a program prints that has the gateway as its OpenAI and its Anthropic."""
    address = f"http://{gateway.host}:{gateway.port}"
    known = {"OPENAI_BASE_URL": gateway.base_url, "ANTHROPIC_BASE_URL": address, "OPENAI_API_KEY": KEY}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"HOME": str(folder), "PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": KEY} | known | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_langchain(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    python = pip_install("langchain-openai", "langchain-anthropic")

    found = json.loads(printed([str(python), "-c", LANGCHAIN], gateway, tmp_path))

    assert found == ["Hello", "Hello", ["add"]] * 3


def test_llama_index(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    python = pip_install("llama-index-llms-openai-like")

    found = json.loads(printed([str(python), "-c", LLAMA_INDEX], gateway, tmp_path, OPENAI_API_BASE=gateway.base_url))

    assert found == ["Hello", "Hello", [["add", {"a": 1, "b": 2}]]]


def test_the_ai_sdk(npm_install: Callable[..., Path], gateway: Gateway) -> None:
    modules = npm_install("ai", "@ai-sdk/anthropic", "@ai-sdk/openai", "@ai-sdk/openai-compatible").parent.parent
    node = shutil.which("node")
    assert node, "npm comes with it"
    (modules / "program.mjs").write_text(AI_SDK)

    found = json.loads(printed([node, "program.mjs"], gateway, modules).splitlines()[-1])

    assert found == ["Hello", "Hello", [["add", {"a": 1, "b": 2}]]] * 4


def test_pydantic_ai(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    python = pip_install("pydantic-ai-slim", "openai", "anthropic")

    found = json.loads(printed([str(python), "-c", PYDANTIC_AI], gateway, tmp_path))

    assert found == ["Hello", "Hello", [["add", {"a": 1, "b": 2}]]] * 3


def test_litellm_as_a_client(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    python = pip_install("litellm")

    told = printed([str(python), "-c", LITELLM], gateway, tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True")

    assert json.loads(told.splitlines()[-1]) == ["Hello", "Hello", [["add", {"a": 1, "b": 2}]]] * 2


def test_anthropics_sdk_for_node(npm_install: Callable[..., Path], gateway: Gateway) -> None:
    modules = npm_install("@anthropic-ai/sdk").parent.parent
    node = shutil.which("node")
    assert node, "npm comes with it"
    (modules / "program.mjs").write_text(ANTHROPIC_NODE)

    found = json.loads(printed([node, "program.mjs"], gateway, modules))

    assert found == ["Hello", "Hello", [["add", {"a": 1, "b": 2}]]]


def test_coheres_sdk_ranks(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    python = pip_install("cohere")

    assert json.loads(printed([str(python), "-c", COHERE], gateway, tmp_path)) == [[[1, 0.9]]] * 2


def test_llm(pip_install: Callable[..., Path], gateway: Gateway, tmp_path: Path) -> None:
    command = str(pip_install("llm").parent / "llm")
    entries = [LLM_MODEL.format(model=model, url=gateway.base_url) for model in MODELS]
    (tmp_path / "extra-openai-models.yaml").write_text("".join(entries))

    def ask(*arguments: str) -> str:
        given = [command, "--key", KEY, *arguments, "hi"]
        return printed(given, gateway, tmp_path, LLM_USER_PATH=str(tmp_path)).strip()

    assert ask("-m", "whole", "--no-stream") == "Hello"
    assert ask("-m", "streamed") == "Hello"
