"""What lies between the protocol and the socket of a connection."""

import socket
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from one_api.dialects import json
from one_api.dialects.anthropic.inbound.errors import to_anthropic
from one_api.errors import GatewayError

#: The server puts a request's ``AnswerWriter`` under this name, among the ``extensions`` of its ASGI scope.
ANSWER = "one_api.answer"
#: In an address it means that errors are read in Anthropic's form.
_ANTHROPIC_PATH = b"/v1/messages"
#: What a header may hold: all but control characters, of which a tab is allowed.
_NO_CONTROLS = bytes({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)})

#: What may wait unsent in the kernel for one client, in bytes; more waits at the upstream.
_UNSENT_BYTES = 64 * 1024


class Flow(FlowControl):
    """Pauses and resumes a connection."""

    #: Reading is not resumed meanwhile, even if something asks for it.
    is_held = False

    def hold_reading(self) -> None:
        """Read nothing more until it is released."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless it is held."""
        if not self.is_held:
            super().resume_reading()


class AnswerWriter:
    """Writes one answer: the head goes out with the first piece of the body, as one packet."""

    __slots__ = ("_chunked", "_cycle", "_head", "_left")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head = b""
        self._chunked = False
        #: What is owed of a body of known length, in bytes.
        self._left = 0

    @property
    def is_held_up(self) -> bool:
        """Whether the client has to read first; see ``drain``."""
        flow: FlowControl = self._cycle.flow
        return flow.write_paused and not self._cycle.disconnected

    async def drain(self) -> None:
        """Wait until the client has read enough."""
        await self._cycle.flow.drain()

    def cut(self) -> None:
        """Close the connection of an answer that stays without its end."""
        self._cycle.disconnected = True  # nothing more is sent, and uvicorn does not take it for a mistake
        self._cycle.transport.close()

    def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Make the head; raises ValueError for a header that could be taken for more than one."""
        cycle = self._cycle
        named = {}
        lines = []
        for name, value in headers:
            named[name := name.lower()] = value
            lines.append(f"{name}: {value}\r\n")
        length, is_closing = named.get("content-length"), "close" in named.get("connection", "").lower()
        if not cycle.keep_alive or is_closing:
            cycle.keep_alive = False
            if not is_closing:
                lines.append("connection: close\r\n")
        is_empty = cycle.scope["method"] == "HEAD" or status in (204, 304)
        if length is None and not is_empty:
            self._chunked = True
            lines.append("transfer-encoding: chunked\r\n")
        self._left = 0 if is_empty or length is None else int(length)
        text = "".join(lines).encode("latin-1")
        if text.translate(None, _NO_CONTROLS) != b"\r\n" * len(lines):
            raise ValueError("a header holds a control character")
        dated = b"".join([b"%b: %b\r\n" % pair for pair in cycle.default_headers])
        self._head = b"%b%b%b\r\n" % (STATUS_LINE[status], dated, text)

    def write(self, piece: bytes, *, more: bool) -> None:
        """Write a piece of the body, the last one if no ``more`` come; of an answer without a body only the head."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
            if not more:
                data += b"0\r\n\r\n"
        elif cycle.scope["method"] == "HEAD":
            data = b""
        else:
            data = piece
            self._left -= len(piece)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as its head says")
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            cycle.transport.write(data)
        if not more:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()


def whole_answer(error: GatewayError, headers: Mapping[str, str], address: bytes = b"") -> bytes:
    """Return an error as the last answer of a connection, head and all.

    ``headers`` are those of every answer, ``address`` is what was asked for, as far as that is known.
    """
    body = json.encode(to_anthropic(error) if _ANTHROPIC_PATH in address else error.to_openai())
    fields: dict[str, Any] = {
        **headers,
        "content-type": "application/json",
        "content-length": len(body),
        "connection": "close",
        **error.headers(),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{head}\r\n".encode() + body


def set_options(connection: socket.socket, silent_s: float) -> None:
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
