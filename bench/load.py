"""Load on a server, always from another process than the one that measures.

Closed-loop runs use wrk when it is installed, else our own generator, which costs more but looks at every answer. wrk
only counts, so its runs are held against the mean size of the answers that our own generator has looked at.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.closed_loop import GRACE_S, LoadResult
from bench.slow_streams import DEADLINE_S, SlowResult
from bench.target import BenchError, Kind, Target, chat_body

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

WRK = shutil.which("wrk")

_SIZE_TOLERANCE = 0.02
_WATCH_EVERY_S = 0.1


def warm_up(target: Target, kind: Kind, connections: int, seconds: float) -> float:
    """Load a server while looking at every answer; returns the mean size of an answer in bytes."""
    result = _python_run(target, kind, connections, seconds)
    return result.bytes / result.requests


def closed_loop(target: Target, kind: Kind, connections: int, seconds: float, answer_bytes: float) -> LoadResult:
    """One measured run; raises BenchError when any answer failed or the mean size is not that of whole answers."""
    if WRK is None:
        return _python_run(target, kind, connections, seconds)
    result = _wrk_run(WRK, target, kind, connections, seconds)
    if result.errors:
        raise BenchError(f"{result.errors} errors in {result.requests} {kind} requests to port {target.port}")
    if not result.requests:
        raise BenchError(f"no {kind} request to port {target.port} was answered in {seconds} s")
    size = result.bytes / result.requests
    # Requests still under way at the end have left bytes behind, at most one answer per connection.
    slack = connections / result.requests
    if not -_SIZE_TOLERANCE <= size / answer_bytes - 1 <= _SIZE_TOLERANCE + slack:
        raise BenchError(f"{kind} answers of {size:.0f} bytes; whole ones had {answer_bytes:.0f}")
    return result


def slow_streams(target: Target, streams: int, watch: Callable[[], None]) -> SlowResult:
    """Open so many paced streams at once and read all; `watch` is called about ten times a second meanwhile."""
    args = ["bench.slow_streams", "--port", str(target.port), "--key", target.api_key, "--streams", str(streams)]
    output = _run([sys.executable, "-m", *args], {}, DEADLINE_S + GRACE_S, watch)
    return msgspec.json.decode(output, type=SlowResult)


def _python_run(target: Target, kind: Kind, connections: int, seconds: float) -> LoadResult:
    args = ["bench.closed_loop", "--port", str(target.port), "--key", target.api_key, "--kind", kind]
    args += ["--connections", str(connections), "--seconds", str(seconds)]
    output = _run([sys.executable, "-m", *args], {}, seconds + 2 * GRACE_S)
    return msgspec.json.decode(output, type=LoadResult)


def _wrk_run(wrk: str, target: Target, kind: Kind, connections: int, seconds: float) -> LoadResult:
    args = ["--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s"]
    args += ["--timeout", f"{round(GRACE_S)}s", "--latency", "--script", str(ROOT / "bench" / "wrk.lua"), target.url]
    env = {"BENCH_BODY": chat_body(kind).decode(), "BENCH_KEY": target.api_key}
    output = _run([wrk, *args], env, seconds + 2 * GRACE_S)
    return msgspec.json.decode(output.splitlines()[-1], type=LoadResult)


def _run(argv: list[str], env: dict[str, str], timeout_s: float, watch: Callable[[], None] = lambda: None) -> bytes:
    """The standard output of a command that ends well in time; anything else is a BenchError with its last words."""
    deadline = time.monotonic() + timeout_s
    process = subprocess.Popen(argv, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while True:
            watch()
            try:
                output, errors = process.communicate(timeout=_WATCH_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise BenchError(f"{argv[:3]} was not done within {timeout_s:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise BenchError(f"{argv[:3]} failed: {errors.decode(errors='replace').strip()[-1000:]}")
    return output
