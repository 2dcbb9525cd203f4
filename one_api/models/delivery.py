"""The stream handed upward: it counts as the deployment's success or failure, and ends exactly once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from one_api.errors import UpstreamError
from one_api.models.adapters.base import ChunkStream
from one_api.models.attempts import Try
from one_api.models.resume import Sent
from one_api.wire.json import JSONObject


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer, as the client is to see it."""

    payload: JSONObject
    attempt: Try

    async def drop(self, outcome: UpstreamError | str) -> None:
        """Close the books."""
        self.attempt.settle(outcome)


@dataclass(slots=True)
class Opened:
    """A deployment's stream that has begun: ``chunks`` were read from it and have not been sent."""

    stream: ChunkStream
    attempt: Try
    #: The model's name for the client; None leaves the upstream's own.
    shown_model: str | None = None
    chunks: list[JSONObject] = field(default_factory=list)

    async def drop(self, outcome: UpstreamError | str) -> None:
        """Let go of the upstream, and close the books."""
        try:
            await self.stream.aclose()
        finally:
            self.attempt.settle(outcome, self.stream.usage)


#: Finds a stream that goes on from what was sent; raises the error it is given when there is none.
Resume = Callable[[Sent, UpstreamError], Coroutine[Any, Any, Opened]]


class Delivery(ChunkStream):
    """What the client gets: a deployment's stream, and if it breaks and ``resume`` finds one, what goes on from it."""

    def __init__(self, opened: Opened, resume: Resume | None = None) -> None:
        self._opened = opened
        self._resume = resume
        self._sent = Sent()
        self._resumed = False
        self._resuming: asyncio.Task[Opened] | None = None

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``; the end and an error settle the attempt."""
        while True:
            if self._resuming is not None:
                await self._change_over(self._resuming)
            try:
                chunks = self._given(await self._next())
            except UpstreamError as error:
                self._break(error)
                continue
            if chunks or self.ended:
                return chunks

    async def _next(self) -> list[JSONObject]:
        """Return what the current stream has, settled if that is its end."""
        opened = self._opened
        if opened.chunks:
            chunks, opened.chunks = opened.chunks, []
        else:
            chunks = await opened.stream.read()
        self.usage = opened.stream.usage
        self.ended = opened.stream.ended
        if self.ended:
            opened.attempt.settle("ok", self.usage)
        return chunks

    def _given(self, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return chunks as the client is to see them."""
        if self._opened.shown_model is not None:
            for chunk in chunks:
                chunk["model"] = self._opened.shown_model
        if self._resumed:
            chunks = self._sent.as_continuation(chunks)
        if self._resume is not None:
            for chunk in chunks:
                self._sent.add(chunk)
        return chunks

    def _break(self, error: UpstreamError) -> None:
        """Settle a stream that has failed; raises ``error`` unless the answer may go on elsewhere."""
        self.usage = self._opened.stream.usage
        self._opened.attempt.settle(error, self.usage)
        if self._resume is None or not self._sent.whole or not error.try_another:
            raise error
        self._resuming = asyncio.create_task(self._resume(self._sent, error))

    async def _change_over(self, resuming: asyncio.Task[Opened]) -> None:
        """Take over the stream that goes on; this may be cancelled for a heartbeat, the search goes on meanwhile."""
        opened = await asyncio.shield(resuming)
        self._resuming = None
        await self._opened.drop("cancelled")
        self._opened, self._resumed = opened, True

    async def aclose(self) -> None:
        """Let go of the upstream; a stream that had not ended counts as cancelled."""
        try:
            if self._resuming is not None:
                await _give_up(self._resuming)
                self._resuming = None
        finally:
            self.usage = self._opened.stream.usage
            await self._opened.drop("cancelled")


async def _give_up(resuming: asyncio.Task[Opened]) -> None:
    """End a search, and let go of what it may have found."""
    resuming.cancel()
    await asyncio.wait([resuming])
    if not resuming.cancelled() and resuming.exception() is None:
        await resuming.result().drop("cancelled")
