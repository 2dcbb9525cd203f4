"""The one place where errors become answers."""

import asyncio
import logging
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, cast

from flask import Flask, Response, g, request
from flask_limiter import RateLimitExceeded
from werkzeug.exceptions import ClientDisconnected, HTTPException

from one_api.api.response_headers import is_anthropic, is_responses
from one_api.contract import JSONObject
from one_api.dialects.anthropic.inbound import errors as anthropic
from one_api.dialects.responses.failure import error_of, status_of
from one_api.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    OutOfDescriptors,
    RequestTimeout,
    RequestTooLarge,
    UnknownPath,
)
from one_api.records import CallRecord
from one_api.serving.responses import JSONResponse
from one_api.utils.rate_limit import refusal_of

logger = logging.getLogger(__name__)


class Envelope(NamedTuple):
    """How an error is written for the clients of a door."""

    body: Callable[[GatewayError, str], JSONObject]
    """Takes the request's id, too."""
    status: Callable[[GatewayError], int] = attrgetter("status")
    headers: Callable[[GatewayError], dict[str, str]] = GatewayError.headers


#: What clients look for elsewhere in vain, and what they can do.
_NOT_SERVED = {
    "/v1/messages/batches": "There are no batches here: send each request to /v1/messages.",
    "/v1/batches": "There are no batches here: send each request to its own address.",
    "/v1/files": "There are no files here: send their content in the request.",
    "/v1/conversations": "There are no conversations here: send `previous_response_id`, or the whole history.",
    "/v1/assistants": "There are no assistants here: use /v1/responses.",
    "/v1/threads": "There are no threads here: use /v1/responses.",
}

_ANTHROPIC = Envelope(anthropic.to_anthropic, anthropic.status_of, anthropic.headers_of)
_RESPONSES = Envelope(lambda error, _: error_of(error), status_of)
_OPENAI = Envelope(lambda error, _: error.to_openai())


def envelope() -> Envelope:
    """Return how errors are written for the client of the current request.

    It expects its dialect also where no door was reached: without a key, with a wrong method, at an unknown address.
    """
    if is_anthropic():
        return _ANTHROPIC
    return _RESPONSES if is_responses() else _OPENAI


def register(app: Flask) -> None:
    """Have ``app`` answer every error in the dialect of its path."""
    app.register_error_handler(GatewayError, _answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)


def _answer(error: GatewayError) -> Response:
    record: CallRecord | None = g.get("call")
    if record is not None:
        record.fail(error)
    form = envelope()
    request_id = record.request_id if record is not None else ""
    response = JSONResponse(form.body(error, request_id), form.status(error))
    response.headers.update(form.headers(error))
    return response


def _answer_http(error: HTTPException) -> Response:
    """Translate what Flask raises itself."""
    if isinstance(error, ClientDisconnected):
        raise asyncio.CancelledError from error  # there is no client to answer: as when it leaves later
    if error.response is not None:
        return cast(Response, error.response)  # made where it was raised
    if isinstance(error, RateLimitExceeded):
        return _answer(refusal_of(error))
    place = f"{request.method} {request.path[:256]}"
    status = error.code or 500
    if status == 404:
        known = next((path for path in _NOT_SERVED if f"{request.path}/".startswith(f"{path}/")), None)
        way_out = _NOT_SERVED[known] if known else f"The API is under {request.root_path}/v1."
        return _answer(UnknownPath(f"No such address: {place}. {way_out}"))
    if status == 405:
        methods = sorted(set(getattr(error, "valid_methods", None) or ()) - {"HEAD", "OPTIONS"})
        response = _answer(MethodNotAllowed(f"{place} is not allowed: use {' or '.join(methods) or 'another method'}."))
        response.headers.update(error.get_headers())
        response.headers["content-type"] = "application/json"
        return response
    if status == 408:
        return _answer(RequestTimeout("The request's body arrived too slowly: send it at once."))
    if status == 413:
        return _answer(RequestTooLarge("The request's body is too large."))
    if status < 500:
        return _answer(InvalidRequest(error.description or "The request cannot be understood.", status=status))
    return _answer_bug(error)


def _answer_bug(error: Exception) -> Response:
    """Answer 500 and write the cause to the log: it is a bug of ours, unless the process may open no more files."""
    if OutOfDescriptors.is_cause(error):
        return _answer(OutOfDescriptors.default())
    logger.error("%s %s failed", request.method, request.path[:256], exc_info=error)
    return _answer(InternalError("Something went wrong in the gateway: its log says more under this request's id."))
