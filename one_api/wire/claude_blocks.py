"""The content blocks of a streamed message, and what becomes of one when it has ended."""

from dataclasses import dataclass, field
from typing import Any

from one_api.wire import json
from one_api.wire.claude_chunks import Call
from one_api.wire.json import JSONObject


@dataclass(slots=True)
class Block:
    """A content block under way: what it started as, and the pieces since."""

    start: JSONObject
    #: Characters of content when it began.
    at: int
    pieces: list[str] = field(default_factory=list)
    signature: str | None = None
    citations: list[JSONObject] = field(default_factory=list)
    call: Call | None = None

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.start["type"])


def whole(block: Block) -> JSONObject | None:
    """Return a block as the upstream takes it back; None when its input is not whole."""
    text = "".join(block.pieces)
    if block.kind == "text":
        found: JSONObject = {"type": "text", "text": text}
        return found | {"citations": block.citations} if block.citations else found
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": block.signature or block.start.get("signature", "")}
    if block.kind not in ("tool_use", "server_tool_use") or not text:
        return {**block.start, "input": block.start.get("input") or {}} if block.kind == "tool_use" else block.start
    try:
        return {**block.start, "input": json.decode_object(text.encode())}
    except json.InvalidJSON:
        return None


def custom_input(text: str, given: Any) -> str:
    """Return the text in a custom tool's input; what is no such input is passed on as it is."""
    value = given
    if text:
        try:
            value = json.decode_object(text.encode())
        except json.InvalidJSON:
            return text
    found = value.get("input") if isinstance(value, dict) else None
    return found if isinstance(found, str) else text
