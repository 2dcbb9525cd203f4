"""``response_format``: the upstream's own way, a tool that stands for it, or an instruction."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.anthropic.format import JSON_OBJECT, JSON_SCHEMA
from tests.dialects.anthropic.samples import (
    FORCELESS,
    HAIKU,
    OPUS,
    assistant,
    function,
    refusal,
    system,
    text,
    translated,
    user,
)

OLD = "claude-sonnet-4"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = SCHEMA | {"additionalProperties": False}
FREE = {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": True}}}
RECURSIVE = {"type": "object", "properties": {"next": {"$ref": "#"}}}


def form(schema: Any = None, **fields: Any) -> Any:
    """A ``response_format`` by schema."""
    given = {} if schema is None else {"schema": schema}
    return {"type": "json_schema", "json_schema": {"name": "x", **given, **fields}}


@pytest.mark.parametrize("model", [HAIKU, OPUS, FORCELESS, "claude-opus-4-1", "claude-unknown"])
@pytest.mark.parametrize("is_strict", [True, False, None])
def test_a_schema_is_the_upstreams_own_format(model: str, is_strict: bool | None) -> None:
    made = translated(response_format=form(SCHEMA, strict=is_strict), model=model)

    assert made.body["output_config"]["format"] == {"type": "json_schema", "schema": CLOSED}
    assert (made.response.json_tool, made.response.unfence, made.warnings) == (None, False, ())
    assert "tools" not in made.body


def test_effort_and_schema_stand_side_by_side() -> None:
    made = translated(response_format=form(SCHEMA), reasoning_effort="high", model=OPUS)

    assert list(made.body["output_config"]) == ["effort", "format"]


def test_real_tools_are_sent_beside_a_schema() -> None:
    made = translated(response_format=form(SCHEMA), tools=[function("f")], tool_choice="auto")

    assert "format" in made.body["output_config"]
    assert made.body["tool_choice"] == {"type": "auto"}


@pytest.mark.parametrize("is_strict", [True, False])
def test_an_older_model_answers_through_a_tool(is_strict: bool) -> None:
    made = translated(response_format=form(SCHEMA, strict=is_strict), model=OLD)

    (tool,) = made.body["tools"]
    assert (tool["name"], tool["input_schema"]) == ("json_answer", SCHEMA)
    assert made.body["tool_choice"] == {"type": "tool", "name": "json_answer", "disable_parallel_tool_use": True}
    assert (made.response.json_tool, made.warnings) == ("json_answer", ())


def test_that_tool_stands_beside_real_ones_and_has_a_name_of_its_own() -> None:
    tools = [function("json_answer"), function("f")]
    for choice, found in (
        (None, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", {"type": "tool", "name": "json_answer_2", "disable_parallel_tool_use": True}),
    ):
        made = translated(response_format=form(SCHEMA), model=OLD, tools=tools, tool_choice=choice)

        assert [tool["name"] for tool in made.body["tools"]] == ["json_answer", "f", "json_answer_2"]
        assert (made.response.json_tool, made.body["tool_choice"]) == ("json_answer_2", found)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_call_has_no_text_to_be_formed(choice: Any) -> None:
    made = translated(response_format=form(SCHEMA), model=OLD, tools=[function("f")], tool_choice=choice)

    assert made.response.json_tool is None
    assert made.body["tool_choice"]["type"] in ("any", "tool")


def test_that_tool_takes_thinking_with_a_budget_away() -> None:
    made = translated(response_format=form(SCHEMA), model=OLD, reasoning_effort="low")

    assert "thinking" not in made.body
    assert made.warnings == ("reasoning_effort",)


@pytest.mark.parametrize("schema", [FREE, RECURSIVE])
def test_a_strict_schema_beyond_the_upstreams_is_a_tool_where_one_can_be_forced(schema: Any) -> None:
    made = translated(response_format=form(schema, strict=True), model=OPUS)

    assert made.body["tools"][0]["input_schema"] == schema
    assert made.response.json_tool == "json_answer"


@pytest.mark.parametrize(
    ("schema", "model"),
    [(FREE, FORCELESS), ({"anyOf": [FREE, SCHEMA]}, OPUS), ({"type": "array", "items": SCHEMA}, OLD), ({}, OPUS)],
)
def test_a_strict_schema_that_nothing_holds_is_refused(schema: Any, model: str) -> None:
    assert refusal(response_format=form(schema, strict=True), model=model) == ("response_format", "unsupported_value")


@pytest.mark.parametrize(("schema", "model"), [(FREE, OPUS), (RECURSIVE, FORCELESS), (None, HAIKU), ([], OLD)])
def test_else_the_model_is_only_asked(schema: Any, model: str) -> None:
    if schema == []:
        schema = {"type": "array", "items": SCHEMA}
    made = translated(system("S"), user("Hi"), response_format=form(schema), model=model)

    said = JSON_SCHEMA + json.encode(schema or {}).decode()
    assert made.body["system"] == [text("S"), text(said)]
    assert (made.response.unfence, made.response.json_object, made.warnings) == (True, False, ("response_format",))
    assert "output_config" not in made.body and "tools" not in made.body
    strict = refusal(response_format=form(schema), model=model, options={"strict": True})
    assert strict == ("response_format", "unsupported_value")


def test_a_json_object_is_asked_for_at_the_end_of_system() -> None:
    made = translated(system("S"), user("Hi"), response_format={"type": "json_object"})

    assert made.body["system"] == [text("S"), text(JSON_OBJECT)]
    assert (made.response.unfence, made.response.json_object, made.warnings) == (True, True, ("response_format",))
    assert refusal(response_format={"type": "json_object"}, options={"strict": True}) == (
        "response_format",
        "unsupported_value",
    )


def test_a_json_object_that_the_client_begins_itself_is_not_looked_at() -> None:
    made = translated(user("Hi"), assistant("{"), response_format={"type": "json_object"})

    assert (made.response.unfence, made.response.json_object) == (True, False)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ("json", "response_format", "invalid_type"),
        ({}, "response_format.type", "invalid_value"),
        ({"type": "grammar"}, "response_format.type", "invalid_value"),
        ({"type": ["text"]}, "response_format.type", "invalid_value"),
        ({"type": "json_schema"}, "response_format.json_schema", "invalid_type"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name", "invalid_type"),
        (form([]), "response_format.json_schema.schema", "invalid_type"),
    ],
)
def test_what_is_no_format_is_refused(given: Any, param: str, code: str) -> None:
    assert refusal(response_format=given) == (param, code)
