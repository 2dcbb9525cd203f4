"""The tools of a Responses request as functions of a chat request, and what a call of each is to be called.

Chat knows functions only. A custom tool becomes a function of one text, a namespace a prefix; the table that is kept
keeps what a call of the model has to be turned back into.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from one_api.dialects.checks import list_of, not_among, refused, text_of, wrong_type
from one_api.dialects.json import JSONObject

Kind: TypeAlias = Literal["function", "custom", "tool_search"]

_LEGAL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: How much of an illegal name is kept before its hash.
_NAME_PREFIX = 48
#: Tools that run elsewhere, and whose results the client does without; each ends in a version.
_DISPENSABLE = ("web_search", "image_generation")
#: Tools that run elsewhere, or that the model must know: the client counts on them.
_INDISPENSABLE = (
    "file_search", "code_interpreter", "computer", "mcp", "shell", "local_shell", "apply_patch",
    "programmatic_tool_calling",
)  # fmt: skip
_CHOICES = ("none", "auto", "required")
_NO_ARGUMENTS: JSONObject = {"type": "object", "properties": {}}
#: The parameters of a function that stands for a custom tool.
CUSTOM_PARAMETERS: JSONObject = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input of the tool, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Tool:
    """What a client calls a tool, and how it wants its calls."""

    kind: Kind
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class ToolTable:
    """Collects the tools of one request; of two with the same name the later one counts."""

    warn: Callable[[str], None]
    #: By namespace and name, the function that is sent.
    _functions: dict[tuple[str | None, str], JSONObject] = field(default_factory=dict)
    #: By namespace and name, what the function is called.
    _names: dict[tuple[str | None, str], str] = field(default_factory=dict)
    #: What functions are called.
    _taken: set[str] = field(default_factory=set)
    #: By what the function is called.
    _tools: dict[str, Tool] = field(default_factory=dict)

    @property
    def chat_tools(self) -> list[JSONObject]:
        """Return the value of chat's ``tools``."""
        return [{"type": "function", "function": function} for function in self._functions.values()]

    def find(self, chat_name: str, kind: Kind = "function") -> Tool:
        """Return the tool that is called so in chat; one that the model made up is of the ``kind`` of its call."""
        return self._tools.get(chat_name) or Tool(kind, chat_name)

    def chat_name(self, name: str, namespace: str | None) -> str:
        """Return what the function for a tool is called: legal everywhere, and never that of another tool."""
        key = (namespace, name)
        known = self._names.get(key)
        if known is None:
            known = self._names[key] = _free_name(key, self._taken)
            self._taken.add(known)
        return known

    def add(self, tools: list[Any], where: str, *, namespace: str | None = None, deferred: bool = False) -> None:
        """Add the tools of a list at the path ``where``; with ``deferred`` also those that were left for later.

        Raises:
            InvalidRequest: for a tool that the client counts on and that cannot be had here.
        """
        for i, tool in enumerate(tools):
            at = f"{where}[{i}]"
            if not isinstance(tool, dict):
                raise wrong_type(at, "an object", tool)
            if tool.get("defer_loading") is True and not deferred:
                continue
            self._add(tool, at, namespace, deferred)

    def _add(self, tool: JSONObject, where: str, namespace: str | None, deferred: bool) -> None:
        kind = tool.get("type")
        if kind == "function":
            self._declare(Tool("function", text_of(tool, "name", where), namespace), _function(tool))
        elif kind == "custom":
            self._declare(Tool("custom", text_of(tool, "name", where), namespace), self._custom(tool, where))
        elif kind == "namespace":
            inner = list_of(tool, "tools", f"{where}.tools")
            self.add(inner, f"{where}.tools", namespace=text_of(tool, "name", where), deferred=deferred)
        elif kind == "tool_search" and tool.get("execution") == "client":
            self._declare(Tool("tool_search", "tool_search", namespace), _function(tool))
        elif isinstance(kind, str):
            if not _is_dispensable(tool) and kind.startswith(_INDISPENSABLE):
                raise refused(f"This model has no tool of type `{kind[:64]}`: leave it out.", f"{where}.type")
            self.warn(where)
        else:
            raise wrong_type(f"{where}.type", "a string", kind)

    def _declare(self, tool: Tool, function: JSONObject) -> None:
        called = self.chat_name(tool.name, tool.namespace)
        self._functions[tool.namespace, tool.name] = {"name": called, **function}
        self._tools[called] = tool

    def _custom(self, tool: JSONObject, where: str) -> JSONObject:
        description = tool.get("description") if isinstance(tool.get("description"), str) else ""
        form = tool.get("format")
        if isinstance(form, dict) and form.get("type") == "grammar":
            self.warn(f"{where}.format")
            rule = f"The input must follow this {form.get('syntax')} grammar:\n{form.get('definition')}"
            description = f"{description}\n\n{rule}" if description else rule
        made: JSONObject = {"description": description} if description else {}
        return made | {"parameters": CUSTOM_PARAMETERS}

    def choice(self, wanted: Any) -> Any:
        """Return chat's ``tool_choice``; None to leave it out.

        Raises:
            InvalidRequest: for a choice that cannot be had.
        """
        if wanted is None:
            return None
        if isinstance(wanted, str):
            if wanted not in _CHOICES:
                raise not_among("tool_choice", wanted, _CHOICES)
            if wanted == "required" and not self._functions:
                raise refused("`tool_choice` is `required`, and no tool is left that can be called.", "tool_choice")
            return wanted if self._functions else None
        if not isinstance(wanted, dict):
            raise wrong_type("tool_choice", "a string or an object", wanted)
        if wanted.get("type") == "allowed_tools":
            # What was left out of the tools may be left out of these.
            allowed = [tool for tool in list_of(wanted, "tools", "tool_choice.tools") if not _is_dispensable(tool)]
            tools = [self._named(tool) for tool in allowed]
            choice = {"type": "allowed_tools", "allowed_tools": {"mode": wanted.get("mode", "auto"), "tools": tools}}
        else:
            choice = self._named(wanted)
        return choice if self._functions else None

    def _named(self, wanted: Any) -> JSONObject:
        if not isinstance(wanted, dict) or wanted.get("type") not in ("function", "custom"):
            raise refused("Only functions and custom tools can be chosen here.", "tool_choice")
        name = text_of(wanted, "name", "tool_choice")
        namespace = wanted["namespace"] if isinstance(wanted.get("namespace"), str) else None
        if namespace is None and (None, name) not in self._functions:
            places = [place for place, inner in self._functions if inner == name]
            namespace = places[0] if len(places) == 1 else None
        return {"type": "function", "function": {"name": self.chat_name(name, namespace)}}


def _is_dispensable(tool: Any) -> bool:
    return isinstance(tool, dict) and str(tool.get("type")).startswith(_DISPENSABLE)


def _function(tool: JSONObject) -> JSONObject:
    """Return a function as chat has it, but for its name."""
    parameters = tool.get("parameters")
    made = {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
    return made | {"parameters": _NO_ARGUMENTS if parameters is None else parameters}


def _free_name(key: tuple[str | None, str], taken: set[str]) -> str:
    namespace, name = key
    plain = name if namespace is None else f"{namespace}__{name}"
    if _LEGAL_NAME.fullmatch(plain) and plain not in taken:
        return plain
    digest = hashlib.sha256(f"{namespace}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
    prefix = re.sub(r"[^A-Za-z0-9_-]", "_", plain)[:_NAME_PREFIX]
    return f"{prefix}_{digest[:12]}"
