"""uvicorn's HTTP protocol, with the deadlines and bounds that it leaves open."""

import asyncio
import re
import socket
from asyncio import TimerHandle
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from one_api.errors import GatewayError, InvalidRequest, NoDeployment, RequestTimeout
from one_api.serving.departure import EXTENSION, Departure
from one_api.settings import ServerConfig
from one_api.wire import json

#: What may wait unsent in the kernel for one client, in bytes; more waits at the upstream.
_UNSENT_BYTES = 64 * 1024
#: What may wait for the kernel before the application has to wait, in bytes.
_PENDING_BYTES = 16 * 1024
_HOST = re.compile(rb"[A-Za-z0-9._~%\[\]:-]{1,255}")
#: How many requests of one connection may wait for their turn before no more of them are read.
_MOST_PIPELINED = 16
#: What a client sends to offer another protocol.
_OFFER_HEADERS = frozenset({b"upgrade", b"http2-settings", b"connection"})
_MOST_HEADER_FIELDS = 100
_MOST_HEADER_BYTES = 64 * 1024
_MOST_URL_BYTES = 16 * 1024


class GatewayProtocol(HttpToolsProtocol):
    """One connection. A client that is slow, in either direction, is cut; what is no HTTP is refused in our format."""

    #: Set by the worker, for all connections of the process.
    edge = ServerConfig()
    #: The requests of this connection whose answers are not complete, the oldest first.
    _waiting: tuple[RequestResponseCycle, ...] = ()
    _head_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None
    _abort_timer: TimerHandle | None = None
    _header_bytes = 0
    #: All bytes that came while a head was not complete.
    _head_bytes = 0
    _refusal: GatewayError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send small pieces at once, and do not let the kernel hoard what a slow reader has not taken."""
        super().connection_made(transport)
        if len(self.connections) > self.edge.max_connections:
            self._refuse(NoDeployment("The gateway has too many connections: try again.", retry_after_s=1))
            return
        transport.set_write_buffer_limits(_PENDING_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            with suppress(OSError):
                _set_options(connection, self.edge.write_timeout_s)
        # A connection without any request is idle, as one between two requests.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or InvalidRequest("The request is not valid HTTP/1.1."))
        else:
            if self._head_timer is not None:
                self._bound_head(len(data))

    def _bound_head(self, received: int) -> None:
        """Refuse a head without end: the parser keeps what it has of a field until it is whole."""
        self._head_bytes += received
        if self._head_bytes > 2 * _MOST_HEADER_BYTES:
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        """Give the head of a request its deadline."""
        super().on_message_begin()
        extensions: dict[str, Any] = {EXTENSION: Departure()}
        self.scope["extensions"] = extensions
        self._header_bytes = self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.edge.head_timeout_s, self._cut_head)

    def _cut_head(self) -> None:
        self._head_timer = None
        if self._busy:
            self._head_timer = self.loop.call_later(self.edge.head_timeout_s, self._cut_head)
        else:
            self._refuse(RequestTimeout("The request's head arrived too slowly: send it at once."))

    def on_url(self, url: bytes) -> None:
        """Bound the address."""
        super().on_url(url)
        if len(self.url) > _MOST_URL_BYTES:
            raise self._remember(414, "The request's address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the header fields, by number and size."""
        self._header_bytes += len(name) + len(value)
        if len(self.headers) >= _MOST_HEADER_FIELDS or self._header_bytes > _MOST_HEADER_BYTES:
            self._refusal = self._too_large()
            raise ValueError(self._refusal.message)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on reading while requests queue up, within limits: a connection that is not read does not tell its end."""
        self._stop_head_timer()
        if self.parser.should_upgrade():
            return  # it is parsed again, as an ordinary request
        self._check_head()
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":
            self.cycle.transport = _JoinedHead(self.transport)  # type: ignore[assignment]
        self._waiting = (*(each for each in self._waiting if not each.response_complete), self.cycle)
        if len(self._waiting) <= _MOST_PIPELINED:
            self.flow.resume_reading()

    def _check_head(self) -> None:
        """Refuse heads that other programs on the way might read in another way."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            raise self._remember(400, "A request has one Host header.")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise self._remember(400, "The Host header is not a host name.")
        framing = {name: value for name, value in self.headers if name in (b"content-length", b"transfer-encoding")}
        if framing.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise self._remember(400, "The only transfer encoding is chunked.")

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline(self, rest: bytes) -> None:
        """Take a request that offers another protocol (Java's client does by default) for an ordinary one.

        The parser has given up at the end of its head; without the offer it goes on to the body.
        """
        if not any(name == b"upgrade" for name, _ in self.headers):
            self._refuse(InvalidRequest("The request is not valid HTTP/1.1."))
            return
        kept = [(name, value) for name, value in self.headers if name not in _OFFER_HEADERS]
        if not self.parser.should_keep_alive():
            kept.append((b"connection", b"close"))
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(b"\r\n".join([start, *(b"%b: %b" % pair for pair in kept), b"", rest]))

    # Refusing

    @staticmethod
    def _too_large() -> InvalidRequest:
        return InvalidRequest("The request has too many header fields, or too large ones.", status=431)

    def _remember(self, status: int, message: str) -> ValueError:
        """Note why the request is refused; the parser turns any exception into one of its own."""
        self._refusal = InvalidRequest(message, status=status)
        return ValueError(message)

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error and close; in the middle of another answer, only close."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        speaking = any(each.response_started and not each.response_complete for each in self._waiting)
        for each in self._waiting:
            _dismiss(each)  # whatever it was going to say is not heard any more
        if not speaking and not self.transport.is_closing():
            body = json.encode(error.to_openai())
            fields: dict[str, Any] = {
                "content-type": "application/json",
                "content-length": len(body),
                "connection": "close",
                **error.headers(),
            }
            dated = {name.decode(): value.decode() for name, value in self.server_state.default_headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in (dated | fields).items())
            phrase = HTTPStatus(error.status).phrase
            self.transport.write(f"HTTP/1.1 {error.status} {phrase}\r\n{head}\r\n".encode() + body)
        self.transport.close()
        self._abort_later()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # Writing

    def pause_writing(self) -> None:
        """The client does not read fast enough: it must make some progress."""
        super().pause_writing()
        if self._write_timer is None:
            self._watch_progress(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_progress(self, unsent: int) -> None:
        self._write_timer = self.loop.call_later(self.edge.write_timeout_s, self._check_progress, unsent)

    def _check_progress(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        else:
            self._watch_progress(unsent)

    def on_response_complete(self) -> None:
        """Let go of a connection whose last bytes nobody takes."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(self.edge.write_timeout_s, self.transport.abort)

    # The end

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests, not only the one that came last."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        super().connection_lost(exc)
        if self._write_timer is not None:
            self._write_timer.cancel()
        for cycle in self._waiting:
            if not cycle.response_complete:
                _dismiss(cycle)
        self._waiting = ()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _JoinedHead:
    """The transport of one response: the head goes out with the first piece of the body, as one packet."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send ``data``, or hold it if it is the head."""
        if self._head is None and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Say whether the connection is about to close."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what is held, and close the connection."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()


def _set_options(connection: socket.socket, silent_s: float) -> None:
    """Send small pieces at once; give up a peer whose network has gone without a word, soon after ``silent_s``."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
        ("TCP_KEEPIDLE", max(1, int(silent_s / 2))),
        ("TCP_KEEPINTVL", max(1, int(silent_s / 6))),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", int(silent_s * 1000)),
    ):
        if (option := getattr(socket, name, None)) is not None:  # not every system has all
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _dismiss(cycle: RequestResponseCycle) -> None:
    """Tell one request that its client has left."""
    cycle.disconnected = True
    cycle.message_event.set()
    extensions: dict[str, Any] | None = cycle.scope.get("extensions")
    if extensions is not None:
        extensions[EXTENSION].happened()
