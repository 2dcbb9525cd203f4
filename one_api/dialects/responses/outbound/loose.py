"""Responses of servers that write JSON loosely: events one at a time, and whole ones."""

import re
from typing import Any

from one_api.dialects import json
from one_api.dialects.characters import TextJoiner, all_whole
from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.responses.outbound.native import payload_of, read_response
from one_api.dialects.sse import Event

#: What may be half of a character.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
#: What a delta is a piece of.
_PLACE = ("type", "item_id", "output_index", "content_index", "summary_index")


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
        return read_response(data, decoded)
    except ErrorPayload:
        raise
    except InvalidAnswer as error:
        try:
            repaired = all_whole(json.decode_generously(data)) if decoded is None else decoded
        except json.InvalidJSON:
            raise error from None
        if not isinstance(repaired, dict):
            raise
        return read_response(data, repaired)
