"""One connection to the scripted upstream: reads requests, performs scripts, notices when the peer leaves."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine

from .actions import Action, Chop, Close, Flood, Hang, Receive, Reset, Script, Send, Wait, WaitFor
from .http1 import Headers, MalformedError, take_chunk, take_head
from .seen import Seen

SLICE_BYTES = 65536
FIN_LINGER_S = 1.0
POLL_S = 0.005
NO_LINGER = struct.pack("ii", 1, 0)


class Signals:
    """Awaits events of the `threading` module on one event loop, with one poll for each event, however many wait."""

    def __init__(self) -> None:
        self._polls: dict[threading.Event, asyncio.Task[None]] = {}

    async def wait(self, event: threading.Event) -> None:
        """Return once the event is set."""
        if event not in self._polls:
            self._polls[event] = asyncio.create_task(self._poll(event))
        await asyncio.shield(self._polls[event])

    async def _poll(self, event: threading.Event) -> None:
        while not event.is_set():
            await asyncio.sleep(POLL_S)
        del self._polls[event]

    async def aclose(self) -> None:
        """Wait for nothing any longer."""
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


class Connection:
    """Serves one accepted socket, which it closes; lives on the upstream's event loop."""

    def __init__(self, sock: socket.socket, number: int, choose: Callable[[Seen], Script], signals: Signals) -> None:
        self.number = number
        self._sock = sock
        self._choose = choose
        self._signals = signals
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()
        self._seen: Seen | None = None
        self._resets = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def serve(self, opening: Script) -> None:
        """Perform the opening script, then answer requests until either side ends the connection."""
        pump = asyncio.create_task(self._pump())
        try:
            if await self._until_gone(self._run(opening)):
                while await self._exchange():
                    pass
            if not self._resets:
                await self._say_goodbye()
        finally:
            pump.cancel()
            try:
                await asyncio.gather(pump, return_exceptions=True)
            finally:  # the server's stop may cancel us here too
                self._sock.close()

    async def _pump(self) -> None:
        """Read all the time, so that a peer's leaving is noticed while a script waits."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._sock, SLICE_BYTES):
                self._buffer += data
                self._arrived.set()
                await asyncio.sleep(0)  # a peer that writes fast would keep every other task from running
        except OSError:
            pass
        self._peer_left()

    def _peer_left(self) -> None:
        self._gone.set()
        self._arrived.set()
        if self._seen is not None:
            self._seen.closed.set()

    async def _say_goodbye(self) -> None:
        """FIN, and read on until the peer has closed: closing with unread bytes would send RST instead."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(self._gone.wait(), FIN_LINGER_S)
        except (OSError, TimeoutError):
            pass

    async def _exchange(self) -> bool:
        """One request and its script; whether the connection can take another."""
        try:
            seen = await self._read_request()
        except EOFError:
            return False
        self._seen = seen
        if self._gone.is_set():
            self._peer_left()
        try:
            return await self._until_gone(self._run(self._choose(seen))) and seen.keep_alive
        finally:
            self._seen = None
            seen.ended.set()

    async def _until_gone(self, running: Coroutine[None, None, bool]) -> bool:
        """What `running` returns; False as soon as the peer has left."""
        work, gone = asyncio.create_task(running), asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return work.done() and work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _run(self, script: Script) -> bool:
        """Perform the script; whether the connection goes on."""
        goes_on = True
        try:
            for action in script:
                await self._perform(action)
                goes_on = goes_on and not isinstance(action, Close | Reset)
                if not goes_on:
                    break
        except (OSError, EOFError):
            self._peer_left()
            return False
        # From here on the peer may close without having left too early; no other task can run before this line.
        self._seen = None
        return goes_on

    async def _perform(self, action: Action) -> None:
        match action:
            case Send(data):
                await self._send(data)
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case WaitFor(event):
                await self._signals.wait(event)
            case Receive(count):
                while len(self._buffer) < count:
                    await self._more()
            case Hang():
                await self._gone.wait()
            case Chop(data, size, pause_s):
                await self._chop(data, size, pause_s)
            case Flood(total_bytes, piece):
                await self._flood(total_bytes, piece)
            case Reset():
                self._resets = True
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            case Close():
                pass

    async def _send(self, data: bytes) -> None:
        loop, view = asyncio.get_running_loop(), memoryview(data)
        for start in range(0, len(view), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            await loop.sock_sendall(self._sock, piece)
            if self._seen is not None:
                self._seen.sent_bytes += len(piece)

    async def _chop(self, data: bytes, size: int, pause_s: float) -> None:
        for start in range(0, len(data), size):
            if start:
                await asyncio.sleep(pause_s)
            await self._send(data[start : start + size])

    async def _flood(self, total_bytes: int, piece: bytes) -> None:
        sent_bytes = 0
        while sent_bytes < total_bytes:
            if sent_bytes:
                await asyncio.sleep(0)
            await self._send(piece)
            sent_bytes += len(piece)

    async def _more(self) -> None:
        """Wait for bytes; raises EOFError once the peer has left."""
        if self._gone.is_set():
            raise EOFError
        self._arrived.clear()
        await self._arrived.wait()

    async def _read_request(self) -> Seen:
        while (head := take_head(self._buffer)) is None:
            await self._more()
        start_line, headers = head
        method, _, rest = start_line.partition(" ")
        path, _, version = rest.rpartition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise MalformedError(f"request line {start_line!r}")
        keep_alive = version == "HTTP/1.1" and (headers.first("Connection") or "").lower() != "close"
        body = await self._read_body(headers)
        return Seen(method, path, headers, body, self.number, keep_alive, time.monotonic())

    async def _read_body(self, headers: Headers) -> bytes:
        lengths, codings = headers.all("Content-Length"), headers.all("Transfer-Encoding")
        if len(lengths) + len(codings) > 1:
            raise MalformedError(f"a body framed twice: {lengths} {codings}")
        if codings:
            return await self._read_chunks()
        length = int(lengths[0]) if lengths else 0
        while len(self._buffer) < length:
            await self._more()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    async def _read_chunks(self) -> bytes:
        pieces: list[bytes] = []
        while (piece := take_chunk(self._buffer)) != b"":
            if piece is None:
                await self._more()
            else:
                pieces.append(piece)
        return b"".join(pieces)
