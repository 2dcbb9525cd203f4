"""Anthropic's dialect as servers write it that imitate it loosely, cut at every byte: nothing of what came is lost."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.anthropic.response import ResponseOptions
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from tests.dialects.anthropic.test_stream import CITATION, SEVERAL, Told, call, tell
from tests.dialects.recorded import every_cut
from tests.support import claude_bytes, claude_events, text_block, thinking_block, tool_block

START, PING, *_ = claude_events()
END = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}]
END_OF_CALLS = [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
STOP = {"type": "message_stop"}


def begin(block: Any, index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(delta: Any, index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def text(said: Any, index: Any = 0) -> dict[str, Any]:
    return piece({"type": "text_delta", "text": said}, index)


def part(said: Any, index: Any = 0) -> dict[str, Any]:
    return piece({"type": "input_json_delta", "partial_json": said}, index)


def close(index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def tool(call_id: Any = "t1", name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, **fields}


def without(event: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in keys}


def raw(*events: Any) -> bytes:
    """The events as they go over the wire, without names."""
    return b"".join(b"data: " + json.encode(each) + b"\n\n" for each in events)


def nameless(*events: dict[str, Any]) -> bytes:
    """The events under their names, without their types."""
    framed = [b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.encode(without(e, "type"))) for e in events]
    return b"".join(framed)


TEXT = {
    "a start that says the first piece": raw(START, begin({"type": "text", "text": "H"}), text("H"), text("i"), *END),
    "a start that says all": raw(START, begin({"type": "text", "text": "Hi"}), text("Hi"), close(), *END),
    "a start that is a piece": raw(START, begin({"type": "text", "text": "H"}), text("i"), close(), *END),
    "a text without its start": raw(START, text("Hi"), close(), *END, STOP),
    "no start of the message": raw(begin({"type": "text", "text": ""}), text("Hi"), close(), *END, STOP),
    "nothing but deltas": raw(text("H", None), text("i", None), *END),
    "a start that holds no message": raw({"type": "message_start"}, text("Hi"), *END, STOP),
    "a block without a type": raw(START, begin({}), text("Hi"), close(), *END, STOP),
    "a block that is a text": raw(START, begin("H"), text("i"), close(), *END, STOP),
    "a delta that is a text": raw(START, begin({"type": "text", "text": ""}), piece("Hi"), close(), *END, STOP),
    "a delta without a type": raw(START, piece({"text": "Hi"}), *END, STOP),
    "a delta under the name of its kind": raw(START, {"type": "text_delta", "text": "Hi"}, *END, STOP),
    "parts of a text": raw(START, text(["H", {"type": "text", "text": "i"}]), *END, STOP),
    "another number than its block's": raw(
        START, begin({"type": "text", "text": ""}, 1), text("Hi", 0), close(1), *END, STOP
    ),
    "a number as text": raw(START, begin({"type": "text", "text": ""}, "0"), text("Hi"), close("0"), *END, STOP),
    "a text after its block has ended": raw(START, begin("H"), close(), text("i"), *END, STOP),
    "names without types": nameless(*claude_events(text_block("Hi"))),
    "types without names": raw(*claude_events(text_block("Hi"))),
    "neither": b"".join(
        b"data: " + json.encode(without(each, "type")) + b"\n\n" for each in claude_events(text_block("Hi"))[:-1]
    ),
    "content in the start of the message": raw(
        {"type": "message_start", "message": {"content": [{"type": "text", "text": "Hi"}]}}, *END, STOP
    ),
    "content in the start and in the blocks": raw(
        {"type": "message_start", "message": {"content": [{"type": "text", "text": "Hi"}]}}, text("Hi"), *END, STOP
    ),
    "a whole message": raw({"type": "message", "content": "Hi", "stop_reason": "end_turn"}),
    "a whole message of texts": raw({"type": "message", "content": ["H", {"text": "i"}], "stop_reason": "end_turn"}),
    "a whole message after its blocks": raw(
        text("Hi"), {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    ),
    "a stop reason beside the delta": raw(text("Hi"), {"type": "message_delta", "stop_reason": "end_turn"}, STOP),
    "a stop reason at the very end": raw(text("Hi"), STOP | {"stop_reason": "end_turn"}),
    "a stop reason and then an empty one": raw(
        text("Hi"), *END, {"type": "message_delta", "delta": {"stop_reason": ""}}, STOP
    ),
    "nothing, anywhere": b"".join(
        b"data: null\n\ndata: {}\n\nevent: ping\ndata: \n\nevent: ping\ndata: {}\n\n" + raw(each, PING, [], None)
        for each in (START, begin("H"), text(None), text(""), text("i"), *END)
    ),
    "OpenAI's end": raw(text("Hi"), *END) + b"data: [DONE] \n\n",
}  # fmt: skip


def assert_same_however_cut(stream: bytes, options: ResponseOptions | None = None) -> Told:
    """Read a stream whole and cut at every byte; return what it amounts to."""
    whole = tell(stream, options)
    assert whole.stream.finished
    for cuts in every_cut(len(stream), SEVERAL):
        assert tell(stream, options, cuts).completion == whole.completion, cuts
    return whole


@pytest.mark.parametrize("name", TEXT)
def test_a_text_in_any_shape(name: str) -> None:
    told = assert_same_however_cut(TEXT[name])

    assert told.message["content"] == "Hi"
    assert "".join(block["text"] for block in told.stream.blocks or ()) == "Hi"
    assert told.completion["choices"][0]["native_finish_reason"] == "end_turn"


def test_a_whole_message_says_what_its_stream_would() -> None:
    cited = [{"type": "text", "text": "Sky."}, {"type": "text", "text": "Blue", "citations": [CITATION]}]
    told = assert_same_however_cut(
        raw({"type": "message", "content": [*cited, {"type": "text", "text": "!"}], "stop_reason": "end_turn"})
    )
    (annotation,) = told.message["annotations"]
    assert (annotation["url_citation"]["start_index"], annotation["url_citation"]["end_index"]) == (4, 8)

    details = {"type": "refusal", "category": None, "explanation": "I will not."}
    refused = {"type": "message", "content": [], "stop_reason": "refusal", "stop_details": details}
    assert assert_same_however_cut(raw(refused)).message["refusal"] == "I will not."


ARGUMENTS = '{"a":1}'
CALLS = {
    "never closed": raw(START, begin(tool(input={})), part(ARGUMENTS), *END_OF_CALLS),
    "never closed, its input at its start": raw(START, begin(tool(input={"a": 1})), *END_OF_CALLS),
    "never closed, and nothing says that the message ends": raw(begin(tool()), part(ARGUMENTS), END_OF_CALLS[0]),
    "an input as text": raw(begin(tool(input=ARGUMENTS)), close(), *END_OF_CALLS),
    "an input as text within a text": raw(begin(tool(input=json.encode([ARGUMENTS])[1:-1].decode())), *END_OF_CALLS),
    "pieces of an input as text within a text": raw(
        begin(tool()), part(' "{\\"a\\"'), part(':1}"'), close(), *END_OF_CALLS
    ),
    "an input that is an object in its delta": raw(begin(tool()), part({"a": 1}), close(), *END_OF_CALLS),
    "an input under another name": raw(
        begin(tool(arguments=ARGUMENTS)), close(), *END_OF_CALLS
    ),
    "pieces that hold all that came before": raw(
        begin(tool()), part('{"a"'), part('{"a":'), part(ARGUMENTS), part(ARGUMENTS), close(), *END_OF_CALLS
    ),
    "an input that comes again": raw(begin(tool()), part('{"a"'), part(":1}"), part('{"a": 1}'), *END_OF_CALLS),
    "an empty object before its input": raw(begin(tool()), part("{}"), part(ARGUMENTS), close(), *END_OF_CALLS),
    "the form of a function": raw(
        begin({"type": "function", "id": "t1", "function": {"name": "f", "arguments": ARGUMENTS}}), *END_OF_CALLS
    ),
    "no type": raw(begin(without(tool(input={"a": 1}), "type")), *END_OF_CALLS),
    "no numbers": raw(
        without(begin(tool()), "index"), without(part(ARGUMENTS), "index"), {"type": "content_block_stop"},
        *END_OF_CALLS,
    ),
    "another number than its block's": raw(begin(tool(), 1), part(ARGUMENTS, 0), close(1), *END_OF_CALLS),
    "its start repeated": raw(
        begin(tool(input={})), part('{"a"'), begin(tool(input={})), part(":1}"), close(), *END_OF_CALLS
    ),
    "its start repeated, whole": raw(begin(tool()), begin(tool(input={"a": 1})), close(), *END_OF_CALLS),
    "nothing inside it": b"".join(
        b"data: null\n\ndata: {}\n\n: still here\n\nevent: ping\ndata: \n\n" + raw(each, PING)
        for each in (begin(tool()), part(None), part('{"a"'), part(""), part(":1}"), END_OF_CALLS[0])
    ),
    "a whole message": raw(
        {"type": "message", "content": [tool(input=ARGUMENTS)], "stop_reason": "tool_use"}
    ),
    "a word of OpenAI's for its end": raw(
        begin(tool()), part(ARGUMENTS), {"type": "message_delta", "delta": {"finish_reason": "tool_calls"}}, STOP
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_any_shape(name: str) -> None:
    told = assert_same_however_cut(CALLS[name])

    assert told.message["tool_calls"] == [call("t1", "f", ARGUMENTS)]
    assert told.reason == "tool_calls"
    assert told.stream.blocks is not None
    (kept,) = told.stream.blocks
    assert kept.items() >= {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}.items()


@pytest.mark.parametrize("given", [None, {}, "", "{}", " ", "null", '""'])
@pytest.mark.parametrize("place", ["start", "delta"])
def test_an_input_that_holds_nothing_is_an_empty_object(given: Any, place: str) -> None:
    events = [begin(tool(input=given))] if place == "start" else [begin(tool()), part(given)]

    assert tell(raw(*events, *END_OF_CALLS)).message["tool_calls"] == [call("t1", "f", "{}")]


@pytest.mark.parametrize(
    "second",
    [
        [begin(tool("t2", "g"), 0), part('{"b":2}', 0)],
        [without(begin(tool("t2", "g", input={"b": 2})), "index")],
        [begin(tool("t2", "g"), 1), part('{"b":2}', 1), close(1)],
        [begin(tool("t2", "g"), None), part('{"b":2}', None)],
    ],
    ids=["of the same number", "without a number", "of its own number", "of no number"],
)
def test_a_call_that_is_never_closed_before_another(second: list[dict[str, Any]]) -> None:
    told = assert_same_however_cut(raw(START, begin(tool()), part(ARGUMENTS), *second, *END_OF_CALLS))

    assert told.message["tool_calls"] == [call("t1", "f", ARGUMENTS), call("t2", "g", '{"b":2}')]
    assert [block["id"] for block in told.stream.blocks or ()] == ["t1", "t2"]


@pytest.mark.parametrize("call_id", [None, "", "same"])
def test_two_calls_have_two_ids(call_id: Any) -> None:
    first, second = (tool(call_id, input={"a": number}) for number in (1, 2))
    told = tell(raw(begin(first), close(), begin(second), close(), *END_OF_CALLS))

    ids = [each["id"] for each in told.message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(ids)
    assert [block["id"] for block in told.stream.blocks or ()] == ids


def test_pieces_of_two_open_calls_go_where_their_numbers_say() -> None:
    starts = [begin(tool(), 0), begin(tool("t2", "g"), 1)]
    pieces = [part('{"a"', 0), part('{"b"', 1), part(":1}", 0), part(":2}", 1)]

    told = assert_same_however_cut(raw(*starts, *pieces, *END_OF_CALLS))

    assert told.message["tool_calls"] == [call("t1", "f", ARGUMENTS), call("t2", "g", '{"b":2}')]


@pytest.mark.parametrize(
    "events",
    [
        [part(ARGUMENTS)],
        [begin(tool()), part(ARGUMENTS), close(), part("}")],
        [begin(tool()), part(ARGUMENTS), part('{"b":2}', 1)],
        [begin({"type": "tool_use", "id": "t1", "input": {"a": 1}})],
    ],
    ids=["without a start", "after its end", "of a call that never began", "without a name"],
)
def test_input_that_belongs_to_no_call_is_an_error(events: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidAnswer):
        tell(raw(START, text("So", 7), *events, *END_OF_CALLS))


def test_a_custom_tool_whose_input_is_a_json_text() -> None:
    options = ResponseOptions(custom_tools=frozenset({"f"}))

    told = tell(raw(begin(tool(input='{"input":"x = 1"}')), close(), *END_OF_CALLS), options)

    assert told.message["tool_calls"][0]["custom"] == {"name": "f", "input": "x = 1"}


@pytest.mark.parametrize("events", [[begin(tool(input=ARGUMENTS))], [begin(tool()), part('"{\\"a\\":1}"')]])
def test_content_that_is_the_input_of_a_tool_as_a_json_text(events: list[dict[str, Any]]) -> None:
    told = tell(raw(*events, close(), *END_OF_CALLS), ResponseOptions(json_tool="f"))

    assert (told.message["content"], told.reason) == (ARGUMENTS, "stop")


THINKING = {
    "a start that says the first piece": raw(
        begin({"type": "thinking", "thinking": "H"}), piece({"type": "thinking_delta", "thinking": "Hm"}), close(),
        text("Hi", 1), *END, STOP,
    ),
    "no start": raw(piece({"type": "thinking_delta", "thinking": "Hm"}), text("Hi", 1), *END, STOP),
    "one number for all": raw(
        begin({"type": "thinking", "thinking": ""}), piece({"type": "thinking_delta", "thinking": "Hm"}),
        begin({"type": "text", "text": ""}), text("Hi"), *END, STOP,
    ),
    "one number and one start for all": raw(
        begin({"type": "thinking"}), piece({"type": "thinking_delta", "thinking": "Hm"}), text("Hi"), *END, STOP
    ),
    "an empty field before the one with the words": raw(
        piece({"type": "thinking_delta", "thinking": "", "reasoning": "Hm"}), text("Hi", 1), *END, STOP
    ),
    "null before the words": raw(
        begin({"type": "thinking", "thinking": None, "text": "Hm"}), close(), text("Hi", 1), *END, STOP
    ),
    "in the parts of a text": raw(
        begin({"type": "text", "text": [{"type": "thinking", "thinking": [{"text": "Hm"}]}, "Hi"]}), *END, STOP
    ),
    "a whole message": raw(
        {"type": "message", "content": [{"type": "reasoning", "reasoning": "Hm"}, "Hi"], "stop_reason": "end_turn"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THINKING)
def test_thinking_in_any_shape(name: str) -> None:
    told = assert_same_however_cut(THINKING[name])

    assert (told.message["reasoning_content"], told.message["content"]) == ("Hm", "Hi")


def test_pieces_that_are_alike_are_all_said() -> None:
    begun = raw(START, begin({"type": "text", "text": "ha"}), text("ha"), text("ha"), text("ha"), *END)
    unbegun = raw(START, text("ha"), text("ha"), *END)

    assert (tell(begun).message["content"], tell(unbegun).message["content"]) == ("hahaha", "haha")


# Counts

COUNTED = {"input_tokens": 31, "output_tokens": 7, "cache_read_input_tokens": 20}


def with_usage(start: Any = None, delta: Any = None, stop: Any = None, **more: Any) -> bytes:
    first = {"type": "message_start", "message": {"usage": start}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta}
    return raw(first, text("Hi"), last, STOP | {"usage": stop} | more)


USAGES = {
    "zeros at the end": with_usage(COUNTED, {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0}),
    "nulls at the end": with_usage(COUNTED, dict.fromkeys(COUNTED)),
    "zeros at the start": with_usage(dict.fromkeys(COUNTED, 0), COUNTED),
    "no counts at the end": with_usage(COUNTED, {"input_tokens": "n/a", "output_tokens": -1}),
    "at the very end": with_usage(None, None, COUNTED),
    "in the last message": with_usage(None, None, message={"usage": COUNTED}),
    "Bedrock's": with_usage(**{
        "amazon-bedrock-invocationMetrics": {
            "inputTokenCount": 31, "outputTokenCount": 7, "cacheReadInputTokenCount": 20, "invocationLatency": 900,
        }
    }),
    "in OpenAI's names": with_usage(
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 51, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 20}},
    ),
    "in camel case": with_usage({"inputTokens": 31, "cacheReadInputTokens": 20}, {"outputTokens": 7}),
    "in the delta": raw(
        text("Hi"), {"type": "message_delta", "delta": {"stop_reason": "end_turn", "usage": COUNTED}}, STOP
    ),
    "beside a piece": raw(text("Hi") | {"usage": COUNTED}, *END, STOP),
    "of a whole message": raw({"type": "message", "content": "Hi", "stop_reason": "end_turn", "usage": COUNTED}),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGES)
def test_the_largest_count_of_each_kind_is_reported(name: str) -> None:
    usage = assert_same_however_cut(USAGES[name]).completion["usage"]

    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (51, 7)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 20


def test_details_of_counts_are_merged_too() -> None:
    stream = with_usage({"output_tokens_details": {"thinking_tokens": 5}}, {"output_tokens_details": None})

    assert tell(stream).completion["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}


# Errors


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"type":"error","error":"out of memory"}',
        b'data: {"type":"error","message":"out of memory"}',
        b'event: error\ndata: {"message":"out of memory"}',
        b'data: {"error":{"message":"out of memory"}}',
        b'data: {"type":"message_delta","delta":{"error":"out of memory"}}',
        b'event: error\ndata: {"type":"message_stop"}',
        b'data: {"type":"message_stop","error":{"type":"overloaded_error"}}',
    ],
)
@pytest.mark.parametrize("before", [[], [START, text("Hi")], [START, begin(tool()), part('{"a"')]])
def test_an_error_in_any_words_ends_the_stream(event: bytes, before: list[dict[str, Any]]) -> None:
    with pytest.raises(ErrorPayload):
        tell(raw(*before) + event + b"\n\n" + raw(*END, STOP))


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"type":"notice","message":"A newer model is there."}',
        b'data: {"type":"rate_limit_notice","details":["input"],"code":429}',
        b'event: notice\ndata: {"message":"A newer model is there."}',
        b'event: container_state\ndata: {"type":"container_state","status":500,"detail":"idle"}',
    ],
)
@pytest.mark.parametrize("before", [[], [START, text("Hi")], [START, begin(tool()), part('{"a"')]])
def test_an_event_of_an_unknown_kind_is_no_error_whatever_words_it_holds(
    event: bytes, before: list[dict[str, Any]]
) -> None:
    told = tell(raw(*before) + event + b"\n\n" + raw(START, text("Ho", 7), *END, STOP))

    assert told.message["content"].endswith("Ho")


@pytest.mark.parametrize("kind", ["overloaded_error", "stream_failure", "ThrottlingException"])
def test_an_event_of_an_unknown_kind_that_is_called_an_error_is_one(kind: str) -> None:
    with pytest.raises(ErrorPayload):
        tell(raw(START, text("Hi"), {"type": kind, "message": "Busy"}, *END, STOP))


def test_a_blocks_own_error_is_none_of_the_stream() -> None:
    found = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    block = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": found}

    assert tell(raw(START, begin(block), close(), text("Hi", 1), *END, STOP)).message["content"] == "Hi"


def test_more_open_blocks_than_are_watched_lose_nothing() -> None:
    events = [event for number in range(200) for event in (begin(tool(f"t{number}"), number), part(ARGUMENTS, number))]

    told = tell(raw(*events, *END_OF_CALLS))

    assert told.message["tool_calls"] == [call(f"t{number}", "f", ARGUMENTS) for number in range(200)]


def test_thinking_and_calls_keep_their_order_when_nothing_is_closed() -> None:
    events = claude_events(thinking_block("Hm"), text_block("So"), tool_block("t1", "f", ARGUMENTS), stop="tool_use")
    open_ended = [each for each in events if each["type"] != "content_block_stop"]

    told = tell(claude_bytes(*open_ended))

    assert [block["type"] for block in told.stream.blocks or ()] == ["thinking", "text", "tool_use"]


# Finish reasons


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource", "cancelled"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_stop_reason_that_means_a_failure_is_one(reason: str, whole: bool) -> None:
    message = {"type": "message", "content": "Hi", "stop_reason": reason}
    events = [message] if whole else [text("Hi"), {"type": "message_delta", "delta": {"stop_reason": reason}}, STOP]

    with pytest.raises(ErrorPayload):
        tell(raw(START, *events))


@pytest.mark.parametrize(
    ("reason", "called", "expected"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("length", True, "length"),
        ("MAX_TOKENS", False, "length"),
        ("SAFETY", False, "content_filter"),
        ("content_filter", False, "content_filter"),
    ],
)
def test_stop_reasons_of_other_dialects(reason: str, called: bool, expected: str) -> None:
    block = begin(tool()) if called else text("Hi")
    told = tell(raw(block, {"type": "message_delta", "delta": {"stop_reason": reason}}, STOP))

    assert told.completion["choices"][0] | {"message": 0, "index": 0, "logprobs": 0} == {
        "index": 0, "message": 0, "logprobs": 0, "finish_reason": expected, "native_finish_reason": reason,
    }  # fmt: skip


# Characters

HALVES = {
    "a pair of surrogates": [b'"\\ud83d"', b'"\\ude00"'],
    "bytes of one character": [b'"\xf0\x9f"', b'"\x98\x80"'],
    "halves with pieces between": [b'"\\ud83d"', b'""', b'"\\ude00"'],
}


def spliced(delta: str, pieces: list[bytes]) -> bytes:
    """A stream whose deltas hold these texts, which are no JSON by the letter."""
    template = b'data: {"type":"content_block_delta","index":0,"delta":{%s:%s}}\n\n'
    return b"".join(template % (b'"%s"' % delta.encode(), piece) for piece in pieces)


@pytest.mark.parametrize("pieces", list(HALVES.values()), ids=list(HALVES))
@pytest.mark.parametrize(("field", "where"), [("text", "content"), ("thinking", "reasoning_content")])
def test_halves_of_a_character_are_joined(pieces: list[bytes], field: str, where: str) -> None:
    told = assert_same_however_cut(raw(START) + spliced(field, pieces) + raw(*END, STOP))

    assert told.message[where] == "😀"


def test_halves_of_a_character_in_a_calls_input_are_joined() -> None:
    pieces = [b'"{\\"a\\":\\"\\ud83d"', b'"\\ude00\\"}"']

    told = assert_same_however_cut(raw(begin(tool())) + spliced("partial_json", pieces) + raw(*END_OF_CALLS))

    assert told.message["tool_calls"] == [call("t1", "f", '{"a":"😀"}')]


@pytest.mark.parametrize("piece", [b'"a\\ud83d"', b'"a\xff"', b'"a\xf0\x9f"'])
def test_what_is_no_character_is_replaced(piece: bytes) -> None:
    told = assert_same_however_cut(raw(START) + spliced("text", [piece]) + raw(close(), *END, STOP))

    assert told.message["content"] == "a\ufffd"
    json.encode(told.completion)


def test_a_number_that_is_none_loses_no_words() -> None:
    odd = b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"},"score":-Infinity}\n\n'

    assert assert_same_however_cut(odd + raw(*END, STOP)).message["content"] == "Hi"


# Framing


def test_events_by_line_several_as_one_and_without_framing() -> None:
    events = [START, text("H"), text("i"), *END, STOP]
    lines = [json.encode(each) for each in events]

    for stream in (b"".join(b"data: %b\n" % each for each in lines), b"data: " + b"".join(lines) + b"\n\n",
                   b"\n".join(lines)):  # fmt: skip
        assert assert_same_however_cut(stream).message["content"] == "Hi"


def test_a_whole_message_without_framing_needs_no_stop_reason() -> None:
    message = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}], "usage": COUNTED}

    told = assert_same_however_cut(json.encode(message))

    assert (told.message["content"], told.reason) == ("Hi", "stop")
    assert told.completion["usage"]["completion_tokens"] == 7


def test_words_before_an_error_in_the_same_event_are_passed_on() -> None:
    event = b"data: " + json.encode(text("Hi")) + b'{"type":"error","error":"oom"}\n\n'

    with pytest.raises(ErrorPayload) as caught:
        tell(event)

    assert caught.value.chunks[-1]["choices"][0]["delta"]["content"] == "Hi"
