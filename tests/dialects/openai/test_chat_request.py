"""What a chat request must be, and what it may be: the rows of OpenAI's behaviour that every adapter relies on."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.contract import Usage
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import PART_TYPES, ChatRequest
from one_api.errors import InvalidRequest
from tests.support.examples import examples

USER: JSONObject = {"role": "user", "content": "Hi"}
WRITTEN = json.decode_object(b'{"model": 1.50, "messages": [{"role": "user", "content": "Hi"}]}', as_written=True)
CALL: JSONObject = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING: JSONObject = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: JSONObject = {"role": "tool", "tool_call_id": "call_1", "content": "42"}


def talk(*messages: Any, **fields: Any) -> JSONObject:
    """A request for these messages."""
    return {"model": "m", "messages": list(messages), **fields}


def calling(*ids: str) -> JSONObject:
    """An assistant message that calls tools."""
    return {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": call_id} for call_id in ids]}


def result(call_id: Any) -> JSONObject:
    """The answer of a tool."""
    return {**RESULT, "tool_call_id": call_id}


def parts(*content: Any) -> JSONObject:
    """A message of the user's that is made of parts."""
    return {"role": "user", "content": list(content)}


def refused(body: JSONObject) -> InvalidRequest:
    """The error that a request meets."""
    with pytest.raises(InvalidRequest) as caught:
        ChatRequest.read(body)
    return caught.value


MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"

#: What is wrong -> the request, the error's param, its code, and what its message must say.
REFUSED: dict[str, tuple[JSONObject, str | None, str | None, str]] = {
    "no model": ({"messages": [USER]}, None, None, "model"),
    "model null": (talk(USER, model=None), None, None, "model"),
    "model empty": (talk(USER, model=""), None, None, "model"),
    "model a number as written": (WRITTEN, "model", TYPE, "expected a string, but got a number"),
    "model a number": (talk(USER, model=5), "model", TYPE, "expected a string, but got an integer"),
    "model a list": (talk(USER, model=["m"]), "model", TYPE, "an array"),
    "model false": (talk(USER, model=False), "model", TYPE, "a boolean"),
    "no messages": ({"model": "m"}, "messages", MISSING, "messages"),
    "messages null": (talk(messages=None), "messages", MISSING, "messages"),
    "messages empty": (talk(), "messages", "empty_array", "at least one"),
    "messages a text": (talk(messages="Hi"), "messages", TYPE, "a string"),
    "messages an object": (talk(messages={"0": USER}), "messages", TYPE, "an object"),
    "message null": (talk(USER, None), "messages[1]", TYPE, "null"),
    "message a text": (talk("Hi"), "messages[0]", TYPE, "a string"),
    "no role": (talk({"content": "Hi"}), "messages[0].role", MISSING, "role"),
    "role null": (talk({"role": None, "content": "Hi"}), "messages[0].role", MISSING, "role"),
    "role a number": (talk(USER, {"role": 1, "content": "Hi"}), "messages[1].role", TYPE, "an integer"),
    "unknown role": (talk(USER, {"role": "human", "content": "x"}), "messages[1].role", VALUE, "system, user"),
    "role in capitals": (talk({"role": "User", "content": "x"}), "messages[0].role", VALUE, "'User'"),
    "user without content": (talk({"role": "user"}), "messages[0].content", TYPE, "null"),
    "user with null": (talk({"role": "user", "content": None}), "messages[0].content", TYPE, "null"),
    "system with null": (talk(USER, {"role": "system", "content": None}), "messages[1].content", TYPE, "null"),
    "developer with null": (talk({"role": "developer"}), "messages[0].content", TYPE, "null"),
    "tool with null": (talk(CALLING, {**RESULT, "content": None}), "messages[1].content", TYPE, "null"),
    "content a number": (talk({"role": "user", "content": 5}), "messages[0].content", TYPE, "an integer"),
    "content an object": (talk({"role": "user", "content": {"text": "x"}}), "messages[0].content", TYPE, "an object"),
    "content false": (talk({"role": "assistant", "content": False}), "messages[0].content", TYPE, "a boolean"),
    "part a text": (talk(parts("x")), "messages[0].content[0]", TYPE, "a string"),
    "part without type": (talk(parts({"text": "x"})), "messages[0].content[0].type", VALUE, "null"),
    "unknown part": (talk(parts({"type": "text"}, {"type": "image"})), "messages[0].content[1].type", VALUE, "file"),
    "part type a list": (talk(parts({"type": []})), "messages[0].content[0].type", VALUE, "array"),
    "result of no call": (talk(USER, RESULT), "messages.[1].role", None, "preceding"),
    "result first": (talk(RESULT), "messages.[0].role", None, "preceding"),
    "result of another call": (talk(CALLING, result("call_2")), "messages.[1].role", None, "preceding"),
    "result after the next turn": (talk(CALLING, RESULT, USER, RESULT), "messages.[3].role", None, "preceding"),
    "result of an older turn": (talk(CALLING, RESULT, calling("b"), RESULT), "messages.[3].role", None, "preceding"),
    "call not answered": (talk(USER, CALLING, USER), "messages.[1].role", None, "call_1"),
    "call not answered at the end": (talk(USER, CALLING), "messages.[1].role", None, "call_1"),
    "one of two not answered": (talk(calling("a", "b"), result("a"), USER), "messages.[0].role", None, "Unanswered: b"),
    "call not answered in time": (talk(CALLING, calling("b"), result("b")), "messages.[0].role", None, "call_1"),
    "no tool_call_id": (talk(CALLING, {"role": "tool", "content": "x"}), "messages[1].tool_call_id", MISSING, "_id"),
    "tool_call_id null": (talk(CALLING, result(None)), "messages[1].tool_call_id", MISSING, "_id"),
    "tool_call_id a number": (talk(CALLING, result(1)), "messages[1].tool_call_id", TYPE, "an integer"),
    "stream a text": (talk(USER, stream="true"), "stream", TYPE, "expected a boolean"),
    "stream a number": (talk(USER, stream=1), "stream", TYPE, "an integer"),
    "options without stream": (talk(USER, stream_options={}), "stream_options", None, "stream: true"),
    "options with stream off": (talk(USER, stream=False, stream_options={}), "stream_options", None, "stream: true"),
    "options a list": (talk(USER, stream=True, stream_options=[]), "stream_options", TYPE, "an array"),
    "include_usage a text": (
        talk(USER, stream=True, stream_options={"include_usage": ""}), "stream_options.include_usage", TYPE, "a string",
    ),
    "tools an object": (talk(USER, tools={}), "tools", TYPE, "an object"),
    "choice without tools": (talk(USER, tool_choice="auto"), "tool_choice", None, "tools"),
    "choice with no tools": (talk(USER, tools=[], tool_choice="required"), "tool_choice", None, "tools"),
    "choice with null tools": (talk(USER, tools=None, tool_choice="none"), "tool_choice", None, "tools"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_wrong_is_refused_by_name(wrong: str) -> None:
    body, param, code, says = REFUSED[wrong]

    error = refused(body)

    assert (error.status, error.type, error.param, error.code) == (400, "invalid_request_error", param, code)
    assert says in error.message


def test_the_first_thing_that_is_wrong_is_named() -> None:
    assert refused(talk(USER, {"role": "x"}, {"role": "y"}, stream=5)).param == "messages[1].role"


def test_a_message_quotes_little_of_what_was_sent() -> None:
    for body in (talk({"role": "x" * 10_000}), talk(calling(*(f"{i}" * 10_000 for i in range(1000))))):
        assert len(refused(body).message) < 5000


# What stays legal


LEGAL: dict[str, JSONObject] = {
    "the least": talk(USER),
    "same role twice": talk(USER, USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}),
    "system anywhere": talk(USER, {"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER),
    "only a system message": talk({"role": "system", "content": "s"}),
    "assistant first and last": talk({"role": "assistant", "content": "a"}, USER, {"role": "assistant", "content": ""}),
    "assistant without content": talk({"role": "assistant"}, USER),
    "empty texts": talk({"role": "user", "content": ""}, CALLING, {**RESULT, "content": ""}),
    "content without parts": talk({"role": "user", "content": []}),
    "arguments that are no JSON": talk(
        {**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"broken'}}]}, RESULT
    ),
    "arguments that are no text": talk({**CALLING, "tool_calls": [{**CALL, "function": {"arguments": {}}}]}, RESULT),
    "results in any order": talk(calling("a", "b", "c"), result("c"), result("a"), result("b"), USER),
    "a result twice": talk(CALLING, RESULT, RESULT),
    "an id used again later": talk(CALLING, RESULT, CALLING, RESULT),
    "content beside tool calls": talk({**CALLING, "content": "Let me see."}, RESULT),
    "no tool calls": talk({"role": "assistant", "content": "a", "tool_calls": []}, USER),
    "tool calls null": talk({"role": "assistant", "content": "a", "tool_calls": None}, USER),
    "a malformed call": talk({"role": "assistant", "content": "a", "tool_calls": ["f", {}, {"id": 5}]}, USER),
    "a custom call": talk({**CALLING, "tool_calls": [{"id": "call_1", "type": "custom", "custom": {}}]}, RESULT),
    "an old function": talk({"role": "assistant", "function_call": {}}, {"role": "function", "content": None}),
    "parts of a tool": talk(CALLING, {**RESULT, "content": [{"type": "text", "text": "x"}]}),
    "parts of a system message": talk({"role": "system", "content": [{"type": "text", "text": "x"}]}),
    "an image as a bare text": talk({"role": "user", "content": [{"type": "image_url", "image_url": "data:,"}]}),
    "nulls": talk(USER, stream=None, stream_options=None, tools=None, tool_choice=None, temperature=None, n=None),
    "tools without a choice": talk(USER, tools=[]),
    "a choice with tools": talk(USER, tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="any"),
    "numbers out of range": talk(USER, temperature=99, n=-1, max_tokens=0, top_p="high", seed=2**70),
    "fields of other servers": talk(USER, top_k=1, extra_body={}, reasoning={}, self=1, messages_=[], stop=[]),
    "both token limits": talk(USER, max_tokens=1, max_completion_tokens=2),
}  # fmt: skip


@pytest.mark.parametrize("oddity", LEGAL)
def test_what_is_legal_passes_untouched(oddity: str) -> None:
    body = LEGAL[oddity]
    before = copy.deepcopy(body)

    assert ChatRequest.read(body).body is body
    assert body == before


@pytest.mark.parametrize("kind", PART_TYPES)
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_every_known_part_type_passes(kind: str, role: str) -> None:
    ChatRequest.read(talk({"role": role, "content": [{"type": kind, "x": 1}]}))


@pytest.mark.parametrize("kind", ["video_url", "input_video", "audio_url", "thinking"])
def test_part_types_of_other_servers_pass(kind: str) -> None:
    assert kind in PART_TYPES


@pytest.mark.parametrize("model", ["gpt-5", "a/b:c@d.e", "../models/x.gguf", " ", "модель", "x" * 10_000])
def test_a_model_may_have_any_name(model: str) -> None:
    assert ChatRequest.read(talk(USER, model=model)).model == model


@pytest.mark.parametrize(
    ("fields", "stream", "include_usage"),
    [
        ({}, False, False),
        ({"stream": None}, False, False),
        ({"stream": False, "stream_options": None}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": None}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": "x"}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
    ],
)
def test_streaming_is_read(fields: JSONObject, stream: bool, include_usage: bool) -> None:
    wanted = ChatRequest.read(talk(USER, **fields))

    assert (wanted.stream, wanted.include_usage) == (stream, include_usage)


KEYS = ["model", "messages", "role", "content", "type", "tool_calls", "tool_call_id", "id", "stream", "stream_options",
        "include_usage", "tools", "tool_choice"]  # fmt: skip
WORDS = st.sampled_from(["user", "assistant", "tool", "system", "text", "a", "b", ""])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=examples(300))
@given(st.dictionaries(st.sampled_from(KEYS), JUNK), JUNK)
def test_any_object_is_a_request_or_refused(body: JSONObject, message: Any) -> None:
    for tried in (body, talk(USER, message, model="m")):
        try:
            ChatRequest.read(tried)
        except InvalidRequest as error:
            assert error.message


# Usage


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        (9, 3, Usage(9, 3)),
        (0, 0, Usage(0, 0)),
        (9.0, 3.7, Usage(9, 3)),
        (-5, 3, Usage(0, 3)),
        (1e308, 10**400, Usage(1_000_000_000, 1_000_000_000)),
        ("12", None, Usage(0, 0)),
        (True, [], Usage(0, 0)),
    ],
)
def test_absurd_token_counts_are_clamped(prompt: Any, completion: Any, expected: Usage) -> None:
    assert Usage.read({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 1}) == expected


@pytest.mark.parametrize("nothing", [None, [], "x", 5, True])
def test_no_usage_is_none(nothing: Any) -> None:
    assert Usage.read(nothing) is None


def test_usage_without_counts_is_none() -> None:
    assert Usage.read({}) is None
