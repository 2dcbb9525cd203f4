"""uvicorn's HTTP protocol, with the deadlines and bounds that it leaves open."""

import asyncio
import re
from collections import deque
from functools import partial
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from one_api.errors import GatewayError, InvalidRequest, OutOfDescriptors, RequestTimeout
from one_api.serving.disconnect import EXTENSION, DisconnectSignal
from one_api.serving.fairness import FairScheduler
from one_api.serving.host import name_in
from one_api.serving.reads import BoundedReads
from one_api.serving.timeouts import Expiry
from one_api.serving.transport import ANSWER, AnswerWriter, Flow, whole_answer
from one_api.settings.sections import ServerConfig

#: What may wait for the kernel before the application has to wait, in bytes.
_PENDING_BYTES = 16 * 1024
_BLANK_LINES = re.compile(rb"[\r\n]+")
#: How many requests of one connection may wait for their turn before no more of them are read.
_MAX_PIPELINED = 4
#: What makes an offer of another protocol of `Upgrade`, which alone is none: a view may read that.
_OFFER_HEADERS = frozenset({b"http2-settings", b"connection"})
_MAX_HEADER_FIELDS = 100
_MAX_HEADER_BYTES = 64 * 1024
_MAX_URL_BYTES = 16 * 1024
#: What the parser is given at once of a body in chunks, or of a head, in bytes: chunks may be as small as a byte.
_PIECE_BYTES = 4 * 1024
#: What one read of a connection may bring, in bytes.
_READ_BYTES = 32 * 1024
#: A read up to this size is parsed at once, whatever the loop has to do, in bytes.
_SMALL_READ_BYTES = 4 * 1024


class GatewayProtocol(HttpToolsProtocol):
    """One connection. A client that is slow, in either direction, is cut; what is no HTTP is refused in our format."""

    #: Set by the worker, for all connections of the process.
    settings = ServerConfig()
    #: Shared by all connections and streams of the process; set by the worker, too.
    scheduler = FairScheduler()
    _read_buffer = bytearray(_READ_BYTES)
    #: The address of the request that is parsed, as far as it has come.
    url = b""
    _head_timer: Expiry | None = None
    _write_timer: Expiry | None = None
    _abort_timer: Expiry | None = None
    _header_bytes = _header_count = 0
    #: The parser is between the first byte of a head and its end.
    _in_head = False
    #: What came since the parser last reported a head or a part of a body, in bytes.
    _unreported_bytes = 0
    #: What is missing of a body of known length, in bytes.
    _body_left = 0
    #: The request that is parsed is the last one of the connection; it is whole, and nothing after it is read.
    _is_last = _is_over = False
    #: What has come and is not parsed yet, from a position on.
    _unparsed = b""
    _position = 0
    _refusal: GatewayError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, and do not hoard what a slow reader has not taken."""
        super().connection_made(transport)
        transport.set_protocol(BoundedReads(self, self._read_buffer))
        self.flow: Flow = Flow(transport)
        #: The requests of this connection whose answers are not complete, the oldest first.
        self._waiting: deque[RequestResponseCycle] = deque()
        if len(self.connections) > self.settings.max_connections:
            self._refuse(OutOfDescriptors("The gateway has too many connections: try again.", retry_after_s=1))
            return
        transport.set_write_buffer_limits(_PENDING_BYTES)
        # A connection without any request is idle, as one between two requests.
        self._wait_for_request()

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what has come; much of it only when others have not much to do."""
        if self._is_over:
            return
        if self._unparsed:
            self._unparsed = self._unparsed[self._position :] + data
            self._position = 0
            return
        self._unparsed = data
        if len(data) > _SMALL_READ_BYTES and self.scheduler.is_late():
            self._parse_later()
        else:
            self._parse()

    def _parse(self) -> None:
        """Parse what has come until it is used up, until enough requests wait, or until others should go on."""
        data = self._unparsed
        while self._position < len(data) and not self._is_over:
            if len(self.pipeline) >= _MAX_PIPELINED:
                self.flow.hold_reading()  # goes on when they have been answered
                return
            if self._position and not self._body_left and self.scheduler.is_late():
                self._parse_later()
                return
            end = self._piece_end(data, self._position)
            piece = data if end - self._position == len(data) else memoryview(data)[self._position : end]
            self._position = end
            self._feed(piece)
        self._unparsed, self._position = b"", 0
        if self.transport.is_closing():
            return
        self._set_head_timer()
        self.flow.is_held = False
        if self.flow.read_paused and (self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT):
            # A connection that is not read does not report its end. A long body is read on by its request.
            self.flow.resume_reading()

    def _parse_later(self) -> None:
        self.flow.hold_reading()
        self.scheduler.submit(self._parse)

    def _piece_end(self, data: bytes, start: int) -> int:
        """Return where the next piece for the parser ends: it holds one head at most, and few chunks of a body."""
        if self._body_left:
            return min(start + self._body_left, len(data))
        blank = data.find(b"\r\n\r\n", start, start + _PIECE_BYTES)
        if blank == start:
            return _BLANK_LINES.match(data, start).end()  # type: ignore[union-attr]  # at least these
        return min(start + _PIECE_BYTES, len(data)) if blank < 0 else blank + 4

    def _feed(self, piece: bytes | memoryview) -> None:
        """Hand a piece to the parser; a request that offers another protocol is parsed again without the offer."""
        self._unreported_bytes += len(piece)
        while True:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                if not any(name == b"upgrade" for name, _ in self.headers):
                    self._refuse(InvalidRequest("The request is not valid HTTP/1.1."))
                    return
                piece = self._without_offer() + piece[offer.args[0] :]
            except httptools.HttpParserError:
                if not self._is_over:
                    self._refuse(self._refusal or InvalidRequest("The request is not valid HTTP/1.1."))
                return
            else:
                break
        if self._unreported_bytes > 2 * _MAX_HEADER_BYTES:
            self._refuse(self._too_large())  # the parser keeps what it has of a field until it is whole

    def _without_offer(self) -> bytes:
        """Return the head that was parsed last as an ordinary one, for a new parser (Java's client offers HTTP/2).

        The old parser has given up at the end of the head; without the offer the new one goes on to the body.
        """
        kept = [(name, value) for name, value in self.headers if name not in _OFFER_HEADERS]
        if not self.parser.should_keep_alive():
            kept.append((b"connection", b"close"))
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join([start, *(b"%b: %b" % pair for pair in kept), b"", b""])

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._is_over:
            raise ValueError("a request after the last one")
        super().on_message_begin()
        extensions: dict[str, Any] = {EXTENSION: DisconnectSignal()}
        self.scope["extensions"] = extensions
        self._in_head = True
        self._header_bytes = self._header_count = self._unreported_bytes = 0
        self._unset_keepalive_if_required()

    def on_url(self, url: bytes) -> None:
        """Bound the address."""
        super().on_url(url)
        if len(self.url) > _MAX_URL_BYTES:
            raise self._remember(414, "The request's address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the header fields, by number and size. Those after a body are counted and dropped (RFC 9110, 6.5)."""
        self._header_bytes += len(name) + len(value)
        self._header_count += 1
        if self._header_count > _MAX_HEADER_FIELDS or self._header_bytes > _MAX_HEADER_BYTES:
            self._refusal = self._too_large()
            raise ValueError(self._refusal.message)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind those that wait."""
        self._in_head = False
        self._unreported_bytes = 0
        self._stop_head_timer()
        if self.parser.should_upgrade():
            return  # it is parsed again, as an ordinary request
        framing = self._check_head()
        super().on_headers_complete()
        self._body_left = int(framing.get(b"content-length", b"0"))
        self._is_last = not self.cycle.keep_alive
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[ANSWER] = AnswerWriter(self.cycle)
        self._waiting.append(self.cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request, in its turn when many start in one moment."""
        self.scheduler.start(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not self.transport.is_closing():
            super()._start_asgi_task(cycle, app)

    def _check_head(self) -> dict[bytes, bytes]:
        """Refuse heads that other programs on the way might read in another way; return what frames the body."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise self._remember(505, "Speak HTTP/1.1.")
        hosts, framing = [], {}
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name in (b"content-length", b"transfer-encoding"):
                framing[name] = value
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise self._remember(400, "A request has one Host header.")
        if hosts and name_in(hosts[0].decode("latin-1")) is None:
            raise self._remember(400, "The Host header is not a host name.")
        if framing.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise self._remember(400, "The only transfer encoding is chunked.")
        if version == "1.0" and b"transfer-encoding" in framing:
            raise self._remember(400, "HTTP/1.0 has no chunks: send HTTP/1.1, or the body's length.")
        return framing

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unreported_bytes = 0
        if self._body_left:
            self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._is_over = self._is_last

    # Deadlines for requests

    def _wait_for_request(self) -> None:
        """Give the next request its deadline: nothing but the begin of a head moves it."""
        self.timeout_keep_alive_task = Expiry(  # type: ignore[assignment]  # uvicorn only cancels it
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def _set_head_timer(self) -> None:
        """Give a head that has begun its deadline; one that came whole needs none, one behind others waits for them."""
        if self._in_head and self._head_timer is None and not self._waiting:
            self._head_timer = Expiry(self.settings.head_timeout_s, self._cut_head)

    def _cut_head(self) -> None:
        self._head_timer = None
        self._refuse(RequestTimeout("The request's head arrived too slowly: send it at once."))

    def on_response_complete(self) -> None:
        """Go on to the next request, which waits already or is to come; or let go of a connection that ends."""
        self.server_state.total_requests += 1
        if self._waiting:
            self._waiting.popleft()
        if self.transport.is_closing():
            self._abort_later()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self.scheduler.pipelined.submit(self._start_next)
        elif self._in_head:
            self._set_head_timer()
        else:
            self._wait_for_request()

    def _start_next(self) -> None:
        """Start the next of the requests that came before their predecessors were answered."""
        if not self.transport.is_closing():
            cycle, app = self.pipeline.pop()
            super()._start_asgi_task(cycle, app)
            if self._unparsed and not self.pipeline:
                self.scheduler.pipelined.submit(
                    self._parse
                )  # what is missing of this request may be there, or more of them

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
        self._is_over = True
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        speaking = any(each.response_started and not each.response_complete for each in self._waiting)
        for each in self._waiting:
            _dismiss(each)  # their answers cannot be sent any more
        if not speaking and not self.transport.is_closing():
            dated = {name.decode(): value.decode() for name, value in self.server_state.default_headers}
            self.transport.write(whole_answer(error, dated, self.url))
        self.transport.close()
        self._abort_later()

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
        self._write_timer = Expiry(self.settings.write_timeout_s, partial(self._check_progress, unsent))

    def _check_progress(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        else:
            self._watch_progress(unsent)

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = Expiry(self.settings.write_timeout_s, self.transport.abort)

    # The end

    def connection_lost(self, exc: Exception | None) -> None:
        """Signal it to all requests, not only to the one that came last."""
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
        self._waiting.clear()
        # Requests that were never started lead back to this connection.
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]
        self._is_over, self._unparsed = True, b""

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _dismiss(cycle: RequestResponseCycle) -> None:
    """Signal to one request that its client has left."""
    cycle.disconnected = True
    cycle.message_event.set()
    extensions: dict[str, Any] | None = cycle.scope.get("extensions")
    if extensions is not None:
        extensions.pop(ANSWER, None)  # it leads back to the scope of a request that has not begun
        extensions[EXTENSION].fire()
