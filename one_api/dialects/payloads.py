"""What an event or a body of an upstream is, in whatever words: nothing, an error, the end, or an object to be read on.

This holds for every dialect. Servers write loosely: errors come in a dozen shapes, text holds halves of characters and
numbers that are none, an event may say nothing at all. What is in none of these classes cannot be read, and ends the
answer: nothing is left out, for it may have been words, or an error.
"""

import re
from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.sse import Event


class InvalidAnswer(ValueError):
    """What the upstream sent is no answer; the message says why."""


class ErrorPayload(InvalidAnswer):
    """The upstream sent an error where an answer belongs; ``payload`` is what it sent, as an object.

    ``chunks`` are what the same event holds of the answer.
    """

    def __init__(self, payload: JSONObject, chunks: list[JSONObject] | None = None) -> None:
        super().__init__("the upstream sent an error in place of an answer")
        self.payload = payload
        self.chunks = chunks or []


class UnfitAnswer(InvalidAnswer):
    """The answer is whole and can be read, but it has not the form that the client asked for."""


class RepairedObject(dict[str, Any]):
    """An object that is not JSON by the letter: its texts may hold halves of characters, see ``characters``."""


#: The end of a stream, as ``read_event`` returns it.
DONE: JSONObject = {"object": "done"}

#: Names of events that report an error, and of those that say nothing; also as ``type``, ``object`` or ``event``.
_ERROR_NAMES = frozenset({"error", "errors", "exception", "fatal", "failure", "stream_error"})
_SILENT_NAMES = frozenset({"ping", "pong", "heartbeat", "keepalive", "keep-alive", "keep_alive", "comment"})
#: Fields that hold the words of an error where no answer is. Baidu: error_msg; MiniMax: base_resp; Zhipu: msg.
_WORDS = ("message", "detail", "details", "msg", "error_message", "error_msg", "errmsg", "err_msg", "error_description")
_CODES = ("code", "status_code", "error_code", "errcode", "status", "errno")
#: Text that is no JSON and speaks of an error.
_SPEAKS_OF_ERROR = re.compile(rb"\W*(?:\w*error|\w*exception|fatal|traceback|internal server|bad gateway)\b", re.I)
#: More of an error's text than this is not needed, in bytes.
_MAX_TEXT = 4096


def read_event(event: Event) -> JSONObject | None:
    """Return the object that ``event`` holds, ``DONE`` at the end of the stream, or None if it says nothing.

    The object is a ``RepairedObject`` if it is not JSON by the letter.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it cannot be read.
    """
    if event.name:
        name = event.name.strip().lower()
        if name in _ERROR_NAMES:
            raise ErrorPayload(_reported(event.data))
        if name in _SILENT_NAMES:
            return None
    value: Any
    try:
        value = json.decode(event.data)
    except json.InvalidJSON as error:
        value = _read_loosely(event.data, error)
    payload: JSONObject | None = value if type(value) is dict else _object_in(value)
    if payload is None or payload is DONE:
        return payload
    if "error" in payload or not payload.get("choices"):
        check_error(payload)
        return None if says_nothing(payload) else payload
    return payload


def split_event(event: Event) -> list[Event]:
    """Return the events that came as one: JSON texts one after the other, with nothing between them."""
    return [Event(text, event.name, event.bare) for text in json.split(event.data)]


def read_body(data: bytes) -> JSONObject | None:
    """Return the object that a whole body holds, None if it is no JSON; raises as ``read_event`` does."""
    try:
        value = json.decode(data)
    except json.InvalidJSON:
        try:
            value = json.decode_generously(data)
        except json.InvalidJSON:
            return None
        value = RepairedObject(value) if isinstance(value, dict) else value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        raise InvalidAnswer("it is not an object")
    check_error(value)
    return value


def check_error(payload: JSONObject) -> None:
    """Raise ErrorPayload when a payload reports an error, in any of the shapes seen."""
    if (found := payload.get("error")) and not _is_blank(found):
        raise ErrorPayload(payload)
    if payload.get("object") == "error" or payload.get("type") == "error" or payload.get("errors"):
        raise ErrorPayload(payload)
    if payload.get("choices"):
        return
    status = payload.get("base_resp")
    if isinstance(status, dict) and status.get("status_code"):
        raise ErrorPayload({"error": {"message": status.get("status_msg"), "code": status["status_code"]}})
    holder = next((each for each in (payload, payload.get("data"), payload.get("header")) if _has_words(each)), None)
    if holder is not None:
        raise ErrorPayload(payload if holder is payload and _is_plain(payload) else {"error": _in_one_form(holder)})
    if payload.get("success") is False:
        raise ErrorPayload({"error": {"message": "The upstream reported a failure without words."}})
    for name, body in payload.items():  # as AWS sends them: {"throttlingException": {"message": "..."}}
        if name != "error" and isinstance(body, dict) and name.lower().endswith(("exception", "error")):
            raise ErrorPayload({"error": {"type": name, **_in_one_form(body)}})


def says_nothing(payload: JSONObject) -> bool:
    """Say whether an object holds nothing, or only says that the server is alive."""
    if any(str(payload.get(key)).lower() in _SILENT_NAMES for key in ("type", "object", "event")):
        return True
    return _is_blank(payload)


def _is_blank(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_blank, value.values()))
    return value in (None, "", 0, False) or value == []


def _has_words(value: Any) -> bool:
    """Say whether an object tells of an error in words, and not of a message."""
    if not isinstance(value, dict) or "role" in value:
        return False
    if any(value.get(key) and isinstance(value[key], (str, list)) for key in _WORDS):
        return not {"content", "delta", "text", "response"} & value.keys()
    return isinstance(value.get("detail"), dict) or any(map(_is_failure, map(value.get, _CODES)))


def _is_failure(code: Any) -> bool:
    """Say whether a code by itself is one of HTTP's for a failure."""
    return isinstance(code, int) and 400 <= code <= 599


def _is_plain(payload: JSONObject) -> bool:
    """Say whether the words of an error stand where those that report it look for them."""
    return bool(payload.get("message") or payload.get("detail"))


def _in_one_form(body: JSONObject) -> JSONObject:
    """Return the words and the code of an error under one name each."""
    words = next((body[key] for key in _WORDS if body.get(key)), None)
    form = {"message": _text_of(words), "code": next((body[key] for key in _CODES if body.get(key)), None)}
    return form | ({"type": body["type"]} if body.get("type") else {})


def _reported(data: bytes) -> JSONObject:
    """Return the payload of an event that is called an error, whatever it holds."""
    try:
        value = json.decode_generously(data)
    except json.InvalidJSON:
        value = data[:_MAX_TEXT].decode("utf-8", "replace").strip()
    if isinstance(value, dict) and (value.get("error") or value.get("errors")):
        return value
    if isinstance(value, dict) and value.get("message"):
        return {"error": value}
    return {"error": _in_one_form(value) if _has_words(value) else {"message": _text_of(value)}}


def _text_of(value: Any) -> str:
    if not value:
        return "The upstream reported an error without words."
    return value if isinstance(value, str) else json.encode([value]).decode()[1:-1]


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
            raise ErrorPayload({"error": {"message": text[:_MAX_TEXT].decode("utf-8", "replace")}}) from None
        raise InvalidAnswer(f"an event is not a JSON object: {refused}") from None
    return RepairedObject(value) if isinstance(value, dict) else value


def _object_in(value: Any) -> JSONObject | None:
    """Return the object in a value that is none itself: one alone in a list, or as JSON in a text."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0]
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
        raise ErrorPayload({"error": {"message": text[:_MAX_TEXT]}})
    raise InvalidAnswer("an event is not a JSON object: it is a text")
