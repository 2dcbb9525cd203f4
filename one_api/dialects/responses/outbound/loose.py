"""Responses of servers that imitate OpenAI's loosely, brought into its form: events one at a time, and whole ones."""

import re
from typing import Any

from one_api.dialects import json
from one_api.dialects.characters import TextJoiner, all_whole
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import arguments_text
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.responses.outbound.native import payload_of, read_response
from one_api.dialects.sse import Event

#: What may be half of a character.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
#: What a delta is a piece of.
_PLACE = ("type", "item_id", "output_index", "content_index", "summary_index")
#: By the type of a call, what holds its text.
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}


class ResponseEvents:
    """Reads the events of one response."""

    def __init__(self) -> None:
        self._joiner = TextJoiner()

    def read(self, event: Event) -> JSONObject | None:
        """Return an event, which has a type; None if it says nothing.

        Raises:
            ErrorPayload: when it reports a failure, in whatever form.
            InvalidAnswer: when it is no event of this dialect.
        """
        payload = payload_of(event)
        if payload is None:
            return None
        if self._joiner.begun or not _is_whole(event.data):
            payload = self._with_whole_characters(payload)
        if isinstance(payload.get("item"), dict):
            payload["item"] = _mended_item(payload["item"])
        if isinstance(payload.get("response"), dict):
            payload["response"] = _mended(payload["response"])
        return payload

    def _with_whole_characters(self, payload: JSONObject) -> JSONObject:
        """Return an event whose texts are whole; a character that has only begun waits for the next piece."""
        if isinstance(payload.get("delta"), str):
            payload["delta"] = self._joiner.join(tuple(map(payload.get, _PLACE)), payload["delta"])
        mended: JSONObject = all_whole(payload)
        return mended


def _is_whole(data: bytes) -> bool:
    """Return whether the data of an event holds whole characters alone."""
    if _HALF.search(data) is not None:
        return False
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def read_whole(data: bytes, decoded: Any = None) -> JSONObject:
    """Return a whole response, see ``read_response``; one that is not JSON by the letter is repaired."""
    try:
        return _mended(read_response(data, decoded))
    except ErrorPayload:
        raise
    except InvalidAnswer as error:
        try:
            repaired = all_whole(json.decode_generously(data)) if decoded is None else decoded
        except json.InvalidJSON:
            raise error from None
        if not isinstance(repaired, dict):
            raise
        return _mended(read_response(data, _with_output(repaired)))


def _with_output(response: JSONObject) -> JSONObject:
    """Return a response whose output is a list of items, where it is a text."""
    given = response.get("output")
    text = given if isinstance(given, str) else response.get("output_text")
    if (isinstance(given, list) and given) or not isinstance(text, str):
        return response
    return {**response, "output": [_mended_item({"role": "assistant", "content": text})]}


def _mended(response: JSONObject) -> JSONObject:
    """Return a response whose items are in form."""
    response = _with_output(response)
    output = response.get("output")
    if not isinstance(output, list):
        return response
    return {**response, "output": [_mended_item(each) for each in output if isinstance(each, dict)]}


def _mended_item(item: JSONObject) -> JSONObject:
    """Return an item with a type, its content as parts, and the arguments of a call as text."""
    kind, content = item.get("type"), item.get("content")
    if not kind and ("role" in item or content is not None):
        item = item | {"type": "message", "role": "assistant"}
    if isinstance(content, str):
        item = item | {"content": [_part({"text": content})]}
    elif item.get("type") == "message" and isinstance(content, list):
        item = item | {"content": [_part(each) for each in content if isinstance(each, (dict, str))]}
    text = _CALLS.get(kind) if isinstance(kind, str) else None
    if text is not None and not isinstance(item.get(text), str | None):
        item = item | {text: arguments_text(item[text])}
    return item


def _part(part: JSONObject | str) -> JSONObject:
    """Return a part of a message under this dialect's name for it."""
    if isinstance(part, str):
        part = {"text": part}
    if part.get("type") in (None, "text") and isinstance(part.get("text"), str):
        return {"annotations": [], **part, "type": "output_text"}
    return part
