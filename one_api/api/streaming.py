"""What all doors share: how an answer is streamed, whatever the dialect of its events."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, TypeAlias

from flask import Response, g

from one_api.api.request_log import OpenCall
from one_api.contract import ChunkStream
from one_api.dialects.event_writer import EventWriter
from one_api.dialects.json import JSONObject
from one_api.errors import GatewayError, InternalError
from one_api.serving.events import EventBody, EventResponse
from one_api.serving.fairness import aside
from one_api.serving.responses import headers_of
from one_api.serving.tasks import abandon, ended
from one_api.serving.timeouts import ReusableTimeout

logger = logging.getLogger(__name__)

#: A stream on its way to its first content.
Opening: TypeAlias = "asyncio.Future[ChunkStream]"
#: Keeps a whole answer, and says whether it is kept.
Keep: TypeAlias = Callable[[JSONObject], Awaitable[bool]]

#: The last events of a longer answer take long to write: some dialects say all of it again, several times.
_SHORT_BYTES = 256 * 1024

#: Of every stream of events.
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


async def stream_response(
    stream: Coroutine[Any, Any, ChunkStream], writer: EventWriter, keep: Keep | None = None
) -> Response:
    """Answer with the events that ``writer`` writes of a stream.

    Args:
        stream: what opens it, see ``ModelRegistry.stream``. The status is 200 at its first content, or when that takes
            too long; until then an error has its own status.
        writer: the dialect of the door.
        keep: is given what the writer has ``to_keep``, before the client learns of the end.

    Raises:
        GatewayError: what opening the stream raises before the status is sent.
    """
    call: OpenCall = g.open_call
    # In a context of its own: with the request's, all that it opens would keep Flask's request to the stream's end.
    opening = asyncio.create_task(stream, context=Context())
    try:
        await ended(opening, call.snapshot.config.server.commit_s)
    except asyncio.CancelledError:
        await abandon(opening)
        raise
    if opening.done():
        opening.result()
    call.begin_stream()
    return EventResponse(StreamedAnswer(opening, writer, call, keep), headers=headers_of(STREAM_HEADERS.items()))


class StreamedAnswer(EventBody):
    """A stream as server-sent events of one dialect: content, heartbeats in silence, and a true end."""

    def __init__(self, opening: Opening, writer: EventWriter, call: OpenCall, keep: Keep | None = None) -> None:
        self._opening = opening
        self._writer = writer
        self._call = call
        self._keep = keep
        #: The status line has waited long enough; it goes out with the first piece.
        self._overdue = not opening.done()
        self._heartbeat_s = min(call.snapshot.config.server.heartbeat_s, writer.heartbeat_s)
        self._timeout = ReusableTimeout()
        self._stream: ChunkStream | None = None
        self._begun = False
        self._ended = False

    @property
    def is_complete(self) -> bool:
        """See ``EventBody``."""
        return self._ended and self._writer.to_keep is None

    async def read(self) -> bytes:
        """See ``EventBody``."""
        events = b""
        try:
            if self._overdue:
                self._overdue = False
                events = self._begin() or self._writer.heartbeat()
            elif not self._ended:
                self._timeout.reset()
                with self._timeout.limit(self._heartbeat_s):
                    events = await self._next()
                if self._ended:
                    is_short = self._call.record.bytes_out + len(events) <= _SHORT_BYTES
                    events += await aside(self._writer.end, is_short=is_short)
        except TimeoutError:
            events = self._begin() + self._writer.heartbeat()
        except GatewayError as error:
            events = self._fail(error)
        except Exception:  # the client would take a cut for the end, so it gets an error
            logger.exception("a stream failed, request %s", self._call.record.request_id)
            events = self._fail(InternalError("Something went wrong in the gateway."))
        events = events or await self._last()
        self._call.record.bytes_out += len(events)
        return events

    async def _next(self) -> bytes:
        """Return the next events; what the dialect has no event for is passed over."""
        if self._stream is None:
            self._stream = self._opening.result() if self._opening.done() else await asyncio.shield(self._opening)
        stream, writer, record = self._stream, self._writer, self._call.record
        while True:
            if writer.is_stateless:
                events = await stream.read_encoded(writer.write)
            else:
                events = writer.write(await stream.read())
            if record.first_event is None:
                record.first_event = time.monotonic()
            if not self._begun:
                events = self._begin() + events
            if stream.ended:
                self._ended = True
            if events or self._ended:
                return events

    async def _last(self) -> bytes:
        """Return the event of the end, where it waits until the answer is kept."""
        answer = self._writer.to_keep
        if answer is None:
            return b""
        kept = False
        try:
            kept = self._keep is not None and await self._keep(answer)
        except Exception:  # the answer is whole all the same
            logger.exception("an answer could not be kept, request %s", self._call.record.request_id)
        return self._writer.last(kept=kept)

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._writer.begin()

    def _fail(self, error: GatewayError) -> bytes:
        self._ended = True
        self._call.record.fail(error)
        return self._begin() + self._writer.fail(error)

    def interrupted(self) -> bytes:
        """See ``EventBody``."""
        events = b""
        if not self._ended:
            events = self._fail(self._call.interruption)
        return events + self._writer.last(kept=False)

    async def aclose(self) -> None:
        """See ``EventBody``."""
        self._timeout.close()
        await self._call.end(cancelled=not self._ended, close=self._close)

    async def _close(self) -> None:
        """Let go of the upstream, and note what the answer took."""
        if self._stream is None:
            await abandon(self._opening)
            return
        try:
            await self._stream.aclose()
        finally:
            self._call.record.used(self._stream.usage)
