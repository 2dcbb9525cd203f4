"""The headers that every answer carries, whatever its door."""

import math
import string
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from flask import Response

from one_api.accounts.money import dollars
from one_api.dialects import durations
from one_api.dialects.parameter_names import in_messages, in_responses
from one_api.records import CallRecord
from one_api.serving.current import current_globals, current_request
from one_api.serving.request_body import RequestBody
from one_api.serving.responses import add_headers, has_header

#: What a model's name may bring into a header as it is; all else is percent-encoded.
_HEADER_SAFE = string.punctuation
#: Below it are the addresses of Anthropic's API.
_ANTHROPIC_PATH, _RESPONSES_PATH, _MODELS_PATH = "/v1/messages", "/v1/responses", "/v1/models"
#: Anthropic's clients send it with each request.
_ANTHROPIC_HEADER = "anthropic-version"
_ANTHROPIC_LIMITS = "anthropic-ratelimit-"
#: Longer lists of warnings are cut, in characters.
_MAX_WARNINGS = 1500


def add_to(response: Response) -> Response:
    """Add them to the answer of the current request, whose record notes what is known by now."""
    known = current_globals()
    record: CallRecord | None = known.get("call")
    if record is None:
        return response
    record.status = response.status_code
    record.bytes_out = response.calculate_content_length() or 0
    body = current_request().environ["wsgi.input"]
    if type(body) is RequestBody:  # that of our own server, which knows more
        record.waited_s, record.bytes_in = record.waited_s + body.waited_s, body.taken
    else:
        record.bytes_in = current_request().content_length or 0
    headers = {
        **record.upstream_headers,
        "x-request-id": record.request_id,
        "x-gateway-attempts": str(len(record.attempts)),
        "openai-processing-ms": str(round((time.monotonic() - record.started) * 1000)),
        **known.get("limit_headers", {}),
    }
    if record.deployment is not None:
        headers["x-gateway-deployment"] = _in_header(record.deployment)
    if record.cache is not None:
        headers["x-gateway-cache"] = record.cache
    if record.cache_age_s is not None:
        headers["age"] = str(record.cache_age_s)
    if (cost := known.snapshot.cost_of(record)) is not None:
        record.cost = cost
        headers["x-gateway-cost"] = dollars(cost)
    if record.warnings:
        headers["x-gateway-warnings"] = _warnings(map(_own_name(), record.warnings))
    if is_anthropic():
        headers = _for_anthropic(headers, record.request_id)
    if not has_header(response.headers, "cache-control"):
        headers["cache-control"] = "no-store"
    add_headers(response.headers, headers)
    return response


@lru_cache(maxsize=256)
def _in_header(deployment: str) -> str:
    return quote(deployment, safe=_HEADER_SAFE)


def _for_anthropic(headers: dict[str, str], request_id: str) -> dict[str, str]:
    """Return headers as Anthropic's clients read them: the limits of the upstream's account are not the caller's."""
    found = {name: value for name, value in headers.items() if not name.startswith(_ANTHROPIC_LIMITS)}
    for name, value in current_globals().get("limit_headers", {}).items():
        _, _, what, kind = name.split("-")
        found[f"{_ANTHROPIC_LIMITS}{kind}-{what}"] = _moment_in(value) if what == "reset" else value
    return found | {"request-id": request_id}


def _moment_in(duration: str) -> str:
    """Return when a duration such as ``1m30s`` has passed, in UTC and whole seconds, as RFC 3339 writes it."""
    moment = math.ceil(time.time() + (durations.read(duration) or 0))
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_anthropic() -> bool:
    """Return whether the current request's client expects Anthropic's words: its address is one of that API.

    The lists of models are at one address for all clients; there a header decides, as at addresses that nobody serves.
    """
    asked = current_request()
    if asked.path.startswith(_ANTHROPIC_PATH):
        return True
    of_all = asked.url_rule is None or asked.path.startswith(_MODELS_PATH)
    return of_all and _ANTHROPIC_HEADER in asked.headers


def is_responses() -> bool:
    """Return whether the current request's client expects the words of the Responses dialect."""
    return bool(current_request().path.startswith(_RESPONSES_PATH))


def _own_name() -> Callable[[str], str]:
    """Return what gives one of chat's parameters the name that it has at the door of the current request."""
    if is_anthropic():
        return in_messages
    return in_responses if is_responses() else str


def _warnings(found: Iterable[str]) -> str:
    """Return warnings for a header: each once, without a character that is not safe there, and not too much of it."""
    text = ", ".join(dict.fromkeys(found))
    return quote(text if len(text) <= _MAX_WARNINGS else f"{text[:_MAX_WARNINGS]}...", safe=_HEADER_SAFE + " ")
