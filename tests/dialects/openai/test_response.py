"""A whole answer of any OpenAI-compatible server looks as OpenAI's own does."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import ErrorPayload, Identity, InvalidAnswer, normalise

OURS = Identity("chatcmpl-ours", 1_700_000_000, "asked-for")
CALL: JSONObject = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def answer(message: JSONObject | None = None, finish: Any = "stop", **fields: Any) -> JSONObject:
    """An answer with one choice."""
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hi"}, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_750_000_000, "model": "m"}
    return {**head, "choices": [choice], **fields}


def message_of(message: JSONObject) -> JSONObject:
    """What becomes of a message."""
    mended: JSONObject = normalise(answer(message), OURS)["choices"][0]["message"]
    return mended


def finish_of(finish: Any, message: JSONObject | None = None) -> Any:
    """What becomes of a finish reason."""
    return normalise(answer(message, finish), OURS)["choices"][0]["finish_reason"]


def arguments_of(arguments: Any) -> Any:
    """What becomes of a tool call's arguments."""
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return message_of({"content": None, "tool_calls": calls})["tool_calls"][0]["function"]["arguments"]


def test_an_answer_of_openais_passes_unchanged() -> None:
    raw = (
        '{"id":"chatcmpl-1","object":"chat.completion","created":1750000000,"model":"gpt-x","choices":[{"index":0,'
        '"message":{"role":"assistant","content":"Hi 😀","refusal":null,"annotations":[]},"logprobs":null,'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,'
        '"prompt_tokens_details":{"cached_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}'
    ).encode()

    assert json.encode(normalise(json.decode_object(raw), OURS)) == raw


def test_unknown_fields_survive_at_every_depth() -> None:
    upstream = answer({"content": "x", "x_message": [1.0]}, x_answer={"a": 1.0}, usage={"cost": 0.5})
    upstream["choices"][0]["x_choice"] = {"native_finish_reason": "STOP"}

    mended = normalise(upstream, OURS)

    assert mended["x_answer"] == {"a": 1.0}
    assert mended["usage"] == {"cost": 0.5}
    assert mended["choices"][0]["x_choice"] == {"native_finish_reason": "STOP"}
    assert mended["choices"][0]["message"]["x_message"] == [1.0]


def test_a_bare_answer_is_filled_up() -> None:
    mended = normalise({"choices": [{"message": {"content": "Hi"}}]}, OURS)

    assert mended == {
        "id": "chatcmpl-ours",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "asked-for",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


@pytest.mark.parametrize(
    ("field", "wrong", "expected"),
    [
        ("id", "", "chatcmpl-ours"),
        ("id", None, "chatcmpl-ours"),
        ("id", 7, "chatcmpl-ours"),
        ("object", "text_completion", "chat.completion"),
        ("object", "", "chat.completion"),
        ("created", "2025-01-01", 1_700_000_000),
        ("created", 1.5, 1_700_000_000),
        ("created", 0, 1_700_000_000),
        ("created", None, 1_700_000_000),
        ("model", "", "asked-for"),
        ("model", None, "asked-for"),
    ],
)
def test_an_unusable_field_is_replaced(field: str, wrong: Any, expected: Any) -> None:
    assert normalise(answer(**{field: wrong}), OURS)[field] == expected


def test_choices_without_an_index_are_counted() -> None:
    choices = [{"message": {"content": "a"}}, {"message": {"content": "b"}, "index": None}, {"message": {}, "index": 2}]

    mended = normalise(answer(choices=choices), OURS)

    assert [choice["index"] for choice in mended["choices"]] == [0, 1, 2]


def test_choices_with_an_index_keep_it() -> None:
    choices = [{"message": {"content": "b"}, "index": 1}, {"message": {"content": "a"}, "index": 0}]

    assert [choice["index"] for choice in normalise(answer(choices=choices), OURS)["choices"]] == [1, 0]


def test_the_mended_answer_satisfies_the_official_types() -> None:
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}]

    mended = normalise({"choices": [{"message": {"tool_calls": calls, "reasoning": "why"}}]}, OURS)

    assert ChatCompletion.model_validate(mended, strict=True).choices[0].finish_reason == "tool_calls"


# Messages


@pytest.mark.parametrize("role", [None, "", "user", "model", 1])
def test_the_role_is_assistant(role: Any) -> None:
    assert message_of({"role": role, "content": "x"})["role"] == "assistant"


def test_content_and_refusal_are_always_there() -> None:
    assert message_of({"tool_calls": [CALL]}) == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [CALL],
    }


@pytest.mark.parametrize("calls", [[], None, {}, "", 0])
def test_no_tool_calls_means_no_key(calls: Any) -> None:
    assert "tool_calls" not in message_of({"content": "x", "tool_calls": calls})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"reasoning": "why"}, {"reasoning_content": "why"}),
        ({"reasoning_content": "why"}, {"reasoning_content": "why"}),
        ({"reasoning": "why", "reasoning_content": "why"}, {"reasoning_content": "why"}),
    ],
)
def test_reasoning_has_one_name(given: JSONObject, expected: JSONObject) -> None:
    mended = message_of({"content": None, **given})

    assert {key: mended[key] for key in mended if key.startswith("reasoning")} == expected
    assert mended["content"] is None


# Tool calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a":1}', '{"a":1}'),
        ('{"broken', '{"broken'),
        ({"a": [1, 1.0], "ä": "😀"}, '{"a":[1,1.0],"ä":"😀"}'),
        ([1], "[1]"),
        ({}, "{}"),
        ("", "{}"),
        (None, "{}"),
    ],
)
def test_arguments_are_json_text(arguments: Any, expected: str) -> None:
    assert arguments_of(arguments) == expected


def test_a_tool_call_has_no_index_and_every_field_it_needs() -> None:
    calls = [{"index": 3, "id": "a", "function": {"name": "f"}, "x": 1.0}, {"index": 4, **CALL}]

    assert message_of({"tool_calls": calls})["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, "x": 1.0},
        CALL,
    ]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_a_tool_call_without_an_id_gets_one_of_its_own(missing: JSONObject) -> None:
    calls = [{**missing, "function": {"name": "f", "arguments": "{}"}} for _ in range(2)]

    first, second = message_of({"tool_calls": calls})["tool_calls"]

    assert first["id"] != second["id"]
    assert all(isinstance(call["id"], str) and call["id"].startswith("call_") for call in (first, second))


def test_a_custom_tool_call_passes() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "f", "input": "not json"}}

    assert message_of({"tool_calls": [call]})["tool_calls"] == [call]


# Finish reasons


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "function_call"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("", "stop"),
        (None, "stop"),
        (7, "stop"),
    ],
)
def test_a_finish_reason_is_one_of_openais(reason: Any, expected: str) -> None:
    assert finish_of(reason) == expected


@pytest.mark.parametrize("reason", ["stop", "eos", "end_turn", "tool_calls", "", None])
def test_an_answer_that_calls_tools_says_so(reason: Any) -> None:
    assert finish_of(reason, {"content": "Let me see.", "tool_calls": [dict(CALL)]}) == "tool_calls"


@pytest.mark.parametrize("reason", ["length", "max_tokens"])
def test_a_cut_tool_call_stays_cut(reason: str) -> None:
    assert finish_of(reason, {"tool_calls": [dict(CALL)]}) == "length"


def test_an_empty_list_of_tool_calls_is_no_tool_call() -> None:
    assert finish_of("stop", {"content": "x", "tool_calls": []}) == "stop"


# What is no answer


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "no", "code": 503}},
        {"error": "no"},
        {"object": "error", "message": "no", "code": 40303},
        {**answer(), "error": {"message": "no"}},
    ],
)
def test_an_error_in_place_of_an_answer_is_one(payload: JSONObject) -> None:
    with pytest.raises(ErrorPayload) as caught:
        normalise(payload, OURS)

    assert caught.value.payload is payload


@pytest.mark.parametrize("nothing", [None, {}, "", False])
def test_an_error_field_that_says_nothing_is_none(nothing: Any) -> None:
    assert normalise(answer(error=nothing), OURS)["choices"]


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"detail": "not found"},
        {"choices": None},
        {"choices": []},
        {"choices": {}},
        {"choices": "x"},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"tool_calls": ["f"]}}]},
        {"choices": [{"delta": {"content": "x"}}], "object": "chat.completion.chunk"},
    ],
)
def test_what_is_no_answer_is_refused(payload: JSONObject) -> None:
    with pytest.raises(InvalidAnswer):
        normalise(payload, OURS)
