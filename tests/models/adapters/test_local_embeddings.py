"""Embeddings of a local model: the real engine, through the real gateway, asked by the official client.

The small default model is made for chats; the engine makes the mean of its tokens' vectors.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.support import Gateway

ROOT = Path(__file__).parents[3]
CONTEXT = 256

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture(scope="module")
def gateway(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the model under two names: one for both kinds, one for chats."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("both", "chats"):
        (folder / f"{name}.gguf").symlink_to(model_file)
    local = {
        "type": "local", "models_dir": str(folder), "slots": 1, "slot_context": CONTEXT, "default_max_tokens": 8,
        "kinds": {"both": ["chat", "embedding"]},
    }  # fmt: skip
    config = json.dumps({"adapters": {"local": local}})
    with Gateway(config_yaml=config, env={"RATE_LIMIT_REQUESTS": "100000"}, ready_path="/ready") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key="test-key", max_retries=0, timeout=60) as opened:
        yield opened


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def test_similar_texts_have_similar_vectors(client: OpenAI) -> None:
    answer = client.embeddings.create(model="both", input=["a dog", "a puppy", "income tax"])

    dog, puppy, tax = (entry.embedding for entry in answer.data)
    assert len(dog) == len(puppy) == len(tax) == 576
    assert likeness(dog, puppy) > likeness(dog, tax)
    assert answer.model == "both"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3


def test_both_encodings_are_one_vector(client: OpenAI) -> None:
    from_base64 = client.embeddings.create(model="both", input="a dog").data[0].embedding
    from_floats = client.embeddings.create(model="both", input="a dog", encoding_format="float").data[0].embedding

    assert likeness(from_base64, from_floats) == pytest.approx(1, abs=1e-6)


def test_many_inputs_come_back_in_order(client: OpenAI) -> None:
    words = [f"word number {number}" for number in range(20)]

    many = [entry.embedding for entry in client.embeddings.create(model="both", input=words).data]

    alone = client.embeddings.create(model="both", input=words[18]).data[0].embedding
    assert len(many) == 20
    assert max(range(20), key=lambda index: likeness(many[index], alone)) == 18


def test_an_input_that_is_too_long_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="both", input="word " * (CONTEXT + 50))

    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
    assert str(CONTEXT) in str(caught.value)


def test_vectors_have_one_length(client: OpenAI) -> None:
    whole = client.embeddings.create(model="both", input="a dog", dimensions=576)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="both", input="a dog", dimensions=100)

    assert len(whole.data[0].embedding) == 576
    assert (caught.value.param, caught.value.code) == ("dimensions", "unsupported_value")


def test_an_engine_that_embeds_also_chats(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="both", messages=[{"role": "user", "content": "Hello!"}])

    assert answer.choices[0].message.content


def test_a_model_for_chats_alone_does_not_embed(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        client.embeddings.create(model="chats", input="a dog")


def test_the_list_says_which_models_embed(client: OpenAI) -> None:
    kinds = {entry.id: entry.to_dict()["kinds"] for entry in client.models.list()}

    assert kinds == {"both": ["chat", "embedding"], "chats": ["chat", "completion"]}
