"""The stream handed upward: it counts as the deployment's success or failure, and ends exactly once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from one_api.contract import ByteStream, ChunkStream
from one_api.dialects.frames import Encode
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamError
from one_api.routing.attempt import Attempt, RequestState
from one_api.routing.resume import Sent
from one_api.serving.tasks import abandon

#: Finds an attempt whose stream goes on from what was sent; raises the error it is given when there is none.
Resume = Callable[[Sent, UpstreamError], Coroutine[Any, Any, Attempt]]


class Delivery(ChunkStream):
    """What the client gets: an attempt's stream, and if it breaks and ``resume`` finds one, what goes on from it."""

    def __init__(
        self, state: RequestState, attempt: Attempt, stream: ChunkStream, resume: Resume | None = None
    ) -> None:
        """``stream`` is the answer of ``attempt``."""
        self._state = state
        self._resume = resume
        self._sent = Sent()
        self._resumed = False
        self._resuming: asyncio.Task[Attempt] | None = None
        self._use(attempt, stream)

    def _use(self, attempt: Attempt, stream: ChunkStream) -> None:
        self._attempt, self._stream = attempt, stream
        self._shown_model = self._state.shown_model(attempt.deployment)

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``; the end and an error settle the attempt."""
        while True:
            if self._resuming is not None:
                await self._change_over()
            try:
                chunks = self._as_seen(await self._next())
            except UpstreamError as error:
                self._break(error)
                if self._resuming is None:
                    raise
                continue
            if chunks or self.ended:
                return chunks

    async def read_encoded(self, encode: Encode) -> bytes:
        """See ``ChunkStream``. Where an answer may be resumed, what was sent must be known."""
        if self._resume is not None or self._attempt.chunks:
            return encode(await self.read())
        try:
            encoded = await self._stream.read_encoded(self._encoder(encode))
        except UpstreamError as error:
            self._break(error)
            raise
        if self._stream.ended:
            self._settle()
        return encoded

    def _encoder(self, encode: Encode) -> Encode:
        """Return what encodes chunks as the client is to see them."""
        if self._shown_model is None:
            return encode
        return lambda chunks: encode(self._as_seen(chunks))

    async def _next(self) -> list[JSONObject]:
        """Return what the current stream has, settled if that is its end."""
        attempt = self._attempt
        if attempt.chunks:
            chunks, attempt.chunks = attempt.chunks, []
        else:
            chunks = await self._stream.read()
        self.usage = self._stream.usage
        if self._stream.ended:
            self._settle()
        return chunks

    def _settle(self) -> None:
        """Note that the answer is complete."""
        self.usage, self.ended = self._stream.usage, True
        self._attempt.settle("ok", self.usage)
        self._state.end()

    def _as_seen(self, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return chunks as the client is to see them."""
        if self._shown_model is not None:
            for chunk in chunks:
                self._stream.show_model(chunk, self._shown_model)
        if self._resumed:
            chunks = self._sent.as_continuation(chunks)
        if self._resume is not None:
            for chunk in chunks:
                self._sent.add(chunk)
        return chunks

    def _break(self, error: UpstreamError) -> None:
        """Settle a stream that has failed, and look for one that goes on, if any may."""
        self.usage = self._stream.usage
        self._attempt.settle(error, self.usage)
        if self._resume is not None:
            self._resuming = asyncio.create_task(self._resume(self._sent, error))

    async def _change_over(self) -> None:
        """Take over the stream that goes on; this may be cancelled for a heartbeat, the search goes on meanwhile."""
        attempt = await asyncio.shield(cast("asyncio.Task[Attempt]", self._resuming))
        self._resuming = None
        await self._attempt.drop("cancelled")
        targets = self._state.route.targets
        if not (attempt.deployment in targets and self._attempt.deployment in targets):
            self._sent.changes_model()
        self._use(attempt, cast(ChunkStream, attempt.stream))  # a stream was asked for
        self._resumed = True

    async def aclose(self) -> None:
        """Let go of the upstream; a stream that had not ended counts as cancelled."""
        try:
            if self._resuming is not None:
                await abandon(self._resuming, lambda found: found.drop("cancelled"))
                self._resuming = None
        finally:
            self.usage = self._stream.usage
            self._state.end()
            await self._attempt.drop("cancelled")


class ByteDelivery(ByteStream):
    """What the client gets of an answer that passes through: it counts for its attempt, and cannot go on elsewhere."""

    def __init__(self, state: RequestState, attempt: Attempt, stream: ByteStream) -> None:
        """``stream`` is the answer of ``attempt``."""
        self._state = state
        self._attempt = attempt
        self._stream = stream
        self.status, self.content_type, self.disposition = stream.status, stream.content_type, stream.disposition
        self.units = stream.units

    async def read(self) -> bytes:
        """See ``ByteStream``; the end and an error settle the attempt."""
        try:
            piece = await self._stream.read()
        except UpstreamError as error:
            self._attempt.settle(error, self._stream.usage)
            raise
        self.usage, self.units, self.ended = self._stream.usage, self._stream.units, self._stream.ended
        if self.ended:
            self._attempt.settle("ok", self.usage)
            self._state.end()
        return piece

    async def aclose(self) -> None:
        """Let go of the upstream; an answer that had not ended counts as cancelled."""
        self._state.end()
        await self._attempt.drop("cancelled")
