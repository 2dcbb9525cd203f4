"""An event or a body is nothing, an error in whatever words, words to repair, or an answer in another shape."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.sse import Event, EventReader
from one_api.upstream.errors import OPENAI_REPORTS
from tests.dialects.recorded import OURS, Translated, called, chunk, opened, piece, read_answer, said, stream, usage

ROLE: JSONObject = {"role": "assistant", "content": ""}
TEXT = chunk({"content": "a"})
FINISH = chunk({}, "stop")
#: What may have come before an odd event.
BEFORE: dict[str, list[JSONObject | str]] = {
    "nothing": [], "a role": [chunk(ROLE)], "text": [TEXT], "a call": [chunk(opened("a", "f", '{"x"'))],
}  # fmt: skip
ANYWHERE = pytest.mark.parametrize("before", list(BEFORE.values()), ids=list(BEFORE))


def translate(raw: bytes, **options: Any) -> Translated:
    """Read a stream with the end of its bytes, as the adapters do, and return its chunks."""
    reader, events = OpenAIStream(OURS, include_usage=True, **options), EventReader()
    chunks = [each for event in [*events.feed(raw), *events.end()] for each in reader.feed(event)]
    return Translated([*chunks, *reader.end()], reader.finished, reader.usage)


def choices_of(raw: bytes, **options: Any) -> list[JSONObject]:
    """The choices of a whole answer: JSON, or events that are put together."""
    found: list[JSONObject] = read_answer(raw, OURS, **options)["choices"]
    return found


def choice_of(*payloads: JSONObject | str, **options: Any) -> JSONObject:
    """The one choice that a stream amounts to."""
    (choice,) = choices_of(stream(*payloads), **options)
    return choice


def whole(message: Any = None, finish: Any = "stop", **fields: Any) -> JSONObject:
    """The one choice of a whole answer with that message."""
    choice = {"index": 0, "message": message, "finish_reason": finish, **fields}
    (found,) = choices_of(json.encode({"choices": [choice]}))
    return found


# Nothing

NOTHING = {
    "null": "data: null\n\n", "object": "data: {}\n\n", "list": "data: []\n\n", "text": 'data: ""\n\n',
    "blank": "data:  \n\n", "ping": "event: ping\ndata: {}\n\n", "ping with data": 'event: ping\ndata: {"t": 1}\n\n',
    "ping without data": "event: ping\n\n", "type": 'data: {"type":"ping"}\n\n', "comment": ": still here\n\n",
    "keep-alive": "event: keep-alive\ndata: x\n\n", "no choices": 'data: {"choices":null}\n\n',
    "envelope": 'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[]}\n\n',
    "no error": 'data: {"error":null}\n\n', "blank error": 'data: {"error":{"code":0,"message":""}}\n\n',
}  # fmt: skip


@ANYWHERE
@pytest.mark.parametrize("nothing", list(NOTHING.values()), ids=list(NOTHING))
def test_an_event_that_says_nothing_changes_nothing(before: list[JSONObject | str], nothing: str) -> None:
    rest: list[JSONObject | str] = [chunk(piece(":1}"))] if before == BEFORE["a call"] else [TEXT]

    assert translate(stream(*before, nothing, *rest, FINISH)) == translate(stream(*before, *rest, FINISH))


@pytest.mark.parametrize("block", ["data: null\n\n", "data: {}\n\n", "event: ping\n\n", "event: ping\ndata: {}\n\n"])
def test_an_event_that_says_nothing_is_a_sign_of_life(block: str) -> None:
    reader = EventReader()
    reader.feed(block.encode())

    assert reader.blocks == 1


# Errors

ERRORS = {
    "field": ('error: {"code":500,"message":"oom"}\n\n', "oom"),
    "field without a blank line": ("error: oom\n", "oom"),
    "event with a message": ("event: error\ndata: oom\n\n", "oom"),
    "event with an object": ('event: error\ndata: {"code":500,"message":"oom"}\n\n', "oom"),
    "event with other words": ('event: Error\ndata: {"msg":"oom"}\n\n', "oom"),
    "event without data": ("event: error\n\n", "failed with status 502"),
    "exception": ('event: exception\ndata: {"detail":"oom"}\n\n', "oom"),
    "object": ('data: {"error":{"message":"oom"}}\n\n', "oom"),
    "text": ('data: {"error":"oom"}\n\n', "oom"),
    "beside choices": ('data: {"choices":[],"error":{"message":"oom"}}\n\n', "oom"),
    "detail": ('data: {"detail":"oom"}\n\n', "oom"),
    "detail list": ('data: {"detail":[{"msg":"oom"}]}\n\n', "oom"),
    "message": ('data: {"code":"X","message":"oom","request_id":"r"}\n\n', "oom"),
    "error_msg": ('data: {"error_code":18,"error_msg":"oom","id":"x"}\n\n', "oom"),
    "msg": ('data: {"code":500,"msg":"oom","success":false}\n\n', "oom"),
    "base_resp": ('data: {"choices":null,"base_resp":{"status_code":1004,"status_msg":"oom"}}\n\n', "oom"),
    "errors": ('data: {"success":false,"errors":[{"message":"oom"}],"result":null}\n\n', "oom"),
    "type": ('data: {"type":"error","message":"oom"}\n\n', "oom"),
    "object error": ('data: {"object":"error","message":"oom","code":40303}\n\n', "oom"),
    "list": ('data: [{"error":{"message":"oom"}}]\n\n', "oom"),
    "text in text": ('data: "{\\"error\\":{\\"message\\":\\"oom\\"}}"\n\n', "oom"),
    "AWS": ('data: {"throttlingException":{"message":"oom"}}\n\n', "oom"),
    "code": ('data: {"status":503}\n\n', "overloaded"),
    "plain": ("data: Error: oom\n\n", "oom"),
    "page": ("data: <html><head><title>oom</title></head></html>\n\n", "oom"),
    "page with a declaration": ("data: <!DOCTYPE html><h1>oom</h1>\n\n", "oom"),
    "a proxy's text": ("data: upstream connect error or disconnect/reset before headers\n\n", "connect error"),
    "a limit's text": ("data: Rate limit exceeded, oom\n\n", "oom"),
    "a time-out's text": ("data: Gateway Timeout\n\n", "Gateway Timeout"),
    "status failed": ('data: {"status":"failed","reason":"oom"}\n\n', "oom"),
    "fault": ('data: {"fault":{"faultstring":"oom","detail":{"errorcode":"policies.ratelimit"}}}\n\n', "oom"),
    "the event of another dialect": (
        'data: {"type":"response.failed","response":{"error":{"message":"oom"}}}\n\n', "oom"
    ),
    "bare line": ('{"error":{"message":"oom"}}\n', "oom"),
    "bare lines": ('{\n "error": {\n  "message": "oom"\n }\n}\n', "oom"),
    "type exception": ('data: {"type":"exception","text":"oom","message":"oom"}\n\n', "oom"),
    "status error": ('data: {"status":"error","reason":"oom"}\n\n', "oom"),
    "base_resp beside choices": (
        'data: {"choices":[{"index":0,"delta":{}}],"base_resp":{"status_code":1004,"status_msg":"oom"}}\n\n',
        "oom"),
    "nothing but text": ('data: {"event":"fatal","text":"oom"}\n\n', "failed with status 502"),
    "choice": ('data: {"choices":[{"index":0,"delta":{},"error":{"message":"oom"}}]}\n\n', "oom"),
}  # fmt: skip


@ANYWHERE
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_whatever_words_ends_the_stream(before: list[JSONObject | str], name: str) -> None:
    event, words = ERRORS[name]

    with pytest.raises(ErrorPayload) as caught:
        translate(stream(*before, event, TEXT, FINISH))

    assert words in OPENAI_REPORTS.error_of_payload(caught.value.payload).message


@pytest.mark.parametrize("name", [name for name, (event, _) in ERRORS.items() if event.startswith("data: {")])
def test_a_whole_answer_that_reports_an_error_is_one(name: str) -> None:
    event, words = ERRORS[name]

    with pytest.raises(ErrorPayload) as caught:
        read_answer(event.removeprefix("data: ").encode(), OURS)

    assert words in OPENAI_REPORTS.error_of_payload(caught.value.payload).message


@pytest.mark.parametrize(
    ("finish", "beside"),
    [
        ("error", {}),
        ("error", {"error": {"message": "oom", "code": 502}}),
        ("stop", {"error": "oom"}),
        (None, {"errors": [{"message": "oom"}], "error": "oom"}),
        ("stop", {"base_resp": {"status_code": 1027, "status_msg": "output is sensitive"}}),
    ],
)
def test_words_beside_an_error_are_not_lost(finish: str | None, beside: JSONObject) -> None:
    reader = OpenAIStream(OURS, include_usage=False)

    with pytest.raises(ErrorPayload) as caught:
        reader.feed(Event(json.encode(chunk({"content": "last"}, finish, **beside))))

    assert [each["choices"][0]["delta"]["content"] for each in caught.value.chunks] == ["last"]
    assert [each["choices"][0]["finish_reason"] for each in caught.value.chunks] == [None]


@pytest.mark.parametrize(
    "payload",
    [{"choices": [{"message": {"content": "x"}}], "error": None}, {"choices": [{"message": {"content": "x"}}],
     "base_resp": {"status_code": 0, "status_msg": ""}}, {"choices": [{"message": {"content": "x"}}], "message": "ok"},
     {"code": 0, "msg": "ok", "data": {"choices": [{"message": {"content": "x"}}]}},
     {"status": 200, "message": "ok", "result": {"choices": [{"message": {"content": "x"}}]}}],
)  # fmt: skip
def test_an_answer_that_only_looks_like_an_error_is_an_answer(payload: JSONObject) -> None:
    assert choices_of(json.encode(payload))[0]["message"]["content"] == "x"


# Words that are not JSON by the letter


def raw_text(*contents: bytes) -> bytes:
    """A stream of these contents, as bytes between quotes."""
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % content for content in contents]
    return b"".join(events) + stream(FINISH)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([b"a\\ud83d", b"\\ude00b"], "a😀b"),
        ([b"\\ud83d", b"\\udc80"], "💀"),
        ([b"\\ud83d", b"x"], "\ufffdx"),
        ([b"\\ude00"], "\ufffd"),
        ([b"x\\ud83d"], "x\ufffd"),
        ([b"caf\xe9", b"s"], "caf\ufffds"),
        ([b"\xff a"], "\ufffd a"),
        ([b"caf\xe9"], "caf\ufffd"),
        ([b"\xf0\x9f", b"\x98\x80!"], "😀!"),
        ([b"a\xed\xa0\xbd", b"\xed\xb8\x80b"], "a😀b"),
        ([b"\xed\xa0\xbd\xed\xb8\x80", b"\xed\xa0", b"\xbd\\ude00"], "😀😀"),
        ([b"a\xed\xa0\xbd"], "a\ufffd"),
        ([b"a\tb", b"c\x01d"], "a\tbc\x01d"),
    ],
)
def test_characters_are_repaired(contents: list[bytes], expected: str) -> None:
    (choice,) = choices_of(raw_text(*contents))

    assert choice["message"]["content"] == expected


def test_a_half_in_the_arguments_of_a_call_is_joined() -> None:
    first = stream(chunk(opened("a", "f", '{"x":"', index=0)), done=False)
    entry = '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}}]}'
    halves = [f"data: {entry % half}\n\n" for half in ("\\ud83d", '\\ude00\\"}')]

    (choice,) = choices_of(first + "".join(halves).encode() + stream(FINISH))

    assert choice["message"]["tool_calls"] == [called("a", "f", '{"x":"😀"}')]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "nan", "-nan", "-inf", "-INF"])
def test_a_number_that_is_none_is_null(number: str) -> None:
    entry = f'{{"token":"a","logprob":{number},"score":{number},"bytes":null,"top_logprobs":[]}}'
    event = f'data: {{"choices":[{{"index":0,"delta":{{"content":"a"}},"logprobs":{{"content":[{entry}]}}}}]}}\n\n'
    body = f'{{"choices":[{{"message":{{"content":"a"}},"logprobs":{{"content":[{entry}]}}}}]}}'

    for (choice,) in (choices_of(stream(event, FINISH)), choices_of(body.encode())):
        assert choice["message"]["content"] == "a"
        (found,) = choice["logprobs"]["content"]
        # Clients rely on a number there; this one is OpenAI's own for what is very unlikely.
        assert (found["score"], found["logprob"]) == (None, -9999.0)


def test_words_that_look_like_such_numbers_stay() -> None:
    (choice,) = choices_of(raw_text(b'[nan, -inf] \\"nan\\"').replace(b'"index":0', b'"index":0,"score":nan'))

    assert choice["message"]["content"] == '[nan, -inf] "nan"'


@pytest.mark.parametrize(("raw", "expected"), [(b"\\ud83d", "\ufffd"), (b"\xff", "\ufffd"), (b"a\nb", "a\nb")])
def test_a_whole_answer_is_repaired(raw: bytes, expected: str) -> None:
    (choice,) = choices_of(b'\xef\xbb\xbf {"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % raw)

    assert choice["message"]["content"] == expected


# Other shapes: choices


@pytest.mark.parametrize(
    "made",
    [
        lambda text: {"choices": [{"index": 0, "message": {"content": text}}]},
        lambda text: {"choices": [{"index": 0, "delta": None, "message": {"role": "assistant", "content": text}}]},
        lambda text: {"choices": [{"index": 0, "delta": {}, "message": {"content": text}}]},
        lambda text: {"choices": [{"index": 0, "text": text}]},
        lambda text: {"choices": [{"index": 0, "delta": text}]},
        lambda text: {"choices": {"index": 0, "delta": {"content": text}}},
        lambda text: {"output": {"choices": [{"message": {"content": text}}]}, "request_id": "r"},
        lambda text: {"result": {"choices": [{"delta": {"content": text}}]}, "success": True},
        lambda text: {"result": {"response": text}, "success": True, "errors": []},
        lambda text: {"model": "m", "message": {"role": "assistant", "content": text}, "done": False},
        lambda text: {"response": text, "p": "abc"},
        lambda text: {"content": text, "stop": False},
    ],
)
def test_words_are_found_wherever_they_stand(made: Any) -> None:
    assert choice_of(made("Hel"), made("lo"), FINISH)["message"]["content"] == "Hello"


def test_a_message_beside_or_after_deltas_says_nothing_twice() -> None:
    beside = [chunk({"content": each}) for each in ("Hel", "lo")]
    for each, text in zip(beside, ("Hel", "Hello"), strict=True):
        each["choices"][0]["message"] = {"role": "assistant", "content": text}
    last = {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}

    assert choice_of(*beside, last) == said("Hello")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "stop"}, said(None)),
        ({"message": None, "finish_reason": "length"}, said(None, "length")),
        ({"text": "Hi", "finish_reason": "stop"}, said("Hi")),
        ({"message": "Hi", "finish_reason": "stop"}, said("Hi")),
        ({"delta": {"content": "Hi"}, "finish_reason": "stop"}, said("Hi")),
    ],
)
def test_a_whole_choice_is_read_in_any_shape(choice: JSONObject, expected: JSONObject) -> None:
    assert choices_of(json.encode({"choices": [choice]})) == [expected]


def test_an_answer_of_ollamas_own_dialect_is_read_to_its_end() -> None:
    lines = [{"message": {"role": "assistant", "content": each}, "done": False} for each in ("Hel", "lo")]
    end = {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 2}
    raw = b"".join(json.encode(line) + b"\n" for line in [*lines, end])

    assert choices_of(raw) == [said("Hello")]
    assert translate(raw).usage == usage(9, 2)


# Other shapes: texts

PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}, {"type": "image_url", "image_url": {"url": "u"}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PARTS, {"content": "Hello", "reasoning_content": "hm", "content_parts": [PARTS[3]]}),
        ([{"type": "output_text", "text": "a"}, "b"], {"content": "ab"}),
        ([{"type": "reasoning", "text": "hm"}], {"content": None, "reasoning_content": "hm"}),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}],
         {"content": "a", "reasoning_content": "hm"}),
        ({"type": "text", "text": "a"}, {"content": "a"}),
        (7, {"content": "7"}),
    ],
)  # fmt: skip
def test_content_is_one_text(content: Any, expected: JSONObject) -> None:
    for choice in (whole({"content": content}), choice_of(chunk({"content": content}), FINISH)):
        assert choice == said(finish="stop", **expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "hm", "reasoning_content": None},
        {"reasoning": "hm", "reasoning_content": ""},
        {"reasoning": None, "reasoning_content": "hm"},
        {"reasoning": "", "reasoning_content": "hm"},
        {"reasoning": "", "thinking": "hm"},
        {"reasoning_text": "hm"},
        {"reasoning": {"content": "hm"}},
        {"thinking": {"thinking": "hm", "signature": "s"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}, {"type": "reasoning.encrypted"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_content": [{"type": "text", "text": "hm"}]},
    ],
)
def test_what_is_null_or_empty_gives_way(fields: JSONObject) -> None:
    for choice in (whole({"content": "a", **fields}), choice_of(chunk({"content": "a", **fields}), FINISH)):
        assert choice["message"]["reasoning_content"] == "hm"


def test_parts_that_repeat_the_reasoning_add_nothing() -> None:
    blocks = [{"type": "thinking", "thinking": "hmm", "signature": "s"}]
    deltas: list[JSONObject] = [{"reasoning_content": "h"}, {"reasoning_content": "mm"}, {"thinking_blocks": blocks}]

    message = choice_of(*map(chunk, deltas), TEXT, FINISH)["message"]

    assert (message["reasoning_content"], message["thinking_blocks"]) == ("hmm", blocks)


# Other shapes: finish reasons

FAILURES = ["abort", "error", "insufficient_system_resource", "network_error", "MALFORMED_FUNCTION_CALL", "cancelled"]


@pytest.mark.parametrize("reason", FAILURES)
def test_a_finish_reason_that_means_a_failure_is_one(reason: str) -> None:
    with pytest.raises(ErrorPayload, match="error"):
        whole({"content": "a"}, reason)
    with pytest.raises(ErrorPayload):
        translate(stream(TEXT, chunk({}, reason)))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("model_length", "length"), ("tool_use", "stop"), ("odd", "stop"),
     ("sensitive", "content_filter"), ("SAFETY", "content_filter"), ("stop_sequence", "stop"),
     ("length_limit", "length"), ("max_new_tokens", "length"), ("repetition_truncation", "length")],
)  # fmt: skip
def test_any_other_becomes_one_of_openais(reason: str, expected: str) -> None:
    for choice in (whole({"content": "a"}, reason), choice_of(TEXT, chunk({}, reason))):
        assert (choice["finish_reason"], choice["native_finish_reason"]) == (expected, reason)


FIRST: list[list[JSONObject]] = [
    [chunk({"role": "assistant", "content": ""}, "stop")],
    [chunk({"reasoning_content": "h"}, "stop"), chunk({"reasoning_content": "m"}, "stop")],
    [chunk({"content": "He"}, "stop")],
    [chunk({}, "stop")],
]


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("last", ["stop", "length", None])
def test_a_finish_reason_before_the_end_is_none(first: list[JSONObject], last: str | None) -> None:
    words = "Hello" if first is not FIRST[2] else "llo"
    events = [*first, *(chunk({"content": each}, "stop") for each in words), chunk({}, last)]
    translated = translate(stream(*events, {"choices": [], "usage": usage(9, 3)}))

    *before, ending, counted = translated.chunks
    assert [each["choices"][0]["finish_reason"] for each in before] == [None] * len(before)
    assert (ending["choices"][0]["finish_reason"], ending["choices"][0]["delta"]) == (last or "stop", {})
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in before) == "Hello"
    assert counted["usage"] == usage(9, 3)


@pytest.mark.parametrize("first", FIRST)
def test_an_answer_of_which_nothing_was_said_is_not_complete(first: list[JSONObject]) -> None:
    reader, events = OpenAIStream(OURS, include_usage=False), EventReader()
    for event in events.feed(stream(*first, done=False)):
        reader.feed(event)

    assert reader.is_complete == (first is FIRST[2])
    assert [each["choices"][0]["finish_reason"] for each in reader.end()] == ["stop"]


def test_a_call_after_a_finish_reason_belongs_to_the_answer() -> None:
    deltas = [chunk({"content": "Hello"}, "stop"), chunk(opened("a", "f", '{"a":1}'), "stop")]

    choice = choice_of(*deltas)

    assert (choice["finish_reason"], choice["message"]["tool_calls"]) == ("tool_calls", [called("a", "f", '{"a":1}')])


def test_words_and_a_finish_reason_in_one_chunk_are_two() -> None:
    scored = chunk({"content": "a"}, "length", service_tier="flex")
    measured = {"token": "a", "logprob": -0.5, "top_logprobs": []}
    scored["choices"][0]["logprobs"] = {"content": [measured]}

    said, ending = translate(stream(scored)).chunks

    assert (said["choices"][0]["delta"], said["choices"][0]["finish_reason"]) == (
        {"role": "assistant", "content": "a"}, None
    )  # fmt: skip
    assert said["choices"][0]["logprobs"] == {"content": [measured]}
    assert (ending["choices"][0]["delta"], ending["choices"][0]["logprobs"]) == ({}, None)
    assert (ending["choices"][0]["finish_reason"], ending["service_tier"]) == ("length", "flex")


@pytest.mark.parametrize("none", ["null", "None", "", " ", "FINISH_REASON_UNSPECIFIED"])
def test_a_word_for_no_finish_reason_ends_nothing(none: str) -> None:
    deltas = [chunk({"content": each}, none) for each in ("Hel", "lo")]

    assert choice_of(*deltas, chunk({}, "stop")) == said("Hello")
    assert not translate(stream(*deltas, done=False)).finished


@pytest.mark.parametrize("arguments", ['{"a"', '{"a":"}', '{"a":[{}]'])
def test_an_end_mark_inside_a_call_ends_nothing(arguments: str) -> None:
    cut = [chunk(opened("a", "f", "")), chunk(piece(arguments))]

    with pytest.raises(InvalidAnswer, match="inside a tool call"):
        translate(stream(*cut))
    assert choice_of(*cut, chunk({}, "length"))["finish_reason"] == "length"


def test_a_native_finish_reason_of_the_upstreams_own_is_kept() -> None:
    assert whole({"content": "a"}, "eos", native_finish_reason="STOP")["native_finish_reason"] == "STOP"


def test_an_error_in_a_choice_is_one() -> None:
    with pytest.raises(ErrorPayload) as caught:
        whole({"content": ""}, error={"code": 502, "message": "oom"})

    assert caught.value.payload == {"error": {"code": 502, "message": "oom"}}


# Other shapes: what stands around an answer

ANSWER: JSONObject = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
COUNTED = {**ANSWER, "usage": usage(9, 3)}
WORDS = {"response": "Hi", "usage": usage(9, 3)}
#: Bodies that hold the answer "Hi", with its usage.
WRAPPED: dict[str, Any] = {
    "text": json.encode_text(json.encode(COUNTED).decode()).decode(),
    "text in a text": json.encode_text(json.encode_text(json.encode(COUNTED).decode()).decode()).decode(),
    "list": [COUNTED],
    "result": {"result": COUNTED},
    "Cloudflare": {"result": COUNTED, "success": True, "errors": [], "messages": []},
    "Cloudflare's own": {"result": WORDS, "success": True, "errors": [], "messages": []},
    "code and data": {"code": 200, "msg": "ok", "data": COUNTED},
    "two envelopes": {"data": {"result": COUNTED}},
    "list in an envelope": {"result": [COUNTED]},
    "AWS": {"statusCode": 200, "headers": {}, "body": json.encode(COUNTED).decode()},
    "Ollama's own": {"message": {"content": "Hi"}, "done": True, "prompt_eval_count": 9, "eval_count": 3},
}  # fmt: skip


def body_of(value: Any) -> bytes:
    """A body: a value of JSON, or what is JSON already."""
    return value.encode() if isinstance(value, str) else json.encode(value)


@pytest.mark.parametrize("body", list(WRAPPED.values()), ids=list(WRAPPED))
def test_an_answer_is_found_in_what_stands_around_it(body: Any) -> None:
    raw = body_of(body)
    whole, streamed = read_answer(raw, OURS), translate(raw)

    assert (whole["choices"], whole["usage"]) == ([said("Hi")], usage(9, 3))
    assert streamed.finished
    assert (choice_of(*streamed.chunks), streamed.usage) == (said("Hi"), usage(9, 3))


#: Chunks of Cloudflare's and others, each in an envelope.
PIECES = {
    "result": [{"result": chunk({"content": each})} for each in "Hi"],
    "response": [{"response": each, "p": "abcd"} for each in "Hi"],
    "response in result": [{"result": {"response": each}} for each in "Hi"],
}


@pytest.mark.parametrize("pieces", list(PIECES.values()), ids=list(PIECES))
def test_chunks_are_found_in_what_stands_around_them(pieces: list[JSONObject | str]) -> None:
    assert choice_of(*pieces) == said("Hi")
    assert not translate(stream(*pieces, done=False)).finished


def test_calls_of_cloudflares_own_dialect_are_calls() -> None:
    words = {"response": None, "tool_calls": [{"name": "f", "arguments": {"a": 1}}], "usage": usage(9, 3)}

    (choice,) = choices_of(json.encode({"result": words, "success": True, "errors": []}), tools=["f"])

    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "tool_calls"


def test_an_object_in_place_of_a_text_is_its_json() -> None:
    (choice,) = choices_of(json.encode({"result": {"response": {"a": [1]}}, "success": True, "errors": []}))

    assert choice == said('{"a":[1]}')


@pytest.mark.parametrize(
    "body",
    [
        {"statusCode": 500, "body": '{"message": "oom"}'},
        {"statusCode": 200, "body": '{"error": {"message": "oom"}}'},
        {"code": 500, "msg": "oom", "data": {"text": "Internal error"}},
        {"success": False, "message": "oom", "data": {"content": "Hi"}},
        {"result": None, "success": False, "errors": [{"code": 7003, "message": "oom"}]},
    ],
)
def test_an_envelope_around_an_error_is_one(body: JSONObject) -> None:
    with pytest.raises(InvalidAnswer):
        choices_of(json.encode(body))
    with pytest.raises(ErrorPayload):
        translate(json.encode(body))


@pytest.mark.parametrize("line", [{"message": {"content": "Hi"}, "done": False}, {"response": "Hi", "done": False}])
def test_a_body_that_says_that_it_is_not_all_is_not(line: JSONObject) -> None:
    with pytest.raises(InvalidAnswer):
        choices_of(json.encode(line))
    assert not translate(json.encode(line) + b"\n").finished


# Other shapes: a list of all chunks

LISTED = [chunk({"content": 'Say "]} '}), chunk({"content": "[\\{"}), {**FINISH, "usage": usage(9, 3)}]
SEPARATED = {"gemini": "\n,\r\n", "lines": ",\n", "one line": ",", "blank": ",\n\n"}


def as_list(separator: str, *, indent: bool = False, end: str = "]") -> bytes:
    """The chunks as one list of JSON."""
    texts = [json.encode(each).decode() for each in LISTED]
    return f"[{separator.join(text.replace(',', f',{chr(10)}  ') if indent else text for text in texts)}{end}".encode()


@pytest.mark.parametrize("indent", [False, True], ids=["compact", "indented"])
@pytest.mark.parametrize("separator", list(SEPARATED.values()), ids=list(SEPARATED))
def test_a_list_of_chunks_is_a_stream(separator: str, indent: bool) -> None:
    raw = as_list(separator, indent=indent)

    streamed, whole = translate(raw), read_answer(raw, OURS)

    assert streamed.finished
    assert (choice_of(*streamed.chunks), streamed.usage) == (said('Say "]} [\\{'), usage(9, 3))
    assert (whole["choices"], whole["usage"]) == ([said('Say "]} [\\{')], usage(9, 3))


def test_the_items_of_a_list_are_read_as_they_come() -> None:
    raw = as_list(",\n")
    events = EventReader()

    assert [len(events.feed(line)) for line in raw.splitlines(keepends=True)] == [1, 1, 0]
    assert len(events.end()) == 1


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_list_that_is_cut_is_no_answer(cut: int) -> None:
    raw = b"[" + json.encode(chunk({"content": "a"})) + b",\n" + json.encode(chunk({"content": "b"})) + b"]"

    with pytest.raises(InvalidAnswer):
        read_answer(raw[:-cut], OURS)


def test_what_stands_between_the_items_of_a_list_is_not_skipped() -> None:
    with pytest.raises(InvalidAnswer):
        translate(b"[" + json.encode(TEXT) + b",\n oom,\n" + json.encode(FINISH) + b"]\n")


def test_an_error_in_a_list_ends_the_stream() -> None:
    with pytest.raises(ErrorPayload):
        translate(json.encode([TEXT, {"error": {"code": 503, "message": "oom", "status": "UNAVAILABLE"}}]))


# Other shapes: usage


@pytest.mark.parametrize(
    "payload",
    [
        chunk({}, "stop", usage=usage(9, 3)),
        {**chunk({}, "stop"), "x_groq": {"id": "r", "usage": usage(9, 3)}},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage(9, 3)}]},
        chunk({}, "stop", usage={"input_tokens": 9, "output_tokens": 3}),
        chunk({}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 3}),
        chunk({}, "stop", usage={"prompt_tokens": "9", "completion_tokens": "3", "total_tokens": " 12 "}),
        chunk({}, "stop", usage={"prompt_tokens": 9.0, "completion_tokens": 3.0, "total_tokens": None}),
        chunk({}, "stop", usageMetadata={"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}),
    ],
)
def test_usage_is_found_wherever_it_stands(payload: JSONObject) -> None:
    late: list[JSONObject] = [{"choices": [], "usage": each} for each in (usage(0, 0), dict.fromkeys(usage(0, 0)))]
    translated = translate(stream(TEXT, payload, *late))

    assert translated.usage == translated.chunks[-1]["usage"] == usage(9, 3)
    assert '"usage"' not in json.encode(translated.chunks[:-1]).decode().replace('"usage":null', "")


@pytest.mark.parametrize(("absurd", "counted"), [(-5, 0), (1e308, 10**9), (10**30, 10**9), ("1e9", 0), (True, 0)])
def test_counts_that_cannot_be_are_bounded(absurd: Any, counted: Any) -> None:
    answer = {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": absurd, "completion_tokens": 3}}

    assert read_answer(json.encode(answer), OURS)["usage"]["prompt_tokens"] == counted


def test_of_each_field_the_largest_counts() -> None:
    first = usage(9, 1, prompt_tokens_details={"cached_tokens": 4, "audio_tokens": None})
    last = usage(0, 3, prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 1}, cost=0.5)

    assert translate(stream(TEXT, {"choices": [], "usage": first}, {"choices": [], "usage": last})).usage == {
        "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "cost": 0.5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
    }  # fmt: skip


@pytest.mark.parametrize("place", ["choice", "x_groq", "zeros"])
def test_usage_of_a_whole_answer_is_found(place: str) -> None:
    choice: JSONObject = {"message": {"content": "a"}, "finish_reason": "stop"}
    body: JSONObject = {"choices": [choice]}
    (choice if place != "x_groq" else body.setdefault("x_groq", {}))["usage"] = usage(9, 3)
    if place == "zeros":
        body["usage"] = usage(0, 0)

    assert read_answer(json.encode(body), OURS)["usage"] == usage(9, 3)


# Labels and framing


@pytest.mark.parametrize(
    "end", ["data: [DONE] \n\n", 'data: "[DONE]"\n\n', "data: '[DONE]'\n\n", "data:[done]\n\n", "[DONE]\n"]
)
def test_an_end_mark_is_read_in_any_dress(end: str) -> None:
    assert translate(stream(TEXT, end, done=False)).finished


@pytest.mark.parametrize("last", ["data: [DONE]\n", "data: [DONE]", "data: [DONE]\n\n"])
def test_one_line_end_between_events_is_enough(last: str) -> None:
    lines = [f"data: {json.encode(each).decode()}\n" for each in (chunk(ROLE), TEXT, FINISH)]

    assert choices_of("".join([*lines, last]).encode()) == [said("a")]
    assert translate("".join([*lines, last]).encode()).finished


@pytest.mark.parametrize("indent", [False, True])
def test_a_whole_answer_in_place_of_events_becomes_chunks(indent: bool) -> None:
    raw = '{"object":"chat.completion","choices":[{"index":0,"message":{"content":"a","tool_calls":[]}}]}'
    translated = translate((raw.replace(",", ",\n  ") if indent else raw).encode())

    assert translated.finished
    assert [each["object"] for each in translated.chunks] == ["chat.completion.chunk"] * 2
    assert translated.chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_piece_alone_is_no_whole_answer() -> None:
    raw = json.encode(TEXT)

    assert not translate(raw).finished
    with pytest.raises(InvalidAnswer):
        read_answer(raw, OURS)


def test_events_that_stop_are_no_whole_answer() -> None:
    with pytest.raises(InvalidAnswer, match="stop before"):
        read_answer(stream(TEXT, done=False), OURS)
