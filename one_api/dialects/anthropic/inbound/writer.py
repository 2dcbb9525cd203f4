"""Chat chunks become the events of a message's stream: what Anthropic's clients read."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.history import RAW_ARGUMENTS
from one_api.dialects.anthropic.inbound.answer import (
    CUSTOM_INPUT,
    STOP_REASONS,
    Seal,
    Stop,
    body_of,
    call_id,
    citations_of,
    estimated_usage,
    size_of,
    usage_of,
    with_head,
)
from one_api.dialects.anthropic.inbound.chat import AnswerForm
from one_api.dialects.anthropic.inbound.errors import error_of
from one_api.dialects.anthropic.text import StopScanner
from one_api.dialects.event_writer import EventWriter
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import ValueScanner
from one_api.dialects.openai.calls import calls_in
from one_api.dialects.openai.shapes import text_of
from one_api.dialects.sse import HEARTBEAT
from one_api.errors import GatewayError

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
#: Beginnings of arguments that may turn out to be empty, for which no delta is sent.
_EMPTY_INPUTS = ("", "{", "{}")
_BLANK = ("",)
#: The types of deltas, and the fields that hold them, by the types of blocks; all others are of a call.
_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def encode(payload: JSONObject) -> bytes:
    """Return the bytes of one event, which is named as its type."""
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), json.encode(payload))


@dataclass(slots=True, eq=False)
class _Block:
    """A content block: as it starts, and what is to be sent of it."""

    start: JSONObject
    #: Pieces that have not been sent.
    pieces: list[str] = field(default_factory=list)
    #: Of thinking: all of it, for the signature; it need not be shown.
    thought: list[str] = field(default_factory=list)
    #: Of thinking: an upstream's own signature.
    signature: str = ""
    #: Of a text: what its end is to say of its sources.
    citations: list[JSONObject] = field(default_factory=list)
    #: Of a call: its index among the chunk's calls, and how far its arguments have come.
    call: int | None = None
    arguments: ValueScanner = field(default_factory=ValueScanner)
    #: Something but white space has come of the arguments.
    has_arguments: bool = False
    #: Of a call whose arguments are a text and no object: what the text is called, in an object that it alone is in.
    member: str = ""

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.start["type"])

    @property
    def is_done(self) -> bool:
        """Return whether nothing more of it can come once another has begun."""
        return self.call is None or (self.has_arguments and self.arguments.is_whole)

    @property
    def is_cut(self) -> bool:
        """Return whether the arguments of a call are cut."""
        return self.has_arguments and not self.arguments.is_whole

    def is_blank(self, text: str) -> bool:
        """Return whether a block that begins so has nothing to be sent yet: clients do not send blank texts back."""
        return text.strip() in (_EMPTY_INPUTS if self.call is not None else _BLANK)


class MessageWriter(EventWriter):
    """Writes one answer as the events of a message.

    One block is open at a time, as clients expect. A block that begins while a call is not whole yet waits for it:
    upstreams may send the pieces of several calls in turn.
    """

    #: Anthropic's clients expect a ping about as often.
    heartbeat_s = 10.0

    def __init__(self, message_id: str, form: AnswerForm, count_input: Callable[[], int], seal: Seal) -> None:
        """``count_input`` estimates the tokens of the input, if need be: the true count at the end takes its place."""
        self._message_id = message_id
        self._form = form
        self._count_input = count_input
        self._seal = seal
        self._looks_for_stops = form.cuts and bool(form.stops)
        self._scanner = StopScanner(form.stops if form.cuts else ())
        self._started = False
        #: The events are the upstream's own.
        self._is_native = False
        #: The index of the open block, or of the next.
        self._index = 0
        #: The open block, then those that wait for it.
        self._blocks: deque[_Block] = deque()
        self._is_open = False
        self._calls: dict[int, _Block] = {}
        self._finish: JSONObject = {}
        self._usage: Any = None
        self._refusal: list[str] = []
        #: Characters that the model has written.
        self._written = 0

    def begin(self) -> bytes:
        """See ``EventWriter``. Nothing: the stream may turn out to be the upstream's own, which begins itself."""
        return b""

    def heartbeat(self) -> bytes:
        """See ``EventWriter``."""
        return _PING if self._started else HEARTBEAT

    def write(self, chunks: list[JSONObject]) -> bytes:
        """See ``EventWriter``."""
        found: list[bytes] = []
        for chunk in chunks:
            if "native" in chunk or "native_start" in chunk:
                self._pass(chunk, found)
                continue
            self._start(found)
            if chunk.get("usage") is not None:
                self._usage = chunk["usage"]
            for choice in chunk.get("choices") or ():
                if choice.get("index") == 0:
                    self._take(choice, found)
        return b"".join(found)

    def _pass(self, chunk: JSONObject, found: list[bytes]) -> None:
        """Pass an event of the upstream's own on."""
        self._is_native = self._started = True
        if "native" in chunk:
            found.append(chunk["native"])
            return
        start = chunk["native_start"]
        message = with_head(start["message"], self._message_id, self._form.model)
        found.append(encode({**start, "type": "message_start", "message": message}))

    def _start(self, found: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        usage = {**usage_of(None), "input_tokens": self._input_tokens, "output_tokens": 1}
        message: JSONObject = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._form.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        found.append(encode({"type": "message_start", "message": message}))

    def _take(self, choice: JSONObject, found: list[bytes]) -> None:
        """Add what one choice of a chunk holds, in the order in which a model writes it."""
        delta = choice.get("delta") or {}
        if self._goes_on(choice, delta):
            self._written += len(delta["content"])
            found.append(self._delta(self._blocks[0], delta["content"]))
            return
        self._written += size_of(delta)
        if text := delta.get("reasoning_content"):
            self._think(text, found)
        for block in delta.get("thinking_blocks") or ():
            self._sign(block, found)
        if (text := text_of(delta)) and not self._scanner.hit:
            self._say(self._scanner.feed(text), found)
        if delta.get("annotations") and (block := self._last("text")) is not None:
            block.citations += citations_of(delta)
        if text := delta.get("refusal"):
            if not self._refusal and self._last("text") is not None:
                self._add(_Block({"type": "text", "text": ""}), found)
            self._refusal.append(text)
            self._say(text, found)
        if (calls := calls_in(delta, self._message_id)) and not self._scanner.hit:
            self._say(self._scanner.end(), found)
            for entry in calls:
                self._call(entry, found)
        if choice.get("finish_reason") is not None:
            self._finish = choice

    def _goes_on(self, choice: JSONObject, delta: JSONObject) -> bool:
        """Return whether a choice holds nothing but more of the text of the open block, as most do."""
        if len(delta) != 1 or not isinstance(text := delta.get("content"), str) or not text or self._looks_for_stops:
            return False
        is_all = choice.get("finish_reason") is None and self._is_open and len(self._blocks) == 1
        return is_all and self._blocks[0].kind == "text"

    def _think(self, text: str, found: list[bytes]) -> None:
        if self._form.thinking == "none" or not isinstance(text, str):
            return
        block = self._last("thinking")
        if block is None:
            start = {"type": "thinking", "thinking": "", "signature": ""}
            block = self._add(_Block(start), found)
        block.thought.append(text)
        if self._form.thinking == "shown":
            block.pieces.append(text)
            self._advance(found)

    def _sign(self, thinking: Any, found: list[bytes]) -> None:
        """Send on a whole thinking block of Anthropic's, whose words have been sent before."""
        if self._form.thinking == "none" or not isinstance(thinking, dict):
            return
        if thinking.get("type") == "redacted_thinking":
            self._add(_Block({"type": "redacted_thinking", "data": thinking.get("data", "")}), found)
        elif isinstance(thinking.get("signature"), str):
            block = self._last("thinking")
            if block is None or block.signature:
                block = self._add(_Block({"type": "thinking", "thinking": "", "signature": ""}), found)
            block.signature = thinking["signature"]

    def _say(self, text: str, found: list[bytes]) -> None:
        if not text:
            return
        block = self._last("text") or self._add(_Block({"type": "text", "text": ""}), found)
        block.pieces.append(text)
        self._advance(found)

    def _call(self, entry: JSONObject, found: list[bytes]) -> None:
        index, body = entry.get("index", 0), body_of(entry)
        block = self._calls.get(index)
        if block is None:
            start = {"type": "tool_use", "id": call_id(entry.get("id")), "name": "", "input": {}}
            member = CUSTOM_INPUT if "custom" in entry else ""
            block = self._calls[index] = self._add(_Block(start, call=index, member=member), found)
        block.start["name"] += body.get("name") or ""
        piece = body.get("arguments") or body.get("input") or ""
        if not block.has_arguments and piece.strip() and not piece.lstrip().startswith("{"):
            block.member = block.member or RAW_ARGUMENTS
        if block.member:
            opening = "" if block.has_arguments else f'{{"{block.member}":"'
            piece = opening + json.encode([piece]).decode()[2:-2]
        if piece:
            block.pieces.append(piece)
            block.arguments.add(piece)
            block.has_arguments = block.has_arguments or not piece.isspace()
            self._advance(found)

    def _last(self, kind: str) -> _Block | None:
        """Return the latest block, when it is of this kind."""
        return self._blocks[-1] if self._blocks and self._blocks[-1].kind == kind else None

    def _add(self, block: _Block, found: list[bytes]) -> _Block:
        """Add a block behind the others."""
        self._blocks.append(block)
        self._advance(found)
        return block

    def _advance(self, found: list[bytes]) -> None:
        """Close the blocks of which nothing more can come since another has begun, and send what there is of the next.

        A call may be continued until its arguments are whole.
        """
        while len(self._blocks) > 1 and self._blocks[0].is_done:
            self._close(found)
        self._flush(found)

    def _flush(self, found: list[bytes], *, closing: bool = False) -> None:
        """Send what has come of the first block; its start waits for its name, or for the first words."""
        block = self._blocks[0]
        text = "".join(block.pieces)
        if not self._is_open and (block.is_blank(text) or (block.start.get("name") == "" and not closing)):
            return
        if text:
            block.pieces.clear()
            self._open(block, found)
            found.append(self._delta(block, text))

    def _delta(self, block: _Block, text: str) -> bytes:
        kind, key = _DELTAS.get(block.kind, ("input_json_delta", "partial_json"))
        return encode({"type": "content_block_delta", "index": self._index, "delta": {"type": kind, key: text}})

    def _open(self, block: _Block, found: list[bytes]) -> None:
        """Send the start of the first block; a call's waits until its name is whole."""
        if not self._is_open:
            self._is_open = True
            if block.call is not None:
                block.start["name"] = self._form.names.get(block.start["name"], block.start["name"])
            found.append(encode({"type": "content_block_start", "index": self._index, "content_block": block.start}))

    def _close(self, found: list[bytes]) -> None:
        """End the first block; the next one takes its place."""
        block = self._blocks[0]
        is_cut = len(self._blocks) == 1 and self._finish.get("finish_reason") in STOP_REASONS
        if block.member and not is_cut:
            block.pieces.append('"}')
        self._flush(found, closing=True)
        signature = block.signature
        if block.kind == "thinking" and not signature:
            signature = self._seal("".join(block.thought))
        if self._is_open or signature or block.kind in ("tool_use", "redacted_thinking"):
            self._open(block, found)
            for each in block.citations:
                cited = {"type": "citations_delta", "citation": each}
                found.append(encode({"type": "content_block_delta", "index": self._index, "delta": cited}))
            if signature:
                signed = {"type": "signature_delta", "signature": signature}
                found.append(encode({"type": "content_block_delta", "index": self._index, "delta": signed}))
            found.append(encode({"type": "content_block_stop", "index": self._index}))
            self._index += 1
        self._is_open = False
        self._blocks.popleft()

    def end(self) -> bytes:
        """See ``EventWriter``."""
        if self._is_native:
            return b""
        found: list[bytes] = []
        self._start(found)
        self._say(self._scanner.end(), found)
        while self._blocks:
            self._close(found)
        whole = not any(block.is_cut for block in self._calls.values())
        stop = Stop.of(self._finish, self._form, called=bool(self._calls), whole=whole, cut=self._scanner.stop)
        usage = usage_of(self._usage) if self._usage is not None else self._estimate()
        delta = stop.fields("".join(self._refusal))
        found.append(encode({"type": "message_delta", "delta": delta, "usage": usage}))
        found.append(encode({"type": "message_stop"}))
        return b"".join(found)

    @cached_property
    def _input_tokens(self) -> int:
        return self._count_input()

    def _estimate(self) -> JSONObject:
        """Return the usage of an answer whose upstream reports none."""
        return estimated_usage(self._input_tokens, self._written)

    def fail(self, error: GatewayError) -> bytes:
        """See ``EventWriter``: an event ``error``, and no end."""
        return encode({"type": "error", "error": error_of(error)})
