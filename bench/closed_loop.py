"""A closed-loop load generator: every connection sends its next request when the last answer is whole.

It looks at every answer, so it also serves as the warm-up that proves a server right before wrk only counts.
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import cast

import httptools
import msgspec
import uvloop

from bench.target import LOOPBACK, BenchError, Kind, Target, check_answer

GRACE_S = 30.0
"""How long the last answers may take after the run's time is over."""


@dataclass(frozen=True)
class LoadResult:
    """One run: complete answers only. `bytes` counts what came over the wire, heads included."""

    requests: int
    seconds: float
    bytes: int
    p50_ms: float
    p99_ms: float
    errors: int = 0

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


@dataclass
class Run:
    """What the connections of one run share."""

    kind: Kind
    request: bytes
    stop_at: float
    left: int
    finished: asyncio.Future[None]
    latencies_s: list[float]
    bytes: int = 0

    def fail(self, error: Exception) -> None:
        """End the run with its first error."""
        if not self.finished.done():
            self.finished.set_exception(error)

    def leave(self) -> None:
        """One connection has nothing more to do; the last one ends the run."""
        self.left -= 1
        if not self.left and not self.finished.done():
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    """One kept-alive connection that asks again and again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._body: list[bytes] = []
        self._sent_at = 0.0
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends before the run does is an error."""
        if not self._done:
            self._run.fail(BenchError(f"the server closed a connection during a run: {exc!r}"))

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._sent_at = time.perf_counter()
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls on_body and on_message_complete."""
        self._run.bytes += len(data)
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the answer."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Judge the answer; ask again while there is time."""
        run = self._run
        run.latencies_s.append(time.perf_counter() - self._sent_at)
        try:
            check_answer(run.kind, self._parser.get_status_code(), b"".join(self._body))
        except BenchError as error:
            run.fail(error)
            return
        if time.perf_counter() < run.stop_at:
            self._ask()
        else:
            self._done = True
            self._transport.close()
            run.leave()


async def closed_loop(target: Target, kind: Kind, connections: int, seconds: float) -> LoadResult:
    """Run for so many seconds; raises BenchError at the first answer that is not right."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    run = Run(kind, target.chat_request(kind), start + seconds, connections, loop.create_future(), [])
    opened = [loop.create_connection(lambda: Connection(run), LOOPBACK, target.port) for _ in range(connections)]
    async with asyncio.timeout(seconds + GRACE_S):
        pairs = await asyncio.gather(*opened)
        try:
            await run.finished
        finally:
            for transport, _ in pairs:
                transport.abort()
    elapsed = time.perf_counter() - start
    cuts = statistics.quantiles([*run.latencies_s, run.latencies_s[-1]], n=100, method="inclusive")
    return LoadResult(len(run.latencies_s), elapsed, run.bytes, cuts[49] * 1e3, cuts[98] * 1e3)


def main() -> None:
    """Run as a process of its own and print the result as JSON."""
    parser = argparse.ArgumentParser(description="closed-loop load on an OpenAI-compatible server")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--kind", type=Kind, choices=list(Kind), default=Kind.COMPLETION)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    result = uvloop.run(closed_loop(Target(args.port, args.key), args.kind, args.connections, args.seconds))
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
