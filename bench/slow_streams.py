"""Many paced streams opened at once: are all complete, and how late is each chunk?"""

import argparse
import asyncio
import bisect
import re
import statistics
import time
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import httptools
import msgspec
import uvloop

from bench.target import LOOPBACK, PACE_S, SLOW_MODEL, STREAM_CHUNKS, BenchError, Kind, Target, check_answer

DEADLINE_S = STREAM_CHUNKS * PACE_S + 90.0
"""A server that has not finished all streams by then has failed."""

_STAMP = re.compile(rb'"content":\s*"(\d+\.\d{6})"')


@dataclass(frozen=True)
class SlowResult:
    """Lateness is a chunk's arrival minus its sending; the first chunk's time counts from the first connect."""

    streams: int
    completed: int
    first_chunk_p50_ms: float
    first_chunk_p99_ms: float
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    first_failure: str = ""


class Recorder(asyncio.Protocol):
    """One stream, recorded as it comes and read only when all is over, so that reading does not delay it."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.reads: list[tuple[float, bytes]] = []
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note when these bytes came."""
        self.reads.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closes after its answer."""
        if not self.closed.done():
            self.closed.set_result(None)


@dataclass
class Reading:
    """A recorded answer without its HTTP framing: pieces of the body, each with its time of arrival."""

    times: list[float] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False
    status: int = 0
    now: float = 0.0

    def on_body(self, body: bytes) -> None:
        """The parser's callback for a piece of the body."""
        self.times.append(self.now)
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        """The parser's callback for a body that ended as HTTP wants."""
        self.complete = True

    @classmethod
    def of(cls, reads: list[tuple[float, bytes]]) -> "Reading":
        """Take the framing off."""
        reading = cls()
        parser = httptools.HttpResponseParser(reading)
        for reading.now, data in reads:
            parser.feed_data(data)
        reading.status = parser.get_status_code() if reads else 0
        return reading

    def stamps(self) -> list[tuple[float, float]]:
        """Pairs of (sent, arrived) of every content chunk; raises BenchError for an incomplete stream."""
        body = b"".join(self.pieces)
        check_answer(Kind.STREAM, self.status, body)
        ends = list(accumulate(map(len, self.pieces)))
        found = [
            (float(match[1]), self.times[bisect.bisect_left(ends, match.end())]) for match in _STAMP.finditer(body)
        ]
        if not self.complete or len(found) != STREAM_CHUNKS:
            raise BenchError(f"a stream had {len(found)} of {STREAM_CHUNKS} chunks, whole: {self.complete}")
        return found


def judge(recorders: list[Recorder], opened_at: float) -> SlowResult:
    """The figures of all complete streams, and what was wrong with the first other one."""
    first_s: list[float] = []
    late_s: list[float] = []
    failure = ""
    for recorder in recorders:
        try:
            stamps = Reading.of(recorder.reads).stamps()
        except (BenchError, httptools.HttpParserError) as error:
            failure = failure or str(error)
            continue
        first_s.append(stamps[0][1] - opened_at)
        late_s += [arrived - sent for sent, arrived in stamps]
    if len(first_s) < 2:
        raise BenchError(f"{len(first_s)} of {len(recorders)} slow streams came through: {failure}")
    first, late = (statistics.quantiles(values, n=100, method="inclusive") for values in (first_s, late_s))
    return SlowResult(
        streams=len(recorders),
        completed=len(first_s),
        first_chunk_p50_ms=first[49] * 1e3,
        first_chunk_p99_ms=first[98] * 1e3,
        late_p50_ms=late[49] * 1e3,
        late_p99_ms=late[98] * 1e3,
        late_max_ms=max(late_s) * 1e3,
        first_failure=failure,
    )


async def slow_streams(target: Target, streams: int) -> SlowResult:
    """Open all streams at once, read all, judge."""
    loop = asyncio.get_running_loop()
    request = target.chat_request(Kind.STREAM, SLOW_MODEL, close=True)
    opened_at = time.monotonic()
    opening = [loop.create_connection(lambda: Recorder(request), LOOPBACK, target.port) for _ in range(streams)]
    pairs = await asyncio.gather(*opening)
    recorders = [recorder for _, recorder in pairs]
    await asyncio.wait([recorder.closed for recorder in recorders], timeout=DEADLINE_S)
    for transport, _ in pairs:
        transport.abort()
    return judge(recorders, opened_at)


def main() -> None:
    """Run as a process of its own and print the result as JSON."""
    parser = argparse.ArgumentParser(description="paced streams, all at once")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--streams", type=int, default=500)
    args = parser.parse_args()
    result = uvloop.run(slow_streams(Target(args.port, args.key), args.streams))
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
