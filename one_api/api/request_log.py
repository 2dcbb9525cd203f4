"""The record of each request, and the headers that every answer carries."""

import asyncio
import os
import string
import time
from urllib.parse import quote

from flask import Flask, Response, g, request

from one_api.api.service import service
from one_api.api.snapshot import snapshot
from one_api.observability.records import CallRecord, current_call
from one_api.serving.bridge import await_

#: Probes come every few seconds and tell nothing: no line for them.
_UNRECORDED = frozenset({"/health", "/ready"})
#: What a model's name may bring into a header as it is; all else is percent-encoded.
_HEADER_SAFE = string.punctuation
#: Longer lists of warnings are cut, in characters.
_LONGEST_WARNINGS = 1500


def register(app: Flask) -> None:
    """Record every request of ``app``."""
    app.before_request(_begin)
    app.after_request(_add_headers)
    app.teardown_request(_end)


def _begin() -> None:
    record = CallRecord(f"req_{os.urandom(16).hex()}", request.method, request.path)
    g.call = record
    g.snapshot = used = service().snapshot
    used.requests.add(record.request_id)
    request.max_content_length = used.config.server.max_body_bytes
    current_call.set(record)


def _add_headers(response: Response) -> Response:
    record: CallRecord | None = g.get("call")
    if record is None:
        return response
    record.status = response.status_code
    told = {
        **record.upstream_headers,
        "x-request-id": record.request_id,
        "x-gateway-attempts": str(len(record.attempts)),
        "openai-processing-ms": str(round((time.monotonic() - record.started) * 1000)),
        **g.get("limit_headers", {}),
    }
    if record.deployment is not None:
        told["x-gateway-deployment"] = quote(record.deployment, safe=_HEADER_SAFE)
    if record.cache is not None:
        told["x-gateway-cache"] = record.cache
    if record.cache_age_s is not None:
        told["age"] = str(record.cache_age_s)
    if record.warnings:
        told["x-gateway-warnings"] = _warnings(record.warnings)
    if "cache-control" not in response.headers:
        told["cache-control"] = "no-store"
    response.headers.extend(told)
    return response


def _warnings(found: list[str]) -> str:
    """Return warnings for a header: each once, without a character that is not safe there, and not too much of it."""
    told = ", ".join(dict.fromkeys(found))
    return quote(told if len(told) <= _LONGEST_WARNINGS else f"{told[:_LONGEST_WARNINGS]}...", safe=_HEADER_SAFE + " ")


def _end(error: BaseException | None) -> None:
    """Report a request whose answer is complete; a stream reports itself at its end."""
    record: CallRecord | None = g.pop("call", None)
    if record is None or g.get("streaming"):
        return
    if record.path in _UNRECORDED:
        snapshot().requests.discard(record.request_id)
        return
    if isinstance(error, asyncio.CancelledError):
        record.status, record.error = 499, "cancelled"
    record.ended = time.monotonic()
    await_(service().report(record, snapshot()))
