"""What an upstream reports as an error, in any of the shapes seen, as one of our classes."""

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from one_api.errors import (
    MESSAGE_LIMIT,
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
)
from one_api.wire import json
from one_api.wire.json import JSONObject

#: The longest wait that is taken over from an upstream, in seconds.
_LONGEST_REST_S = 300.0
#: How long an upstream without credit is left alone, in seconds.
NO_CREDIT_REST_S = 300.0
#: What upstreams call it in the type or code of a 429.
_NO_CREDIT = frozenset({"insufficient_quota", "enforced_spend_limit_reached", "contract_spend_limit_reached"})


def error_of(status: int, body: bytes, headers: Mapping[str, str]) -> UpstreamError:
    """Return the error that an upstream's status, body and headers stand for."""
    payload: JSONObject = {}
    with suppress(json.InvalidJSON):
        payload = json.decode_object(body)
    report = _Report(payload)
    if status in (429, 529, 503):
        rest_s = retry_after(headers)
        if status != 429:
            return UpstreamOverloaded(report.message or "The upstream is overloaded.", retry_after_s=rest_s)
        if _NO_CREDIT & {report.code, report.type}:
            return UpstreamExhausted("The upstream's quota is used up.", retry_after_s=NO_CREDIT_REST_S)
        return UpstreamRateLimited(report.message or "The upstream's rate limit is reached.", retry_after_s=rest_s)
    if status == 402:
        return UpstreamExhausted("The upstream asks for payment.", retry_after_s=NO_CREDIT_REST_S)
    if status in (401, 403):
        return UpstreamMisconfigured("The upstream refused this gateway's credential.")
    if status == 404:
        return UpstreamMisconfigured("The upstream does not know this model or address.", code="upstream_error")
    if status in (400, 413, 422):
        code = "request_too_large" if status == 413 and not report.code else report.code
        message = report.message or "The upstream refused the request."
        return UpstreamRejected(message, status=status, type=report.type, param=report.param, code=code)
    if 300 <= status < 400:
        return UpstreamRedirected("The upstream answered with a redirect, which is never followed.")
    if status in (408, 504):
        return UpstreamTimeout("The upstream timed out.")
    return UpstreamFailed(f"The upstream failed with status {status}.")


def error_of_payload(payload: JSONObject) -> UpstreamError:
    """Return the error for a report that came with status 200, or inside a stream."""
    report = _Report(payload)
    status = int(report.code) if report.code and report.code.isdigit() and 400 <= int(report.code) <= 599 else None
    if status is None:
        status = _STATUS_OF_TYPE.get(report.type or "", 502)
    return error_of(status, json.encode(payload), {})


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "requests": 429,
    "tokens": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
}


class _Report:
    """The parts of an error body, whichever of the shapes seen it has."""

    def __init__(self, payload: JSONObject) -> None:
        error: Any = payload.get("error", payload)
        if not isinstance(error, dict):
            error = {"message": error}
        message = error.get("message") or payload.get("message") or payload.get("detail")
        self.message = scrub(message) if isinstance(message, str) else None
        self.type = _short(error.get("type"))
        self.param = _short(error.get("param"))
        self.code = _short(error.get("code"))
        if self.code == "exceed_context_size_error" or self.type == "exceed_context_size_error":
            self.type, self.code, self.param = "invalid_request_error", "context_length_exceeded", "messages"


def _short(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value[:128] if isinstance(value, str) else None


_KEY_LIKE = re.compile(r"\b(?:(?:sk|pk|rk|key|xai|gsk)[-_]|AIza)[-_A-Za-z0-9*]{6,}|(?i:bearer)\s+\S+")


def scrub(text: str) -> str:
    """Return an upstream's text without what looks like a key, and not longer than we pass on."""
    return _KEY_LIKE.sub("[removed]", text[:MESSAGE_LIMIT])


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long an upstream asks us to wait, in seconds, at most 300; None when it does not say."""
    with suppress(ValueError, KeyError):
        return _plausible(float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return _plausible(float(value))
    with suppress(ValueError, TypeError):
        return _plausible(email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _plausible(seconds: float) -> float | None:
    """Keep a plausible wait; one that is over is a second, and NaN is none."""
    if math.isnan(seconds):
        return None
    return min(seconds, _LONGEST_REST_S) if seconds > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Reports:
    """How one dialect tells of what went wrong, and which of its response headers clients may see."""

    error_of: Callable[[int, bytes, Mapping[str, str]], UpstreamError] = error_of
    error_of_payload: Callable[[JSONObject], UpstreamError] = error_of_payload
    client_headers: Callable[[Mapping[str, str]], dict[str, str]] = lambda _: {}


OPENAI_REPORTS = Reports()
