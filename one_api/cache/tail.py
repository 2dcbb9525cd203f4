"""A call of another process, followed as it comes."""

import asyncio
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from one_api.cache.inbox import Inbox, sized
from one_api.cache.lease import LEASE_S, PARTS, LeaseKeeper, Shared, Standing
from one_api.contract import ChunkStream
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamTruncated

#: The pace at which parts are told and looked for, in seconds.
TICK_S = 0.025
#: Chunks nest as deep as a request's body may; a part has levels of its own.
_MAX_DEPTH = 70


class InvalidPart(ValueError):
    """The bytes are no part of a call."""


@dataclass(frozen=True, slots=True)
class Part:
    """The next that is known of a call."""

    #: The next chunks of a stream.
    chunks: list[JSONObject] = field(default_factory=list)
    #: The answer, if it is no stream.
    whole: JSONObject | None = None
    #: Who answers: "adapter/upstream model".
    deployment: str | None = None
    #: What had been dropped or altered of the request.
    warnings: list[str] = field(default_factory=list)
    #: Whether the answer is complete, once that is known.
    complete: bool | None = None

    def encode(self) -> bytes:
        """Return its bytes."""
        return json.encode(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "Part":
        """Read what ``encode`` has written; raises InvalidPart for anything else."""
        try:
            part = cls(**json.decode_object(data, max_depth=_MAX_DEPTH))
        except (json.InvalidJSON, TypeError) as error:
            raise InvalidPart(str(error)) from None
        usable = (
            isinstance(part.chunks, list)
            and all(map(_is_chunk, part.chunks))
            and isinstance(part.whole, dict | None)
            and isinstance(part.deployment, str | None)
            and isinstance(part.warnings, list)
            and isinstance(part.complete, bool | None)
        )
        if not usable:
            raise InvalidPart("it is not a part of a call")
        return part


def _is_chunk(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and isinstance(choice.get("delta"), dict) for choice in choices
    )


class Tail(ChunkStream):
    """The answer to a call that another process makes: what it has told, and then what it tells."""

    def __init__(self, keeper: LeaseKeeper, call: Shared, holder: str) -> None:
        self._keeper = keeper
        self._call = call
        self._holder = holder
        self._number = 0
        self._inbox = Inbox()
        #: What is heard had been told before somebody listened here.
        self._past = True
        self._following: asyncio.Task[None] | None = None
        #: The last part that was heard; the answer, if it is no stream, is there from the first one on.
        self.part = Part()

    async def begin(self, deadline: float) -> Standing:
        """Wait for the first part, until monotonic time ``deadline``; HELD when it has come, and is of use."""
        while True:
            standing, parts = await self._keeper.hear(self._call, self._holder, 0)
            if standing is not Standing.HELD:
                return standing
            if parts:
                break
            if time.monotonic() >= deadline:
                return Standing.ALONE
            await self._keeper.tick(TICK_S)
        if not self._took(parts):
            return Standing.ALONE
        if self.part.complete is False:
            return Standing.GONE
        self._following = asyncio.create_task(self._follow())
        return Standing.HELD

    async def _follow(self) -> None:
        """Hear the other parts, however fast they are read: who tells them must know that somebody listens."""
        heard = time.monotonic()
        while not self._inbox.over:
            await self._keeper.tick(TICK_S)
            standing, parts = await self._keeper.hear(self._call, self._holder, self._number)
            if standing is not Standing.ALONE:
                heard = time.monotonic()
            if standing is Standing.GONE or not self._took(parts) or time.monotonic() - heard > LEASE_S:
                self._break()

    def _took(self, parts: list[tuple[int, bytes]]) -> bool:
        """Take the parts of one look; False if one is missing, or is none of ours."""
        fresh = self._read(parts)
        self._inbox.push(sized(chunk for part in fresh for chunk in part.chunks), past=self._past)
        self._past = self._past and len(parts) == PARTS
        if self.part.complete:
            self._inbox.finish()
        elif self.part.complete is False:
            self._break()
        return len(fresh) == len(parts)

    def _read(self, parts: list[tuple[int, bytes]]) -> list[Part]:
        """Return the parts that follow those that were heard, up to one that is missing or none of ours."""
        fresh: list[Part] = []
        for number, data in parts:
            if number != self._number + 1:
                break
            try:
                self.part = Part.decode(data)
            except InvalidPart:
                break
            self._number = number
            fresh.append(self.part)
        return fresh

    def _break(self) -> None:
        self._inbox.fail(UpstreamTruncated("The answer broke off in the process that asked for it: ask again."))

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        await self._inbox.wait()
        chunks = self._inbox.take()
        self.ended = self._inbox.complete
        return chunks

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self.ended = True
        self._inbox.close()
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
