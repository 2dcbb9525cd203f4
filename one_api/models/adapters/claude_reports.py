"""What Anthropic reports as an error, and of its limits, in the words that OpenAI's clients know."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from one_api.errors import (
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from one_api.models.adapters import reports
from one_api.models.adapters.reports import NO_CREDIT_REST_S, Reports, retry_after, scrub
from one_api.wire import json
from one_api.wire.json import JSONObject

E = TypeVar("E", bound=UpstreamError)

_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the |your )?context|context (limit|window)|too many tokens", re.I)
_NO_CREDIT = re.compile(r"credit balance|spend(ing)? (limit|cap)|usage limits? (you|set|specified)", re.I)
_SPEND_CODES = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})
_CLOSED = re.compile(r"\b(model|feature|beta)\b", re.I)
#: Where a message says that the fault is, by the name that the client knows; deeper places count differently there.
_PLACE = re.compile(r"([a-z_]+)(?:\.[\w.]+)?: ")
_PARAMS = {
    "messages": "messages", "system": "messages", "tools": "tools", "tool_choice": "tool_choice", "model": "model",
    "max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "stop_sequences": "stop",
    "thinking": "reasoning_effort", "output_config": "response_format", "metadata": "user",
    "service_tier": "service_tier",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Report:
    """An error in Anthropic's envelope, with what came around it."""

    status: int
    type: str
    message: str
    code: str | None
    retry_after_s: float | None


def error_of(status: int, body: bytes, headers: Mapping[str, str]) -> UpstreamError:
    """Return the error that a status, body and headers stand for; other envelopes are read as OpenAI's."""
    payload: JSONObject = {}
    with suppress(json.InvalidJSON):
        payload = json.decode_object(body)
    report = _read(payload, status, retry_after(headers))
    return reports.error_of(status, body, headers) if report is None else _error_of(report)


def error_of_payload(payload: JSONObject) -> UpstreamError:
    """Return the error for a report inside a stream, as if it had come with its status."""
    report = _read(payload, None, None)
    return reports.error_of_payload(payload) if report is None else _error_of(report)


def _read(payload: JSONObject, status: int | None, retry_after_s: float | None) -> _Report | None:
    error = payload.get("error")
    if payload.get("type") != "error" or not isinstance(error, dict) or not isinstance(error.get("type"), str):
        return None
    details: Any = error.get("details")
    code = (details.get("error_code") if isinstance(details, dict) else None) or error.get("error_code")
    message = error.get("message")
    return _Report(
        status if status is not None else _STATUS_OF_TYPE.get(error["type"], 502),
        error["type"][:128],
        scrub(message) if isinstance(message, str) and message else "The upstream gave no reason.",
        code[:128] if isinstance(code, str) else None,
        retry_after_s,
    )


_STATUS_OF_TYPE = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "conflict_error": 409, "request_too_large": 413, "rate_limit_error": 429,
    "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip


def _error_of(report: _Report) -> UpstreamError:
    known = ERRORS.get(report.type)
    return known(report) if known else _unknown(report)


def _invalid(report: _Report) -> UpstreamError:
    if _NO_CREDIT.search(report.message):
        return _no_credit(report)
    if _TOO_LONG.search(report.message):
        return UpstreamRejected(report.message, param="messages", code="context_length_exceeded")
    place = _PLACE.match(report.message)
    param = _PARAMS.get(place[1]) if place else None
    return UpstreamRejected(report.message, param=param, code=report.code)


def _no_credit(_: _Report) -> UpstreamError:
    """The operator's account is empty: the client can do nothing, and must not try again."""
    message = "The gateway's account at the upstream has no credit left: its operator has to add some."
    error = UpstreamExhausted(message, code="insufficient_quota", retry_after_s=NO_CREDIT_REST_S)
    return _told_as(error, 429, "insufficient_quota")


def _credential(_: _Report) -> UpstreamError:
    return UpstreamMisconfigured("The upstream refused this gateway's credential.")


def _permission(report: _Report) -> UpstreamError:
    if not _CLOSED.search(report.message):
        return _credential(report)
    error = _told_as(UpstreamMisconfigured(report.message), 403, "permission_error")
    error.code = report.code  # its own, or none
    return error


def _not_found(report: _Report) -> UpstreamError:
    if "model" not in report.message:
        return UpstreamMisconfigured("The upstream does not know this address.", code="upstream_error")
    error = UpstreamMisconfigured(report.message, param="model", code="model_not_found")
    return _told_as(error, 404, "invalid_request_error")


def _too_large(report: _Report) -> UpstreamError:
    return UpstreamRejected(report.message, status=413, code="request_too_large")


def _rate_limited(report: _Report) -> UpstreamError:
    spent = report.retry_after_s is None and _NO_CREDIT.search(report.message)
    if report.code in _SPEND_CODES or spent:
        return _no_credit(report)
    error = UpstreamRateLimited(report.message, retry_after_s=report.retry_after_s)
    error.type = "tokens" if "token" in report.message.lower() else "requests"
    return error


def _overloaded(report: _Report) -> UpstreamError:
    return UpstreamOverloaded(report.message, retry_after_s=report.retry_after_s)


def _unknown(report: _Report) -> UpstreamError:
    """Keep the status and the type of an error that is new to us."""
    if report.status in (429, 503, 529):
        return _rate_limited(report) if report.status == 429 else _overloaded(report)
    if report.status == 401:
        return _credential(report)
    if 400 <= report.status < 500:
        return UpstreamRejected(report.message, status=report.status, type=report.type, code=report.code)
    return UpstreamFailed(report.message)


#: The types that we know. Any other is told by its status.
ERRORS: dict[str, Callable[[_Report], UpstreamError]] = {
    "invalid_request_error": _invalid,
    "authentication_error": _credential,
    "billing_error": _no_credit,
    "permission_error": _permission,
    "not_found_error": _not_found,
    "conflict_error": lambda report: _told_as(UpstreamFailed(report.message), 409, "conflict_error"),
    "request_too_large": _too_large,
    "rate_limit_error": _rate_limited,
    "api_error": lambda report: UpstreamFailed(report.message),
    "timeout_error": lambda report: UpstreamTimeout(report.message),
    "overloaded_error": _overloaded,
}


def _told_as(error: E, status: int, kind: str) -> E:
    """Give an error the status and the type that clients are to see."""
    error.status, error.type = status, kind
    return error


# Headers


_LIMIT = "anthropic-ratelimit-"
#: A header longer than this is none of theirs.
_LONGEST = 128


def client_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a client may see of a response's headers: limits, also in OpenAI's names, and the request's id."""
    own = {name.lower(): value for name, value in headers.items() if len(value) <= _LONGEST and value.isascii()}
    found = {name: value for name, value in own.items() if name.startswith(_LIMIT)}
    for kind, told in (("requests", "requests"), (_tighter(own), "tokens")):
        for what in ("limit", "remaining", "reset"):
            value = own.get(f"{_LIMIT}{kind}-{what}")
            if value and (value := _until(value) if what == "reset" else value):
                found[f"x-ratelimit-{what}-{told}"] = value
    if "request-id" in own:
        found["x-upstream-request-id"] = own["request-id"]
    return found


def _tighter(headers: Mapping[str, str]) -> str:
    """Return which token limit is nearest: the one for all tokens, or that of which the least remains."""
    if f"{_LIMIT}tokens-remaining" in headers:
        return "tokens"
    left: dict[str, int] = {}
    for kind in ("input-tokens", "output-tokens"):
        with suppress(KeyError, ValueError):
            left[kind] = int(headers[f"{_LIMIT}{kind}-remaining"])
    return min(left, key=lambda kind: left[kind], default="tokens")


def _until(moment: str) -> str | None:
    """Return the time until a moment (RFC 3339) the way OpenAI writes it; None when it is no moment."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    seconds = max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time())
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


CLAUDE_REPORTS = Reports(error_of, error_of_payload, client_headers)
#: The same, with the status that an overloaded upstream gives.
KEEPING_529 = Reports(
    lambda status, body, headers: _kept(error_of(status, body, headers), status),
    lambda payload: _kept(error_of_payload(payload), 529),
    client_headers,
)


def _kept(error: UpstreamError, status: int) -> UpstreamError:
    """Give an overloaded upstream's error the status that it came with."""
    return _told_as(error, status, error.type) if isinstance(error, UpstreamOverloaded) else error
