"""The OpenAI SDK for Node: embeddings in both encodings, from upstreams that send one or the other."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.bed import KEY, adapter, yaml
from tests.support import Gateway, ScriptedUpstream

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


def test_vectors_are_whole_in_every_combination(modules: Path, upstream: ScriptedUpstream) -> None:
    gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
    gateway.config_yaml = yaml(
        adapters={"a": adapter(upstream, ["floats", "base64"])}, server={"host": gateway.host, "port": gateway.port}
    )
    node = shutil.which("node")
    assert node, "npm comes with it"
    program = modules / "program.mjs"
    program.write_text(PROGRAM)
    with gateway:
        done = subprocess.run(
            [node, str(program)],
            cwd=modules, env={"OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": KEY},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    vectors = [[1.0, -0.5, 1.0], [0.5, -0.5, 1.0]]
    unasked, floats, base64 = 0, 1, 2
    found = json.loads(done.stdout)
    for of_model in (found[:3], found[3:]):
        assert of_model[unasked] == of_model[floats] == vectors
        assert all(isinstance(each, str) for each in of_model[base64]) or of_model[base64] == vectors
