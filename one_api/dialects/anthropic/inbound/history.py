"""Anthropic's system blocks and turns become OpenAI's messages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias

from one_api.dialects.anthropic.inbound.content import arguments_of, blocks_of, content_of, parts_of, text_in
from one_api.dialects.anthropic.inbound.request import wrong
from one_api.dialects.anthropic.inbound.tools import chat_name
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

#: Returns the reasoning in the signature of a thinking block of ours; None for any other signature.
OpenCarrier: TypeAlias = Callable[[str], str | None]
#: A block and its path.
_Placed: TypeAlias = tuple[JSONObject, str]

#: A system block of Claude Code that differs in each request: the caches of all other servers would miss for it.
_BILLING = "x-anthropic-billing-header"
_IN_RESULT = "[image: it follows the results of the tools]"
#: Of an assistant message, what no other model can be sent.
_THINKING = frozenset({"thinking", "redacted_thinking"})


@dataclass(slots=True)
class History:
    """The messages of a chat request, and what else stood in the history."""

    messages: list[JSONObject] = field(default_factory=list)
    #: Tools that results of a search among the tools name: only these are known to the model by now.
    referenced: set[str] = field(default_factory=set)
    #: The effort that the latest system message asks for.
    effort: Any = None


def read_history(body: JSONObject, notes: Notes, open_carrier: OpenCarrier) -> History:
    """Return what ``system`` and ``messages`` amount to.

    Raises:
        InvalidRequest: for a block that cannot be read, a call without its result or the reverse, or nothing at all.
    """
    reader = _Reader(notes, open_carrier)
    reader.add_system(body.get("system"), "system")
    entries = [(message, f"messages.{i}") for i, message in enumerate(body["messages"])]
    for role, group in groupby(entries, lambda entry: entry[0]["role"]):
        run = list(group)
        if role == "system":
            reader.add_later_systems(run)
            continue
        blocks = [block for message, where in run for block in blocks_of(message["content"], f"{where}.content")]
        if role == "assistant":
            reader.add_assistant(blocks, run[-1][1])
        else:
            reader.add_user(blocks, run[0][1])
    reader.check_answered()
    if all(message["role"] == "system" for message in reader.history.messages):
        raise wrong("messages.0.content", "There is nothing in the messages: give at least one that is not empty.")
    return reader.history


class _Reader:
    """Walks the turns once."""

    def __init__(self, notes: Notes, open_carrier: OpenCarrier) -> None:
        self.history = History()
        self._notes = notes
        self._open_carrier = open_carrier
        #: The ids of calls that are not answered yet, and where the last assistant turn stands.
        self._open: dict[str, None] = {}
        self._asked_at = ""

    def add_system(self, content: Any, where: str) -> None:
        """Add system text at this place; each block stays a part of its own."""
        self.check_answered()
        blocks = [(block, place) for block, place in blocks_of(content, where) if not _is_billing(block)]
        if parts := self._parts(blocks):
            self.history.messages.append({"role": "system", "content": content_of(parts)})

    def add_later_systems(self, run: list[_Placed]) -> None:
        """Add system messages that stand between turns; one may change the effort from there on."""
        for message, where in run:
            config = message.get("output_config")
            if isinstance(config, dict) and config.get("effort") is not None:
                self.history.effort = config["effort"]
            self.add_system(message["content"], f"{where}.content")

    def add_user(self, blocks: list[_Placed], where: str) -> None:
        """Add a user turn: the results of calls first, each a message, then all else in one message."""
        found: list[JSONObject] = []
        images: list[JSONObject] = []
        for block, place in blocks:
            if block["type"] == "tool_result":
                self._add_result(block, place, images)
        self.check_answered()
        found = images + self._parts([entry for entry in blocks if entry[0]["type"] != "tool_result"])
        if found:
            self.history.messages.append({"role": "user", "content": content_of(found)})

    def _add_result(self, block: JSONObject, where: str, images: list[JSONObject]) -> None:
        call_id = block.get("tool_use_id")
        if not isinstance(call_id, str) or call_id not in self._open:
            shown = call_id[:64] if isinstance(call_id, str) else "none"
            message = f"A `tool_result` answers a `tool_use` of the message before it, once. Unexpected: {shown}"
            raise wrong(where, message)
        del self._open[call_id]
        inner = blocks_of(block.get("content"), f"{where}.content")
        names = [each["tool_name"] for each, _ in inner if each["type"] == "tool_reference" and _is_named(each)]
        self.history.referenced.update(names)
        # The names of tools, one a line.
        parts = [{"type": "text", "text": "\n".join(names)}] if names else []
        parts += self._parts([entry for entry in inner if entry[0]["type"] != "tool_reference"])
        shown_parts = [part if part["type"] == "text" else {"type": "text", "text": _IN_RESULT} for part in parts]
        images += [part for part in parts if part["type"] != "text"]
        content = content_of(shown_parts)
        if block.get("is_error") is True:
            content = _as_error(text_in(shown_parts))
        self.history.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def add_assistant(self, blocks: list[_Placed], where: str) -> None:
        """Add an assistant turn: its text and its calls; thinking only where it is ours and the model wants it back."""
        calls = [self._call(block, place) for block, place in blocks if block["type"] == "tool_use"]
        said = [entry for entry in blocks if entry[0]["type"] not in _THINKING and entry[0]["type"] != "tool_use"]
        parts = self._parts(said)
        if not parts and not calls:
            return
        message: JSONObject = {"role": "assistant", "content": content_of(parts) if parts else None}
        if calls:
            thoughts = [self._thought(block) for block, _ in blocks if block["type"] == "thinking"]
            if reasoning := "".join(filter(None, thoughts)):
                message["reasoning_content"] = reasoning
            message["tool_calls"] = calls
        self._open, self._asked_at = dict.fromkeys(call["id"] for call in calls), where
        self.history.messages.append(message)

    def _call(self, block: JSONObject, where: str) -> JSONObject:
        call_id, name = block.get("id"), block.get("name")
        if not isinstance(call_id, str) or not isinstance(name, str):
            raise wrong(where, "A `tool_use` needs an `id` and a `name`.")
        return {
            "id": call_id,
            "type": "function",
            "function": {"name": chat_name(name), "arguments": arguments_of(block.get("input"))},
        }

    def _thought(self, block: JSONObject) -> str | None:
        signature = block.get("signature")
        return self._open_carrier(signature) if isinstance(signature, str) and signature else None

    def _parts(self, blocks: list[_Placed]) -> list[JSONObject]:
        return [part for block, where in blocks for part in parts_of(block, where, self._notes)]

    def check_answered(self) -> None:
        """Refuse calls that the next turn does not answer."""
        if self._open:
            raise _unanswered(self._open, self._asked_at)


def _unanswered(ids: Iterable[str], where: str) -> InvalidRequest:
    shown = ", ".join(call_id[:64] for call_id in list(ids)[:10])
    return wrong(where, f"`tool_use` ids without `tool_result` blocks in the next message: {shown}")


def _is_billing(block: JSONObject) -> bool:
    text = block.get("text")
    return isinstance(text, str) and text.startswith(_BILLING)


def _is_named(block: JSONObject) -> bool:
    return isinstance(block.get("tool_name"), str)


def _as_error(text: str) -> str:
    """Return the text of a result that is an error: other dialects have no mark for it."""
    return text if text.startswith("Error") else f"Error: {text}".strip()
