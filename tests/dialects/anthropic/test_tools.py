"""Tools, the choice among them and the names and ids of calls, as Anthropic takes them."""

import copy
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.anthropic.history import tool_input
from one_api.dialects.anthropic.names import CallIds, tool_names
from one_api.dialects.json import JSONObject
from tests.dialects.anthropic.samples import (
    FORCELESS,
    HAIKU,
    HI,
    OPUS,
    assistant,
    call,
    function,
    refusal,
    result,
    sent,
    translated,
    turns,
)

OBJECT: JSONObject = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED: JSONObject = OBJECT | {"required": ["a"], "additionalProperties": False}
F = function("f", OBJECT)
G = function("g")
CUSTOM: JSONObject = {"type": "custom", "custom": {"name": "c", "description": "D"}}
NAMED = {"type": "function", "function": {"name": "f"}}


def declared(*tools: Any, **fields: Any) -> list[JSONObject]:
    found: list[JSONObject] = sent(tools=list(tools), **fields)["tools"]
    return found


# Tools


def test_a_function_is_declared_with_its_whole_schema() -> None:
    schema = {
        "$defs": {"K": {"enum": ["x"]}},
        "type": "object",
        "properties": {"k": {"$ref": "#/$defs/K"}, "n": {"anyOf": [{"type": "integer", "minimum": 1}]}},
        "required": ["k"],
        "additionalProperties": False,
        "x-own": [1, 1.0],
    }

    assert declared(function("f", schema, description="D")) == [
        {"name": "f", "description": "D", "input_schema": schema}
    ]


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_function_without_parameters_takes_none(parameters: Any) -> None:
    assert declared(function("f", parameters)) == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]


def test_a_schema_without_a_type_is_an_objects_and_null_is_absent() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": None}}

    assert declared(function("f", {"properties": {}}))[0]["input_schema"] == {"type": "object", "properties": {}}
    assert declared(tool) == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]


def test_a_combinator_at_the_top_becomes_the_union_of_its_branches() -> None:
    schema = {
        "$defs": {"B": {"type": "object", "properties": {"b": {"type": "integer"}, "k": {"const": 2}}}},
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "oneOf": [{"properties": {"k": {"const": 1}}, "required": ["k"]}, {"$ref": "#/$defs/B"}],
    }

    made = translated(tools=[function("f", schema, description="D", strict=True)])

    (tool,) = made.body["tools"]
    assert tool["input_schema"] == {
        "type": "object",
        "$defs": schema["$defs"],
        "properties": {
            "a": {"type": "string"},
            "k": {"anyOf": [{"const": 1}, {"const": 2}]},
            "b": {"type": "integer"},
        },
    }
    before, said = tool["description"].split("JSON schema: ")
    assert before.startswith("D\n\n") and json.decode(said.encode()) == {"type": "object", **schema}
    assert "strict" not in tool
    assert made.warnings == ("tools",)


def test_a_hostile_combinator_stays_small() -> None:
    refs = [{"$ref": f"#/$defs/{i}"} for i in range(10)]
    schema = {
        "$defs": {str(i): {"anyOf": refs, "properties": {"a": {"const": i}}} for i in range(100)},
        "anyOf": refs * 9,
    }
    many = {"anyOf": [{"properties": {"a": {"const": i}}} for i in range(5000)]}

    assert len(declared(function("f", schema))[0]["input_schema"]["properties"]["a"]["anyOf"]) == 10
    assert declared(function("f", many))[0]["input_schema"]["properties"] == {"a": {}}


@pytest.mark.parametrize(
    ("schema", "model", "is_strict"),
    [
        (CLOSED, HAIKU, True),
        (CLOSED | {"$schema": "x"}, HAIKU, True),
        ({"type": "object", "properties": {}, "additionalProperties": False}, OPUS, True),
        (CLOSED, "claude-sonnet-4", False),
        (OBJECT, HAIKU, False),
        (None, HAIKU, False),
        (CLOSED | {"properties": {"a": {"type": "string", "maxLength": 3}}}, HAIKU, False),
    ],
)
def test_strict_is_kept_where_schema_and_model_allow_it(schema: Any, model: str, is_strict: bool) -> None:
    made = translated(tools=[function("f", schema, strict=True)], model=model)

    assert made.body["tools"][0].get("strict", False) is is_strict
    assert made.warnings == (() if is_strict else ("tools.strict",))
    if not is_strict:
        strict = refusal(tools=[function("f", schema, strict=True)], model=model, options={"strict": True})
        assert strict == ("tools[0].function.strict", "unsupported_value")


def test_a_custom_tool_is_a_function_of_one_string() -> None:
    for form in ({}, {"format": None}, {"format": {"type": "text"}}):
        made = translated(tools=[{"type": "custom", "custom": CUSTOM["custom"] | form}])

        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        assert made.body["tools"] == [{"name": "c", "description": "D", "input_schema": schema}]
        assert made.response.custom_tools == {"c"}


def test_a_custom_call_of_the_history_has_its_text_as_input() -> None:
    past = {"id": "a", "type": "custom", "custom": {"name": "c", "input": "x = 1"}}

    found = turns(HI, assistant(None, past), result("a"), tools=[CUSTOM])[1]["content"]

    assert found == [{"type": "tool_use", "id": "a", "name": "c", "input": {"input": "x = 1"}}]


def test_a_mark_for_the_cache_goes_with_its_tool() -> None:
    mark = {"type": "ephemeral"}

    assert declared(F | {"cache_control": mark})[0]["cache_control"] == mark
    assert declared(function("f", cache_control=mark))[0]["cache_control"] == mark


@pytest.mark.parametrize(
    ("tool", "param", "code"),
    [
        ("f", "tools[0]", "invalid_type"),
        ({"type": "web_search"}, "tools[0].type", "invalid_value"),
        ({"function": {"name": "f"}}, "tools[0].type", "invalid_value"),
        ({"type": "function"}, "tools[0].function", "invalid_type"),
        ({"type": "function", "function": {}}, "tools[0].function.name", "invalid_type"),
        (function(""), "tools[0].function.name", "invalid_type"),
        (function(description=5), "tools[0].function.description", "invalid_type"),
        (function(parameters=[]), "tools[0].function.parameters", "invalid_type"),
        (
            {"type": "custom", "custom": {"name": "c", "format": {"type": "grammar"}}},
            "tools[0].custom.format",
            "unsupported_value",
        ),
    ],
)
def test_a_tool_that_cannot_be_declared_is_refused(tool: Any, param: str, code: str) -> None:
    assert refusal(tools=[tool]) == (param, code)


def test_two_tools_of_one_name_are_refused() -> None:
    assert refusal(tools=[F, G, F]) == ("tools[2].function.name", "invalid_value")
    assert refusal(tools={}) == ("tools", "invalid_type")


# Names


def test_a_name_outside_the_character_set_is_translated_everywhere() -> None:
    made = translated(
        HI, assistant(None, call("x", "a.b/c")), result("x"), tools=[function("a.b/c"), F],
        tool_choice={"type": "function", "function": {"name": "a.b/c"}},
    )  # fmt: skip

    (ours,) = made.response.names
    assert re.fullmatch(r"a_b_c_[0-9a-f]{8}", ours)
    assert made.response.names == {ours: "a.b/c"}
    assert [tool["name"] for tool in made.body["tools"]] == [ours, "f"]
    assert made.body["tool_choice"]["name"] == made.body["messages"][1]["content"][0]["name"] == ours


@pytest.mark.parametrize("name", ["f", "A-b_9", "x" * 128])
def test_a_legal_name_stays(name: str) -> None:
    made = translated(tools=[function(name)])

    assert made.body["tools"][0]["name"] == name
    assert made.response.names == {}


@given(st.lists(st.text(min_size=1)))
def test_names_are_legal_unique_and_depend_on_nothing_else(names: list[str]) -> None:
    found = tool_names(names)

    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name) for name in found.values())
    assert len(set(found.values())) == len(set(names))
    assert all(tool_names([name])[name] == found[name] for name in found)


def test_a_name_that_another_has_taken_gets_more_of_its_hash_and_then_a_number() -> None:
    digest = hashlib.sha256(b"a.b").hexdigest()
    taken = [f"a_b_{digest[:digits]}" for digits in range(8, 65, 8)]

    assert tool_names(["a.b", taken[0]])["a.b"] == taken[1]
    assert tool_names(["a.b", *taken])["a.b"] == f"a_b_{digest}_2"


# Ids


def test_an_id_outside_the_character_set_is_hashed_on_both_sides() -> None:
    found = turns(HI, assistant(None, call("call:1/ä"), call("ok-1_A")), result("ok-1_A"), result("call:1/ä"))

    asked = [block["id"] for block in found[1]["content"]]
    assert asked == [f"call_{hashlib.sha256('call:1/ä'.encode()).hexdigest()[:24]}", "ok-1_A"]
    assert [block["tool_use_id"] for block in found[2]["content"]] == asked[::-1]


def test_repeated_ids_are_numbered_and_their_results_paired_in_order() -> None:
    found = turns(
        HI, assistant(None, call("a"), call("a")), result("a", "1"), result("a", "2"),
        assistant(None, call("a")), result("a", "3"),
    )  # fmt: skip

    assert [block["id"] for turn in (found[1], found[3]) for block in turn["content"]] == ["a", "a_2", "a_3"]
    results = [(block["tool_use_id"], block["content"]) for turn in (found[2], found[4]) for block in turn["content"]]
    assert results == [("a", "1"), ("a_2", "2"), ("a_3", "3")]


@given(st.lists(st.text(alphabet="ab_2:/ä", max_size=4), max_size=30))
def test_no_two_calls_ever_share_an_id(client_ids: list[str]) -> None:
    ids = CallIds()

    found = [ids.give(client_id) for client_id in client_ids]

    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", each) for each in found)


@given(st.text(), st.text())
def test_two_bad_ids_never_collide(one: str, other: str) -> None:
    assert (CallIds().give(f":{one}") == CallIds().give(f":{other}")) is (one == other)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"a":1.0,"b":[12345678901234567890]}', {"a": 1.0, "b": [12345678901234567890]}),
        ("", {}),
        (" \n", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ('{"a":', {"_raw_arguments": '{"a":'}),
        ("hello", {"_raw_arguments": "hello"}),
        ("NaN", {"_raw_arguments": "NaN"}),
        ("[1,2]", {"_value": [1, 2]}),
        ("null", {"_value": None}),
        ('"x"', {"_value": "x"}),
        ("[" * 200 + "]" * 200, {"_raw_arguments": "[" * 200 + "]" * 200}),
    ],
)
def test_arguments_become_an_object_whatever_they_are(arguments: Any, found: JSONObject) -> None:
    assert turns(HI, assistant(None, call(arguments=arguments)), result())[1]["content"][0]["input"] == found


@given(st.text())
def test_no_arguments_are_ever_refused(arguments: str) -> None:
    assert isinstance(tool_input(arguments), dict)


# The choice


@pytest.mark.parametrize(
    ("choice", "parallel", "found"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("auto", None, {"type": "auto"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", None, {"type": "none"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("any", False, {"type": "any", "disable_parallel_tool_use": True}),
        (NAMED, None, {"type": "tool", "name": "f"}),
        (NAMED, False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
        ({"type": "custom", "custom": {"name": "c"}}, None, {"type": "tool", "name": "c"}),
    ],
)
@pytest.mark.parametrize("model", [HAIKU, OPUS])
def test_a_choice_is_translated(choice: Any, parallel: Any, found: Any, model: str) -> None:
    made = translated(tools=[F, G, CUSTOM], tool_choice=choice, parallel_tool_calls=parallel, model=model)

    assert made.body.get("tool_choice") == found
    assert len(made.body["tools"]) == 3
    assert made.warnings == ()


def test_required_is_weakened_where_it_is_refused() -> None:
    made = translated(tools=[F], tool_choice="required", model=FORCELESS)

    assert (made.body["tool_choice"], made.warnings) == ({"type": "auto"}, ("tool_choice",))
    strict = refusal(tools=[F], tool_choice="required", model=FORCELESS, options={"strict": True})
    assert strict == ("tool_choice", "unsupported_value")


def test_a_named_tool_is_emulated_by_its_schema_where_it_is_refused() -> None:
    made = translated(tools=[F, G], tool_choice=NAMED, model=FORCELESS, options={"strict": True})

    schema = OBJECT | {"additionalProperties": False}
    assert made.body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert (made.body["tool_choice"], made.response.forced_tool) == ({"type": "none"}, "f")
    assert [tool["input_schema"] for tool in made.body["tools"]] == [OBJECT, {"type": "object", "properties": {}}]


def test_a_named_tool_whose_schema_cannot_be_expressed_is_refused_there() -> None:
    named = {"type": "function", "function": {"name": "g"}}

    assert refusal(tools=[G], tool_choice=named, model=FORCELESS) == ("tool_choice", "unsupported_value")


@pytest.mark.parametrize("mode", ["required", "named"])
def test_a_forced_tool_takes_thinking_with_a_budget_away(mode: str) -> None:
    choice = NAMED if mode == "named" else mode
    for model, kept in ((HAIKU, False), ("claude-opus-4-6", True)):
        made = translated(tools=[F], tool_choice=choice, reasoning_effort="low", model=model)

        assert ("thinking" in made.body) is kept
        assert made.warnings == (() if kept else ("reasoning_effort",))


def test_allowed_tools_are_the_only_ones_sent() -> None:
    for mode, found in (("auto", "auto"), ("required", "any")):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}

        made = translated(tools=[G, F], tool_choice=choice)

        assert [tool["name"] for tool in made.body["tools"]] == ["f"]
        assert made.body["tool_choice"] == {"type": found}
        assert made.warnings == ("tool_choice",)


@pytest.mark.parametrize(
    ("choice", "param", "code"),
    [
        ("always", "tool_choice", "invalid_value"),
        (5, "tool_choice", "invalid_value"),
        ({"type": "function"}, "tool_choice", "invalid_value"),
        ({"type": ["function"]}, "tool_choice", "invalid_value"),
        ({"type": "function", "function": {"name": "nope"}}, "tool_choice", "invalid_value"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "invalid_type"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": [NAMED]}},
            "tool_choice.allowed_tools.mode",
            "invalid_value",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
            "invalid_value",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, {"type": "function"}]}},
            "tool_choice.allowed_tools.tools[1]",
            "invalid_value",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(choice: Any, param: str, code: str) -> None:
    assert refusal(tools=[F], tool_choice=choice) == (param, code)


def test_a_choice_needs_tools_and_parallel_a_boolean() -> None:
    assert refusal(tool_choice="auto") == ("tool_choice", None)
    assert refusal(function_call="auto") == ("function_call", None)
    assert refusal(tools=[F], function_call="auto") == ("function_call", None)
    assert refusal(tools=[F], parallel_tool_calls="no") == ("parallel_tool_calls", "invalid_type")


# Functions, the old form


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("auto", {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
        ({"name": "f"}, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
    ],
)
def test_functions_are_tools_of_which_one_is_called(choice: Any, found: JSONObject) -> None:
    made = translated(functions=[{"name": "f", "parameters": OBJECT}], function_call=choice)

    assert made.body["tools"] == [{"name": "f", "input_schema": OBJECT}]
    assert made.body["tool_choice"] == found
    assert made.response.legacy_functions


def test_functions_are_checked_like_tools() -> None:
    assert refusal(functions=[{"name": 5}]) == ("functions[0].name", "invalid_type")
    assert refusal(functions=[{"name": "f"}], tools=[F]) == ("functions", "invalid_value")
    assert refusal(functions=[{"name": "f"}], function_call={"name": "g"}) == ("function_call", "invalid_value")
    assert refusal(functions=[{"name": "f"}], function_call=[]) == ("function_call", "invalid_value")
    assert not translated(tools=[F]).response.legacy_functions


def test_the_clients_tools_stay_as_they_were() -> None:
    tools = [F | {"cache_control": {"type": "ephemeral"}}, function("x.y", {"anyOf": [CLOSED]}), CUSTOM]
    before = copy.deepcopy(tools)

    sent(tools=tools)

    assert tools == before
