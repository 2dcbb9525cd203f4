"""The error tree: what each class tells the client, and what it tells the attempt loop."""

import inspect
import json
import re

import pytest

from one_api import errors
from one_api.errors import GatewayError, UpstreamError, UpstreamRejected

#: Class -> status, type, code, and x-should-retry when it is fixed.
TABLE: dict[str, tuple[int, str, str | None, bool | None]] = {
    "GatewayError": (500, "server_error", None, None),
    "InvalidRequest": (400, "invalid_request_error", None, None),
    "Unauthorized": (401, "invalid_request_error", "invalid_api_key", None),
    "Forbidden": (403, "permission_error", None, None),
    "UnknownModel": (404, "invalid_request_error", "model_not_found", None),
    "UnknownPath": (404, "invalid_request_error", "unknown_url", None),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_supported", None),
    "RequestTimeout": (408, "invalid_request_error", "request_timeout", None),
    "RequestTooLarge": (413, "invalid_request_error", "request_too_large", None),
    "UnsupportedMediaType": (415, "invalid_request_error", "unsupported_media_type", None),
    "RateLimited": (429, "requests", "rate_limit_exceeded", None),
    "BudgetExceeded": (429, "insufficient_quota", "budget_exceeded", False),
    "InternalError": (500, "server_error", "internal_error", None),
    "AccountsUnavailable": (503, "server_error", "accounts_unavailable", None),
    "Unpriced": (503, "server_error", "unpriced", False),
    "NoDeployment": (503, "server_error", "no_backend_available", None),
    "ShuttingDown": (503, "server_error", "server_shutdown", None),
    "ClientTooSlow": (503, "server_error", "client_too_slow", None),
    "UpstreamError": (502, "server_error", "upstream_error", None),
    "UpstreamRejected": (400, "invalid_request_error", None, None),
    "UpstreamUnsuitable": (400, "invalid_request_error", None, None),
    "UpstreamMisconfigured": (502, "server_error", "upstream_authentication_error", False),
    "UpstreamClosed": (403, "permission_error", None, False),
    "UpstreamExhausted": (503, "server_error", "upstream_quota_exhausted", False),
    "UpstreamRateLimited": (429, "requests", "rate_limit_exceeded", None),
    "UpstreamUnreachable": (502, "server_error", "upstream_error", None),
    "UpstreamFailed": (502, "server_error", "upstream_error", None),
    "UpstreamRedirected": (502, "server_error", "upstream_redirect", None),
    "UpstreamOverloaded": (503, "server_error", "overloaded", None),
    "UpstreamTimeout": (504, "server_error", "upstream_timeout", None),
    "UpstreamBroken": (502, "server_error", "upstream_invalid_response", None),
    "UpstreamTruncated": (502, "server_error", "upstream_stream_truncated", None),
    "OutOfDescriptors": (503, "server_error", "gateway_overloaded", None),
    "UpstreamUnfit": (502, "server_error", "upstream_invalid_json", None),
}
#: Class -> may the same deployment be asked again, may another, how long does this one cool down, does it count.
RULES: dict[str, tuple[bool, bool, float, bool]] = {
    "UpstreamRejected": (False, False, 0, False),
    "UpstreamUnsuitable": (False, True, 0, False),
    "UpstreamMisconfigured": (False, True, 1800, False),
    "UpstreamClosed": (False, True, 1800, False),
    "UpstreamExhausted": (False, True, 300, False),
    "UpstreamRateLimited": (True, True, 5, False),
    "UpstreamUnreachable": (False, True, 0, True),
    "UpstreamFailed": (True, True, 0, True),
    "UpstreamRedirected": (False, True, 0, True),
    "UpstreamOverloaded": (True, True, 0, True),
    "UpstreamTimeout": (False, True, 0, True),
    "UpstreamBroken": (False, True, 0, True),
    "UpstreamTruncated": (True, True, 0, True),
    "UpstreamUnfit": (False, True, 0, False),
    "OutOfDescriptors": (False, False, 0, False),
}
CLASSES: dict[str, type[GatewayError]] = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, GatewayError) and found.__module__ == errors.__name__
}
EVERY_CLASS = pytest.mark.parametrize("name", CLASSES)


def headers(retry_after_s: float) -> dict[str, str]:
    """The headers of an error that may be tried again after that time."""
    return GatewayError("No.", retry_after_s=retry_after_s).headers()


def test_the_tables_hold_every_class() -> None:
    assert set(TABLE) == set(CLASSES)
    assert set(RULES) == {name for name in CLASSES if issubclass(CLASSES[name], UpstreamError)} - {"UpstreamError"}


@EVERY_CLASS
def test_a_class_has_its_status_type_and_code(name: str) -> None:
    error = CLASSES[name]("No.")

    assert (error.status, error.type, error.code, error.should_retry) == TABLE[name]


@pytest.mark.parametrize("name", RULES)
def test_an_upstream_error_carries_its_rule(name: str) -> None:
    error = CLASSES[name]("No.")

    assert isinstance(error, UpstreamError)
    assert (error.retry_same, error.retry_elsewhere, error.cooldown_s, error.counts_as_failure) == RULES[name]


@pytest.mark.parametrize("name", RULES)
def test_the_wait_that_an_upstream_asks_for_is_its_cool_down(name: str) -> None:
    error = CLASSES[name]("No.", retry_after_s=7)

    assert isinstance(error, UpstreamError)
    assert error.cooldown_s == 7


@EVERY_CLASS
def test_what_differs_from_the_class_goes_into_the_constructor(name: str) -> None:
    error = CLASSES[name]("No.", status=418, type="own_type", param="tools", code="own_code")

    assert (error.status, error.type, error.param, error.code) == (418, "own_type", "tools", "own_code")
    assert (CLASSES[name]("No.").status, CLASSES[name]("No.").type) == TABLE[name][:2]


def test_the_drawing_shows_every_class_under_its_parent() -> None:
    above: dict[int, str] = {}
    for indent, name in re.findall(r"^([│├└─ ]*)([A-Z]\w+)(?: .*)?$", _drawing(), re.MULTILINE):
        above[len(indent)] = name
        if indent:
            assert CLASSES[name].__base__ is CLASSES[above[len(indent) - 4]]
    assert re.findall(r"^[│├└─ ]*([A-Z]\w+)", _drawing(), re.MULTILINE) == list(CLASSES)


def test_the_drawing_shows_the_status_and_code_of_each_class() -> None:
    for name, status, text in re.findall(r"([A-Z]\w+) +(\d{3}) *(.*)$", _drawing(), re.MULTILINE):
        assert int(status) == TABLE[name][0]
        code = re.match(r"[a-z]+_[a-z_]+|overloaded|unpriced", text)
        assert (code and code[0]) == TABLE[name][2]


def _drawing() -> str:
    """The tree in the docstring, without its head."""
    return (errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]


# Bodies


@EVERY_CLASS
def test_every_body_has_all_four_keys(name: str) -> None:
    body = CLASSES[name]("What to do.").to_openai()

    assert list(body) == ["error"]
    assert body["error"] == {"message": "What to do.", "type": TABLE[name][1], "param": None, "code": TABLE[name][2]}
    assert json.loads(json.dumps(body)) == body


@EVERY_CLASS
def test_param_and_code_are_told(name: str) -> None:
    error = CLASSES[name]("No.", param="messages[0]", code="own_code")

    assert (error.to_openai()["error"]["param"], error.to_openai()["error"]["code"]) == ("messages[0]", "own_code")
    assert CLASSES[name]("No.").code == TABLE[name][2]
    assert str(error) == "No."


def test_a_rejection_tells_what_the_upstream_said() -> None:
    error = UpstreamRejected("Too long.", status=413, type="tokens", param="messages", code="too_long")

    assert (error.status, error.headers()) == (413, {})
    assert error.to_openai() == {
        "error": {"message": "Too long.", "type": "tokens", "param": "messages", "code": "too_long"}
    }


# Headers


@EVERY_CLASS
def test_a_header_has_a_reason(name: str) -> None:
    status, _, _, fixed = TABLE[name]
    expected = {"retry-after": "1"} if status in (429, 503) else {}

    assert CLASSES[name]("No.").headers() == (expected if fixed is None else {"x-should-retry": str(fixed).lower()})


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, "1"), (1.0, "1"), (1.001, "2"), (7, "7"), (59.5, "60"), (300, "300"), (0.999, "1"), (0, "1"), (-5, "1")],
)
def test_retry_after_is_a_whole_number_of_seconds_and_at_least_one(seconds: float, expected: str) -> None:
    assert headers(seconds)["retry-after"] == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, "100"), (0.9991, "1000"), (0.0001, "1"), (0, "1"), (-5, "1")])
def test_below_a_second_the_milliseconds_are_told_too(seconds: float, expected: str) -> None:
    assert headers(seconds) == {"retry-after": "1", "retry-after-ms": expected}


@pytest.mark.parametrize("seconds", [1, 1.5, 300])
def test_from_a_second_on_they_are_not(seconds: float) -> None:
    assert "retry-after-ms" not in headers(seconds)


@pytest.mark.parametrize(("should", "expected"), [(True, "true"), (False, "false")])
def test_should_retry_is_told_when_it_is_known(should: bool, expected: str) -> None:
    error = GatewayError("No.", retry_after_s=2)
    error.should_retry = should

    assert error.headers() == {"retry-after": "2", "x-should-retry": expected}
