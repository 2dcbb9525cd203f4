"""Requests and answers of upstreams that speak Messages themselves: bytes stay bytes."""

import pytest

from one_api.dialects import json
from one_api.dialects.anthropic.inbound.native import (
    Deviations,
    MessageAssembler,
    NativeMessage,
    body_for,
    read_message,
)
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.sse import Event, EventReader
from tests.support import (
    claude_bytes,
    claude_error_body,
    claude_events,
    redacted_block,
    text_block,
    thinking_block,
    tool_block,
)

PLAIN = Deviations()
TURN = {"role": "user", "content": "Hé \\u00e9"}


def sent(data: bytes, model: str = "other", deviations: Deviations = PLAIN, **stream: bool) -> bytes:
    """The bytes that go to an upstream which calls the model so."""
    native = NativeRequest("messages", data, json.decode_object(data, as_written=True))
    body = body_for(native, model, deviations, **stream)
    return body if isinstance(body, bytes) else json.encode(body)


def test_only_the_name_of_the_model_changes() -> None:
    data = '{ "x": {"model": 1.0e2}, "max_tokens":5,\n "model" : "asked", "messages":[{"role":"user","content":"é"}]}'
    plain = data.replace('"model": 1.0e2', '"m": 1.0e2').encode()

    assert sent(plain) == plain.replace(b'"asked"', b'"other"')
    assert sent(plain, "asked") == plain


@pytest.mark.parametrize(
    "data",
    [
        '{"x": {"model": "asked"}, "mod\\u0065l": "asked", "max_tokens": 5.0, "messages": []}',
        '{"model": "first", "model": "asked", "max_tokens": 5.0, "messages": []}',
        '{"x": [{"model": "asked"}], "model": "asked", "max_tokens": 5.0, "messages": []}',
        '{"model": "first", "max_tokens": 5.0, "mod\\u0065l": "asked", "messages": []}',
    ],
)
def test_no_second_name_can_ask_for_another_model(data: str) -> None:
    found = sent(data.encode())

    assert json.decode_object(found)["model"] == "other"
    assert b'"first"' not in found
    assert found.count(b'"model":"other"') == 1
    assert b"5.0" in found


def test_a_name_in_a_text_is_left_alone() -> None:
    data = b'{"messages":[{"role":"user","content":"{\\"model\\": \\"asked\\"}"}],"model":"asked"}'

    assert sent(data) == data.replace(b'"model":"asked"', b'"model":"other"')


def test_thinking_that_anthropic_has_not_signed_is_taken_out() -> None:
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    ours = {"type": "thinking", "thinking": "", "signature": "gw1.abc"}
    theirs = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
    text = {"type": "text", "text": "Hi"}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [unsigned, theirs, ours, text]},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [ours]},
            {"role": "user", "content": "So?"},
        ],
    }

    found = json.decode_object(sent(json.encode(body)))["messages"]

    assert [message["role"] for message in found] == ["user", "assistant", "user", "user"]
    assert found[1]["content"] == [theirs, text]


def passed(*events: JSONObject) -> tuple[NativeMessage, list[JSONObject]]:
    """The reader of a stream, and its chunks."""
    reader = NativeMessage()
    return reader, [chunk for event in EventReader().feed(claude_bytes(*events)) for chunk in reader.feed(event)]


BLOCKS = (
    thinking_block("Hm", "."),
    redacted_block(),
    text_block("Hel", "lo"),
    tool_block("toolu_1", "look", '{"a', '":1}'),
    tool_block("toolu_2", "look"),
)


def test_events_pass_as_they_came() -> None:
    events = claude_events(*BLOCKS, stop="tool_use")

    reader, chunks = passed(*events)

    start, *others = chunks
    assert start["native_start"] == events[0]
    assert b"".join(each["native"] for each in others) == claude_bytes(*events[1:])
    assert reader.finished
    assert reader.usage is not None
    assert (reader.usage["prompt_tokens"], reader.usage["completion_tokens"]) == (9, 2)


def test_an_unknown_event_passes_too() -> None:
    _, chunks = passed({"type": "message_note", "note": 1})

    assert chunks[0]["native"] == claude_bytes({"type": "message_note", "note": 1})


def test_a_start_and_a_ping_are_no_content() -> None:
    _, chunks = passed(*claude_events(text_block("Hi"))[:3])

    assert [chunk["content"] for chunk in chunks] == [False, False, False]


def test_a_message_that_has_its_reason_gets_its_end() -> None:
    reader, _ = passed(*claude_events(text_block("Hi"))[:-1])

    assert not reader.finished
    assert [chunk["native"] for chunk in reader.end()] == [b'event: message_stop\ndata: {"type":"message_stop"}\n\n']
    assert reader.finished


def test_a_message_that_stops_before_its_reason_is_not_finished() -> None:
    reader, _ = passed(*claude_events(text_block("Hi"), stop=None))

    assert reader.end() == []
    assert not reader.finished


def test_an_error_is_an_error() -> None:
    with pytest.raises(ErrorPayload):
        passed(claude_error_body("overloaded_error"))


def test_a_stream_amounts_to_a_message() -> None:
    assembler = MessageAssembler()
    events = claude_events(*BLOCKS, stop="tool_use", end_usage={"output_tokens": 7, "input_tokens": None})
    for chunk in passed(*events)[1]:
        assembler.add(chunk)

    message = assembler.answer["native"]

    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {
        "input_tokens": 9,
        "output_tokens": 7,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }


def test_a_delta_of_no_block_makes_no_message() -> None:
    start, *_, delta, _, _, _ = passed(*claude_events(text_block("Hi")))[1]
    assembler = MessageAssembler()
    assembler.add(start)

    with pytest.raises(InvalidAnswer):
        assembler.add(delta)


def test_a_server_with_other_habits_gets_what_it_takes() -> None:
    data = (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"system","content":"Be brief."}],"beta":1.0}'
    )

    assert sent(data, "m", Deviations(frozenset({"beta"}), system_as_user=True), stream=True) == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"user","content":"Be brief."}],"stream":true}'
    )


def test_a_whole_message_is_read_for_its_usage() -> None:
    message: JSONObject = {"type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn"}
    message["usage"] = {"input_tokens": 3}

    found = read_message(json.encode(message))

    assert found["native"] == message
    assert found["usage"]["prompt_tokens"] == 3


SAID = claude_events(
    thinking_block("hm"), text_block("Hel", "lo", citations=[{"type": "char_location"}]), redacted_block("x"),
    tool_block("toolu_1", "f", '{"a"', ":1}"), stop="tool_use", stop_sequence=None, stop_details=None, container=None,
)  # fmt: skip


def assembled(data: bytes) -> JSONObject:
    """The answer that a stream amounts to, once its client has put it together."""
    translator, assembler = NativeMessage(), MessageAssembler()
    reader = EventReader()
    for event in [*reader.feed(data), *reader.end()]:
        for chunk in translator.feed(event):
            assembler.add(chunk)
    assert translator.finished
    return assembler.answer | {"counted": translator.usage}


def test_a_message_is_read_in_whichever_form_it_comes() -> None:
    whole = read_message(claude_bytes(*SAID))
    again = assembled(json.encode(whole["native"]))

    assert whole["native"]["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["native"]["content"]] == [
        "thinking", "text", "redacted_thinking", "tool_use"
    ]  # fmt: skip
    assert again["native"] == whole["native"]
    assert again["usage"] == again["counted"] == whole["usage"]


def test_a_message_whose_content_is_a_text_has_one_block() -> None:
    message = {"type": "message", "content": "Hello", "stop_reason": "end_turn"}

    for found in (read_message(json.encode(message)), assembled(json.encode(message))):
        assert found["native"]["content"] == [{"type": "text", "text": "Hello"}]
        assert found["native"]["usage"] == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("cut", [1, 3, len(SAID) - 2])
def test_events_that_stop_make_no_message(cut: int) -> None:
    with pytest.raises(InvalidAnswer):
        read_message(claude_bytes(*SAID[:cut]))


def test_odd_events_make_a_message_all_the_same() -> None:
    events = claude_events(tool_block("toolu_1", "f"), stop="tool_use")
    odd = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": {"a": 1}}}
    late = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 0}}
    ping = b"event: ping\ndata: null\n\n"

    message = read_message(ping + claude_bytes(*events[:4], odd, *events[4:-1], late, events[-1]))["native"]

    assert (message["content"][0]["input"], message["stop_reason"]) == ({"a": 1}, "tool_use")
    assert message["usage"]["output_tokens"] == 2


def test_a_ping_is_written_as_clients_read_it() -> None:
    (found,) = NativeMessage().feed(Event(b"null", "ping"))

    assert found["native"] == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_events_hold_the_usage_that_clients_rely_on() -> None:
    events = claude_events(text_block("Hi"))
    events[0]["message"]["usage"] = None
    events[-2] = {key: value for key, value in events[-2].items() if key != "usage"}

    assert assembled(claude_bytes(*events))["native"]["usage"] == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("data", [b"<html>", b"[]", b"{}", b'{"type":"message","content":[]}'])
def test_what_is_no_whole_message_is_none(data: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read_message(data)
