"""The answer to a call of another process, as it arrives."""

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from one_api.cache.lease import LEASE_S, MAX_SEGMENTS, CallKey, LeaseKeeper, LeaseStatus
from one_api.cache.read_buffer import ReadBuffer, sized
from one_api.contract import ChunkStream
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamTruncated
from one_api.serving.tasks import stop

#: The interval at which segments are published and polled, in seconds.
TICK_S = 0.025
#: Chunks nest as deep as a request's body may; a segment has levels of its own.
_MAX_DEPTH = 70


class InvalidSegment(ValueError):
    """The bytes are not a segment of a call."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One published piece of a call."""

    #: The next chunks of a stream.
    chunks: list[JSONObject] = field(default_factory=list)
    #: The whole answer, if it is not a stream.
    whole: JSONObject | None = None
    #: The deployment that answers: "adapter/upstream model".
    deployment: str | None = None
    #: What was dropped or altered of the request.
    warnings: list[str] = field(default_factory=list)
    #: Whether the answer is complete; None while that is not known.
    complete: bool | None = None

    def encode(self) -> bytes:
        """Return its bytes."""
        return json.encode(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "Segment":
        """Read what ``encode`` has written; raises InvalidSegment for anything else."""
        try:
            segment = cls(**json.decode_object(data, max_depth=_MAX_DEPTH))
        except (json.InvalidJSON, TypeError) as error:
            raise InvalidSegment(str(error)) from None
        usable = (
            isinstance(segment.chunks, list)
            and all(map(_is_chunk, segment.chunks))
            and isinstance(segment.whole, dict | None)
            and isinstance(segment.deployment, str | None)
            and isinstance(segment.warnings, list)
            and isinstance(segment.complete, bool | None)
        )
        if not usable:
            raise InvalidSegment("it is not a segment of a call")
        return segment


def _is_chunk(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and isinstance(choice.get("delta"), dict) for choice in choices
    )


class FollowedStream(ChunkStream):
    """The answer to a call of another process: first the segments published so far, then the new ones."""

    def __init__(self, keeper: LeaseKeeper, call: CallKey, holder: str) -> None:
        self._keeper = keeper
        self._call = call
        self._holder = holder
        self._number = 0
        self._buffer = ReadBuffer()
        #: The polled segments were published before this process polled.
        self._catching_up = True
        self._polling: asyncio.Task[None] | None = None
        #: The last segment that was polled. A whole answer is in the first one.
        self.segment = Segment()

    async def begin(self, deadline: float) -> LeaseStatus:
        """Wait for the first segment until monotonic time ``deadline``; HELD if it arrived and can be used."""
        while True:
            status, segments = await self._keeper.poll(self._call, self._holder, 0)
            if status is not LeaseStatus.HELD:
                return status
            if segments:
                break
            if time.monotonic() >= deadline:
                return LeaseStatus.ALONE
            await self._keeper.tick(TICK_S)
        if not self._accept(segments):
            return LeaseStatus.ALONE
        if self.segment.complete is False:
            return LeaseStatus.GONE
        self._polling = asyncio.create_task(self._follow())
        return LeaseStatus.HELD

    async def _follow(self) -> None:
        """Poll the other segments, however fast they are read: polling shows the publisher that it has subscribers."""
        last_answer = time.monotonic()
        while not self._buffer.ended:
            await self._keeper.tick(TICK_S)
            status, segments = await self._keeper.poll(self._call, self._holder, self._number)
            if status is not LeaseStatus.ALONE:
                last_answer = time.monotonic()
            if status is LeaseStatus.GONE or not self._accept(segments) or time.monotonic() - last_answer > LEASE_S:
                self._fail()

    def _accept(self, segments: list[tuple[int, bytes]]) -> bool:
        """Add the segments of one poll; False if one is missing or invalid."""
        new = self._read(segments)
        self._buffer.push(sized(chunk for segment in new for chunk in segment.chunks), past=self._catching_up)
        self._catching_up = self._catching_up and len(segments) == MAX_SEGMENTS
        if self.segment.complete:
            self._buffer.finish()
        elif self.segment.complete is False:
            self._fail()
        return len(new) == len(segments)

    def _read(self, segments: list[tuple[int, bytes]]) -> list[Segment]:
        """Return the segments in order, up to one that is missing or invalid."""
        new: list[Segment] = []
        for number, data in segments:
            if number != self._number + 1:
                break
            try:
                self.segment = Segment.decode(data)
            except InvalidSegment:
                break
            self._number = number
            new.append(self.segment)
        return new

    def _fail(self) -> None:
        self._buffer.fail(UpstreamTruncated("The answer broke off in the process that asked for it: ask again."))

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        await self._buffer.wait()
        chunks = self._buffer.take()
        self.ended = self._buffer.complete
        return chunks

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self.ended = True
        self._buffer.close()
        await stop(self._polling)
