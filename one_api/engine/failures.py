"""Why starts of an engine failed, as all processes record it, and when the next one may begin."""

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from one_api.engine.files import EngineFailed, Plan, read_object, write_object
from one_api.engine.settings import EngineSettings
from one_api.settings.private_files import open_private

#: In the log, before each start.
_MARK = "--- start "
_MAX_FAILURES = 16
_LOG_LINE = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")


def open_log(plan: Plan, cap_bytes: int) -> int:
    """Open the log for appending, emptied if it is over its cap, and mark that a start begins."""
    log = open_private(plan.file("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if os.fstat(log).st_size > cap_bytes:
        os.ftruncate(log, 0)
    os.write(log, f"{_MARK}{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n".encode())
    return log


@dataclass(frozen=True, slots=True)
class Failures:
    """When starts failed and engines crashed, by the machine's monotonic clock, and why the last one did."""

    times: list[float]
    reason: str


def read_failures(plan: Plan) -> Failures:
    """Return what went wrong lately, as all processes recorded it."""
    failures = read_object(plan.file("failures"))
    times = failures.get("times")
    times = [at for at in times if isinstance(at, int | float)] if isinstance(times, list) else []
    return Failures(times, str(failures.get("reason")))


def record_failure(plan: Plan, what: str) -> str:
    """Count a failure for all processes, and return its reason: ``what`` and the end of the log."""
    reason = f"{what}{_log_tail(plan.file('log'))}"
    times = [*read_failures(plan).times, time.monotonic()][-_MAX_FAILURES:]
    write_object(plan.file("failures"), {"times": times, "reason": reason})
    return reason


def refuse_after_failures(plan: Plan, settings: EngineSettings) -> None:
    """Raise EngineFailed if there were too many failures lately."""
    failures = read_failures(plan)
    now = time.monotonic()
    recent = [at for at in failures.times if now - settings.failure_window_s < at <= now]
    if len(recent) > settings.failure_limit:
        rest_s = recent[-1 - settings.failure_limit] + settings.failure_window_s - now
        raise EngineFailed(
            f"{plan.alias}: its engine keeps failing, next attempt in {math.ceil(rest_s)} s. Last: {failures.reason}",
            rest_s,
        )


def backoff_s(plan: Plan, settings: EngineSettings) -> float:
    """Return how long to wait before the next start, in seconds: nothing after a single failure."""
    now = time.monotonic()
    recent = [at for at in read_failures(plan).times if now - settings.failure_window_s < at <= now]
    if len(recent) < 2:
        return 0.0
    return max(0.0, recent[-1] + settings.backoff_s * 2.0 ** (len(recent) - 2) - now)


def _log_tail(path: Path) -> str:
    """Return what the engine printed last since its start, as ``: line; line``, in at most 600 characters."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read(16_384).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [_LOG_LINE.sub("", line).strip() for line in text.rpartition(_MARK)[2].splitlines()[1:]]
    distinct = list(dict.fromkeys(line for line in lines if line))[-6:]
    tail = "; ".join("".join(char if char.isprintable() else "?" for char in line) for line in distinct)
    return f": {tail[:600]}" if tail else ""
