"""``/v1/responses`` over the wire: what reaches the upstream, and what clients get."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import (
    Close,
    Gateway,
    ScriptedUpstream,
    Wait,
    WaitFor,
    completion,
    custom_call,
    error,
    json_reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)
from tests.support.raw import build_request

from .bed import KEY, SETTLE_S, Answer, Bed, Begun, adapter, running_bed, yaml

CUSTOM = {"type": "custom", "name": "apply_patch", "description": "Edits."}
NAMESPACE = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}
OTHER_KEY = "other-key"
HEADERS = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")]


@pytest.fixture(scope="module")
def keeping() -> Iterator[Bed]:
    """A gateway that keeps responses, with two clients, short heartbeats and an early status line."""
    keys = [{"key": KEY, "name": "mine"}, {"key": OTHER_KEY, "name": "theirs"}]
    server = {"heartbeat_s": 0.1, "commit_s": 0.3}
    with running_bed(server, api_keys=keys, responses={"state": "memory"}) as running:
        yield running
        running.check_settled()


def post(
    bed: Bed, path: str = "", *, key: str | None = KEY, headers: dict[str, str] | None = None, **body: Any
) -> Answer:
    """The answer to a POST below the door."""
    given = {
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {key}"} if key else {}),
        **(headers or {}),
    }
    raw = json.dumps(body).encode()
    where = (bed.gateway.host, bed.gateway.port)
    return bed.send(build_request("POST", f"/v1/responses{path}", *where, headers=list(given.items()), body=raw))


def respond(bed: Bed, model: str, /, given: Any = "hi", **fields: Any) -> Answer:
    """The answer to a request for a response."""
    return post(bed, model=model, input=given, **fields)


def events(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream, whose names are their types."""
    assert answer.status == 200, answer.body
    found = []
    for raw in answer.events:
        name, _, data = raw.rpartition("data: ")
        payload = json.loads(data)
        assert name == (f"event: {payload['type']}\n" if "type" in payload else "")
        found.append(payload)
    return found


def kinds(answer: Answer) -> list[str]:
    """The types of the events, without their common beginning; an error frame is "error"."""
    return [each.get("type", "error").removeprefix("response.") for each in events(answer)]


def final(answer: Answer) -> dict[str, Any]:
    """The response that a stream ended with."""
    return dict([each["response"] for each in events(answer) if "response" in each][-1])


def test_a_text_is_answered(bed: Bed) -> None:
    model = bed.model()

    answer = respond(bed, model)

    assert answer.status == 200
    assert answer.json["output"][0]["content"][0]["text"] == "Hello"
    assert answer.json["usage"] == {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 11,
    }  # fmt: skip
    assert bed.last(model).json == {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def test_a_text_is_streamed(bed: Bed) -> None:
    answer = respond(bed, bed.model(), stream=True)

    assert kinds(answer) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [each["sequence_number"] for each in events(answer)] == list(range(10))
    assert final(answer)["usage"]["total_tokens"] == 11
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"


def test_the_usage_after_the_finish_is_in_the_end(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi", usage=tokens(7, 3))))

    assert final(respond(bed, model, stream=True))["usage"]["input_tokens"] == 7


def test_the_request_is_recorded(bed: Bed) -> None:
    model = bed.model()

    record = bed.record_of(respond(bed, model, stream=True))

    assert (record["path"], record["model"], record["completion_tokens"]) == ("/v1/responses", model, 2)


def test_codexs_tools_go_there_and_back(bed: Bed, stream: bool) -> None:
    model = bed.model()
    calls: list[tuple[str, *tuple[str, ...]]] = [
        ("apply_patch", '{"input":"*** Be', 'gin\\n"}'),
        ("agents__spawn", "{}"),
    ]
    bed.a.on(model, sse(*tool_chunks(*calls)) if stream else json_reply(_called(calls)))
    tools = [CUSTOM, NAMESPACE, {"type": "web_search", "external_web_access": False}]

    answer = respond(bed, model, tools=tools, tool_choice="auto", client_metadata={"a": "b"}, stream=stream)

    patch, spawn = (final(answer) if stream else answer.json)["output"]
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")
    assert (spawn["type"], spawn["name"], spawn["namespace"]) == ("function_call", "spawn", "agents")
    assert answer.header("x-gateway-warnings") == "tools[2]"
    sent = bed.last(model).json
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["apply_patch", "agents__spawn"]
    assert not {"client_metadata", "input", "instructions"} & sent.keys()


def _called(calls: list[tuple[str, *tuple[str, ...]]]) -> Any:
    made = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
        for n, (name, *pieces) in enumerate(calls)
    ]
    return completion(None, finish="tool_calls", tool_calls=made)


def test_a_failure_before_any_content_has_its_status(bed: Bed, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, error(503))

    answer = respond(bed, model, stream=stream)

    assert answer.status == 503
    assert answer.error["code"] == "overloaded"


def test_a_busy_upstream_that_names_no_time_is_to_be_asked_again(bed: Bed, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, json_reply({"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}, status=429))

    answer = respond(bed, model, stream=stream)

    assert (answer.status, answer.header("retry-after")) == (429, "1")


def test_a_context_that_is_too_small_is_the_inputs_fault(bed: Bed, stream: bool) -> None:
    model = bed.model()
    said = {"message": "maximum context length is 8 tokens", "code": "context_length_exceeded", "param": "messages"}
    bed.a.on(model, error(400, {"error": said}))

    answer = respond(bed, model, stream=stream)

    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("context_length_exceeded", "input")


def test_another_deployment_answers_from_the_original_items(bed: Bed, stream: bool) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(503))

    answer = respond(
        bed, model, [{"role": "developer", "content": "x"}, {"role": "user", "content": "hi"}], stream=stream
    )

    assert (final(answer) if stream else answer.json)["output"][0]["content"][0]["text"] == "Hello"
    assert bed.asked(model)["b"] == 1


def test_a_stream_that_is_cut_fails_and_never_completes(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hel", "lo", finish=None), Close(), done=False))

    answer = respond(bed, model, stream=True)

    assert kinds(answer)[-3:] == ["output_text.delta", "failed", "error"]
    assert "[DONE]" not in answer.body.decode()
    assert final(answer)["error"]["code"] == "server_error"
    assert events(answer)[-1]["error"]["code"] == "upstream_stream_truncated"
    assert bed.record_of(answer)["error"] == "upstream_stream_truncated"


def test_a_failure_in_a_stream_has_the_names_of_the_door_in_both_events(bed: Bed) -> None:
    gate, model = threading.Event(), bed.model()
    failure = {"error": {"message": "`max_tokens` is too large.", "param": "max_tokens", "code": "x", "status": 400}}
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), WaitFor(gate), failure, done=False))
    raw = json.dumps({"model": model, "input": "hi", "stream": True}).encode()
    where = (bed.gateway.host, bed.gateway.port)
    with Begun.opened(bed, build_request("POST", "/v1/responses", *where, headers=HEADERS, body=raw)) as begun:
        first = [begun.next() for _ in range(5)]
        gate.set()
        answer = begun.answer([*first, *begun.rest()])

    told, frame = final(answer)["error"], events(answer)[-1]["error"]
    assert told["message"] == frame["message"]
    assert "`max_output_tokens` is too large." in told["message"]
    assert frame["param"] == "max_output_tokens"


def test_a_clean_end_without_a_finish_is_no_completion(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), done=False))

    assert kinds(respond(bed, model, stream=True))[-2:] == ["failed", "error"]


def test_silence_is_filled_with_events(keeping: Bed) -> None:
    model = keeping.model()
    chunks = text_chunks("Hel", "lo")
    keeping.a.on(model, sse(*chunks[:2], Wait(0.5), *chunks[2:]))

    answer = respond(keeping, model, stream=True)

    found = kinds(answer)
    first = found.index("output_text.delta")
    assert found[first + 1] == "in_progress"
    assert found[:2] == ["created", "in_progress"]
    assert [each["sequence_number"] for each in events(answer)] == list(range(len(found)))


def test_silence_before_the_first_content_begins_the_stream(keeping: Bed) -> None:
    model = keeping.model()
    keeping.a.on(model, [Wait(0.8), *sse(*text_chunks("Hi"))])

    answer = respond(keeping, model, stream=True)

    found = kinds(answer)
    assert found[:3] == ["created", "in_progress", "in_progress"]
    assert found.count("created") == 1
    assert found[-1] == "completed"


def test_a_failure_after_the_status_line_is_an_event(keeping: Bed) -> None:
    model = keeping.model()
    keeping.a.on(model, [Wait(0.8), *error(400)])

    found = kinds(respond(keeping, model, stream=True))

    assert (found[:2], found[-2:]) == (["created", "in_progress"], ["failed", "error"])


def test_a_character_in_two_reads_is_one_delta(bed: Bed) -> None:
    model = bed.model()
    chunks = text_chunks("😀")
    raw = f"data: {json.dumps(chunks[1], ensure_ascii=False)}\n\n".encode()
    cut = raw.index("😀".encode()) + 2
    bed.a.on(model, sse(chunks[0], raw[:cut], Wait(0.05), raw[cut:], chunks[2]))

    assert [each["delta"] for each in events(respond(bed, model, stream=True)) if "delta" in each] == ["😀"]


def test_a_client_that_leaves_ends_the_upstream(bed: Bed) -> None:
    model, gate = bed.model(), threading.Event()
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), WaitFor(gate), done=False))
    raw = json.dumps({"model": model, "input": "hi", "stream": True}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    where = (bed.gateway.host, bed.gateway.port)

    with bed.connect() as client:
        client.send(build_request("POST", "/v1/responses", *where, headers=list(headers.items()), body=raw))
        client.read_head()
    ended = bed.a.requests[-1].ended.wait(SETTLE_S)
    gate.set()

    assert ended


def test_the_end_of_the_process_is_a_failure() -> None:
    with running_bed(env={"DRAIN_SECONDS": "0.5"}) as running:
        model, gate = running.model(), threading.Event()
        running.a.on(model, sse(*text_chunks("Hel", finish=None), WaitFor(gate), done=False))
        raw = json.dumps({"model": model, "input": "hi", "stream": True}).encode()
        where = (running.gateway.host, running.gateway.port)
        with Begun.opened(running, build_request("POST", "/v1/responses", *where, headers=HEADERS, body=raw)) as begun:
            first = [begun.next() for _ in range(5)]
            running.gateway.terminate()
            answer = begun.answer([*first, *begun.rest()])
        gate.set()

    assert kinds(answer)[-2:] == ["failed", "error"]
    assert events(answer)[-1]["error"]["code"] == "server_shutdown"


# Errors


def test_no_key_is_told_in_openais_words(bed: Bed) -> None:
    answer = post(bed, key=None, model="m", input="hi")

    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.header("x-request-id")


def test_two_keys_that_differ_are_refused(keeping: Bed) -> None:
    assert post(keeping, headers={"x-api-key": OTHER_KEY}, model="m", input="hi").status == 401


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "hi"}, 400, None, None),
        ({"model": "unknown", "input": "hi"}, 404, None, "model_not_found"),
        ({"model": "m", "messages": []}, 400, "messages", None),
        ({"model": "m", "input": "hi", "background": True}, 400, "background", "unsupported_value"),
        ({"model": "m", "input": "hi", "previous_response_id": "resp_1"}, 400, "previous_response_id",
         "previous_response_not_found"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_named(bed: Bed, body: Any, status: int, param: str | None, code: str | None) -> None:
    answer = post(bed, **body)

    assert (answer.status, answer.error["param"], answer.error["code"]) == (status, param, code)


def test_a_tool_that_the_client_counts_on_is_refused(bed: Bed, stream: bool) -> None:
    model = bed.model("pair")

    answer = respond(bed, model, tools=[{"type": "code_interpreter"}], stream=stream)

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "tools[0].type", "unsupported_value")
    assert bed.asked(model) == {}


def test_nothing_reaches_the_upstream_of_a_call_without_its_output(bed: Bed) -> None:
    model = bed.model()
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}

    answer = respond(bed, model, [{"role": "user", "content": "go"}, call])

    assert (answer.status, answer.error["param"]) == (400, "input")
    assert bed.asked(model) == {}


@pytest.mark.parametrize(
    "offer",
    [
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"},
        {"Upgrade": "WebSocket", "Connection": "upgrade"},
        {"Sec-WebSocket-Key": "x"},  # a proxy in between drops the others
    ],
)
def test_a_websocket_is_sent_back_at_once(bed: Bed, offer: dict[str, str]) -> None:
    assert bed.get("/v1/responses", headers=offer).status == 426


def test_other_methods_are_named(bed: Bed) -> None:
    answer = bed.get("/v1/responses")

    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")
    assert "POST" in (answer.header("allow") or "")


def test_nobody_compacts(bed: Bed) -> None:
    answer = post(bed, "/compact", model="m", input="hi")
    items = [{"role": "user", "content": "hi"}, {"type": "compaction_trigger"}]
    triggered = post(bed, model=bed.model(), input=items)

    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert (triggered.status, triggered.error["param"]) == (400, "input[1].type")
    for each in (answer, triggered):
        assert "Codex does so when the `name` of its provider" in each.error["message"]


def test_conversations_are_unknown(bed: Bed) -> None:
    answer = bed.get("/v1/conversations", method="POST")

    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


def test_a_query_is_dropped(bed: Bed) -> None:
    assert post(bed, "?beta=true", model=bed.model(), input="hi").status == 200


def test_input_tokens_are_estimated(bed: Bed) -> None:
    model = bed.model()

    answer = post(bed, "/input_tokens", model=model, input="word " * 400)

    assert answer.json == {"object": "response.input_tokens", "input_tokens": 504}
    assert answer.header("x-gateway-warnings") == "input_tokens: estimated"
    assert bed.asked(model) == {}


# Reasoning


REASONED = [
    {**text_chunks()[0], "choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}]},
    *tool_chunks(("f", "{}"))[1:],
]
F = {"type": "function", "name": "f"}


def test_reasoning_comes_back_to_the_model_that_had_it(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*REASONED), json_reply(completion("Done")))
    include = ["reasoning.encrypted_content"]

    first = final(respond(bed, model, include=include, tools=[F], stream=True))
    output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "ok"}
    respond(bed, model, [{"role": "user", "content": "hi"}, *first["output"], output], tools=[F], include=include)

    assert first["output"][0]["encrypted_content"].startswith("gw1.")
    assert bed.last(model).json["messages"][1]["reasoning_content"] == "hm"


def test_reasoning_of_another_key_is_ignored(keeping: Bed) -> None:
    model = keeping.model()
    keeping.a.on(model, sse(*REASONED), json_reply(completion("Done")))
    include = ["reasoning.encrypted_content"]

    first = final(respond(keeping, model, include=include, tools=[F], stream=True))
    output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "ok"}
    history = [{"role": "user", "content": "hi"}, *first["output"], output]
    second = respond(keeping, model, history, tools=[F], key=OTHER_KEY)

    assert second.status == 200
    assert "hm" not in json.dumps(keeping.last(model).json)


# State


def test_without_state_nothing_is_stored_and_it_says_so(bed: Bed) -> None:
    silent, explicit = respond(bed, bed.model()), respond(bed, bed.model(), store=True)

    assert (silent.json["store"], silent.header("x-gateway-warnings")) == (False, None)
    assert (explicit.json["store"], explicit.header("x-gateway-warnings")) == (False, "store")
    assert bed.get(f"/v1/responses/{silent.json['id']}").status == 404


def test_a_conversation_goes_on_from_a_response(keeping: Bed, stream: bool) -> None:
    model = keeping.model()

    first = respond(keeping, model, "one", instructions="Be brief.", tools=[F], stream=stream)
    kept = final(first) if stream else first.json
    respond(keeping, model, "two", previous_response_id=kept["id"])

    assert kept["store"] is True
    sent = [(message["role"], message["content"]) for message in keeping.last(model).json["messages"]]
    assert sent == [("user", "one"), ("assistant", "Hello"), ("user", "two")]
    assert "tools" not in keeping.last(model).json


@pytest.mark.parametrize("summary", [None, "auto"])
def test_the_reasoning_of_a_call_under_way_goes_on_with_the_conversation(
    keeping: Bed, stream: bool, summary: str | None
) -> None:
    model, other = keeping.model(), keeping.model()
    call = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    thought = completion(None, finish="tool_calls", reasoning_content="hm", tool_calls=[call])
    chunks = tool_chunks(("f", "{}"))
    chunks[0]["choices"][0]["delta"]["reasoning_content"] = "hm"
    keeping.a.on(model, sse(*chunks) if stream else json_reply(thought), json_reply(completion("ok")))
    first = respond(keeping, model, "one", tools=[F], stream=stream, reasoning={"summary": summary})
    kept = final(first) if stream else first.json
    output = [{"type": "function_call_output", "call_id": "call_0", "output": "1"}]

    for asked in (model, other):
        respond(keeping, asked, output, previous_response_id=kept["id"], tools=[F])

    assert keeping.last(model).json["messages"][1]["reasoning_content"] == "hm"
    assert "reasoning_content" not in keeping.last(other).json["messages"][1]
    assert keeping.get(f"/v1/responses/{kept['id']}").json["output"] == kept["output"]


def test_a_response_is_read_again_as_it_was(keeping: Bed) -> None:
    first = respond(keeping, keeping.model(), "one")

    for _ in range(2):
        assert keeping.get(f"/v1/responses/{first.json['id']}").json == first.json


def test_a_response_belongs_to_its_key(keeping: Bed) -> None:
    model = keeping.model()
    mine = respond(keeping, model, "one").json["id"]

    assert keeping.get(f"/v1/responses/{mine}", key=OTHER_KEY).status == 404
    assert keeping.get(f"/v1/responses/{mine}/input_items", key=OTHER_KEY).status == 404
    assert keeping.get(f"/v1/responses/{mine}", method="DELETE", key=OTHER_KEY).status == 404
    stolen = respond(keeping, model, "two", previous_response_id=mine, key=OTHER_KEY)
    unknown = respond(keeping, model, "two", previous_response_id="resp_1", key=OTHER_KEY)
    assert stolen.error["code"] == unknown.error["code"] == "previous_response_not_found"
    assert keeping.get(f"/v1/responses/{mine}").status == 200


def test_what_shall_not_be_stored_is_not(keeping: Bed) -> None:
    answer = respond(keeping, keeping.model(), store=False).json

    assert answer["store"] is False
    assert keeping.get(f"/v1/responses/{answer['id']}").status == 404


def test_a_deleted_response_is_gone(keeping: Bed) -> None:
    model = keeping.model()
    kept = respond(keeping, model).json["id"]

    deleted = keeping.get(f"/v1/responses/{kept}", method="DELETE")

    assert deleted.json == {"id": kept, "object": "response", "deleted": True}
    assert keeping.get(f"/v1/responses/{kept}").status == 404
    assert respond(keeping, model, previous_response_id=kept).status == 400


def test_a_failed_response_can_be_read_and_not_gone_on_from(keeping: Bed) -> None:
    model = keeping.model()
    keeping.a.on(model, sse(*text_chunks("Hel", finish=None), done=False), json_reply(completion("Hello")))

    failed = final(respond(keeping, model, stream=True))

    assert keeping.get(f"/v1/responses/{failed['id']}").json["status"] == "failed"
    assert respond(keeping, model, previous_response_id=failed["id"]).status == 400


def test_input_items_come_in_pages(keeping: Bed) -> None:
    given = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "3"},
    ]
    path = f"/v1/responses/{respond(keeping, keeping.model(), given).json['id']}/input_items"

    first = keeping.get(f"{path}?limit=1&order=asc").json
    rest = keeping.get(f"{path}?order=asc&after={first['last_id']}").json

    assert first["data"][0]["content"] == [{"type": "input_text", "text": "one"}]
    assert (first["has_more"], rest["has_more"], len(rest["data"])) == (True, False, 2)
    assert keeping.get(path).json["data"][0]["content"][0]["text"] == "3"
    assert keeping.get(f"{path}?limit=101").error["param"] == "limit"


def test_an_item_can_be_referred_to(keeping: Bed) -> None:
    model = keeping.model()
    kept = respond(keeping, model, "one").json["output"][0]["id"]
    given = [
        {"role": "user", "content": "one"},
        {"type": "item_reference", "id": kept},
        {"role": "user", "content": "2"},
    ]

    assert respond(keeping, model, given).status == 200
    assert keeping.last(model).json["messages"][1] == {"role": "assistant", "content": "Hello"}
    assert respond(keeping, model, given, key=OTHER_KEY).status == 400


def test_a_response_cannot_be_cancelled(keeping: Bed) -> None:
    kept = respond(keeping, keeping.model()).json["id"]

    assert post(keeping, f"/{kept}/cancel").status == 400
    assert post(keeping, "/resp_1/cancel").status == 404


@pytest.fixture(scope="module")
def switched() -> Iterator[Bed]:
    """A gateway whose switches stand the other way."""
    switches = {"state": "off", "reasoning": "hide", "error_frame": False, "overload_as_event": True}
    with running_bed(responses=switches) as running:
        yield running
        running.check_settled()


def test_reasoning_that_is_hidden_is_told_to_nobody(switched: Bed, stream: bool) -> None:
    model = switched.model()
    thought = completion("Yes", reasoning_content="Hm")
    chunks = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]}, *text_chunks("Yes"))
    switched.a.on(model, chunks if stream else json_reply(thought))

    answer = respond(switched, model, reasoning={"summary": "auto"}, stream=stream)

    assert [item["type"] for item in (final(answer) if stream else answer.json)["output"]] == ["message"]
    assert "Hm" not in answer.body.decode()


def test_reasoning_that_is_hidden_is_still_carried(switched: Bed, stream: bool) -> None:
    model = switched.model()
    thought = completion("Yes", reasoning_content="Hm")
    chunks = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]}, *text_chunks("Yes"))
    switched.a.on(model, chunks if stream else json_reply(thought))

    answer = respond(switched, model, include=["reasoning.encrypted_content"], stream=stream)

    reasoning, _ = (final(answer) if stream else answer.json)["output"]
    assert reasoning["encrypted_content"].startswith("gw1.")
    assert not reasoning["summary"]
    assert "Hm" not in answer.body.decode()


def test_an_overload_can_be_told_in_a_stream(switched: Bed) -> None:
    model = switched.model()
    switched.a.on(model, error(503))

    answer = respond(switched, model, stream=True)

    assert kinds(answer) == ["created", "in_progress", "failed"]
    assert final(answer)["error"]["code"] == "server_is_overloaded"
    record = switched.record_of(answer)
    assert (record["error"], record["outcome"]) == ("overloaded", "upstream_failed")


def test_failures_may_come_without_an_error_frame(switched: Bed) -> None:
    model = switched.model()
    switched.a.on(model, sse(*text_chunks("Hel", "lo", finish=None), Close(), done=False))

    assert kinds(respond(switched, model, stream=True))[-1] == "failed"


@pytest.mark.parametrize(
    ("finish", "kinds"), [("stop", ["reasoning", "message"]), ("length", ["reasoning"])], ids=["done", "cut"]
)
def test_a_model_that_has_only_thought_has_said_nothing(bed: Bed, stream: bool, finish: str, kinds: list[str]) -> None:
    """It has answered with nothing; one that was cut had not come to that."""
    model = bed.model()
    chunks = text_chunks(finish=finish)
    chunks[0]["choices"][0]["delta"] = {"role": "assistant", "reasoning_content": "hm"}
    bed.a.on(model, sse(*chunks) if stream else json_reply(completion(None, finish=finish, reasoning_content="hm")))

    answer = respond(bed, model, stream=stream)

    output = (final(answer) if stream else answer.json)["output"]
    assert [item["type"] for item in output] == kinds


def test_an_effort_is_for_models_that_are_known_to_take_one(bed: Bed) -> None:
    model = bed.model()

    answer = respond(bed, model, reasoning={"effort": "low", "summary": "auto"})

    assert answer.header("x-gateway-warnings") == "reasoning.effort"
    assert bed.last(model).json == {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    with running_bed(settings={"reasoning_models": ["solo-*"]}) as running:
        answer = respond(running, "solo-1", reasoning={"effort": "low"})
        assert answer.header("x-gateway-warnings") is None
        assert running.last("solo-1").json["reasoning_effort"] == "low"


def test_openais_own_reasoning_models_are_known() -> None:
    efforts = {"gpt-5.2": "low", "gpt-4o": None}
    with (
        ScriptedUpstream() as upstream,
        Gateway(config_yaml=yaml(adapters={"x": adapter(upstream, [*efforts])})) as gateway,
    ):
        bed = Bed(gateway, {"x": upstream})
        for model, effort in efforts.items():
            assert respond(bed, model, reasoning={"effort": "low"}).status == 200
            assert upstream.requests[-1].json.get("reasoning_effort") == effort


@pytest.mark.parametrize("status", [402, 429])
def test_an_empty_account_is_nothing_to_ask_again_for(bed: Bed, stream: bool, status: int) -> None:
    model = bed.model()
    bed.a.on(model, error(status, {"error": {"message": "You have no credit.", "code": "insufficient_quota"}}))

    answer = respond(bed, model, stream=stream)

    assert (answer.status, answer.error["type"], answer.error["code"]) == (429, *["insufficient_quota"] * 2)
    assert answer.header("x-should-retry") == "false"
    assert bed.ask(model).error["code"] == "upstream_quota_exhausted"


@pytest.mark.parametrize("arguments", ["", "{}", '{"input": ""}'])
def test_a_custom_tool_that_is_called_with_nothing_gets_nothing(bed: Bed, stream: bool, arguments: str) -> None:
    model = bed.model()
    calls: list[tuple[str, *tuple[str, ...]]] = [("apply_patch", *filter(None, [arguments]))]
    bed.a.on(model, sse(*tool_chunks(*calls)) if stream else json_reply(_called(calls)))

    answer = respond(bed, model, tools=[CUSTOM], stream=stream)

    (item,) = (final(answer) if stream else answer.json)["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "")


@pytest.mark.parametrize("tools", [[], [CUSTOM]], ids=["made up", "declared"])
def test_a_call_that_chat_has_as_custom_is_custom_here(bed: Bed, stream: bool, tools: Any) -> None:
    model = bed.model()
    bed.a.on(model, custom_call("apply_patch", "*** Begin", " Patch", stream=stream))

    answer = respond(bed, model, tools=tools, stream=stream)

    (item,) = (final(answer) if stream else answer.json)["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** Begin Patch")
