"""A streamed answer of Anthropic's Messages API, told as OpenAI tells it.

One object per answer, fed one event at a time. It knows whether the message ended, whether it is only paused, and
keeps the message's own blocks: the next request of a tool loop must hold them as they were.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from one_api.wire import json
from one_api.wire.claude_blocks import Block, custom_input, whole
from one_api.wire.claude_chunks import ChunkWriter
from one_api.wire.claude_response import (
    annotation,
    answer_id,
    ends_of_itself,
    finish_reason,
    known_stop,
    merge_usage,
    service_tier,
    sum_usage,
    usage_of,
)
from one_api.wire.claude_text import FenceStripper, StopScanner, is_json_object
from one_api.wire.json import JSONObject
from one_api.wire.openai_calls import own_call_id
from one_api.wire.openai_response import Identity
from one_api.wire.payloads import InvalidAnswer, UnfitAnswer, check_error
from one_api.wire.sse import Event

logger = logging.getLogger(__name__)

#: More blocks than this no answer has.
_MOST_BLOCKS = 4096
#: An answer with more characters than this is not kept, so it can be neither continued nor replayed.
_MOST_KEPT = 4 * 1024 * 1024
#: No answer is longer than this, in characters.
_MOST_CHARACTERS = 32 * 1024 * 1024
#: Characters of a token, roughly: for answers that we cut ourselves, whose count is never told.
_TOKEN_CHARACTERS = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What the request asked for, as far as its answer must be told differently for it."""

    #: The client's names of tools, by the upstream's, where they differ.
    names: Mapping[str, str] = field(default_factory=dict)
    #: The client's names of its custom tools: their input is a text.
    custom_tools: frozenset[str] = frozenset()
    #: Stop strings that the upstream refuses.
    stops: tuple[str, ...] = ()
    #: The upstream's name of a tool whose input is really the content.
    json_tool: str | None = None
    #: The client's name of the tool whose arguments the text really is.
    forced_tool: str | None = None
    #: Take a Markdown fence around the whole answer away.
    unfence: bool = False
    #: An answer without calls that is no JSON object, and was not stopped, is unfit.
    json_object: bool = False
    legacy_functions: bool = False
    #: Tell the blocks that have no place in OpenAI's format, as they came.
    provider_blocks: bool = False


class ClaudeStream:
    """Reads the events of one answer and returns the chunks to pass on.

    ``finished`` is True only when the upstream said that the message is complete; with ``paused`` the answer is not:
    ``resume()`` makes it ready for the message that continues it. ``usage`` is OpenAI's, as far as it is known.
    """

    def __init__(
        self, identity: Identity, shape: Shape | None = None, *, include_usage: bool, resumes: int = 0
    ) -> None:
        self.finished = False
        self.paused = False
        self.usage: JSONObject | None = None
        #: The message's own blocks, whole; None when they cannot be sent back as they were.
        self.blocks: list[JSONObject] | None = []
        self.stop_reason: str | None = None
        self._shape = shape or Shape()
        self._writer = ChunkWriter(identity, include_usage=include_usage, legacy=self._shape.legacy_functions)
        self._resumes = resumes
        self._started = False
        self._open: dict[int, Block] = {}
        self._seen = 0
        self._kept = 0
        self._said_usage: JSONObject = {}
        self._earlier_usage: JSONObject | None = None
        self._stop_details: Any = None
        self._scanner = StopScanner(self._shape.stops)
        self._fence = FenceStripper(self._shape.unfence)
        self._json_said = False
        self._before_json: list[str] = []
        self._annotations: list[JSONObject] = []
        self._citations: list[JSONObject] = []
        self._provider_blocks: list[JSONObject] = []

    @property
    def text(self) -> str:
        """The content that the client was given."""
        return self._writer.text

    @property
    def calls(self) -> tuple[tuple[str, str, str], ...]:
        """The tool calls that the client was given: id (none in the deprecated form), name, arguments."""
        nameless = self._shape.legacy_functions
        return tuple(("" if nameless else call.id, call.name, "".join(call.pieces)) for call in self._writer.calls)

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error.
            InvalidAnswer: when it is none of a message.
            UnfitAnswer: when it ends an answer that has not the form asked for.
        """
        if self.finished or event.data == b"[DONE]":
            return []
        try:
            payload = json.decode_object(event.data)
        except json.InvalidJSON as error:
            raise InvalidAnswer(f"an event is not a JSON object: {error}") from None
        handler = _HANDLERS.get(str(payload.get("type") or event.name))
        if handler is not None:
            return handler(self, payload)
        check_error(payload)
        return []

    @property
    def is_complete(self) -> bool:
        """Say whether the message has its stop reason: only its end may follow."""
        return self.stop_reason is not None

    def end(self) -> list[JSONObject]:
        """Tell the stream that the upstream's bytes have ended; returns what is still owed to the client.

        ``finished`` stays False when the upstream never said that the message is complete.
        """
        return [] if self.finished or self.stop_reason is None else self._on_stop({})

    def resume(self) -> None:
        """Get ready for the message that continues a paused one."""
        self._earlier_usage, self._said_usage = self.usage, {}
        self._resumes -= 1
        self.finished = self.paused = False
        self.stop_reason, self._stop_details = None, None

    # Events

    def _on_start(self, payload: JSONObject) -> list[JSONObject]:
        message = payload.get("message")
        if not isinstance(message, dict):
            raise InvalidAnswer("its start holds no message")
        if not self._started:
            self._started = True
            given = self._writer.identity
            model = message.get("model")
            shown = model if isinstance(model, str) and model else given.model
            self._writer.identity = Identity(answer_id(message.get("id"), given.id), given.created, shown)
            usage = message.get("usage")
            self._writer.service_tier = service_tier(usage.get("service_tier")) if isinstance(usage, dict) else None
        self._count(message.get("usage"))
        return []

    def _on_block_start(self, payload: JSONObject) -> list[JSONObject]:
        index, start = payload.get("index"), payload.get("content_block")
        if not isinstance(index, int) or not isinstance(start, dict) or not isinstance(start.get("type"), str):
            raise InvalidAnswer("a content block has no number or no type")
        self._seen += 1
        if self._seen > _MOST_BLOCKS:
            raise InvalidAnswer(f"it has more than {_MOST_BLOCKS} content blocks")
        block = self._open[index] = Block(start, self._writer.length)
        if block.kind == "tool_use":
            return self._open_call(block)
        chunks = self._writer.open(None if block.kind == "text" and self._shape.forced_tool else "")
        if block.kind == "text":
            given = start.get("citations")
            block.citations += [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
            return chunks + self._add_text(block, _text(start.get("text")))
        if block.kind == "thinking":
            return chunks + self._add_thinking(block, _text(start.get("thinking")))
        self._keep(len(json.encode(start)))
        return chunks

    def _on_delta(self, payload: JSONObject) -> list[JSONObject]:
        index, delta = payload.get("index"), payload.get("delta")
        if not isinstance(delta, dict):
            raise InvalidAnswer("a delta is not an object")
        kind = delta.get("type")
        if kind not in ("text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta"):
            return []
        block = self._open.get(index) if isinstance(index, int) else None
        if block is None:
            raise InvalidAnswer("a delta belongs to no open content block")
        if kind == "text_delta":
            return self._add_text(block, _text(delta.get("text")))
        if kind == "thinking_delta":
            return self._add_thinking(block, _text(delta.get("thinking")))
        if kind == "input_json_delta":
            return self._add_input(block, _text(delta.get("partial_json")))
        if kind == "signature_delta":
            block.signature = _text(delta.get("signature"))
        elif isinstance(delta.get("citation"), dict):
            block.citations.append(delta["citation"])
        return []

    def _on_block_stop(self, payload: JSONObject) -> list[JSONObject]:
        index = payload.get("index")
        block = self._open.pop(index, None) if isinstance(index, int) else None
        return [] if block is None else self._close(block)

    def _on_message_delta(self, payload: JSONObject) -> list[JSONObject]:
        delta = payload.get("delta")
        if isinstance(delta, dict):
            if isinstance(reason := delta.get("stop_reason"), str):
                self.stop_reason = reason
            self._stop_details = delta.get("stop_details") or self._stop_details
        self._count(payload.get("usage"))
        return []

    def _on_stop(self, _: JSONObject) -> list[JSONObject]:
        chunks: list[JSONObject] = []
        for index in sorted(self._open):
            chunks += self._close(self._open.pop(index))
        self.finished = True
        if self.stop_reason == "pause_turn" and self._resumes > 0 and self.blocks:
            self.paused = True
            return chunks
        return chunks + self._finish()

    # Pieces

    def _add_text(self, block: Block, text: str) -> list[JSONObject]:
        if not text:
            return []
        block.pieces.append(text)
        self._keep(len(text))
        if self._shape.json_tool:  # only the tool's input is the answer; if it is not called, the text is
            self._before_json.append(text)
            return []
        chunks = self._tell(self._fence.feed(self._scanner.feed(text)))
        return chunks + self._cut_short() if self._scanner.hit else chunks

    def _tell(self, text: str) -> list[JSONObject]:
        """Say text, or what it really is."""
        name = self._shape.forced_tool
        if not text or name is None:
            return self._writer.content(text)
        if self._writer.calls:
            return self._writer.arguments(self._writer.calls[0], text)
        call, chunks = self._writer.call(own_call_id(self._writer.identity.id, 0), name, "function")
        return chunks + self._writer.arguments(call, text)

    def _tell_held(self) -> list[JSONObject]:
        """Say what was held back of the text."""
        before, self._before_json = "".join(self._before_json), []
        return self._tell(before + self._fence.feed(self._scanner.end()) + self._fence.end())

    def _add_thinking(self, block: Block, text: str) -> list[JSONObject]:
        block.pieces.append(text)
        self._keep(len(text))
        return self._writer.reasoning(text)

    def _open_call(self, block: Block) -> list[JSONObject]:
        name = _text(block.start.get("name"))
        if name == self._shape.json_tool:
            return self._writer.open("")
        chunks = self._writer.open(None) + self._tell_held()
        shown = self._shape.names.get(name, name)
        call_id = _text(block.start.get("id")) or own_call_id(self._writer.identity.id, len(self._writer.calls))
        kind = "custom" if shown in self._shape.custom_tools else "function"
        block.call, opening = self._writer.call(call_id, shown, kind)
        return chunks + opening

    def _add_input(self, block: Block, piece: str) -> list[JSONObject]:
        if not piece:
            return []
        block.pieces.append(piece)
        self._keep(len(piece))
        if block.call is not None:
            return [] if block.call.kind == "custom" else self._writer.arguments(block.call, piece)
        if block.kind == "tool_use" and not self._json_said:
            return self._writer.content(piece)
        return []

    # Ends

    def _close(self, block: Block) -> list[JSONObject]:
        """Say what is owed when a block has ended, and keep the block."""
        kept = whole(block)
        if kept is None:
            self.blocks = None
        elif self.blocks is not None and (block.kind != "text" or kept["text"]):  # an empty text is refused later
            self.blocks.append(kept)
        if block.kind == "tool_use":
            return self._close_call(block)
        if block.kind in ("thinking", "redacted_thinking") and kept is not None:
            return self._writer.thinking_block(kept)
        if block.kind != "text" and kept is not None and self._shape.provider_blocks:
            self._provider_blocks.append(kept)
        for citation in block.citations:
            found = annotation(citation, block.at, self._writer.length)
            (self._annotations if found else self._citations).append(found or citation)
        return []

    def _close_call(self, block: Block) -> list[JSONObject]:
        given = block.start.get("input")
        text = "".join(block.pieces)
        if block.call is None:
            said, self._json_said = self._json_said, True
            self._before_json = []
            return [] if text or said else self._writer.content(json.encode(given or {}).decode())
        if block.call.kind == "custom":
            return self._writer.arguments(block.call, custom_input(text, given))
        return [] if text else self._writer.arguments(block.call, json.encode(given or {}).decode())

    def _finish(self) -> list[JSONObject]:
        chunks = self._writer.open("") + self._tell_held()
        if self._shape.json_object and not self._writer.calls and ends_of_itself(self.stop_reason):
            self._check_json()
        if self._annotations:
            chunks += self._writer.delta({"annotations": self._annotations})
        if self._citations:
            chunks += self._writer.delta({"citations": self._citations})
        if self._provider_blocks:
            chunks += self._writer.delta({"provider_specific": {"content": self._provider_blocks}})
        if self.stop_reason is None or not known_stop(self.stop_reason):
            logger.warning("an upstream ended a message with the stop reason %r: told as `stop`", self.stop_reason)
        reason = finish_reason(self.stop_reason, self._writer.called)
        details = self._stop_details
        if reason == "content_filter" and isinstance(details, dict) and isinstance(details.get("explanation"), str):
            chunks += self._writer.delta({"refusal": details["explanation"]})
        return chunks + self._writer.finish(reason, self.stop_reason, self.usage or usage_of({}))

    def _check_json(self) -> None:
        if not is_json_object(self._writer.text):
            raise UnfitAnswer("the model has not answered with a JSON object; give a JSON schema to hold it to one")

    def _cut_short(self) -> list[JSONObject]:
        """End the answer at a stop string of ours; the upstream's count of it will never be known."""
        self.finished, self.blocks, self.stop_reason = True, None, "stop_sequence"
        told = _count_of(self.usage)
        estimate = {**self._said_usage, "output_tokens": max(told, self._kept // _TOKEN_CHARACTERS)}
        self._count(estimate)
        self.usage = {**(self.usage or {}), "estimated": True}
        return self._finish()

    def _count(self, said: Any) -> None:
        merge_usage(self._said_usage, said)
        usage = usage_of(self._said_usage)
        self.usage = sum_usage(self._earlier_usage, usage) if self._earlier_usage else usage

    def _keep(self, characters: int) -> None:
        self._kept += characters
        if self._kept > _MOST_CHARACTERS:
            raise InvalidAnswer(f"it is longer than {_MOST_CHARACTERS} characters")
        if self._kept > _MOST_KEPT:
            self.blocks = None


_HANDLERS: dict[str, Callable[[ClaudeStream, JSONObject], list[JSONObject]]] = {
    "message_start": ClaudeStream._on_start,
    "content_block_start": ClaudeStream._on_block_start,
    "content_block_delta": ClaudeStream._on_delta,
    "content_block_stop": ClaudeStream._on_block_stop,
    "message_delta": ClaudeStream._on_message_delta,
    "message_stop": ClaudeStream._on_stop,
}


def _text(value: Any) -> str:
    """Return a text; what is left out is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidAnswer("a piece of text is none")
    return value


def _count_of(usage: JSONObject | None) -> int:
    return int(usage["completion_tokens"]) if usage else 0
