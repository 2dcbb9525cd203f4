"""Streams of chat-only upstreams as the events of a message, cut at every byte, read back by Anthropic's own SDK."""

from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import pytest

from one_api.dialects import json
from one_api.dialects.anthropic.inbound.answer import to_message
from one_api.dialects.anthropic.inbound.chat import AnswerForm
from one_api.dialects.anthropic.inbound.writer import MessageWriter
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.sse import EventReader
from one_api.errors import UpstreamTruncated
from tests.dialects.recorded import OURS, chunk, opened, piece, stream, usage

PLAIN = AnswerForm("asked")
SHOWN, HIDDEN = AnswerForm("asked", thinking="shown"), AnswerForm("asked", thinking="hidden")


def seal(text: str) -> str:
    """A signature in which the text can be found again."""
    return f"gw1.{text}"


def written(raw: bytes, form: AnswerForm = PLAIN, cuts: Iterable[int] = ()) -> bytes:
    """The events for a stream that arrives in the pieces between ``cuts``."""
    reader, translator = EventReader(), OpenAIStream(OURS, include_usage=True)
    writer = MessageWriter("msg_1", form, lambda: 25, seal)
    out, inner = writer.begin(), sorted(cuts)
    for start, end in zip([0, *inner], [*inner, len(raw)], strict=True):
        for event in reader.feed(raw[start:end]):
            out += writer.write(translator.feed(event))
    out += writer.write(translator.end())
    assert translator.finished
    return out + writer.end()


def events(data: bytes) -> list[JSONObject]:
    """The payloads of events, each of which is named as its type."""
    found = EventReader().feed(data)
    payloads: list[JSONObject] = [json.decode(event.data) for event in found]
    assert [event.name for event in found] == [payload["type"] for payload in payloads]
    return payloads


def read_by_sdk(data: bytes) -> JSONObject:
    """The message that the SDK's stream helper makes of events."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=data, headers=headers))
    with (
        httpx2.Client(transport=transport) as http,
        anthropic.Anthropic(base_url="http://x", api_key="k", http_client=http, max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=5, messages=[{"role": "user", "content": "Hi"}]) as opened_stream,
    ):
        return opened_stream.get_final_message().model_dump(exclude_none=True)


def check_grammar(payloads: list[JSONObject]) -> None:
    """Fail unless there is one start, one open block at a time, dense indices, and an end."""
    kinds = [payload["type"] for payload in payloads]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_delta") == 1
    open_at, index = None, 0
    for payload in payloads[1:-2]:
        if payload["type"] == "content_block_start":
            assert open_at is None
            assert payload["index"] == index
            open_at, index = index, index + 1
            continue
        assert payload["index"] == open_at
        if payload["type"] == "content_block_stop":
            open_at = None
    assert open_at is None


USAGE = {**chunk(), "choices": [], "usage": usage(100, 7, prompt_tokens_details={"cached_tokens": 60})}
STREAMS: dict[str, tuple[bytes, list[JSONObject], str]] = {
    "text": (
        stream(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hé"}), chunk({"content": "llo 😀"}),
               chunk(finish="stop"), USAGE),
        [{"type": "text", "text": "Héllo 😀"}],
        "end_turn",
    ),
    "nothing": (stream(chunk({"role": "assistant", "content": ""}), chunk(finish="stop"), USAGE), [], "end_turn"),
    "thinking, text and a call": (
        stream(chunk({"reasoning_content": "Let me "}), chunk({"reasoning_content": "see."}), chunk({"content": "I"}),
               chunk({"content": " look."}), chunk(opened("call_1", "look", index=0)), chunk(piece('{"a', index=0)),
               chunk(piece('t":1}', index=0)), chunk(finish="tool_calls"), USAGE),
        [
            {"type": "thinking", "thinking": "Let me see.", "signature": "gw1.Let me see."},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}},
        ],
        "tool_use",
    ),
    "thinking again after a text": (
        stream(chunk({"reasoning_content": "A"}), chunk({"content": "B"}), chunk({"reasoning_content": "C"}),
               chunk({"content": "D"}), chunk(finish="stop"), USAGE),
        [
            {"type": "thinking", "thinking": "A", "signature": "gw1.A"},
            {"type": "text", "text": "B"},
            {"type": "thinking", "thinking": "C", "signature": "gw1.C"},
            {"type": "text", "text": "D"},
        ],
        "end_turn",
    ),
    "blank text before a call": (
        stream(chunk({"role": "assistant", "content": ""}), chunk({"content": "\n\n"}),
               chunk(opened("call_1", "look", "{}", index=0)), chunk(finish="tool_calls"), USAGE),
        [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}],
        "tool_use",
    ),
    "calls whose pieces come in turn": (
        stream(chunk(opened("call_1", "look", index=0)), chunk(opened("call_2", "go", index=1)),
               chunk(piece('{"a":', index=0)), chunk(piece('{"b":', index=1)), chunk(piece("1}", index=0)),
               chunk(piece("2}", index=1)), chunk(finish="tool_calls"), USAGE),
        [
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "go", "input": {"b": 2}},
        ],
        "tool_use",
    ),
    "several calls in one chunk, and a text after them": (
        stream(
            chunk({"tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "go", "arguments": "{}"}},
            ]}),
            chunk({"content": "Done."}), chunk(finish="stop"), USAGE,
        ),
        [
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "go", "input": {}},
            {"type": "text", "text": "Done."},
        ],
        "tool_use",
    ),
    "a call without arguments, then another": (
        stream(chunk(opened("call_1", "look", index=0)), chunk(opened("call_2", "go", '{"b":2}', index=1)),
               chunk(finish="tool_calls"), USAGE),
        [
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {}},
            {"type": "tool_use", "id": "call_2", "name": "go", "input": {"b": 2}},
        ],
        "tool_use",
    ),
    "a refusal": (
        stream(chunk({"refusal": "I can"}), chunk({"refusal": "not."}), chunk(finish="content_filter"), USAGE),
        [{"type": "text", "text": "I cannot."}],
        "refusal",
    ),
    "a cut": (stream(chunk({"content": "Hi"}), chunk(finish="length"), USAGE), [{"type": "text", "text": "Hi"}],
              "max_tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_the_sdk_reads_what_the_upstream_said(name: str) -> None:
    raw, content, stop_reason = STREAMS[name]

    data = written(raw, SHOWN)

    check_grammar(events(data))
    message = read_by_sdk(data)
    assert message["content"] == content
    assert message["stop_reason"] == stop_reason
    assert message["usage"] == {
        "input_tokens": 40,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 60,
        "output_tokens": 7,
    }


@pytest.mark.parametrize("name", STREAMS)
def test_where_the_stream_is_cut_changes_nothing(name: str) -> None:
    raw = STREAMS[name][0]
    whole = written(raw, SHOWN)

    assert all(written(raw, SHOWN, [at]) == whole for at in range(1, len(raw)))


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("form", [PLAIN, SHOWN, HIDDEN], ids=["plain", "shown", "hidden"])
def test_a_stream_amounts_to_the_same_message_as_the_whole_answer(name: str, form: AnswerForm) -> None:
    raw = STREAMS[name][0]
    translator, assembler = OpenAIStream(OURS, include_usage=True), Assembler()
    for event in EventReader().feed(raw):
        for each in translator.feed(event):
            assembler.add(each)

    whole = to_message(assembler.completion(), "msg_1", form, lambda: 25, seal)

    streamed = read_by_sdk(written(raw, form))
    if name not in _ORDERED_OTHERWISE:
        assert streamed["content"] == whole["content"]
    assert streamed["stop_reason"] == whole["stop_reason"]
    assert streamed["usage"] == whole["usage"]


#: A whole answer does not tell in which order these came.
_ORDERED_OTHERWISE = {"thinking again after a text", "several calls in one chunk, and a text after them"}


def test_hidden_thinking_sends_no_words() -> None:
    raw = STREAMS["thinking, text and a call"][0]

    data = written(raw, HIDDEN)

    assert not [each for each in events(data) if each.get("delta", {}).get("type") == "thinking_delta"]
    block = read_by_sdk(data)["content"][0]
    assert block == {"type": "thinking", "thinking": "", "signature": "gw1.Let me see."}


def test_a_client_that_asked_for_no_thinking_gets_none() -> None:
    assert read_by_sdk(written(STREAMS["thinking, text and a call"][0]))["content"][0]["type"] == "text"


def test_a_call_without_arguments_has_no_delta_and_its_whole_name_at_the_start() -> None:
    raw = stream(
        chunk(opened("call_1", "lo", index=0)), chunk({"tool_calls": [{"index": 0, "function": {"name": "look"}}]}),
        chunk(finish="tool_calls"), USAGE,
    )  # fmt: skip

    start, stop = [each for each in events(written(raw)) if each["type"].startswith("content_block")]

    assert start["content_block"]["name"] == "look"
    assert stop["type"] == "content_block_stop"


def test_a_call_that_was_cut_is_not_to_be_run() -> None:
    raw = stream(chunk(opened("call_1", "look", '{"a":', index=0)), chunk(finish="length"), USAGE)

    assert events(written(raw))[-2]["delta"]["stop_reason"] == "max_tokens"


def test_the_start_tells_an_estimate_that_the_end_corrects() -> None:
    payloads = events(written(STREAMS["text"][0]))

    assert payloads[0]["message"]["usage"]["input_tokens"] == 25
    assert payloads[-2]["usage"]["input_tokens"] == 40


def test_an_upstream_that_tells_no_usage_leaves_the_estimate() -> None:
    raw = stream(chunk({"content": "x" * 40}), chunk(finish="stop"))

    assert events(written(raw))[-2]["usage"] == {
        "input_tokens": 25,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 10,
    }


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_fifth_stop_string_ends_the_answer_wherever_the_pieces_part(cut: int) -> None:
    text = "one two three"
    raw = stream(chunk({"content": text[:cut]}), chunk({"content": text[cut:]}), chunk({"content": "four"}),
                 chunk(finish="stop"), USAGE)  # fmt: skip

    message = read_by_sdk(written(raw, AnswerForm("m", ("a", "b", "c", "d", " three"))))

    assert message["content"] == [{"type": "text", "text": "one two"}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", " three")


def test_blocks_of_claude_keep_their_signature() -> None:
    said: list[Any] = [
        {"reasoning_content": "Hm."},
        {"thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "Hm.", "signature": "EqQB"}]},
        {"thinking_blocks": [{"index": 1, "type": "redacted_thinking", "data": "x"}]},
        {"content": "Hi"},
    ]
    raw = stream(*(chunk(delta) for delta in said), chunk(finish="stop"), USAGE)

    assert read_by_sdk(written(raw, SHOWN))["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hi"},
    ]


def test_a_heartbeat_is_an_event_once_the_message_has_begun() -> None:
    writer = MessageWriter("msg_1", PLAIN, lambda: 1, seal)

    before = writer.heartbeat()
    writer.write([chunk({"content": "Hi"})])

    assert before.startswith(b":")
    assert writer.heartbeat() == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_a_stream_that_fails_has_an_error_and_no_end() -> None:
    writer = MessageWriter("msg_1", PLAIN, lambda: 1, seal)

    data = writer.write([chunk({"content": "Hi"})]) + writer.fail(UpstreamTruncated("It stopped."))

    assert events(data)[-1] == {"type": "error", "error": {"type": "api_error", "message": "It stopped."}}
    with pytest.raises(anthropic.APIStatusError, match="It stopped"):
        read_by_sdk(data)


def test_a_refusal_after_words_is_a_block_of_its_own_as_in_a_whole_answer() -> None:
    raw = stream(chunk({"content": "Well"}), chunk({"refusal": "I "}), chunk({"refusal": "won't"}), chunk({}, "stop"))

    blocks = read_by_sdk(written(raw))["content"]

    assert [block["text"] for block in blocks] == ["Well", "I won't"]
