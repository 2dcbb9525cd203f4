"""A streamed answer of an OpenAI-compatible upstream, made to look as OpenAI's own does.

Official clients join what a stream says of one thing twice (``assistantassistant``), and stumble over gaps in the
numbering of tool calls. Many servers repeat and number as they like; here it becomes once, and dense.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from one_api.dialects import usage
from one_api.dialects.characters import TextJoiner
from one_api.dialects.finish_reasons import read_finish
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import USUAL
from one_api.dialects.openai.calls import CallReader
from one_api.dialects.openai.reasoning_names import name_in
from one_api.dialects.openai.response import Identity, check_choice, fill, natural_end
from one_api.dialects.openai.shapes import (
    bring_choices,
    has_words,
    index_of,
    is_envelope,
    is_whole_answer,
    message_in,
    shape_texts,
    with_whole_characters,
)
from one_api.dialects.openai.snapshots import Snapshots
from one_api.dialects.payloads import DONE, ErrorPayload, InvalidAnswer, RepairedObject, feed_all, read_event
from one_api.dialects.sse import Event

#: Texts of a delta that may hold halves of characters.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
#: Keys of a delta or a choice for which more has to be done than for plain text.
_OTHER_SHAPES = frozenset({"message", "text", "error", "usage"})
#: Fields of a delta that are no content of an answer.
_NO_CONTENT = frozenset({"role", "reasoning_content", "reasoning_details", "thinking_blocks"})


@dataclass(slots=True)
class _Choice:
    """What one choice has said so far."""

    calls: CallReader
    role_said: bool = False
    finished: bool = False
    #: It calls a function in the deprecated form.
    legacy: bool = False
    #: Words have come in deltas.
    by_delta: bool = False
    #: It holds more than a role and reasoning.
    said: bool = False
    #: The chunk with its finish reason, kept until the end of the stream: words may follow.
    ending: JSONObject | None = None
    #: Reasoning has come as a text of its own: what else holds it repeats it.
    reasoned: bool = False
    #: What has come of it in deltas, or in messages.
    snapshots: Snapshots = field(default_factory=Snapshots)


def _piece(index: int, delta: JSONObject, reason: str | None = None) -> JSONObject:
    """Return a choice of a chunk of our own making."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class OpenAIStream:
    """Reads the events of one stream, one at a time, and returns the chunks to pass on.

    ``finished`` is True only when the upstream said that the answer is complete. ``usage`` is what was reported so far,
    the largest of each count; it is passed on, as a chunk of its own at the end, only when the client asked for it.
    ``choices`` is how many were asked for; ``tools`` are the names of the tools that there are. ``on_reasoning_name``
    is called once, with the name under which the upstream sends reasoning.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        include_usage: bool,
        drop: frozenset[str] = frozenset(),
        choices: int = 1,
        tools: Collection[str] = (),
        on_reasoning_name: Callable[[str], None] | None = None,
    ) -> None:
        self.finished = False
        #: Every choice has its finish reason: only usage and the end mark may follow.
        self.is_complete = False
        self.is_over = False
        self.usage: JSONObject | None = None
        self._identity = identity
        self._frozen = False
        self._include_usage = include_usage
        self._drop = drop
        self._asked_for = choices
        self._tools = tools
        self._on_reasoning_name = on_reasoning_name
        self._choices: dict[int, _Choice] = {}
        self._joiner = TextJoiner()
        #: What came beside the usage, for the last chunk.
        self._beside: JSONObject = {}
        #: The answer came as one JSON text, without events.
        self._in_one = False

    notes_texts: ClassVar[bool] = False

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error; with the chunks that it holds beside it.
            InvalidAnswer: when it cannot be read: the answer cannot be trusted any longer.
        """
        if self.finished:
            return []
        if self.is_over:
            return self._take_after_end(event)
        try:
            payload = read_event(event)
        except ErrorPayload as error:
            raise self._with_words(error) from None
        except InvalidAnswer as error:
            return feed_all(self.feed, event, error)
        if payload is None:
            return []
        if payload is DONE:
            if not self._choices:
                raise InvalidAnswer("it ends before an answer has begun")
            return self._end_mark()
        self._in_one = event.bare and not self._choices and is_whole_answer(payload)
        if self._joiner.begun or type(payload) is RepairedObject:
            payload = with_whole_characters(payload, self._joiner, _TEXTS)
        return self._take(payload)

    def _end_mark(self) -> list[JSONObject]:
        """Take the end mark; some servers report usage only after it."""
        if self.usage is not None:
            return self._finish()
        self._check_calls()
        self.is_over = self.is_complete = True
        return []

    def _take_after_end(self, event: Event) -> list[JSONObject]:
        """Take the usage out of an event after the end mark; anything else there is surplus."""
        with suppress(InvalidAnswer):
            return self._finish() if self._note_usage(read_event(event) or {}) else []
        return []

    def text_in(self, payload: JSONObject) -> str | None:
        """See ``frames.Translator``: a piece of a choice that has begun, and nothing else."""
        choices = payload.get("choices")
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict) or self._joiner.begun or self.is_complete or payload.get("usage") is not None:
            return None
        index, delta = choice.get("index"), choice.get("delta")
        state = self._choices.get(index) if isinstance(index, int) else None
        if (
            state is None
            or state.finished
            or not (state.by_delta and state.snapshots.repeats is False)
            or not isinstance(delta, dict)
            or usage.stands_elsewhere(payload)
        ):
            return None
        if choice.get("finish_reason") is not None or not _OTHER_SHAPES.isdisjoint(choice):
            return None
        found = [value for name, value in delta.items() if value and name != "role"]
        return found[0] if len(found) == 1 and isinstance(found[0], str) else None

    def add_text(self, text: str) -> None:
        """See ``frames.Translator``: there is nothing to note."""

    def _with_words(self, error: ErrorPayload) -> ErrorPayload:
        """Return ``error`` with the chunks that its payload holds beside it: words, but no end."""
        choices = error.payload.get("choices") if isinstance(error.payload, dict) else None
        if not choices or not isinstance(choices, list):
            return error
        begun = [{**deepcopy(choice), "finish_reason": None} for choice in choices if isinstance(choice, dict)]
        try:
            return ErrorPayload(error.payload, self._take({"choices": begun}))
        except ErrorPayload as inner:
            return ErrorPayload(error.payload, inner.chunks)
        except InvalidAnswer:
            return error

    def end(self) -> list[JSONObject]:
        """Note that the upstream's bytes have ended; return the chunks that are still missing.

        ``finished`` stays False when the upstream never said that the answer is complete.
        """
        if self.finished or not self._choices:
            return []
        return self._finish() if self._in_one or self.is_over or self._all_finished else []

    @property
    def _all_finished(self) -> bool:
        return len(self._choices) >= self._asked_for and all(choice.finished for choice in self._choices.values())

    def _check_calls(self) -> None:
        """Raise InvalidAnswer when a choice ends in the middle of a call, without a reason for it."""
        if any(choice.ending is None and choice.calls.is_open for choice in self._choices.values()):
            raise InvalidAnswer("it ends inside a tool call")

    def _finish(self) -> list[JSONObject]:
        self._check_calls()
        chunks: list[JSONObject] = []
        for index, choice in sorted(self._choices.items()):
            ending = choice.ending or self._chunk([_piece(index, {}, natural_end(bool(choice.calls.count)))])
            chunks += [*self._close(index, choice, ending["choices"][0]["delta"]), ending]
        if self._include_usage and self.usage:
            chunks.append(self._chunk([]) | {"usage": self.usage})
        chunks[-1] = self._beside | chunks[-1]
        self.finished = True
        return chunks

    def _take(self, chunk: JSONObject) -> list[JSONObject]:
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            choices = bring_choices(chunk)
        reported = self._note_usage(chunk) if chunk.get("usage") or usage.stands_elsewhere(chunk) else False
        for key in self._drop:
            chunk.pop(key, None)
        if not choices and (reported or is_envelope(chunk)):
            hidden = USUAL | self._drop
            self._beside |= {key: value for key, value in chunk.items() if key not in hidden and value is not None}
            return []
        self._mend_envelope(chunk)
        before: list[JSONObject] = []
        endings: list[JSONObject] = []
        failure: ErrorPayload | None = None
        for choice in choices:
            if not isinstance(choice, dict):
                raise InvalidAnswer("a choice is not an object")
            try:
                self._mend_choice(choice, before)
            except ErrorPayload as error:
                failure = error
            if choice["finish_reason"] is not None:
                endings.append(choice)
        chunks = [*before, chunk] if not endings or self._keep(endings, chunk) else before
        self.is_complete = self._all_finished and any(choice.said for choice in self._choices.values())
        if failure is not None:
            raise ErrorPayload(failure.payload, chunks)
        return chunks

    def _keep(self, endings: list[JSONObject], chunk: JSONObject) -> bool:
        """Keep the ends of choices until the stream ends, and return whether ``chunk`` holds more than these.

        Servers were seen to give a finish reason with the first chunk, or with each; clients stop at the first one.
        """
        kept: list[JSONObject] = []
        for choice in chunk["choices"]:
            if choice not in endings:
                kept.append(choice)
                continue
            delta = choice["delta"]
            if has_words(delta) or "role" in delta or choice.get("logprobs"):
                words = {key: value for key, value in choice.items() if key != "native_finish_reason"}
                kept.append(words | {"finish_reason": None})
                delta = {}
            ending = {**choice, "delta": {}, "logprobs": None} if delta is not choice["delta"] else choice
            self._choices[choice["index"]].ending = {**chunk, "choices": [ending]}
        chunk["choices"] = kept
        return bool(kept)

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

    def _note_usage(self, chunk: JSONObject) -> bool:
        """Note what a chunk reports, and return whether it does; what Groq puts elsewhere is taken out."""
        found = usage.reported_in(chunk)
        for each in found:
            self.usage = usage.merge(self.usage, each)
        if isinstance(chunk.get("x_groq"), dict):
            chunk["x_groq"].pop("usage", None)
        return bool(found)

    def _mend_choice(self, choice: JSONObject, before: list[JSONObject]) -> None:
        """Mend one choice in place; ``before`` gets the chunks that must come before it.

        Raises:
            ErrorPayload: when it reports an error, or a finish reason that means one; it is mended all the same.
        """
        index = choice["index"] = index_of(choice)
        state = self._choices.get(index)
        if state is None:
            before += [self._opening(lower) for lower in range(index) if lower not in self._choices]
            state = self._choices[index] = _Choice(CallReader(self._tools))
        delta = choice.get("delta")
        if not isinstance(delta, dict) or not _OTHER_SHAPES.isdisjoint(choice):
            delta = self._in_another_shape(choice, state)
        elif not state.by_delta:
            state.by_delta = has_words(delta)
        if state.role_said:
            delta.pop("role", None)
        else:
            delta["role"] = "assistant"
            state.role_said = True
        if self._on_reasoning_name is not None and (name := name_in(delta)) is not None:
            self._on_reasoning_name(name)
            self._on_reasoning_name = None
        state.reasoned = shape_texts(delta, with_details=not state.reasoned) or state.reasoned
        if state.snapshots.repeats is not False:
            state.snapshots.leave_new(delta, _TEXTS)
        if "function_call" in delta:
            self._mend_legacy_call(delta, state)
        if "tool_calls" in delta:
            self._mend_calls(delta, state.calls)
        speaks = any(value for name, value in delta.items() if name not in _NO_CONTENT)
        state.said = state.said or speaks
        if speaks and state.finished:  # it was not the end
            state.finished, state.ending = False, None
        if choice.get("finish_reason") is not None or "error" in choice:
            self._read_end(choice, state)
        else:
            choice["finish_reason"] = None

    def _read_end(self, choice: JSONObject, state: _Choice) -> None:
        """Read the finish reason of a choice, or its error."""
        try:
            check_choice(choice)
            called = bool(state.calls.count)
            read_finish(choice, called=None if state.legacy and not called else called)
        except ErrorPayload:
            choice["finish_reason"] = None
            raise
        state.finished = state.finished or choice["finish_reason"] is not None

    def _in_another_shape(self, choice: JSONObject, state: _Choice) -> JSONObject:
        """Return the delta of a choice that has none, or that holds more than one; it gets its place there."""
        if isinstance(reported := choice.pop("usage", None), dict):
            self.usage = usage.merge(self.usage, reported)
        state.by_delta = state.by_delta or (isinstance(delta := choice.get("delta"), dict) and has_words(delta))
        message = choice.get("message")
        choice["delta"] = delta = message_in(choice, with_delta=state.by_delta) or {}
        if message and delta and not (state.by_delta or state.snapshots.in_messages):
            state.snapshots = Snapshots(in_messages=True)
        return delta

    def _opening(self, index: int) -> JSONObject:
        """Open a choice that has not spoken yet: clients expect choices to appear in order."""
        self._choices[index] = _Choice(CallReader(self._tools), role_said=True)
        return self._chunk([_piece(index, {"role": "assistant", "content": None})])

    def _mend_legacy_call(self, delta: JSONObject, state: _Choice) -> None:
        """Turn a call in the deprecated form into one of a tool, if there are tools."""
        call = delta["function_call"]
        state.legacy = state.legacy or (isinstance(call, dict) and not self._tools)
        if isinstance(call, dict) and self._tools:
            del delta["function_call"]
            delta["tool_calls"] = delta.get("tool_calls") or [{"index": 0, "function": call}]

    def _mend_calls(self, delta: JSONObject, calls: CallReader) -> None:
        entries = delta.pop("tool_calls")
        if isinstance(entries, dict):
            entries = [entries] if entries else []
        if isinstance(entries, list) and (mended := calls.read(entries, self._identity.id)):
            delta["tool_calls"] = mended
            delta.pop("function_call", None)

    def _close(self, index: int, state: _Choice, delta: JSONObject) -> list[JSONObject]:
        """Return what a choice owes before its end: the empty object for calls without arguments.

        What stands for the rest of a character is added to ``delta``.
        """
        opened_here = {entry["index"]: entry for entry in delta.get("tool_calls", ()) if "id" in entry}
        pieces: list[Any] = []
        for call in state.calls.empty():
            if call.index in opened_here:
                opened_here[call.index]["function"]["arguments"] = "{}"
            else:
                pieces.append({"index": call.index, "function": {"arguments": "{}"}})
        for name in _TEXTS:
            if rest := state.snapshots.rest(name) + self._joiner.rest((index, name)):
                delta[name] = (delta.get(name) or "") + rest
        return [self._chunk([_piece(index, {"tool_calls": pieces})])] if pieces else []
