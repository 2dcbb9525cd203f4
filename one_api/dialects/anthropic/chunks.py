"""The chunks of one streamed answer, written from scratch: each thing is said once, and calls are numbered densely."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import Identity


@dataclass(slots=True)
class Call:
    """A tool call as it is sent to the client; ``kind`` is "function" or "custom"."""

    id: str
    name: str
    kind: str
    index: int
    pieces: list[str] = field(default_factory=list)


class ChunkWriter:
    """Makes the chunks of one answer with one choice, and remembers what they held.

    With ``legacy`` the first call is sent in the deprecated form ``function_call``, and others are not sent.
    """

    def __init__(self, identity: Identity, *, include_usage: bool, legacy: bool) -> None:
        self.identity = identity
        self.service_tier: str | None = None
        self.calls: list[Call] = []
        #: Characters of content so far.
        self.length = 0
        self._texts: list[str] = []
        self._include_usage = include_usage
        self._legacy = legacy
        self._thoughts = 0
        self._opened = False

    @property
    def text(self) -> str:
        """The content so far."""
        return "".join(self._texts)

    def open(self, content: str | None) -> list[JSONObject]:
        """Return the chunk of the role, once; ``content`` is None when the answer begins with a tool call."""
        if self._opened:
            return []
        self._opened = True
        return self.delta({"role": "assistant", "content": content, "refusal": None})

    def content(self, text: str) -> list[JSONObject]:
        """Return the chunk of a piece of text."""
        if not text:
            return []
        self.add_text(text)
        return self.delta({"content": text})

    def add_text(self, text: str) -> None:
        """Remember a piece of text that was said."""
        self._texts.append(text)
        self.length += len(text)

    def reasoning(self, text: str) -> list[JSONObject]:
        """Return the chunk of a piece of reasoning."""
        return self.delta({"reasoning_content": text}) if text else []

    def thinking_block(self, block: Mapping[str, object]) -> list[JSONObject]:
        """Return the chunk of a whole thinking block, which the client may send back as it is."""
        self._thoughts += 1
        return self.delta({"thinking_blocks": [{"index": self._thoughts - 1, **block}]})

    def call(self, call_id: str, name: str, kind: str) -> tuple[Call, list[JSONObject]]:
        """Open a tool call."""
        call = Call(call_id, name, kind, len(self.calls))
        self.calls.append(call)
        if self._legacy:
            return call, self.delta({"function_call": {"name": name, "arguments": ""}}) if call.index == 0 else []
        body = {"name": name, _text_key(kind): ""}
        return call, self.delta({"tool_calls": [{"index": call.index, "id": call_id, "type": kind, kind: body}]})

    def arguments(self, call: Call, piece: str) -> list[JSONObject]:
        """Return the chunk of a piece of a call's arguments, or of a custom call's input."""
        if not piece:
            return []
        call.pieces.append(piece)
        if self._legacy:
            return self.delta({"function_call": {"arguments": piece}}) if call.index == 0 else []
        entry = {"index": call.index, call.kind: {_text_key(call.kind): piece}}
        return self.delta({"tool_calls": [entry]})

    @property
    def called(self) -> str | None:
        """The finish reason of an answer that ends with calls; None when there were none."""
        if not self.calls:
            return None
        return "function_call" if self._legacy else "tool_calls"

    def finish(self, reason: str, native_reason: str | None, usage: JSONObject) -> list[JSONObject]:
        """End the choice, and the answer."""
        (last,) = self.delta({})
        last["choices"][0] |= {"finish_reason": reason, "native_finish_reason": native_reason}
        if not self._include_usage:
            return [last]
        return [last, self._chunk([]) | {"usage": usage}]

    def delta(self, delta: JSONObject) -> list[JSONObject]:
        """Return the chunk that holds ``delta``."""
        return [self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])]

    def _chunk(self, choices: list[JSONObject]) -> JSONObject:
        said = self.identity
        chunk: JSONObject = {
            "id": said.id,
            "object": "chat.completion.chunk",
            "created": said.created,
            "model": said.model,
            "choices": choices,
        }
        if self.service_tier is not None:
            chunk["service_tier"] = self.service_tier
        return chunk | {"usage": None} if self._include_usage else chunk


def _text_key(kind: str) -> str:
    return "input" if kind == "custom" else "arguments"
