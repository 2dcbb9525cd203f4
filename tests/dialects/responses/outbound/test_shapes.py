"""Upstreams of Responses that give a value of any other type in any place: an answer, or an error of theirs."""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import Identity
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.responses.outbound.native import NativeResponse, read_response
from one_api.dialects.responses.outbound.stream import ResponsesStream, completion_of
from one_api.dialects.responses.request import own_items, translate
from one_api.dialects.responses.required import RequiredFields, own_response
from one_api.dialects.responses.response import Identity as ResponseIdentity
from one_api.dialects.responses.stream import ResponseWriter
from one_api.dialects.sse import Event
from tests.support import responses_api as api

CHAT, OURS = Identity("chatcmpl-ours", 1, "m"), ResponseIdentity(f"resp_{'0' * 32}", 1)
ASKED: JSONObject = {"model": "m", "input": "hi"}
REQUEST = translate(ASKED, own_items(ASKED, lambda _: None))
SAID, CALLED = api.message("Hello"), api.call("f", "{}", 1)
THOUGHT: JSONObject = {"id": "rs", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
EVENTS: list[Any] = [
    *api.opening(), *api.text_events("Hel", "lo"),
    {"type": "response.output_item.added", "output_index": 1, "item": CALLED},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_up1", "output_index": 1, "delta": "{}"},
    {"type": "response.output_item.done", "output_index": 1, "item": CALLED},
    {"type": "response.output_item.done", "output_index": 2, "item": THOUGHT},
    api.completed(SAID, CALLED, THOUGHT),
]  # fmt: skip
ODD: list[Any] = [5, 1.5, True, "x", [], [None, "x"], {}, {"a": 1}]


def spoilt(value: Any, odd: Any) -> Iterator[Any]:
    """Each form of a value in which something inside is ``odd`` instead."""
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, inner in places:
        for other in (odd, *spoilt(inner, odd)):
            changed = copy.copy(value)
            changed[place] = other
            yield changed


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_event_with_a_value_of_another_type_is_read_or_refused(odd: Any) -> None:
    for position, event in enumerate(EVENTS):
        for changed in spoilt(event, odd):
            native, writer = NativeResponse(), ResponseWriter(REQUEST, OURS, lambda: 1)
            chat = ResponsesStream(CHAT, include_usage=True)
            for each in [*EVENTS[:position], changed, *EVENTS[position + 1 :]]:
                with contextlib.suppress(ErrorPayload, InvalidAnswer):
                    writer.write(native.feed(Event(json.dumps(each).encode(), "")))
                with contextlib.suppress(ErrorPayload, InvalidAnswer):
                    chat.feed(Event(json.dumps(each).encode(), ""))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_response_with_a_value_of_another_type_is_read_or_refused(odd: Any) -> None:
    for changed in spoilt(EVENTS[-1]["response"], odd):
        with contextlib.suppress(ErrorPayload, InvalidAnswer):
            response = read_response(json.dumps(changed).encode())
            own_response(REQUEST, OURS, response, RequiredFields(OURS, REQUEST.echo), stored=False)
            completion_of(response, CHAT)


def test_what_is_new_to_us_stays_as_it_is() -> None:
    event: JSONObject = {"type": "response.brand_new", "item": 5, "delta": {"a": []}, "output_index": "x"}
    item: JSONObject = {"type": "brand_new_call", "output": "text", "content": 5, "name": {}}
    done: JSONObject = {"type": "response.output_item.done", "output_index": 0, "item": item}
    native = NativeResponse()

    assert [native.feed(Event(json.dumps(each).encode(), ""))[0]["native"] for each in (event, done)] == [event, done]
