"""LangChain's OpenAIEmbeddings: with texts, and what becomes of the token ids that it sends by itself.

Its tokenizer fetches a vocabulary from the network, which a check cannot: ids are sent through its client.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.bed import KEY, adapter, yaml
from tests.support import Gateway, ScriptedUpstream

from .vectors import embedding

PROGRAM = """
import json
from langchain_openai import OpenAIEmbeddings

found = []
for model in ("floats", "base64"):
    texts = OpenAIEmbeddings(model=model, check_embedding_ctx_length=False)
    found.append([texts.embed_documents(["abcd", "ab"]), texts.embed_query("abcd")])
print(json.dumps(found))
"""

REFUSED = """
import openai
from langchain_openai import OpenAIEmbeddings

try:
    OpenAIEmbeddings(model="floats").client.create(model="floats", input=[[1, 2]])
except openai.BadRequestError as error:
    print(error.param)
"""


@pytest.fixture(scope="module")
def python(pip_install: Callable[[str], Path]) -> Path:
    """A Python that has LangChain."""
    return pip_install("langchain-openai")


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.on("floats", embedding("float"))
        running.on("base64", embedding("base64"))
        yield running


def run(python: Path, program: str, upstream: ScriptedUpstream, home: Path) -> str:
    """What a program prints that has the gateway as its OpenAI."""
    gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
    gateway.config_yaml = yaml(
        adapters={"a": adapter(upstream, ["floats", "base64"])}, server={"host": gateway.host, "port": gateway.port}
    )
    with gateway:
        done = subprocess.run(
            [str(python), "-c", program],
            env={"HOME": str(home), "OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": KEY},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_documents_and_a_query_are_embedded(python: Path, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    found = json.loads(run(python, PROGRAM, upstream, tmp_path))

    assert found == [[[[1.0, -0.5, 1.0], [0.5, -0.5, 1.0]], [1.0, -0.5, 1.0]]] * 2


def test_token_ids_are_refused_where_they_mean_something_else(
    python: Path, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    assert run(python, REFUSED, upstream, tmp_path).strip() == "input"
    assert upstream.requests == []
