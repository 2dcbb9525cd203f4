"""Streams of upstreams that leave events out, or what is in them: what clients read of them is whole."""

from itertools import combinations
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from one_api.dialects.json import JSONObject
from one_api.dialects.responses.grammar import Event, EventGrammar
from one_api.dialects.responses.request import own_items, translate
from one_api.dialects.responses.required import RequiredFields
from one_api.dialects.responses.response import Identity
from tests.support import responses_api as api

OURS = Identity(f"resp_{'0' * 32}", 1)
ASKED: JSONObject = {"model": "m", "input": "hi"}
REQUEST = translate(ASKED, own_items(ASKED, lambda _: None))
STRICT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

THOUGHT: JSONObject = {
    "id": "rs_0", "type": "reasoning", "status": "completed", "summary": [{"type": "summary_text", "text": "Hmm"}],
    "content": [{"type": "reasoning_text", "text": "Ah"}],
}  # fmt: skip
SAID = api.message("Hello") | {"id": "msg_1"}
REFUSED: JSONObject = {**SAID, "id": "msg_2", "content": [{"type": "refusal", "refusal": "No."}]}
CALLED = api.call("f", '{"a":1}', 3)
CUSTOM: JSONObject = {"id": "ctc_4", "type": "custom_tool_call", "status": "completed", "call_id": "call_4"}
CUSTOM |= {"name": "g", "input": "abc"}
OUTPUT = [THOUGHT, SAID, REFUSED, CALLED, CUSTOM]


def of_part(start: str, part: JSONObject, at: JSONObject, *pieces: str) -> list[Event]:
    """The events of one part, whose text comes in pieces."""
    holder = "reasoning_summary_part" if "summary_index" in at else "content_part"
    name = "refusal" if start == "refusal" else "text"
    measured: JSONObject = {"logprobs": []} if start == "output_text" else {}
    return [
        (f"response.{holder}.added", at | {"part": part | {name: ""}}),
        *((f"response.{start}.delta", at | {"delta": piece} | measured) for piece in pieces),
        (f"response.{start}.done", at | {name: "".join(pieces)} | measured),
        (f"response.{holder}.done", at | {"part": part}),
    ]


def of_item(number: int, item: JSONObject, bare: JSONObject, *inside: Event) -> list[Event]:
    """The events of one item; ``at`` stands for its place in those inside."""
    place: JSONObject = {"output_index": number}
    at = place | {"item_id": item["id"]}
    begun = item | bare | ({} if item["type"] == "reasoning" else {"status": "in_progress"})
    within = [(kind, at | fields) for kind, fields in inside]
    added, done = ("response.output_item.added", "response.output_item.done")
    return [(added, place | {"item": begun}), *within, (done, place | {"item": item})]


def calls(start: str, name: str, more: JSONObject, *pieces: str) -> list[Event]:
    """The events of the text of a call."""
    deltas = [(f"response.{start}.delta", {"delta": piece}) for piece in pieces]
    return [*deltas, (f"response.{start}.done", {name: "".join(pieces), **more})]


EVENTS: list[Event] = [
    *of_item(
        0, THOUGHT, {"summary": [], "content": []},
        *of_part("reasoning_summary_text", THOUGHT["summary"][0], {"summary_index": 0}, "Hm", "m"),
        *of_part("reasoning_text", THOUGHT["content"][0], {"content_index": 0}, "A", "h"),
    ),
    *of_item(1, SAID, {"content": []}, *of_part("output_text", SAID["content"][0], {"content_index": 0}, "Hel", "lo")),
    *of_item(2, REFUSED, {"content": []}, *of_part("refusal", REFUSED["content"][0], {"content_index": 0}, "No", ".")),
    *of_item(
        3, CALLED, {"arguments": ""},
        *calls("function_call_arguments", "arguments", {"name": "f"}, '{"a"', ":1}"),
    ),
    *of_item(4, CUSTOM, {"input": ""}, *calls("custom_tool_call_input", "input", {}, "ab", "c")),
]  # fmt: skip
#: What may be left out: whole kinds of events, as their types end.
KINDS = ["item.added", "part.added", "delta", "text.done", "part.done", "refusal.done", "item.done", "s.done", "t.done"]


def told(events: list[Event], output: list[Any] | None = None) -> tuple[list[Event], list[Any]]:
    """What is sent for the events of an upstream, and the output in the end."""
    required = RequiredFields(OURS, REQUEST.echo)
    grammar = EventGrammar(required)
    found = [each for kind, fields in events for each in grammar.of_event(kind, dict(fields))]
    given = required.of_response({"output": OUTPUT if output is None else output}, "completed")["output"]
    missing, whole = grammar.at_end(given)
    return [*found, *missing], whole


def without(kinds: tuple[str, ...]) -> list[Event]:
    """The events but for those whose types end so."""
    return [(kind, fields) for kind, fields in EVENTS if not kind.endswith(kinds)]


def check(events: list[Event]) -> None:
    """Every event is valid, and has its place; texts are whole, and come once."""
    texts: dict[tuple[Any, ...], str] = {}
    opened: set[Any] = set()
    ended: set[Any] = set()
    for number, (kind, fields) in enumerate(events):
        STRICT.validate_python({"type": kind, **fields, "sequence_number": number}, strict=True)
        item = fields["output_index"]
        start, _, what = kind.rpartition(".")
        place = (item, fields.get("content_index"), fields.get("summary_index"))
        if start == "response.output_item":
            assert (item in opened) == (what == "done")
            assert item not in ended
            (ended if what == "done" else opened).add(item)
        elif start.endswith("_part"):
            assert item in opened
            assert (place in opened) == (what == "done")
            assert place not in ended
            (ended if what == "done" else opened).add(place)
        else:
            assert item in opened
            assert place in opened or not any(place[1:])
            assert (start, place) not in ended
            if what == "done":
                ended.add((start, place))
                assert (
                    fields.get("text", fields.get("refusal", fields.get("arguments", fields.get("input"))))
                    == (texts[start, *place])
                )
            else:
                texts[start, *place] = texts.get((start, *place), "") + fields["delta"]
    assert opened == {place for place in ended if not isinstance(place, tuple) or place[0] in range(9)}
    assert sorted(texts.values()) == sorted(["Hmm", "Ah", "Hello", "No.", '{"a":1}', "abc"])


def test_a_stream_that_lacks_nothing_stays_as_it_is() -> None:
    assert told(EVENTS) == (EVENTS, OUTPUT)


@pytest.mark.parametrize("many", range(1, len(KINDS) + 1))
def test_events_that_are_left_out_are_made_of_the_others(many: int) -> None:
    for kinds in combinations(KINDS, many):
        events, output = told(without(kinds))

        check(events)
        assert [fields["item"] for kind, fields in events if kind == "response.output_item.done"] == OUTPUT
        assert output == OUTPUT


@pytest.mark.parametrize("left_out", [("text",), ("refusal",), ("arguments",), ("input",), ("name",), ("part",)])
def test_a_text_that_only_pieces_hold_is_in_what_ends_it(left_out: tuple[str, ...]) -> None:
    events = [
        (kind, {name: value for name, value in fields.items() if name not in left_out}) for kind, fields in EVENTS
    ]

    found, output = told(events)

    check(found)
    assert output == OUTPUT


def test_what_only_pieces_hold_is_in_the_items_and_in_the_end() -> None:
    bare = [each | {"content": []} if each["type"] == "message" else each for each in (SAID, REFUSED)]
    pieces = [each for each in EVENTS if each[0].endswith((".added", ".delta"))]
    ended = [("response.output_item.done", {"output_index": i, "item": item}) for i, item in enumerate(bare, 1)]

    for given in (pieces, [*pieces, *ended]):
        events, output = told(given, [])

        check(events)
        items = {each["id"]: each for each in output} or {
            fields["item"]["id"]: fields["item"] for kind, fields in events if kind == "response.output_item.done"
        }
        assert items == {each["id"]: each for each in OUTPUT}
