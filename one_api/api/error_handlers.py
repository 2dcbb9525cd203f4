"""The one place where errors become answers."""

import asyncio
import logging

from flask import Flask, Response, g, request
from werkzeug.exceptions import ClientDisconnected, HTTPException

from one_api.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
    RequestTooLarge,
    UnknownPath,
)
from one_api.observability.records import CallRecord
from one_api.serving.responses import JSONResponse

logger = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Have ``app`` answer every error in OpenAI's format."""
    app.register_error_handler(GatewayError, _answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)


def _answer(error: GatewayError) -> Response:
    record: CallRecord | None = g.get("call")
    if record is not None:
        record.error = error.code or error.type
    response = JSONResponse(error.to_openai(), error.status)
    response.headers.update(error.headers())
    return response


def _answer_http(error: HTTPException) -> Response:
    """Translate what Flask raises itself."""
    if isinstance(error, ClientDisconnected):
        raise asyncio.CancelledError from error  # nobody is there to answer: as when it leaves later
    place = f"{request.method} {request.path[:256]}"
    status = error.code or 500
    if status == 404:
        return _answer(UnknownPath(f"No such address: {place}. The API is under {request.root_path}/v1."))
    if status == 405:
        response = _answer(MethodNotAllowed(f"{place} is not allowed."))
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
    """Answer 500 and write the cause to the log: it is a bug of ours."""
    logger.error("%s %s failed", request.method, request.path[:256], exc_info=error)
    return _answer(InternalError("Something went wrong in the gateway: its log tells more under this request's id."))
