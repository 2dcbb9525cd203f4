"""A whole answer told as a stream, and put together again."""

import copy
from typing import Any

import pytest

from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.split import chunks_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALL = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CUSTOM = {"id": "c1", "type": "custom", "custom": {"name": "g", "input": "x"}}


def completion(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A completion with these choices."""
    head = {"id": "chatcmpl-1", "created": 7, "model": "m", "object": "chat.completion"}
    return {**head, "choices": list(choices), **more}


def choice(index: int = 0, finish: str = "stop", logprobs: Any = None, **message: Any) -> dict[str, Any]:
    """One choice; a message says nothing unless it is told."""
    whole = {"role": "assistant", "content": None, "refusal": None, **message}
    return {"index": index, "message": whole, "logprobs": logprobs, "finish_reason": finish}


LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.5}], "refusal": None}
ANSWERS = {
    "text": completion(choice(content="Hi"), usage=USAGE),
    "no usage": completion(choice(content="Hi")),
    "two choices": completion(choice(0, content="a"), choice(1, "length", content="b"), usage=USAGE),
    "reasoning": completion(choice(content="4", reasoning_content="2+2"), usage=USAGE),
    "logprobs": completion(choice(content="Hi", logprobs=LOGPROBS), usage=USAGE),
    "refusal": completion(choice(refusal="No."), usage=USAGE),
    "logprobs of a refusal": completion(choice(refusal="No.", logprobs=LOGPROBS), usage=USAGE),
    "logprobs of calls": completion(choice(finish="tool_calls", tool_calls=[CALL], logprobs=LOGPROBS)),
    "the upstream's word": completion(choice(content="Hi") | {"native_finish_reason": "end_turn"}, usage=USAGE),
    "calls": completion(choice(finish="tool_calls", tool_calls=[CALL, CUSTOM]), usage=USAGE),
    "text and calls": completion(choice(finish="tool_calls", content="Look:", tool_calls=[CALL]), usage=USAGE),
    "head": completion(choice(content="Hi"), usage=USAGE, system_fingerprint="fp", provider="p"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_replay_amounts_to_the_same_answer(name: str) -> None:
    whole = ANSWERS[name]
    before = copy.deepcopy(whole)
    assembler = Assembler()
    for chunk in chunks_of(whole, include_usage=True):
        assembler.add(chunk)
    assert assembler.completion() == whole == before


def test_a_replay_is_a_stream_in_proper_order() -> None:
    chunks = chunks_of(ANSWERS["text"], include_usage=True)
    assert [chunk["choices"] and chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hi"},
        {},
        [],
    ]
    assert [chunk["usage"] for chunk in chunks] == [None, None, None, USAGE]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:3]] == [None, None, "stop"]
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl-1", 7, "m", "chat.completion.chunk")
    }


def test_usage_is_told_only_to_those_who_ask() -> None:
    assert all("usage" not in chunk for chunk in chunks_of(ANSWERS["text"], include_usage=False))
    assert all("usage" not in chunk for chunk in chunks_of(ANSWERS["no usage"], include_usage=True))


def test_calls_are_opened_as_clients_read_them() -> None:
    opening, calls, finish = chunks_of(ANSWERS["calls"], include_usage=False)
    assert opening["choices"][0]["delta"]["content"] is None
    assert calls["choices"][0]["delta"] == {"tool_calls": [{"index": 0, **CALL}, {"index": 1, **CUSTOM}]}
    assert finish["choices"][0]["finish_reason"] == "tool_calls"


def test_what_we_do_not_know_of_a_message_is_told_too() -> None:
    chunks = chunks_of(completion(choice(content="Hi", annotations=[{"type": "url_citation"}])), include_usage=False)
    assert chunks[2]["choices"][0]["delta"] == {"annotations": [{"type": "url_citation"}]}


def test_what_we_do_not_know_of_a_choice_is_told_at_its_end() -> None:
    found = choice(content="Hi") | {"native_finish_reason": "end_turn", "content_filter_results": {"hate": {}}}
    *others, last = chunks_of(completion(found), include_usage=False)
    assert last["choices"] == [
        {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": "stop",
            "native_finish_reason": "end_turn",
            "content_filter_results": {"hate": {}},
        }
    ]
    assert all(set(each["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"} for each in others)
