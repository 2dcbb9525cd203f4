"""What the tests of this folder share: a gateway that must end clean, and short ways to ask it something."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import Gateway, RawClient, Response, build_request, post_chat
from tests.support.http1 import HeaderItems, Json

POLL_S = 0.01
#: What Python says when something was not closed, not awaited or not noticed.
COMPLAINTS = ("was never awaited", "Unclosed ", "ResourceWarning", "it is pending", "was never retrieved")


@contextlib.contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Run the gateway; it must end by itself when it is asked to, with code 0, and leave nothing open."""
    gateway.env = {"PYTHONWARNINGS": "default", **gateway.env}
    with gateway:
        yield gateway
        gateway.terminate()
        assert gateway.wait() == 0
        assert [line for line in gateway.log.splitlines() if any(text in line for text in COMPLAINTS)] == []


def connect(gateway: Gateway, *, timeout_s: float = 10.0, receive_buffer_bytes: int | None = None) -> RawClient:
    """A connection to the gateway."""
    return RawClient(gateway.host, gateway.port, timeout_s=timeout_s, receive_buffer_bytes=receive_buffer_bytes)


def request(gateway: Gateway, method: str, target: str, headers: HeaderItems = (), body: bytes = b"") -> bytes:
    """A request as bytes."""
    return build_request(method, target, gateway.host, gateway.port, headers=headers, body=body)


def chat(gateway: Gateway, model: str, *, stream: bool = False, key: str | None = "test-key", **fields: Json) -> bytes:
    """A chat request as bytes."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
    return post_chat(gateway.host, gateway.port, body, key)


def ask(gateway: Gateway, data: bytes) -> Response:
    """Send a request on a connection of its own, and return the answer."""
    with connect(gateway) as client:
        client.send(data)
        return client.read_response()


def get(gateway: Gateway, target: str, headers: HeaderItems = ()) -> Response:
    """GET on a connection of its own."""
    return ask(gateway, request(gateway, "GET", target, headers))


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Return once the condition holds; raises AssertionError if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        time.sleep(POLL_S)


def resident_bytes(pid: int) -> int:
    """How much memory a process has of its own or shared, resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
