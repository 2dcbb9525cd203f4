"""A streamed answer of an OpenAI-compatible upstream, made to look as OpenAI's own does.

Official clients join what a stream says of one thing twice (``assistantassistant``), and stumble over gaps in the
numbering of tool calls. Many servers repeat and number as they like; here it becomes once, and dense.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from copy import deepcopy
from typing import ClassVar

from one_api.dialects import usage
from one_api.dialects.characters import TextJoiner
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import USUAL
from one_api.dialects.openai.citations import NAMES, annotations_of, sources_in
from one_api.dialects.openai.response import Identity, drop_odd, fill, natural_end
from one_api.dialects.openai.shapes import (
    bring_choices,
    has_words,
    index_of,
    is_envelope,
    is_whole_answer,
    with_whole_characters,
)
from one_api.dialects.openai.stream_choice import OTHER_SHAPES, TEXTS, StreamChoice
from one_api.dialects.payloads import DONE, ErrorPayload, InvalidAnswer, RepairedObject, feed_all, read_event
from one_api.dialects.sse import Event


def _piece(index: int, delta: JSONObject, reason: str | None = None) -> JSONObject:
    """Return a choice of a chunk of our own making."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class OpenAIStream:
    """Reads the events of one stream, one at a time, and returns the chunks to pass on: here what concerns all choices.

    ``finished`` is True only when the upstream said that the answer is complete. ``usage`` is what was reported so far,
    the largest of each count; it is passed on, as a chunk of its own at the end, only when the client asked for it.
    ``choices`` is how many were asked for; ``tools`` are the names of the tools that there are. ``on_reasoning_name``
    is called once for each choice, with the name under which the upstream sends reasoning.
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
        #: It is known that each piece of a choice is new, and does not hold all so far.
        self.is_settled = False
        self.usage: JSONObject | None = None
        self._identity = identity
        self._frozen = False
        self._include_usage = include_usage
        self._drop = drop
        self._asked_for = choices
        self._tools = tools
        self._on_reasoning_name = on_reasoning_name
        self._choices: dict[int, StreamChoice] = {}
        self._joiner = TextJoiner()
        #: What came beside the usage, for the last chunk.
        self._beside: JSONObject = {}
        #: Sources beside the answer, and its text, if that has come whole.
        self._sources: list[JSONObject] = []
        self._cited_text = ""
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
            payload = with_whole_characters(payload, self._joiner, TEXTS)
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
        if choice.get("finish_reason") is not None or not OTHER_SHAPES.isdisjoint(choice):
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
        return len(self._choices) >= self._asked_for and False not in [each.finished for each in self._choices.values()]

    def _check_calls(self) -> None:
        """Raise InvalidAnswer when a choice ends in the middle of a call without a reason for it, or calls nothing."""
        for choice in self._choices.values():
            if choice.ending is None and choice.calls.is_open:
                raise InvalidAnswer("it ends inside a tool call")
            if choice.calls.has_nameless and not choice.is_cut:
                self.is_complete = False
                raise InvalidAnswer("a tool call has no name")

    def _finish(self) -> list[JSONObject]:
        self._check_calls()
        chunks: list[JSONObject] = []
        for index, choice in sorted(self._choices.items()):
            ending = choice.ending or self._chunk([_piece(index, {}, natural_end(choice.called))])
            if owed := choice.close(index, ending["choices"][0]["delta"], self._joiner):
                chunks.append(self._chunk([_piece(index, owed)]))
            if self._sources and not index and not choice.is_annotated:
                found = annotations_of(self._sources, self._cited_text)
                chunks.append(self._chunk([_piece(index, {"annotations": found})]))
            chunks.append(ending)
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
        if not NAMES.isdisjoint(chunk):
            self._note_sources(chunk, choices)
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
            index = choice["index"] = index_of(choice)
            state = self._choices.get(index)
            if state is None:
                state = self._choices[index] = self._choice(index, before)
            try:
                state.mend(choice, self._identity.id)
            except ErrorPayload as error:
                failure = error
            self.is_settled = state.snapshots.repeats is False
            if state.reported is not None:
                self.usage, state.reported = usage.merge(self.usage, state.reported), None
            if choice["finish_reason"] is not None:
                endings.append(choice)
        chunks = [*before, chunk] if not endings or self._keep(endings, chunk) else before
        self.is_complete = self._all_finished and any(choice.said for choice in self._choices.values())
        if failure is not None:
            raise ErrorPayload(failure.payload, chunks)
        return chunks

    def _note_sources(self, chunk: JSONObject, choices: list[JSONObject]) -> None:
        """Note which sources stand beside the answer, and its text where a message has all of it."""
        self._sources = sources_in(chunk) or self._sources
        message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            self._cited_text = message["content"]

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
            chunk.pop("error", None)
            drop_odd(chunk)
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

    def _choice(self, index: int, before: list[JSONObject]) -> StreamChoice:
        """Return a choice that speaks for the first time; ``before`` gets the chunks that must come before it.

        Clients expect choices to appear in order.
        """
        for lower in range(index):
            if lower not in self._choices:
                self._choices[lower] = StreamChoice(self._tools, self._on_reasoning_name, role_said=True)
                before.append(self._chunk([_piece(lower, {"role": "assistant", "content": None})]))
        return StreamChoice(self._tools, self._on_reasoning_name)
