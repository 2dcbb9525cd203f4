"""Loose annotations and probabilities, as strict clients read them: OpenAI's own, and schemas like the AI SDK's."""

import copy
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from tests.dialects.recorded import OURS, chunk, read_answer, stream, translate

COUNTS: JSONObject = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
CITED: JSONObject = {"url": "https://a.x", "title": "", "start_index": 0, "end_index": 0}
STRICT: list[JSONObject] = [{"type": "url_citation", "url_citation": CITED}]
TITLED: list[JSONObject] = [{"type": "url_citation", "url_citation": {**CITED, "title": "A", "end_index": 4}}]
ANNOTATIONS: dict[str, tuple[Any, list[JSONObject]]] = {
    "an address": (["https://a.x"], STRICT),
    "an address for one": ([{"type": "url_citation", "url_citation": "https://a.x"}], STRICT),
    "nulls": ([{"type": "url_citation", "url_citation": {**dict.fromkeys(CITED), "url": "https://a.x"}}], STRICT),
    "only an address": ([{"type": "url_citation", "url_citation": {"url": "https://a.x"}}], STRICT),
    "flat": ([{"type": "url_citation", "url": "https://a.x", "title": "A", "end_index": 4}], TITLED),
    "without a type": ([{"url": "https://a.x", "title": "A", "end_index": "4"}], TITLED),
    "one": ({"type": "url_citation", "url_citation": {"url": "https://a.x", "title": "A", "end_index": 4.0}}, TITLED),
    "as it should be": (TITLED, TITLED),
    "nothing among them": ([None, 5, *TITLED], TITLED),
}


def answers(beside: JSONObject, at: str) -> list[JSONObject]:
    """The choice of a whole answer, and that of a stream, both as clients get them."""
    said: JSONObject = {"content": "Hi", **({} if at == "choice" else copy.deepcopy(beside))}
    choice: JSONObject = {"index": 0, **(copy.deepcopy(beside) if at == "choice" else {})}
    whole = json.encode({"choices": [{**choice, "message": said, "finish_reason": "stop"}]})
    piece = chunk({}) | {"choices": [{**choice, "delta": copy.deepcopy(said), "finish_reason": None}]}
    answered, streamed = read_answer(whole, OURS), translate(stream(piece, chunk({}, "stop"))).chunks
    ChatCompletion.model_validate(answered, strict=True)
    for each in streamed:
        ChatCompletionChunk.model_validate(each, strict=True)
    pieces = [choice for each in streamed for choice in each["choices"]]
    told = next(each for each in pieces if each["delta"].get("content"))
    return [answered["choices"][0], {**told, "message": told["delta"]}]


@pytest.mark.parametrize(("given", "expected"), list(ANNOTATIONS.values()), ids=list(ANNOTATIONS))
def test_citations_have_what_belongs_to_one(given: Any, expected: list[JSONObject]) -> None:
    for choice in answers({"annotations": given}, "message"):
        assert choice["message"]["annotations"] == expected


def test_what_is_beside_a_citation_stays() -> None:
    given = [{"type": "url_citation", "x": 1, "url_citation": {**CITED, "content": "Words"}}]

    for choice in answers({"annotations": given}, "message"):
        assert choice["message"]["annotations"] == given


A: JSONObject = {"token": "a", "logprob": -0.5, "top_logprobs": []}
TOP: JSONObject = {**A, "top_logprobs": [{"token": "b", "logprob": -2.0}]}
UNKNOWN: JSONObject = {**A, "logprob": -9999.0}
LOGPROBS: dict[str, tuple[Any, list[JSONObject] | None]] = {
    "no top": ({"content": [{"token": "a", "logprob": -0.5}]}, [A]),
    "null for top": ({"content": [{**A, "top_logprobs": None}]}, [A]),
    "an object for top": ({"content": [{**A, "top_logprobs": {"b": -2.0}}]}, [TOP]),
    "a list alone": ([TOP], [TOP]),
    "null for a number": ({"content": [{**A, "logprob": None}]}, [UNKNOWN]),
    "no number": ({"content": [{"token": "a"}]}, [UNKNOWN]),
    "a text for bytes": ({"content": [{**A, "bytes": "a"}]}, [{**A, "bytes": None}]),
    "a number for a token": ({"content": [{**A, "token": 7}]}, [{**A, "token": "7"}]),
    "as legacy completions": (
        {"tokens": ["a", "a"], "token_logprobs": [-0.5, None], "top_logprobs": [{"b": -2.0}, None]}, [TOP, UNKNOWN]
    ),
    "numbers": ([-0.5], []),
    "nothing": ({}, None),
    "a text": ("-0.5", None),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), list(LOGPROBS.values()), ids=list(LOGPROBS))
def test_probabilities_have_what_belongs_to_one(given: Any, expected: list[JSONObject] | None) -> None:
    for choice in answers({"logprobs": given}, "choice"):
        found = choice["logprobs"]
        assert (found and found["content"]) == expected


ODD: dict[str, JSONObject] = {
    "a refusal that is none": {"refusal": False},
    "an empty refusal": {"refusal": {}},
    "a refusal in parts": {"refusal": [{"text": "No"}]},
    "a refusal as an object": {"refusal": {"reason": "No"}},
    "no annotations": {"annotations": {}},
    "a type of its own": {"tool_calls": [{"id": "c", "type": "tool", "function": {"name": "f", "arguments": {}}}]},
    "a number for a type": {"tool_calls": [{"id": 5, "type": 3, "function": {"name": "f", "arguments": None}}]},
}


@pytest.mark.parametrize("said", list(ODD.values()), ids=list(ODD))
def test_a_message_with_odd_values_is_one_of_openais(said: JSONObject) -> None:
    for choice in answers(said, "message"):
        assert choice["message"]["content"] == "Hi"
        assert bool(choice["message"].get("refusal")) == bool(said.get("refusal"))


def test_a_call_of_a_custom_tool_without_input_is_one_of_openais() -> None:
    """Of a whole answer: OpenAI's own types know no such call in a stream."""
    said = {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": None}}]}
    answer = read_answer(json.encode({"choices": [{"message": said, "finish_reason": "tool_calls"}]}), OURS)

    ChatCompletion.model_validate(answer, strict=True)
    assert answer["choices"][0]["message"]["tool_calls"][0]["custom"] == {"name": "g", "input": ""}


BESIDE: dict[str, JSONObject] = {
    "numbers for texts": {"system_fingerprint": 7, "service_tier": 5},
    "texts for counts": {"usage": {**COUNTS, "prompt_tokens_details": {"cached_tokens": "4"}}},
    "half a token": {"usage": {**COUNTS, "prompt_tokens_details": {"audio_tokens": 1.5}}},
    "a list of no details": {"usage": {**COUNTS, "completion_tokens_details": []}},
    "a number for details": {"usage": {**COUNTS, "completion_tokens_details": 3}},
}


@pytest.mark.parametrize("beside", list(BESIDE.values()), ids=list(BESIDE))
def test_an_answer_with_odd_values_is_one_of_openais(beside: JSONObject) -> None:
    whole = json.encode({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], **beside})
    chunks = translate(stream(chunk({"content": "H"}, **beside), chunk({"content": "i"}, **beside), chunk({}, "stop")))

    ChatCompletion.model_validate(read_answer(whole, OURS), strict=True)
    for each in chunks.chunks:
        ChatCompletionChunk.model_validate(each, strict=True)
