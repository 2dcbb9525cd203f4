"""A proxy made of paper: HTTP (CONNECT and absolute addresses) and SOCKS5 on one port, for names that only it knows."""

import asyncio
import base64
import contextlib
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from .running_time import PATIENCE_S


class Passage(NamedTuple):
    """One connection through the proxy: how, to where, and with which "user:password"."""

    kind: str
    host: str
    port: int
    credentials: str | None


@dataclass(eq=False)
class ScriptedProxy:
    """Every name leads to the same port of 127.0.0.1; a context manager with a thread of its own.

    With ``credentials`` ("user:password") nobody else is let through; ``refuses`` lets nobody through.
    """

    credentials: str | None = None
    refuses: bool = False
    passages: list[Passage] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="scripted-proxy", daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S), "the proxy did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)

    def url(self, scheme: str, credentials: str | None = None) -> str:
        """The proxy's address."""
        return f"{scheme}://{credentials + '@' if credentials else ''}127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(writer):
            first = await reader.readexactly(1)
            await (self._socks(reader, writer) if first == b"\x05" else self._http(first, reader, writer))

    async def _http(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *fields = (first + await reader.readuntil(b"\r\n\r\n")).rstrip(b"\r\n").split(b"\r\n")
        given = [field.split(b": ", 1)[1] for field in fields if field.lower().startswith(b"proxy-authorization:")]
        credentials = base64.b64decode(given[0].removeprefix(b"Basic ")).decode() if given else None
        method, target, version = line.decode().split(" ")
        where = urlsplit(f"//{target}" if method == "CONNECT" else target)
        kind = "connect" if method == "CONNECT" else "forward"
        if not self._lets_through(Passage(kind, where.hostname or "", where.port or 80, credentials)):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return await writer.drain()
        head = b""
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            kept = [field for field in fields if not field.lower().startswith(b"proxy-")]
            head = b"\r\n".join([f"{method} {where.path} {version}".encode(), *kept, b"", b""])
        return await self._pipe(where.port or 80, head, reader, writer)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        credentials = None
        if 2 in methods:
            writer.write(b"\x05\x02")
            await reader.readexactly(1)
            parts = [await reader.readexactly((await reader.readexactly(1))[0]) for _ in range(2)]
            credentials = b":".join(parts).decode()
            writer.write(b"\x01\x00")
        else:
            writer.write(b"\x05\x00")
        kind = (await reader.readexactly(4))[3]
        size = (await reader.readexactly(1))[0] if kind == 3 else {1: 4, 4: 16}[kind]
        host = await reader.readexactly(size)
        port = int.from_bytes(await reader.readexactly(2), "big")
        if not self._lets_through(Passage("socks5", host.decode() if kind == 3 else host.hex(), port, credentials)):
            writer.write(b"\x05\x02\x00\x01" + bytes(6))
            return await writer.drain()
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        return await self._pipe(port, b"", reader, writer)

    def _lets_through(self, passage: Passage) -> bool:
        self.passages.append(passage)
        return not self.refuses and self.credentials in (None, passage.credentials)

    async def _pipe(self, port: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        far_writer.write(head)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, far_writer))
            group.create_task(_copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError), contextlib.closing(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
