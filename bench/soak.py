"""`make soak`: thousands of clients, many of whom leave early, and then: what has stayed behind in the worker?"""

import argparse
import random
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import uvloop

from bench import procfs, servers
from bench.console import exit_status, progress
from bench.report import MIB, number, table
from bench.servers import Server, running
from bench.target import BenchError, Target
from bench.upstream import Stats
from bench.visitor import visit_all, visits

CONCURRENCY = 32
#: The warm-up asks for more at once than what follows, so that a chance peak later takes no new pages: Python asks for
#: memory a MiB at a time, and one of them would be more than a leak may be.
WARM_CONCURRENCY = 128
WARM_REQUESTS = 2_000
MAX_GROWTH = 0.01
MARKS = 4
"""Measurements after the warm-up, the last one at the end."""

QUIET_S = 30.0
"""By then no stream may be open upstream, and the worker's sockets must have come to rest."""

IDLE_S = 120.0
"""By then the pool of kept-alive upstream connections must have run out."""

_REST_S = 1.0


@dataclass(frozen=True)
class Mark:
    """What a quiet worker holds; `own_sockets` are those that are not connections to the upstream."""

    requests: int
    rss: int
    own_sockets: int
    upstream_connections: int
    files: int
    others: int
    threads: int


def upstream_stats(upstream: Target) -> Stats:
    """What the scripted upstream counts."""
    status, body = servers.get(upstream, "/stats")
    if status != 200:
        raise BenchError(f"the upstream answered {status} to /stats")
    return msgspec.json.decode(body, type=Stats)


def worker_of(server: Server) -> int:
    """The process id of the only worker."""
    found = procfs.leaves(server.pid)
    if len(found) != 1 or found[0] == server.pid:
        raise BenchError(f"one worker below the master was expected, not {found}")
    return found[0]


def take_mark(requests: int, worker: int, upstream: Target) -> Mark:
    """Measure now."""
    kinds = procfs.descriptors(worker)
    connections = upstream_stats(upstream).open_connections
    sockets, files = kinds.pop("socket", 0), kinds.pop("file", 0)
    threads = len(list(Path(f"/proc/{worker}/task").iterdir()))
    rss = procfs.memory(worker).rss
    return Mark(requests, rss, sockets - connections, connections, files, kinds.total(), threads)


def quiet_mark(requests: int, worker: int, upstream: Target) -> Mark:
    """Measure as soon as two looks, a second apart, see the same sockets and no open stream."""
    deadline = time.monotonic() + QUIET_S
    before: Mark | None = None
    while True:
        mark = take_mark(requests, worker, upstream)
        streams = upstream_stats(upstream).streams_open
        if not streams and before and mark.own_sockets == before.own_sockets:
            return mark
        if time.monotonic() > deadline:
            raise BenchError(f"no quiet within {QUIET_S:.0f} s: {streams} upstream streams are open, {mark}")
        before = mark
        time.sleep(_REST_S)


def idle_mark(baseline: Mark, requests: int, worker: int, upstream: Target) -> Mark:
    """Measure when nothing is left over any more, or else at the deadline."""
    deadline = time.monotonic() + IDLE_S
    while True:
        mark = take_mark(requests, worker, upstream)
        if not left_over(baseline, mark) or time.monotonic() > deadline:
            return mark
        time.sleep(_REST_S)


def left_over(baseline: Mark, last: Mark) -> list[str]:
    """What there is more of than before the first request."""
    kinds = ("own_sockets", "upstream_connections", "files", "others")
    pairs = [(kind, getattr(baseline, kind), getattr(last, kind)) for kind in kinds]
    return [f"{kind}: {now}, {before} at the start" for kind, before, now in pairs if now > before]


def soak(requests: int, seed: int) -> tuple[list[Mark], list[str]]:
    """Run all visits; returns the measurements (before, after the warm-up, ..., idle) and what is wrong."""
    coming = visits(random.Random(seed), requests)
    steps = [WARM_REQUESTS, *_shares(requests - WARM_REQUESTS, MARKS)]
    with running(servers.upstream()) as upstream, running(servers.gateway(upstream.target, workers=1)) as gateway:
        worker = worker_of(gateway)
        marks = [quiet_mark(0, worker, upstream.target)]
        done = 0
        for step in steps:
            at_once = CONCURRENCY if done else WARM_CONCURRENCY
            start = time.perf_counter()
            outcomes = uvloop.run(visit_all(gateway.target, islice(coming, step), at_once))
            done += step
            progress(f"{done} requests, {step / (time.perf_counter() - start):.0f}/s, {dict(outcomes)}")
            marks.append(quiet_mark(done, worker, upstream.target))
        marks.append(idle_mark(marks[0], done, worker, upstream.target))
        if worker_of(gateway) != worker:
            raise BenchError("the worker was replaced during the soak")
        return marks, verdict(marks)


def _shares(total: int, parts: int) -> list[int]:
    """A number cut into so many nearly equal parts."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def verdict(marks: list[Mark]) -> list[str]:
    """What is wrong; nothing if the list is empty."""
    baseline, warm, end, idle = marks[0], marks[1], marks[-2], marks[-1]
    growth = end.rss / warm.rss - 1
    wrong = [f"memory grew by {growth:.2%}, allowed is less than {MAX_GROWTH:.0%}"] if growth >= MAX_GROWTH else []
    return wrong + left_over(baseline, idle)


def as_table(marks: list[Mark]) -> str:
    """The measurements in Markdown; ratios to the memory after the warm-up."""
    heads = ("requests", "RSS MiB", "own sockets", "upstream connections", "files", "other descriptors", "threads")
    rows = [
        [
            f"{mark.requests:,}" + (" (idle)" if mark is marks[-1] else ""),
            f"{mark.rss / MIB:.2f} ({mark.rss / marks[1].rss:.4f}x)",
            *(
                number(count)
                for count in (mark.own_sockets, mark.upstream_connections, mark.files, mark.others, mark.threads)
            ),
        ]
        for mark in marks
    ]
    return table(heads, rows)


def main() -> int:
    """Parse the command line, run, print; 1 when anything was left over or went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.requests < 2 * WARM_REQUESTS:
        parser.error(f"--requests must be at least {2 * WARM_REQUESTS}")
    marks, wrong = soak(args.requests, args.seed)
    print(as_table(marks))
    print("\n" + ("\n".join(f"FAILED: {each}" for each in wrong) or "Nothing left over."))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
