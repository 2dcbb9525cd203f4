"""A request reaches an OpenAI-compatible upstream as it came, but for what the upstream would refuse."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.request import Quirks, prepare

PLAIN = Quirks()
USER: JSONObject = {"role": "user", "content": "Hi"}


def body(*messages: JSONObject, **fields: Any) -> JSONObject:
    """A request for these messages."""
    return {"model": "m", "messages": list(messages) or [USER], **fields}


def passed(raw: str, dialect: Quirks = PLAIN) -> str:
    """What an upstream receives when a client sends ``raw``."""
    return json.encode(prepare(json.decode_object(raw.encode()), dialect)).decode()


def sent(message: JSONObject, dialect: Quirks = PLAIN) -> JSONObject:
    """What becomes of one message."""
    prepared: JSONObject = prepare(body(USER, message), dialect)["messages"][1]
    return prepared


# Pass-through


@pytest.mark.parametrize(
    "field",
    [
        '"foo":{"a":[1,1.0,12345678901234567890]}',
        '"max_tokens":5,"max_completion_tokens":7',
        '"seed":-9223372036854775808,"logit_bias":{"50256":-100}',
        '"temperature":1,"top_p":1.0,"n":2,"stop":["\\n","ä"]',
        '"zzz":null,"aaa":{"nested":{"z":[],"a":{}}},"ключ":"值😀"',
        '"stream":false,"stream_options":null,"tools":[],"tool_choice":null,"user":""',
        '"top_k":40,"chat_template_kwargs":{"enable_thinking":false},"extra_body":{"x":1},"reasoning":{"effort":"low"}',
        '"metadata":{"a":"b"},"store":true,"response_format":{"type":"json_schema","json_schema":{"name":"x"}}',
        '"tools":[{"type":"function","function":{"name":"f","strict":null},"cache_control":{"type":"ephemeral"}}]',
        '"prediction":{"type":"content","content":"x"},"modalities":["text"],"audio":null,"parallel_tool_calls":false',
    ],
)
def test_every_other_field_passes_byte_for_byte(field: str) -> None:
    raw = f'{{"model":"m",{field},"messages":[{{"role":"user","content":"Hi"}}],"last":1}}'

    assert passed(raw) == raw


@pytest.mark.parametrize(
    "message",
    [
        '{"role":"user","content":[{"type":"image_url","image_url":"data:,"},{"type":"video_url","x":1.0}],"name":"n"}',
        '{"role":"system","content":"","cache_control":{"type":"ephemeral"},"refusal":null,"tool_calls":[]}',
        '{"role":"developer","content":[{"type":"text","text":"t"}]}',
        '{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function",'
        '"function":{"name":"f","arguments":"{\\"broken"}}]}',
        '{"role":"assistant","content":"x","refusal":"no","audio":{"id":"a"},"function_call":{"name":"f"}}',
        '{"role":"assistant","content":"x","reasoning_content":"why","reasoning_details":[{"index":0}],"x":[1.0]}',
        '{"role":"tool","tool_call_id":"a","content":""}',
        '{"role":"function","name":"f","content":null}',
    ],
)
def test_a_message_passes_byte_for_byte(message: str) -> None:
    raw = f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}},{message}]}}'

    assert passed(raw) == raw


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé😀[{"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1), JSON_VALUES), st.text())
def test_unknown_fields_survive_whatever_they_hold(fields: JSONObject, text: str) -> None:
    request = body({"role": "user", "content": text, **fields}, **fields)

    assert json.encode(prepare(request, PLAIN)) == json.encode(request)


def test_the_callers_body_is_never_touched() -> None:
    replayed = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": [{"id": "a", "index": 0}]}
    request = body({"role": "developer", "content": "d"}, replayed, stream=True, stream_options={"x": 1})
    before = copy.deepcopy(request)

    prepare(request, Quirks(developer_as_system=True))

    assert request == before


def test_messages_that_need_no_change_are_not_copied() -> None:
    request = body(USER, {"role": "assistant", "content": "x"})

    prepared = prepare(request, PLAIN)

    assert all(new is old for new, old in zip(prepared["messages"], request["messages"], strict=True))


def test_the_same_history_gives_the_same_bytes() -> None:
    history = body(
        USER,
        {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "x": 1}], "parsed": 1, "annotations": []},
    )

    assert json.encode(prepare(history, PLAIN)) == json.encode(prepare(copy.deepcopy(history), PLAIN))


# What only answers carry


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", []),
        ("audio", None),
        ("function_call", None),
        ("refusal", None),
        ("annotations", []),
        ("annotations", [{"type": "url_citation"}]),
        ("parsed", None),
        ("parsed", {"a": 1}),
        ("thinking_blocks", [{"type": "thinking"}]),
    ],
)
def test_a_replayed_answer_loses_what_only_answers_carry(key: str, value: Any) -> None:
    message = {"role": "assistant", "content": "x", key: value, "name": "n"}

    assert sent(message) == {"role": "assistant", "content": "x", "name": "n"}


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_only_assistant_messages_are_mended(role: str) -> None:
    message = {"role": role, "content": "x", "parsed": 1, "tool_calls": [], "refusal": None}

    assert sent(message) is message


def test_a_replayed_tool_call_loses_its_index_and_nothing_else() -> None:
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{", "x": 1.0}, "y": None}
    plain = {"id": "b", "type": "custom", "custom": {"name": "g", "input": "…"}}

    calls = sent({"role": "assistant", "content": None, "tool_calls": [call, plain]})["tool_calls"]

    assert json.encode(calls) == json.encode([{key: call[key] for key in ("id", "type", "function", "y")}, plain])


@pytest.mark.parametrize("calls", [None, {}, "x", [None], ["x", 1], [{}]])
def test_malformed_tool_calls_are_the_upstreams_to_judge(calls: Any) -> None:
    message = {"role": "assistant", "content": "x", "tool_calls": calls}

    assert sent(message) == message


def test_a_refusal_that_says_something_stays() -> None:
    message = {"role": "assistant", "content": None, "refusal": "", "audio": {"id": "a"}}

    assert sent(message) == message


# What we add to answers


OURS: JSONObject = {"provider_specific": {"content": [1]}, "native_finish_reason": "end_turn"}


def test_our_own_extensions_never_go_upstream() -> None:
    plain: list[JSONObject] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "custom", "custom": {"name": "g", "input": ""}}]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": "{}"}},
    ]  # fmt: skip

    assert prepare(_extended(body(*plain)), PLAIN) == body(*plain)


def _extended(value: Any) -> Any:
    """The same with our extensions in every object."""
    if isinstance(value, list):
        return [_extended(each) for each in value]
    return {**OURS, **{k: _extended(v) for k, v in value.items()}} if isinstance(value, dict) else value


def test_a_clients_own_data_may_use_the_same_words() -> None:
    schema = {"type": "object", "properties": {"provider_specific": {"type": "string"}}}
    request = body(USER, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}], metadata=OURS)

    assert prepare(request, PLAIN) == request


# The name of reasoning


@pytest.mark.parametrize(
    ("message", "name", "expected"),
    [
        ({"reasoning_content": "hm", "content": "x"}, "reasoning", {"reasoning": "hm", "content": "x"}),
        ({"content": "x", "reasoning": "hm"}, "reasoning_content", {"content": "x", "reasoning_content": "hm"}),
        ({"reasoning_content": None}, "reasoning", {"reasoning": None}),
        ({"reasoning_content": "hm", "content": "x"}, "thinking", {"thinking": "hm", "content": "x"}),
        ({"reasoning_content": "hm"}, "reasoning_content", {"reasoning_content": "hm"}),
        ({"reasoning_content": "hm", "reasoning": "hm"}, "reasoning", {"reasoning_content": "hm", "reasoning": "hm"}),
        ({"reasoning_content": "hm", "reasoning": "hm"}, None, {"reasoning_content": "hm", "reasoning": "hm"}),
        ({"thinking": [{"x": 1}]}, "reasoning", {"thinking": [{"x": 1}]}),
    ],
)
def test_reasoning_goes_back_under_the_upstreams_own_name(
    message: JSONObject, name: str | None, expected: JSONObject
) -> None:
    found = prepare(body(USER, {"role": "assistant", **message}), PLAIN, name)["messages"][1]

    assert json.encode(found) == json.encode({"role": "assistant", **expected})


# The upstream's dialect


def test_developer_becomes_system_where_the_upstream_knows_no_developer() -> None:
    messages: list[JSONObject] = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}], "name": "n"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "developer"},
        {"role": "developer", "content": "c"},
    ]

    prepared = prepare(body(*messages), Quirks(developer_as_system=True))["messages"]

    assert [message["role"] for message in prepared] == ["system", "system", "user", "system"]
    assert [message["content"] for message in prepared] == [message["content"] for message in messages]
    assert list(prepared[0]) == list(messages[0])


def test_developer_stays_by_default() -> None:
    assert sent({"role": "developer", "content": "a"}) == {"role": "developer", "content": "a"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"include_obfuscation": False}}, {"include_obfuscation": False, "include_usage": True}),
        ({"stream_options": {"include_usage": True, "x": 1.0}}, {"include_usage": True, "x": 1.0}),
    ],
)
def test_usage_is_asked_for_in_every_stream(asked: JSONObject, expected: JSONObject) -> None:
    prepared = prepare(body(stream=True, **asked), PLAIN)

    assert json.encode(prepared["stream_options"]) == json.encode(expected)


def test_usage_is_not_asked_for_where_the_upstream_refuses_the_option() -> None:
    request = body(stream=True)

    assert prepare(request, Quirks(stream_usage=False)) == request


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None}, {"stream": False, "stream_options": None}])
def test_usage_is_not_asked_for_without_a_stream(fields: JSONObject) -> None:
    request = body(**fields)

    assert prepare(request, PLAIN) == request
