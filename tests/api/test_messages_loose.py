"""Servers that imitate Anthropic's loosely, asked by clients of Messages that read by the letter: the official SDK."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support import Hang, claude_bytes, claude_sse, json_reply, sse

from .bed import Body, user
from .messages_bed import MessagesBed, message_events, running_messages_bed

MESSAGE: Body = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
    "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 1},
}  # fmt: skip
START: Body = {"type": "message_start", "message": MESSAGE}
STOP: Body = {"type": "message_stop"}


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


def begun(block: Any, index: Any = 0) -> Body:
    return {"type": "content_block_start", "index": index, "content_block": block}


def text(words: Any = "") -> Body:
    return {"type": "text", "text": words}


def call(**fields: Any) -> Body:
    return {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}, **fields}


def said(words: str, index: Any = 0) -> Body:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": words}}


def given(piece: Any, index: Any = 0) -> Body:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": piece}}


def closed(index: Any = 0) -> Body:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None = "end_turn", **usage: Any) -> Body:
    counts = {"output_tokens": 5, **usage}
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": counts}


def without(key: str, *events: Body) -> list[Body]:
    return [{name: value for name, value in event.items() if name != key} for event in events]


def written(piece: bytes) -> bytes:
    """A piece of text, as bytes between quotes."""
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    return head + b'"text":"%b"}}\n\n' % piece


HELLO = [said("Hel"), said("lo")]
#: Events that say "Hello".
TEXTS: dict[str, list[Body]] = {
    "no start of the block": [START, *HELLO, closed(), ended(), STOP],
    "no end of the block": [START, begun(text()), *HELLO, ended(), STOP],
    "no start of the message": [begun(text()), *HELLO, closed(), ended(), STOP],
    "no end of the message": [START, begun(text()), *HELLO, closed(), ended()],
    "no reason": [START, begun(text()), *HELLO, closed(), ended(None), STOP],
    "a reason in the last event": [START, begun(text()), *HELLO, closed(), {**STOP, "stop_reason": "end_turn"}],
    "a reason of OpenAI's": [START, begun(text()), *HELLO, closed(), ended("stop"), STOP],
    "a text that is null": [START, begun(text(None)), *HELLO, closed(), ended(), STOP],
    "a start without text": [START, begun({"type": "text"}), *HELLO, closed(), ended(), STOP],
    "words in the start": [START, begun(text("Hel")), said("lo"), closed(), ended(), STOP],
    "numbers from one on": [START, begun(text(), 1), said("Hel", 1), said("lo", 1), closed(1), ended(), STOP],
    "a gap in the numbers": [
        START, begun(text()), said("Hel"), closed(), begun(text(), 2), said("lo", 2), closed(2), ended(), STOP
    ],
    "one number twice": [
        START, begun(text()), said("Hel"), closed(), begun(text()), said("lo"), closed(), ended(), STOP
    ],
    "numbers as texts": [START, begun(text(), "0"), said("Hel", "0"), said("lo", "0"), closed("0"), ended(), STOP],
    "no numbers": [START, *without("index", begun(text()), *HELLO, closed()), ended(), STOP],
    "deltas without a type": [
        START, begun(text()), *({**each, "delta": without("type", each["delta"])[0]} for each in HELLO), closed(),
        ended(), STOP,
    ],
    "no types": [START, *without("type", begun(text()), *HELLO), closed(), ended(), STOP],
    "content in the start of the message": [
        {"type": "message_start", "message": {**MESSAGE, "content": [text("Hello")]}}, ended(), STOP
    ],
    "counts that sink": [START, begun(text()), *HELLO, closed(), ended(input_tokens=0), STOP],
}  # fmt: skip
#: Events that call f with {"a": 1}.
CALLS: dict[str, list[Body]] = {
    "never closed": [START, begun(call()), given('{"a":1}'), ended("tool_use"), STOP],
    "an input in the start": [START, begun(call(input={"a": 1})), closed(), ended("tool_use"), STOP],
    "an input in the start that is never closed": [START, begun(call(input={"a": 1})), ended("tool_use"), STOP],
    "an input as text": [START, begun(call(input='{"a":1}')), closed(), ended("tool_use"), STOP],
    "an object for a piece": [START, begun(call()), given({"a": 1}), closed(), ended("tool_use"), STOP],
    "a text within a text": [START, begun(call()), given('"{\\"a\\":1}"'), closed(), ended("tool_use"), STOP],
    "an input in the start and in pieces": [
        START, begun(call(input={"a": 1})), given('{"a":1}'), closed(), ended("tool_use"), STOP
    ],
    "another reason": [START, begun(call()), given('{"a":1}'), closed(), ended(), STOP],
    "a reason of OpenAI's": [START, begun(call()), given('{"a":1}'), closed(), ended("tool_calls"), STOP],
    "no id": [START, begun(without("id", call())[0]), given('{"a":1}'), closed(), ended("tool_use"), STOP],
}  # fmt: skip


def bytes_of(events: list[Body]) -> bytes:
    """The events as they go over the wire, each under its name if it has one."""
    return b"".join(
        claude_bytes(each) if "type" in each else b"data: %b\n\n" % json.dumps(each).encode() for each in events
    )


def message_of(doors: MessagesBed, body: bytes, *, stream: bool) -> anthropic.types.Message:
    """The message that the official SDK makes of an answer."""
    model = doors.model("claude")
    doors.a.on(model, sse(body, done=False))
    asked: Any = {"model": model, "max_tokens": 50, "messages": user()}
    with doors.anthropic() as client:
        if not stream:
            whole: anthropic.types.Message = client.messages.create(**asked)
            return whole
        with client.messages.stream(**asked) as streamed:
            return streamed.get_final_message()


@pytest.mark.parametrize("events", list(TEXTS.values()), ids=list(TEXTS))
def test_words_come_whole(doors: MessagesBed, events: list[Body], stream: bool) -> None:
    message = message_of(doors, bytes_of(events), stream=stream)

    assert "".join(block.text for block in message.content if block.type == "text") == "Hello"
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", message.usage.output_tokens or 1)
    assert message.usage.input_tokens == (9 if START in events else message.usage.input_tokens)


@pytest.mark.parametrize("events", list(CALLS.values()), ids=list(CALLS))
def test_calls_come_whole(doors: MessagesBed, events: list[Body], stream: bool) -> None:
    message = message_of(doors, bytes_of(events), stream=stream)

    (found,) = message.content
    assert found.type == "tool_use"
    assert (found.name, found.input, bool(found.id), message.stop_reason) == ("f", {"a": 1}, True, "tool_use")


def test_calls_that_share_number_and_id_are_apart(doors: MessagesBed, stream: bool) -> None:
    events = [
        START, begun(call()), given('{"a":1}'), begun(call(name="g")), given('{"b":2}'), closed(), ended("tool_use"),
        STOP,
    ]  # fmt: skip

    message = message_of(doors, bytes_of(events), stream=stream)

    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(each.name, each.input) for each in calls] == [("f", {"a": 1}), ("g", {"b": 2})]
    assert len({each.id for each in calls}) == 2


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\\ud83d", b"\\ude00b"], "a😀b"),
        ([b"x", b"a\\ud83d", b"\\ude00b"], "xa😀b"),
        ([b"a\xffb"], "a\ufffdb"),
        ([b"x", b"y", b"\xf0\x9f", b"\x98\x80"], "xy😀"),
        ([b"a\\ud83d"], "a\ufffd"),
        ([b"a\x01b"], "a\x01b"),
    ],
    ids=repr,
)
def test_characters_are_repaired(doors: MessagesBed, pieces: list[bytes], expected: str, stream: bool) -> None:
    body = bytes_of([START, begun(text())]) + b"".join(map(written, pieces)) + bytes_of([closed(), ended(), STOP])

    (block,) = message_of(doors, body, stream=stream).content

    assert block.type == "text"
    assert block.text == expected


COUNTED = [
    [START, begun(text()), *HELLO, closed(), ended(input_tokens=0, output_tokens=5), STOP],
    [START, begun(text()), *HELLO, closed(), ended(input_tokens=None), {**STOP, "usage": {"output_tokens": 5}}],
    [START, begun(text()), *HELLO, ended(output_tokens=0, input_tokens="9"), {**STOP, "usage": {"output_tokens": 5}}],
    [START, begun(text()), *HELLO, closed(), {"type": "message_delta", "delta": {"stop_reason": "end_turn", "usage": {
        "output_tokens": 5}}}, STOP],
]  # fmt: skip


@pytest.mark.parametrize("events", COUNTED)
def test_of_each_count_the_largest_holds(doors: MessagesBed, events: list[Body], stream: bool) -> None:
    usage = message_of(doors, bytes_of(events), stream=stream).usage

    assert (usage.input_tokens, usage.output_tokens) == (9, 5)


@pytest.mark.parametrize("reason", ["abort", "error", "MALFORMED_FUNCTION_CALL"])
def test_a_reason_that_means_a_failure_is_one(doors: MessagesBed, reason: str, stream: bool) -> None:
    model = doors.model("claude")
    doors.a.on(model, sse(bytes_of([START, begun(text()), *HELLO, closed(), ended(reason), STOP]), done=False))

    answer = doors.message(model, stream=stream)

    assert b'"type":"error"' in answer.body
    assert b"message_stop" not in answer.body
    assert stream or answer.status == 502


@pytest.mark.parametrize("content", [[text(None)], [{"type": "text"}], "", None, [{"text": "Hello"}], [text("Hello")]])
def test_a_whole_message_is_mended(doors: MessagesBed, content: Any, stream: bool) -> None:
    model = doors.model("claude")
    whole = {**MESSAGE, "content": content, "stop_reason": "stop", "usage": {"input_tokens": "9", "output_tokens": 2}}
    doors.a.on(model, json_reply(whole))

    answer = doors.message(model, stream=stream)

    if content is None:
        assert answer.status == 502
    elif not stream:
        assert answer.json["stop_reason"] == "end_turn"
        assert [block["type"] for block in answer.json["content"]] == ["text"] * bool(content)
        assert answer.json["usage"]["input_tokens"] == 9
    else:
        assert message_events(answer)[-1] == STOP


def test_a_message_that_is_complete_is_not_waited_for(doors: MessagesBed, stream: bool) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_sse(START, begun(text()), *HELLO, closed(), ended(), Hang()))

    answer = doors.message(model, stream=stream)

    if not stream:
        assert answer.json["content"] == [text("Hello")]
        return
    events = message_events(answer)
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
