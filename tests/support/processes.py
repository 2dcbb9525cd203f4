"""What tests do to processes from outside."""

import os
import signal
import time
from pathlib import Path

_POLL_S = 0.001
#: What proc(5) says of a thread that does nothing more: it is stopped, or has ended.
_STANDS = "TZX"


def freeze(pid: int, timeout_s: float = 10.0) -> None:
    """Stop a process (SIGSTOP), and return once each of its threads stands or has ended; SIGCONT lets it go on.

    Without the wait it may run on for a while: a process that waits for its turn stops only when it has it, and takes
    signals with lower numbers first. Raises AssertionError when it does not stop in time.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + timeout_s
    while any(_state(thread) not in _STANDS for thread in Path(f"/proc/{pid}/task").glob("*/stat")):
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} runs on {timeout_s} s after SIGSTOP")
        time.sleep(_POLL_S)


def _state(stat: Path) -> str:
    """What a thread does, as proc(5) says it."""
    try:
        return stat.read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:  # it is gone
        return "X"
