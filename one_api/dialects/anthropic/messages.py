"""OpenAI's messages become Anthropic's system blocks and alternating turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

from one_api.dialects.anthropic.content import Content, thinking_block
from one_api.dialects.anthropic.history import Entry
from one_api.dialects.anthropic.options import Notes, RequestOptions
from one_api.dialects.checks import refused
from one_api.dialects.json import JSONObject

Replay = Callable[[JSONObject], list[JSONObject] | None]
#: The upstream refuses more marks for its cache than this in one request.
MAX_MARKS = 4
_THINKING = ("thinking", "redacted_thinking")

#: The user turn that is put before a history that starts with the assistant.
_FIRST_USER_TURN = "Continue the conversation below."


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is sent of a history."""

    system: list[JSONObject]
    messages: list[JSONObject]


@dataclass(frozen=True, slots=True)
class Translator:
    """Turns histories into conversations; ``names`` are the upstream's for the client's names of tools."""

    content: Content
    options: RequestOptions
    notes: Notes
    names: Mapping[str, str]
    replay: Replay

    def conversation(self, history: list[Entry], *, json_format: bool) -> Conversation:
        """Translate a whole history; ``json_format``: the answer must match a schema, so that none can be begun.

        Raises:
            InvalidRequest: when no message is left, or the model cannot go on with a last assistant message.
        """
        leading = list(takewhile(lambda entry: entry.role == "system", history))
        system = [block for entry in leading for block in self._blocks(entry)]
        said = [(entry, self._blocks(entry)) for entry in history[len(leading) :]]
        # An empty message does not separate its neighbours: else a system message could end up between two user turns.
        spoken = [(entry, blocks) for entry, blocks in said if blocks]
        messages: list[JSONObject] = []
        for is_assistant, group in groupby(spoken, lambda pair: pair[0].role == "assistant"):
            run = list(group)
            if is_assistant:
                _add(messages, "assistant", [block for _, blocks in run for block in blocks])
            else:
                self._user_run(messages, run)
        self._check_ends(messages, history, json_format)
        return Conversation(system, messages)

    def _blocks(self, entry: Entry) -> list[JSONObject]:
        if entry.role == "assistant":
            return self._assistant(entry)
        return self._result(entry) if entry.role == "tool" else self._said(entry)

    def _user_run(self, messages: list[JSONObject], run: list[tuple[Entry, list[JSONObject]]]) -> None:
        """Add what stands between two assistant turns: results, user messages, system messages."""
        by_user = [block for entry, blocks in run if entry.role != "system" for block in blocks]
        if self.content.traits.mid_system and by_user:
            _add(messages, "user", by_user)
            _add(messages, "system", [block for entry, blocks in run if entry.role == "system" for block in blocks])
            return
        found: list[JSONObject] = []
        for is_system, group in groupby(run, lambda pair: pair[0].role == "system"):
            pairs = list(group)
            blocks = [block for _, each in pairs for block in each]
            found += self._marked(blocks, pairs[0][0]) if is_system else blocks
        _add(messages, "user", found)

    def _marked(self, blocks: list[JSONObject], first: Entry) -> list[JSONObject]:
        """Return system text as one block of the user turn, between marks."""
        self.notes.warn(
            "messages.role",
            "This model takes no system message at this place: move it to the start, or allow its text in a user turn.",
            param=f"{first.where}.role",
        )
        text = "\n\n".join(block["text"] for block in blocks)
        return [{**blocks[-1], "text": f"<system_message>\n{text}\n</system_message>"}]

    def _said(self, entry: Entry) -> list[JSONObject]:
        """Return the blocks of a system or user message."""
        blocks = self.content.blocks(entry.message.get("content"), entry.role, f"{entry.where}.content")
        return _mark_last(blocks, self.content.marks.of(entry.message))

    def _result(self, entry: Entry) -> list[JSONObject]:
        """Return the one block of a tool message."""
        message = entry.message
        content = message.get("content")
        found = self.content.blocks(content, "tool", f"{entry.where}.content")
        block: JSONObject = {"type": "tool_result", "tool_use_id": entry.answers}
        if found:
            block["content"] = content if isinstance(content, str) else found
        if message.get("is_error") is True or message.get("status") == "error":
            block["is_error"] = True
        return [{**block, **self.content.marks.of(message)}]

    def _assistant(self, entry: Entry) -> list[JSONObject]:
        """Return the blocks of an assistant message: thinking, text, calls; or those that the upstream once sent."""
        thinking = self._thinking_sent_back(entry)
        if not thinking:
            stored = [block for block in self.replay(entry.message) or [] if not _is_blank(block)]
            kept = [block.get("id") for block in stored if block.get("type") == "tool_use"]
            if stored and kept == [call.id for call in entry.calls]:
                return _mark_last([dict(block) for block in stored], self._mark(entry))
            # The answer was not given out as it came (a schema emulated by a tool, say): only its thinking holds.
            thinking = [dict(block) for block in stored if block.get("type") in _THINKING]
        said = self.content.blocks(entry.message.get("content"), "assistant", f"{entry.where}.content")
        said += self.content.blocks(entry.message.get("refusal"), "assistant", f"{entry.where}.refusal")
        calls: list[JSONObject] = [
            {"type": "tool_use", "id": call.id, "name": self.names[call.name], "input": call.input}
            for call in entry.calls
        ]
        return thinking + _mark_last(said + calls, self.content.marks.of(entry.message))

    def _mark(self, entry: Entry) -> JSONObject:
        """Return the mark for the cache that a message or the last marked part of it carries."""
        content = entry.message.get("content")
        holders = [entry.message, *(reversed(content) if isinstance(content, list) else ())]
        return next((mark for mark in map(self.content.marks.of, holders) if mark), {})

    def _thinking_sent_back(self, entry: Entry) -> list[JSONObject]:
        blocks = entry.message.get("thinking_blocks")
        found = [thinking_block(block) for block in blocks] if isinstance(blocks, list) else []
        if None in found:
            message = "A thinking block without its signature cannot be sent back."
            self.notes.warn("messages.thinking_blocks", message, param=f"{entry.where}.thinking_blocks")
        return [block for block in found if block is not None]

    def _check_ends(self, messages: list[JSONObject], history: list[Entry], json_format: bool) -> None:
        """See that the conversation begins with the user and ends where the model can go on."""
        if not messages:
            user = [entry for entry in history if entry.role == "user"]
            param = f"{user[-1].where}.content" if user else "messages"
            raise refused("The conversation is empty: give a user message with text.", param, "invalid_value")
        if messages[-1]["role"] == "assistant":
            self._check_prefill(messages[-1]["content"], history, json_format)
        if messages[0]["role"] == "assistant":
            message = "The conversation begins with an assistant message: put a user message before it."
            self.notes.warn("messages", message, param="messages[0].role")
            messages.insert(0, {"role": "user", "content": [{"type": "text", "text": _FIRST_USER_TURN}]})

    def _check_prefill(self, blocks: list[JSONObject], history: list[Entry], json_format: bool) -> None:
        last = max(entry.index for entry in history if entry.role == "assistant")
        if json_format or not self.content.traits.prefill:
            why = "together with a JSON schema" if json_format else "that this model should go on with"
            message = f"The last message cannot be an assistant message {why}: end with a user message."
            raise refused(message, f"messages[{last}].role")
        if blocks[-1]["type"] == "text":
            blocks[-1]["text"] = blocks[-1]["text"].rstrip()


def limit_marks(tools: list[JSONObject], system: list[JSONObject], messages: list[JSONObject], notes: Notes) -> None:
    """Take away the cache marks that are too many: those of tools and system stay, then the latest of the messages."""
    said = [block for message in messages for block in message["content"]]
    nested = [
        each
        for block in said
        for each in (*(block["content"] if _has_parts(block) else ()), block)
        if isinstance(each, dict)
    ]
    marked = [each for each in [*nested, *tools, *system] if "cache_control" in each]
    if len(marked) > MAX_MARKS:
        notes.warn("cache_control", f"This model takes at most {MAX_MARKS} marks for its cache.", param="messages")
    for each in marked[:-MAX_MARKS]:
        del each["cache_control"]


def _add(messages: list[JSONObject], role: str, blocks: list[JSONObject]) -> None:
    """Append blocks to the last turn when it is of this role, else as a new turn; nothing for no blocks."""
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _mark_last(blocks: list[JSONObject], mark: JSONObject) -> list[JSONObject]:
    """Return the blocks with a message's own cache mark on the last, unless that is thinking, which takes none."""
    if not blocks or not mark or blocks[-1].get("type") in _THINKING:
        return blocks
    return [*blocks[:-1], {**blocks[-1], **mark}]


def _has_parts(block: JSONObject) -> bool:
    return block["type"] == "tool_result" and isinstance(block.get("content"), list)


def _is_blank(block: Any) -> bool:
    """Return whether a stored block is text that the upstream would refuse."""
    return block.get("type") == "text" and not str(block.get("text", "")).strip()
