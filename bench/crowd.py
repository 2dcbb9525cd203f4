"""What others notice of slow and of greedy clients, 500 of each slow kind: `python -m bench.crowd` (`make crowd`).

The figures are latencies of ordinary requests on new connections, calm and under each attack, in one run, and the
memory of the worker after it. Each crowd comes twice: Python's allocator keeps the room that the first one took, and
the second one has to do with that. What is more than the promise is marked, and the exit status says so.
"""

import http.client
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from bench import procfs
from bench.console import exit_status, progress
from bench.servers import gateway, running, upstream
from bench.target import FLOOD_MODEL, LOOPBACK, BenchError, Kind, Target, chat_body

CROWD = 500
"""Slow clients of each kind."""

PIPELINES = 24
"""Clients that send PIPELINE_BYTES of requests in one go, and read what is answered."""

PIPELINE_BYTES = 256 * 1024

NON_READERS = 200
"""Clients that read nothing of a stream that the upstream sends as fast as it can."""

BODIES = 20
"""Clients that send BODY_BYTES of a JSON text made of `{}`, and send it again when it is answered."""

BODY_BYTES = 32 * 1024 * 1024

HEADS = (
    "clients that hold", "requests of others", "p50 ms", "p99 ms", "p99 against calm", "longest ms",
    "memory after the first", "memory after the second", "missed",
)  # fmt: skip

MAX_TIMES, MAX_PAUSE_S, MAX_KEPT = 2.0, 0.25, 1.10
"""The promise: p99 against calm, the longest request, and the memory after a second crowd against that before it."""

SETTLE_S = 10.0
"""How long the memory may take to come back."""

SETTLED_S = 0.02
"""A request of the others that is answered so quickly shows that the burst is over."""

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
def senders(target: Target, data: bytes, count: int) -> Iterator[None]:
    """Have that many clients send as much as is taken for as long as this lasts, and read what is answered."""
    ended = threading.Event()

    def client() -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection((LOOPBACK, target.port), timeout=10) as connection:
                held.append(connection)
                reader = threading.Thread(target=drain, args=(connection,))
                reader.start()
                with suppress(OSError):
                    while not ended.is_set():
                        connection.sendall(data)
                reader.join()

    def drain(connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(1 << 16):
                pass

    held: list[socket.socket] = []
    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for connection in held:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def pipelined() -> bytes:
    """Requests behind each other, PIPELINE_BYTES of them."""
    request = b"GET /health HTTP/1.1\r\nHost:a\r\n\r\n"
    return request * (PIPELINE_BYTES // len(request))


def full_body(target: Target) -> bytes:
    """A request with BODY_BYTES of empty objects."""
    body = b'{"z":[' + b"{}," * (BODY_BYTES // 3 - 10) + b"{}]}"
    head = target.chat_request(Kind.COMPLETION).partition(b"Content-Length")[0]
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


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
    """Wait until what the crowd has asked for is done as far as it can be: the holding is measured, not the burst.

    It is done when others are quickly answered, all the way through the upstream: that one, too, has a burst to serve.
    """
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends and latency(target) > SETTLED_S:
        pass


def latencies(target: Target) -> list[float]:
    """Seconds that requests take for MEASURE_S, one after the other, each on a connection of its own."""
    times = []
    ends = time.monotonic() + MEASURE_S
    while time.monotonic() < ends:
        times.append(latency(target))
    return times


def latency(target: Target) -> float:
    """Seconds that one request takes, on a connection of its own; raises BenchError when it fails."""
    headers = {"Authorization": f"Bearer {target.api_key}", "Content-Type": "application/json"}
    began = time.perf_counter()
    connection = http.client.HTTPConnection(LOOPBACK, target.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", chat_body(Kind.COMPLETION), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise BenchError(f"a request of the others was answered {response.status}")
    return time.perf_counter() - began


@dataclass(frozen=True)
class Row:
    """What others noticed: times in seconds, and the worker's memory after each of two crowds against that before."""

    name: str
    times: list[float]
    kept_first: float = 1.0
    kept: float = 1.0

    @property
    def p99(self) -> float:
        """Of the times."""
        return statistics.quantiles(self.times, n=100)[98]

    def broken(self, calm: "Row") -> list[str]:
        """What is more than promised."""
        found = {
            "p99": self.p99 > MAX_TIMES * calm.p99,
            "pause": max(self.times) > MAX_PAUSE_S,
            "memory": self.kept > MAX_KEPT,
        }
        return [name for name, is_broken in found.items() if is_broken]

    def markdown(self, calm: "Row") -> str:
        """One line of the table; times in milliseconds."""
        median = statistics.median(self.times)
        figures = (
            f"{median * 1000:.2f} | {self.p99 * 1000:.2f} | {self.p99 / calm.p99:.2f} | {max(self.times) * 1000:.0f}"
        )
        missed = ", ".join(self.broken(calm)) or "-"
        return f"| {self.name} | {len(self.times)} | {figures} | {self.kept_first:.2f} | {self.kept:.2f} | {missed} |"


def calm_memory(worker: int, limit: float) -> float:
    """The worker's resident bytes, once they are below ``limit`` or have had time to be."""
    ends = time.monotonic() + SETTLE_S
    while (found := procfs.memory(worker).rss) > limit and time.monotonic() < ends:
        time.sleep(0.2)
    return found


Attack = Callable[[], AbstractContextManager[None]]


def attacks(target: Target) -> Iterator[tuple[str, Attack]]:
    """What is done to the gateway, each with its name."""
    for name, opening in openings(target).items():
        count = CROWD * 10 if name.startswith("idle") else CROWD
        yield f"{name} ({count})", partial(crowd, target, opening, count)
    flood = target.chat_request(Kind.STREAM, FLOOD_MODEL)
    yield f"readers of nothing, fast upstream ({NON_READERS})", partial(crowd, target, flood, NON_READERS)
    yield f"pipelines of {PIPELINE_BYTES >> 10} KiB ({PIPELINES})", partial(senders, target, pipelined(), PIPELINES)
    yield (
        f"bodies of {BODY_BYTES >> 20} MiB made of {{}} ({BODIES})",
        partial(senders, target, full_body(target), BODIES),
    )


def measured(target: Target, worker: int, attack: Attack) -> tuple[list[float], float]:
    """The latencies of others under one attack, and the worker's memory after it against that before."""
    before = procfs.memory(worker).rss
    with attack():
        times = latencies(target)
    return times, calm_memory(worker, before * MAX_KEPT) / before


def main() -> int:
    """Measure, and print the table; returns 1 when a promise was broken."""
    failed = False
    with ExitStack() as servers:
        source = servers.enter_context(running(upstream()))
        server = servers.enter_context(running(gateway(source.target, 1)))
        target, worker = server.target, procfs.leaves(server.pid)[-1]
        latencies(target)  # warm-up
        calm = Row("nothing", latencies(target))
        print(f"| {' | '.join(HEADS)} |")
        print("|---" * len(HEADS) + "|")
        print(calm.markdown(calm))
        for name, attack in attacks(target):
            progress(name)
            _, kept_first = measured(target, worker, attack)
            times, kept = measured(target, worker, attack)
            found = Row(name, times, kept_first, kept)
            print(found.markdown(calm), flush=True)
            failed = failed or bool(found.broken(calm))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
