"""The stream handed upward: it counts as the deployment's success or failure, and ends exactly once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamError
from one_api.routing.attempt import Attempt, RequestState
from one_api.routing.resume import Sent

#: Finds an attempt whose stream goes on from what was sent; raises the error it is given when there is none.
Resume = Callable[[Sent, UpstreamError], Coroutine[Any, Any, Attempt]]


class Delivery(ChunkStream):
    """What the client gets: an attempt's stream, and if it breaks and ``resume`` finds one, what goes on from it."""

    def __init__(self, state: RequestState, attempt: Attempt, resume: Resume | None = None) -> None:
        self._state = state
        self._resume = resume
        self._sent = Sent()
        self._resumed = False
        self._resuming: asyncio.Task[Attempt] | None = None
        self._use(attempt)

    def _use(self, attempt: Attempt) -> None:
        assert isinstance(attempt.answer, ChunkStream)  # noqa: S101 - a stream was asked for
        self._attempt, self._stream = attempt, attempt.answer
        self._shown_model = self._state.shown_model(attempt.deployment)

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``; the end and an error settle the attempt."""
        while True:
            if self._resuming is not None:
                await self._change_over(self._resuming)
            try:
                chunks = self._as_seen(await self._next())
            except UpstreamError as error:
                self._break(error)
                continue
            if chunks or self.ended:
                return chunks

    async def _next(self) -> list[JSONObject]:
        """Return what the current stream has, settled if that is its end."""
        attempt = self._attempt
        if attempt.chunks:
            chunks, attempt.chunks = attempt.chunks, []
        else:
            chunks = await self._stream.read()
        self.usage = self._stream.usage
        self.ended = self._stream.ended
        if self.ended:
            attempt.settle("ok", self.usage)
            self._state.end()
        return chunks

    def _as_seen(self, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return chunks as the client is to see them."""
        if self._shown_model is not None:
            for chunk in chunks:
                chunk["model"] = self._shown_model
        if self._resumed:
            chunks = self._sent.as_continuation(chunks)
        if self._resume is not None:
            for chunk in chunks:
                self._sent.add(chunk)
        return chunks

    def _break(self, error: UpstreamError) -> None:
        """Settle a stream that has failed, and look for one that goes on; raises ``error`` if none ever may."""
        self.usage = self._stream.usage
        self._attempt.settle(error, self.usage)
        if self._resume is None:
            raise error
        self._resuming = asyncio.create_task(self._resume(self._sent, error))

    async def _change_over(self, resuming: asyncio.Task[Attempt]) -> None:
        """Take over the stream that goes on; this may be cancelled for a heartbeat, the search goes on meanwhile."""
        attempt = await asyncio.shield(resuming)
        self._resuming = None
        await self._attempt.drop("cancelled")
        targets = self._state.route.targets
        if not (attempt.deployment in targets and self._attempt.deployment in targets):
            self._sent.changes_model()
        self._use(attempt)
        self._resumed = True

    async def aclose(self) -> None:
        """Let go of the upstream; a stream that had not ended counts as cancelled."""
        try:
            if self._resuming is not None:
                await _give_up(self._resuming)
                self._resuming = None
        finally:
            self.usage = self._stream.usage
            self._state.end()
            await self._attempt.drop("cancelled")


async def _give_up(resuming: asyncio.Task[Attempt]) -> None:
    """End a search, and let go of what it may have found."""
    resuming.cancel()
    await asyncio.wait([resuming])
    if not resuming.cancelled() and resuming.exception() is None:
        await resuming.result().drop("cancelled")
