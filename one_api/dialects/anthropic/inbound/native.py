"""A Messages request on its way to an upstream that speaks Messages, and its answer: as little is touched as can be."""

import re
from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.events import kind_of, stop_of
from one_api.dialects.anthropic.history import tool_input
from one_api.dialects.anthropic.inbound.native_events import MessageEvents, mended_message
from one_api.dialects.anthropic.inbound.split import events_of
from one_api.dialects.anthropic.response import merge_usage, usage_of
from one_api.dialects.characters import all_whole
from one_api.dialects.frames import PassingTranslator
from one_api.dialects.json import JSONObject
from one_api.dialects.model_name import renamed
from one_api.dialects.native import NativeRequest
from one_api.dialects.payloads import DONE, InvalidAnswer, RepairedObject, check_error, feed_all, read_event
from one_api.dialects.sealing import PREFIX
from one_api.dialects.sse import Event, EventReader

#: The client's headers that go to the upstream.
HEADERS = ("anthropic-version", "anthropic-beta")
#: Events that hold something of the answer.
_CONTENT = frozenset({"content_block_delta", "message_delta", "message_stop"})


@dataclass(frozen=True, slots=True)
class Deviations:
    """What a server that imitates Anthropic's takes otherwise."""

    #: Fields of the body that it refuses.
    strip_fields: frozenset[str] = frozenset()
    #: It knows no system messages between the turns: they become user messages.
    system_as_user: bool = False


def body_for(
    native: NativeRequest, model: str, deviations: Deviations, *, stream: bool | None = None
) -> bytes | JSONObject:
    """Return what to send: the client's bytes, but for the model's name and thinking that is not the upstream's.

    An object, where more than the model's name changes, is still to be encoded.

    ``stream`` asks for a stream in any case; None leaves what the client has asked for.
    """
    body = native.body
    changes: JSONObject = {} if stream is None else {"stream": stream}
    messages = _messages_for(body["messages"], deviations)
    if messages is not None:
        changes["messages"] = messages
    stripped = deviations.strip_fields & body.keys()
    if not changes and not stripped:
        if body["model"] == model:
            return native.data
        if (data := renamed(native.data, model)) is not None:
            return data
    kept = {key: value for key, value in body.items() if key not in stripped}
    return kept | changes | {"model": model}


def keeps_blocks(native: NativeRequest) -> bool:
    """Return whether the messages that are sent have all blocks of the client's."""
    contents = [message["content"] for message in native.body["messages"]]
    return not any(_is_ours(block) for content in contents if isinstance(content, list) for block in content)


def _messages_for(messages: list[JSONObject], deviations: Deviations) -> list[JSONObject] | None:
    """Return the messages without what no server of Anthropic's has made; None when nothing changes."""
    found, changed = [], False
    for message in messages:
        content = message["content"]
        kept = content
        if isinstance(content, list) and any(map(_is_ours, content)):
            kept = [own for block in content if (own := _without_ours(block)) is not None]
        is_system = deviations.system_as_user and message["role"] == "system"
        changed = changed or is_system or kept is not content
        if is_system:
            found.append({"role": "user", "content": kept})
        elif kept or not content:
            found.append(message if kept is content else message | {"content": kept})
    return found if changed else None


def _is_ours(block: Any) -> bool:
    """Return whether a block, or something in it, is of a model that is not Anthropic's."""
    if not isinstance(block, dict):
        return False
    if block.get("type") == "thinking":
        signature = block.get("signature")
        return not signature or (isinstance(signature, str) and signature.startswith(PREFIX))
    cited = block.get("citations")
    return isinstance(cited, list) and any(map(_is_our_citation, cited))


def _is_our_citation(citation: Any) -> bool:
    return isinstance(citation, dict) and citation.get("encrypted_index") == ""


def _without_ours(block: JSONObject) -> JSONObject | None:
    """Return a block as Anthropic's servers take it: thinking that they have not signed they refuse."""
    if not _is_ours(block):
        return block
    if block["type"] == "thinking":
        return None
    others = [each for each in block["citations"] if not _is_our_citation(each)]
    return {name: value for name, value in block.items() if name != "citations"} | (
        {"citations": others} if others else {}
    )


class NativeMessage(PassingTranslator):
    """Passes the events of one message on, and reads beside that what it took and whether it has ended.

    What it returns has the bytes of an event under ``native``, and says under ``content`` whether they hold something
    of the answer; the first event is whole, under ``native_start``. Events that are as they should be pass as they
    came, see ``MessageEvents``. ``message_id`` is for a message without one.
    """

    def __init__(self, message_id: str = "msg_0") -> None:
        self._events = MessageEvents(message_id)
        self.verbatim: tuple[bytes, re.Pattern[bytes]] | None = None

    @property
    def finished(self) -> bool:  # type: ignore[override]
        """Return whether the end of the message has come."""
        return self._events.finished

    @property
    def usage(self) -> JSONObject | None:  # type: ignore[override]
        """Return what was reported so far."""
        return self._events.usage

    @property
    def is_complete(self) -> bool:
        """Return whether the message has its stop reason: only its end may follow."""
        return self._events.is_complete

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error.
            InvalidAnswer: when it is none of a message.
        """
        if self.finished:
            return []
        if event.name == "ping":
            return [_chunk(event.name, event.data if event.data.startswith(b"{") else b'{"type":"ping"}')]
        try:
            payload = read_event(event, by_name=True)
        except InvalidAnswer as error:
            return feed_all(self.feed, event, error)
        if payload is DONE or (payload is None and event.name == "message_stop"):
            return self._take({"type": "message_stop"}, "message_stop")
        if payload is None:
            return []
        kind = kind_of(payload, event.name)
        if not kind:
            raise InvalidAnswer("an event has no type")
        if kind == "message" and (event.bare or stop_of(payload) is not None):
            return [
                chunk for each in events_of(mended_message(payload)) for chunk in self._take(each, str(each["type"]))
            ]
        return self._take(payload, "message_start" if kind == "message" else kind, event.data)

    def _take(self, payload: JSONObject, kind: str, data: bytes = b"") -> list[JSONObject]:
        """Return the chunks of an event; ``data`` is how it came."""
        self.verbatim = None
        if self._events.has_taken(payload, kind):
            if kind == "content_block_start" and (block := self._events.latest) is not None:
                self.verbatim = _HEADS[block.kind] % block.number, _ending
            return [_chunk_of(payload, data)]
        is_repaired = isinstance(payload, RepairedObject)
        if is_repaired and kind != "content_block_delta":
            payload = all_whole(payload)
        events = self._events.take(payload, kind)
        if kind == "content_block_delta" and events == [payload] and self._events.is_between_characters:
            self.verbatim = _like(data)
        if is_repaired:
            return [_chunk_of(all_whole(each)) for each in events]
        return [_chunk_of(each, data if each is payload else b"") for each in events]

    def pass_on(self, event: bytes) -> JSONObject:
        """See ``PassingTranslator``."""
        if self._events.latest is not None:
            self._events.latest.is_numbered = True
        return {"native": event, "content": True}

    def end(self) -> list[JSONObject]:
        """Return what is owed when the bytes have ended: the end of a message that has its stop reason."""
        return [_chunk_of(each) for each in self._events.end()]


#: The inside of a string without halves of characters.
_PLAIN = rb'[^"\\\x00-\x1f]*(?:\\(?:[bfnrt"/\\]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
#: What follows in an event on the text that it ends with.
_TAIL = _PLAIN + rb'" *\} *\} *'
_piece_of_text = re.compile(rb'(\{.*"(?:text|thinking)" *: *")' + _TAIL).fullmatch
_ending = re.compile(_TAIL + rb"\n\n")
#: What pieces begin with, by the kinds of their blocks, as Anthropic's own server writes them.
_HEADS = {
    kind: (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%%d,'
        b'"delta":{"type":"%b_delta","%b":"' % (kind.encode(), kind.encode())
    )
    for kind in ("text", "thinking")
}


def _like(data: bytes) -> tuple[bytes, re.Pattern[bytes]] | None:
    """Return what the next pieces of a text begin and end with, after the one in ``data``; None if it is no such."""
    found = _piece_of_text(data)
    return None if found is None else (b"event: content_block_delta\ndata: " + found[1], _ending)


def _chunk_of(payload: JSONObject, data: bytes = b"") -> JSONObject:
    """Return the chunk of an event that is written as ``data``, or anew."""
    if payload.get("type") == "message_start":
        return {"native_start": payload, "content": False}
    return _chunk(str(payload["type"]), data or json.encode(payload))


def _chunk(kind: str, data: bytes) -> JSONObject:
    framed = b"\ndata: ".join(data.split(b"\n"))
    return {"native": b"event: %b\ndata: %b\n\n" % (kind.encode(), framed), "content": kind in _CONTENT}


def read_message(data: bytes, decoded: Any = None) -> JSONObject:
    """Return the answer for a whole message: ``native`` is the message, ``usage`` is counted as OpenAI does.

    ``decoded`` is the value of ``data``, if that has been decoded already.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it is no message.
    """
    try:
        message = json.decode_object(data, as_written=True) if decoded is None else json.only_object(decoded)
    except json.InvalidJSON as error:
        if events := EventReader().feed(data):
            return _assembled(events)
        raise InvalidAnswer(str(error)) from None
    check_error(message, is_named=True)
    message = mended_message(message)
    return {"native": message, "usage": usage_of(message["usage"])}


def _assembled(events: list[Event]) -> JSONObject:
    """Return the answer that the events of a message amount to."""
    translator, assembler = NativeMessage(), MessageAssembler()
    for event in events:
        for chunk in translator.feed(event):
            assembler.add(chunk)
    for chunk in translator.end():
        assembler.add(chunk)
    if not translator.finished:
        raise InvalidAnswer("its events stop before the message is complete")
    return assembler.answer


class MessageAssembler:
    """Puts a whole message together from the chunks of a ``NativeMessage``."""

    def __init__(self) -> None:
        self._message: JSONObject = {}
        self._pieces: dict[int, list[str]] = {}

    def add(self, chunk: JSONObject) -> None:
        """Add one chunk, in order; raises InvalidAnswer when it does not fit what came before."""
        try:
            self._add(chunk.get("native_start") or _payload_of(chunk))
        except (LookupError, TypeError, AttributeError, json.InvalidJSON):
            raise InvalidAnswer("its events do not amount to a message") from None

    def _add(self, payload: JSONObject) -> None:
        kind = payload.get("type")
        if kind == "message_start":
            self._message = {"stop_reason": None, "stop_sequence": None, **payload["message"], "content": []}
        elif kind == "content_block_start":
            self._message["content"].append(dict(payload["content_block"]))
        elif kind == "content_block_delta":
            self._add_delta(payload["index"], payload["delta"])
        elif kind == "message_delta":
            merge_usage(self._message.setdefault("usage", {}), payload.get("usage") or {})
            self._message |= {key: value for key, value in payload["delta"].items() if value is not None}

    def _add_delta(self, index: int, delta: JSONObject) -> None:
        block = self._message["content"][index]
        kind = delta.get("type")
        if kind == "input_json_delta":
            piece = delta["partial_json"]
            self._pieces.setdefault(index, []).append(piece if isinstance(piece, str) else json.encode(piece).decode())
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind in ("text_delta", "thinking_delta"):
            key = kind.removesuffix("_delta")
            self._pieces.setdefault(index, []).append(str(delta[key]))

    @property
    def answer(self) -> JSONObject:
        """The answer, once the stream has ended well; see ``read_message``."""
        for index, pieces in self._pieces.items():
            block, text = self._message["content"][index], "".join(pieces)
            if block["type"] in ("text", "thinking"):
                block[block["type"]] += text
            elif text.strip():
                block["input"] = tool_input(text)
        return {"native": self._message, "usage": usage_of(self._message.get("usage") or {})}


def _payload_of(chunk: JSONObject) -> JSONObject:
    (event,) = EventReader().feed(chunk["native"])
    return json.decode_object(event.data)
