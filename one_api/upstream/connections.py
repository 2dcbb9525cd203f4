"""Connections that are kept between two requests, and what can become of them meanwhile.

aiohttp hands out any kept connection that is open. Two things may have happened to it: the upstream has just closed
it, so that the next request goes nowhere; or it has sent more than the answer it owed, which would be taken for the
answer to the next request, and that may be another client's.
"""

import asyncio
import math
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from one_api.serving.fairness import FairScheduler, scheduler
from one_api.serving.reads import BoundedReads
from one_api.upstream.resolver import BoundedResolver

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

#: How many answers "go on" (100 to 199) may come before the one that counts.
_MAX_INTERIM = 10
#: How much is parsed at once while no answer has begun, in bytes: the parser makes whole messages of all that it gets.
_HEAD_BYTES = 4 * 1024
#: What is parsed in one go, head and body, in bytes.
_SMALL_BYTES = 1024
#: What one read may bring, in bytes: twice what aiohttp pauses at, whose buffer it goes to whole.
_READ_BYTES = 16 * 1024
#: After how many reads of one body it is under way: the first brings the opening of a stream, the second its content.
_FIRST_READS = 2
#: How many connections one request may be given, should each have bytes on it that no request asked for.
_MAX_SPOILT = 10

_kept: ContextVar["BoundedHandler | None"] = ContextVar("kept", default=None)


def on_kept_connection() -> bool:
    """Return whether the last request of this context went out on a connection that had served another before."""
    return _kept.get() is not None


def has_been_answered() -> bool:
    """Return whether anything has come for that request: then its upstream has read it."""
    handler = _kept.get()
    return handler is not None and handler.has_spoken


class TooManyInterim(aiohttp.ClientError):
    """The upstream says "go on" without end."""


class JoinedBody(StreamReader):
    """aiohttp's reader of a body, for readers that do not ask where HTTP's chunks end.

    What has come and was not read is kept in one piece. aiohttp keeps each chunk apart, and notes its end: a chunk is
    an event of a stream nearly always, and took more steps so than its few bytes are worth.
    """

    __slots__ = ()

    def begin_http_chunk_receiving(self) -> None:
        """Note nothing."""

    def end_http_chunk_receiving(self) -> None:
        """Note nothing."""

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        """Keep what has come."""
        if not self._buffer or not data:
            return super().feed_data(data, size)
        self._buffer[-1] += data
        self._size += len(data)
        self.total_bytes += len(data)
        if self._size > self._high_water:
            self._protocol.pause_reading()
        return False


class BoundedHandler(ResponseHandler):
    """aiohttp's side of one connection.

    It ends when interim answers (``100 Continue``) come without end, and its answer, once under way, gives way to
    requests that wait for their start.
    """

    #: When it was last given to a request, by the loop's clock; None before its first.
    given_at: float | None = None
    #: Something has come since then.
    has_spoken = False
    _interim = 0
    #: How often something of the body under way has come.
    _reads = 0
    #: What has come and waits for its turn.
    _held = b""

    def __init__(self, loop: asyncio.AbstractEventLoop, fair: FairScheduler, buffer: bytearray) -> None:
        """``buffer`` is read into, see ``BoundedReads``."""
        super().__init__(loop)
        self._fair = fair
        self._read_buffer = buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read in small pieces: of a stream that is not read on, only one piece is kept."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_protocol(BoundedReads(self, self._read_buffer))

    def data_received(self, data: bytes) -> None:
        """Parse what has come, or let it wait while requests wait for their start."""
        if self._payload is None or self._payload.is_eof():
            self._parse(data)
            return
        if not data:  # aiohttp goes on with what it holds back itself
            self._go_on()
            super().data_received(data)
            return
        self._reads += 1
        if not self._held and (self._reads <= _FIRST_READS or not self._fair.is_crowded):
            super().data_received(data)
            return
        if not self._held:
            self._fair.hold(self._go_on)
            self._pause_reading_for_buffer()  # what comes meanwhile waits at the upstream
        self._held += data

    def _go_on(self) -> int:
        """Parse what has waited, and return how many bytes that was."""
        held, self._held = self._held, b""
        if held:
            super().data_received(held)
            self._resume_reading_for_buffer()
        return len(held)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on, if it was paused: aiohttp asks for this at each piece of a body that is taken."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _parse(self, data: bytes) -> None:
        """Parse what may be nothing but heads: one at a time, and what is long of one in small pieces."""
        self.has_spoken = True
        start = 0
        while len(data) - start > _SMALL_BYTES and (self._payload is None or self._payload.is_eof()):
            blank = data.find(b"\r\n\r\n", start, start + _HEAD_BYTES)
            end = start + _HEAD_BYTES if blank < 0 else blank + 4
            super().data_received(data[start:end])
            start = end
            if self._exception is not None or self.transport is None:
                return
        if not start:
            super().data_received(data)
        elif start < len(data):
            super().data_received(data[start:])

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Fail, and the body under way too: its reader would wait where the framing ends and what it holds does not."""
        body = self._payload
        super().set_exception(exc, *cause)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the body cannot be read"))

    def eof_received(self) -> None:
        """Parse what has waited, and end."""
        self._go_on()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Parse what has waited, and end."""
        self._go_on()
        super().connection_lost(exc)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of an answer, unless it is one interim answer too many."""
        self._reads = 0
        if isinstance(self._exception, TooManyInterim):
            return
        code = data[0].code
        self._interim = self._interim + 1 if 100 <= code < 200 and code != 101 else 0
        if type(data[1]) is StreamReader:
            data[1].__class__ = JoinedBody  # aiohttp's parser makes no other
        if self._interim <= _MAX_INTERIM:
            super().feed_data(data, size)
        else:
            self.set_exception(TooManyInterim(f"more than {_MAX_INTERIM} interim answers"))
            if self.transport is not None:
                self.transport.abort()


class KeepingConnector(aiohttp.TCPConnector):
    """aiohttp's connector, which closes a kept connection on which bytes have come that no request asked for."""

    #: A connection that was last given out before is not given out again, by the loop's clock.
    _trusted_after = -math.inf

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        # How many requests may be in flight is decided where deployments are chosen, not here (limit=0).
        super().__init__(limit=0, keepalive_timeout=30, ttl_dns_cache=30, resolver=resolver or BoundedResolver())
        self._factory = cast(
            "partial[ResponseHandler]",
            partial(BoundedHandler, loop=self._loop, fair=scheduler(), buffer=bytearray(_READ_BYTES)),
        )

    async def connect(self, req: "ClientRequest", traces: "list[Trace]", timeout: aiohttp.ClientTimeout) -> Connection:
        """Return a connection, kept or new, with nothing left over on it."""
        spoilt = 0
        while spoilt < _MAX_SPOILT:
            try:
                connection = await super().connect(req, traces, timeout)
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
                self.clear_dns_cache()  # its name may lead elsewhere by now
                raise
            protocol = connection.protocol
            if protocol is None or protocol.should_close:
                spoilt += 1
                connection.close()
                continue
            assert isinstance(protocol, BoundedHandler)  # noqa: S101 - our factory makes no other
            if protocol.given_at is not None and protocol.given_at <= self._trusted_after:
                connection.close()  # one less of those that are kept
                continue
            _kept.set(None if protocol.given_at is None else protocol)
            protocol.given_at, protocol.has_spoken = self._loop.time(), False
            return connection
        raise aiohttp.ServerDisconnectedError("the upstream speaks before it is asked")

    def distrust_kept(self) -> None:
        """Give out none of the connections that are kept now: one of them was dead, and may not be the only one."""
        self._trusted_after = self._loop.time()
