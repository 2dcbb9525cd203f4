"""What one reader of a stream has not read yet."""

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from one_api.cache.backlog import Backlog
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import ClientTooSlow

#: A reader that is further behind than this is let go, in bytes.
_BEHIND_BYTES = 1024 * 1024

#: A chunk, and what it takes as JSON.
Sized: TypeAlias = tuple[JSONObject, int]


def sized(chunks: Iterable[JSONObject]) -> list[Sized]:
    """Return chunks with what they take."""
    return [(chunk, len(json.encode(chunk))) for chunk in chunks]


class Inbox:
    """Chunks on their way to one reader, and how they end.

    It holds what had come before the reader was there, a megabyte, and what came at once after that: no more.
    """

    def __init__(self) -> None:
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._failure: Exception | None = None
        #: How much of what waits had come before the reader was there: for that it is not behind.
        self._past_bytes = 0
        #: No more will come.
        self.over = False

    @property
    def size_bytes(self) -> int:
        """Return how much waits to be read."""
        return self._backlog.size_bytes

    @property
    def complete(self) -> bool:
        """Say whether all has come, and all is well."""
        return self.over and self._failure is None

    def catch_up(self, history: Backlog) -> None:
        """Take what had come before the reader was there."""
        self._backlog, self._past_bytes = history.copy(), history.size_bytes
        self._wake.set()

    def push(self, chunks: Iterable[Sized], *, past: bool = False) -> None:
        """Take chunks that come at once; ``past`` when they had come before the reader was there.

        A reader that was too slow before them gets an error in their place: there was no time to read themselves.
        """
        if self.over:
            return
        if self.size_bytes - self._past_bytes > _BEHIND_BYTES:
            self.fail(ClientTooSlow("This stream was read too slowly: read it as it comes, or ask again."))
            return
        for chunk, size_bytes in chunks:
            self._backlog.add(chunk, size_bytes)
            self._past_bytes += size_bytes if past else 0
        self._wake.set()

    def finish(self) -> None:
        """Take note that all has come."""
        self.over = True
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """Take note that there will be no more, once what has come is read."""
        if not self.over:
            self._failure = error
            self.finish()

    def close(self) -> None:
        """Drop everything: nobody reads any more."""
        self._backlog.take()
        self.finish()

    async def wait(self) -> None:
        """Return when there is something to read, or when all has come; raises the error that it ends with."""
        while not self._backlog and not self.over:
            self._wake.clear()
            await self._wake.wait()
        if self._failure is not None and not self._backlog:
            raise self._failure

    def take(self) -> list[JSONObject]:
        """Return all that is there."""
        self._past_bytes = 0
        return self._backlog.take()
