"""What lies between the protocol and the socket of a connection."""

import asyncio
import socket

from uvicorn.protocols.http.flow_control import FlowControl

#: What may wait unsent in the kernel for one client, in bytes; more waits at the upstream.
_UNSENT_BYTES = 64 * 1024


class Flow(FlowControl):
    """Pauses and resumes a connection."""

    #: Reading is not resumed meanwhile, whoever asks for it.
    is_held = False

    def hold_reading(self) -> None:
        """Read nothing more until it is released."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless it is held."""
        if not self.is_held:
            super().resume_reading()


class JoinedHead:
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
