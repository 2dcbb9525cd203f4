"""What an event or a body of an upstream is, in whatever words: nothing, an error, the end, or an object to be read on.

This holds for every dialect. Servers write loosely: errors come in a dozen shapes, text holds halves of characters and
numbers that are none, an event may say nothing at all. What is in none of these classes cannot be read, and ends the
answer: nothing is left out, for it may have been words, or an error.
"""

import re
from collections.abc import Callable
from typing import Any

from one_api.dialects import error_body, json
from one_api.dialects.json import JSONObject
from one_api.dialects.sse import Event

#: Fields that an answer may be wrapped in. DashScope's own dialect: output; Cloudflare's: result.
_WRAPPERS = ("output", "data", "result", "response", "body")
#: Fields of an answer without choices that hold its text. Ollama's and Cloudflare's own dialects: response.
_NATIVE_TEXTS = ("response", "text", "content")


class InvalidAnswer(ValueError):
    """What the upstream sent is no answer; the message says why."""


class ErrorPayload(InvalidAnswer):
    """The upstream sent an error where an answer belongs; ``payload`` is what it sent, for ``error_body`` to read.

    ``chunks`` are what the same event holds of the answer.
    """

    def __init__(self, payload: Any, chunks: list[JSONObject] | None = None) -> None:
        super().__init__("the upstream sent an error in place of an answer")
        self.payload = payload
        self.chunks = chunks or []


class TooLargeAnswer(InvalidAnswer):
    """An answer holds more than is read."""


class UnfitAnswer(InvalidAnswer):
    """The answer is whole and can be read, but it has not the form that the client asked for."""


class RepairedObject(dict[str, Any]):
    """An object that is not JSON by the letter: its texts may hold halves of characters, see ``characters``."""


#: The end of a stream, as ``read_event`` returns it.
DONE: JSONObject = {"object": "done"}

#: Names of events that report an error, and of those that say nothing; also as ``type``, ``object`` or ``event``.
_ERROR_NAMES = frozenset({"error", "errors", "exception", "fatal", "failure", "stream_error"})
_SILENT_NAMES = frozenset({"ping", "pong", "heartbeat", "keepalive", "keep-alive", "keep_alive", "comment"})
#: In the type or the name of an event that reports an error.
_ERROR_NAME = re.compile("error|exception|fail|fatal", re.I)
#: What OpenAI's chunks hold, and are called: one with no more than that reports no error, and says something.
_CHUNK_FIELDS = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"}
)  # fmt: skip
_CHUNK = "chat.completion.chunk"
#: The same of Anthropic's events.
_EVENT_FIELDS = frozenset({"type", "index", "message", "content_block", "delta", "usage"})
_EVENTS = (
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"
)  # fmt: skip
#: Text that is no JSON and speaks of an error.
_SPEAKS_OF_ERROR = re.compile(
    rb"\s*<(?:!doctype|html|head|body|\?xml|center|h1|title)\b|\W*(?:(?:\w*error|\w*exception|fatal|traceback"
    rb"|internal server|bad gateway|service unavailable|gateway time-?out|too many requests|unauthorized|forbidden"
    rb"|timed? ?out|overloaded)\b|(?:upstream|rate limit|request)\b.{0,60}\b(?:error|reset|exceeded|reached|time))",
    re.I,
)
#: More of an error's text than this is not needed, in bytes.
_MAX_TEXT = 4096
#: More texts within texts than this are not opened.
_MAX_WRAPPED = 4


def read_event(event: Event, *, by_name: bool = False) -> JSONObject | None:
    """Return the object that ``event`` holds, ``DONE`` at the end of the stream, or None if it says nothing.

    The object is a ``RepairedObject`` if it is not JSON by the letter. With ``by_name``, events have types or names,
    and words make an error of those only that have none.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it cannot be read.
    """
    if event.name:
        name = event.name.strip().lower()
        if name in _ERROR_NAMES:
            raise ErrorPayload(_value_in(event.data))
        if name in _SILENT_NAMES:
            return None
    if event.data == b"[DONE]":
        return DONE
    value: Any
    try:
        value = json.decode(event.data)
    except json.TooMuchJSON as error:
        raise TooLargeAnswer(f"an event cannot be read: {error}") from None
    except json.InvalidJSON as error:
        value = _read_loosely(event.data, error)
    payload: JSONObject | None = value if type(value) is dict else _object_in(value)
    if payload is None or payload is DONE:
        return payload
    if payload.get("object") == _CHUNK and payload.keys() <= _CHUNK_FIELDS:
        return payload
    if by_name and payload.keys() <= _EVENT_FIELDS and payload.get("type") in _EVENTS:
        return payload
    if "error" in payload or "base_resp" in payload or not payload.get("choices"):
        check_error(payload, is_named=by_name and _is_named(payload, event))
        return None if says_nothing(payload) else payload
    return payload


def feed_all(feed: Callable[[Event], list[JSONObject]], event: Event, error: InvalidAnswer) -> list[JSONObject]:
    """Return the chunks of events that came as one: JSON texts with nothing between them.

    ``error`` is why ``event`` itself cannot be read; it is raised when ``event`` does not hold several.
    """
    several = [] if isinstance(error, (ErrorPayload, TooLargeAnswer)) else json.split(event.data)
    if len(several) < 2:
        try:
            raise error
        finally:
            del error  # its frames hold the event, and lead back here
    chunks: list[JSONObject] = []
    for text in several:
        try:
            chunks += feed(Event(text, event.name, event.bare))
        except ErrorPayload as report:
            raise ErrorPayload(report.payload, chunks + report.chunks) from None
    return chunks


def read_body(data: bytes, decoded: Any = None) -> JSONObject | None:
    """Return the object that a whole body holds; raises as ``read_event`` does.

    None, if it is to be read as events: it is no JSON, or a list of several objects. ``decoded`` is what it holds, if
    it has been decoded already.
    """
    try:
        value = json.decode(data) if decoded is None else decoded
    except json.InvalidJSON:
        try:
            value = json.decode_generously(data)
        except json.InvalidJSON:
            return None
        value = RepairedObject(value) if isinstance(value, dict) else value
    value = _opened(value)
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        if len(value) > 1:
            return None
        value = value[0]
    if not isinstance(value, dict):
        raise InvalidAnswer("it is not an object")
    check_error(value)
    return value


def _opened(value: Any) -> Any:
    """Return what a text holds that is JSON itself; any other value as it is."""
    for _ in range(_MAX_WRAPPED):
        if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "[", '"'):
            break
        try:
            value = json.decode(value.encode("utf-8", "replace"))
        except json.InvalidJSON:
            break
    return value


def check_error(payload: JSONObject, *, is_named: bool = False) -> None:
    """Raise ErrorPayload, with the payload as it came, when it reports an error in any of the shapes seen.

    ``is_named`` says that the payload is an event of some kind of its own: words alone make no error of it.
    """
    if _has_error(payload):
        raise ErrorPayload(payload)
    if payload.get("choices") or _is_envelope(payload):
        return
    if _is_called_error(payload) or (not is_named and _reports_in_words(payload)):
        raise ErrorPayload(payload)
    if (inner := _wrapped_error(payload)) is not None:
        raise ErrorPayload(inner)


def _has_error(payload: JSONObject) -> bool:
    """Return whether an object has an error where nothing else stands, so that it counts beside an answer, too."""
    status, error = payload.get("base_resp"), payload.get("error")
    return (
        (error is not None and not is_blank(error))
        or bool(payload.get("errors"))
        or (isinstance(status, dict) and status.get("status_code") not in (None, 0, "0", ""))
        or "error" in (payload.get("object"), payload.get("type"))
    )


def _is_called_error(payload: JSONObject) -> bool:
    """Return whether the name of an object's kind is that of an error."""
    return any(_ERROR_NAME.search(str(payload.get(key))) for key in ("type", "object", "event", "status"))


def _wrapped_error(payload: JSONObject) -> JSONObject | None:
    """Return the object in an envelope that has an error; None when there is none."""
    for name in _WRAPPERS:
        inner = payload.get(name) if name != "body" else _opened(payload.get(name))
        if isinstance(inner, dict) and not is_blank(inner.get("error")):
            return inner
    return None


def wrapped_answer(payload: JSONObject) -> tuple[str, JSONObject] | None:
    """Return the answer or chunk that an envelope holds, and the field that it is in; None if there is none.

    It may be in an envelope itself, alone in a list, or JSON in a text (AWS's ``body``).
    """
    for name in _WRAPPERS:
        inner = payload.get(name)
        if isinstance(inner, str):
            inner = _opened(inner)
            if not (isinstance(inner, dict) and inner.get("choices")):
                continue
        if isinstance(inner, list) and len(inner) == 1:
            (inner,) = inner
        if isinstance(inner, dict) and (_holds_answer(inner) or wrapped_answer(inner) is not None):
            return name, inner
    return None


def _holds_answer(inner: JSONObject) -> bool:
    if inner.get("choices") or any(isinstance(inner.get(name), dict) for name in ("delta", "message", "response")):
        return True
    return bool(inner.get("tool_calls")) or any(isinstance(inner.get(name), str) for name in _NATIVE_TEXTS)


def _is_envelope(payload: JSONObject) -> bool:
    """Return whether a payload holds an answer, and does not say that this is an error."""
    found = wrapped_answer(payload)
    if found is None:
        return False
    return bool(found[1].get("choices")) or (payload.get("success") is not False and not error_body.status_in(payload))


def says_nothing(payload: JSONObject) -> bool:
    """Return whether an object holds nothing, or only says that the server is alive."""
    if any(str(payload.get(key)).lower() in _SILENT_NAMES for key in ("type", "object", "event")):
        return True
    return is_blank(payload)


def is_blank(value: Any) -> bool:
    """Return whether a value is null, empty or zero, or holds nothing else."""
    if isinstance(value, dict):
        return all(map(is_blank, value.values()))
    return value in (None, "", 0, False) or value == []


def _reports_in_words(payload: JSONObject) -> bool:
    """Return whether an object reports an error by its words or codes alone."""
    if payload.get("success") is False:
        return True
    holders = (payload, payload.get("data"), payload.get("header"), payload.get("fault"))
    return any(map(_has_words, holders)) or next(error_body.named_reports(payload), None) is not None


def _has_words(value: Any) -> bool:
    """Return whether an object holds the words or the code of an error, and not a message."""
    if not isinstance(value, dict) or "role" in value:
        return False
    if any(value.get(key) and isinstance(value[key], (str, list)) for key in error_body.CLEAR_WORDS):
        return not {"content", "delta", "text", "response"} & value.keys()
    return isinstance(value.get("detail"), dict) or error_body.status_in(value) is not None


def _is_named(payload: JSONObject, event: Event) -> bool:
    """Return whether an event has a type or a name, and not that of an error."""
    name = payload.get("type") or event.name
    return isinstance(name, str) and bool(name) and _ERROR_NAME.search(name) is None


def _value_in(data: bytes) -> Any:
    """Return what an event that is called an error holds: a value of JSON, or text."""
    try:
        return json.decode_generously(data)
    except json.InvalidJSON:
        return data[:_MAX_TEXT].decode("utf-8", "replace").strip()


def _read_loosely(data: bytes, refused: json.InvalidJSON) -> Any:
    """Return what an event holds that is not JSON by the letter."""
    text = data.strip()
    if text.strip(b"'\" ").upper() in (b"[DONE]", b"DONE"):
        return DONE
    if not text:
        return None
    while text.startswith(b"data:"):
        text = text[5:].lstrip()
        if text == b"[DONE]":
            return DONE
    try:
        value = json.decode_generously(text)
    except json.InvalidJSON:
        if _SPEAKS_OF_ERROR.match(text):
            raise ErrorPayload(text[:_MAX_TEXT].decode("utf-8", "replace")) from None
        raise InvalidAnswer(f"an event is not a JSON object: {refused}") from None
    return RepairedObject(value) if isinstance(value, dict) else value


def _object_in(value: Any) -> JSONObject | None:
    """Return the object in a value of another type: alone in a list, or as JSON in a text."""
    value = _opened(value)
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        text = value.strip()
        return read_event(Event(text.encode("utf-8", "replace"))) if text[:1] in ("{", "[") else _word(text)
    if value is None or value == []:
        return None
    raise InvalidAnswer("an event is not a JSON object: it is not an object")


def _word(text: str) -> JSONObject | None:
    """Return what a single text stands for."""
    if not text:
        return None
    if text.upper() == "DONE":
        return DONE
    if _SPEAKS_OF_ERROR.match(text.encode("utf-8", "replace")):
        raise ErrorPayload(text[:_MAX_TEXT])
    raise InvalidAnswer("an event is not a JSON object: it is a text")
