"""A streamed answer: chat chunks become the events of a Responses stream.

Items come one after the other, each opened, filled and closed. What the model begins before it has ended a call waits
its turn: clients know one item at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from one_api.dialects import json
from one_api.dialects.event_writer import EventWriter
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import calls_in
from one_api.dialects.openai.shapes import text_of
from one_api.dialects.responses.failure import error_of, failure_of
from one_api.dialects.responses.grammar import EventGrammar
from one_api.dialects.responses.outbound.native import ENDINGS, OPENINGS
from one_api.dialects.responses.output import CallItem, Event, ImageItem, MessageItem, OutputItem, ReasoningItem
from one_api.dialects.responses.request import Translated
from one_api.dialects.responses.required import ITEM_DONE, RequiredFields, own_response
from one_api.dialects.responses.response import (
    Identity,
    Outcome,
    images_in,
    kind_of_call,
    outcome_of,
    probabilities_of,
    response_object,
)
from one_api.dialects.sse import encode_event
from one_api.errors import GatewayError


class ResponseWriter(EventWriter):
    """Writes one answer.

    ``now`` returns Unix seconds. ``seal`` makes a text of reasoning for the client to keep; None: it asked for none.
    With ``keep`` the whole response is ``to_keep`` before the client learns of its end. With ``error_frame`` a failure
    is sent in two events, see ``fail``.
    """

    def __init__(
        self,
        request: Translated,
        identity: Identity,
        now: Callable[[], int],
        *,
        seal: Callable[[JSONObject], str] | None = None,
        keep: bool = False,
        error_frame: bool = True,
    ) -> None:
        self._request = request
        self._identity = identity
        self._now = now
        self._seal = seal
        self._keep = keep
        self._error_frame = error_frame
        #: Writes the event of the end, once ``last`` is called.
        self._waiting: Callable[[bool], bytes] | None = None
        self._sequence = 0
        #: The items that are closed.
        self._output: list[JSONObject] = []
        #: Those that are not; the first of them is the one that clients see.
        self._items: deque[OutputItem] = deque()
        self._calls: dict[int, CallItem] = {}
        self._refused = False
        self._finish: str | None = None
        self._usage: JSONObject | None = None
        self._service_tier: str | None = None
        self._begun = False
        #: The upstream's own last event has been passed on.
        self._ended = False
        self._required = RequiredFields(identity, request.echo | {"tools": []})
        self._grammar = EventGrammar(self._required)

    def begin(self) -> bytes:
        """See ``EventWriter``: nothing yet, for an upstream that speaks this dialect begins by itself."""
        return b""

    def heartbeat(self) -> bytes:
        """See ``EventWriter``: an event, because for Codex a comment is silence."""
        return self._opening() or self._event("response.in_progress", self._beginning())

    def _opening(self) -> bytes:
        """Return the first two events, once."""
        if self._begun:
            return b""
        self._begun = True
        beginning = self._beginning()
        return self._event("response.created", beginning) + self._event("response.in_progress", beginning)

    def _beginning(self) -> JSONObject:
        """Return what events say of the response before there is anything of it."""
        return {"response": self._response(Outcome(), stored=self._keep, empty=True)}

    def write(self, chunks: list[JSONObject]) -> bytes:
        """See ``EventWriter``."""
        written: list[bytes] = []
        for chunk in chunks:
            if (event := chunk.get("native")) is not None:
                written.append(self._passed_on(event))
                continue
            if (event_of_text := self._text_only(chunk)) is not None:
                written.append(event_of_text)
                continue
            written.append(self._opening())
            if isinstance(chunk.get("usage"), dict):
                self._usage = chunk["usage"]
            self._service_tier = chunk.get("service_tier") or self._service_tier
            for choice in chunk["choices"]:
                if choice["index"] == 0:
                    self._take(choice)
            written += self._flushed()
        return b"".join(written)

    def end(self) -> bytes:
        """See ``EventWriter``."""
        if self._ended:
            return b""
        outcome = outcome_of(self._finish, self._refused, self._now())
        thought = [isinstance(item, ReasoningItem) for item in self._items]
        thought += [item.get("type") == "reasoning" for item in self._output]
        if not thought or (all(thought) and outcome.reason is None):
            self._items.append(MessageItem())
        written = [self._opening()]
        while self._items:
            is_last = len(self._items) == 1
            written += [*self._open(), self._close("incomplete" if is_last and outcome.reason else "completed")]
        return b"".join(written) + self._final(outcome)

    def fail(self, error: GatewayError) -> bytes:
        """See ``EventWriter``.

        The second event has the form of chat's error: OpenAI's own clients raise an exception on nothing else.
        """
        outcome = Outcome("failed", error=failure_of(error))
        return self._opening() + self._final(outcome, encode_event(error_of(error)) if self._error_frame else b"")

    # What an upstream of this dialect says itself

    def _passed_on(self, event: JSONObject) -> bytes:
        """Return an event of the upstream under our number, and with our id wherever it names the response."""
        kind = event["type"]
        if kind in OPENINGS and self._begun and kind != "response.in_progress":
            return b""
        if kind == "response.created":
            self._begun = True
        before = b"" if self._begun else self._opening()
        fields = {key: value for key, value in event.items() if key not in ("type", "sequence_number")}
        response = event.get("response")
        if not isinstance(response, dict):
            if kind not in ENDINGS:
                return before + self._told(self._grammar.of_event(kind, fields))
            response = self._response(Outcome(kind.removeprefix("response.")))
        status = kind.removeprefix("response.") if kind in ENDINGS else "in_progress"
        found = own_response(self._request, self._identity, response, self._required, status=status, stored=self._keep)
        if kind not in ENDINGS:
            return before + self._event(kind, fields | {"response": found})
        self._ended = True
        missing, output = self._grammar.at_end(found["output"])
        before += self._told(missing)
        found |= {"output": output or self._output}

        def write(kept: bool) -> bytes:
            return self._event(kind, fields | {"response": found | {"store": kept}})

        return before + self._at_the_end(lambda: found, write)

    def _told(self, events: list[Event]) -> bytes:
        """Return events of the upstream's items; those that are whole are noted."""
        self._output += [fields["item"] for kind, fields in events if kind == ITEM_DONE and fields.get("item")]
        return b"".join(map(self._encoded, events))

    def _text_only(self, chunk: JSONObject) -> bytes | None:
        """Return the event of a chunk that only goes on with the text, as most do; None for any other."""
        item = self._items[0] if len(self._items) == 1 else None
        if not isinstance(item, MessageItem) or not item.frame or len(chunk["choices"]) != 1 or chunk.get("usage"):
            return None
        choice = chunk["choices"][0]
        text = choice["delta"].get("content")
        others = len(choice["delta"]) != 1 or choice["index"] or choice.get("finish_reason") or choice.get("logprobs")
        if others or not text:
            return None
        self._sequence += 1
        return b'%b"sequence_number":%d}\n\n' % (item.write_text(text), self._sequence - 1)

    # What came

    def _take(self, choice: JSONObject) -> None:
        delta = choice["delta"]
        is_wanted = self._seal is not None or self._request.reasoning != "nothing"
        if is_wanted and (text := delta.get("reasoning_content")):
            self._reasoning().add_text(text)
        if self._seal is not None and (blocks := delta.get("thinking_blocks")):
            self._reasoning().blocks += blocks
        if text := text_of(delta):
            self._message().add_text(text, probabilities_of(choice.get("logprobs")))
        if text := delta.get("refusal"):
            self._refused = True
            self._message().add_refusal(text)
        if found := delta.get("annotations"):
            self._message().add_annotations(found)
        if "images" in delta:
            self._items += map(ImageItem, images_in(delta))
        for entry in calls_in(delta, self._identity.id):
            self._call(entry)
        self._finish = choice.get("finish_reason") or self._finish

    def _reasoning(self) -> ReasoningItem:
        last = self._items[-1] if self._items else None
        if not isinstance(last, ReasoningItem):
            last = ReasoningItem(self._request.chat.model, self._request.reasoning, self._seal)
            self._items.append(last)
        return last

    def _message(self) -> MessageItem:
        last = self._items[-1] if self._items else None
        if not isinstance(last, MessageItem):
            last = MessageItem()
            self._items.append(last)
        return last

    def _call(self, entry: JSONObject) -> None:
        body = entry.get("function") or entry.get("custom") or {}
        call = self._calls.get(entry["index"])
        if call is None:
            call = self._calls[entry["index"]] = CallItem(
                entry["id"], partial(self._request.tools.find, kind=kind_of_call(entry))
            )
            self._items.append(call)
        call.add(body.get("name") or "", body.get("arguments") or body.get("input") or "")

    # What goes out

    def _flushed(self) -> Iterator[bytes]:
        """Give the events of the first item; of the next one when the first has ended."""
        while self._items:
            yield from self._open()
            if len(self._items) == 1 or not self._items[0].is_whole:
                return
            yield self._close("completed")

    def _open(self) -> Iterator[bytes]:
        item = self._items[0]
        yield from map(self._encoded, item.events(self._identity, len(self._output)))

    def _close(self, status: str) -> bytes:
        item = self._items.popleft()
        index = len(self._output)
        closing = [self._encoded(event) for event in item.end(self._identity, index, status)]
        self._output.append(item.item)
        done = {"output_index": index, "item": item.item}
        return b"".join(closing) + self._event(ITEM_DONE, done)

    def last(self, *, kept: bool) -> bytes:
        """See ``EventWriter``."""
        waiting, self._waiting, self.to_keep = self._waiting, None, None
        return waiting(kept) if waiting is not None else b""

    def _at_the_end(self, response: Callable[[], JSONObject], write: Callable[[bool], bytes]) -> bytes:
        """Return the event of the end; nothing if it has to wait until the response is kept: clients go on at once."""
        if not self._keep:
            return write(False)
        self.to_keep, self._waiting = response(), write
        return b""

    def _final(self, outcome: Outcome, after: bytes = b"") -> bytes:
        """Return the event that ends the stream, with what comes after it, or nothing if that has to wait."""

        def write(kept: bool) -> bytes:
            event = self._event(f"response.{outcome.status}", {"response": self._response(outcome, stored=kept)})
            return event + after

        return self._at_the_end(partial(self._response, outcome, stored=True, short=False), write)

    def _response(
        self, outcome: Outcome, *, stored: bool = False, short: bool = True, empty: bool = False
    ) -> JSONObject:
        return response_object(
            self._request,
            self._identity,
            outcome,
            [] if empty else self._output,
            usage=None if empty else self._usage,
            service_tier=self._service_tier,
            stored=stored,
            short=short,
        )

    def _encoded(self, event: Event) -> bytes:
        return self._event(*event)

    def _event(self, kind: str, fields: JSONObject) -> bytes:
        data = json.encode({"type": kind, **fields, "sequence_number": self._sequence})
        self._sequence += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
