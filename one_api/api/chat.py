"""``/v1/chat/completions``: parse, validate, have it answered, and stream."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import TypeAlias

from flask import Blueprint, Response, g, request
from werkzeug.http import parse_options_header

from one_api.api.service import Service, service
from one_api.api.snapshot import Snapshot, snapshot
from one_api.cache.policy import cache_control
from one_api.contract import ChunkStream, Usage
from one_api.dialects import json, sse
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import GatewayError, InternalError, InvalidRequest, ShuttingDown, UnsupportedMediaType
from one_api.observability.records import CallRecord
from one_api.serving.events import EventBody, EventResponse
from one_api.serving.responses import JSONResponse
from one_api.serving.timeouts import ReusableTimeout
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

logger = logging.getLogger(__name__)
chat = Blueprint("chat", __name__)

#: A stream on its way to its first content.
Opening: TypeAlias = "asyncio.Future[ChunkStream]"

#: A body from this size on, in bytes, is decoded while no other is.
_LARGE_BYTES = 1024 * 1024
#: How long others have the loop before and after that, in seconds: long enough to answer what is quickly answered.
_OTHERS_S = 0.002

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


@chat.post("/v1/chat/completions")
@verify_api_key
@check_rate_limit
async def create_completion() -> Response:
    """Answer a chat request, whole or as a stream of events."""
    wanted = ChatRequest.read(await _body())
    record: CallRecord = g.call
    record.model, record.stream = wanted.model, wanted.stream
    cache_control.set(request.headers.get("Cache-Control"))
    if wanted.stream:
        return await _stream(wanted, record)
    answer = await snapshot().registry.complete(wanted)
    record.used(Usage.read(answer.get("usage")))
    return JSONResponse(answer)


async def _body() -> JSONObject:
    """Return the request's body: a JSON object in UTF-8, its numbers in the form that they were written in.

    A header that was sent twice is a list.
    """
    if request.content_type != "application/json":
        for media_type in (request.content_type or "").split(","):
            _check_media_type(*parse_options_header(media_type))
    encodings = request.headers.get("Content-Encoding", "").lower().split(",")
    if {encoding.strip() for encoding in encodings} - {"", "identity"}:
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    data = request.get_data(cache=False)
    request.stream.close()  # it would hold the bytes as long as the request lives
    try:
        if len(data) < _LARGE_BYTES:
            return json.decode_object(data, as_written=True)
        async with service().large_bodies:
            await asyncio.sleep(_OTHERS_S)
            body = json.decode_object(data, as_written=True)
            await asyncio.sleep(_OTHERS_S)
            return body
    except json.InvalidJSON as error:
        raise InvalidRequest(f"The request's body is not a JSON object that can be used: {error}.") from None


def _check_media_type(mimetype: str, parameters: Mapping[str, str]) -> None:
    if mimetype and mimetype.lower() != "application/json":
        raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("Send JSON in UTF-8.")


async def _stream(wanted: ChatRequest, record: CallRecord) -> Response:
    """Answer with the error's own status, or commit to 200: at the first content, or when it takes too long."""
    used = snapshot()
    opening = asyncio.ensure_future(used.registry.stream(wanted))
    try:
        await asyncio.wait([opening], timeout=used.config.server.commit_s)
    except asyncio.CancelledError:
        await _abandon(opening)
        raise
    if opening.done():
        opening.result()
    g.streaming = True
    return EventResponse(ChatEvents(opening, record, service(), used), headers=_STREAM_HEADERS)


async def _abandon(opening: Opening) -> None:
    """Let go of a stream that nobody will read, whether it has opened yet or not."""
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().aclose()


class ChatEvents(EventBody):
    """A chat stream as server-sent events: chunks, heartbeats in silence, and a true end.

    ``[DONE]`` is written only for an answer that is complete; any other ends with one error event.
    """

    def __init__(self, opening: Opening, record: CallRecord, parts: Service, used: Snapshot) -> None:
        self._opening = opening
        #: The status line has waited long enough; it goes out with the first piece.
        self._overdue = not opening.done()
        self._record = record
        self._parts = parts
        self._used = used
        self._heartbeat_s = used.config.server.heartbeat_s
        self._timeout = ReusableTimeout()
        self._stream: ChunkStream | None = None
        self._ended = False
        self._reported = False

    async def read(self) -> bytes:
        """See ``EventBody``."""
        if self._ended:
            return b""
        if self._overdue:
            self._overdue = False
            return sse.HEARTBEAT
        try:
            heartbeat = asyncio.get_running_loop().time() + self._heartbeat_s
            return await self._timeout.wait(self._next(), heartbeat)
        except TimeoutError:
            return sse.HEARTBEAT
        except GatewayError as error:
            return self._fail(error)
        except Exception:  # the client would take a cut for the end, so it is told
            logger.exception("a stream failed, request %s", self._record.request_id)
            return self._fail(InternalError("Something went wrong in the gateway."))

    async def _next(self) -> bytes:
        if self._stream is None:
            self._stream = await asyncio.shield(self._opening)
        chunks = await self._stream.read()
        if self._record.first_event is None:
            self._record.first_event = time.monotonic()
        pieces = [sse.encode_event(chunk) for chunk in chunks]
        if self._stream.ended:
            self._ended = True
            pieces.append(sse.DONE)
        return b"".join(pieces)

    def _fail(self, error: GatewayError) -> bytes:
        self._ended = True
        self._record.error = error.code or error.type
        return sse.encode_event(error.to_openai())

    def interrupted(self) -> bytes:
        """See ``EventBody``."""
        if self._ended:
            return b""
        return self._fail(ShuttingDown("The gateway is shutting down: the answer is not complete."))

    async def aclose(self) -> None:
        """Let go of the upstream, and report the request."""
        if self._reported:
            return
        self._reported = True
        self._timeout.close()
        if not self._ended:
            self._record.status, self._record.error = 499, "cancelled"
        self._record.ended = time.monotonic()
        try:
            await self._close_stream()
        finally:
            if self._stream is not None:
                self._record.used(self._stream.usage)
            await self._parts.report(self._record, self._used)

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await _abandon(self._opening)
