"""Errors as Anthropic's clients act on them."""

import pytest

from one_api.dialects.anthropic.inbound.errors import headers_of, status_of, to_anthropic, too_long
from one_api.errors import (
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    NoDeployment,
    RateLimited,
    RequestTooLarge,
    Unauthorized,
    UnknownModel,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "should_retry"),
    [
        (InvalidRequest("x"), 400, "invalid_request_error", None),
        (Unauthorized("x"), 401, "authentication_error", "false"),
        (Forbidden("x"), 403, "permission_error", None),
        (UnknownModel("x"), 404, "not_found_error", None),
        (RequestTooLarge("x"), 413, "request_too_large", None),
        (RateLimited("x"), 429, "rate_limit_error", None),
        (UpstreamExhausted("x"), 429, "billing_error", "false"),
        (InternalError("x"), 500, "api_error", None),
        (UpstreamFailed("x"), 502, "api_error", "false"),
        (UpstreamMisconfigured("x"), 502, "api_error", "false"),
        (UpstreamTimeout("x"), 504, "timeout_error", "false"),
        (UpstreamOverloaded("x"), 529, "overloaded_error", "false"),
        (UpstreamUnreachable("x"), 529, "overloaded_error", "false"),
        (NoDeployment("x"), 529, "overloaded_error", None),
    ],
)
def test_envelope(error: GatewayError, status: int, kind: str, should_retry: str | None) -> None:
    assert to_anthropic(error, "req_1") == {
        "type": "error",
        "error": {"type": kind, "message": "x"},
        "request_id": "req_1",
    }
    assert status_of(error) == status
    assert headers_of(error).get("x-should-retry") == should_retry


def test_a_thread_that_is_refused_says_so_where_the_sdk_looks() -> None:
    error = InvalidRequest("thread: no", code="thread_unsupported_request")

    assert to_anthropic(error, "req_1")["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_a_limit_says_when_to_come_back() -> None:
    assert headers_of(RateLimited("x", retry_after_s=3))["retry-after"] == "3"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
            "prompt is too long: 9001 tokens > 8192 maximum",
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your request has 9001 input tokens.",
            "prompt is too long: 9001 tokens > 8192 maximum",
        ),
        (
            "the request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it",
            "prompt is too long: 9001 tokens > 8192 maximum",
        ),
        (
            "maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, "
            "1000 in the completion).",
            "input length and `max_tokens` exceed context limit: 8000 + 1000 > 8192, "
            "decrease input length or `max_tokens` and try again",
        ),
        (
            "'max_tokens' is too large: 32000. This model's maximum context length is 8192 tokens and your request "
            "has 500 input tokens (32000 > 8192 - 500).",
            "input length and `max_tokens` exceed context limit: 500 + 32000 > 8192, "
            "decrease input length or `max_tokens` and try again",
        ),
        ("prompt is too long: 9001 tokens > 8192 maximum", "prompt is too long: 9001 tokens > 8192 maximum"),
        ("Too much.", "prompt is too long: Too much."),
    ],
)
def test_what_is_too_long_is_said_in_anthropics_words(said: str, expected: str) -> None:
    assert too_long(said) == expected
    error = UpstreamRejected(said, code="context_length_exceeded")
    assert to_anthropic(error, "r")["error"] == {"type": "invalid_request_error", "message": expected}
