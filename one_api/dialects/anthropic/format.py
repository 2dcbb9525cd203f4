"""``response_format``: by a schema, by a tool that stands for it, or by an instruction."""

from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.models import ModelTraits
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.anthropic.schema import Inexpressible, express, strict_form
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject

#: The text that asks for a JSON object.
JSON_OBJECT = (
    "Answer with exactly one JSON object and nothing else: no Markdown fence, no text before it, no text after it."
)
#: The text that asks for JSON by a schema, which follows it.
JSON_SCHEMA = (
    "Answer with exactly one JSON value that matches the JSON schema below, and nothing else: no Markdown fence, "
    "no text before it, no text after it.\n\n"
)
_TOOL_NAME = "json_answer"


@dataclass(frozen=True, slots=True)
class Format:
    """How the answer gets its form."""

    #: For ``output_config.format``.
    schema: JSONObject | None = None
    #: For the end of ``system``.
    instruction: str | None = None
    #: A tool, still without a name, whose input is the answer.
    tool: JSONObject | None = None
    #: Did the client ask for a schema, however it is met?
    by_schema: bool = False


def read_format(body: JSONObject, traits: ModelTraits, notes: Notes, *, may_force: bool, calls_tool: bool) -> Format:
    """Read ``response_format``.

    ``may_force``: a tool may be forced on the model to get the form; ``calls_tool``: the answer is a tool call
    anyway, so that it has no text to be formed.

    Raises:
        InvalidRequest: when the client insists on a schema that the model cannot be held to.
    """
    given = body.get("response_format")
    if given is None:
        return Format()
    if not isinstance(given, dict):
        raise wrong_type("response_format", "an object", given)
    kind = given.get("type")
    if kind == "text":
        return Format()
    if kind == "json_object":
        notes.warn("response_format", "This model is only asked for a JSON object: give a JSON schema.")
        return Format(instruction=JSON_OBJECT)
    if kind != "json_schema":
        message = "Invalid value for `response_format.type`. Supported values are: text, json_object, json_schema."
        raise refused(message, "response_format.type", "invalid_value")
    schema, is_strict = _schema(given.get("json_schema"))
    if calls_tool:
        return Format(by_schema=True)
    return _by_schema(schema, is_strict, traits, notes, may_force)


def _schema(given: Any) -> tuple[JSONObject, bool]:
    where = "response_format.json_schema"
    if not isinstance(given, dict):
        raise wrong_type(where, "an object", given)
    if not isinstance(given.get("name"), str):
        raise wrong_type(f"{where}.name", "a string", given.get("name"))
    schema = given.get("schema")
    if schema is not None and not isinstance(schema, dict):
        raise wrong_type(f"{where}.schema", "an object", schema)
    return schema or {}, given.get("strict") is True


def _by_schema(schema: JSONObject, is_strict: bool, traits: ModelTraits, notes: Notes, may_force: bool) -> Format:
    """Choose the first way that holds: the upstream's own; a forced tool; unless the client insists, an instruction."""
    reason = "the model takes no schema for its answer"
    if traits.structured_outputs:
        try:
            return Format(schema=express(schema), by_schema=True)
        except Inexpressible as error:
            reason = str(error)
    # On a model with structured outputs a tool keeps to the schema no better: it is for strict requests only.
    tool = _tool(schema, traits) if may_force and (is_strict or not traits.structured_outputs) else None
    if tool is not None:
        return Format(tool=tool, by_schema=True)
    if is_strict:
        message = f"This model cannot be held to the JSON schema: {reason}. Change the schema, or leave out `strict`."
        raise refused(message, "response_format")
    notes.warn("response_format", f"This model is only asked to follow the JSON schema: {reason}.")
    return Format(instruction=JSON_SCHEMA + json.encode(schema).decode(), by_schema=True)


def _tool(schema: JSONObject, traits: ModelTraits) -> JSONObject | None:
    """Return the tool for a schema, or None when its root is no plain object."""
    if schema.get("type") != "object" or not schema.keys().isdisjoint({"anyOf", "oneOf", "allOf", "$ref"}):
        return None
    bare = strict_form(schema) if traits.structured_outputs else None
    found: JSONObject = {"description": "Gives the answer, in this form.", "input_schema": bare or schema}
    return found if bare is None else {**found, "strict": True}


def free_name(taken: set[str]) -> str:
    """Return a name for the tool that stands for the answer."""
    name, n = _TOOL_NAME, 1
    while name in taken:
        n += 1
        name = f"{_TOOL_NAME}_{n}"
    return name
