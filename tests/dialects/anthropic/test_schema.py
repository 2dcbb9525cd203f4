"""A JSON schema is rewritten for structured outputs without losing what it means, or found to be beyond them."""

import copy
from typing import Any

import pytest

from one_api.dialects.anthropic.schema import Inexpressible, express, strict_form

STRING = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    """A closed object."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def opened(**properties: Any) -> dict[str, Any]:
    """An object that says nothing of other properties."""
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (opened(a=STRING), closed(a=STRING)),
        (opened(a=opened(b=STRING)), closed(a=closed(b=STRING))),
        ({"type": "array", "items": opened(a=STRING)}, {"type": "array", "items": closed(a=STRING)}),
        ({"properties": {"a": STRING}}, closed(a=STRING)),
        ({"items": STRING}, {"type": "array", "items": STRING}),
        (opened(a={"type": ["string", "null"]}), closed(a={"type": ["string", "null"]})),
        ({"oneOf": [STRING, {"type": "null"}]}, {"anyOf": [STRING, {"type": "null"}]}),
        (opened(a={"enum": ["x", 1, None]}), closed(a={"enum": ["x", 1, None]})),
        ({"const": 1, "title": "T", "default": 1}, {"const": 1, "title": "T", "default": 1}),
        (STRING | {"format": "date-time"}, STRING | {"format": "date-time"}),
        (STRING | {"format": "byte"}, STRING | {"description": '{"format":"byte"}'}),
        (
            {"type": "integer", "minimum": 1, "maximum": 10, "description": "A number"},
            {"type": "integer", "description": 'A number\n\n{"minimum":1,"maximum":10}'},
        ),
        (STRING | {"pattern": "^a", "maxLength": 3}, STRING | {"description": '{"pattern":"^a","maxLength":3}'}),
        (
            {"type": "array", "items": STRING, "minItems": 1, "uniqueItems": True},
            {"type": "array", "items": STRING, "minItems": 1, "description": '{"uniqueItems":true}'},
        ),
        (
            {"type": "array", "items": STRING, "minItems": 2},
            {"type": "array", "items": STRING, "description": '{"minItems":2}'},
        ),
        ({"$schema": "x", "$id": "y", **STRING}, STRING),
        (STRING | {"x-order": 5}, STRING),
        # References
        (
            opened(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": opened(b=STRING)}},
            closed(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": closed(b=STRING)}},
        ),
        (
            opened(a={"$ref": "#/definitions/A"}) | {"definitions": {"A": STRING}},
            closed(a={"$ref": "#/definitions/A"}) | {"definitions": {"A": STRING}},
        ),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": opened(b=STRING)}},
            closed(b=STRING) | {"$defs": {"A": closed(b=STRING)}},
        ),
        (
            opened(a={"$ref": "#/$defs/A", "description": "D"}) | {"$defs": {"A": STRING}},
            closed(a=STRING | {"description": "D"}) | {"$defs": {"A": STRING}},
        ),
        (opened(a=STRING, b={"$ref": "#/properties/a"}), closed(a=STRING, b=STRING)),
        # allOf
        (
            {"allOf": [opened(a=STRING) | {"required": ["a"]}, opened(b=STRING) | {"required": ["b"]}]},
            closed(a=STRING, b=STRING) | {"required": ["a", "b"]},
        ),
        (
            opened(a={"allOf": [{"$ref": "#/$defs/A"}], "description": "D"}) | {"$defs": {"A": STRING}},
            closed(a=STRING | {"description": "D"}) | {"$defs": {"A": STRING}},
        ),
        (
            opened(a=STRING) | {"allOf": [opened(a=STRING | {"description": "x"}), {"allOf": [opened(c=STRING)]}]},
            None,
        ),
        (
            opened(a=STRING) | {"title": "T", "allOf": [{"title": "U", "description": "x"}, {"description": "y"}]},
            closed(a=STRING) | {"title": "T", "description": "x\n\ny"},
        ),
    ],
)
def test_a_schema_is_rewritten(schema: Any, found: Any) -> None:
    before = copy.deepcopy(schema)

    if found is None:
        with pytest.raises(Inexpressible):
            express(schema)
    else:
        assert express(schema) == found
        assert express(found) == found or "$ref" in str(found)
    assert schema == before


@pytest.mark.parametrize(
    "schema",
    [
        {},
        opened(a=True),
        opened(a={}),
        {"type": "object"},
        opened(),
        opened(a=STRING) | {"additionalProperties": True},
        opened(a=STRING) | {"additionalProperties": STRING},
        opened(a=STRING) | {"patternProperties": {"^x": STRING}},
        {"type": "array"},
        {"type": "array", "prefixItems": [STRING]},
        {"type": "array", "items": [STRING]},
        {"not": STRING, "type": "integer"},
        {"if": STRING, "type": "integer"},
        STRING | {"nullable": True},
        {"enum": [{"a": 1}]},
        {"const": [1]},
        {"anyOf": []},
        {"anyOf": [STRING], "oneOf": [STRING]},
        opened(a=STRING) | {"anyOf": [{"required": ["a"]}]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [5]},
        {"allOf": [{"$ref": "#/$defs/none"}]},
        {"allOf": [{"required": [{}]}, {"required": ["a"]}]},
        {"$ref": "https://x.example/schema"},
        {"$ref": "#/$defs/none"},
        {"$ref": 5},
        {"$ref": "#/$defs/A", "$defs": {"A": True}},
        opened(next={"$ref": "#"}),
        opened(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": opened(b={"$ref": "#/$defs/B"}), "B": {"$ref": "#/$defs/A"}}},
        opened(**{f"p{i}": STRING for i in range(25)}),
        opened(**{f"p{i}": {"type": ["string", "null"]} for i in range(17)}),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_told(schema: Any) -> None:
    with pytest.raises(Inexpressible) as caught:
        express(schema)

    assert str(caught.value)


def test_the_limits_of_the_upstream_are_just_reached() -> None:
    properties = {f"p{i}": {"type": ["string", "null"]} for i in range(16)} | {f"q{i}": STRING for i in range(8)}

    assert express(closed(**properties)) == closed(**properties)
    required = closed(**{f"p{i}": STRING for i in range(99)}) | {"required": [f"p{i}" for i in range(99)]}
    assert express(required) == required


def test_references_that_grow_without_bound_are_given_up() -> None:
    doubling = {
        str(i): opened(a={"$ref": f"#/$defs/{i + 1}", "title": "x"}, b={"$ref": f"#/$defs/{i + 1}", "title": "y"})
        for i in range(40)
    }
    chain = {str(i): {"$ref": f"#/$defs/{i + 1}", "title": "x"} for i in range(3000)}
    merged = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 3} for i in range(40)}

    for definitions in (doubling, chain, merged):
        last = {str(len(definitions)): STRING}
        with pytest.raises(Inexpressible):
            express({"$ref": "#/$defs/0", "$defs": definitions | last})


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (closed(a=STRING), closed(a=STRING)),
        (closed(a=STRING) | {"$schema": "x"}, closed(a=STRING)),
        (opened(a=STRING), None),
        (closed(a=STRING | {"minLength": 1}), None),
        (closed(a={}), None),
    ],
)
def test_a_strict_tool_has_a_schema_that_needs_no_change(schema: Any, found: Any) -> None:
    assert strict_form(schema) == found
