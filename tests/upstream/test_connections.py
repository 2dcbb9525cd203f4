"""Connections to upstreams: what is read of a stream while it gives way to others."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from one_api.serving.fairness import FairScheduler
from one_api.upstream import connections
from one_api.upstream.connections import BoundedHandler, KeepingConnector
from one_api.upstream.resolver import BoundedResolver

READ_BYTES = 16 * 1024
STREAM_BYTES = 4_000_000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % STREAM_BYTES


class Crowded(FairScheduler):
    """One on whose loop others wait until ``end`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], int]] = []
        self.has_held = asyncio.Event()
        self.is_over = False

    @property
    def is_crowded(self) -> bool:
        return not self.is_over

    def hold(self, callback: Callable[[], int]) -> None:
        self.waiting.append(callback)
        self.has_held.set()

    def end(self) -> list[int]:
        """Let all go on; returns how many bytes each had held."""
        self.is_over = True
        return [callback() for callback in self.waiting]


async def test_a_stream_that_gives_way_is_not_read_on_and_arrives_whole_later(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = Crowded()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for _ in range(STREAM_BYTES // 10_000):
            writer.write(b"x" * 10_000)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    monkeypatch.setattr(connections, "scheduler", lambda: fair)
    connector = KeepingConnector()
    async with (
        server,
        asyncio.timeout(20),
        aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as session,
        session.get(url) as response,
    ):
        await fair.has_held.wait()
        assert response.connection is not None
        handler = response.connection.protocol
        assert isinstance(handler, BoundedHandler)
        assert handler.transport is not None
        assert not handler.transport.is_reading()
        (held,) = fair.end()
        assert 0 < held <= READ_BYTES
        assert await response.read() == b"x" * STREAM_BYTES


async def test_after_a_connect_that_fails_the_name_is_looked_up_again() -> None:
    """Its server has moved: the addresses that were found are good for half a minute otherwise."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nHi")
        writer.close()

    places = ["127.0.0.2", "127.0.0.1"]

    def look(_: str, port: int, *__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (places.pop(0), port))]

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://moving.test:{server.sockets[0].getsockname()[1]}/"
    async with server, aiohttp.ClientSession(connector=KeepingConnector(BoundedResolver(look))) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)
        async with session.get(url) as response:
            assert await response.text() == "Hi"
