"""Forced tool calls: the schema that the engine is bound by, and the way back."""

import json
from typing import Any

import pytest

from one_api.dialects.llama.forced_calls import ForcedCall, apply_choice, schema_of
from one_api.errors import InvalidRequest

USER = {"role": "user", "content": "Weather?"}


def tool(name: str, **function: Any) -> dict[str, Any]:
    """One function tool."""
    return {"type": "function", "function": {"name": name, **function}}


TOOLS = [tool("get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}), tool("now")]


def body(choice: Any, **more: Any) -> dict[str, Any]:
    """A request with two tools."""
    return {"messages": [USER], "tools": TOOLS, "tool_choice": choice, **more}


# There


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_free_choice_changes_nothing(choice: Any) -> None:
    asked = body(choice)

    assert apply_choice(asked) == (asked, False)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["get_weather", "now"]),
        (tool("now"), ["now"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("now")]}}, ["now"]),
    ],
    ids=["required", "named", "allowed"],
)
def test_a_forced_choice_becomes_a_schema(choice: Any, names: list[str]) -> None:
    asked, forced = apply_choice(body(choice, stop=["}"], temperature=0, response_format={"type": "text"}))

    assert forced
    schema = asked["response_format"]["json_schema"]["schema"]
    assert [branch["properties"]["name"]["enum"] for branch in schema["anyOf"]] == [[name] for name in names]
    assert asked.keys() == {"messages", "temperature", "response_format"}


def test_allowed_tools_that_are_not_required_leave_only_themselves() -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("now")]}}

    asked, forced = apply_choice(body(choice))

    assert (asked["tools"], asked["tool_choice"], forced) == ([TOOLS[1]], "auto", False)


@pytest.mark.parametrize(
    "choice",
    ["any", 1, {}, {"type": "function"}, tool("gone"), {"type": "custom", "custom": {"name": "now"}},
     {"type": "allowed_tools", "allowed_tools": {"mode": "odd", "tools": [tool("now")]}},
     {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}],
    ids=str,
)  # fmt: skip
def test_another_choice_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_choice(body(choice))

    assert (caught.value.param, caught.value.code) == ("tool_choice", "invalid_value")


def test_references_stay_within_their_tool() -> None:
    city = {"$ref": "#/$defs/City"}
    parameters = {
        "type": "object",
        "properties": {"city": city, "also": [{"$ref": "#"}, {"$ref": "https://x.example/s"}]},
        "$defs": {"City": {"type": "string"}},
    }

    schema = schema_of([tool("a"), tool("b", parameters=parameters)])

    moved = schema["$defs"]["tool1"]
    assert moved["properties"] == {
        "city": {"$ref": "#/$defs/tool1/$defs/City"},
        "also": [{"$ref": "#/$defs/tool1"}, {"$ref": "https://x.example/s"}],
    }
    assert schema["$defs"]["tool0"] == {"type": "object", "properties": {}}
    assert parameters["properties"] == {"city": city, "also": [{"$ref": "#"}, {"$ref": "https://x.example/s"}]}


@pytest.mark.parametrize(
    ("first", "count", "start"),
    [
        (USER, 2, "You are a helpful AI assistant. You answer with a function call in JSON."),
        ({"role": "system", "content": "Be brief."}, 1, "Be brief.\n\nYou answer with a function call in JSON."),
    ],
)
def test_the_model_is_told_of_the_tools(first: dict[str, Any], count: int, start: str) -> None:
    asked, _ = apply_choice(body("required") | {"messages": [first]})

    assert len(asked["messages"]) == count
    text = asked["messages"][0]["content"]
    assert text.startswith(start)
    assert '{"name": "get_weather", "arguments": {"city": "..."}}' in text


def test_a_system_message_in_parts_gets_one_more() -> None:
    parts = [{"type": "text", "text": "Be brief."}]

    asked, _ = apply_choice(body("required") | {"messages": [{"role": "system", "content": parts}, USER]})

    assert [part["type"] for part in asked["messages"][0]["content"]] == ["text", "text"]
    assert len(parts) == 1


def test_what_a_simple_call_does_not_show_is_explained() -> None:
    parameters = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}}

    asked, _ = apply_choice(body("required") | {"tools": [tool("t", description="Warmth", parameters=parameters)]})

    assert 'Warmth Arguments: {"type":"object"' in asked["messages"][0]["content"]


# And back

WHOLE = '{\n "name" : "get \\"it\\"",\n "arguments" : {"a": "}{\\\\", "b": [1, {"c": " \\" "}], "d": null}\n }'
ARGUMENTS = '{"a": "}{\\\\", "b": [1, {"c": " \\" "}], "d": null}'


def turned(pieces: list[str], reason: str = "stop") -> tuple[list[dict[str, Any]], list[Any]]:
    """The tool-call deltas that pieces of text become, and the finish reasons."""
    call = ForcedCall()
    deltas: list[dict[str, Any]] = []
    reasons = []
    chunks = [choice_of({"role": "assistant", "content": None})]
    chunks += [choice_of({"content": piece}) for piece in pieces]
    chunks += [choice_of({}, reason), {"choices": [], "usage": {}}]
    for chunk in chunks:
        for choice in (call.turn(chunk) or {"choices": []})["choices"]:
            assert not choice["delta"].get("content")
            deltas += choice["delta"].get("tool_calls", [])
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return deltas, reasons


def choice_of(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, "delta": delta, "logprobs": {"content": []}, "finish_reason": reason}]}


def check_whole(pieces: list[str]) -> None:
    """However it is cut, the text becomes one call."""
    (opening, *more), reasons = turned(pieces)

    assert opening["function"]["name"] == 'get "it"'
    assert opening["id"].startswith("call_")
    assert opening["type"] == "function"
    assert [delta.keys() for delta in more] == [{"index", "function"}] * len(more)
    text = "".join(delta["function"]["arguments"] for delta in (opening, *more))
    assert text == ARGUMENTS
    json.loads(text)
    assert reasons == ["tool_calls"]


def test_a_call_comes_back_however_its_text_is_cut() -> None:
    check_whole([WHOLE])
    check_whole(list(WHOLE))
    for at in range(1, len(WHOLE)):
        check_whole([WHOLE[:at], WHOLE[at:]])


def test_a_text_that_is_cut_short_ends_by_length_unless_the_arguments_are_whole() -> None:
    complete_at = WHOLE.index("null}") + len("null}")
    for at in range(len(WHOLE)):
        deltas, reasons = turned(list(WHOLE[:at]), "length")

        text = "".join(delta["function"]["arguments"] for delta in deltas)
        assert reasons == (["tool_calls"] if at >= complete_at else ["length"])
        assert ARGUMENTS.startswith(text)


def test_arguments_that_are_no_object_end_before_the_calls_own_bracket() -> None:
    (opening, *more), reasons = turned(list('{"name": "f", "arguments": "x}" }'))

    assert "".join(delta["function"]["arguments"] for delta in (opening, *more)) == '"x}"'
    assert reasons == ["tool_calls"]
