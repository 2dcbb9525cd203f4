"""Schemas for the local engine: enforced as a whole, or refused by the name of the keyword."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.forced_calls import apply_choice
from one_api.dialects.llama.schema import constrained
from one_api.errors import InvalidRequest

WRAPPED = "%llguidance {}\nstart: %json "


def converted(schema: Any) -> Any:
    """The schema that the engine's own converter gets."""
    return constrained(schema, "p")["response_format"]["json_schema"]["schema"]


def guided(schema: Any) -> Any:
    """The schema that LLGuidance gets, without how it lays out its JSON."""
    grammar = constrained(schema, "p")["grammar"]
    assert grammar.startswith(WRAPPED)
    sent: JSONObject = json.decode(grammar.removeprefix(WRAPPED).encode())
    assert sent.pop("x-guidance")["whitespace_flexible"] is False
    return sent


def refusal(schema: Any) -> str:
    """The message of the 400 that a schema gets."""
    with pytest.raises(InvalidRequest) as caught:
        constrained(schema, "p")
    assert caught.value.param == "p"
    return caught.value.message


def of(**keywords: Any) -> JSONObject:
    """A schema whose property ``a`` has these keywords."""
    return {"type": "object", "properties": {"a": keywords}, "required": ["a"]}


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("uniqueItems", {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        ("contains", {"type": "array", "contains": {"const": 1}}),
        ("not", {"not": {"type": "string"}}),
        ("if", {"type": "object", "if": {}, "then": {}}),
        ("propertyNames", {"type": "object", "propertyNames": {"maxLength": 3}}),
        ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
        ("unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}),
        ("minProperties", {"type": "object", "properties": {"a": {}}, "minProperties": 1}),
        ("patternProperties", {"properties": {"a": {}}, "patternProperties": {"^b": {}}}),
        ("allOf", {"allOf": [{"type": "object"}, {"required": ["a"]}]}),
        ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        ("oneOf", {"oneOf": [of(type="string"), of(type="integer")]}),
        ("properties", {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        ("format", {"type": "string", "format": "iri"}),
        ("format", {"type": "string", "format": "date", "pattern": "^2"}),
        ("pattern", {"type": "string", "pattern": "^(?=.*a)b$"}),
        ("pattern", {"type": "string", "pattern": "(?<!a)b"}),
        ("pattern", {"type": "string", "pattern": r"(a)\1"}),
        ("pattern", {"type": "string", "pattern": r"\bword\b"}),
        ("pattern", {"type": "string", "pattern": "a(b"}),
        ("pattern", {"type": "string", "pattern": "[[]"}),
        ("pattern", {"type": "string", "pattern": "a{"}),
        ("pattern", {"type": "string", "pattern": "a{1,9999}"}),
        ("pattern", {"type": "string", "pattern": "a^b"}),
        ("minLength", {"type": "string", "minLength": 5, "maxLength": 4}),
        ("maxLength", {"type": "string", "maxLength": 100_000}),
        ("minItems", {"prefixItems": [{}], "items": False, "minItems": 2}),
        ("multipleOf", {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}),
        ("exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}),
        ("minimum", {"type": "number", "minimum": 1e300}),
        ("required", {"type": "object", "required": ["a"], "additionalProperties": False}),
        ("enum", {"type": "string", "enum": [1, 2]}),
        ("minimum", {"type": "integer", "enum": [1, 2], "minimum": 2}),
        ("$ref", {"$ref": "https://a.example/schema.json"}),
        ("$ref", {"$defs": {"a": {}}, "$ref": "#/$defs/a", "required": ["b"]}),
        ("$dynamicRef", {"$dynamicRef": "#a"}),
    ],
)  # fmt: skip
def test_what_no_grammar_can_express_is_refused_by_name(keyword: str, schema: JSONObject) -> None:
    assert f"`{keyword}`" in refusal(schema)
    deep = {"type": "object", "properties": {"list": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/x"}]}}}}
    assert "$ref" in schema or f"`{keyword}`" in refusal(deep | {"$defs": {"x": schema}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "odd"},
        {"type": "object", "properties": []},
        {"properties": {"a": 1}},
        {"type": "string", "pattern": 1},
        {"type": "array", "items": {}, "minItems": -1},
        {"type": "integer", "minimum": "1"},
        {"type": "number", "multipleOf": 0},
        {"anyOf": []},
        {"$ref": "#/$defs/missing"},
    ],
)
def test_what_is_no_schema_is_refused(schema: JSONObject) -> None:
    assert "not valid" in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        of(type="integer", minimum=1, maximum=9),
        of(type="string", minLength=1, maxLength=9),
        of(type="array", items={"type": "boolean"}, minItems=1),
        of(type=["string", "null"]),
        of(anyOf=[{"type": "null"}, {"enum": ["a", 1]}]),
    ],
)
def test_a_simple_schema_stays_as_it_is(schema: JSONObject) -> None:
    assert converted(schema) == schema | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("keywords", "sent"),
    [
        ({"type": "number", "minimum": 1}, {"minimum": 1, "maximum": 10**15, "multipleOf": 1e-06}),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
         {"minimum": 1e-06, "maximum": 0.5, "multipleOf": 1e-06}),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 30},
         {"minimum": 7, "maximum": 28, "multipleOf": 7}),
        ({"type": "integer", "multipleOf": 2.5, "minimum": 1, "maximum": 30},
         {"minimum": 5, "maximum": 30, "multipleOf": 5}),
        ({"type": "string", "pattern": "^[a-z]+$", "minLength": 2}, {"pattern": "^[a-z]+$", "minLength": 2}),
        ({"type": "string", "format": "date"}, {"format": "date"}),
    ],
)  # fmt: skip
def test_what_the_converter_skips_goes_to_the_other_grammar(keywords: JSONObject, sent: JSONObject) -> None:
    assert guided(of(**keywords))["properties"]["a"] == {"type": keywords["type"], **sent}


def test_bounds_of_whole_numbers_become_whole() -> None:
    assert converted({"type": "integer", "minimum": 1.5, "exclusiveMaximum": 4}) == {
        "type": "integer", "minimum": 2, "maximum": 3,
    }  # fmt: skip


def test_what_constrains_nothing_is_left_out() -> None:
    noise = {"title": "A", "description": "d", "default": 1, "x-guidance": {"lenient": True}, "discriminator": {},
             "$schema": "x", "uniqueItems": False}  # fmt: skip

    assert converted({"type": "null", **noise}) == {"type": "null"}


def test_references_are_followed_wherever_they_point() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/$defs/x~1y/$defs/z"}, "b": {"$ref": "#"}},
        "$defs": {"x/y": {"$defs": {"z": {"type": "string", "pattern": "^b$"}}}, "unused": {"not": {}}},
    }

    sent = guided(schema)

    names = {key: value["$ref"].rpartition("/")[2] for key, value in sent["properties"].items()}
    assert sent["$defs"][names["a"]] == {"type": "string", "pattern": "^b$"}
    assert sent["$defs"][names["b"]]["properties"] == sent["properties"]


def test_branches_that_exclude_each_other_are_any_of_them() -> None:
    branches = [of(const="x"), of(enum=["y", "z"]), {"type": "null"}]

    assert [each.get("required") for each in converted({"oneOf": branches})["anyOf"]] == [["a"], ["a"], None]


def test_required_names_become_properties() -> None:
    assert converted({"type": "object", "required": ["a"]})["properties"] == {"a": {}}


def test_tuples_of_older_drafts() -> None:
    sent = guided({"type": "array", "items": [{"type": "null"}], "additionalItems": False})

    assert sent == {"type": "array", "prefixItems": [{"type": "null"}], "items": False}


# Forced calls


def forced(strict: bool, **keywords: Any) -> JSONObject:
    """What the engine gets for a call of a tool with a parameter ``a``."""
    function = {"name": "f", "parameters": of(**keywords), "strict": strict}
    body = {
        "messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }  # fmt: skip
    return apply_choice(body)[0]


def test_a_strict_tool_is_held_to_its_schema_or_refused() -> None:
    assert '"multipleOf":7' in forced(True, type="integer", multipleOf=7)["grammar"]
    with pytest.raises(InvalidRequest) as caught:
        forced(True, type="array", items={"type": "null"}, uniqueItems=True)
    assert "`uniqueItems`" in caught.value.message
    assert caught.value.param == "tools[0].function.parameters"


def test_another_tool_is_held_to_what_can_be_enforced() -> None:
    sent = forced(False, type="array", items={"type": "null"}, uniqueItems=True)

    assert sent["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "definitions",
    [
        {"a": {"$ref": "#/$defs/a"}},
        {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}},
    ],
)
def test_a_definition_that_begins_with_itself_is_refused(definitions: JSONObject) -> None:
    assert "`#/$defs/a` refers to itself" in refusal({"$defs": definitions, **of(**{"$ref": "#/$defs/a"})})


def test_a_definition_may_hold_itself() -> None:
    node = of(anyOf=[{"$ref": "#/$defs/n"}, {"type": "null"}])

    assert converted({"$defs": {"n": node}, "$ref": "#/$defs/n"})["$ref"] == "#/$defs/d0"


@pytest.mark.parametrize(
    "schema",
    [
        of(enum=[f"value {i}" for i in range(100)]),
        of(type="array", items={"type": "boolean"}, maxItems=1000),
        of(type="array", items={"type": "boolean"}, minItems=1000),
    ],
)
def test_what_is_too_much_for_the_converter_is_not_sent_to_it(schema: JSONObject) -> None:
    assert guided(schema) == schema | {"additionalProperties": False}
