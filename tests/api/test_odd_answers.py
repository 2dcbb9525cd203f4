"""Calls and refusals that upstreams of OpenAI's dialect write in odd ways, over the wire, at each door."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Script, completion, json_reply, sse

from .bed import Answer, Body, user
from .messages_bed import MessagesBed, message_events, running_messages_bed

DOORS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


def ask(doors: MessagesBed, path: str, script: Script, *, stream: bool) -> Answer:
    """The answer at a door to what an upstream of chat has answered."""
    model = doors.model()
    doors.o.on(model, script)
    return doors.post_to(
        path, {"model": model, "stream": stream, "max_tokens": 99, "messages": user()}
        if path != "/v1/responses"
        else {"model": model, "stream": stream, "input": "Hi"},
    )  # fmt: skip


def chunk(delta: Body, finish: str | None = None) -> Body:
    """A chunk of one choice."""
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def last_payload(answer: Answer) -> Body:
    """The whole answer, or the payload of the last event that has one."""
    if answer.header("content-type") == "application/json":
        return dict(answer.json)
    payloads = [event.rpartition("data: ")[2] for event in answer.events if "data: {" in event]
    return dict(json.loads(payloads[-1]))


def called(*names: Any) -> list[Body]:
    """Calls of one id, as the entries of a message."""
    return [{"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]


def whole(**fields: Any) -> Script:
    return json_reply(completion(None, finish="tool_calls", **fields))


@pytest.mark.parametrize("indexed", [False, True])
def test_calls_with_one_id_are_apart(doors: MessagesBed, stream: bool, indexed: bool) -> None:
    entries = [{"index": 0, **call} if indexed else call for call in called("f", "g")]
    for script in (whole(tool_calls=entries), sse(chunk({"tool_calls": entries}), chunk({}, "tool_calls"))):
        answer = ask(doors, "/v1/messages", script, stream=stream)

        blocks = [each["content_block"] for each in message_events(answer) if "content_block" in each] if stream else (
            answer.json["content"]
        )  # fmt: skip
        assert [block["name"] for block in blocks] == ["f", "g"]
        assert len({block["id"] for block in blocks}) == 2


def test_a_name_that_is_repeated_with_its_id_opens_no_call(doors: MessagesBed) -> None:
    pieces = [{**called("f")[0], "function": {"name": "f", "arguments": piece}} for piece in ('{"a"', ":1}")]

    answer = ask(
        doors, DOORS[0], sse(*(chunk({"tool_calls": [each]}) for each in pieces), chunk({}, "stop")), stream=True
    )

    entries = [entry for delta in answer.deltas for entry in delta.get("tool_calls", ())]
    assert {entry["index"] for entry in entries} == {0}
    assert "".join(entry["function"]["arguments"] for entry in entries) == '{"a":1}'


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("refusal", [["No."], {"reason": "No."}], ids=["parts", "an object"])
def test_a_refusal_that_is_no_text_is_one(doors: MessagesBed, path: str, refusal: Any, stream: bool) -> None:
    script = sse(chunk({"refusal": refusal}), chunk({}, "stop")) if stream else json_reply(
        completion(None, refusal=refusal)
    )  # fmt: skip

    answer = ask(doors, path, script, stream=stream)

    assert answer.status == 200, answer.body
    assert b"No." in answer.body
    assert b'"error":{' not in answer.body
    assert b'"refusal":[' not in answer.body
    assert b'"refusal":{' not in answer.body


ONE_CALL = {"name": "f", "arguments": '{"a":1}'}
CALLS: dict[str, Body] = {
    "the deprecated form": {"function_call": ONE_CALL},
    "one call": {"tool_call": {"id": "c1", "type": "function", "function": ONE_CALL}},
    "one bare call": {"tool_call": ONE_CALL},
    "a list under the name of one": {"tool_call": [{"id": "c1", "function": ONE_CALL}]},
    "calls": {"tool_calls": [{"id": "c1", "type": "function", "function": ONE_CALL}]},
}


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("fields", list(CALLS.values()), ids=list(CALLS))
def test_a_call_is_given_as_one_where_no_tools_were_sent(
    doors: MessagesBed, path: str, fields: Body, stream: bool
) -> None:
    script = sse(chunk(fields), chunk({}, "function_call")) if stream else json_reply(
        completion(None, finish="function_call", **fields)
    )  # fmt: skip

    answer = ask(doors, path, script, stream=stream)

    assert answer.status == 200, answer.body
    text = answer.body.decode()
    assert '"f"' in text
    assert '{\\"a\\":1}' in text or '"input":{"a":1}' in text
    wanted = {DOORS[1]: '"type":"function_call"', DOORS[2]: '"stop_reason":"tool_use"'}.get(path, '"name":"f"')
    assert wanted in text
    assert '"output_text"' not in text
    assert '"tool_call":' not in text


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("name", [None, ""])
def test_a_call_of_nothing_is_no_answer(doors: MessagesBed, path: str, name: str | None, stream: bool) -> None:
    entry = {"index": 0, **called(name)[0]}
    for script in (whole(tool_calls=called(name)), sse(chunk({"tool_calls": [entry]}), chunk({}, "tool_calls"))):
        answer = ask(doors, path, script, stream=stream)

        assert answer.status == 502, answer.body
        assert "a tool call has no name" in answer.json["error"]["message"]


@pytest.mark.parametrize("function", [{"arguments": "{}"}, {"name": "", "arguments": "{}"}])
def test_a_call_of_nothing_in_the_deprecated_form_is_no_answer(
    doors: MessagesBed, function: dict[str, str], stream: bool
) -> None:
    ended = "function_call"
    for script in (
        json_reply(completion(None, finish=ended, function_call=function)),
        sse(chunk({"function_call": function}), chunk({}, ended)),
    ):
        answer = ask(doors, DOORS[0], script, stream=stream)

        assert answer.status == 502, answer.body
        assert "a tool call has no name" in answer.json["error"]["message"]


@pytest.mark.parametrize("path", DOORS)
def test_a_stream_begins_when_what_is_called_has_a_name(doors: MessagesBed, path: str) -> None:
    pieces = [{"index": 0, "id": "c1", "function": {"arguments": text}} for text in ('{"a"', ":1}")]
    first, last = (chunk({"tool_calls": [each]}) for each in pieces)
    several_reads = b": " + b"x" * 65536 + b"\n\n"
    script = sse(first, several_reads, last, chunk({}, "tool_calls"))
    model = doors.model("mixed")
    doors.o.on(f"m-{model.partition('-')[2]}", script)

    answer = doors.post_to(
        path, {"model": model, "stream": True, "max_tokens": 99, "messages": user()}
        if path != "/v1/responses"
        else {"model": model, "stream": True, "max_output_tokens": 99, "input": "Hi"},
    )  # fmt: skip

    assert answer.status == 200, answer.body
    assert "error" not in answer.body.decode().replace('"error":null', "")
    assert doors.record_of(answer)["deployment"].startswith("a/")


BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}


@pytest.mark.parametrize(
    "script",
    [
        json_reply({"choices": [], **BLOCKED}),
        json_reply(BLOCKED),
        sse({"id": "c", "choices": [], **BLOCKED}),
        json_reply(completion("", finish="content_filter: PROHIBITED_CONTENT")),
        sse(chunk({}, "IMAGE_RECITATION")),
    ],
    ids=["no choices", "feedback alone", "in a stream", "a reason in two words", "another word"],
)  # fmt: skip
def test_a_refused_prompt_is_a_filtered_answer(doors: MessagesBed, script: Script, stream: bool) -> None:
    chat, response, message = (ask(doors, path, script, stream=stream) for path in DOORS)

    assert {chat.status, response.status, message.status} == {200}
    assert b'"finish_reason":"content_filter"' in chat.body
    found = last_payload(response)
    assert found.get("response", found)["incomplete_details"] == {"reason": "content_filter"}
    assert b'"stop_reason":"refusal"' in message.body


def gemini(*parts: Body, finish: str | None = None) -> Body:
    """A piece of an answer, or all of one, in Gemini's own form."""
    candidate = {"content": {"parts": list(parts), "role": "model"}, **({"finishReason": finish} if finish else {})}
    counts = {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "g", "responseId": "r"}


@pytest.mark.parametrize("path", DOORS)
def test_an_answer_in_geminis_own_form_is_read(doors: MessagesBed, path: str, stream: bool) -> None:
    thought, said = {"text": "Hm.", "thought": True}, [{"text": "Good "}, {"text": "day"}]
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    whole, pieces = gemini(thought, *said, call, finish="STOP"), [gemini(thought), *map(gemini, said), gemini(call)]
    script = sse(*pieces, gemini(finish="STOP"), done=False) if stream else json_reply(whole)

    found = ask(doors, path, script, stream=stream)

    assert found.status == 200, found.body
    text = found.body.decode()
    assert ("Good " in text, "day" in text, '"f"' in text) == (True, True, True)
    assert '"candidates"' not in text
    assert '\\"a\\":1' in text or '"a":1' in text
    record = doors.record_of(found)
    assert (record["error"], record["prompt_tokens"], record["finish_reason"]) == (None, 5, "tool_calls")


NOTHING: dict[str, Body] = {
    "an empty call": {"function_call": {}},
    "a call of null": {"function_call": {"name": None, "arguments": None}},
    "a call of no letters": {"function_call": {"name": "", "arguments": ""}},
    "null for a call": {"tool_calls": [None]},
    "an entry of nulls": {"tool_calls": [{"index": 0, "id": None, "type": None, "function": {"name": None}}]},
    "an object without calls": {"tool_calls": {}},
}


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("fields", list(NOTHING.values()), ids=list(NOTHING))
def test_what_says_that_nothing_is_called_is_left_out(
    doors: MessagesBed, path: str, fields: Body, stream: bool
) -> None:
    answered = completion("Hello", **fields)
    script = sse(chunk({"content": "Hello", **fields}), chunk(fields, "stop")) if stream else json_reply(answered)

    answer = ask(doors, path, script, stream=stream)

    assert answer.status == 200, answer.body
    assert b"Hello" in answer.body
    assert not any(word in answer.body for word in (b"function_call", b"tool_use", b'"tool_calls":'))
    assert doors.record_of(answer)["finish_reason"] == "stop"


@pytest.mark.parametrize("error", [None, {}, "", False, {"code": 0, "message": ""}])
def test_an_error_that_is_none_is_left_out(doors: MessagesBed, error: Any, stream: bool) -> None:
    whole, piece = completion("Hello") | {"error": error}, chunk({"content": "Hel"}) | {"error": error}
    rest, last = chunk({"content": "lo"}) | {"error": error}, chunk({}, "stop") | {"error": error}
    for choice in (*whole["choices"], *last["choices"]):
        choice["error"] = error

    answer = ask(doors, DOORS[0], sse(piece, rest, last) if stream else json_reply(whole), stream=stream)

    assert answer.status == 200, answer.body
    assert b'"error"' not in answer.body
    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "Hello"


PARTS: dict[str, list[Body]] = {
    "a kind of their own": [{"type": "markdown", "text": "Hel"}, {"type": "markdown", "text": "lo"}],
    "parts in a part": [{"type": "paragraph", "content": [{"type": "text", "text": "Hello"}]}],
    "calls": [{"type": "text", "text": "Hello"}, {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}],
    "calls as OpenAI's": [{"type": "text", "text": "Hello"}, {"type": "function", "id": "c1", "function": {
        "name": "f", "arguments": '{"a":1}'}}],
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_the_words_and_calls_of_parts_have_their_place(doors: MessagesBed, name: str, stream: bool) -> None:
    parts, reason = PARTS[name], "tool_use" if name.startswith("calls") else "stop"
    whole = json_reply(
        completion(None, finish=reason) | {"choices": [{"message": {"content": parts}, "finish_reason": reason}]}
    )
    script = sse(chunk({"content": parts}), chunk({}, reason)) if stream else whole

    answer = ask(doors, "/v1/messages", script, stream=stream)

    assert answer.status == 200, answer.body
    body = answer.body.decode().replace('\\"', '"')
    assert body.count("Hel") == 1
    assert ('"name":"f"' in body, '"a":1' in body) == (reason == "tool_use",) * 2
