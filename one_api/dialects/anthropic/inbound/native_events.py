"""The events of a message that an upstream has streamed, as Anthropic's own server writes them.

What is written so already is not touched. Servers that imitate Anthropic's leave out starts, ends, names and numbers,
give an input as an object or as a text within a text, and take counts back: clients that read by the letter raise
exceptions there, or lose words.
"""

from collections.abc import Iterable
from typing import Any

from one_api.dialects import usage
from one_api.dialects.anthropic.blocks import Block, OpenBlocks
from one_api.dialects.anthropic.events import (
    Delta,
    blocks_of,
    check_inner,
    deltas_of,
    number_of,
    stop_details_of,
    stop_of,
    usages_of,
)
from one_api.dialects.anthropic.response import check_stop, merge_usage, usage_of
from one_api.dialects.characters import TextJoiner
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import own_call_id
from one_api.dialects.payloads import InvalidAnswer, RepairedObject

#: More blocks than this no answer has.
_MAX_BLOCKS = 4096
#: Kind of a delta -> its type, and the field of its value.
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "input": ("input_json_delta", "partial_json"),
    "signature": ("signature_delta", "signature"),
    "citation": ("citations_delta", "citation"),
}
_WORDS = ("text", "thinking")
#: The blocks of words as they start, the fields of what is said of the end, and reasons for it without calls and with.
_STARTS = ({"type": "text", "text": ""}, {"type": "thinking", "thinking": "", "signature": ""})
_END = {"stop_reason", "stop_sequence"}
_CALLED = (("end_turn", "max_tokens", "stop_sequence"), ("tool_use", "max_tokens"))
#: What the start of every message says.
_MESSAGE: JSONObject = {"type": "message", "role": "assistant", "stop_reason": None, "stop_sequence": None}
_HEAD: JSONObject = {**_MESSAGE, "content": []}
#: OpenAI's words for why an answer ended, in Anthropic's.
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


class MessageEvents:
    """Reads the events of one message, one at a time; ``message_id`` is for one that has none."""

    def __init__(self, message_id: str) -> None:
        self.finished = False
        #: The message has its stop reason: only its end may follow.
        self.is_complete = False
        self._message_id = message_id
        self._started = False
        self._open = OpenBlocks()
        #: The block that began last, if it began just as Anthropic's own server writes it.
        self.latest: Block | None = None
        #: The number of each open block as the client sees it.
        self._numbers: dict[Block, int] = {}
        self._begun = 0
        self._call_ids: set[str] = set()
        self._called = False
        self._joiner = TextJoiner()
        #: Content that stood beside the events: it counts when they hold none.
        self._snapshot: list[JSONObject] = []
        self._counts: JSONObject = {}
        #: The counts that the client has been sent.
        self._sent: JSONObject = {}
        #: What was said of the end.
        self._ending: JSONObject = {}

    @property
    def usage(self) -> JSONObject | None:
        """What was reported so far, as OpenAI counts."""
        return usage_of(self._counts) if self._counts else None

    @property
    def is_between_characters(self) -> bool:
        """Return whether no character has come in part."""
        return not self._joiner.begun

    def take(self, payload: JSONObject, kind: str) -> list[JSONObject]:
        """Return the events that ``payload``, an event of that kind, amounts to: itself if it is as it should be.

        Raises:
            ErrorPayload: when it reports an error.
            InvalidAnswer: when it cannot be read.
        """
        if payload.get("type") != kind:
            payload = {**payload, "type": kind}
        check_inner(payload)
        for each in usages_of(payload):
            merge_usage(self._counts, each)
        if kind == "message_start":
            return self._start(payload)
        if kind == "message_delta":
            return self._on_end(payload)
        if kind == "message_stop":
            return self._stop(payload)
        handler = _OF_BLOCKS.get(kind)
        return [payload] if handler is None else [*self._begin_message(), *handler(self, payload)]

    def has_taken(self, payload: JSONObject, kind: str) -> bool:
        """Take an event just as Anthropic's own server writes it, with nothing to be mended; False: it is not taken.

        By far the most streams are made of such events, and a look at all that could be wrong costs more than they.
        """
        if type(payload) is not dict or payload.get("type") != kind or self._joiner.begun:
            return False
        index, fields = payload.get("index"), len(payload)
        if not self._started:
            return kind == "message_start" and fields == 2 and self._has_begun(payload.get("message"))
        if kind == "content_block_start" and fields == 3 and payload.get("content_block") in _STARTS:
            if type(index) is not int or index != self._begun or self._numbers or index >= _MAX_BLOCKS:
                return False
            self.latest = Block(payload["content_block"], 0, index)
            self._open.add(self.latest)
            self._numbers[self.latest], self._begun = index, index + 1
            return True
        if kind == "content_block_stop" and fields == 2 and type(index) is int:
            block = self._open.at(index)
            if block is None or block.kind not in _WORDS or self._numbers[block] != index:
                return False
            self._open.remove(block)
            del self._numbers[block]
            return True
        if self._numbers or not self._begun:
            return False
        if kind == "message_stop" and fields == 1 and self.is_complete and not self._more_than({}):
            self.finished = True
            return True
        return kind == "message_delta" and fields == 3 and self._has_ended(payload.get("delta"), payload.get("usage"))

    def _has_begun(self, message: Any) -> bool:
        """Take the head of a message that lacks nothing; False: it is not taken."""
        if type(message) is not dict or type(counts := message.get("usage")) is not dict:
            return False
        if any(message.get(name, ...) != value for name, value in _HEAD.items()) or not message.get("id"):
            return False
        if "input_tokens" not in counts or any(type(each) is not int for each in counts.values()):
            return False
        merge_usage(self._counts, counts)
        self._sent, self._started = counts, True
        return True

    def _has_ended(self, delta: Any, counts: Any) -> bool:
        """Take what is said of the end, with counts that are numbers and have only grown; False: it is not taken."""
        if type(delta) is not dict or type(counts) is not dict or delta.keys() != _END or "output_tokens" not in counts:
            return False
        if delta["stop_reason"] not in _CALLED[self._called] or any(type(each) is not int for each in counts.values()):
            return False
        if any(counts.get(name, value) < value for name, value in self._counts.items() if type(value) is int):
            return False
        merge_usage(self._counts, counts)
        self._sent, self._ending = {**self._sent, **counts}, {**self._ending, "stop_reason": delta["stop_reason"]}
        self.is_complete = True
        return True

    def end(self) -> list[JSONObject]:
        """Return what is owed when the bytes have ended: the end of a message that has its stop reason."""
        return [] if self.finished or not self.is_complete else self._stop({"type": "message_stop"})

    # The message

    def _start(self, payload: JSONObject) -> list[JSONObject]:
        if self._started:
            return []
        self._started = True
        given = payload.get("message", payload if "role" in payload else None)
        if not isinstance(given, dict):
            raise InvalidAnswer("a message begins without a message")
        self._snapshot = blocks_of(given.get("content"))
        said = given.get("usage")
        counts = _counts(said) if isinstance(said, dict) else {"input_tokens": 0, "output_tokens": 0}
        message = {"id": self._message_id, **_MESSAGE, **given, "content": [], "usage": counts}
        self._sent = counts
        return [_or_itself(payload, _start_of(message) if given is payload else {**payload, "message": message})]

    def _begin_message(self) -> list[JSONObject]:
        """Return the start of a message that goes on without one."""
        return [] if self._started else self._start(_start_of({**_MESSAGE, "model": ""}))

    def _on_end(self, payload: JSONObject) -> list[JSONObject]:
        """Take the event before the end: before it, blocks that are still open end."""
        delta = {name: value for name, value in _object(payload.get("delta")).items() if name != "usage"}
        before: list[JSONObject] = []
        if (reason := stop_of(payload)) is not None:
            check_stop(reason)
            self.is_complete = True
            before = [*self._begin_message(), *self._close_all()]
            delta = {**delta, "stop_reason": _stop_word(reason, called=self._called)}
        self._ending = {**self._ending, **{name: value for name, value in delta.items() if value is not None}}
        said: JSONObject = {"output_tokens": 0, **_counts(_object(payload.get("usage")))}
        counts = {**said, **self._more_than(said)}
        counts["output_tokens"] = counts["output_tokens"] or 0
        self._sent = {**self._sent, **{name: value for name, value in counts.items() if value is not None}}
        return [*before, _or_itself(payload, {**payload, "delta": delta, "usage": counts})]

    def _more_than(self, said: JSONObject) -> JSONObject:
        """Return the counts that were reported, where ``said`` and what the client was sent before are less."""
        more: JSONObject = {}
        for name, value in self._counts.items():
            known = self._sent.get(name) if said.get(name) is None else said[name]
            if isinstance(value, int) and value > (known if isinstance(known, int) else 0):
                more[name] = value
        return more

    def _stop(self, payload: JSONObject) -> list[JSONObject]:
        reason = stop_of(payload)
        if not self._started and not self._begun and reason is None and not self.is_complete:
            raise InvalidAnswer("it ends before an answer has begun")
        events = [*self._begin_message(), *([] if self._begun else self._content(self._snapshot)), *self._close_all()]
        if not self.is_complete or self._more_than({}):
            details = stop_details_of(payload)
            end = {"stop_reason": reason or "end_turn", "stop_sequence": None, "stop_details": details, **self._ending}
            events += self._on_end({"type": "message_delta", "delta": end, "usage": {}})
        self.finished = True
        return [*events, payload]

    # Blocks

    def _on_block_start(self, payload: JSONObject) -> list[JSONObject]:
        number = number_of(payload)
        return _as_it_came(self._content(blocks_of(payload.get("content_block")), number), payload)

    def _content(self, starts: Iterable[JSONObject], number: int | None = None) -> list[JSONObject]:
        return [event for start in starts for event in self._begin(number, start)]

    def _begin(self, number: int | None, start: JSONObject) -> list[JSONObject]:
        """Begin a block; one of the same number that is still open ends with it."""
        kind = start["type"]
        if kind == "tool_use":
            if known := self._open.same_call(start):
                known.start["input"] = start["input"] or known.start["input"]
                return []
            start = self._call(start)
        if self._begun == _MAX_BLOCKS:
            raise InvalidAnswer(f"it has more than {_MAX_BLOCKS} content blocks")
        self.latest, block, index = None, Block(start, 0, number), self._begun
        ended = self._open.add(block)
        events = [] if ended is None else self._close(ended)
        self._numbers[block], self._begun = index, index + 1
        emptied: JSONObject = {"tool_use": {"input": {}}, "text": {"text": ""}, "thinking": {"thinking": ""}}
        shown = _signed(start | emptied.get(kind, {}))
        events.append({"type": "content_block_start", "index": index, "content_block": shown})
        return [*events, self._delta(block, kind, start[kind])] if kind in _WORDS and start[kind] else events

    def _call(self, start: JSONObject) -> JSONObject:
        """Return the start of a call, which has a name, and an id of its own."""
        if not start["name"]:
            raise InvalidAnswer("a tool call has no name")
        call_id = start["id"]
        if not call_id or call_id in self._call_ids:
            call_id = own_call_id(self._message_id, len(self._call_ids))
        self._call_ids.add(call_id)
        self._called = True
        return {**start, "id": call_id}

    def _on_delta(self, payload: JSONObject) -> list[JSONObject]:
        number = number_of(payload)
        deltas = deltas_of(payload)
        if self._joiner.begun or isinstance(payload, RepairedObject):
            deltas = [delta.joined(self._joiner, number) for delta in deltas]
        if not deltas:  # an empty piece, or one that is new to us
            block = self._open.at(number)
            return [] if block is None else [_or_itself(payload, {**payload, "index": self._numbers[block]})]
        return _as_it_came([event for delta in deltas for event in self._add(number, delta)], payload)

    def _add(self, number: int | None, delta: Delta) -> list[JSONObject]:
        """Add a piece to its block; text and thinking may come without a block's start."""
        block = self._open.holder(number, delta.kind)
        if block is None:
            if delta.kind not in _WORDS:
                return []
            return self._begin(number, {"type": delta.kind, delta.kind: ""}) + self._add(number, delta)
        value = delta.value
        if delta.kind in _WORDS:
            value = block.after_start(value)
        elif delta.kind == "input":
            value = block.add_input(value)
        return [self._delta(block, delta.kind, value)] if value else []

    def _delta(self, block: Block, kind: str, value: Any) -> JSONObject:
        written, name = _DELTAS[kind]
        return {"type": "content_block_delta", "index": self._numbers[block], "delta": {"type": written, name: value}}

    def _on_block_stop(self, payload: JSONObject) -> list[JSONObject]:
        block = self._open.at(number_of(payload))
        return [] if block is None else _as_it_came(self._close(block), payload)

    def _close(self, block: Block) -> list[JSONObject]:
        """Return the end of a block, and before that what of it was not sent yet."""
        self._open.remove(block)
        events: list[JSONObject] = []
        if block.kind in _WORDS and (rest := self._joiner.rest((block.number, block.kind))):
            events.append(self._delta(block, block.kind, rest))
        owes = block.pieces or block.kind == "tool_use"
        if owes and not block.is_plain and (owed := block.arguments) not in ("", "{}"):
            events.append(self._delta(block, "input", owed))
        return [*events, {"type": "content_block_stop", "index": self._numbers.pop(block)}]

    def _close_all(self) -> list[JSONObject]:
        return [event for block in self._open.all() for event in self._close(block)]


_OF_BLOCKS = {
    "content_block_start": MessageEvents._on_block_start,
    "content_block_delta": MessageEvents._on_delta,
    "content_block_stop": MessageEvents._on_block_stop,
}


def mended_message(message: JSONObject) -> JSONObject:
    """Return a whole message in Anthropic's form.

    Raises:
        ErrorPayload: when its stop reason means that it failed.
        InvalidAnswer: when it is not a whole message.
    """
    if not isinstance(message.get("content"), (list, str)) or not isinstance(reason := stop_of(message), str):
        raise InvalidAnswer("it is not a whole message")
    check_stop(reason)
    content = [_signed(_with_object(block)) for block in blocks_of(message["content"])]
    for position, block in enumerate(content):
        if block["type"] == "tool_use" and not block["id"]:
            block["id"] = own_call_id(str(message.get("id")), position)
    called = any(block["type"] == "tool_use" for block in content)
    said = message.get("usage")
    counts = _counts(said) if isinstance(said, dict) else {"input_tokens": 0, "output_tokens": 0}
    own = {"content": content, "stop_reason": _stop_word(reason, called=called), "usage": counts}
    return {"type": "message", "role": "assistant", **message, **own}


def _with_object(block: JSONObject) -> JSONObject:
    """Return a block whose input, if it has one, is an object; a call without a name is none."""
    if block["type"] == "tool_use" and not block["name"]:
        raise InvalidAnswer("a tool call has no name")
    return {**block, "input": {"_raw_arguments": block["input"]}} if isinstance(block.get("input"), str) else block


def _signed(block: JSONObject) -> JSONObject:
    """Return a block; one of thinking has a signature, be it empty."""
    return {**block, "signature": ""} if block["type"] == "thinking" and block.get("signature") is None else block


def _stop_word(reason: str, *, called: bool) -> str:
    """Return Anthropic's word for a stop reason; one that is new to us stays."""
    word = _STOPS.get(reason, reason)
    return "tool_use" if word == "end_turn" and called else word


def _start_of(message: JSONObject) -> JSONObject:
    return {"type": "message_start", "message": message}


def _as_it_came(events: list[JSONObject], payload: JSONObject) -> list[JSONObject]:
    """Return the events that ``payload`` amounts to: a single one holds all else that came, too."""
    if len(events) != 1:
        return events
    (event,) = events
    held = {name: {**_object(payload.get(name)), **value} for name, value in event.items() if name == "delta"}
    return [_or_itself(payload, {**payload, **event, **held})]


def _or_itself(payload: JSONObject, mended: JSONObject) -> JSONObject:
    """Return an event as it is mended, or itself when nothing has changed."""
    return payload if mended == payload else mended


def _object(value: Any) -> JSONObject:
    return value if isinstance(value, dict) else {}


def _counts(said: JSONObject) -> JSONObject:
    """Return counts as numbers; some servers write them as texts."""
    return {name: usage.count(value) for name, value in said.items()}
