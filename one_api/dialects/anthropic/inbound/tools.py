"""Anthropic's tools and choice of tools become OpenAI's."""

import hashlib
from typing import Any

from one_api.dialects.anthropic.inbound.request import wrong
from one_api.dialects.json import JSONObject

#: How long the name of a function may be; Anthropic's tools may have names of twice that length.
_MAX_NAME = 64
#: How much of a longer one is kept before its hash.
_NAME_PREFIX = 48
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
#: Choices of chat, or none, with which nothing need be called.
_NOT_FORCED = (None, "auto", "none")


def chat_name(name: str) -> str:
    """Return what a tool is called where names are short: its own name, or the beginning of it with its hash."""
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[:_NAME_PREFIX]}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:12]}"


def shortened_names(body: JSONObject) -> dict[str, str]:
    """Return the tools' own names by those that ``chat_name`` has made shorter."""
    tools = body.get("tools")
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return {chat_name(name): name for name in names if isinstance(name, str) and len(name) > _MAX_NAME}


def read_tools(body: JSONObject, referenced: set[str]) -> JSONObject:
    """Return ``tools``, ``tool_choice`` and ``parallel_tool_calls``; nothing when no tool is left.

    A tool that is to be loaded later is left out, unless the history has found it (``referenced``) or it is forced.

    Raises:
        InvalidRequest: for a tool that runs at Anthropic, and for a choice that cannot be had.
    """
    tools, choice = body.get("tools"), body.get("tool_choice")
    wanted = _choice(choice)
    if tools is None:
        tools = []
    if not isinstance(tools, list):
        raise wrong("tools", "Input should be an array of tools.")
    forced = choice.get("name") if isinstance(choice, dict) else None
    kept = [
        _function(tool, f"tools.{i}")
        for i, tool in enumerate(tools)
        if not _is_deferred(tool) or tool.get("name") in referenced or tool.get("name") == forced
    ]
    if not kept and wanted.get("tool_choice") not in _NOT_FORCED:
        raise wrong("tool_choice", "No tool is left that could be called: give `tools`.")
    return {"tools": kept, **wanted} if kept else {}


def _is_deferred(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("defer_loading") is True


def _function(tool: Any, where: str) -> JSONObject:
    if not isinstance(tool, dict):
        raise wrong(where, "Input should be an object.")
    kind, name = tool.get("type"), tool.get("name")
    if kind not in (None, "custom"):
        message = f"Only Anthropic's own models have the tool `{str(kind)[:64]}`: leave it out, or ask one of them."
        raise wrong(where, message)
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.name", "Input should be a string.")
    schema = tool.get("input_schema")
    if isinstance(schema, dict):
        # It names the language of the schema, which OpenAI's format leaves open; some servers refuse it.
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    function: JSONObject = {"name": chat_name(name), "parameters": schema or {"type": "object", "properties": {}}}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _choice(choice: Any) -> JSONObject:
    if choice is None:
        return {}
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool" and isinstance(choice.get("name"), str):
        wanted: Any = {"type": "function", "function": {"name": chat_name(choice["name"])}}
    elif kind == "tool":
        raise wrong("tool_choice.name", "Input should be a string.")
    elif isinstance(kind, str) and kind in _CHOICES:
        wanted = _CHOICES[kind]
    else:
        raise wrong("tool_choice", "Input should be an object whose `type` is one of auto, any, tool, none.")
    found: JSONObject = {"tool_choice": wanted}
    if choice.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    return found
