"""The numbered cases of the protocol: what goes up to an OpenAI-compatible upstream, and what comes down from it.

Odd numbers are the cases as written down, even ones their neighbours. Numbers left out concern other dialects.
"""

from typing import Any

import openai
import pytest

from tests.support import completion, error, json_reply

from .bed import Bed, Body, user

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OVERLOADED = {"error": {"message": "too much", "type": "overloaded_error", "param": None, "code": None}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


# Requests, validation


@pytest.mark.parametrize("body", [b'{"model":', b"", b"\xff\xfe{}", b'{"model": "m"} x', b"{'model': 1}"])
def test_case_01_a_body_that_is_not_json(bed: Bed, body: bytes) -> None:
    answer = bed.post(body)

    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == ("invalid_request_error", None, None)
    assert answer.header("x-request-id")


@pytest.mark.parametrize(
    "body", [b"[]", b'"text"', b"1", b"null", b"true", b"[" * 10_000, b'{"a":' * 70 + b"1" + b"}" * 70]
)
def test_case_02_a_body_that_is_no_object_of_bounded_depth(bed: Bed, body: bytes) -> None:
    answer = bed.post(body)

    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == ("invalid_request_error", None, None)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "01", "1.", '"\\ud800"'])
def test_case_02_a_value_that_is_not_json(bed: Bed, number: str) -> None:
    body = f'{{"model": "solo-0", "messages": [{{"role": "user", "content": "Hi"}}], "x": {number}}}'

    assert bed.post(body.encode()).status == 400


def test_case_03_an_unknown_model(bed: Bed) -> None:
    with bed.sdk(2) as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hi"}])

    assert (caught.value.status_code, caught.value.code, caught.value.param) == (404, "model_not_found", None)
    bed.record_of(bed.get("/v1/models"))
    assert [record["model"] for record in bed.gateway.call_records()].count("nope") == 1, "it is not tried again"


MISSING = "missing_required_parameter"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, None, None),
        ({"model": ""}, None, None),
        ({"model": 7}, "model", "invalid_type"),
        ({"model": ["m"]}, "model", "invalid_type"),
        ({"messages": None}, "messages", MISSING),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": {}}, "messages", "invalid_type"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{}]}, "messages[0].role", MISSING),
        ({"messages": [{"role": 1, "content": "Hi"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*user(), {"role": "user"}]}, "messages[1].content", "invalid_type"),
        ({"messages": [{"role": "system", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]", "invalid_type"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0].type", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": [1]}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"include_usage": "y"}}, "stream_options.include_usage", "invalid_type"),
        ({"tool_choice": "auto"}, "tool_choice", None),
        ({"tool_choice": "auto", "tools": []}, "tool_choice", None),
        ({"tools": {}}, "tools", "invalid_type"),
    ],
)  # fmt: skip
def test_case_04_a_field_that_must_be_understood(bed: Bed, change: Body, param: str | None, code: str | None) -> None:
    model = bed.model()

    answer = bed.post({"model": model, "messages": user()} | change)

    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == ("invalid_request_error", param, code)
    assert bed.asked(model) == {}


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_case_04_a_field_that_is_missing(bed: Bed, missing: str) -> None:
    body = {key: value for key, value in {"model": "solo-0", "messages": user()}.items() if key != missing}

    answer = bed.post(body)

    assert (answer.status, answer.error["param"]) == (400, "messages" if missing == "messages" else None)


def test_case_05_a_tool_message_without_a_call(bed: Bed) -> None:
    answer = bed.post({"model": "solo-0", "messages": [*user(), {"role": "tool", "tool_call_id": "x", "content": "1"}]})

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "messages.[1].role", None)


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([*user(), CALLING], "messages.[1].role", None),
        ([*user(), CALLING, *user()], "messages.[1].role", None),
        ([CALLING, {"role": "tool", "tool_call_id": "other", "content": "1"}], "messages.[1].role", None),
        ([CALLING, {"role": "tool", "content": "1"}], "messages[1].tool_call_id", MISSING),
        ([CALLING, {"role": "tool", "tool_call_id": 1, "content": "1"}], "messages[1].tool_call_id", "invalid_type"),
        ([CALLING, {"role": "tool", "tool_call_id": "call_1"}], "messages[1].content", "invalid_type"),
    ],
)  # fmt: skip
def test_case_06_tool_calls_and_results_that_do_not_pair_up(
    bed: Bed, messages: list[Body], param: str, code: str | None
) -> None:
    answer = bed.post({"model": "solo-0", "messages": messages})

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code)


def test_case_06_legal_orders_of_messages(bed: Bed) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    bad_json = {**CALL, "id": "call_2", "function": {"name": "f", "arguments": "{not json"}}
    messages = [
        {"role": "assistant", "content": "first"}, *user(), *user(), {"role": "system", "content": "late"},
        {**CALLING, "tool_calls": [CALL, bad_json]}, {**result, "tool_call_id": "call_2"}, result,
        {"role": "developer", "content": [{"type": "text", "text": ""}]}, {"role": "assistant", "content": "last"},
    ]  # fmt: skip

    assert bed.sent(messages=messages)["messages"] == messages


def test_case_07_an_unknown_key_keeps_its_values_and_number_forms(bed: Bed) -> None:
    model = bed.model()
    value = b'{"a":[1,1.0,12345678901234567890]}'

    bed.post(b'{"model":"%s","messages":[{"role":"user","content":"Hi"}],"foo":%s}' % (model.encode(), value))

    assert b'"foo":' + value in bed.last(model).body


def test_case_08_parameters_for_the_upstream_to_judge(bed: Bed) -> None:
    fields = {
        "temperature": 99, "top_p": -1, "n": 0, "stop": [""] * 9, "logit_bias": {"x": "y"}, "seed": 2**63 - 1,
        "reasoning_effort": "xhigh", "response_format": {"type": "odd"}, "parallel_tool_calls": True, "tools": [1],
    }  # fmt: skip

    body = bed.sent(**fields)

    assert {key: body[key] for key in fields} == fields


def test_case_09_both_token_limits(bed: Bed) -> None:
    body = bed.sent(max_tokens=5, max_completion_tokens=7)

    assert (body["max_tokens"], body["max_completion_tokens"]) == (5, 7)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_case_10_one_token_limit(bed: Bed, name: str) -> None:
    body = bed.sent(**{name: 0})

    assert body[name] == 0
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


def test_case_11_empty_tool_calls_in_a_replayed_message(bed: Bed) -> None:
    replayed = {"role": "assistant", "content": "Hello", "tool_calls": []}

    assert bed.sent(messages=[*user(), replayed, *user()])["messages"][1] == {"role": "assistant", "content": "Hello"}


def test_case_12_other_echoes_of_an_answer_in_a_replayed_message(bed: Bed) -> None:
    echoes: Body = {
        "audio": None, "function_call": None, "refusal": None, "annotations": [{"type": "url_citation"}],
        "parsed": {"value": 1}, "thinking_blocks": [{"thinking": "hm"}],
    }  # fmt: skip
    replayed = {**CALLING, **echoes, "tool_calls": [{"index": 0, **CALL}]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "1"}

    assert bed.sent(messages=[*user(), replayed, result])["messages"][1] == CALLING


def test_case_12_values_that_only_look_like_echoes_stay(bed: Bed) -> None:
    kept = {
        "role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a"}, "name": "x",
        "function_call": {"name": "f", "arguments": ""}, "reasoning_content": "hm", "odd": None,
    }  # fmt: skip
    asked = {"role": "user", "content": "Hi", "annotations": [1], "parsed": None, "tool_calls": []}

    assert bed.sent(messages=[asked, kept])["messages"] == [asked, kept]


def test_case_13_developer_becomes_system_where_told_so(quick: Bed) -> None:
    parts = [{"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "a"}, *user(), {"role": "developer", "content": parts, "name": "n"}]

    roles = [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]

    assert quick.sent(messages=messages)["messages"] == roles


def test_case_14_developer_stays_elsewhere(bed: Bed) -> None:
    messages = [{"role": "developer", "content": "a"}, *user()]

    assert bed.sent(messages=messages)["messages"] == messages


# Errors and retries


def test_case_51_a_rate_limit_with_a_wait(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, error(429, headers={"retry-after": "7"}))

    answer = bed.ask(model)

    assert (answer.status, answer.header("retry-after")) == (429, "7")
    assert (answer.error["code"], answer.error["type"]) == ("rate_limit_exceeded", "requests")


def test_case_53_an_overloaded_upstream(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, error(529, OVERLOADED, headers={"retry-after": "3"}))

    answer = bed.ask(model)

    assert (answer.status, answer.error["code"], answer.header("retry-after")) == (503, "overloaded", "3")
    assert answer.header("x-should-retry") is None


@pytest.mark.parametrize("stream", [False, True])
def test_case_55_too_large_in_html(bed: Bed, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, error(413, "<html><h1>413 Payload Too Large</h1></html>"))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"], answer.error["type"]) == (
        413,
        "request_too_large",
        "invalid_request_error",
    )
    assert "html" not in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": "a text"}, "a text", None),
        ({"detail": "a detail"}, "a detail", None),
        ({"object": "error", "message": "vllm", "code": 400}, "vllm", "400"),
        ({"error": {"message": "numeric", "code": 400}}, "numeric", "400"),
        ({"error": {"message": "ok", "code": "c", "more": 1}}, "ok", "c"),
        ("<html>no</html>", None, None),
        (b"", None, None),
        ([1], None, None),
        ({"error": None}, None, None),
        ({"error": {"message": {"deep": 1}}}, None, None),
    ],
    ids=str,
)
def test_case_56_every_shape_of_an_error_becomes_the_one(
    bed: Bed, body: Any, message: str | None, code: str | None
) -> None:
    model = bed.model()
    bed.a.on(model, error(400, body) if not isinstance(body, list) else json_reply(body, 400))

    answer = bed.ask(model)

    assert (answer.status, answer.error["type"], answer.error["code"]) == (400, "invalid_request_error", code)
    assert message is None or answer.error["message"] == message
    assert answer.error["message"]
    assert "html" not in answer.error["message"]


def test_case_57_a_wait_in_milliseconds(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    model = bed.model()
    bed.a.on(model, error(429, headers={"retry-after-ms": "100"}), json_reply(completion("at last")))

    assert bed.ask(model).header("retry-after-ms") == "100"
    with bed.sdk(2) as client, caplog.at_level("INFO", "openai"):
        bed.a.on(model, error(429, headers={"retry-after-ms": "100"}), json_reply(completion("at last")))
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])

    assert "in 0.100000 seconds" in caplog.text, "the SDK's own pause would be at least 0.375 s"


# Models


@pytest.mark.parametrize("path", ["a/solo-0", "a%2Fsolo-0", "solo%2D0"])
def test_case_45_a_model_by_its_path(bed: Bed, path: str) -> None:
    answer = bed.get(f"/v1/models/{path}")

    assert (answer.status, answer.json["object"]) == (200, "model")
    assert answer.json["id"] in ("a/solo-0", "solo-0")


def test_case_47_the_list_of_models(bed: Bed) -> None:
    listed = bed.get("/v1/models").json

    assert listed["object"] == "list"
    for entry in listed["data"]:
        assert isinstance(entry["id"], str)
        assert (entry["object"], type(entry["created"]), type(entry["owned_by"])) == ("model", int, str)


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT"])
def test_case_50_models_cannot_be_changed(bed: Bed, method: str) -> None:
    answer = bed.get("/v1/models/solo-0", method=method)

    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")
    assert "GET" in (answer.header("allow") or "")


def test_case_50_an_unknown_path(bed: Bed) -> None:
    answer = bed.get("/v1/modells")

    assert (answer.status, answer.error["code"], answer.error["type"]) == (404, "unknown_url", "invalid_request_error")


def test_case_50_a_chat_that_is_asked_for_with_get(bed: Bed) -> None:
    answer = bed.get("/v1/chat/completions")

    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")
