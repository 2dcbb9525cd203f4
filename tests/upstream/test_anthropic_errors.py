"""Anthropic's errors and headers, in OpenAI's words: what the tests through the gateway do not show."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from one_api.dialects import json
from one_api.errors import UpstreamError, UpstreamOverloaded
from one_api.upstream.errors import Reports
from one_api.upstream.limit_headers import claude_headers
from tests.support import claude_error_body

REPORTS = Reports("claude", select_headers=claude_headers)
KEEPING_529 = Reports("claude", keep_529=True, select_headers=claude_headers)
PAGE = Path(__file__).parents[2] / "docs/claude.md"
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

    assert facts(REPORTS.error_of_payload(payload)) == facts(REPORTS.error_of(TYPES[kind], json.encode(payload), {}))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"error":"text"}', b'{"type":"error","error":[]}', b'{"type":"error","error":{}}',
     b'{"error":{"message":"m","type":"invalid_request_error","code":400}}'],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503, 529])
def test_any_other_envelope_is_read_too(body: bytes, status: int) -> None:
    error = REPORTS.error_of(status, body, {})

    assert error.status == {401: 502, 404: 502, 500: 502, 529: 503}.get(status, status)
    assert error.message


# The page


def errors_on_the_page() -> dict[str, tuple[str, str]]:
    """What the page says becomes of each error: its status and code, and what else there is to know."""
    table = PAGE.read_text(encoding="utf-8").partition("## Errors\n\n")[2].partition("\n\n")[0]
    return {row[0]: (row[1], row[2]) for row in re.findall(r"^\| (`.*?) \| (\d.*?) \| (.*?) ?\|$", table, re.M)}


#: What an error's message says, by the words that the page has for it.
MESSAGES = {
    "": "odd",
    "the prompt is too long": "prompt is too long: 210000 tokens > 200000 maximum",
    "no credit": "Your credit balance is too low",
    "a model is closed to the account": "Your account has no access to this model.",
    "a feature or beta is closed to the account": "The long context beta is not open to your account.",
    "the model": "model: claude-nope",
    "a spend limit": "You have reached your spend limit",
}


@pytest.mark.parametrize("case", errors_on_the_page())
def test_an_error_is_told_as_the_page_says(case: str) -> None:
    kind, _, condition = case.partition(": ")
    status_and_code, remark = errors_on_the_page()[case]

    error = REPORTS.error_of_payload(claude_error_body(kind.strip("`"), MESSAGES[condition]))

    assert f"{error.status} `{error.code}`".removesuffix(" `None`") == status_and_code
    assert (error.should_retry is False) == remark.startswith("no retry")


def test_the_page_has_every_type_of_error() -> None:
    assert {re.sub("`|:.*", "", case) for case in errors_on_the_page()} == set(TYPES) - {"something_new"}


@pytest.mark.parametrize("status", [409, 418, 422])
def test_a_type_that_is_new_to_us_keeps_its_name_and_status(status: int) -> None:
    error = REPORTS.error_of(status, json.encode(claude_error_body("teapot_error")), {})

    assert (error.status, error.type, error.code) == (status, "teapot_error", None)


def test_the_status_of_an_overloaded_upstream_can_be_kept() -> None:
    payload = claude_error_body("overloaded_error", "Busy")
    kept = [
        KEEPING_529.error_of(529, json.encode(payload), {"retry-after": "3"}),
        KEEPING_529.error_of_payload(payload),
    ]

    assert [(type(error), error.status, error.code) for error in kept] == [(UpstreamOverloaded, 529, "overloaded")] * 2
    assert kept[0].retry_after_s == 3
    assert [KEEPING_529.error_of(status, b"", {}).status for status in (503, 529, 500)] == [503, 529, 502]


# Messages and headers


def test_a_key_in_a_message_is_removed() -> None:
    payload = claude_error_body("invalid_request_error", "bad key sk-ant-api03-abcdefgh")

    assert "abcdefgh" not in REPORTS.error_of_payload(payload).message


def test_limits_without_a_tokens_set_are_the_tighter_ones() -> None:
    shown = claude_headers(
        {
            "Anthropic-Ratelimit-Input-Tokens-Limit": "100",
            "Anthropic-Ratelimit-Input-Tokens-Remaining": "5",
            "anthropic-ratelimit-output-tokens-remaining": "9",
        }
    )

    assert (shown["x-ratelimit-limit-tokens"], shown["x-ratelimit-remaining-tokens"]) == ("100", "5")


@pytest.mark.parametrize(
    ("seconds", "form"), [(0.5, r"\d{1,3}ms"), (59, r"5\ds"), (361, r"(5m5\d|6m\d)s"), (-9, "0ms")]
)
def test_a_reset_is_a_time_span(seconds: float, form: str) -> None:
    moment = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    shown = claude_headers({"anthropic-ratelimit-requests-reset": moment})["x-ratelimit-reset-requests"]
    assert re.fullmatch(form, shown), shown


@pytest.mark.parametrize("value", ["", "soon", "ä", "x" * 200])
def test_a_header_that_makes_no_sense_is_left_out(value: str) -> None:
    assert "x-ratelimit-reset-requests" not in claude_headers({"anthropic-ratelimit-requests-reset": value})
