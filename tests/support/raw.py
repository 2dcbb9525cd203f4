"""A client of bare sockets, for what no HTTP library would do, and for what one would hide."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .http1 import HeaderItems, Headers, Json, merged, render_head, take_chunk, take_head

TEST_KEY = "test-key"


@dataclass(frozen=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    reason: str
    headers: Headers


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Json:
        """The body as JSON; raises ValueError if it is none."""
        return json.loads(self.body)


def build_request(
    method: str, path: str, host: str, port: int, *, headers: HeaderItems = (), body: bytes = b""
) -> bytes:
    """A request as bytes. A header given here replaces the default of that name, also by a lie."""
    defaults = {"Host": f"{host}:{port}"}
    if body and not any(name.lower() == "transfer-encoding" for name, _ in merged((), headers)):
        defaults["Content-Length"] = str(len(body))
    return render_head(f"{method} {path} HTTP/1.1", merged(defaults, headers)) + body


def post_chat(host: str, port: int, body: Json, key: str | None = TEST_KEY, extra_headers: HeaderItems = ()) -> bytes:
    """A chat request as bytes; the body is JSON to be, or bytes to go as they are. No key, no Authorization."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = "/v1/chat/completions"
    return build_request("POST", path, host, port, headers=merged(headers, extra_headers), body=raw)


class RawClient:
    """One connection; a context manager, which closes it.

    Whatever reads raises TimeoutError when it is not complete after `timeout_s` (of the client, and may be changed),
    EOFError when the peer ends early, ConnectionResetError on RST, `MalformedError` on nonsense. With a small
    `receive_buffer_bytes` a client that does not read holds its peer up soon.
    """

    def __init__(
        self, host: str, port: int, *, timeout_s: float = 5.0, receive_buffer_bytes: int | None = None
    ) -> None:
        self.timeout_s = timeout_s
        self._buffer = bytearray()
        self._sock = socket.socket()
        try:
            if receive_buffer_bytes is not None:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._sock.settimeout(timeout_s)
            self._sock.connect((host, port))
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Write all of the data."""
        self._sock.settimeout(self.timeout_s)
        self._sock.sendall(data)

    def close(self) -> None:
        """End the connection with FIN (RST, if bytes have come that were not read); may be called again."""
        self._sock.close()

    def reset(self) -> None:
        """End the connection with RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay able to read."""
        self._sock.shutdown(socket.SHUT_WR)

    def read(self, n: int) -> bytes:
        """Exactly n bytes."""
        deadline = self._deadline()
        while len(self._buffer) < n:
            self._fill(deadline)
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def read_to_eof(self) -> bytes:
        """Everything until the peer ends the connection with FIN."""
        deadline = self._deadline()
        with contextlib.suppress(EOFError):
            while True:
                self._fill(deadline)
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def wait_closed(self) -> bool:
        """Whether the peer ends the connection, in whichever way, within the time-out; drops what comes till then."""
        try:
            self.read_to_eof()
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def read_head(self) -> Head:
        """The next head, also that of an interim answer (1xx)."""
        deadline = self._deadline()
        while (head := take_head(self._buffer)) is None:
            self._fill(deadline)
        start_line, headers = head
        _, status, reason = f"{start_line} ".split(" ", 2)
        return Head(int(status), reason.strip(), headers)

    def read_response(self) -> Response:
        """The next final answer with its whole body."""
        while (head := self.read_head()).status < 200:
            pass
        return Response(head.status, head.headers, b"".join(self.iter_body(head)))

    def iter_body(self, head: Head) -> Iterator[bytes]:
        """The body after the head: chunk by chunk if it is chunked, whole if its length is told, else as it arrives.

        Ends only where the framing ends; the time-out is for each piece.
        """
        length = head.headers.first("Content-Length")
        if head.status < 200 or head.status in (204, 304):
            return
        if (head.headers.first("Transfer-Encoding") or "").lower() == "chunked":
            yield from self._iter_chunks()
        elif length is not None:
            yield self.read(int(length))
        else:
            yield from self._iter_to_eof()

    def iter_events(self, head: Head) -> Iterator[str]:
        """The server-sent events of the body as they come, each as its lines without the blank one, comments too.

        Raises EOFError when the body ends inside an event.
        """
        pending = b""
        for piece in self.iter_body(head):
            *events, pending = (pending + piece).split(b"\n\n")
            yield from (event.decode() for event in events)
        if pending:
            raise EOFError(f"the body ends inside an event: {pending!r}")

    def _iter_chunks(self) -> Iterator[bytes]:
        while True:
            deadline = self._deadline()
            while (piece := take_chunk(self._buffer)) is None:
                self._fill(deadline)
            if not piece:
                return
            yield piece

    def _iter_to_eof(self) -> Iterator[bytes]:
        with contextlib.suppress(EOFError):
            while True:
                if not self._buffer:
                    self._fill(self._deadline())
                piece = bytes(self._buffer)
                self._buffer.clear()
                yield piece

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_s

    def _fill(self, deadline: float) -> None:
        """Read once more into the buffer."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"not complete in time; so far {bytes(self._buffer[:200])!r}")
        self._sock.settimeout(left_s)
        data = self._sock.recv(65536)
        if not data:
            raise EOFError(f"the peer closed; left over {bytes(self._buffer[:200])!r}")
        self._buffer += data
