"""The answer of an upstream that speaks Responses, as chat chunks."""

from collections.abc import Callable
from typing import Any

from one_api.dialects.anthropic.chunks import Call, ChunkWriter
from one_api.dialects.anthropic.text import StopScanner
from one_api.dialects.frames import Translator
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import arguments_text
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.calls import call_id_of, own_call_id
from one_api.dialects.openai.response import Identity
from one_api.dialects.payloads import InvalidAnswer
from one_api.dialects.responses.outbound.loose import ResponseEvents
from one_api.dialects.responses.outbound.native import ENDINGS, usage_in
from one_api.dialects.sse import Event

_KINDS = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
#: Items of words, by their types; without one an item is what it looks like.
_SAID = ("message", "reasoning", None)
_REASONING = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_ARGUMENTS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesStream(Translator):
    """Reads the events of one response, one at a time, and returns the chunks to pass on.

    Servers leave deltas out: what comes only whole, at the end of an item or of the response, is sent then.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        include_usage: bool,
        stops: tuple[str, ...] = (),
        on_output: Callable[[list[JSONObject]], None] | None = None,
    ) -> None:
        """The answer ends at the first of ``stops``, which the upstream does not know.

        ``on_output`` is given the items of an answer that is complete, as the upstream made them.
        """
        self.finished = False
        self._scanner = StopScanner(stops)
        #: The probabilities of a text that is held back.
        self._measured: list[Any] = []
        self._events = ResponseEvents()
        self.usage: JSONObject | None = None
        self._writer = ChunkWriter(identity, include_usage=include_usage, legacy=False)
        #: The items by their number: what of each was sent.
        self._calls: dict[Any, Call] = {}
        self._told: set[Any] = set()
        self._cited: dict[Any, int] = {}
        #: Of an item that thinks, the part that was told last.
        self._parts: dict[Any, Any] = {}
        self._on_output = on_output
        #: The whole items so far, where they are wanted.
        self._output: list[JSONObject] = []

    @property
    def is_complete(self) -> bool:
        """Return whether the upstream has said that the answer is complete."""
        return self.finished

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when it reports a failure.
            InvalidAnswer: when it cannot be read.
        """
        payload = None if self.finished else self._events.read(event)
        return self.take(payload) if payload is not None else []

    def end(self) -> list[JSONObject]:
        """Return what is owed when the bytes have ended: nothing."""
        return []

    @property
    def stop(self) -> str | None:
        """Return the string at which the answer was ended; None if it was not."""
        return self._scanner.stop

    def take(self, payload: JSONObject) -> list[JSONObject]:
        """Return the chunks that one event amounts to."""
        chunks = self._take(payload)
        if self._scanner.hit and not self.finished:
            self.finished = True
            chunks += self._end("stop")
        return chunks

    def _take(self, payload: JSONObject) -> list[JSONObject]:
        kind, index, delta = payload["type"], _number_of(payload), payload.get("delta")
        if kind == "response.output_text.delta":
            return self._say(index, "content", delta, payload.get("logprobs"))
        if kind == "response.refusal.delta":
            return self._say(index, "refusal", delta)
        if kind in _REASONING:
            return self._think(index, payload.get("summary_index", payload.get("content_index")), delta)
        if kind == "response.output_text.annotation.added":
            return self._cite(index, [payload.get("annotation")])
        if kind == "response.output_item.added":
            return self._call(index, payload.get("item"))
        if kind in _ARGUMENTS and index in self._calls:
            return self._writer.arguments(self._calls[index], delta or "")
        if kind == "response.output_item.done":
            if self._on_output is not None and isinstance(payload.get("item"), dict):
                self._output.append(payload["item"])
            return self._rest(index, payload.get("item"))
        return self._finish(payload.get("response") or {}) if kind in ENDINGS else []

    def _say(self, index: Any, name: str, text: Any, logprobs: Any = None) -> list[JSONObject]:
        if not isinstance(text, str) or not text or self._scanner.hit:
            return []
        self._told.add(index)
        self._measured += logprobs or ()
        if name == "content":
            text = self._scanner.feed(text)
        return self._written(name, text) if text else []

    def _written(self, name: str, text: str) -> list[JSONObject]:
        chunks = [*self._writer.open(""), *self._writer.delta({name: text})]
        if self._measured:
            chunks[-1]["choices"][0]["logprobs"] = {"content": self._measured, "refusal": None}
            self._measured = []
        return chunks

    def _think(self, index: Any, part: Any, text: Any) -> list[JSONObject]:
        """Tell reasoning, whose parts are paragraphs."""
        is_next = index in self._told and self._parts.get(index) != part
        self._parts[index] = part
        return self._say(index, "reasoning_content", f"\n\n{text}" if is_next and isinstance(text, str) else text)

    def _cite(self, index: Any, annotations: list[Any]) -> list[JSONObject]:
        """Tell of annotations those that are chat's, too: citations."""
        self._cited[index] = self._cited.get(index, 0) + len(annotations)
        found = [_nested(each) for each in annotations if _is_citation(each)]
        return [*self._writer.open(""), *self._writer.delta({"annotations": found})] if found else []

    def _call(self, index: Any, item: Any) -> list[JSONObject]:
        """Open a call; nothing for items of other kinds."""
        if not isinstance(item, dict) or item.get("type") not in _KINDS or index in self._calls:
            return []
        name, call_id = item.get("name"), call_id_of({"id": item.get("call_id")})
        if not isinstance(name, str) or not name:  # the whole item may have one
            return []
        kind, _ = _KINDS[item["type"]]
        opening = [*self._held_back(), *self._writer.open(None)]
        call_id = call_id or own_call_id(self._writer.identity.id, len(self._writer.calls))
        self._calls[index], chunks = self._writer.call(call_id, name, kind)
        return [*opening, *chunks]

    def _rest(self, index: Any, item: Any) -> list[JSONObject]:
        """Return what of a whole item was not sent yet."""
        if not isinstance(item, dict):
            return []
        if item.get("type") in _KINDS:
            chunks = self._call(index, item)
            if index not in self._calls:
                raise InvalidAnswer("a tool call has no name")
            call, whole = self._calls[index], arguments_text(item.get(_KINDS[item["type"]][1]))
            return chunks if call.pieces else [*chunks, *self._writer.arguments(call, whole)]
        if item.get("type") not in _SAID:  # work of the upstream's own
            return []
        parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
        found: list[JSONObject] = []
        if index not in self._told:
            for number, part in enumerate(parts):
                if item.get("type") == "reasoning":
                    found += self._think(index, number, part.get("text"))
                else:
                    found += self._say(index, "content", part.get("text"), part.get("logprobs"))
                    found += self._say(index, "refusal", part.get("refusal"))
        annotations = [each for part in parts for each in part.get("annotations") or ()]
        return found + self._cite(index, annotations[self._cited.get(index, 0) :])

    def _finish(self, response: JSONObject) -> list[JSONObject]:
        chunks: list[JSONObject] = []
        for i, item in enumerate(response.get("output") or ()):
            if self._scanner.hit:
                break
            by_id = _number_of({"item": item})
            chunks += self._rest(by_id if by_id in self._calls or by_id in self._told else i, item)
        for call in self._calls.values():
            if not call.pieces and call.kind == "function":
                chunks += self._writer.arguments(call, "{}")
        self.usage, self.finished = usage_in(response), True
        if self._on_output is not None:
            self._on_output(response.get("output") or self._output)
        details = response.get("incomplete_details")
        given = details.get("reason") if isinstance(details, dict) else None
        reason = _REASONS.get(str(given)) or self._writer.called or "stop"
        return chunks + self._end("stop" if self._scanner.hit else reason)

    def _held_back(self) -> list[JSONObject]:
        """Return the chunk of a text that was held back, because a stop string might have begun in it."""
        held = self._scanner.end()
        return self._written("content", held) if held else []

    def _end(self, reason: str) -> list[JSONObject]:
        """Return the chunks of the end."""
        held = self._held_back()
        last, *usage = self._writer.finish(reason, None, self.usage or {})
        del last["choices"][0]["native_finish_reason"]
        if self.stop is not None:
            last["choices"][0]["matched_stop"] = self.stop
        return [*held, *self._writer.open(""), last, *(usage if self.usage is not None else ())]


def _number_of(payload: JSONObject) -> Any:
    """Return the number of the item that an event is of; where a server gives none, the item's id."""
    if payload.get("output_index") is not None:
        return payload["output_index"]
    item = payload.get("item")
    return payload.get("item_id") or (item.get("id") if isinstance(item, dict) else None)


def _is_citation(annotation: Any) -> bool:
    """Return whether an annotation is one that chat has, too."""
    return isinstance(annotation, dict) and annotation.get("type") == "url_citation"


def _nested(annotation: JSONObject) -> JSONObject:
    """Return a citation in chat's form."""
    cited = {name: value for name, value in annotation.items() if name != "type"}
    return {"type": "url_citation", "url_citation": cited}


def completion_of(
    response: JSONObject,
    identity: Identity,
    *,
    stops: tuple[str, ...] = (),
    on_output: Callable[[list[JSONObject]], None] | None = None,
) -> JSONObject:
    """Return the completion that a whole response amounts to; ``stops`` and ``on_output`` as above."""
    assembler = Assembler()
    stream = ResponsesStream(identity, include_usage=True, stops=stops, on_output=on_output)
    for chunk in stream.take({"type": "response.completed", "response": response}):
        assembler.add(chunk)
    completion = assembler.completion()
    if stream.stop is not None:
        completion["choices"][0]["matched_stop"] = stream.stop
    return completion
