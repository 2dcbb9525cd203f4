"""What others notice of slow and of greedy clients, 500 of each slow kind: `python -m bench.crowd` (`make crowd`).

The figures are latencies of ordinary requests on new connections, calm and under each attack, in one run.
"""

import http.client
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bench.console import exit_status, progress
from bench.servers import gateway, get, running, upstream
from bench.target import LOOPBACK, BenchError, Kind, Target, chat_body

CROWD = 500
"""Slow clients of each kind."""

PIPELINES = 24
"""Clients that send PIPELINE_BYTES of requests in one go, and read what is answered."""

PIPELINE_BYTES = 256 * 1024

MEASURE_S = 4.0
"""How long each row is measured; shorter than any deadline of the gateway, so that the crowd is there throughout."""


def openings(target: Target) -> dict[str, bytes]:
    """What each kind of slow client sends before it falls silent."""
    request = target.chat_request(Kind.STREAM)
    head, _, body = request.partition(b"\r\n\r\n")
    return {
        "heads that never end": head[:-10],
        "bodies that never end": head + b"\r\n\r\n" + body[:10],
        # More than the kernel takes: 16 streams, asked for at once on one connection.
        "streams that nobody reads": request * 16,
        "blank lines": b"\r\n",
        "idle connections": b"",
    }


@contextmanager
def pipelines(target: Target, count: int) -> Iterator[None]:
    """Have that many connections pipeline as much as they can, for as long as this lasts."""
    request = b"GET /health HTTP/1.1\r\nHost:a\r\n\r\n"
    data = request * (PIPELINE_BYTES // len(request))
    connections = [socket.create_connection((LOOPBACK, target.port), timeout=10) for _ in range(count)]

    def pump(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(data)

    def drain(connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(1 << 16):
                pass

    threads = [threading.Thread(target=do, args=(each,)) for each in connections for do in (pump, drain)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


@contextmanager
def crowd(target: Target, opening: bytes, count: int) -> Iterator[None]:
    """Hold that many connections that have sent `opening` and do nothing more."""
    connections = []
    try:
        for _ in range(count):
            connection = socket.create_connection((LOOPBACK, target.port), timeout=10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(opening)
            connections.append(connection)
        settle(target)
        yield
    finally:
        for connection in connections:
            connection.close()


def settle(target: Target, limit_s: float = 20.0) -> None:
    """Wait until what the crowd has asked for is done as far as it can be: the holding is measured, not the burst."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        began = time.monotonic()
        get(target, "/health", limit_s)
        if time.monotonic() - began < 0.02:
            return


def latencies(target: Target) -> list[float]:
    """Seconds that requests take for MEASURE_S, one after the other, each on a connection of its own."""
    body = chat_body(Kind.COMPLETION)
    headers = {"Authorization": f"Bearer {target.api_key}", "Content-Type": "application/json"}
    times = []
    ends = time.monotonic() + MEASURE_S
    while time.monotonic() < ends:
        began = time.perf_counter()
        connection = http.client.HTTPConnection(LOOPBACK, target.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        times.append(time.perf_counter() - began)
        if response.status != 200:
            raise BenchError(f"a request of the others was answered {response.status}")
    return times


def row(name: str, times: list[float], calm_p99: float) -> str:
    """One line of the table; times in milliseconds."""
    p99 = statistics.quantiles(times, n=100)[98]
    median = statistics.median(times)
    figures = f"{median * 1000:.2f} | {p99 * 1000:.2f} | {p99 / calm_p99:.2f} | {max(times) * 1000:.0f}"
    return f"| {name} | {len(times)} | {figures} |"


def main() -> int:
    """Measure, and print the table."""
    with ExitStack() as servers:
        source = servers.enter_context(running(upstream()))
        target = servers.enter_context(running(gateway(source.target, 1))).target
        latencies(target)  # warm-up
        calm = latencies(target)
        calm_p99 = statistics.quantiles(calm, n=100)[98]
        print(f"| {CROWD} clients that hold | requests of others | p50 ms | p99 ms | p99 against calm | longest ms |")
        print("|---|---|---|---|---|---|")
        print(row("nothing", calm, calm_p99))
        for name, opening in openings(target).items():
            count = CROWD * 10 if name.startswith("idle") else CROWD
            progress(f"{count} {name}")
            with crowd(target, opening, count):
                print(row(f"{name} ({count})", latencies(target), calm_p99))
            time.sleep(1)
        progress(f"{PIPELINES} pipelines")
        with pipelines(target, PIPELINES):
            print(row(f"pipelines of {PIPELINE_BYTES >> 10} KiB ({PIPELINES})", latencies(target), calm_p99))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
