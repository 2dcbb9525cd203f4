"""C05: a client whose network goes away without a word. Its packets are dropped in a network of the test's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import Gateway, ScriptedUpstream
from tests.support.actions import Hang, Wait
from tests.support.replies import sse, text_chunks

#: The gateway's end and the client's end of the only line between them; others may run the same test on this machine.
NEAR, FAR = (f"10.213.{os.getpid() % 256}.{end}" for end in (1, 2))
CONFIG = """
adapters: {{a: {{type: openai, base_url: '{url}', models: [m]}}}}
server: {{write_timeout_s: 1, heartbeat_s: 600}}
"""
#: Asks for a stream, says so once it has begun, and then keeps the connection until it is killed.
CLIENT = """
import socket, sys, time
body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
head = "POST /v1/chat/completions HTTP/1.1\\r\\nHost: g\\r\\nAuthorization: Bearer test-key\\r\\n"
head += f"Content-Type: application/json\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
connection.sendall(head.encode() + body)
assert connection.recv(100).startswith(b"HTTP/1.1 200")
print("begun", flush=True)
time.sleep(600)
"""


def ip(*arguments: str) -> None:
    """Run Linux's ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@dataclass(frozen=True)
class FarHost:
    """A network with one host; ``line`` is the gateway's end of the line to it."""

    name: str
    line: str

    def run(self, *command: str) -> list[str]:
        """The command that runs a command there."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """From now on, nothing arrives in either direction, and nobody is told."""
        subprocess.run(self.run("ip", "link", "set", "far", "down"), check=True, timeout=10)


@pytest.fixture
def far_host() -> Iterator[FarHost]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and Linux's ip, to make a network that can be cut")
    host = FarHost(f"one-api-{os.getpid()}", f"oneapi{os.getpid() % 1_000_000}")
    try:
        ip("netns", "add", host.name)
    except subprocess.CalledProcessError:
        pytest.skip("this machine allows no network namespaces")
    try:
        ip("link", "add", host.line, "type", "veth", "peer", "name", "far", "netns", host.name)
        ip("addr", "add", f"{NEAR}/30", "dev", host.line)
        ip("link", "set", host.line, "up")
        subprocess.run(host.run("ip", "addr", "add", f"{FAR}/30", "dev", "far"), check=True, timeout=10)
        subprocess.run(host.run("ip", "link", "set", "far", "up"), check=True, timeout=10)
        yield host
    finally:
        # The network itself is taken down some time later: the next test may need its name before.
        subprocess.run(["ip", "link", "del", host.line], capture_output=True, timeout=10)
        ip("netns", "del", host.name)


@pytest.mark.parametrize("talk", [[], [each for _ in range(300) for each in (text_chunks("x")[1], Wait(0.1))]],
                         ids=["silent", "talking"])  # fmt: skip
def test_c05_a_client_that_the_network_has_lost(far_host: FarHost, talk: list[Any]) -> None:
    with ScriptedUpstream() as upstream:
        upstream.on("m", sse(*text_chunks("one")[:2], *talk, Hang(), done=False))
        with Gateway(config_yaml=CONFIG.format(url=upstream.base_url), env={"HOST": "0.0.0.0"}) as gateway:
            command = far_host.run(sys.executable, "-c", CLIENT, NEAR, str(gateway.port))
            client = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == b"begun\n"
                far_host.cut()

                assert upstream.wait_for(1).closed.wait(20), "the upstream call goes on for nobody"
                assert gateway.call_records(1)[0]["status"] == 499
            finally:
                client.kill()
                client.communicate()
