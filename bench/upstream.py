"""A scripted OpenAI-compatible upstream, fast enough never to be what is measured.

Run it with `python -m bench.upstream --port 0`; it prints its port. Models `bench` and `bench-short` answer at once;
`bench-slow` streams one chunk every 50 ms, and the content of each is the time.monotonic() at which it left, so that a
reader on the same machine can tell how late it came; `bench-idle` sends one chunk and falls silent; `bench-flood`
has no end. `bench-native` speaks Anthropic's Messages, and is as short as `bench-short`.
"""

import argparse
import asyncio
import os
import re
import signal
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

from bench import script
from bench.target import FLOOD_MODEL, IDLE_MODEL, LOOPBACK, PACE_S, SHORT_MODEL, SLOW_MODEL, STREAM_CHUNKS

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_IDLE_S = 3600.0
_FLOOD_CHUNKS = 100

_MAX_REQUEST_BYTES = 1 << 20
_BACKLOG = 4096


@dataclass
class Stats:
    """What GET /stats shows; the connection that asks is not counted as open."""

    requests: int = 0
    open_connections: int = 0
    streams_open: int = 0
    streams_aborted: int = 0


class UpstreamProtocol(asyncio.Protocol):
    """One connection: requests with a content-length, kept alive, answered in their order."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._close_after = False
        self._is_paused = False
        #: What is sent over and over again.
        self._flood = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._stats.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the paced stream, if one is under way, and count it as aborted."""
        self._stats.open_connections -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._stats.streams_open -= 1
            self._stats.streams_aborted += 1

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer = self._buffer + data if self._buffer else data
        if len(self._buffer) > _MAX_REQUEST_BYTES:
            self._transport.abort()
            return
        self._serve_buffered()

    def _serve_buffered(self) -> None:
        """Answer every whole request in the buffer, until a paced stream is under way."""
        while self._buffer and self._timer is None and not self._transport.is_closing():
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            length = _CONTENT_LENGTH.search(self._buffer, 0, head_end)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            head, body = self._buffer[:head_end], self._buffer[head_end + 4 : end]
            self._buffer = self._buffer[end:]
            self._close_after = _CLOSE.search(head) is not None
            self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        stats = self._stats
        if head.startswith(b"POST /v1/chat/completions "):
            stats.requests += 1
            self._complete(body)
        elif head.startswith(b"POST /v1/messages "):
            self._send(*script.NATIVE)
        elif head.startswith(b"POST /v1/embeddings "):
            self._send(script.EMBEDDING)
        elif head.startswith(b"GET /v1/models "):
            self._send(script.MODELS)
        elif head.startswith(b"GET /v1/models?"):
            self._send(script.NATIVE_MODELS)  # asked as Anthropic is
        elif head.startswith(b"GET /stats "):
            self._send(script.answer(asdict(stats) | {"open_connections": stats.open_connections - 1}))
        else:
            self._send(script.NOT_FOUND)

    def _complete(self, body: bytes) -> None:
        if not body:
            self._send(script.NO_LENGTH)
            return
        if not _STREAM.search(body):
            self._send(script.COMPLETION)
            return
        named, with_usage = _MODEL.search(body), _USAGE.search(body) is not None
        model = named[1].decode() if named else ""
        if model in (SLOW_MODEL, IDLE_MODEL):
            frames = script.PACED[with_usage]
            self._stats.streams_open += 1
            idle = model == IDLE_MODEL
            self._transport.write(frames.opening + (frames.content(b"word") if idle else b""))
            self._pace(frames, 0, self._loop.time() + (_IDLE_S if idle else PACE_S))
        elif model == FLOOD_MODEL:
            self._flood = script.PACED[with_usage].content(b"word") * _FLOOD_CHUNKS
            self._transport.write(script.PACED[with_usage].opening)
            self.resume_writing()
        else:
            self._send(*(script.SHORT if model == SHORT_MODEL else script.FAST)[with_usage])

    def pause_writing(self) -> None:
        """The peer reads no more for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on with a flood, until the peer reads no more."""
        self._is_paused = False
        while self._flood and not self._is_paused and not self._transport.is_closing():
            self._transport.write(self._flood)

    def _send(self, *parts: bytes) -> None:
        """Write an answer's last bytes."""
        for part in parts:
            self._transport.write(part)
        if self._close_after:
            self._transport.close()

    def _pace(self, frames: script.Script, sent: int, due: float) -> None:
        """Set the timer for the next chunk; times are absolute, so that a late chunk does not delay those after it."""
        self._timer = self._loop.call_at(due, self._tick, frames, sent, due)

    def _tick(self, frames: script.Script, sent: int, due: float) -> None:
        if sent < STREAM_CHUNKS:
            self._write_now(frames.content(b"%.6f" % time.monotonic()))
            self._pace(frames, sent + 1, due + PACE_S)
            return
        self._timer = None
        self._stats.streams_open -= 1
        self._send(frames.ending)
        self._serve_buffered()

    def _write_now(self, data: bytes) -> None:
        """Write at this moment: the transport would wait for the end of the loop's turn, hundreds of streams later."""
        if self._transport.is_closing():
            return
        written = 0
        if not self._transport.get_write_buffer_size():
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                return  # the peer has gone; connection_lost follows
        if written < len(data):
            self._transport.write(data[written:])


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stats, stopped = Stats(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    server = await loop.create_server(lambda: UpstreamProtocol(stats), LOOPBACK, port, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="a scripted OpenAI-compatible upstream")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
