"""The doors whose requests and answers pass through: moderations, images, audio, rerank.

Their dialect is OpenAI's on both sides, so nothing is translated: the model's name is replaced, a deployment chosen,
and its answer handed on in its own bytes. See ``dialects.openai.passthrough``.
"""

import logging
import time
from typing import cast

from flask import Blueprint, Response, g, request

from one_api.api.bodies import read_bytes
from one_api.api.request_log import OpenCall, call_context
from one_api.api.snapshot import snapshot
from one_api.api.uploads import Upload
from one_api.contract import ByteStream, Caller
from one_api.dialects import sse
from one_api.dialects.openai.chat_request import model_in
from one_api.dialects.openai.passthrough import (
    IMAGE_EDITS,
    IMAGES,
    MODERATIONS,
    RERANK,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    Body,
    Door,
    JSONBody,
    PassthroughRequest,
)
from one_api.errors import GatewayError, InternalError, UnknownPath
from one_api.serving.bridge import await_
from one_api.serving.events import AnswerCut, EventBody, EventResponse
from one_api.serving.loop import client_of
from one_api.serving.responses import PlainResponse
from one_api.serving.timeouts import ReusableTimeout
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

logger = logging.getLogger(__name__)
passthrough = Blueprint("passthrough", __name__)

#: What an event ends with.
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")


@passthrough.post("/v1/moderations")
@verify_api_key
@check_rate_limit
async def moderate() -> Response:
    """Return whether texts or images are fit to be seen; a failure is an error, and never "not flagged"."""
    data, body = await read_bytes()
    if body.get("model") is None and (default := await _moderation_model()) is not None:
        named = body | {"model": default}
        return await _forward(MODERATIONS, default, JSONBody(named))
    return await _forward(MODERATIONS, model_in(body), JSONBody(body, data))


@passthrough.post("/v1/images/generations")
@verify_api_key
@check_rate_limit
async def generate_images() -> Response:
    """Make images, whole or as a stream of events."""
    return await _forward_json(IMAGES)


@passthrough.post("/v1/audio/speech")
@verify_api_key
@check_rate_limit
async def speak() -> Response:
    """Turn text into speech: sound, or a stream of events."""
    return await _forward_json(SPEECH)


@passthrough.post("/v1/rerank")
@passthrough.post("/rerank")
@passthrough.post("/v2/rerank")
@verify_api_key
@check_rate_limit
async def rerank() -> Response:
    """Put documents into the order in which they answer a query; clients know several addresses for it."""
    path = request.path
    if path != f"/v1{RERANK.path}" and path not in snapshot().config.server.rerank_paths:
        raise UnknownPath(f"No such address: POST {path}. Ask at /v1{RERANK.path}, or set `server.rerank_paths`.")
    return await _forward_json(RERANK)


# These three are no coroutines: a form is not read whole before, as the body of a coroutine's request is.


@passthrough.post("/v1/images/edits")
@verify_api_key
@check_rate_limit
def edit_images() -> Response:
    """Change images."""
    return _forward_form(IMAGE_EDITS)


@passthrough.post("/v1/audio/transcriptions")
@verify_api_key
@check_rate_limit
def transcribe() -> Response:
    """Write down what a recording says."""
    return _forward_form(TRANSCRIPTIONS)


@passthrough.post("/v1/audio/translations")
@verify_api_key
@check_rate_limit
def translate() -> Response:
    """Write down in English what a recording says."""
    return _forward_form(TRANSLATIONS)


async def _moderation_model() -> str | None:
    """Return the model for requests that name none: the configured one, else the first that is said to moderate."""
    used, caller = snapshot(), cast(Caller, g.caller)
    if used.config.models.moderation is not None:
        return used.config.models.moderation
    listed = await used.registry.list_all_models()
    fitting = (entry["id"] for entry in listed if "moderation" in entry.get("kinds", ()))
    return next((model for model in fitting if caller.may_use(model)), None)


async def _forward_json(door: Door) -> Response:
    data, body = await read_bytes()
    return await _forward(door, model_in(body), JSONBody(body, data))


def _forward_form(door: Door) -> Response:
    upload = Upload()
    try:
        body = upload.receive(snapshot().config.server.max_upload_bytes)
        answer = _forward(door, body.field.value, body, upload)
        return await_(answer, client_of(request.environ))
    except BaseException:
        upload.close()
        raise


async def _forward(door: Door, model: str, body: Body, upload: Upload | None = None) -> Response:
    """Have a deployment answer, and return its answer: at once if all of it is there, else as it comes.

    Until its first bytes every failure is an error with a status of its own. ``upload`` is closed at the answer's end.
    """
    used, call = snapshot(), g.open_call
    repeats = used.config.retry.after_send or not door.is_paid_each
    wanted = PassthroughRequest(door, model, body, repeats=repeats)
    stream = await used.registry.forward(wanted, call_context(model, stream=False))
    answer = PassthroughAnswer(stream, call, upload)
    try:
        first = await stream.read()
    except BaseException:
        await answer.let_go()
        raise
    headers = {"content-type": stream.content_type}
    if stream.disposition is not None:
        headers["content-disposition"] = stream.disposition
    if stream.ended:
        await answer.let_go()
        return PlainResponse(first, stream.status, headers=headers)
    answer.hold(first)
    call.begin_stream()
    return EventResponse(answer, status=stream.status, headers=headers)


class PassthroughAnswer(EventBody):
    """An answer that passes through as it comes.

    A stream of events gets heartbeats, and an error as its last event when it is cut. Other formats have no words for
    that: the connection is closed without an end, so that the client can see it.
    """

    def __init__(self, stream: ByteStream, call: OpenCall, upload: Upload | None) -> None:
        self._stream = stream
        self._call = call
        self._upload = upload
        self._heartbeat_s = call.snapshot.config.server.heartbeat_s
        self._timeout = ReusableTimeout()
        self._held = b""
        self._ended = False
        #: What was sent ends with an event, not in the middle of one.
        self._between_events = True

    def hold(self, piece: bytes) -> None:
        """Have ``piece`` go out first."""
        self._held = piece
        self._call.record.first_event = time.monotonic()
        self._call.record.stream = True

    async def read(self) -> bytes:
        """See ``EventBody``."""
        if self._ended:
            return b""
        try:
            piece = await self._next()
        except GatewayError as error:
            return self._fail(error)
        except Exception:  # the client would take a cut of events for the end, so it gets an error
            logger.exception("an answer failed on its way, request %s", self._call.record.request_id)
            return self._fail(InternalError("Something went wrong in the gateway."))
        self._ended = self._ended or not piece
        self._call.record.bytes_out += len(piece)
        self._between_events = piece.endswith(_BLANK_LINES) or piece == sse.HEARTBEAT
        return piece

    async def _next(self) -> bytes:
        if self._held:
            piece, self._held = self._held, b""
            return piece
        if self._stream.ended:
            self._ended = True
            return b""
        while self._stream.has_events:
            self._timeout.reset()
            try:
                with self._timeout.limit(self._heartbeat_s):
                    return await self._stream.read()
            except TimeoutError:
                if self._between_events:
                    return sse.HEARTBEAT
        return await self._stream.read()

    def _fail(self, error: GatewayError) -> bytes:
        """Return the error as an event; raises AnswerCut where there are none."""
        self._ended = True
        self._call.record.fail(error)
        if not self._stream.has_events:
            raise AnswerCut from error
        return (b"" if self._between_events else b"\n\n") + sse.encode_event(error.to_openai())

    def interrupted(self) -> bytes:
        """See ``EventBody``."""
        if self._ended:
            return b""
        return self._fail(self._call.interruption)

    async def aclose(self) -> None:
        """See ``EventBody``."""
        await self._call.end(cancelled=not self._ended, close=self.let_go)

    async def let_go(self) -> None:
        """Close the upstream's answer and the client's form, and note what the answer took."""
        self._timeout.close()
        try:
            await self._stream.aclose()
        finally:
            self._call.record.used(self._stream.usage, self._stream.units)
            if self._upload is not None:
                self._upload.close()
