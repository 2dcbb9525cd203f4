"""A streamed answer of an OpenAI-compatible upstream, made to look as OpenAI's own does.

Official clients join what a stream says of one thing twice (``assistantassistant``), and stumble over gaps in the
numbering of tool calls. Many servers repeat and number as they like; here it becomes once, and dense.
"""

from dataclasses import dataclass, field
from typing import Any

from one_api.wire import json
from one_api.wire.json import JSONObject
from one_api.wire.openai_response import (
    ErrorPayload,
    Identity,
    InvalidAnswer,
    StrayEvent,
    arguments_text,
    fill,
    finish_reason,
    has_error,
    natural_end,
    own_call_id,
    rename_reasoning,
)
from one_api.wire.sse import Event


@dataclass(slots=True)
class _Call:
    """A tool call under way; ``named`` and ``wrote`` say whether its name and any of its arguments were sent."""

    index: int
    kind: str
    named: bool
    wrote: bool


@dataclass(slots=True)
class _Choice:
    """What one choice has said so far."""

    role_said: bool = False
    finished: bool = False
    calls: list[_Call] = field(default_factory=list)
    by_id: dict[str, _Call] = field(default_factory=dict)
    by_number: dict[int, _Call] = field(default_factory=dict)


def _piece(index: int, delta: JSONObject, reason: str | None = None) -> JSONObject:
    """Return a choice of a chunk of our own making."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class OpenAIStream:
    """Reads the events of one stream, one at a time, and returns the chunks to pass on.

    ``finished`` is True only when the upstream said that the answer is complete. ``usage`` is the last usage object
    seen; it is passed on, as a chunk of its own at the end, only when the client asked for it.
    """

    def __init__(self, identity: Identity, *, include_usage: bool, drop: frozenset[str] = frozenset()) -> None:
        self.finished = False
        self.usage: JSONObject | None = None
        self._identity = identity
        self._frozen = False
        self._include_usage = include_usage
        self._drop = drop
        self._choices: dict[int, _Choice] = {}
        #: Some text has come.
        self._spoken = False

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error.
            StrayEvent: when it is no chunk, and may be skipped: the stream can be fed on.
            InvalidAnswer: when it is no chunk, and the answer cannot be trusted any longer.
        """
        if self.finished:
            return []
        try:
            return self._feed(event)
        except InvalidAnswer as error:
            if self._spoken and not any(choice.calls for choice in self._choices.values()):
                raise StrayEvent(*error.args) from None
            raise

    def _feed(self, event: Event) -> list[JSONObject]:
        if event.data == b"[DONE]":
            if not self._choices:
                raise InvalidAnswer("it ends before an answer has begun")
            return self._finish()
        try:
            chunk = json.decode_object(event.data)
        except json.InvalidJSON as error:
            raise InvalidAnswer(f"an event is not a JSON object: {error}") from None
        if has_error(chunk):
            raise ErrorPayload(chunk)
        return self._take(chunk)

    def end(self) -> list[JSONObject]:
        """Tell the stream that the upstream's bytes have ended; returns what is still owed to the client.

        ``finished`` stays False when the upstream never said that the answer is complete.
        """
        if self.finished:
            return []
        if self._choices and all(choice.finished for choice in self._choices.values()):
            return self._finish()
        return []

    def _finish(self) -> list[JSONObject]:
        self.finished = True
        chunks: list[JSONObject] = []
        for index, choice in sorted(self._choices.items()):
            if not choice.finished:
                reason = natural_end(bool(choice.calls))
                chunks += self._empty_arguments(index, choice, {})
                chunks.append(self._chunk([_piece(index, {}, reason)]))
        if self._include_usage and self.usage is not None:
            chunks.append(self._chunk([]) | {"usage": self.usage})
        return chunks

    def _take(self, chunk: JSONObject) -> list[JSONObject]:
        choices = chunk.get("choices")
        if choices is None and isinstance(chunk.get("usage"), dict):
            choices = []
        if not isinstance(choices, list):
            raise InvalidAnswer("an event holds no choices")
        if not all(isinstance(choice, dict) for choice in choices):
            raise InvalidAnswer("a choice is not an object")
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = usage
            if not choices:
                return []
        self._mend_envelope(chunk)
        before: list[JSONObject] = []
        for choice in choices:
            before += self._mend_choice(choice)
        return [*before, chunk]

    def _mend_envelope(self, chunk: JSONObject) -> None:
        if not self._frozen:
            fill(chunk, self._identity, "chat.completion.chunk")
            self._identity = Identity(chunk["id"], chunk["created"], chunk["model"])
            self._frozen = True
        else:
            said = self._identity
            chunk["id"], chunk["created"], chunk["model"] = said.id, said.created, said.model
            chunk["object"] = "chat.completion.chunk"
        if self._include_usage:
            chunk["usage"] = None
        else:
            chunk.pop("usage", None)
        for key in self._drop:
            chunk.pop(key, None)

    def _chunk(self, choices: list[JSONObject]) -> JSONObject:
        """Return a chunk of our own making."""
        chunk: JSONObject = {
            "id": self._identity.id,
            "object": "chat.completion.chunk",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": choices,
        }
        return chunk | {"usage": None} if self._include_usage else chunk

    def _mend_choice(self, choice: JSONObject) -> list[JSONObject]:
        """Mend one choice in place; returns chunks that must come before it."""
        index = choice.get("index")
        if not isinstance(index, int) or not 0 <= index < 1024:
            index = choice["index"] = 0
        state = self._choices.get(index)
        before = []
        if state is None:
            before = [self._opening(lower) for lower in range(index) if lower not in self._choices]
            state = self._choices[index] = _Choice()
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
        if state.role_said:
            delta.pop("role", None)
        else:
            delta["role"] = "assistant"
            state.role_said = True
        rename_reasoning(delta)
        self._spoken = self._spoken or bool(delta.get("content") or delta.get("reasoning_content"))
        if "tool_calls" in delta:
            self._mend_calls(delta, state)
        reason = choice.get("finish_reason")
        if reason is not None:
            reason = finish_reason(reason, bool(state.calls))
            state.finished = state.finished or reason is not None
            if state.finished:
                before += self._empty_arguments(index, state, delta)
        choice["finish_reason"] = reason
        return before

    def _opening(self, index: int) -> JSONObject:
        """Open a choice that has not spoken yet: clients expect choices to appear in order."""
        self._choices[index] = _Choice(role_said=True)
        return self._chunk([_piece(index, {"role": "assistant", "content": None})])

    def _mend_calls(self, delta: JSONObject, state: _Choice) -> None:
        entries = delta.pop("tool_calls")
        if not isinstance(entries, list):
            return
        mended = [self._mend_call(entry, state) for entry in entries if isinstance(entry, dict)]
        if mended:
            delta["tool_calls"] = mended

    def _mend_call(self, entry: JSONObject, state: _Choice) -> JSONObject:
        """Return one entry with a dense index, and with its id, type and name only when it opens a call."""
        kind = "custom" if isinstance(entry.get("custom"), dict) or entry.get("type") == "custom" else "function"
        found = entry.get(kind)
        body: JSONObject = found if isinstance(found, dict) else {}
        named = bool(body.get("name"))
        call = self._known_call(entry, state, named)
        text_key = "input" if (call.kind if call else kind) == "custom" else "arguments"
        text = arguments_text(body.get(text_key))
        if call is not None:
            piece = {text_key: text} if call.named or not named else {"name": body["name"], text_key: text}
            call.named, call.wrote = call.named or named, call.wrote or bool(text)
            return {"index": call.index, call.kind: piece}
        call = _Call(len(state.calls), kind, named, bool(text))
        call_id = entry.get("id")
        if not isinstance(call_id, str) or not call_id:
            call_id = own_call_id(self._identity.id, call.index)
        state.calls.append(call)
        state.by_id[call_id] = call
        if isinstance(number := entry.get("index"), int):
            state.by_number[number] = call
        return {"index": call.index, "id": call_id, "type": kind, kind: {**body, text_key: text}}

    def _known_call(self, entry: JSONObject, state: _Choice, named: bool) -> _Call | None:
        """Return the call that ``entry`` continues, or None when it opens one."""
        call_id, number = entry.get("id"), entry.get("index")
        if isinstance(call_id, str) and call_id:
            if call_id in state.by_id:
                return state.by_id[call_id]
            if named:
                return None
        if isinstance(number, int):
            return state.by_number.get(number)
        return None if named or not state.calls else state.calls[-1]

    def _empty_arguments(self, index: int, state: _Choice, delta: JSONObject) -> list[JSONObject]:
        """Give calls that had no arguments the empty object that clients can parse."""
        opened_here = {entry["index"]: entry for entry in delta.get("tool_calls", ()) if "id" in entry}
        pieces: list[Any] = []
        for call in state.calls:
            if call.wrote or call.kind != "function":
                continue
            call.wrote = True
            if call.index in opened_here:
                opened_here[call.index]["function"]["arguments"] = "{}"
            else:
                pieces.append({"index": call.index, "function": {"arguments": "{}"}})
        if not pieces:
            return []
        return [self._chunk([_piece(index, {"tool_calls": pieces})])]
