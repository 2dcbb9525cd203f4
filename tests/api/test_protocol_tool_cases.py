"""The numbered cases of the protocol that concern tool calls in the answers of OpenAI-compatible upstreams."""

from typing import Any

import pytest

from tests.support import completion, json_reply, sse, text_chunks, tool_chunks

from .bed import Answer, Bed, Body


def test_case_18_a_first_tool_call_without_text(bed: Bed) -> None:
    answer = bed.stream(sse(*tool_chunks(("f", "{}"))))

    assert answer.deltas[0] == {"role": "assistant", "content": None, "refusal": None}


def calls_of(answer: Answer) -> list[Body]:
    """All entries of `tool_calls` in the deltas."""
    return [entry for delta in answer.deltas for entry in delta.get("tool_calls", ())]


def with_call(*entries: Body) -> Body:
    """A chunk whose delta holds tool calls."""
    (chunk,) = text_chunks(finish=None)
    chunk["choices"][0]["delta"] = {"tool_calls": list(entries)}
    return chunk


def test_case_19_tool_calls_are_numbered_densely(bed: Bed) -> None:
    first = {"index": 2, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}
    pieces = [first, {"index": 2, "function": {"arguments": "{}"}}, {**first, "index": 3, "id": "y"}]

    answer = bed.stream(sse(*map(with_call, pieces), *text_chunks(finish="tool_calls")[1:]))

    assert [(entry["index"], entry.get("id")) for entry in calls_of(answer)] == [
        (0, "x"),
        (0, None),
        (1, "y"),
        (1, None),
    ]


@pytest.mark.parametrize("indices", [(None, None), (0, 0), (0, 1), (1, 3)], ids=str)
def test_case_20_tool_calls_without_numbers_are_told_apart_by_id(bed: Bed, indices: tuple[int | None, ...]) -> None:
    entries: list[Body] = []
    for index, name in zip(indices, "xy", strict=True):
        number = {} if index is None else {"index": index}
        entries += [{**number, "id": name, "function": {"name": name, "arguments": piece}} for piece in ('{"a":', "1}")]

    answer = bed.stream(sse(*map(with_call, entries), *text_chunks(finish="stop")[1:]))

    opening = [(entry["index"], entry["id"], entry["type"]) for entry in calls_of(answer) if "id" in entry]
    assert opening == [(0, "x", "function"), (1, "y", "function")]
    for index in (0, 1):
        pieces = [entry["function"]["arguments"] for entry in calls_of(answer) if entry["index"] == index]
        assert "".join(pieces) == '{"a":1}'
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_case_21_arguments_come_as_they_are(bed: Bed) -> None:
    answer = bed.stream(sse(*tool_chunks(("f", '{"a"', ":1}"))))

    assert "".join(entry["function"]["arguments"] for entry in calls_of(answer)) == '{"a":1}'


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"a": 1.0}, '{"a":1.0}'), (None, "{}"), ("", "{}"), ('{"a":1}', '{"a":1}')]
)
def test_case_22_a_call_in_one_piece(bed: Bed, arguments: Any, expected: str) -> None:
    call = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}

    answer = bed.stream(sse(with_call(call), *text_chunks(finish="tool_calls")[1:]))

    assert "".join(entry["function"]["arguments"] for entry in calls_of(answer)) == expected
    assert [entry["id"] for entry in calls_of(answer) if "id" in entry] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"a": 1.0}, '{"a":1.0}'), (None, "{}"), ("", "{}"), ('{"a":1}', '{"a":1}')]
)
def test_case_22_a_call_that_is_not_streamed(bed: Bed, arguments: Any, expected: str) -> None:
    model = bed.model()
    call = {"index": 0, "id": "x", "function": {"name": "f", "arguments": arguments}}
    bed.a.on(model, json_reply(completion(None, tool_calls=[call])))

    (choice,) = bed.ask(model).json["choices"]

    function = {"name": "f", "arguments": expected}
    assert choice["message"]["tool_calls"] == [{"id": "x", "function": function, "type": "function"}]
    assert choice["finish_reason"] == "tool_calls"


def repeating() -> list[Body]:
    """A stream that says role, id, type and name again in every chunk, and numbers from 1."""
    call = {"index": 1, "id": "x", "type": "function"}
    chunks = [with_call({**call, "function": {"name": "f", "arguments": piece}}) for piece in ("", '{"a"', ":1}")]
    chunks[0]["choices"][0]["delta"]["content"] = None
    for chunk in chunks:
        chunk["choices"][0]["delta"]["role"] = "assistant"
    return [*chunks, *text_chunks(finish="tool_calls")[1:]]


def test_case_35_what_is_repeated_reaches_the_sdk_once(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*repeating()))

    with (
        bed.sdk() as client,
        client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "Hi"}]) as events,
    ):
        message = events.get_final_completion().choices[0].message

    assert message.role == "assistant"
    (call,) = message.tool_calls or []
    assert (call.id, call.type, call.function.name, call.function.arguments) == ("x", "function", "f", '{"a":1}')
