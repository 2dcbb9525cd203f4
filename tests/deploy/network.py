"""Hosts on one machine: network namespaces on a bridge. What listens on loopback is reached by them through relays."""

import asyncio
import contextlib
import os
import random
import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .tools import skip, tool


@dataclass(frozen=True)
class Host:
    """A namespace with an address of its own."""

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What runs a program there; it becomes that program, with the same process id."""
        return [tool("ip"), "netns", "exec", self.name]


class Network:
    """A bridge with hosts; a context manager, which takes all of it down."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            skip("network namespaces need root")
        self._bridge, self._prefix = self._made()
        self.address = f"{self._prefix}.1"
        self._kept.callback(self._ip, "link", "del", self._bridge)
        self._ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        self._ip("link", "set", self._bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.close()

    def _made(self) -> tuple[str, str]:
        """Make a bridge that nobody else has here, and return its name and the beginning of its addresses."""
        *others, last = random.SystemRandom().sample(range(2, 250), 20)
        for number in others:
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._bridged(number)
        try:
            return self._bridged(last)
        except subprocess.CalledProcessError as error:
            skip(f"no bridge can be made here: {error.stderr.strip()}")

    def _bridged(self, number: int) -> tuple[str, str]:
        self._ip("link", "add", f"oneapi{number}", "type", "bridge")
        return f"oneapi{number}", f"198.18.{number}"  # set aside for tests of networks (RFC 2544)

    def add_host(self) -> Host:
        """Make another host."""
        number = len(self._hosts) + 2
        host = Host(f"{self._bridge}-{number}", f"{self._prefix}.{number}")
        self._ip("netns", "add", host.name)
        self._kept.callback(self._ip, "netns", "del", host.name)
        self._ip("link", "add", self._cable(host), "type", "veth", "peer", "name", "eth0", "netns", host.name)
        self._ip("link", "set", self._cable(host), "master", self._bridge, "up")
        for arguments in (
            ["addr", "add", f"{host.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            self._ip("-n", host.name, *arguments)
        self._hosts.append(host)
        return host

    def unplug(self, host: Host) -> None:
        """Let nothing reach the host, nor leave it, without telling anybody."""
        self._ip("link", "set", self._cable(host), "down")

    def plug(self, host: Host) -> None:
        """Connect the host again."""
        self._ip("link", "set", self._cable(host), "up")

    def relay(self, port: int) -> None:
        """Let hosts reach a port of loopback by the bridge's address."""
        self._kept.enter_context(_relayed(self.address, port))

    def _cable(self, host: Host) -> str:
        return f"{self._bridge[6:]}v{host.name.rpartition('-')[2]}oneapi"

    def _ip(self, *arguments: str) -> None:
        subprocess.run([tool("ip"), *arguments], check=True, capture_output=True, text=True, timeout=10)


@contextlib.contextmanager
def _relayed(address: str, port: int):  # type: ignore[no-untyped-def]
    """Pass connections on from an address to the same port of loopback, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, address, port), loop).result(5)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
