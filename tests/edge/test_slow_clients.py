"""Clients that take their time, hundreds at once: each is cut at its deadline, and nobody else notices."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import Gateway, RawClient, ScriptedUpstream, chunk, event, post_chat, sse, text_chunks
from tests.support.actions import Flood

CROWD = 500
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"


@contextmanager
def crowd(gateway: Gateway, first: bytes, count: int = CROWD) -> Iterator[list[socket.socket]]:
    """Hold that many connections, each having sent ``first``."""
    connections = []
    try:
        for _ in range(count):
            connection = socket.create_connection((gateway.host, gateway.port), timeout=10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(first)
            connections.append(connection)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def latencies(gateway: Gateway, count: int = 150) -> list[float]:
    """Return how long requests take, in seconds, one after the other on new connections."""
    request = post_chat(gateway.host, gateway.port, BODY)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with RawClient(gateway.host, gateway.port) as client:
            client.send(request)
            assert client.read_response().status == 200
        times.append(time.perf_counter() - began)
    return times


def all_cut(connections: list[socket.socket], deadline_s: float) -> list[bytes]:
    """Wait until the gateway has closed every connection, and return what it said on each."""
    ends = time.monotonic() + deadline_s
    said = []
    for connection in connections:
        answer = b""
        while True:
            connection.settimeout(max(0.01, ends - time.monotonic()))
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            answer += piece
        said.append(answer)
    return said


ATTACKS: dict[str, tuple[bytes, int | None]] = {
    "heads that never end": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: b", 408),
    "bodies that never end": (HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{", 408),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_crowd_of_slow_senders_is_cut(name: str, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    first, status = ATTACKS[name]
    calls = len(upstream.requests)
    with crowd(gateway, first) as slow:
        answered = latencies(gateway, 20)
        said = all_cut(slow, 15)
    assert {int(answer.split(b" ")[1]) for answer in said} == {status}
    assert {json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] for answer in said} == {"request_timeout"}
    assert len(upstream.requests) == calls + len(answered)


def test_a_crowd_that_never_reads_is_cut_and_its_upstream_calls_with_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    piece = chunk(event(text_chunks("x" * 4000, finish=None)[1]))
    upstream.on("flood", [*sse(*text_chunks("x", finish=None), done=False)[:2], Flood(200_000_000, piece)])
    calls = len(upstream.requests)
    with crowd(gateway, post_chat(gateway.host, gateway.port, {**BODY, "model": "flood", "stream": True}), 60):
        floods = [upstream.wait_for(calls + 1 + i, 20) for i in range(60)]
        for flood in floods:
            assert flood.closed.wait(20), "the upstream was not let go"
    assert all(flood.sent_bytes < 20_000_000 for flood in floods)


def test_thousands_of_idle_connections_are_held(gateway: Gateway) -> None:
    with crowd(gateway, b"", 2500) as idle:
        assert len(latencies(gateway, 20)) == 20
        idle[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[0].recv(20).startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_most_are_refused_and_the_others_go_on(upstream: ScriptedUpstream) -> None:
    config = f"""
adapters: {{a: {{type: openai, base_url: '{upstream.base_url}', api_key: k, models: [m]}}}}
server: {{max_connections: 50}}
"""
    with Gateway(config_yaml=config) as small, crowd(small, b"", 50) as held:
        with RawClient(small.host, small.port) as client:
            assert client.read_response().status == 503
        held[7].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[7].recv(20).startswith(b"HTTP/1.1 200")


def test_a_thousand_connects_that_say_nothing_leave_nothing(gateway: Gateway) -> None:
    lines = len(gateway.log.splitlines())
    for _ in range(1000):
        socket.create_connection((gateway.host, gateway.port), timeout=5).close()
    assert len(latencies(gateway, 5)) == 5
    assert len(gateway.log.splitlines()) <= lines + 10
