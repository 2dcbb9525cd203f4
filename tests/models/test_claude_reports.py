"""Anthropic's errors and headers, in OpenAI's words: what the tests through the gateway do not show."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from one_api.errors import UpstreamError
from one_api.models.adapters.claude_reports import client_headers, error_of, error_of_payload
from one_api.wire import json
from tests.support import claude_error_body

TYPES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "conflict_error": 409, "request_too_large": 413, "rate_limit_error": 429,
    "api_error": 500, "timeout_error": 504, "overloaded_error": 529, "something_new": 502,
}  # fmt: skip


def facts(error: UpstreamError) -> tuple[object, ...]:
    """What a client and the attempt loop see of an error."""
    return type(error), error.status, error.type, error.code, error.param, error.message


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("message", ["odd", "model: odd", "prompt is too long", "Your credit balance is too low"])
def test_an_error_inside_a_stream_is_as_if_it_had_come_with_its_status(kind: str, message: str) -> None:
    payload = claude_error_body(kind, message)

    assert facts(error_of_payload(payload)) == facts(error_of(TYPES[kind], json.encode(payload), {}))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"error":"text"}', b'{"type":"error","error":[]}', b'{"type":"error","error":{}}',
     b'{"error":{"message":"m","type":"invalid_request_error","code":400}}'],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503, 529])
def test_any_other_envelope_is_read_too(body: bytes, status: int) -> None:
    error = error_of(status, body, {})

    assert error.status == {401: 502, 404: 502, 500: 502, 529: 503}.get(status, status)
    assert error.message


def test_a_key_in_a_message_is_removed() -> None:
    payload = claude_error_body("invalid_request_error", "bad key sk-ant-api03-abcdefgh")

    assert "abcdefgh" not in error_of_payload(payload).message


def test_limits_without_a_tokens_set_are_the_tighter_ones() -> None:
    told = client_headers(
        {
            "Anthropic-Ratelimit-Input-Tokens-Limit": "100",
            "Anthropic-Ratelimit-Input-Tokens-Remaining": "5",
            "anthropic-ratelimit-output-tokens-remaining": "9",
        }
    )

    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("100", "5")


@pytest.mark.parametrize(
    ("seconds", "form"), [(0.5, r"\d{1,3}ms"), (59, r"5\ds"), (361, r"(5m5\d|6m\d)s"), (-9, "0ms")]
)
def test_a_reset_is_a_time_span(seconds: float, form: str) -> None:
    moment = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    told = client_headers({"anthropic-ratelimit-requests-reset": moment})["x-ratelimit-reset-requests"]
    assert re.fullmatch(form, told), told


@pytest.mark.parametrize("value", ["", "soon", "ä", "x" * 200])
def test_a_header_that_makes_no_sense_is_left_out(value: str) -> None:
    assert "x-ratelimit-reset-requests" not in client_headers({"anthropic-ratelimit-requests-reset": value})
