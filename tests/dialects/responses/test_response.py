"""Whole answers as responses."""

from typing import Any

import pytest
from openai.types.responses import Response

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.split import chunks_of
from one_api.dialects.responses.request import Translated
from one_api.dialects.responses.response import whole_response
from tests.support import completion, tokens

from .bed import CUSTOM, FUNCTION, MINE, NAMESPACE, NOW, SEALER, asked, last, written

DETAILED = tokens(9, 4) | {
    "prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}
}  # fmt: skip
SEARCH = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}


def answered(request: Translated, answer: JSONObject, **options: Any) -> JSONObject:
    """The response, valid for the official client."""
    found = whole_response(request, MINE, answer, NOW, **options)
    Response.model_validate(found)
    return found


def called(name: str, arguments: str) -> JSONObject:
    """A tool call of a completion."""
    return {"id": "call_0", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_text_is_one_message() -> None:
    found = answered(asked(), completion("Hello", usage=DETAILED))

    assert list(found)[:8] == [
        "id", "object", "created_at", "status", "completed_at", "error", "incomplete_details", "model"
    ]  # fmt: skip
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    (item,) = found["output"]
    assert item["id"] == "msg_" + "0123456789abcdef" * 2 + "00"
    assert (item["role"], item["content"], item["status"]) == ("assistant", [part], "completed")
    assert found["usage"] == {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 13,
    }  # fmt: skip
    assert (found["status"], found["store"], found["completed_at"]) == ("completed", False, NOW)


@pytest.mark.parametrize(
    ("finish", "refusal", "status", "reason"),
    [
        ("stop", None, "completed", None),
        ("length", None, "incomplete", "max_output_tokens"),
        ("content_filter", None, "incomplete", "content_filter"),
        ("content_filter", "I will not.", "completed", None),
    ],
)
def test_how_an_answer_ended(finish: str, refusal: str | None, status: str, reason: str | None) -> None:
    answer = completion("a" if not refusal else None, finish=finish)
    answer["choices"][0]["message"]["refusal"] = refusal

    found = answered(asked(), answer)

    assert (found["status"], (found["incomplete_details"] or {}).get("reason")) == (status, reason)
    assert found["output"][-1]["status"] == status
    assert found["output"][-1]["content"][-1]["type"] == ("refusal" if refusal else "output_text")


def test_calls_come_back_as_they_were_declared() -> None:
    request = asked(tools=[FUNCTION, CUSTOM, NAMESPACE, SEARCH])
    calls = [
        called("f", '{"a":1}'), called("apply_patch", '{"input":"x\\ny"}'), called("agents__spawn", "{}"),
        called("tool_search", '{"query":"q"}'), called("invented", ""),
    ]  # fmt: skip

    found = answered(request, completion(None, finish="tool_calls", tool_calls=calls))

    f, patch, spawn, search, invented = found["output"]
    assert (f["type"], f["name"], f["arguments"], f["call_id"]) == ("function_call", "f", '{"a":1}', "call_0")
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "x\ny")
    assert (spawn["name"], spawn["namespace"]) == ("spawn", "agents")
    assert (search["type"], search["arguments"]) == ("tool_search_call", {"query": "q"})
    assert (invented["name"], invented["arguments"]) == ("invented", "{}")
    assert "namespace" not in f
    assert [each["id"].partition("_")[0] for each in found["output"]] == ["fc", "ctc", "fc", "tsc", "fc"]


def test_reasoning_is_shown_as_it_was_asked_for() -> None:
    answer = completion("4", reasoning_content="2+2")

    plain, summary = (answered(asked(reasoning=each), answer)["output"][0] for each in ({}, {"summary": "auto"}))

    assert plain["content"] == [{"type": "reasoning_text", "text": "2+2"}]
    assert (plain["summary"], plain["encrypted_content"]) == ([], None)
    assert summary["summary"] == [{"type": "summary_text", "text": "2+2"}]


def test_reasoning_is_sealed_for_the_next_request() -> None:
    block = {"type": "thinking", "thinking": "2+2", "signature": "s"}
    words, claude = completion("4", reasoning_content="2+2"), completion("4", thinking_blocks=[{"index": 0, **block}])

    sealed = [answered(asked(), each, seal=SEALER.seal)["output"][0]["encrypted_content"] for each in (words, claude)]

    assert [SEALER.open(each) for each in sealed] == [{"model": "m", "text": "2+2"}, {"model": "m", "blocks": [block]}]


def test_citations_are_flat() -> None:
    citation = {"start_index": 0, "end_index": 1, "url": "https://a.example", "title": "A"}
    answer = completion("a", annotations=[{"type": "url_citation", "url_citation": citation}])

    found = answered(asked(), answer)

    assert found["output"][0]["content"][0]["annotations"] == [{"type": "url_citation", **citation}]


WHOLE = {
    "text": completion("Hello", usage=DETAILED),
    "nothing": completion(""),
    "reasoning": completion("4", reasoning_content="2+2"),
    "refusal": completion(None, finish="content_filter"),
    "cut": completion("Hel", finish="length"),
    "calls": completion(
        "Look:", finish="tool_calls", tool_calls=[called("f", '{"a":1}'), called("apply_patch", '{"input":"x"}')]
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_and_its_stream_are_the_same_response(name: str) -> None:
    request = asked(tools=[FUNCTION, CUSTOM])
    chunks = chunks_of(WHOLE[name], include_usage=True)
    for chunk in chunks:
        for n, each in enumerate(chunk["choices"][0]["delta"].get("tool_calls", []) if chunk["choices"] else []):
            each["id"] = f"call_{n}"
    for n, each in enumerate(WHOLE[name]["choices"][0]["message"].get("tool_calls", [])):
        each["id"] = f"call_{n}"

    streamed = last(written(request, chunks))

    assert answered(request, WHOLE[name]) == streamed | {"tools": request.echo["tools"]}
