"""The chunks of a stream that one reader has not read yet."""

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from one_api.cache.chunk_buffer import ChunkBuffer
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import ClientTooSlow

#: A reader that is further behind than this gets an error, in bytes.
_MAX_BEHIND_BYTES = 1024 * 1024

#: A chunk, and its size as JSON in bytes.
Sized: TypeAlias = tuple[JSONObject, int]


def sized(chunks: Iterable[JSONObject]) -> list[Sized]:
    """Return chunks with their sizes."""
    return [(chunk, len(json.encode(chunk))) for chunk in chunks]


class ReadBuffer:
    """The unread chunks of one reader, and how the stream ends.

    It holds at most the chunks from before the reader joined, one megabyte, and the batch that arrived after that.
    """

    def __init__(self) -> None:
        self._chunks = ChunkBuffer()
        self._wake = asyncio.Event()
        self._failure: Exception | None = None
        #: Unread bytes from before the reader joined. They do not count as being behind.
        self._past_bytes = 0
        #: No more chunks will arrive.
        self.ended = False

    @property
    def size_bytes(self) -> int:
        """Return the size of the unread chunks as JSON."""
        return self._chunks.size_bytes

    @property
    def complete(self) -> bool:
        """Return whether all chunks have arrived, without an error."""
        return self.ended and self._failure is None

    def catch_up(self, history: ChunkBuffer) -> None:
        """Add the chunks from before the reader joined."""
        self._chunks, self._past_bytes = history.copy(), history.size_bytes
        self._wake.set()

    def push(self, chunks: Iterable[Sized], *, past: bool = False) -> None:
        """Add one batch of chunks; ``past`` if they are from before the reader joined.

        A reader that was already too far behind gets an error instead. The batch itself does not count: the reader had
        no time to read it.
        """
        if self.ended:
            return
        if self.size_bytes - self._past_bytes > _MAX_BEHIND_BYTES:
            self.fail(ClientTooSlow("This stream was read too slowly: read it as it comes, or ask again."))
            return
        for chunk, size_bytes in chunks:
            self._chunks.add(chunk, size_bytes)
            self._past_bytes += size_bytes if past else 0
        self._wake.set()

    def finish(self) -> None:
        """Mark the stream as complete."""
        self.ended = True
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """End the stream with ``error``; the reader gets it after the chunks that have arrived."""
        if not self.ended:
            self._failure = error
            self.finish()

    def close(self) -> None:
        """Drop all chunks: the reader has left."""
        self._chunks.take()
        self.finish()

    async def wait(self) -> None:
        """Wait until there are chunks, or the stream has ended; raises the error that it ended with."""
        while not self._chunks and not self.ended:
            self._wake.clear()
            await self._wake.wait()
        if self._failure is not None and not self._chunks:
            raise self._failure

    def take(self) -> list[JSONObject]:
        """Return and remove all unread chunks."""
        self._past_bytes = 0
        return self._chunks.take()
