"""A Redis of our own, that may be frozen, broken and killed, and one that talks nonsense."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.gateway import free_port

OwnRedis = tuple[str, "subprocess.Popen[bytes]"]


@contextlib.contextmanager
def redis_at(port: int, folder: Path, host: str = "127.0.0.1", options: Sequence[str] = ()) -> Iterator[OwnRedis]:
    """Start a Redis that knows nothing, for anybody who reaches the host; gives its URL and its process."""
    binary = shutil.which("redis-server")
    assert binary, "the tests need a redis-server to freeze: install Debian's package redis-server"
    command = [binary, "--port", str(port), "--bind", host, "--protected-mode", "no"]
    command += ["--save", "", "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if b"Ready to accept connections" in line:
                break
        yield f"redis://{host}:{port}/0", process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(5)
        process.stdout.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """Start one for a test."""
    with redis_at(free_port(), tmp_path) as started:
        yield started


class OddRedis:
    """Answers each command with ``says``; None is OK. It asks for no greeting of its clients."""

    def __init__(self) -> None:
        self.says: bytes | None = None
        self.url = ""
        self.serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.serving[asyncio.current_task()] = writer
        with contextlib.suppress(ConnectionError):
            while said := await reader.read(65536):
                greeting = b"CLIENT" in said or b"HELLO" in said
                writer.write(b"+OK\r\n" * said.count(b"*") if greeting or self.says is None else self.says)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def odd_redis() -> AsyncIterator[OddRedis]:
    """Start one."""
    found = OddRedis()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server:
        yield found
    for task, writer in found.serving.items():
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        if task is not None:
            await asyncio.wait({task})
