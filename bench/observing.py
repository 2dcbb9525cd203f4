"""`make observing`: what being observed costs. How late is the loop during scrapes? What do metrics and traces take?

Rounds of each kind alternate, so that whatever else runs on the machine falls on both. Of CPU times the least counts,
as in `bench.cost`. The exit status is 0 where the figures are as promised.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import cast

import uvloop

from bench import servers
from bench.console import exit_status, progress
from bench.cost import CHAT_STREAM, REQUESTS, Stream, hold, request_us
from bench.servers import Server, running
from bench.target import LOOPBACK, SHORT_MODEL, SLOW_MODEL, BenchError, Kind, Target
from one_api.contract import Usage
from one_api.observability.metrics import Metrics
from one_api.records import AttemptRecord, CallRecord
from tests.support.collector import collecting

#: Streams that are under way meanwhile: each gets a chunk every 50 ms.
STREAMS = 50
#: Models that are asked for before, streamed and whole: they make the series.
MODELS, MIN_SERIES = 32, 3300
#: Between two probes, and between two scrapes, in seconds. Prometheus asks every 15 s or so.
PROBE_S, SCRAPE_S = 0.002, 0.25
#: Rounds of each kind, and how long one takes, in seconds.
ROUNDS, ROUND_S = 8, 2.0
#: Requests of which the CPU time is taken at once, and how often that is done for each round of probes.
REQUESTS_AT_ONCE, TURNS = 64, 6
#: How often the gateways that are compared are started.
STARTS = 4
#: How many times as late the loop may be in the worst hundredth, and the parts of a request's CPU.
MAX_LAG, MAX_METRICS, MAX_TRACES = 1.25, 0.02, 0.03


class Prober(asyncio.Protocol):
    """A kept connection that asks for `/health` so often, and notes how long each answer took, in seconds."""

    def __init__(self, target: Target) -> None:
        self._request = f"GET /health HTTP/1.1\r\nHost: {LOOPBACK}:{target.port}\r\n\r\n".encode()
        self._answered = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """The answer comes in one piece."""
        self._answered.set()

    async def probe(self, seconds: float) -> list[float]:
        """Return the times of this round."""
        took, until = [], time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            self._answered.clear()
            self._transport.write(self._request)
            await self._answered.wait()
            took.append(time.monotonic() - began)
            await asyncio.sleep(PROBE_S)
        return took


def scrape(target: Target, until: float) -> bytes:
    """Ask for the metrics again and again, in a thread; returns the last answer."""
    body = b""
    while time.monotonic() < until:
        status, body = servers.get(target, "/metrics")
        if status != 200:
            raise BenchError(f"a scrape was answered {status}: {body[:200]!r}")
        time.sleep(SCRAPE_S)
    return body


def lags(server: Server, rounds: int) -> tuple[float, float, int]:
    """Return the 99th percentile of a probe's time without and with scrapes, in seconds, and the samples of one."""
    quiet, scraped, samples = [], [], 0
    for _ in range(rounds):
        quiet.append(_p99(uvloop.run(_round(server.target, is_scraped=False))[0]))
        took, body = uvloop.run(_round(server.target, is_scraped=True))
        scraped.append(_p99(took))
        samples = sum(not line.startswith(b"#") for line in body.splitlines())
    return min(quiet), min(scraped), samples


async def _round(target: Target, *, is_scraped: bool) -> tuple[list[float], bytes]:
    """Return how long each probe took while streams were under way, and the last scrape."""
    took: list[float] = []
    bodies: list[bytes] = []

    async def measure(_: list[Stream]) -> float:
        transport, prober = await asyncio.get_running_loop().create_connection(
            lambda: Prober(target), LOOPBACK, target.port
        )
        scraping = (
            asyncio.to_thread(scrape, target, time.monotonic() + ROUND_S) if is_scraped else asyncio.sleep(0, b"")
        )
        found, body = await asyncio.gather(prober.probe(ROUND_S), scraping)
        took.extend(found)
        bodies.append(body)
        transport.close()
        return 0.0

    await hold(target, SLOW_MODEL, STREAMS, measure)
    return took, bodies[-1]


def _p99(took: list[float]) -> float:
    return sorted(took)[len(took) * 99 // 100]


def metrics_us() -> float:
    """CPU microseconds that the metrics take for one streamed request."""
    metrics, rounds, count = Metrics(), [], 2000
    attempt = AttemptRecord("a/m", "ok", first_s=0.4, seconds=1.2, usage=Usage(70, 16), began=100.01)
    record = CallRecord("req_1", "POST", "/v1/chat/completions", 100.0, "/v1/chat/completions", stream=True)
    record.model = record.known_model = "m"
    record.deployment, record.status, record.outcome, record.usage = "a/m", 200, "ok", Usage(70, 16)
    record.first_event, record.ended, record.attempts = 100.42, 101.3, [attempt]
    for _ in range(20):
        began = time.thread_time()
        for _request in range(count):
            metrics.on_call(record)
        rounds.append((time.thread_time() - began) * 1e6 / count)
    return min(rounds)


def request_times(start: Callable[[ExitStack, bool], Server], rounds: int) -> tuple[float, float]:
    """Return the CPU microseconds of a streamed request without and with traces.

    Both are started several times: a process may be faster than its equal from its start to its end.
    """
    make, _ = REQUESTS[CHAT_STREAM]
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(STARTS):
        with ExitStack() as stack:
            order = [bool(number % 2), not number % 2]
            pair = {is_traced: start(stack, is_traced) for is_traced in order}
            for _ in range(rounds * TURNS // STARTS):
                order.reverse()
                for is_traced in order:
                    server = pair[is_traced]
                    found[is_traced].append(request_us(server, make(server.target), REQUESTS_AT_ONCE))
    progress(f"in the middle: {median(found[False]):.0f} and {median(found[True]):.0f} us")
    return min(found[False]), min(found[True])


def run(rounds: int) -> int:
    """Measure, print, and return the exit code."""
    with ExitStack() as stack:
        upstream = stack.enter_context(running(servers.upstream())).target
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [SLOW_MODEL, SHORT_MODEL, *(f"model-{number}" for number in range(MODELS))]
        config = folder / "config.yaml"
        config.write_text(f'adapters: {{openai: {{type: openai, base_url: "{upstream.url}/v1", models: {names}}}}}\n')
        collector = stack.enter_context(collecting())

        def start(held: ExitStack, is_traced: bool) -> Server:
            command = servers.gateway(upstream, 1)
            env = {**command.env, "ONE_API_CONFIG": str(config), "PYTHONHASHSEED": "0"}
            env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} if is_traced else {}
            return held.enter_context(running(replace(command, env=env)))

        with ExitStack() as held:
            plain = start(held, is_traced=False)
            progress("every model is asked")
            for name in names[2:]:
                for kind in Kind:
                    request_us(plain, plain.target.chat_request(kind, name), 8)
            progress("probes under streams, with scrapes and without")
            quiet_s, scraped_s, samples = lags(plain, rounds)
        progress("requests with and without traces")
        plain_us, traced_us = request_times(start, rounds)
    own_us = metrics_us()
    rows: list[tuple[str, float, float, Callable[[float], str]]] = [
        (f"p99 of a probe during scrapes of {samples} samples, by that without", scraped_s / quiet_s, MAX_LAG, _times),
        ("the metrics' part of a streamed request's CPU", own_us / plain_us, MAX_METRICS, _percent),
        ("what traces with the ratio 0.05 add to it", traced_us / plain_us - 1, MAX_TRACES, _percent),
    ]
    print(f"p99 {quiet_s * 1e3:.2f} ms, with scrapes {scraped_s * 1e3:.2f} ms; "
          f"metrics {own_us:.1f} us of {plain_us:.0f} us; with traces {traced_us:.0f} us")  # fmt: skip
    for name, value, bound, shown in rows:
        print(f"{shown(value):>8}  {name} (at most {shown(bound)})")
    if samples < MIN_SERIES:
        raise BenchError(f"a scrape had {samples} samples only")
    return 0 if all(value <= bound for _, value, bound, _ in rows) else 1


def _times(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return run(parser.parse_args().rounds)


if __name__ == "__main__":
    sys.exit(exit_status(main))
