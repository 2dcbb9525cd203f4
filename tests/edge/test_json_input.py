"""Bodies that are no JSON, no object, or no chat request."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import Gateway, RawClient, ScriptedUpstream, build_request, post_chat

USER = {"role": "user", "content": "x"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": ""}
TOOL = {"type": "function", "function": {"name": "f"}}

NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \n",
    "cut short": b'{"model":',
    "an array": b"[]",
    "a string": b'"x"',
    "a number": b"1",
    "null": b"null",
    "NaN": b'{"model": "m", "x": NaN}',
    "Infinity": b'{"model": "m", "x": Infinity}',
    "minus Infinity": b'{"model": "m", "x": -Infinity}',
    "beyond a double": b'{"model": "m", "x": 1e400}',
    "an integer of 5000 digits": b'{"model": "m", "x": ' + b"1" * 5000 + b"}",
    "leading zero": b'{"x": 01}',
    "plus sign": b'{"x": +1}',
    "hexadecimal": b'{"x": 0x10}',
    "single quotes": b"{'model': 'm'}",
    "comment": b'{"model": "m" /* x */}',
    "trailing comma": b'{"model": "m",}',
    "missing comma": b'{"a": 1 "b": 2}',
    "no value": b'{"a"}',
    "bare key": b"{a: 1}",
    "two values": b'{"model": "m"} {"model": "m"}',
    "trailing bytes": b'{"model": "m"}x',
    "a trailing NUL": b'{"model": "m"}\x00',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a reversed surrogate pair": b'{"model": "\\udc00\\ud800"}',
    "a bad escape": b'{"model": "\\x41"}',
    "a control character": b'{"model": "a\nb"}',
    "a byte-order mark": b'\xef\xbb\xbf{"model": "m"}',
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model": "m"}'.encode("utf-16-le"),
    "UTF-32": '{"model": "m"}'.encode("utf-32"),
    "Latin-1": '{"model": "é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"model": "\xc0\xaf"}',
    "UTF-8 surrogates": b'{"model": "\xed\xa0\x80"}',
    "nested 65 deep": b'{"x": ' + b"[" * 64 + b"]" * 64 + b"}",
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "100,000 brackets left open": b"[" * 100_000,
    "objects left open": b'{"a":' * 50_000,
    "millions of empty objects": b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "z": ['
    + b"{}," * 10_000_000
    + b"{}]}",
    "millions of empty arrays": b"[" + b"[]," * 10_000_000 + b"[]]",
    "millions of numbers": b'{"z": [' + b"1.5," * 8_000_000 + b"1]}",
    "more keys than anyone needs": b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "metadata": {'
    + b",".join(b'"%d": 1' % i for i in range(100_001))
    + b"}}",
}


def chat(**changes: Any) -> dict[str, Any]:
    """Return a chat request with changes; None takes a field away."""
    return {key: value for key, value in {"model": "m", "messages": [USER], **changes}.items() if value is not ...}


#: name -> (body, status, param, code): the marked rows of OpenAI's behaviour
INVALID: dict[str, tuple[Any, int, str | None, str | None]] = {
    "no model": (chat(model=...), 400, None, None),
    "empty model": (chat(model=""), 400, None, None),
    "null model": (chat(model=None), 400, None, None),
    "model is a number": (chat(model=1), 400, "model", "invalid_type"),
    "model is an array": (chat(model=["m"]), 400, "model", "invalid_type"),
    "unknown model": (chat(model="nope"), 404, None, "model_not_found"),
    "unknown model with a slash": (chat(model="a/nope"), 404, None, "model_not_found"),
    "a model id of 100 kB": (chat(model="x" * 100_000), 404, None, "model_not_found"),
    "no messages": (chat(messages=...), 400, "messages", "missing_required_parameter"),
    "null messages": (chat(messages=None), 400, "messages", "missing_required_parameter"),
    "messages is an object": (chat(messages={}), 400, "messages", "invalid_type"),
    "messages is a string": (chat(messages="x"), 400, "messages", "invalid_type"),
    "empty messages": (chat(messages=[]), 400, "messages", "empty_array"),
    "a message is a string": (chat(messages=["x"]), 400, "messages[0]", "invalid_type"),
    "no role": (chat(messages=[{"content": "x"}]), 400, "messages[0].role", "missing_required_parameter"),
    "role is an array": (chat(messages=[{"role": [], "content": "x"}]), 400, "messages[0].role", "invalid_type"),
    "unknown role": (chat(messages=[USER, {"role": "elf", "content": ""}]), 400, "messages[1].role", "invalid_value"),
    "no content": (chat(messages=[{"role": "user"}]), 400, "messages[0].content", "invalid_type"),
    "null content": (chat(messages=[{"role": "system", "content": None}]), 400, "messages[0].content", "invalid_type"),
    "numeric content": (chat(messages=[{"role": "user", "content": 1}]), 400, "messages[0].content", "invalid_type"),
    "a part is a string": (
        chat(messages=[{"role": "user", "content": ["x"]}]), 400, "messages[0].content[0]", "invalid_type",
    ),
    "unknown part": (
        chat(messages=[{"role": "user", "content": [{"type": "smell"}]}]),
        400, "messages[0].content[0].type", "invalid_value",
    ),
    "part without type": (
        chat(messages=[{"role": "user", "content": [{"text": "x"}]}]),
        400, "messages[0].content[0].type", "invalid_value",
    ),
    "a tool message without a call": (
        chat(messages=[USER, {"role": "tool", "tool_call_id": "c1", "content": "x"}]), 400, "messages.[1].role", None,
    ),
    "a tool message for another call": (
        chat(messages=[{"role": "assistant", "tool_calls": [CALL]}, {**RESULT, "tool_call_id": "c2"}]),
        400, "messages.[1].role", None,
    ),
    "a call left unanswered": (
        chat(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}, USER]), 400, "messages.[1].role", None,
    ),
    "a call unanswered at the end": (
        chat(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}]), 400, "messages.[1].role", None,
    ),
    "no tool_call_id": (
        chat(messages=[{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}]),
        400, "messages[1].tool_call_id", "missing_required_parameter",
    ),
    "stream is a string": (chat(stream="yes"), 400, "stream", "invalid_type"),
    "stream_options without stream": (chat(stream_options={"include_usage": True}), 400, "stream_options", None),
    "stream_options is an array": (chat(stream=True, stream_options=[]), 400, "stream_options", "invalid_type"),
    "tools is an object": (chat(tools={}), 400, "tools", "invalid_type"),
    "tool_choice without tools": (chat(tool_choice="auto"), 400, "tool_choice", None),
}  # fmt: skip

ODD_BUT_LEGAL: dict[str, Any] = {
    "duplicate keys: the last wins": b'{"model": "nope", "model": "m", "messages": [{"role": "user", "content": "x"}]}',
    "64 levels": b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 63 + b"]" * 63 + b"}",
    "python's own names": chat(self=1, cls=2, kwargs={"a": 1}, args=[]),
    "a key that is empty": chat(**{"": 1}),
    "an integer beyond 64 bits": chat(seed=2**70),
    "broken arguments in history": chat(
        messages=[{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": ""}]
    ),
    "system anywhere": chat(messages=[USER, {"role": "system", "content": "x"}, USER]),
    "the last message is the assistant's": chat(messages=[USER, {"role": "assistant", "content": "x"}]),
    "nulls": chat(stream=None, stream_options=None, tools=None, tool_choice=None, temperature=None),
    "tools and a choice": chat(tools=[TOOL], tool_choice="auto"),
}


@pytest.fixture
def answer(gateway: Gateway, upstream: ScriptedUpstream) -> Callable[[Any], tuple[int, Any, int]]:
    """Return a function that sends a body and returns status, answer, and how many upstream calls it caused."""

    def send(body: Any) -> tuple[int, Any, int]:
        before = len(upstream.requests)
        with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
            client.send(post_chat(gateway.host, gateway.port, body))
            response = client.read_response()
        return response.status, response.json, len(upstream.requests) - before

    return send


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_object_is_400(name: str, answer: Callable[[Any], tuple[int, Any, int]]) -> None:
    status, body, calls = answer(NOT_JSON[name])
    error = body["error"]
    assert (status, error["type"], error["param"], error["code"], calls) == (
        400,
        "invalid_request_error",
        None,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "has no body: send a JSON object"), (b"\xef\xbb\xbf{}", "begins with a byte-order mark")],
    ids=["none", "a byte-order mark"],
)
def test_a_slip_has_its_own_words(answer: Callable[[Any], tuple[int, Any, int]], body: bytes, words: str) -> None:
    assert words in answer(body)[1]["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"])
def test_a_wrong_method_is_told_the_right_one(gateway: Gateway, path: str) -> None:
    headers = [("Authorization", "Bearer test-key")]
    with RawClient(gateway.host, gateway.port) as client:
        client.send(build_request("GET", path, gateway.host, gateway.port, headers=headers))
        response = client.read_response()
    assert (response.status, response.headers.first("allow")) == (405, "POST")
    assert response.json["error"]["message"] == f"GET {path} is not allowed: use POST."


@pytest.mark.parametrize("name", INVALID)
def test_what_is_no_chat_request_is_refused_as_openai_does(
    name: str, answer: Callable[[Any], tuple[int, Any, int]]
) -> None:
    wanted, status, param, code = INVALID[name]
    got, body, calls = answer(wanted)
    error = body["error"]
    assert (got, error["type"], error["param"], error["code"], calls) == (
        status,
        "invalid_request_error",
        param,
        code,
        0,
    )


@pytest.mark.parametrize("name", ODD_BUT_LEGAL)
def test_what_is_odd_but_legal_goes_through(name: str, answer: Callable[[Any], tuple[int, Any, int]]) -> None:
    status, body, calls = answer(ODD_BUT_LEGAL[name])
    assert (status, calls) == (200, 1), body


def test_a_body_in_one_byte_pieces_is_the_same_body(gateway: Gateway) -> None:
    request = build_request("GET", "/health", gateway.host, gateway.port)
    with RawClient(gateway.host, gateway.port) as client:
        for byte in request:
            client.send(bytes([byte]))
        assert client.read_response().status == 200
