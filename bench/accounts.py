"""`make accounts`: what the ledger and a budget cost, as CPU of a worker per request, and what memory they take.

Gateways without accounts, with a ledger in SQLite, and with a budget for all keys beside it are asked in turns. A round
goes on until its rows are written, so that the threads of the database count, too. Each figure is the median of the
rounds' ratios to the gateway without accounts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import uvloop

from bench import procfs, servers
from bench.console import exit_status, progress
from bench.cost import REQUESTS, ask, reference_us
from bench.load import ROOT
from bench.report import MIB
from bench.servers import Command, Server, running
from bench.target import BenchError, Target

ROWS = ("plain", "16-chunk stream")
MOST = {"ledger": 1.08, "budget": 1.12}
"""What a plain request may need, as a multiple of one without accounts."""

MAX_MIB = 90
"""Memory that a worker may take with SQLite, after all rounds."""

_REQUESTS = 1280
"""In each round: what the accounts do each second, whether there are requests or not, is little beside so many."""
_WRITTEN_S = 1.6
"""By then the last rows of a round are written: they wait for others for a second."""

_CONFIG = "prices: {models: {'*': {input: 1, output: 2}}}\n"


def gateways(upstream: Target, folder: Path) -> dict[str, Command]:
    """The three, by what they keep."""
    found = {}
    for name in ("none", "ledger", "budget"):
        command = servers.gateway(upstream, 1)
        config = folder / "config.yaml"
        config.write_text(_CONFIG)
        database = "none" if name == "none" else f"sqlite:///{folder}/{name}.db"
        env = {**command.env, "DATABASE_URL": database, "ONE_API_CONFIG": str(config)}
        found[name] = replace(command, name=f"one_api, {name}", env=env)
    return found


def set_budget(env: Mapping[str, str]) -> None:
    """Have a budget bind all keys that nothing exhausts."""
    argv = [sys.executable, "-m", "flask", "--app", "wsgi", "budgets", "set", "all:total", "100000"]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BenchError(f"no budget could be set: {done.stderr[-500:]}")


def request_us(server: Server, request: bytes) -> float:
    """CPU microseconds of all threads of the worker for one request, to the moment at which it is booked."""
    worker = procfs.leaves(server.pid)[-1]
    before = procfs.thread_cpu_s(worker)
    uvloop.run(ask(server.target, request, _REQUESTS))
    time.sleep(_WRITTEN_S)
    return (procfs.thread_cpu_s(worker) - before) * 1e6 / _REQUESTS


def main() -> int:
    """Measure, print, and compare; returns 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.accounts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    costs: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        upstream = held.enter_context(running(servers.upstream())).target
        commands = gateways(upstream, Path(folder))
        started = {}
        for name, command in commands.items():
            if name == "budget":
                set_budget(command.env)
            started[name] = held.enter_context(running(command))
        turns = list(started)
        for number in range(args.rounds + 1):
            progress(f"round {number} of {args.rounds}" if number else "warm-up")
            turns.reverse()
            for row in ROWS:
                for name in turns:
                    reference_us()
                    found = request_us(started[name], REQUESTS[row][0](started[name].target))
                    if number:
                        costs.setdefault((row, name), []).append(found)
        memory = {name: procfs.memory(procfs.leaves(server.pid)[-1]).rss / MIB for name, server in started.items()}
    return report(costs, memory)


def report(costs: dict[tuple[str, str], list[float]], memory: dict[str, float]) -> int:
    """Print the figures, and judge them."""
    print("| CPU of the worker | accounts | least us | median us | to none |", "|---|---|---|---|---|", sep="\n")
    missed = []
    for (row, name), found in costs.items():
        ratio = statistics.median(now / then for now, then in zip(found, costs[row, "none"], strict=True))
        print(f"| {row} | {name} | {min(found):.0f} | {statistics.median(found):.0f} | {ratio:.3f} |")
        if row == ROWS[0] and ratio > MOST.get(name, 1.0) and name in MOST:
            missed.append(f"a {row} request with {name}: {ratio:.3f} of at most {MOST[name]}")
    for name, rss in memory.items():
        print(f"\nMemory of a worker, {name}: {rss:.1f} MiB", end="")
        if rss > MAX_MIB and name != "none":
            missed.append(f"memory with {name}: {rss:.1f} of at most {MAX_MIB} MiB")
    print()
    if missed:
        progress(f"Missed: {'; '.join(missed)}.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
