"""What failing upstreams cost the clients of a group: `python -m bench.faults` (`make faults`).

How much later an answer comes when the first deployment refuses or fails; how many calls upstreams get in a total
outage; and how many requests fail while one of three deployments flaps, for two minutes at a hundred a second
(`--flap-s`).
"""

import argparse
import http.client
import json
import socket
import socketserver
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.console import exit_status, progress
from bench.servers import free_port, gateway, running, upstream
from bench.target import CLIENT_KEY, LOOPBACK, Kind, Target, chat_body, check_answer

SAMPLES = 400
"""Requests of each kind; each asks for a model of its own, whose deployments are in good health."""

OUTAGE = 1000
"""Requests in the total outage."""

RATE = 100
"""Requests a second while one flaps."""

_FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Failing(socketserver.StreamRequestHandler):
    """Answers every request with 500."""

    server: "FailingServer"

    def handle(self) -> None:
        """Serve one connection."""
        while (line := self.rfile.readline()) and line.strip():
            length = 0
            while (line := self.rfile.readline().strip().lower()) and line:
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.rfile.read(length)
            self.server.calls += 1
            self.wfile.write(_FAILURE)


class FailingServer(socketserver.ThreadingTCPServer):
    """An upstream that is broken; `calls` counts what it was asked."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Failing)
        self.calls = 0


@contextmanager
def failing() -> Iterator[FailingServer]:
    """A broken upstream in a thread."""
    with FailingServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def flapping(target: Target) -> Iterator[int]:
    """The port of a relay to an upstream that is there for a second, and for the next resets whoever comes."""
    began = time.monotonic()

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            """Pass requests on, each in one piece and answered in one, until the upstream is away."""
            with socket.create_connection((LOOPBACK, target.port), timeout=10) as healthy:
                while data := self.request.recv(65536):
                    if int(time.monotonic() - began) % 2:
                        return
                    healthy.sendall(data)
                    self.request.sendall(healthy.recv(1 << 20))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 512

    with Server((LOOPBACK, 0), Relay) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def configuration(urls: dict[str, int], port: int) -> str:
    """A gateway over these ports; a group `KIND-N` has targets of the adapters that KIND names, by their initials.

    A first "l" stands for targets without an order, which are asked from left to right as long as none is busy.
    """
    kinds = {"w": SAMPLES, "rw": SAMPLES, "fw": SAMPLES, "lfw": SAMPLES, "fgh": 1, "awv": 1}
    strategies = {"a": "adaptive", "l": "least_busy"}
    names = [f"{kind}-{number}" for kind, count in kinds.items() for number in range(count)]
    adapters = {
        name: {"type": "openai", "base_url": f"http://{LOOPBACK}:{place}/v1", "models": names}
        for name, place in urls.items()
    }
    groups = {
        name: {
            "targets": [f"{letter}/{name}" for letter in name.partition("-")[0] if letter in urls],
            "strategy": strategies.get(name[0], "ordered"),
        }
        for name in names
    }
    server = {"host": LOOPBACK, "port": port}
    return json.dumps({"adapters": adapters, "model_groups": groups, "server": server})


@contextmanager
def one_api(healthy: Target, urls: dict[str, int]) -> Iterator[Target]:
    """A gateway over these ports."""
    command = gateway(healthy, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faults.yaml"
        path.write_text(configuration(urls, command.target.port))
        with running(replace(command, env={**command.env, "ONE_API_CONFIG": str(path)})) as server:
            yield server.target


class Client:
    """One connection to the gateway, kept."""

    def __init__(self, target: Target) -> None:
        self._connection = http.client.HTTPConnection(LOOPBACK, target.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {CLIENT_KEY}", "Content-Type": "application/json"}

    def ask(self, model: str, kind: Kind = Kind.COMPLETION) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._connection.request("POST", "/v1/chat/completions", chat_body(kind, model), self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()


def latencies_ms(target: Target, prefix: str, kind: Kind) -> list[float]:
    """How long the answers of one kind of group took, sorted, in milliseconds."""
    client, found = Client(target), []
    for number in range(SAMPLES // 2):
        model = f"{prefix}-{number + (SAMPLES // 2 if kind is Kind.STREAM else 0)}"
        began = time.perf_counter()
        status, body = client.ask(model, kind)
        found.append((time.perf_counter() - began) * 1000)
        check_answer(kind, status, body)
    return sorted(found)


def print_latencies(target: Target) -> None:
    """Print what failover adds."""
    print("| first deployment | kind | p50 ms | p99 ms | added p50 | added p99 |\n|---|---|---|---|---|---|")
    for kind in Kind:
        latencies_ms(target, "w", kind)
        base: tuple[float, float] | None = None
        for name, prefix in (("healthy", "w"), ("refuses", "rw"), ("500", "lfw"), ("500, in order", "fw")):
            found = latencies_ms(target, prefix, kind)
            p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
            base = base or (p50, p99)
            print(f"| {name} | {kind} | {p50:.1f} | {p99:.1f} | {p50 - base[0]:.1f} | {p99 - base[1]:.1f} |")


def print_outage(target: Target, servers: list[FailingServer]) -> None:
    """Print how many calls upstreams got for each of the clients'."""
    before = sum(server.calls for server in servers)
    client = Client(target)
    statuses = Counter(client.ask("fgh-0")[0] for _ in range(OUTAGE))
    calls = sum(server.calls for server in servers) - before
    print(f"\nTotal outage: {OUTAGE} requests {dict(statuses)}, {calls} upstream calls: {calls / OUTAGE:.3f} each")


def print_flapping(target: Target, seconds: float) -> None:
    """Print how many requests failed while one of three flapped."""
    local, began, total = threading.local(), time.monotonic(), int(seconds * RATE)

    def one(number: int) -> int:
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        if not hasattr(local, "client"):
            local.client = Client(target)
        status: int = local.client.ask("awv-0")[0]
        return status

    with ThreadPoolExecutor(20) as crowd:
        statuses = Counter(crowd.map(one, range(total)))
    print(f"\nOne of three flaps, {seconds:.0f} s at {RATE}/s: {dict(statuses)}, {statuses[200] / total:.4%} succeed")


def main() -> int:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flap-s", type=float, default=120.0)
    seconds = parser.parse_args().flap_s
    with running(upstream()) as healthy, failing() as f, failing() as g, failing() as h, flapping(healthy.target) as a:
        urls = {"w": healthy.target.port, "v": healthy.target.port, "r": free_port(), "a": a}
        urls |= {name: server.server_address[1] for name, server in zip("fgh", (f, g, h), strict=True)}
        progress("measuring what failover adds")
        with one_api(healthy.target, urls) as target:
            print_latencies(target)
            print_outage(target, [f, g, h])
            progress(f"one of three flaps for {seconds:.0f} s")
            print_flapping(target, seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
