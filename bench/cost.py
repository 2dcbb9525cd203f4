"""What one request and one chunk cost in CPU, as ratios that can be kept: `make cost`, with which `make bench` ends.

Each figure is the CPU time of a gateway's worker divided by that of a fixed loop of pure Python, timed in the same run:
so figures of different machines and days can be compared. Both are the least of many short rounds, because whatever
else runs on the machine only ever adds. They are held against `bench/baseline.json`, the figures of the last release;
more than 10 % above is a regression, and the exit status says so. `--against DIR` runs the gateway of another checkout
in turns with this one instead, which is the surest comparison.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import httptools
import msgspec
import uvloop

from bench import procfs, servers
from bench.console import exit_status, progress
from bench.load import ROOT
from bench.servers import Server, running
from bench.target import (
    IDLE_MODEL,
    LOOPBACK,
    NATIVE_MODEL,
    SHORT_MODEL,
    SLOW_MODEL,
    BenchError,
    Kind,
    Target,
    embedding_body,
    messages_body,
    responses_body,
)

BASELINE = ROOT / "bench" / "baseline.json"
ALLOWED = 1.10
"""How much of the last release's figure may be needed before that is a regression."""

CONNECTIONS = 8
PACED_STREAMS = 100
IDLE_STREAMS = 500
MAX_IDLE_KIB = 40.0
"""Memory that one silent stream may take in the worker."""

_PACED_SLICES, _SLICE_S = 5, 0.4
_DEADLINE_S = 60.0
_PACED_EVERY = 5
_REFERENCE_STEPS = 20_000


Costs = dict[str, list[float]]
"""Microseconds of CPU in each round, by what they were needed for; `_LOOP` is the fixed loop."""

_LOOP = "the fixed loop"


def reference_us() -> float:
    """CPU microseconds of a thousand steps of a fixed loop of pure Python: calls, dicts and strings, as a request's."""

    def step(number: int, known: dict[str, int]) -> int:
        known[f"key-{number & 63}"] = number
        return len(known)

    known: dict[str, int] = {}
    began = time.thread_time()
    for number in range(_REFERENCE_STEPS):
        step(number, known)
    return (time.thread_time() - began) * 1e9 / _REFERENCE_STEPS


class Client(asyncio.Protocol):
    """One kept-alive connection that asks so many times, one after the other, and looks at every answer."""

    def __init__(self, request: bytes, count: int) -> None:
        self._request, self._left = request, count
        self._last = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if there was more to ask."""
        if not self.done.done():
            self.done.set_exception(BenchError(f"the server closed a connection: {exc!r}"))

    def on_body(self, body: bytes) -> None:
        """Keep the end of the answer."""
        self._last = body

    def on_message_complete(self) -> None:
        """Judge the answer, and ask again."""
        status = self._parser.get_status_code()
        whole = self._last.rstrip().endswith((b"}", b"[DONE]"))
        self._left -= 1
        if status != 200 or not whole:
            self.done.set_exception(BenchError(f"a request was answered {status}, ...{self._last[-200:]!r}"))
        elif self._left:
            self._ask()
        else:
            self.done.set_result(None)


class Stream(asyncio.Protocol):
    """One stream, of which the chunks are counted."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.chunks = 0
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for it."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        self.chunks += data.count(b"data: {")
        if self.chunks and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if it has not begun."""
        if not self.begun.done():
            self.begun.set_exception(BenchError(f"a stream ended before its first chunk: {exc!r}"))


def _get(path: str) -> Callable[[Target], bytes]:
    return lambda target: (
        f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Bearer {target.api_key}\r\n\r\n".encode()
    )


CHAT_STREAM = "16-chunk stream"
RESPONSES_STREAM, MESSAGES_STREAM, NATIVE_STREAM = (
    f"{CHAT_STREAM}, {door}" for door in ("Responses", "Messages", "Messages to Messages")
)
MAX_TO_CHAT = {RESPONSES_STREAM: 1.3, MESSAGES_STREAM: 1.3, NATIVE_STREAM: 1.0}
"""What a stream of another door may need, as a multiple of chat's."""

REQUESTS: dict[str, tuple[Callable[[Target], bytes], int]] = {
    "health": (_get("/health"), 160),
    "models": (_get("/v1/models"), 120),
    "plain": (lambda target: target.chat_request(Kind.COMPLETION), 64),
    CHAT_STREAM: (lambda target: target.chat_request(Kind.STREAM, SHORT_MODEL), 40),
    RESPONSES_STREAM: (lambda target: target.request("/v1/responses", responses_body()), 40),
    MESSAGES_STREAM: (lambda target: target.request("/v1/messages", messages_body()), 40),
    NATIVE_STREAM: (lambda target: target.request("/v1/messages", messages_body(NATIVE_MODEL)), 40),
    "embedding": (lambda target: target.request("/v1/embeddings", embedding_body()), 64),
}
"""What is asked, and how often in each round."""

CACHE_HIT, PACED_CHUNK = "plain, cache hit", "chunk of a paced stream"


async def ask(target: Target, request: bytes, count: int) -> None:
    """Ask so many times over CONNECTIONS connections; raises BenchError at the first answer that is not right."""
    loop = asyncio.get_running_loop()
    opening = [
        loop.create_connection(lambda: Client(request, count // CONNECTIONS), LOOPBACK, target.port)
        for _ in range(CONNECTIONS)
    ]
    pairs = await asyncio.gather(*opening)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await asyncio.gather(*(client.done for _, client in pairs))
    finally:
        for transport, _ in pairs:
            transport.abort()


async def hold(
    target: Target, model: str, count: int, then: Callable[[list[Stream]], Coroutine[Any, Any, float]]
) -> float:
    """Open so many streams, wait for the first chunk of each, and return what `then` finds meanwhile."""
    loop = asyncio.get_running_loop()
    request = target.chat_request(Kind.STREAM, model, close=True)
    pairs = [await loop.create_connection(lambda: Stream(request), LOOPBACK, target.port) for _ in range(count)]
    streams = [stream for _, stream in pairs]
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await asyncio.gather(*(stream.begun for stream in streams))
            return await then(streams)
    finally:
        for transport, _ in pairs:
            transport.abort()


def request_us(server: Server, request: bytes, count: int) -> float:
    """CPU microseconds of the worker for one request."""
    worker = procfs.leaves(server.pid)[-1]
    before = procfs.thread_cpu_s(worker)
    uvloop.run(ask(server.target, request, count))
    return (procfs.thread_cpu_s(worker) - before) * 1e6 / count


def chunk_us(server: Server) -> float:
    """CPU microseconds of the worker for one chunk of streams that are under way."""
    worker = procfs.leaves(server.pid)[-1]

    async def measure(streams: list[Stream]) -> float:
        found = []
        for _ in range(_PACED_SLICES):
            before, chunks = procfs.thread_cpu_s(worker), sum(stream.chunks for stream in streams)
            await asyncio.sleep(_SLICE_S)
            chunks = sum(stream.chunks for stream in streams) - chunks
            found.append((procfs.thread_cpu_s(worker) - before) * 1e6 / chunks)
        return min(found)

    return uvloop.run(hold(server.target, SLOW_MODEL, PACED_STREAMS, measure))


def idle_kib(server: Server) -> float:
    """KiB of the worker's memory for each of many streams that have begun and are silent."""
    worker = procfs.leaves(server.pid)[-1]
    before = procfs.memory(worker).rss

    async def measure(_: list[Stream]) -> float:
        return (procfs.memory(worker).rss - before) / IDLE_STREAMS / 1024

    return uvloop.run(hold(server.target, IDLE_MODEL, IDLE_STREAMS, measure))


@dataclass(frozen=True)
class Gateways:
    """One checkout's gateway, without and with its cache."""

    plain: Server
    caching: Server

    def requests(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """What is measured of requests."""
        for name, (make, count) in REQUESTS.items():
            yield name, partial(request_us, self.plain, make(self.plain.target), count)
        make, count = REQUESTS["plain"]
        yield CACHE_HIT, partial(request_us, self.caching, make(self.caching.target), count)


def start(stack: ExitStack, upstream: Target, root: Path) -> Gateways:
    """Start both gateways of one checkout."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    commands = servers.gateway(upstream, 1), servers.caching_gateway(upstream, folder / "config.yaml", hits=True)
    return Gateways(*(stack.enter_context(running(replace(each, cwd=root))) for each in commands))


def measure(roots: Sequence[Path], rounds: int) -> tuple[list[Costs], list[float]]:
    """The costs of each checkout's gateway, in turns, and the KiB of an idle stream in each."""
    found: list[Costs] = [defaultdict(list) for _ in roots]
    turns = list(range(len(roots)))
    with ExitStack() as stack:
        upstream = stack.enter_context(running(servers.upstream())).target
        gateways = [start(stack, upstream, root) for root in roots]
        progress("warm-up and memory")
        lacking = [{name for name, once in each.requests() if not _answers(once)} for each in gateways]
        idle = [idle_kib(each.plain) for each in gateways]
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            turns.reverse()
            for pairs in zip(*(each.requests() for each in gateways), strict=True):
                for turn in turns:
                    name, once = pairs[turn]
                    if name in lacking[turn]:
                        continue
                    found[turn][_LOOP].append(reference_us())
                    found[turn][name].append(once())
            if number % _PACED_EVERY == 0:
                for turn in turns:
                    found[turn][PACED_CHUNK].append(chunk_us(gateways[turn].plain))
    return found, idle


def _answers(once: Callable[[], float]) -> bool:
    """Whether a checkout can do what a row asks for: an older one lacks doors."""
    try:
        once()
    except BenchError:
        return False
    return True


def doors(now: dict[str, float]) -> list[str]:
    """Lines of Markdown on what the other doors' streams need beside chat's."""
    return [
        f"{name}: {now[name] / now[CHAT_STREAM]:.2f} times chat's; at most {most:.1f}."
        for name, most in MAX_TO_CHAT.items()
        if name in now
    ]


def ratios(costs: Costs) -> dict[str, float]:
    """The least of each row, as a multiple of the least of the loop."""
    return {name: min(each) / min(costs[_LOOP]) for name, each in costs.items() if name != _LOOP}


def times_of(costs: Costs, other: Costs) -> dict[str, float]:
    """The median of each row divided by the other's in the same round."""
    return {
        name: statistics.median(now / then for now, then in zip(each, other[name], strict=True))
        for name, each in costs.items()
        if name != _LOOP and name in other
    }


def table(costs: Costs, known: dict[str, float], times: dict[str, float]) -> list[str]:
    """Lines of Markdown; `known` is what is compared with, `times` how many times that is needed now."""
    lines = ["| CPU of the worker | least us | median us | to the loop | before | now / before |", "|---|" + "---|" * 5]
    for name, ratio in ratios(costs).items():
        each = costs[name]
        compared = f"{known[name]:.2f} | {times[name]:.2f} |" if name in times else "| |"
        lines.append(f"| {name} | {min(each):.0f} | {statistics.median(each):.0f} | {ratio:.2f} | {compared}")
    return lines


def main() -> int:
    """Measure, print, and compare; returns 1 for a regression."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--save", action="store_true", help="write the figures to bench/baseline.json: at a release")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with the gateway of another checkout")
    args = parser.parse_args()
    others = [args.against.resolve()] if args.against else []
    (costs, *other), idle = measure([ROOT, *others], args.rounds)
    now = ratios(costs)
    if other:
        known, times = ratios(other[0]), times_of(costs, other[0])
    else:
        known = msgspec.json.decode(BASELINE.read_bytes(), type=dict[str, float]) if BASELINE.exists() else {}
        times = {name: ratio / known[name] for name, ratio in now.items() if name in known}
    print("\n".join(table(costs, known, times)))
    print("", *doors(now), sep="\n")
    print(f"\nMemory of a silent stream: {', '.join(f'{each:.1f}' for each in idle)} KiB; at most {MAX_IDLE_KIB:.0f}.")
    if args.save:
        figures = {name: round(ratio, 3) for name, ratio in now.items()}
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    worse = [name for name, each in times.items() if each > ALLOWED]
    if idle[0] > MAX_IDLE_KIB:
        worse.append("memory of a silent stream")
    if worse:
        progress(f"More than the last release by over {ALLOWED - 1:.0%}, or above its limit: {', '.join(worse)}.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
