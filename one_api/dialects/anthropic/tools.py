"""OpenAI's tools and tool choice become Anthropic's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.content import CacheMarks
from one_api.dialects.anthropic.models import ModelTraits
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.anthropic.schema import Inexpressible, express, flattened, strict_form
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

_NO_ARGUMENTS: JSONObject = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of the client, read and not yet named for the upstream."""

    name: str
    is_custom: bool
    description: str | None
    schema: JSONObject
    strict: bool
    mark: JSONObject
    #: Its path in the request, for ``param``.
    where: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What the client wants of its tools."""

    #: ``none``, ``auto``, ``any``, ``tool``; empty: nothing was said.
    mode: str = ""
    #: The client's name, with ``tool``.
    name: str = ""
    #: The client's names of the tools that may be used; None: all.
    allowed: tuple[str, ...] | None = None
    #: The parameter that said so.
    param: str = "tool_choice"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice as this model can take it."""

    #: The value of ``tool_choice``; None: leave it out.
    value: JSONObject | None = None
    #: The schema for ``output_config.format`` that stands for a named tool.
    format: JSONObject | None = None
    #: The client's name of that tool.
    emulated: str | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of a request and what it wants of them."""

    tools: list[Tool] = field(default_factory=list)
    choice: Choice = Choice()
    parallel: bool = True
    legacy: bool = False


def read_tools(body: JSONObject, marks: CacheMarks, notes: Notes) -> Tools:
    """Read ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``functions`` and ``function_call``.

    Raises:
        InvalidRequest: naming what is wrong, or has no counterpart.
    """
    legacy = bool(body.get("functions"))
    if legacy and body.get("tools"):
        raise refused("`functions` is the old form of `tools`: give only one of them.", "functions", "invalid_value")
    key, choice_key = ("functions", "function_call") if legacy else ("tools", "tool_choice")
    given = body.get(key)
    if given is not None and not isinstance(given, list):
        raise wrong_type(key, "an array", given)
    tools = [_tool(tool, f"{key}[{i}]", legacy, marks) for i, tool in enumerate(given or ())]
    known: set[str] = set()
    for tool in tools:
        if tool.name in known:
            raise refused("Two tools have the same name.", f"{tool.where}.name", "invalid_value")
        known.add(tool.name)
    for absent in ("tool_choice", "function_call"):
        if body.get(absent) is not None and (not tools or absent != choice_key):
            needed = "tools" if absent == "tool_choice" else "functions"
            raise InvalidRequest(f"`{absent}` is only allowed when `{needed}` are given.", param=absent)
    choice = _choice(body.get(choice_key), choice_key, known)
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise wrong_type("parallel_tool_calls", "a boolean", parallel)
    if choice.allowed is not None:
        allowed = frozenset(choice.allowed)
        tools = [tool for tool in tools if tool.name in allowed]
        notes.warn("tool_choice", "Allowed tools are emulated by sending only these.", param="tool_choice")
    return Tools(tools, choice, parallel is not False, legacy)


def _tool(tool: Any, where: str, legacy: bool, marks: CacheMarks) -> Tool:
    """Read one tool; a legacy function stands for itself."""
    if not isinstance(tool, dict):
        raise wrong_type(where, "an object", tool)
    kind = "function" if legacy else tool.get("type")
    if kind not in ("function", "custom"):
        message = f"Invalid value for `{where}.type`. Supported values are: function, custom."
        raise refused(message, f"{where}.type", "invalid_value")
    inner = tool if legacy else tool.get(kind)
    inner_where = where if legacy else f"{where}.{kind}"
    if not isinstance(inner, dict):
        raise wrong_type(inner_where, "an object", inner)
    name, description = inner.get("name"), inner.get("description")
    if not isinstance(name, str) or not name:
        raise wrong_type(f"{inner_where}.name", "a string that is not empty", name)
    if description is not None and not isinstance(description, str):
        raise wrong_type(f"{inner_where}.description", "a string", description)
    schema = _custom_schema(inner, inner_where) if kind == "custom" else _parameters(inner, inner_where)
    mark = marks.of(tool) or marks.of(inner)
    return Tool(name, kind == "custom", description or None, schema, inner.get("strict") is True, mark, inner_where)


def _parameters(function: JSONObject, where: str) -> JSONObject:
    """Return the whole schema of a function's parameters, as an object's."""
    schema = function.get("parameters")
    if schema is None or schema == {}:
        return dict(_NO_ARGUMENTS)
    if not isinstance(schema, dict):
        raise wrong_type(f"{where}.parameters", "an object", schema)
    if schema.get("type") is None:
        return {"type": "object", **{key: value for key, value in schema.items() if key != "type"}}
    return dict(schema)


def _custom_schema(custom: JSONObject, where: str) -> JSONObject:
    """Return the schema of the one string that stands for a custom tool's free text."""
    form = custom.get("format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise refused("This model takes custom tools of text only, not with a grammar.", f"{where}.format")
    return {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _choice(value: Any, param: str, known: set[str]) -> Choice:
    """Read ``tool_choice``, or the older ``function_call``."""
    modes = {"none": "none", "auto": "auto", "required": "any", "any": "any"}
    if value is None:
        return Choice(param=param)
    if isinstance(value, str) and value in modes:
        return Choice(modes[value], param=param)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools"), known)
    name = _name_of(value) if param == "tool_choice" else value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        message = f"Invalid value for `{param}`: give none, auto, required, or a tool by its name."
        raise refused(message, param, "invalid_value")
    if name not in known:
        raise refused(f"`{param}` names a tool that is not given.", param, "invalid_value")
    return Choice("tool", name, param=param)


def _name_of(value: Any) -> Any:
    """Return the name in ``{"type": "function", "function": {"name": ...}}``, or in the same of a custom tool."""
    inner = value.get(value.get("type")) if isinstance(value, dict) and isinstance(value.get("type"), str) else None
    return inner.get("name") if isinstance(inner, dict) else None


def _allowed(allowed: Any, known: set[str]) -> Choice:
    where = "tool_choice.allowed_tools"
    if not isinstance(allowed, dict):
        raise wrong_type(where, "an object", allowed)
    mode, tools = allowed.get("mode", "auto"), allowed.get("tools")
    if mode not in ("auto", "required"):
        message = f"Invalid value for `{where}.mode`. Supported values are: auto, required."
        raise refused(message, f"{where}.mode", "invalid_value")
    if not isinstance(tools, list) or not tools:
        raise refused(f"`{where}.tools` must name at least one tool.", f"{where}.tools", "invalid_value")
    names = [_name_of(tool) for tool in tools]
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in known:
            raise refused("An allowed tool is not among the tools.", f"{where}.tools[{i}]", "invalid_value")
    return Choice("any" if mode == "required" else "auto", allowed=tuple(names))


def declarations(tools: Tools, names: Mapping[str, str], traits: ModelTraits, notes: Notes) -> list[JSONObject]:
    """Return the upstream's ``tools``; what is altered is noted."""
    return [_declared(tool, names[tool.name], traits, notes) for tool in tools.tools]


def from_history(names: Mapping[str, str]) -> list[JSONObject]:
    """Return empty tools for the names that a history uses: the upstream refuses calls of undeclared tools."""
    return [{"name": name, "input_schema": {"type": "object"}} for name in names.values()]


def _declared(tool: Tool, name: str, traits: ModelTraits, notes: Notes) -> JSONObject:
    description, schema, strict = tool.description, tool.schema, tool.strict
    flat = flattened(schema)
    if flat is not None:
        notes.warn(
            "tools", "A schema with a combinator at its top is not taken: its branches are merged.",
            param=f"{tool.where}.parameters",
        )  # fmt: skip
        said = f"The input must match this JSON schema: {json.encode(schema).decode()}"
        description = f"{description}\n\n{said}" if description else said
        schema, strict = flat, False
    bare = strict_form(schema) if strict and traits.structured_outputs else None
    if tool.strict and flat is None and bare is None:
        message = "The model or the schema does not allow `strict`."
        notes.warn("tools.strict", message, param=f"{tool.where}.strict")
    found: JSONObject = {"name": name}
    if description is not None:
        found["description"] = description
    found["input_schema"] = schema if bare is None else bare
    if bare is not None:
        found["strict"] = True
    return found | tool.mark


def choose(tools: Tools, names: Mapping[str, str], traits: ModelTraits, notes: Notes) -> Chosen:
    """Return the tool choice as the model can take it: a forced one may have to be emulated, or weakened.

    Raises:
        InvalidRequest: when the model cannot be made to call a named tool.
    """
    choice = tools.choice
    mode = choice.mode
    if mode == "tool" and not traits.forced_tool:
        return _as_format(tools, traits)
    if mode == "any" and not traits.forced_tool:
        notes.warn(choice.param, "This model cannot be forced to call a tool: use auto.")
        mode = "auto"
    one_at_most = bool(tools.tools) and (tools.legacy or not tools.parallel) and mode != "none"
    if not mode and not one_at_most:
        return Chosen()
    value: JSONObject = {"type": mode or "auto"}
    if mode == "tool":
        value["name"] = names[choice.name]
    if one_at_most:
        value["disable_parallel_tool_use"] = True
    return Chosen(value)


def _as_format(tools: Tools, traits: ModelTraits) -> Chosen:
    """Let the answer's text be the arguments of the tool that was named."""
    tool = next(tool for tool in tools.tools if tool.name == tools.choice.name)
    try:
        if not traits.structured_outputs:
            raise Inexpressible("the model takes no schema for its answer")
        schema = express(tool.schema)
    except Inexpressible as error:
        message = f"This model cannot be made to call this tool: {error}. Use auto."
        raise refused(message, tools.choice.param) from None
    return Chosen({"type": "none"}, schema, tool.name)
