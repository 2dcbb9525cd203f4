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


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    return _state(Path(f"/proc/{pid}/stat")) not in "ZX"


def group_of(leader: int) -> list[int]:
    """The processes of a group, whether they have ended or not."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _fields(Path(f"/proc/{pid}/stat"))[2:3] == [str(leader)]]


def _state(stat: Path) -> str:
    """What a thread does, as proc(5) says it."""
    return (_fields(stat) or ["X"])[0]


def _fields(stat: Path) -> list[str]:
    """What proc(5) says of a process or thread from its state on; nothing if it is gone."""
    try:
        return stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
