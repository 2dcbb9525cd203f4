"""The OpenAI SDK for Node: embeddings in both encodings, and responses that it puts together from their events."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.bed import KEY, adapter, yaml
from tests.support import Gateway, ScriptedUpstream, sse, tool_chunks

from .vectors import embedding

PROGRAM = """
import OpenAI from "openai";
const client = new OpenAI({ maxRetries: 0 });
const found = [];
for (const model of ["floats", "base64"]) {
  for (const more of [{}, { encoding_format: "float" }, { encoding_format: "base64" }]) {
    const answer = await client.embeddings.create({ model, input: ["abcd", "ab"], ...more });
    found.push(answer.data.map((entry) => entry.embedding));
  }
}
console.log(JSON.stringify(found));
"""

RESPONSES = """
import OpenAI from "openai";
const client = new OpenAI({ maxRetries: 0 });
const tools = [{ type: "function", name: "weather", parameters: { type: "object", properties: {} }, strict: false }];
const found = [];
for (const reasoning of [null, { summary: "auto" }]) {
  const stream = client.responses.stream({ model: "thinks", input: "Hi", tools, reasoning });
  const last = await stream.finalResponse();
  found.push(last.output.map(({ type, content, summary, arguments: text }) => ({ type, content, summary, text })));
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def modules(npm_install: Callable[[str], Path]) -> Path:
    """The folder in which the SDK was installed."""
    return npm_install("openai").parent.parent


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.on("floats", embedding("float"))
        running.on("base64", embedding("base64"))
        yield running


def told_by(text: str, modules: Path, upstream: ScriptedUpstream) -> Any:
    """What a program of this text writes, as JSON."""
    gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
    gateway.config_yaml = yaml(
        adapters={"a": adapter(upstream, ["floats", "base64", "thinks"])},
        server={"host": gateway.host, "port": gateway.port},
    )
    node = shutil.which("node")
    assert node, "npm comes with it"
    program = modules / "program.mjs"
    program.write_text(text)
    with gateway:
        done = subprocess.run(
            [node, str(program)],
            cwd=modules, env={"OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": KEY},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vectors_are_whole_in_every_combination(modules: Path, upstream: ScriptedUpstream) -> None:
    found = told_by(PROGRAM, modules, upstream)

    vectors = [[1.0, -0.5, 1.0], [0.5, -0.5, 1.0]]
    unasked, floats, base64 = 0, 1, 2
    for of_model in (found[:3], found[3:]):
        assert of_model[unasked] == of_model[floats] == vectors
        assert all(isinstance(each, str) for each in of_model[base64]) or of_model[base64] == vectors


def test_a_response_is_put_together_from_its_events(modules: Path, upstream: ScriptedUpstream) -> None:
    opening, *calls = tool_chunks(("weather", '{"city"', ':"Bern"}'))
    thoughts: list[Any] = [{**opening, "choices": [{**opening["choices"][0], "delta": {"reasoning_content": piece}}]}
                           for piece in ("2+", "2")]  # fmt: skip
    upstream.on("thinks", sse(opening, *thoughts, *calls))

    as_it_is, summed_up = told_by(RESPONSES, modules, upstream)

    assert as_it_is[0]["content"] == [{"type": "reasoning_text", "text": "2+2"}]
    assert summed_up[0]["summary"] == [{"type": "summary_text", "text": "2+2"}]
    for output in (as_it_is, summed_up):
        assert [item["type"] for item in output] == ["reasoning", "function_call"]
        assert output[1]["text"] == '{"city":"Bern"}'
