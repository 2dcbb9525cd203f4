"""A streamed answer of Anthropic's Messages API, in the form of OpenAI's.

One object per answer, fed one event at a time. It knows whether the message ended, whether it is only paused, and
keeps the message's own blocks: the next request of a tool loop must hold them as they were.
"""

from collections.abc import Callable
from typing import ClassVar

from one_api.dialects import json
from one_api.dialects.anthropic.answer_text import AnswerText, Extras
from one_api.dialects.anthropic.blocks import Block, OpenBlocks, whole
from one_api.dialects.anthropic.chunks import ChunkWriter
from one_api.dialects.anthropic.ending import Ending
from one_api.dialects.anthropic.events import (
    Delta,
    blocks_of,
    check_inner,
    deltas_of,
    kind_of,
    number_of,
    usages_of,
)
from one_api.dialects.anthropic.response import (
    ResponseOptions,
    answer_id,
    service_tier,
    usage_of,
)
from one_api.dialects.anthropic.text import is_json_object
from one_api.dialects.characters import TextJoiner, all_whole
from one_api.dialects.custom_input import input_of
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import own_call_id
from one_api.dialects.openai.response import Identity
from one_api.dialects.payloads import DONE, InvalidAnswer, RepairedObject, UnfitAnswer, feed_all, read_event
from one_api.dialects.sse import Event

#: More blocks than this no answer has.
_MAX_BLOCKS = 4096
#: An answer with more characters than this is not kept, so it can be neither continued nor replayed.
_MAX_KEPT = 4 * 1024 * 1024
#: No answer is longer than this, in characters.
_MAX_CHARACTERS = 32 * 1024 * 1024
#: Characters of a token, roughly: for answers that we cut ourselves.
_TOKEN_CHARACTERS = 4
#: Kinds of deltas that hold words for the client: they are taken without a block's start, too.
_WORDS = ("text", "thinking")


class ClaudeStream:
    """Reads the events of one answer and returns the chunks to pass on.

    ``finished`` is True only when the upstream said that the message is complete; with ``paused`` the answer is not:
    ``resume()`` makes it ready for the message that continues it. ``usage`` is OpenAI's, as far as it is known.
    """

    def __init__(
        self, identity: Identity, options: ResponseOptions | None = None, *, include_usage: bool, resumes: int = 0
    ) -> None:
        self.finished = False
        self.paused = False
        self.usage: JSONObject | None = None
        self._options = options or ResponseOptions()
        self._writer = ChunkWriter(identity, include_usage=include_usage, legacy=self._options.legacy_functions)
        self._resumes = resumes
        self._started = False
        self._open = OpenBlocks()
        #: All blocks, in the order in which they began; None when they cannot be sent back as they were.
        self._blocks: list[Block] | None = []
        self._seen = 0
        #: The ids of the calls so far.
        self._call_ids: set[str] = set()
        #: Content that stood beside the events: it counts when they hold none.
        self._snapshot: list[JSONObject] = []
        self._joiner = TextJoiner()
        self._kept = 0
        self._ending = Ending()
        self._text = AnswerText(self._writer, self._options)
        #: The block whose text the events of the present frame add to.
        self._framed: Block | None = None
        self._json_said = False
        self._extras = Extras()

    notes_texts: ClassVar[bool] = True
    is_over, is_settled = False, True

    @property
    def text(self) -> str:
        """The content that the client was given."""
        return self._writer.text

    @property
    def calls(self) -> tuple[tuple[str, str, str], ...]:
        """The tool calls that the client was given: id (none in the deprecated form), name, arguments."""
        nameless = self._options.legacy_functions
        return tuple(("" if nameless else call.id, call.name, "".join(call.pieces)) for call in self._writer.calls)

    @property
    def blocks(self) -> list[JSONObject] | None:
        """The message's own blocks, whole; None when they cannot be sent back as they were."""
        return None if self._blocks is None else [block.kept for block in self._blocks if block.kept is not None]

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error.
            InvalidAnswer: when it is none of a message.
            UnfitAnswer: when it ends an answer that has not the form asked for.
        """
        if self.finished:
            return []
        try:
            payload = read_event(event, by_name=True)
        except InvalidAnswer as error:
            return feed_all(self.feed, event, error)
        if payload is DONE or (payload is None and event.name == "message_stop"):
            payload = {"type": "message_stop"}
        return [] if payload is None else self._take(payload, event)

    def text_in(self, payload: JSONObject) -> str | None:
        """See ``frames.Translator``: a piece of the text of an open block, where nothing is looked for in it."""
        delta = payload.get("delta")
        if payload.get("type") != "content_block_delta" or not isinstance(delta, dict) or self._joiner.begun:
            return None
        block = self._open.holder(number_of(payload), "text")
        if block is None or not self._text.passes_on or delta.keys() != {"type", "text"} or len(payload) != 3:
            return None
        self._framed = block
        return delta["text"] if delta["type"] == "text_delta" and isinstance(delta["text"], str) else None

    def add_text(self, text: str) -> None:
        """See ``frames.Translator``."""
        if text and self._framed is not None:
            self._framed.pieces.append(text)
            self._keep(len(text))
            self._writer.add_text(text)

    def _take(self, payload: JSONObject, event: Event) -> list[JSONObject]:
        kind = kind_of(payload, event.name)
        if kind != "content_block_delta" and isinstance(payload, RepairedObject):
            payload = all_whole(payload)
        check_inner(payload)
        for usage in usages_of(payload):
            self.usage = self._ending.count(usage)
        if kind == "message":
            return self._on_message(payload, is_all=event.bare)
        handler = _HANDLERS.get(kind)
        return [] if handler is None else handler(self, payload)

    @property
    def is_complete(self) -> bool:
        """Return whether the message has its stop reason: only its end may follow."""
        return self._ending.stop_reason is not None

    def end(self) -> list[JSONObject]:
        """Note that the upstream's bytes have ended; return the chunks that are still missing.

        ``finished`` stays False when the upstream never said that the message is complete.
        """
        return [] if self.finished or not self.is_complete else self._on_stop({})

    def resume(self) -> None:
        """Get ready for the message that continues a paused one."""
        self._ending.resume()
        self._resumes -= 1
        self.finished = self.paused = False

    # Events

    def _on_start(self, payload: JSONObject) -> list[JSONObject]:
        message = payload.get("message")
        message = message if isinstance(message, dict) else payload
        self._snapshot = blocks_of(message.get("content")) or self._snapshot
        if not self._started:
            self._started = True
            given = self._writer.identity
            model = message.get("model")
            shown = model if isinstance(model, str) and model else given.model
            self._writer.identity = Identity(answer_id(message.get("id"), given.id), given.created, shown)
            usage = message.get("usage")
            self._writer.service_tier = service_tier(usage.get("service_tier")) if isinstance(usage, dict) else None
        return []

    def _on_message(self, payload: JSONObject, *, is_all: bool) -> list[JSONObject]:
        """Take a whole message, or what has come of one so far."""
        self._on_start({"message": payload})
        if self._ending.read_stop(payload) or is_all:
            return self._on_stop({})
        return self._add_snapshot()

    def _on_block_start(self, payload: JSONObject) -> list[JSONObject]:
        number = number_of(payload)
        return [chunk for start in blocks_of(payload.get("content_block")) for chunk in self._begin(number, start)]

    def _begin(self, number: int | None, start: JSONObject) -> list[JSONObject]:
        """Begin a block; one of the same number that is still open ends with it."""
        if start["type"] == "tool_use" and (known := self._open.same_call(start)):
            known.start["input"] = start["input"] or known.start["input"]
            return []
        self._seen += 1
        if self._seen > _MAX_BLOCKS:
            raise InvalidAnswer(f"it has more than {_MAX_BLOCKS} content blocks")
        block = Block(start, self._writer.length, number)
        ended = self._open.add(block)
        chunks = [] if ended is None else self._close(ended)
        if self._blocks is not None:
            self._blocks.append(block)
        if block.kind == "tool_use":
            return chunks + self._open_call(block)
        chunks += self._writer.open(None if block.kind == "text" and self._options.forced_tool else "")
        if block.kind == "text":
            given = start.get("citations")
            block.citations += [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
            return chunks + self._add_text(block, start["text"])
        if block.kind == "thinking":
            return chunks + self._add_thinking(block, start["thinking"])
        self._keep(len(json.encode(start)))
        return chunks

    def _on_delta(self, payload: JSONObject) -> list[JSONObject]:
        number = number_of(payload)
        deltas = deltas_of(payload)
        if self._joiner or isinstance(payload, RepairedObject):
            deltas = [delta.joined(self._joiner, number) for delta in deltas]
        return [chunk for delta in deltas for chunk in self._add(number, delta)]

    def _add(self, number: int | None, delta: Delta) -> list[JSONObject]:
        """Add a piece to its block; text and thinking may come without a block's start."""
        block = self._open.holder(number, delta.kind)
        if block is None:
            if delta.kind not in _WORDS:
                return []
            return self._begin(number, {"type": delta.kind, delta.kind: ""}) + self._add(number, delta)
        if delta.kind == "text":
            return self._add_text(block, block.after_start(delta.value))
        if delta.kind == "thinking":
            return self._add_thinking(block, block.after_start(delta.value))
        if delta.kind == "input":
            return self._add_input(block, delta.value)
        if delta.kind == "signature":
            block.signature = delta.value
        else:
            block.citations.append(delta.value)
        return []

    def _on_block_stop(self, payload: JSONObject) -> list[JSONObject]:
        block = self._open.at(number_of(payload))
        return [] if block is None else self._close(block)

    def _on_message_delta(self, payload: JSONObject) -> list[JSONObject]:
        self._ending.read_stop(payload)
        return []

    def _on_stop(self, payload: JSONObject) -> list[JSONObject]:
        self._ending.read_stop(payload)
        if not self._started and not self._seen and not self.is_complete:
            raise InvalidAnswer("it ends before an answer has begun")
        chunks = [] if self._seen else self._add_snapshot()
        for block in self._open.all():
            chunks += self._close(block)
        self.finished = True
        if self._ending.stop_reason == "pause_turn" and self._resumes > 0 and self.blocks:
            self.paused = True
            return chunks
        return chunks + self._finish()

    def _add_snapshot(self) -> list[JSONObject]:
        """Take the content that stood beside the events."""
        found, self._snapshot = self._snapshot, []
        chunks = [chunk for start in found for chunk in self._begin(None, start)]
        return chunks + [chunk for block in self._open.all() for chunk in self._close(block)]

    # Pieces

    def _add_text(self, block: Block, text: str) -> list[JSONObject]:
        if not text:
            return []
        block.pieces.append(text)
        self._keep(len(text))
        chunks = self._text.add(text)
        return chunks + self._cut_short() if self._text.is_cut else chunks

    def _add_thinking(self, block: Block, text: str) -> list[JSONObject]:
        block.pieces.append(text)
        self._keep(len(text))
        return self._writer.reasoning(text)

    def _open_call(self, block: Block) -> list[JSONObject]:
        name, call_id = block.start["name"], block.start["id"]
        if not name:
            raise InvalidAnswer("a tool call has no name")
        if name == self._options.json_tool:
            return self._writer.open("")
        chunks = self._writer.open(None) + self._text.end()
        if not call_id or call_id in self._call_ids:
            call_id = own_call_id(self._writer.identity.id, len(self._writer.calls))
            block.start = {**block.start, "id": call_id}
        self._call_ids.add(call_id)
        shown = self._options.names.get(name, name)
        kind = "custom" if shown in self._options.custom_tools else "function"
        block.call, opening = self._writer.call(call_id, shown, kind)
        return chunks + opening

    def _add_input(self, block: Block, piece: str) -> list[JSONObject]:
        self._keep(len(piece))
        piece = block.add_input(piece)
        if block.call is not None:
            return [] if block.call.kind == "custom" else self._writer.arguments(block.call, piece)
        if block.kind == "tool_use" and not self._json_said:
            return self._writer.content(piece)
        return []

    # Ends

    def _close(self, block: Block) -> list[JSONObject]:
        """Return the chunks that are still missing of a block that has ended, and keep the block."""
        chunks = self._add_rest(block) if self._joiner else []
        self._open.remove(block)
        return chunks + self._closed(block)

    def _add_rest(self, block: Block) -> list[JSONObject]:
        """Add what stands for the rest of a character that was not completed."""
        kind = "input" if block.kind.endswith("tool_use") else block.kind
        rest = self._joiner.rest((block.number, kind))
        return self._add(block.number, Delta(kind, rest)) if rest else []

    def _closed(self, block: Block) -> list[JSONObject]:
        kept = whole(block)
        if kept is None:
            self._blocks = None
        elif block.kind != "text" or kept["text"]:  # an empty text is refused later
            block.kept = kept
        if block.kind == "tool_use":
            return self._close_call(block)
        if block.kind in ("thinking", "redacted_thinking") and kept is not None:
            return self._writer.thinking_block(kept)
        if block.kind != "text" and kept is not None and self._options.provider_blocks:
            self._extras.provider_blocks.append(kept)
        for citation in block.citations:
            self._extras.cite(citation, block.at, min(self._writer.length, block.at + block.length))
        return []

    def _close_call(self, block: Block) -> list[JSONObject]:
        if block.call is None:
            said, self._json_said = self._json_said, True
            self._text.drop()
            return [] if block.is_plain or said else self._writer.content(block.arguments)
        if block.call.kind == "custom":
            return self._writer.arguments(block.call, input_of(block.arguments))
        return [] if block.is_plain else self._writer.arguments(block.call, block.arguments)

    def _finish(self) -> list[JSONObject]:
        chunks, ending = self._writer.open("") + self._text.end(), self._ending
        asked = self._options.json_object and not self._writer.calls and ending.is_natural
        if asked and not is_json_object(self._writer.text):
            raise UnfitAnswer("the model has not answered with a JSON object; give a JSON schema to hold it to one")
        chunks += self._extras.chunks(self._writer)
        reason = ending.finish_reason(self._writer.called)
        if reason == "content_filter" and ending.explanation is not None:
            chunks += self._writer.delta({"refusal": ending.explanation})
        return chunks + self._writer.finish(reason, ending.stop_reason, self.usage or usage_of({}))

    def _cut_short(self) -> list[JSONObject]:
        """End the answer at a stop string of ours."""
        self.finished, self._blocks = True, None
        self.usage = self._ending.cut(self._kept // _TOKEN_CHARACTERS)
        return self._finish()

    def _keep(self, characters: int) -> None:
        self._kept += characters
        if self._kept > _MAX_CHARACTERS:
            raise InvalidAnswer(f"it is longer than {_MAX_CHARACTERS} characters")
        self._blocks = None if self._kept > _MAX_KEPT else self._blocks


_HANDLERS: dict[str, Callable[[ClaudeStream, JSONObject], list[JSONObject]]] = {
    "message_start": ClaudeStream._on_start,
    "content_block_start": ClaudeStream._on_block_start,
    "content_block_delta": ClaudeStream._on_delta,
    "content_block_stop": ClaudeStream._on_block_stop,
    "message_delta": ClaudeStream._on_message_delta,
    "message_stop": ClaudeStream._on_stop,
}
