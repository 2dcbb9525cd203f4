"""Thousands of requests that nobody thought of: none is answered with 500, and none that is refused goes upstream."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import Gateway, RawClient, ScriptedUpstream, build_request, post_chat
from tests.support.description import described_operations
from tests.support.examples import examples

MANY: dict[str, Any] = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "tool", "assistant", "system", "text", "image_url", "m", "", "a/m", "auto", "required"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
CALLS = st.lists(
    st.fixed_dictionaries({}, optional={"id": VALUES, "type": VALUES, "function": VALUES, "index": VALUES}) | VALUES,
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "tool", "system", "developer", "function"]) | VALUES,
            "content": st.text(max_size=10)
            | st.lists(
                st.fixed_dictionaries({"type": st.sampled_from(["text", "file"]) | VALUES, "text": VALUES}), max_size=3
            )
            | VALUES,
            "tool_calls": CALLS | VALUES,
            "tool_call_id": VALUES,
            "name": VALUES,
        },
    )
    | VALUES,
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("m") | VALUES,
        "messages": MESSAGES | VALUES,
        "stream": st.booleans() | VALUES,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": VALUES}) | VALUES,
        "tools": VALUES,
        "tool_choice": VALUES,
        "temperature": VALUES,
        "top_p": VALUES,
        "max_tokens": VALUES,
        "n": VALUES,
        "self": VALUES,
        "metadata": VALUES,
    },
)


@pytest.fixture
def ask(gateway: Gateway, upstream: ScriptedUpstream) -> Callable[[bytes], int]:
    """Return a function that sends bytes, checks what must hold for every answer, and returns the status."""

    def send(request: bytes) -> int:
        before = len(upstream.requests)
        with RawClient(gateway.host, gateway.port) as client:
            client.send(request)
            response = client.read_response()
        assert response.status < 500, response.body
        if response.status >= 400:
            assert set(response.json["error"]) == {"message", "type", "param", "code"}
            assert len(upstream.requests) == before, "a refused request reached the upstream"
        return response.status

    return send


@settings(max_examples=examples(2000), **MANY)
@given(body=BODIES)
def test_any_json_body(body: dict[str, Any], ask: Callable[[bytes], int], gateway: Gateway) -> None:
    payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert ask(post_chat(gateway.host, gateway.port, payload)) in (200, 400, 404)


@settings(max_examples=examples(1200), **MANY)
@given(
    body=st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0123456789eE+-. \nnultrfas', max_size=80).map(str.encode)
)
def test_any_bytes_as_a_body(body: bytes, ask: Callable[[bytes], int], gateway: Gateway) -> None:
    assert ask(post_chat(gateway.host, gateway.port, body)) == 400


TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system"]) | VALUES,
            "content": st.text(max_size=10)
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "type": st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "thinking"])
                        | VALUES
                    },
                    optional={
                        "text": VALUES,
                        "source": VALUES | st.fixed_dictionaries({"type": st.just("base64"), "data": VALUES}),
                        "id": VALUES,
                        "name": VALUES,
                        "input": VALUES,
                        "tool_use_id": VALUES,
                        "content": VALUES,
                        "signature": VALUES,
                    },
                ),
                max_size=3,
            )
            | VALUES,
        },
    )
    | VALUES,
    max_size=4,
)
ANTHROPIC_BODIES = st.fixed_dictionaries(
    {"model": st.just("m") | VALUES, "max_tokens": st.integers(0, 100) | VALUES, "messages": TURNS | VALUES},
    optional={
        "stream": st.booleans() | VALUES,
        "system": st.text(max_size=10) | VALUES,
        "tools": st.lists(st.fixed_dictionaries({"name": VALUES}, optional={"type": VALUES}), max_size=2) | VALUES,
        "tool_choice": VALUES,
        "thinking": VALUES,
        "output_config": VALUES,
        "metadata": VALUES,
        "stop_sequences": VALUES,
    },
)


@settings(max_examples=examples(1500), **MANY)
@given(body=ANTHROPIC_BODIES)
def test_any_body_in_anthropics_dialect(body: dict[str, Any], gateway: Gateway, upstream: ScriptedUpstream) -> None:
    payload, before = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"), len(upstream.requests)
    headers = [("Content-Type", "application/json"), ("Authorization", "Bearer test-key")]
    with RawClient(gateway.host, gateway.port) as client:
        client.send(build_request("POST", "/v1/messages", gateway.host, gateway.port, headers=headers, body=payload))
        response = client.read_response()
    assert response.status in (200, 400, 404), response.body
    if response.status >= 400:
        assert response.json.keys() == {"type", "error", "request_id"}
        assert len(upstream.requests) == before, "a refused request reached the upstream"


#: What the doors beside chat look at, and what passes through.
DOOR_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("m") | VALUES,
        "input": st.just("hello")
        | st.lists(st.text(min_size=1), max_size=3)
        | st.lists(st.integers(), max_size=3)
        | VALUES,
        "encoding_format": st.sampled_from(["float", "base64", None]) | VALUES,
        "dimensions": st.integers(-1, 3) | VALUES,
        "prompt": VALUES,
        "n": VALUES,
        "stream": st.booleans() | VALUES,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": VALUES}) | VALUES,
        "documents": VALUES,
    },
)
JSON_DOORS = [
    "/v1/embeddings", "/v1/completions", "/v1/moderations", "/v1/images/generations", "/v1/audio/speech", "/v1/rerank",
]  # fmt: skip


def post(gateway: Gateway, path: str, body: bytes, kind: str = "application/json") -> bytes:
    """A request to any door."""
    headers = {"Content-Type": kind, "Authorization": "Bearer test-key"}
    return build_request("POST", path, gateway.host, gateway.port, headers=headers, body=body)


@pytest.mark.parametrize("path", JSON_DOORS)
@settings(max_examples=examples(1000), **MANY)
@given(body=DOOR_BODIES)
def test_any_json_body_at_the_other_doors(
    path: str, body: dict[str, Any], ask: Callable[[bytes], int], gateway: Gateway
) -> None:
    payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert ask(post(gateway, path, payload)) in (200, 400, 404)


@settings(max_examples=examples(1000), **MANY)
@given(body=st.binary(max_size=200) | st.text(alphabet='-xYz\r\n:;="mdelfornContDispsi', max_size=200).map(str.encode))
def test_any_bytes_as_a_form(body: bytes, ask: Callable[[bytes], int], gateway: Gateway) -> None:
    kind = "multipart/form-data; boundary=xYz"
    assert ask(post(gateway, "/v1/audio/transcriptions", b"--xYz\r\n" + body, kind)) in (400, 404)


HEADER_BYTES = st.binary(min_size=1, max_size=30).filter(lambda value: b"\r" not in value and b"\n" not in value)


@settings(max_examples=examples(1200), **MANY)
@given(
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"get"]) | HEADER_BYTES,
    path=st.sampled_from([b"/v1/models", b"/v1/models/%2e%2e", b"/health", b"/v1/chat/completions", b"*", b"/"])
    | HEADER_BYTES,
    fields=st.lists(st.tuples(HEADER_BYTES, HEADER_BYTES), max_size=4),
)
def test_any_head(gateway: Gateway, method: bytes, path: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    request = b"\r\n".join([*lines, *(name + b": " + value for name, value in fields), b"", b""])
    with RawClient(gateway.host, gateway.port) as client:
        client.send(request)
        assert client.read_head().status < 500


def test_the_api_keeps_to_its_description(gateway: Gateway) -> None:
    # Only here, so that no process but the one of this test imports it.
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = described_operations(gateway.url)
    assert len(operations) == 26  # the description itself is left out
    for operation in operations:

        @settings(max_examples=examples(100) // 5, **MANY)
        @given(case=operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers={"Authorization": "Bearer test-key"}, checks=checks)

        check()
