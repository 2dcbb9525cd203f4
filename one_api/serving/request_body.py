"""The body of a request, read when the application wants it."""

import asyncio
import io
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from werkzeug.exceptions import ClientDisconnected

from one_api.errors import RequestTimeout
from one_api.serving.bridge import await_, within
from one_api.serving.fairness import scheduler
from one_api.serving.timeouts import MAX_LATE_WAITS

Receive = Callable[[], Coroutine[Any, Any, dict[str, Any]]]

#: A body slower than this many bytes a second, after a first grace, is not worth the wait.
_SLOWEST_BODY = 1024
_SLOW_GRACE_S = 5.0
#: A wait that ends so long after its end was none of the client's doing, in seconds.
_STOOD_STILL_S = 0.5
#: How much of a body that is not wanted is taken before the connection is closed, in bytes.
_DISCARD_BYTES = 64 * 1024 * 1024
#: A body that has more bytes than this is read in turns with others of its kind, so that many at once hold nobody up.
_LONG_BODY_BYTES = 64 * 1024


class RequestBody(io.RawIOBase):
    """The request's body, read on demand and by a deadline: what is not read is never buffered."""

    def __init__(self, receive: Receive, timeout_s: float, on_complete: Callable[[], None]) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        #: None once it has been called, or is of no use any more: it leads back to the reader.
        self._on_complete: Callable[[], None] | None = on_complete
        #: How much has come, in bytes.
        self.taken = 0
        self._rest = b""
        #: How long the client was waited for, in seconds.
        self.waited_s = 0.0
        self.complete = False
        #: Reads of what had come when there was no time left.
        self._late_reads = 0

    def readable(self) -> bool:
        """Return that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with what comes next; 0 is the end.

        Raises:
            RequestTimeout: when the body is slower than it may be.
            ClientDisconnected: when the client left before the end.
        """
        while not self._rest and not self.complete:
            self._rest = await_(self._next())
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def read_whole(self, limit: int) -> bytes | None:
        """Return all that is left of the body, or None once it is more than ``limit`` bytes."""
        # One growing buffer, which is handed on as it is: pieces and their joined copy would take twice the room.
        whole = io.BytesIO()
        size = whole.write(self._rest)
        self._rest = b""
        while not self.complete and size <= limit:
            size += whole.write(await_(self._next()))
        return whole.getvalue() if size <= limit else None

    async def discard(self, limit_s: float) -> None:
        """Take what still comes and keep nothing, for a short time: a client reads when it has sent."""
        size = 0
        with suppress(RequestTimeout, ClientDisconnected, TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self.complete and size < _DISCARD_BYTES:
                    size += len(await self._next())

    async def _next(self) -> bytes:
        if self.taken > _LONG_BODY_BYTES:
            await scheduler().long_bodies.wait_turn()
        slowest = _SLOW_GRACE_S + self.taken / _SLOWEST_BODY
        # The client has time for as long as it is waited for: not while its body waits for a turn.
        left_s = max(0.0, min(self._timeout_s, slowest) - self.waited_s)
        self._late_reads += not left_s
        began = time.monotonic()
        try:
            if self._late_reads > MAX_LATE_WAITS:
                raise TimeoutError
            message = await within(left_s, self._receive())
        except TimeoutError:
            raise RequestTimeout("The request's body arrived too slowly: send it at once.") from None
        finally:
            self._count_wait(time.monotonic() - began, left_s)
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        piece: bytes = message.get("body", b"")
        self.taken += len(piece)
        if not message.get("more_body", False):
            self.complete = True
            if self._on_complete is not None:
                self._on_complete()
                self.forget()
        return piece

    def _count_wait(self, waited_s: float, left_s: float) -> None:
        """Count a wait; long after its end the process stood still, and the client has that time again."""
        late_s = waited_s - left_s
        self.waited_s += left_s - late_s if late_s > _STOOD_STILL_S else waited_s
        self.waited_s = max(0.0, self.waited_s)

    def forget(self) -> None:
        """Drop the reference to the reader."""
        self._on_complete = None
