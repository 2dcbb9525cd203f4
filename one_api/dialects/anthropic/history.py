"""The history of a request, read and checked: roles, calls and their results, and ids."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.names import CallIds
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

_ROLES = {
    "developer": "system", "system": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
#: Keys of messages that we read, and those that answers carry and that have no meaning on their way back.
_KNOWN_KEYS = frozenset({
    "role", "content", "name", "refusal", "tool_calls", "function_call", "tool_call_id", "thinking_blocks",
    "cache_control", "prompt_cache_breakpoint", "is_error", "status", "audio",
    "id", "annotations", "parsed", "reasoning", "reasoning_content", "reasoning_details", "citations",
    "provider_specific",
})  # fmt: skip

#: What arguments that are no JSON are called in the input of a call.
RAW_ARGUMENTS = "_raw_arguments"


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of the history."""

    #: The id to send; no other call of the request has it.
    id: str
    #: The client's name of the tool.
    name: str
    input: JSONObject


@dataclass(frozen=True, slots=True)
class Entry:
    """One message."""

    #: Its place in the client's ``messages``.
    index: int
    #: ``system``, ``user``, ``assistant`` or ``tool``.
    role: str
    message: JSONObject
    calls: tuple[Call, ...] = ()
    #: Of a tool message: the id to send of the call that it answers.
    answers: str = ""

    @property
    def where(self) -> str:
        """The message's path, for ``param``."""
        return f"messages[{self.index}]"


def read_history(messages: Any, notes: Notes) -> list[Entry]:
    """Return the messages, with calls and results paired.

    Raises:
        InvalidRequest: for a message that cannot be read, a call without a result or a result without its call.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            "`messages` must be an array of at least one message.", param="messages", code="empty_array"
        )
    found = list(_Reader(notes).read(messages))
    names = {str(entry.message["name"]) for entry in found if entry.role == "user" and "name" in entry.message}
    if len(names) > 1:
        notes.warn("messages.name", "This model does not see the names of users.", param="messages")
    return found


class _Reader:
    """Walks the messages once."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._ids = CallIds()
        #: Client's id -> ids to send of its calls that are not answered yet; the last assistant message's index.
        self._open: dict[str, deque[str]] = {}
        self._asked = 0

    def read(self, messages: list[Any]) -> Iterator[Entry]:
        for i, message in enumerate(messages):
            role, clean = self._normal(message, i)
            if role == "tool":
                yield Entry(i, role, clean, answers=self._answered(clean, i))
                continue
            self._close()
            calls = tuple(self._calls(clean, i)) if role == "assistant" else ()
            yield Entry(i, role, clean, calls)
        self._close()

    def _normal(self, message: Any, i: int) -> tuple[str, JSONObject]:
        """Return the role and the message without what is null or empty."""
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise wrong_type(where, "an object", message)
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join(_ROLES)
            raise refused(
                f"Invalid value for `{where}.role`. Supported values are: {known}.", f"{where}.role", "invalid_value"
            )
        clean = {key: value for key, value in message.items() if value is not None and (key, value) != _NO_CALLS}
        for key in clean:
            if key not in _KNOWN_KEYS:
                self._notes.warn(
                    f"messages.{key}", f"Unknown parameter: `{where}.{key[:64]}`.",
                    param=f"{where}.{key[:64]}", code="unknown_parameter",
                )  # fmt: skip
        if "audio" in clean:
            raise refused("This model cannot be reminded of audio.", f"{where}.audio", "unsupported_parameter")
        return _ROLES[role], clean

    def _calls(self, message: JSONObject, i: int) -> Iterator[Call]:
        self._asked = i
        calls = message.get("tool_calls", [])
        if not isinstance(calls, list):
            raise wrong_type(f"messages[{i}].tool_calls", "an array", calls)
        for j, call in enumerate(calls):
            yield self._call(call, f"messages[{i}].tool_calls[{j}]")
        if "function_call" in message:
            yield self._opened(f"call_fn_{i}", *_called(message["function_call"], f"messages[{i}].function_call"))

    def _call(self, call: Any, where: str) -> Call:
        if not isinstance(call, dict):
            raise wrong_type(where, "an object", call)
        client_id = call.get("id")
        if not isinstance(client_id, str):
            raise wrong_type(f"{where}.id", "a string", client_id)
        custom = call.get("custom")
        if call.get("type") == "custom" and isinstance(custom, dict):
            name, given = custom.get("name"), custom.get("input")
            if not isinstance(name, str):
                raise wrong_type(f"{where}.custom.name", "a string", name)
            return self._opened(client_id, name, {"input": given if isinstance(given, str) else ""})
        return self._opened(client_id, *_called(call.get("function"), f"{where}.function"))

    def _opened(self, client_id: str, name: str, given: JSONObject) -> Call:
        call = Call(self._ids.give(client_id), name, given)
        self._open.setdefault(client_id, deque()).append(call.id)
        return call

    def _answered(self, message: JSONObject, i: int) -> str:
        """Return the id to send of the call that a message answers; of calls with one id, the first that is open."""
        client_id = message.get("tool_call_id")
        if message["role"] == "function":
            client_id = f"call_fn_{self._asked}"
        elif not isinstance(client_id, str):
            raise wrong_type(f"messages[{i}].tool_call_id", "a string", client_id)
        if self._open.get(client_id):
            return self._open[client_id].popleft()
        raise InvalidRequest(
            f"A message with role `{message['role']}` must answer, once, a call of the assistant message before it.",
            param=f"messages.[{i}].role",
        )

    def _close(self) -> None:
        """Refuse calls that nothing answers."""
        left = [client_id for client_id, waiting in self._open.items() for _ in waiting]
        self._open = {}
        if left:
            ids = ", ".join(client_id[:64] for client_id in left[:10])
            raise InvalidRequest(
                f"An assistant message with tool calls must be followed by their results. Unanswered: {ids}",
                param=f"messages.[{self._asked}].role",
            )


_NO_CALLS: tuple[str, list[Any]] = ("tool_calls", [])


def _called(function: Any, where: str) -> tuple[str, JSONObject]:
    """Return name and input of a function call of the history."""
    if not isinstance(function, dict):
        raise wrong_type(where, "an object", function)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise wrong_type(f"{where}.name", "a string", name)
    return name, tool_input(function.get("arguments"))


def tool_input(arguments: Any) -> JSONObject:
    """Return the object for what a model once wrote as arguments, which need not be JSON: no call is ever lost."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    value = arguments
    if isinstance(arguments, str):
        try:
            value = json.decode(arguments.encode())
        except json.InvalidJSON:
            return {RAW_ARGUMENTS: arguments}
    return value if isinstance(value, dict) else {"_value": value}
