"""`make bench`: what does the gateway cost, next to no gateway and, with LITELLM=1, next to LiteLLM's proxy?"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from bench import litellm_proxy, load, procfs, servers
from bench.console import exit_status, progress
from bench.report import MIB, Goal, IdleRow, LoadRow, Report, SlowRow
from bench.servers import Command, Server, running
from bench.target import Kind, Target

CONNECTIONS = (1, 32)
STREAMS = 500
DIRECT = "direct"
OTHERS_ALLOWED = 0.1
"""CPUs that others may keep busy during a run."""

_SETTLE_S = 1.0
_IMPORTS = 5
_TRIES = 3
_ROUNDS = 7
"""Runs of each of two servers that are measured in turns."""
_RIVAL_FACTOR = 3
"""Answers under way when wrk stops are lost: next to nothing for us, several per cent for a server of 30 req/s."""


Row = TypeVar("Row", LoadRow, SlowRow)


@dataclass(frozen=True)
class Plan:
    """How long the parts of a benchmark take, in seconds."""

    run_s: float
    warm_up_s: float


def measure(command: Command, plan: Plan, report: Report, factor: int = 1) -> None:
    """Start one server, run everything against it, stop it; `factor` makes its runs longer."""
    with running(command) as server:
        progress(f"{server.name}: warm-up")
        sizes = {kind: load.warm_up(server.target, kind, max(CONNECTIONS), plan.warm_up_s * factor) for kind in Kind}
        measure_server(server, sizes, plan.run_s * factor, report)


def measure_server(server: Server, sizes: dict[Kind, float], seconds: float, report: Report) -> None:
    """All runs against a warm server: the paced streams, then each kind of request at each number of connections."""
    progress(f"{server.name}: {STREAMS} paced streams")
    report.slow.append(undisturbed(partial(paced, server, procfs.tree_rss(server.pid))))
    for kind in Kind:
        for connections in CONNECTIONS:
            progress(f"{server.name}: {kind}, {connections} connections")
            run = partial(closed_loop, server, kind, connections, seconds, sizes[kind])
            report.load.append(undisturbed(run))


def undisturbed(run: Callable[[], Row]) -> Row:
    """The row of a run during which others left the CPUs alone, or of a few runs the one that they disturbed least."""
    rows = [run()]
    while rows[-1].others > OTHERS_ALLOWED and len(rows) < _TRIES:
        progress(f"  others kept {rows[-1].others:.2f} CPUs busy: once more")
        rows.append(run())
    return min(rows, key=lambda row: row.others)


def closed_loop(server: Server, kind: Kind, connections: int, seconds: float, answer_bytes: float) -> LoadRow:
    """One closed-loop run, with the CPU of the server meanwhile."""
    meter = procfs.CpuMeter(server.pid)
    result = load.closed_loop(server.target, kind, connections, seconds, answer_bytes)
    cpu_s, others = meter.read()
    return LoadRow(server.name, kind, connections, result, cpu_s / result.requests * 1e3, others)


def paced(server: Server, rss_before: int) -> SlowRow:
    """The paced streams, with the CPU and the highest memory of the server meanwhile."""
    meter = procfs.CpuMeter(server.pid)
    peak = rss_before

    def watch() -> None:
        nonlocal peak
        peak = max(peak, procfs.tree_rss(server.pid))

    result = load.slow_streams(server.target, STREAMS, watch)
    time.sleep(_SETTLE_S)
    cpu_s, others = meter.read()
    return SlowRow(server.name, result, cpu_s, (peak - rss_before) / STREAMS / 1024, others)


def at_rest(upstream: Target) -> list[IdleRow]:
    """A bare Python and an idle worker of ours: their memory, and the time from start to `import wsgi` being done."""
    env = servers.gateway_environment(upstream, servers.free_port(), 1)
    bare = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        time.sleep(_SETTLE_S)
        rows = [IdleRow("Python", procfs.memory(bare.pid), import_time_s("pass", env))]
    finally:
        bare.kill()
        bare.communicate()
    with running(servers.gateway(upstream, workers=1)) as server:
        time.sleep(_SETTLE_S)
        worker = procfs.leaves(server.pid)[-1]
        rows.append(IdleRow("one_api worker", procfs.memory(worker), import_time_s("import wsgi", env)))
    return rows


def import_time_s(code: str, env: dict[str, str]) -> float:
    """The median wall time of an interpreter that runs one line."""
    times = []
    for _ in range(_IMPORTS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=load.ROOT, env=env, check=True, timeout=60)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def own_goals(report: Report, ours: str) -> list[Goal]:
    """What has to hold without anyone to compare with."""
    slow, worker = report.slow_of(ours), report.idle[1]
    return [
        Goal("paced streams completed", slow.result.completed, STREAMS, at_least=True),
        Goal("paced streams: late p99, ms", slow.result.late_p99_ms, 50),
        Goal("paced streams: CPU s", slow.cpu_s, 4),
        Goal("idle worker RSS, MiB", worker.memory.rss / MIB, 80),
        Goal("import of the app, s", worker.import_s, 1),
    ]


def side_by_side(first: Command, second: Command, plan: Plan) -> dict[Kind, float]:
    """Requests per second of the second server over the first's: medians of runs in turns, on the same machine."""
    most = max(CONNECTIONS)
    ratios = {}
    with running(first) as one, running(second) as other:
        for kind in Kind:
            progress(f"{one.name} and {other.name} in turns: {kind}, {most} connections")
            sizes = [load.warm_up(server.target, kind, most, plan.warm_up_s) for server in (one, other)]
            rates: tuple[list[float], list[float]] = ([], [])
            for _ in range(_ROUNDS):
                for server, size, found in zip((one, other), sizes, rates, strict=True):
                    result = load.closed_loop(server.target, kind, most, plan.run_s / 2, size)
                    found.append(result.requests_per_s)
            ratios[kind] = statistics.median(rates[1]) / statistics.median(rates[0])
    return ratios


def ratio_goals(ratios: dict[Kind, float], what: str, limit: float) -> list[Goal]:
    """How much of its speed the gateway has to keep with something more to do."""
    name = f"{max(CONNECTIONS)} connections, {what}"
    return [Goal(f"req/s {kind}, {name}", ratio, limit, at_least=True) for kind, ratio in ratios.items()]


def measure_cache(upstream: Target, plan: Plan, report: Report) -> None:
    """What an answer from the cache costs, next to one that is looked up in vain, asked for and kept."""
    with tempfile.TemporaryDirectory() as folder:
        for hits in (False, True):
            command = servers.caching_gateway(upstream, Path(folder) / "config.yaml", hits=hits)
            with running(command) as server:
                progress(f"{server.name}: warm-up")
                for kind in (Kind.STREAM, Kind.COMPLETION):  # what is kept first serves both: the longer one
                    size = load.warm_up(server.target, kind, max(CONNECTIONS), plan.warm_up_s)
                    progress(f"{server.name}: {kind}, {max(CONNECTIONS)} connections")
                    run = partial(closed_loop, server, kind, max(CONNECTIONS), plan.run_s, size)
                    report.load.append(undisturbed(run))


def cache_goals(report: Report) -> list[Goal]:
    """Hits next to misses."""
    goals = []
    for kind in Kind:
        miss, hit = (report.load_of(f"one_api, cache {each}", kind, max(CONNECTIONS)) for each in ("misses", "hits"))
        cpu = hit.cpu_ms_per_request / miss.cpu_ms_per_request
        speed = hit.result.requests_per_s / miss.result.requests_per_s
        goals += [
            Goal(f"CPU {kind}, cache hit / miss", cpu, 1 / 3),
            Goal(f"req/s {kind}, cache hit / miss", speed, 2, at_least=True),
        ]
    return goals


def rival_goals(report: Report, ours: str, rival: str) -> list[Goal]:
    """Our figures divided by the rival's, or the other way round where less is better."""
    most = max(CONNECTIONS)
    speed = {
        kind: report.load_of(ours, kind, most).result.requests_per_s
        / report.load_of(rival, kind, most).result.requests_per_s
        for kind in Kind
    }
    added_ms = {
        server: report.load_of(server, Kind.COMPLETION, 1).result.p50_ms
        - report.load_of(DIRECT, Kind.COMPLETION, 1).result.p50_ms
        for server in (ours, rival)
    }
    return [
        Goal(f"req/s non-stream, {most} connections, one_api / LiteLLM", speed[Kind.COMPLETION], 15, at_least=True),
        Goal(f"req/s stream, {most} connections, one_api / LiteLLM", speed[Kind.STREAM], 30, at_least=True),
        Goal("added median latency, 1 connection, one_api / LiteLLM", added_ms[ours] / added_ms[rival], 0.1),
        Goal(
            "CPU of paced streams, LiteLLM / one_api",
            report.slow_of(rival).cpu_s / report.slow_of(ours).cpu_s,
            8,
            at_least=True,
        ),
    ]


def benchmark(plan: Plan, with_litellm: bool) -> Report:
    """The whole benchmark; the upstream runs all the time, and one gateway at a time in front of it."""
    report = Report()
    version = litellm_proxy.install() if with_litellm else ""
    with running(servers.upstream()) as upstream:
        progress("direct: warm-up")
        sizes = {kind: load.warm_up(upstream.target, kind, max(CONNECTIONS), plan.warm_up_s) for kind in Kind}
        measure_server(upstream, sizes, plan.run_s, report)
        progress("at rest")
        report.idle += at_rest(upstream.target)
        one_worker, group = servers.gateway(upstream.target, workers=1), servers.group(upstream.target)
        measure(one_worker, plan, report)
        measure(group, plan, report)
        report.goals += ratio_goals(side_by_side(one_worker, group, plan), "group of three / one deployment", 0.9)
        with tempfile.TemporaryDirectory() as folder:
            ledger = servers.ledger(upstream.target, Path(folder) / "one_api.db")
            report.goals += ratio_goals(
                side_by_side(one_worker, ledger, plan), "with a ledger in SQLite / without", 0.92
            )
        two_workers = servers.gateway(upstream.target, workers=2)
        measure(two_workers, plan, report)
        measure_cache(upstream.target, plan, report)
        report.goals += own_goals(report, two_workers.name) + cache_goals(report)
        if with_litellm:
            rival = litellm_proxy.proxy(upstream.target, 2, version)
            measure(rival, plan, report, _RIVAL_FACTOR)
            report.goals += rival_goals(report, two_workers.name, rival.name)
    return report


def main() -> int:
    """Parse the command line, run, print. A goal that is missed is told, not punished; a run that went wrong is."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="runs of 2 s each instead of 8 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file as well")
    args = parser.parse_args()
    plan = Plan(run_s=2, warm_up_s=1) if args.quick else Plan(run_s=8, warm_up_s=3)
    report = benchmark(plan, os.environ.get("LITELLM") == "1")
    cpus = len(os.sched_getaffinity(0))
    generator = "wrk" if load.WRK else "own generator"
    print(f"{cpus} CPUs, Python {sys.version.split()[0]}, load by {generator}, {plan.run_s:.0f} s a run.\n")
    print(report.markdown())
    if report.others > OTHERS_ALLOWED:
        progress(f"Others kept {report.others:.2f} of {cpus} CPUs busy during a run: repeat it on a quiet machine.")
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
