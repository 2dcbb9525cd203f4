"""Counts of tokens, in every shape that servers report them in, as OpenAI counts."""

from typing import Any

import pytest

from one_api.contract import Usage
from one_api.dialects import json, usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.embeddings import RawAnswer
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.openai.text_completion import TextStream
from one_api.dialects.openai.text_completion import read_answer as read_text
from one_api.dialects.sse import Event
from tests.dialects.recorded import OURS, chunk, read_answer, stream, translate
from tests.dialects.recorded import usage as counts

NINE = counts(9, 3)
CACHED = counts(9, 3, prompt_tokens_details={"cached_tokens": 4})
#: What an answer holds beside its choices, and what of it counts.
REPORTS: dict[str, tuple[JSONObject, JSONObject]] = {
    "a list": ({"usage": [NINE]}, NINE),
    "a list of several": ({"usage": [counts(9, 1), NINE]}, NINE),
    "usage in usage": ({"usage": {"usage": NINE}}, NINE),
    "Groq": ({"x_groq": {"id": "r", "usage": NINE}}, NINE),
    "in meta": ({"meta": {"usage": NINE}}, NINE),
    "in stats": ({"stats": {"usage": NINE, "tokens_per_second": 51.4}}, NINE),
    "in metadata": ({"metadata": {"usage": {"inputTokens": 9, "outputTokens": 3}}}, NINE),
    "Cohere's meta": ({"meta": {"billed_units": {}, "tokens": {"input_tokens": 9, "output_tokens": 3}}}, NINE),
    "stats of tokens": ({"stats": {"prompt_tokens": 9, "completion_tokens": 3}}, NINE),
    "another name in Groq's": ({"x_groq": {"token_usage": NINE}}, NINE),
    "timings": ({"timings": {"prompt_n": 9, "predicted_n": 3, "prompt_ms": 3.2}}, NINE),
    "timings with a cache": ({"timings": {"prompt_n": 5, "cache_n": 4, "predicted_n": 3}}, NINE),
    "timings beside usage": ({"usage": NINE, "timings": {"prompt_n": 1, "cache_n": 8, "predicted_n": 3}}, NINE),
    "camel case": ({"usage": {"promptTokens": 9, "completionTokens": 3}}, NINE),
    "Bedrock": ({"usage": {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12}}, NINE),
    "Cohere": ({"usage": {"billed_units": {}, "tokens": {"input_tokens": 9, "output_tokens": 3}}}, NINE),
    "another name": ({"token_usage": NINE}, NINE),
    "a total alone": ({"usage": {"total_tokens": 12}}, counts(12, 0)),
    "a total that is too small": ({"usage": {**NINE, "total_tokens": 2}}, NINE),
    "details of Responses": (
        {"usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}}, CACHED
    ),
    "details in camel case": (
        {"usage": {"promptTokens": 9, "completionTokens": 3, "promptTokensDetails": {"cachedTokens": 4}}}, CACHED
    ),
    "DeepSeek": (
        {"usage": {**NINE, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5}},
        {**CACHED, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
    ),
    "Moonshot": ({"usage": {**NINE, "cached_tokens": 4}}, {**CACHED, "cached_tokens": 4}),
    "Claude's names": (
        {"usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 3}},
        {**CACHED, "cache_read_input_tokens": 4},
    ),
    "a cache beside the prompt": (
        {"usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 12,
                   "prompt_tokens_details": {"cached_tokens": 8}}},
        counts(9, 3, prompt_tokens_details={"cached_tokens": 8}),
    ),
    "more cached than there is": (
        {"usage": {"prompt_tokens": 1, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}},
        counts(1, 3, prompt_tokens_details={"cached_tokens": 8}),
    ),
    "xAI": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 42,
                   "completion_tokens_details": {"reasoning_tokens": 30}}},
        counts(9, 33, completion_tokens_details={"reasoning_tokens": 30}),
    ),
    "xAI without a total": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 30}}},
        counts(9, 33, completion_tokens_details={"reasoning_tokens": 30}),
    ),
    "Gemini's compatible API": ({"usage": {**NINE, "total_tokens": 42}}, counts(9, 33)),
    "Gemini": (
        {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 30,
                           "totalTokenCount": 42}},
        counts(9, 33, completion_tokens_details={"reasoning_tokens": 30}) | {"thoughtsTokenCount": 30},
    ),
}  # fmt: skip


@pytest.mark.parametrize("report", list(REPORTS.values()), ids=list(REPORTS))
def test_counts_are_read_in_any_shape(report: tuple[JSONObject, JSONObject]) -> None:
    beside, expected = report
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}

    whole = read_answer(json.encode({"choices": [choice], **beside}), OURS)
    streamed = [
        translate(stream(chunk({"content": "Hi"}), *events))
        for events in ([chunk({}, "stop", **beside)], [chunk({}, "stop"), {"choices": [], **beside}])
    ]

    assert [whole["usage"], *(each.usage for each in streamed)] == [expected] * 3


@pytest.mark.parametrize("nothing", [{}, [], [{}], None, "?", {"prompt_tokens": None}])
def test_what_counts_nothing_is_no_usage(nothing: Any) -> None:
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}

    whole = read_answer(json.encode({"choices": [choice], "usage": nothing}), OURS)
    streamed = translate(stream(chunk({"content": "Hi"}), chunk({}, "stop", usage=nothing)))

    beside = translate(stream(chunk({"content": "Hi"}), chunk({}, "stop"), {"choices": [], "usage": nothing}))

    assert not whole.get("usage")
    assert not streamed.usage
    assert len(streamed.chunks) == len(beside.chunks) == 2


BESIDE: list[JSONObject] = [{"meta": {"usage": NINE}}, {"usage": None, "x_groq": {"usage": NINE}}, {"stats": NINE}]


@pytest.mark.parametrize("beside", BESIDE)
def test_counts_are_read_of_completions_and_embeddings_too(beside: JSONObject) -> None:
    said: JSONObject = {"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}
    streamed = TextStream(OURS, include_usage=True)
    streamed.feed(Event(json.encode(said)))
    streamed.feed(Event(json.encode({"choices": [], **beside})))
    vectors: JSONObject = {"data": [{"index": 0, "embedding": [1]}], **beside}

    assert read_text(json.encode({**said, **beside}), OURS)["usage"] == NINE
    assert streamed.usage == NINE
    assert RawAnswer.read(json.encode(vectors), 1).usage == Usage(9, 3)


def test_two_reports_that_complete_each_other_have_one_total() -> None:
    first = usage.merge(None, {"input_tokens": 5, "cache_read_input_tokens": 4})

    assert usage.merge(first, {"output_tokens": 3})["total_tokens"] == 12


LATE = {"choices": [], "usage": NINE}


def test_usage_after_the_end_mark_counts() -> None:
    raw = stream(chunk({"content": "Hi"}), chunk({}, "stop")) + stream(LATE)

    streamed, whole = translate(raw), read_answer(raw, OURS)

    assert (streamed.usage, streamed.chunks[-1]["usage"], whole["usage"]) == (NINE, NINE, NINE)
    assert streamed.finished


def test_what_comes_beside_usage_is_in_the_last_chunk() -> None:
    raw = stream(chunk({"content": "Hi"}), chunk({}, "stop"), {**LATE, "timings": {"predicted_n": 3}})

    asked, unasked = translate(raw), translate(raw, include_usage=False)

    assert (asked.chunks[-1]["usage"], asked.chunks[-1]["timings"]) == (NINE, {"predicted_n": 3})
    assert (unasked.chunks[-1]["choices"][0]["finish_reason"], unasked.chunks[-1]["timings"]) == (
        "stop", {"predicted_n": 3}
    )  # fmt: skip
    assert "usage" not in unasked.chunks[-1]


def test_what_is_not_for_clients_is_not_beside_usage_either() -> None:
    reader = OpenAIStream(OURS, include_usage=True, drop=frozenset({"timings"}))
    payloads = [chunk({"content": "Hi"}), chunk({}, "stop"), {**LATE, "timings": {"predicted_n": 3}}]
    for each in payloads:
        reader.feed(Event(json.encode(each)))

    assert "timings" not in reader.end()[-1]
