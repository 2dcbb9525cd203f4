"""The one door to upstreams: an HTTP session, deadlines by phase, caps, and a name for all that goes wrong."""

import asyncio
import math
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

import aiohttp

from one_api.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnfit,
    UpstreamUnreachable,
)
from one_api.models.adapters.base import ChunkStream
from one_api.models.adapters.connections import KeepingConnector, on_kept_connection
from one_api.models.adapters.reports import OPENAI_REPORTS, Reports
from one_api.patience import Patience
from one_api.schema import Usage
from one_api.settings import Secret, Timeouts
from one_api.telemetry import current_call
from one_api.wire import json, sse
from one_api.wire.json import JSONObject
from one_api.wire.payloads import ErrorPayload, InvalidAnswer, UnfitAnswer

#: The largest answer that is not streamed, in bytes.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: The largest error body that is read, in bytes.
_MAX_ERROR_BYTES = 64 * 1024
#: First event of a stream when nobody set a limit, in seconds.
_FIRST_EVENT_S = 120.0
#: How much of a stream the kernel may hold for us (it allows twice that, with its own bookkeeping), in bytes.
_RECEIVE_BYTES = 64 * 1024
#: How much of a stream is taken at once, in bytes.
_PIECE_BYTES = 8 * 1024
#: How often a request is sent, when each time the upstream has closed the kept connection that it went out on.
_KEPT_TRIES = 3
#: How long a stream may go on after its answer is complete: for usage and the end mark, in seconds.
_MAX_TAIL_S = 2.0
#: Statuses of success that never come with an answer.
_WITHOUT_BODY = frozenset({204, 205})
#: How long the framing may lag behind the end of a stream, in seconds.
_LINGER_S = 0.1


class Translator(Protocol):
    """Turns the events of one stream into OpenAI chunks; see ``wire``."""

    finished: bool
    usage: JSONObject | None

    @property
    def is_complete(self) -> bool:
        """Say whether the upstream has sent all of the answer, though perhaps not the end mark."""

    def feed(self, event: sse.Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to."""

    def end(self) -> list[JSONObject]:
        """Return what is still owed when the bytes have ended."""


class Upstream:
    """One server behind one base URL, with one session for the life of the process."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, Secret],
        timeouts: Timeouts,
        *,
        unix_socket: str | None = None,
        reports: Reports = OPENAI_REPORTS,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = headers
        self._timeouts = timeouts
        self._unix_socket = unix_socket
        self._reports = reports
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session; made on first use, so that it belongs to the loop that uses it."""
        if self._session is None:
            connector = (
                # A new connection costs nothing here, and the engine closes those that are kept.
                aiohttp.UnixConnector(self._unix_socket, limit=0, force_close=True)
                if self._unix_socket
                else KeepingConnector()
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"accept-encoding": "gzip, deflate", "user-agent": "one_api"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s),
                trust_env=False,
                read_bufsize=2**13,
            )
        return self._session

    async def get_json(self, path: str, timeout_s: float) -> JSONObject:
        """Return the object that a GET answers with; raises UpstreamError."""
        with _named_errors("the answer", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("GET", path, None)
                async with response:
                    return _object(await self._whole(response))

    async def post(self, path: str, body: JSONObject) -> bytes:
        """Return the whole body that a POST of ``body`` answers with, whatever its label; raises UpstreamError."""
        timeout_s = self._timeouts.total_s
        with _named_errors("the answer", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("POST", path, body)
                async with response:
                    return await self._whole(response)

    async def post_stream(self, path: str, body: JSONObject, translator: Translator) -> ChunkStream:
        """POST ``body`` and return its stream, once its first event has arrived; raises UpstreamError.

        What the answer is, is read from its bytes: labels are wrong too often.
        """
        timeout_s = self._timeouts.first_event_s or _FIRST_EVENT_S
        deadline = asyncio.get_running_loop().time() + self._timeouts.stream_total_s
        with _named_errors("the first event", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("POST", path, body)
                stream = UpstreamStream(response, translator, self._timeouts.idle_s, deadline, self._reports)
                try:
                    await stream.wait_for_first()
                except BaseException:
                    await stream.aclose()
                    raise
        return stream

    async def _request(self, method: str, path: str, body: JSONObject | None) -> aiohttp.ClientResponse:
        """Send a request and return its response, open, if its status is one of success."""
        headers = {name: value.reveal() for name, value in self._headers.items()}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.encode(body)
        response = await self._send(method, self._base_url + path, data, headers)
        record = current_call.get() if body is not None else None
        if record is not None:
            record.upstream_headers = self._reports.client_headers(response.headers)
        if 200 <= response.status < 300 and response.status not in _WITHOUT_BODY:
            return response
        async with response:
            text = b""
            with suppress(aiohttp.ClientError, UpstreamBroken):
                text = await self._whole(response, _MAX_ERROR_BYTES)
            raise self._reports.error_of(response.status, text, response.headers)

    async def _send(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Send a request and return its response, once that has begun.

        A kept connection that the upstream has closed meanwhile is no failure: the request is sent again on another.
        """
        session = self._open_session()
        for left in reversed(range(_KEPT_TRIES)):
            try:
                return await session.request(method, url, data=data, headers=headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not left or isinstance(error, aiohttp.ClientConnectorError) or not on_kept_connection():
                    raise
        raise AssertionError("unreachable")

    async def _whole(self, response: aiohttp.ClientResponse, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Return the whole body, which may hold ``limit`` bytes after decompression."""
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamBroken(f"The upstream's answer is larger than {limit} bytes.")
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class UpstreamStream(ChunkStream):
    """The events of one response, translated; ``idle_s`` is the longest silence between two of them."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        translator: Translator,
        idle_s: float,
        deadline: float,
        reports: Reports = OPENAI_REPORTS,
    ) -> None:
        self._response = response
        self._translator = translator
        self._own_idle_s = idle_s
        self._reports = reports
        #: Of the whole stream, in the loop's time.
        self._deadline = deadline
        self._patience = Patience()
        self._events = sse.EventReader()
        self._ready: list[JSONObject] = []
        #: How the stream broke; told once everything that came before has been read.
        self._failure: UpstreamError | None = None
        #: Something of an answer has come.
        self._begun = False
        #: When a complete answer is not waited for any longer, in the loop's time.
        self._tail_ends: float | None = None
        _limit_kernel(response)

    async def wait_for_first(self) -> None:
        """Wait for the first event, and keep it for ``read``."""
        while not self._ready and not self.ended:
            await self._receive()
        if self._failure is not None:  # nothing of it has been passed on: another deployment may do better
            raise self._failure

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        if not self._ready and self._failure is not None:
            raise self._failure
        # What counts is the waiting since the last event, not since the last byte or call: a trickle is silence, too.
        # Not the time that the client takes in between. An event that is not for the client counts: a model that
        # thinks in silence sends pings.
        idle_s = self._own_idle_s if self.idle_s is None else min(self._own_idle_s, self.idle_s)
        while not self._ready and not self.ended:
            limit = min(self._patience.until(idle_s), self._deadline, self._end_of_tail())
            try:
                if await self._patience.wait(self._receive(), limit):
                    self._patience.begin_anew()
            except Exception as error:
                if self._translator.is_complete and not isinstance(error, UpstreamError):
                    self._end()
                    continue
                with _named_errors("the next event", idle_s):
                    raise
        ready, self._ready = self._ready, []
        return ready

    def _end_of_tail(self) -> float:
        """Return until when to wait for what may follow a complete answer, counted from the first wait for it."""
        if not self._translator.is_complete:
            return math.inf
        if self._tail_ends is None:
            self._tail_ends = asyncio.get_running_loop().time() + _MAX_TAIL_S
        return self._tail_ends

    async def _receive(self) -> bool:
        """Take what has arrived, and translate it; say whether it held an event.

        A fault is kept for later while there is something to read.
        """
        received = await self._response.content.read(_PIECE_BYTES)
        blocks = self._events.blocks
        try:
            self._translate(received)
        except ErrorPayload as error:
            self._ready += error.chunks
            self._failure = self._reports.error_of_payload(error.payload)
        except UnfitAnswer as error:
            self._failure = UpstreamUnfit(f"The upstream's answer is not what was asked for: {error}.")
        except (InvalidAnswer, sse.EventTooLarge) as error:
            if self._translator.is_complete:
                self._end()
            else:
                self._failure = UpstreamBroken(f"The upstream's stream cannot be read: {error}.")
        if self._translator.usage is not None:
            self.usage = Usage.read(self._translator.usage)
        if self._failure is not None and not self._ready:
            raise self._failure
        return self._events.blocks > blocks

    def _translate(self, received: bytes) -> None:
        """Add the chunks that ``received`` amounts to; no bytes are the end of the response."""
        for event in self._events.feed(received) if received else self._events.end():
            self._ready += self._translator.feed(event)
            self._begun = self._begun or bool(self._ready)
            if self._translator.finished:
                break
        if received:
            self.ended = self._translator.finished
        else:
            self._end()

    def _end(self) -> None:
        """Take the answer for ended: nothing more comes, or is waited for."""
        self._ready += self._translator.end()
        self._failure = None if self._translator.finished else self._not_complete()
        self.ended = self._translator.finished

    def _not_complete(self) -> UpstreamBroken:
        """Return the error for bytes that ended before the answer did."""
        label = self._response.content_type
        if self._begun or (label == "text/event-stream" and not self._events.blocks):
            return _truncated()
        if self._events.blocks:
            return UpstreamBroken("The upstream's stream holds no answer.")
        return UpstreamBroken(f"The upstream answered with {label[:64]} instead of an event stream.")

    async def aclose(self) -> None:
        """Close the response; a connection whose stream was read to its very end is used again."""
        self.ended = True
        self._patience.close()
        if self._response.closed:
            return
        if self._translator.finished and await self._at_end():
            self._response.release()
        else:
            self._response.close()

    async def _at_end(self) -> bool:
        """Say whether nothing follows the stream's end; what is left of the framing may be on its way."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LINGER_S):
                return not await self._response.content.readany()
        return False


def _limit_kernel(response: aiohttp.ClientResponse) -> None:
    """Keep the kernel from hoarding what an upstream sends faster than the client reads."""
    transport = response.connection and response.connection.transport
    connection = transport and transport.get_extra_info("socket")
    if connection:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)


def _truncated() -> UpstreamBroken:
    return UpstreamBroken(
        "The upstream's stream stopped before the answer was complete.", code="upstream_stream_truncated"
    )


def _object(data: bytes) -> JSONObject:
    """Return the object in an answer that is not streamed."""
    try:
        return json.decode_object(data)
    except json.InvalidJSON as error:
        raise UpstreamBroken(f"The upstream's answer is not a JSON object: {error}.") from None


# What went wrong: foreign exceptions and statuses, each named once


@contextmanager
def _named_errors(awaited: str, timeout_s: float) -> Iterator[None]:
    """Turn what aiohttp and the clock raise into our classes."""
    try:
        yield
    except UpstreamError:
        raise
    except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError) as error:
        raise UpstreamUnreachable("The upstream could not be reached in time.") from error
    except TimeoutError as error:
        raise UpstreamTimeout(f"The upstream did not send {awaited} within {timeout_s:g} s.") from error
    except aiohttp.ClientSSLError as error:
        raise UpstreamUnreachable(
            "The upstream's certificate is not valid, or it does not speak TLS.", code="upstream_tls"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise UpstreamUnreachable("The upstream could not be reached.") from error
    except (aiohttp.ServerDisconnectedError, ConnectionError, aiohttp.ClientOSError) as error:
        raise UpstreamFailed("The upstream closed the connection without an answer.") from error
    except aiohttp.ClientPayloadError as error:
        raise _truncated() from error
    except (aiohttp.ClientError, ValueError) as error:
        raise UpstreamBroken("The upstream's answer cannot be read.") from error
