"""Chat requests in the words of Responses, and its answers in those of chat."""

import json
from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import Identity
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.dialects.responses.outbound.native import NativeResponse, native_body, read_response
from one_api.dialects.responses.outbound.request import to_responses
from one_api.dialects.responses.outbound.stream import ResponsesStream, completion_of
from one_api.dialects.sse import EventReader
from one_api.errors import UpstreamUnsuitable
from tests.support import responses_api as api

OURS = Identity("chatcmpl-ours", 1_700_000_000, "m")
USER = {"role": "user", "content": "hi"}


def sent(*messages: JSONObject, **fields: Any) -> JSONObject:
    """The body that a chat request becomes."""
    return to_responses({"model": "m", "messages": list(messages or (USER,)), **fields})[0]


def raw(*events: JSONObject) -> bytes:
    """The bytes of a stream."""
    return "".join(f"data: {json.dumps(each, ensure_ascii=False)}\n\n" for each in events).encode()


def answered(data: bytes, cut: int = 0) -> JSONObject:
    """The completion that a stream amounts to, which arrives in two pieces."""
    reader, stream, assembler = EventReader(), ResponsesStream(OURS, include_usage=True), Assembler()
    for piece in (data[:cut], data[cut:]):
        for event in reader.feed(piece):
            for chunk in stream.feed(event):
                assembler.add(chunk)
    assert stream.finished
    return assembler.completion()


def test_custom_tools_and_their_calls_are_flat() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}}
    call = {"id": "c", "type": "custom", "custom": {"name": "p", "input": "x"}}

    body = sent(
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
        tools=[{"type": "custom", "custom": {"name": "p", "format": grammar}}],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "custom", "custom": {"name": "p"}}]},
        },
    )

    assert body["tools"] == [
        {"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}}
    ]
    assert body["tool_choice"] == {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "p"}]}
    assert [item.get("type") for item in body["input"]] == [None, "custom_tool_call", "custom_tool_call_output"]


def test_a_request_of_system_messages_alone_keeps_them_as_input() -> None:
    body = sent({"role": "system", "content": "hi"})

    assert ("instructions" in body, body["input"]) == (False, [{"role": "system", "content": "hi"}])


def test_later_system_messages_keep_their_place() -> None:
    body = sent({"role": "system", "content": "a"}, USER, {"role": "system", "content": "b"})

    assert body["instructions"] == "a"
    assert body["input"] == [USER, {"role": "system", "content": "b"}]


def test_what_has_no_counterpart_is_named() -> None:
    body = {"model": "m", "messages": [USER], "seed": 1, "logit_bias": {"1": 1}, "stream_options": {}, "n": 1}

    assert to_responses(body)[1] == ["seed", "logit_bias"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"audio": {"voice": "v"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"messages": [USER, {"role": "assistant", "audio": {"id": "a"}}, USER]}, "messages[1].audio"),
        ({"messages": [USER, {"role": "function", "name": "f", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(fields: JSONObject, param: str) -> None:
    with pytest.raises(UpstreamUnsuitable) as caught:
        to_responses({"model": "m", "messages": [USER], **fields})

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("file", "sent_as"),
    [
        ({"filename": "a.pdf", "file_data": "https://example.org/a.pdf"}, {"file_url": "https://example.org/a.pdf"}),
        (
            {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        ),
        ({"file_id": "file-1"}, {"file_id": "file-1"}),
    ],
)
def test_a_file_is_named_by_what_is_known_of_it(file: JSONObject, sent_as: JSONObject) -> None:
    body = sent({"role": "user", "content": [{"type": "file", "file": file}]})

    assert body["input"][0]["content"] == [{"type": "input_file", **sent_as}]


CALL = api.call("f", '{"a":1}')
PIECES = [
    {"type": "response.function_call_arguments.delta", "item_id": CALL["id"], "delta": each} for each in ('{"a"', ":1}")
]


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "response.output_item.added", "item": CALL | {"arguments": ""}}, *PIECES,
         {"type": "response.output_item.done", "item": CALL}],
        [{"type": "response.output_item.added", "item": CALL | {"arguments": ""}}, *PIECES],
        [{"type": "response.output_item.done", "output_index": 0, "item": CALL | {"arguments": {"a": 1}}}],
        [],
    ],
    ids=["no numbers", "no numbers, and no end", "an object", "in the end only"],
)  # fmt: skip
def test_a_call_is_told_once_however_its_events_name_it(events: list[JSONObject]) -> None:
    ended = events[-1]["item"] if events and "item" in events[-1] else CALL

    (choice,) = answered(raw(*api.opening(), *events, api.completed(ended)))["choices"]

    (told,) = choice["message"]["tool_calls"]
    assert (told["id"], told["function"]) == (CALL["call_id"], {"name": "f", "arguments": '{"a":1}'})


def test_any_tool_is_required() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]

    assert sent(USER, tools=tools, tool_choice="any")["tool_choice"] == "required"


STREAM = raw(*api.opening(), *api.text_events("Hé", "llo 😀"), api.completed(api.message("Héllo 😀")))


def test_a_stream_cut_at_any_byte_gives_the_same_answer() -> None:
    whole = answered(STREAM)

    assert whole["choices"][0]["message"]["content"] == "Héllo 😀"
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    for cut in range(1, len(STREAM)):
        assert answered(STREAM, cut) == whole


def test_a_whole_response_and_its_stream_are_the_same_completion() -> None:
    assert completion_of(api.response(api.message("Héllo 😀")), OURS) == answered(STREAM)


def test_reasoning_refusals_and_calls_are_told() -> None:
    reasoning = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]}
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}

    found = completion_of(api.response(reasoning, refusal, api.call("f", "")), OURS)

    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["refusal"]) == ("hm", "No.")
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert found["choices"][0]["finish_reason"] == "tool_calls"


CITED = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://example.org", "title": "E"}
PROBABLE = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]


def cited() -> tuple[JSONObject, JSONObject]:
    """What thinks in two parts, and a message with a citation, a file that chat cannot name, and probabilities."""
    thought = {"id": "rs_0", "type": "reasoning", "summary": [{"type": "summary_text", "text": each} for each in "ab"]}
    message = api.message("Hi")
    annotations = [CITED, {"type": "file_citation", "file_id": "f", "index": 0, "filename": "x"}]
    message["content"][0] |= {"annotations": annotations, "logprobs": PROBABLE}
    return thought, message


def cited_events(*, in_pieces: bool) -> list[JSONObject]:
    """The stream of it: each piece by itself, or items that come as a whole."""
    thought, message = cited()
    items = [{"type": "response.output_item.done", "output_index": i, "item": each} for i, each in enumerate(cited())]
    at: JSONObject = {"output_index": 1, "content_index": 0}
    pieces = [
        *(
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": i, "delta": each}
            for i, each in enumerate("ab")
        ),
        items[0],
        {"type": "response.output_text.delta", **at, "delta": "Hi", "logprobs": PROBABLE},
        {"type": "response.output_text.annotation.added", **at, "annotation_index": 0, "annotation": CITED},
        items[1],
    ]
    return [*api.opening(), *(pieces if in_pieces else items), api.completed(thought, message)]


@pytest.mark.parametrize("how", ["whole", "in items", "in pieces"])
def test_citations_probabilities_and_parts_of_reasoning_are_told_once(how: str) -> None:
    if how == "whole":
        answer = completion_of(api.response(*cited()), OURS)
    else:
        answer = answered(raw(*cited_events(in_pieces=how == "in pieces")))

    (choice,) = answer["choices"]
    assert choice["message"]["reasoning_content"] == "a\n\nb"
    citation = {name: value for name, value in CITED.items() if name != "type"}
    assert choice["message"]["annotations"] == [{"type": "url_citation", "url_citation": citation}]
    assert choice["logprobs"] == {"content": PROBABLE, "refusal": None}


def test_images_of_a_tools_result_are_sent() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]

    body = sent(
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": parts},
    )

    assert body["input"][-1]["output"] == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
    ]


def test_a_call_waits_for_its_name_and_gets_an_id() -> None:
    whole = {**api.call("f", '{"a":1}'), "call_id": None}
    bare = {**whole, "name": None, "arguments": ""}
    added = {"type": "response.output_item.added", "output_index": 0, "item": bare}
    done = {"type": "response.output_item.done", "output_index": 0, "item": whole}
    delta = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'}

    (call,) = answered(raw(added, delta, done, api.completed(whole)))["choices"][0]["message"]["tool_calls"]

    assert call["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert call["id"] not in (None, "None")
    with pytest.raises(InvalidAnswer, match="no name"):
        completion_of(api.response(bare), OURS)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "x", "message": "broke"},
        {"type": "response.failed", "response": {"error": {"code": "x", "message": "broke"}}},
        {"error": {"message": "broke"}},
    ],
)
@pytest.mark.parametrize("reader", [NativeResponse, lambda: ResponsesStream(OURS, include_usage=False)])
def test_a_failure_is_one_in_whatever_form(event: JSONObject, reader: Any) -> None:
    (found,) = EventReader().feed(raw(event))

    with pytest.raises(ErrorPayload) as caught:
        reader().feed(found)

    assert caught.value.payload["error"]["message"] == "broke"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{}", InvalidAnswer),
        (b"<html>", InvalidAnswer),
        (b'{"status": "in_progress", "output": []}', InvalidAnswer),
        (b'{"status": "failed", "output": [], "error": {"code": "x", "message": "broke"}}', ErrorPayload),
        (b'{"error": {"message": "broke"}}', ErrorPayload),
    ],
)
def test_what_is_no_response_is_not_taken_for_one(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_response(data)


def test_a_text_stays_a_text() -> None:
    assert native_body({"model": "m", "input": "hi", "store": True}, [], [USER]) == {
        "model": "m", "input": "hi", "store": False
    }  # fmt: skip
