"""Input items become chat messages.

A Responses history is a list of items; chat has turns. What the model said in one go (text, calls, reasoning) is one
assistant message here, and the outputs of its calls follow it at once, wherever they stand in the list.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects import json
from one_api.dialects.checks import list_of, not_among, refused, text_of, wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.responses.content import parts_of, simplified, split_output
from one_api.dialects.responses.tools import ToolTable

ROLES = ("user", "system", "developer", "assistant")
#: Roles of chat's messages that stand for the outputs of calls.
_OF_CHAT = ("tool", "function")
OUTPUTS = ("function_call_output", "custom_tool_call_output", "tool_search_output")
#: The history is in them, encrypted by the provider.
_OPAQUE = ("compaction", "compaction_trigger", "computer_call_output")
#: Codex has its provider compact a conversation when that has this name, also for the address of a gateway.
COMPACT_YOURSELF = (
    "Ask for a summary in a request of its own. Codex does so when the `name` of its provider in config.toml "
    "is not OpenAI."
)
#: Replays of work that ran elsewhere, by how their types begin.
_HOSTED = (
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_", "computer_call",
    "shell_call", "local_shell_call", "apply_patch_call", "program",
)  # fmt: skip
#: Where such work keeps what came of it.
_RESULTS = ("output", "outputs", "results")
#: Items that say something about the request, and nothing in the conversation.
SILENT = ("additional_tools", "configuration_update")


@dataclass(slots=True)
class _Turn:
    """What the model said between two messages of others."""

    parts: list[JSONObject] = field(default_factory=list)
    calls: list[JSONObject] = field(default_factory=list)
    #: Where the calls stand in the list.
    positions: list[int] = field(default_factory=list)
    thinking: list[JSONObject] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def message(self) -> JSONObject | None:
        """Return the turn as a message; None when nothing was said."""
        if not self.parts and not self.calls:
            return None
        message: JSONObject = {"role": "assistant", "content": simplified(self.parts) if self.parts else None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.thinking:
            message["thinking_blocks"] = self.thinking
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class InputReader:
    """Reads the items of one request, in order; ``tools`` gives functions their names.

    ``carried`` returns what a reasoning item carries, or None; ``offset`` is how many items at the start are not the
    client's own, so that paths count from the first that is.
    """

    def __init__(
        self, items: list[Any], tools: ToolTable, carried: Callable[[JSONObject], JSONObject | None], offset: int = 0
    ) -> None:
        self.messages: list[JSONObject] = []
        self._items = items
        self._tools = tools
        self._carried = carried
        self._offset = offset
        self._turn: _Turn | None = None
        #: Outputs that are not used yet, by the id of their call; they stand in the order of the list.
        self._outputs: dict[str, deque[int]] = defaultdict(deque)
        self._warnings: list[str] = []
        self._last_user = -1

    def read(self) -> list[JSONObject]:
        """Return the messages.

        Raises:
            InvalidRequest: naming the item that cannot be used, or a call and an output that do not match.
        """
        for i, item in enumerate(self._items):
            if not isinstance(item, dict):
                raise wrong_type(self._at(i), "an object", item)
            if item.get("type") in OUTPUTS and not _is_hosted_search(item):
                self._outputs[text_of(item, "call_id", self._at(i))].append(i)
        for i, item in enumerate(self._items):
            self._read(item, i)
        self._close()
        if any(self._outputs.values()):
            call_id = next(call_id for call_id, left in self._outputs.items() if left)
            raise refused(f"No tool call found for the output with call_id {call_id[:64]}.", "input", None)
        self._drop_old_reasoning()
        return self.messages

    @property
    def warnings(self) -> list[str]:
        """Return the paths of items that did not reach the model as they were sent."""
        return self._warnings

    def _at(self, i: int) -> str:
        return f"input[{i - self._offset}]" if i >= self._offset else "previous_response_id"

    def _read(self, item: JSONObject, i: int) -> None:
        kind = item.get("type", "message" if "role" in item else None)
        where = self._at(i)
        match kind:
            case "message":
                self._read_message(item, where)
            case "function_call" | "custom_tool_call" | "tool_search_call":
                self._read_call(item, kind, i)
            case "reasoning":
                self._read_reasoning(item)
            case _ if kind in OUTPUTS:
                self._close()
            case _ if kind in SILENT:
                pass
            case _:
                self._read_other(item, kind, where)

    def _read_message(self, item: JSONObject, where: str) -> None:
        role = item.get("role")
        if role in _OF_CHAT:
            message = f"`input` has no messages of the role `{role}`: use an item of the type `function_call_output`."
            raise refused(message, f"{where}.role", "invalid_value")
        if item.get("tool_calls") or item.get("function_call"):
            message = "A call is an item of its own here: use the type `function_call`."
            raise refused(message, f"{where}.tool_calls", "unknown_parameter")
        if role not in ROLES:
            raise not_among(f"{where}.role", role, ROLES)
        content = item.get("content")
        if role == "assistant":
            parts = [] if content is None else parts_of(content, f"{where}.content")
            self._open().parts += parts
            return
        self._close()
        if role == "user":
            self._last_user = len(self.messages)
        # Every server knows this role, and OpenAI's own reads it as `developer`.
        role = "system" if role == "developer" else role
        self.messages.append({"role": role, "content": simplified(parts_of(content, f"{where}.content"))})

    def _read_call(self, item: JSONObject, kind: str, i: int) -> None:
        where = self._at(i)
        if _is_hosted_search(item):
            return
        if kind == "tool_search_call":
            name, arguments = "tool_search", json.encode([item.get("arguments") or {}]).decode()[1:-1]
        elif kind == "custom_tool_call":
            name, arguments = (
                text_of(item, "name", where),
                json.encode({"input": text_of(item, "input", where)}).decode(),
            )
        else:
            name, arguments = text_of(item, "name", where), text_of(item, "arguments", where)
        namespace = item.get("namespace")
        called = self._tools.chat_name(name, namespace if isinstance(namespace, str) else None)
        turn = self._open()
        function = {"name": called, "arguments": arguments}
        turn.calls.append({"id": text_of(item, "call_id", where), "type": "function", "function": function})
        turn.positions.append(i)

    def _read_reasoning(self, item: JSONObject) -> None:
        carried = self._carried(item)
        if carried is None:
            return
        turn = self._open()
        turn.thinking += carried.get("blocks") or []
        if text := carried.get("text"):
            turn.reasoning.append(text)

    def _read_other(self, item: JSONObject, kind: Any, where: str) -> None:
        """Read an item of work that ran elsewhere, or refuse it."""
        if kind in _OPAQUE:
            message = f"This model cannot read an item of type `{kind}`, and without it the history would be lost."
            if kind != "computer_call_output":
                message += f" {COMPACT_YOURSELF}"
            raise refused(message, f"{where}.type")
        if not isinstance(kind, str) or not kind.startswith(_HOSTED):
            known = ("message", "function_call", "custom_tool_call", "reasoning", *OUTPUTS, *SILENT)
            raise not_among(f"{where}.type", kind, known)
        self._warnings.append(where)
        result = next((item[key] for key in _RESULTS if item.get(key)), None)
        if result is not None:
            shown = result if isinstance(result, str) else json.encode([result]).decode()[1:-1]
            self._open().parts.append({"type": "text", "text": f"[{kind}: {shown}]"})

    def _open(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
        return self._turn

    def _close(self) -> None:
        """End the assistant's turn: its message, the outputs of its calls, and what of these is for a user message."""
        turn, self._turn = self._turn, None
        message = turn.message() if turn is not None else None
        if turn is None or message is None:
            return
        self.messages.append(message)
        found = [self._output_of(call, at) for call, at in zip(turn.calls, turn.positions, strict=True)]
        shown: list[JSONObject] = []
        for i in sorted(found):
            item = self._items[i]
            text, rest = self._output(item, self._at(i))
            self.messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
            shown += rest
        if shown:
            self.messages.append({"role": "user", "content": shown})

    def _output_of(self, call: JSONObject, position: int) -> int:
        """Return where the output of a call stands: the first that is not used yet, behind the call."""
        waiting = self._outputs[call["id"]]
        if not waiting or waiting[0] < position:
            raise refused(f"No tool output found for function call {call['id'][:64]}.", "input", None)
        return waiting.popleft()

    def _output(self, item: JSONObject, where: str) -> tuple[str, list[JSONObject]]:
        if item["type"] == "tool_search_output":
            tools = list_of(item, "tools", f"{where}.tools")
            return "\n".join(["Found:", *_names_of(tools)]), []
        return split_output(parts_of(item.get("output"), f"{where}.output"))

    def _drop_old_reasoning(self) -> None:
        """Keep reasoning in words for calls that are under way: older turns need none, and some servers refuse it."""
        for message in self.messages[: self._last_user + 1]:
            message.pop("reasoning_content", None)


def _is_hosted_search(item: JSONObject) -> bool:
    """Return whether a search for tools ran elsewhere: its call and its output have no id that would join them."""
    return item.get("type") in ("tool_search_call", "tool_search_output") and item.get("call_id") is None


def _names_of(tools: list[Any]) -> list[str]:
    """Return the names of tools, and of those inside namespaces."""
    names: list[str] = []
    for tool in tools:
        if isinstance(tool, dict):
            inner = tool.get("tools")
            if isinstance(inner, list):
                names += [f"{tool.get('name')}.{name}" for name in _names_of(inner)]
            elif isinstance(tool.get("name"), str):
                names.append(tool["name"])
    return names
