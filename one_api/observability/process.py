"""What the system knows of this process, and how late its event loop is."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

#: How often the loop is looked at, in seconds.
_LOOK_S = 0.1
#: Fields of ``/proc/self/stat`` after the name of the program: the ticks of the clock at which it started.
_START_TICKS = 19


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Seconds, bytes and counts of this process; None where the system does not report them."""

    cpu_s: float
    memory_bytes: int | None = None
    open_fds: int | None = None
    max_fds: int | None = None
    #: In Unix seconds.
    started: float | None = None


def process_state() -> ProcessState:
    """Ask the system; may take a millisecond, so it is called in a thread."""
    memory = open_fds = started = None
    with suppress(OSError, ValueError, IndexError):
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        open_fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is wanted
        started = _started(os.getpid())
    max_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource is not None else None
    return ProcessState(time.process_time(), memory, open_fds, max_fds, started)


@lru_cache(maxsize=1)
def _started(_: int) -> float:
    """Return when this process started, in Unix seconds; worked out once, because the clocks differ a little each time.

    A time that moves would pass for a restart.
    """
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_START_TICKS])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return round(time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK"), 2)


async def watch_loop(observe: Callable[[float], None]) -> None:
    """Report, ten times a second, by how many seconds a timer of the running loop was late; never returns."""
    while True:
        due = time.monotonic() + _LOOK_S
        await asyncio.sleep(_LOOK_S)
        observe(time.monotonic() - due)  # not the loop's own clock, which stands still while something has the loop
