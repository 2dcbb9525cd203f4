"""The doors beside chat on a local model: the real engine, through the real gateway, asked by the official clients."""

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from openai import OpenAI
from openai.types import Completion

from tests.support import Gateway, RawClient, build_request

ROOT = Path(__file__).parents[3]
CONTEXT = 256

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture(scope="module")
def gateway(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the default model under three names: one as its file says, one for chats alone, one that ranks."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("small", "chats", "ranks"):
        (folder / f"{name}.gguf").symlink_to(model_file)
    local = {
        "type": "local", "models_dir": str(folder), "slots": 2, "slot_context": CONTEXT, "default_max_tokens": 8,
        "kinds": {"chats": ["chat"], "ranks": ["rerank"]},
    }  # fmt: skip
    config = json.dumps({"adapters": {"local": local}})
    with Gateway(config_yaml=config, env={"RATE_LIMIT_REQUESTS": "100000"}, ready_path="/ready") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key="test-key", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="test-key", max_retries=0, timeout=60) as opened:
        yield opened


def complete(client: OpenAI, prompt: Any = "Once upon a", **fields: Any) -> Completion:
    asked: Any = {"temperature": 0, **fields}
    answer: Completion = client.completions.create(model="small", prompt=prompt, **asked)
    return answer


# Legacy completions


def test_a_text_goes_on(client: OpenAI) -> None:
    answer = complete(client, max_tokens=5)

    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.index, choice.finish_reason) == (
        "text_completion",
        "small",
        0,
        "length",
    )
    assert answer.id.startswith("cmpl-")
    assert choice.text.strip()
    assert choice.to_dict()["logprobs"] is None
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens - answer.usage.prompt_tokens) == (5, 5)
    assert not {"timings", "__verbose"} & answer.to_dict().keys()


def test_no_template_is_put_around_it(client: OpenAI) -> None:
    answer = complete(client, "a", max_tokens=1)

    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 1


def test_a_stream_says_the_same(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    asked: Any = {"model": "small", "prompt": "Once upon a", "max_tokens": 6, "temperature": 0}
    with client.completions.create(**asked, stream=True, stream_options=options) as stream:
        *chunks, last = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks) == complete(client, max_tokens=6).choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {(chunk.id, chunk.object, chunk.model) for chunk in [*chunks, last]} == {
        (last.id, "text_completion", "small")
    }
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 6


def test_an_answer_has_16_tokens_where_the_request_does_not_say(client: OpenAI) -> None:
    answer = complete(client, "1, 2, 3,", logit_bias={"2": -100})

    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_each_prompt_has_its_choices_and_every_token_is_counted(client: OpenAI) -> None:
    one, other = complete(client, "Once upon a", max_tokens=3), complete(client, "The sun is", max_tokens=4)

    answer = complete(client, ["Once upon a", "The sun is"], n=2, max_tokens=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices[:2]] == [one.choices[0].text] * 2
    assert other.choices[0].text.startswith(answer.choices[3].text)
    assert answer.usage is not None
    assert one.usage is not None
    assert other.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens + other.usage.prompt_tokens
    assert answer.usage.completion_tokens == 12


def test_token_ids_are_prompts_and_mean_the_same(client: OpenAI) -> None:
    by_text = complete(client, "Hello world", max_tokens=4)

    one = complete(client, [19556, 905], max_tokens=4)
    several = complete(client, [[19556, 905], [19556, 905]], max_tokens=4)

    assert one.choices[0].text == by_text.choices[0].text
    assert [choice.text for choice in several.choices] == [by_text.choices[0].text] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_have_their_old_form(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": "small", "prompt": "Once upon a", "max_tokens": 4, "temperature": 0, "logprobs": 2}
    if stream:
        with client.completions.create(**asked, stream=True) as chunks:
            choices = [choice for chunk in chunks for choice in chunk.choices]
    else:
        choices = client.completions.create(**asked).choices

    told = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for each in told for token in each.tokens or ()]
    text = "".join(choice.text for choice in choices)
    offsets = [offset for each in told for offset in each.text_offset or ()]
    assert "".join(tokens) == text
    assert [text[offset:].startswith(token) for offset, token in zip(offsets, tokens, strict=True)] == [True] * 4
    assert all(value < 0 for each in told for value in each.token_logprobs or ())
    assert [len(each) for part in told for each in part.top_logprobs or ()] == [2] * 4


def test_a_stop_string_and_a_seed(client: OpenAI) -> None:
    free = complete(client, max_tokens=12).choices[0].text
    word = free.split()[2]

    stopped = complete(client, max_tokens=12, stop=word).choices[0]
    seeded = [complete(client, max_tokens=8, temperature=1.5, seed=7).choices[0].text for _ in range(2)]

    assert (stopped.text, stopped.finish_reason) == (free[: free.index(word)], "stop")
    assert seeded[0] == seeded[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ["a", [1]], "n": 100}, "n"),
        ({"prompt": [10**12]}, "prompt"),
        ({"prompt": "word " * CONTEXT * 2}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused(client: OpenAI, fields: dict[str, Any], param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="a", stream=stream, extra_body=fields)

    assert caught.value.param == param


def test_a_prompt_that_is_too_long_is_called_one(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, "word " * CONTEXT * 2)

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert "This prompt has" in caught.value.message
    assert f"reads at most {CONTEXT}" in caught.value.message


def test_what_does_nothing_is_told(client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model="small", prompt="a", max_tokens=1, user="u", extra_body={"guided_json": {}, "top_k": 5}
    )

    assert raw.headers["x-gateway-warnings"] == "guided_json"


def test_a_client_that_leaves_gives_its_slots_back(gateway: Gateway, client: OpenAI) -> None:
    body = json.dumps({"model": "small", "prompt": ["a"] * 8, "max_tokens": 200, "stream": True}).encode()
    headers = [("Authorization", "Bearer test-key"), ("Content-Type", "application/json")]
    with RawClient(gateway.host, gateway.port, timeout_s=60) as leaving:
        leaving.send(build_request("POST", "/v1/completions", gateway.host, gateway.port, headers=headers, body=body))
        next(leaving.iter_events(leaving.read_head()))

    assert complete(client, max_tokens=2, timeout=20).choices[0].text


def test_a_model_for_chats_alone_does_not_complete(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        client.completions.create(model="chats", prompt="a")


# Counts of tokens

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Übergrößenträger 你好 🙂 " * 5}], "system": "Be brief."},
        {"messages": [{"role": "user", "content": "Hi"}], "tools": [WEATHER]},
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [WEATHER],
            "tool_choice": {"type": "tool", "name": "get_weather"},
        },
    ],
    ids=["short", "other scripts", "a tool", "a forced tool"],
)
def test_tokens_of_a_message_are_counted_as_the_answer_counts_them(
    claude: anthropic.Anthropic, fields: dict[str, Any]
) -> None:
    raw = claude.messages.with_raw_response.count_tokens(model="small", **fields)

    used = claude.messages.create(model="small", max_tokens=2, **fields).usage
    assert raw.parse().input_tokens == used.input_tokens + used.cache_read_input_tokens
    assert "estimated" not in raw.headers.get("x-gateway-warnings", "")


def test_tokens_of_a_response_are_counted_as_the_answer_counts_them(client: OpenAI) -> None:
    asked: Any = {"model": "small", "input": "Hello there, who are you?", "instructions": "Be brief."}

    raw = client.responses.input_tokens.with_raw_response.count(**asked)

    used = client.responses.create(**asked, max_output_tokens=16).usage
    assert used is not None
    assert raw.parse().input_tokens == used.input_tokens
    assert "estimated" not in raw.headers.get("x-gateway-warnings", "")


def test_tokens_of_what_the_model_cannot_read_are_estimated(claude: anthropic.Anthropic) -> None:
    image: Any = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    messages: Any = [{"role": "user", "content": [image]}]

    raw = claude.messages.with_raw_response.count_tokens(model="small", messages=messages)

    assert raw.parse().input_tokens > 100
    assert raw.headers["x-gateway-warnings"] == "input_tokens: estimated"


def test_counts_need_no_slot(client: OpenAI, claude: anthropic.Anthropic) -> None:
    busy: Any = {"model": "small", "prompt": ["Once"] * 4, "max_tokens": 200, "stream": True}
    with client.completions.create(**busy) as stream:
        next(iter(stream))
        counted = claude.messages.count_tokens(model="small", messages=[{"role": "user", "content": "Hi"}], timeout=5)

    assert counted.input_tokens > 5


def test_the_list_says_what_models_are_for(client: OpenAI) -> None:
    kinds = {entry.id: entry.to_dict()["kinds"] for entry in client.models.list()}

    assert kinds == {"small": ["chat", "completion"], "chats": ["chat"], "ranks": ["rerank"]}


# Ranking


def rank(gateway: Gateway, **fields: Any) -> tuple[int, Any]:
    """Status and body of an answer, whose line is in the log."""
    body = json.dumps({"model": "ranks", "query": "a pet", "documents": ["a dog", "taxes"], **fields}).encode()
    headers = [("Authorization", "Bearer test-key"), ("Content-Type", "application/json")]
    with RawClient(gateway.host, gateway.port, timeout_s=60) as client:
        client.send(build_request("POST", "/v1/rerank", gateway.host, gateway.port, headers=headers, body=body))
        answer = client.read_response()
    gateway.wait_for_log(answer.headers.first("x-request-id") or "no id")
    return answer.status, json.loads(answer.body)


def test_documents_are_ranked(gateway: Gateway) -> None:
    status, answer = rank(gateway, documents=[f"document number {number}" for number in range(20)], top_n=5)

    scores = [result["relevance_score"] for result in answer["results"]]
    assert (status, answer["model"], len(scores)) == (200, "ranks", 5)
    assert scores == sorted(scores, reverse=True)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 20


def test_every_document_comes_back_once_with_its_own_place(gateway: Gateway) -> None:
    documents: Any = [{"text": f"document number {number}", "id": number} for number in range(20)]

    _, answer = rank(gateway, documents=documents, return_documents=True)

    assert sorted(result["index"] for result in answer["results"]) == list(range(20))
    assert all(result["document"]["id"] == result["index"] for result in answer["results"])


def test_what_was_ranked_is_in_the_log(gateway: Gateway) -> None:
    rank(gateway, documents=["one", "two", "three"])

    record = gateway.call_records()[-1]
    assert (record["deployment"], record["units"], record["unit"]) == ("local/ranks", 3, "documents")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 1]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0]"),
        ({"documents": ["word " * CONTEXT * 2]}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_ranked_is_refused(gateway: Gateway, fields: dict[str, Any], param: str) -> None:
    status, answer = rank(gateway, **fields)

    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("model", ["small", "chats"])
def test_a_model_that_answers_does_not_rank(gateway: Gateway, model: str) -> None:
    status, answer = rank(gateway, model=model)

    assert (status, answer["error"]["code"]) == (400, "model_not_supported")
    assert "/v1/chat/completions" in answer["error"]["message"]
