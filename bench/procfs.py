"""What a tree of processes uses, as Linux's /proc tells it."""

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: resident, and resident with shared pages counted in proportion."""

    rss: int
    pss: int


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on ([1] is the parent); empty when the process has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children() -> dict[int, list[int]]:
    """The living children of every process."""
    found: dict[int, list[int]] = {}
    for pid in sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        fields = _stat_fields(pid)
        if fields and fields[0] != "Z":
            found.setdefault(int(fields[1]), []).append(pid)
    return found


def tree(pid: int) -> list[int]:
    """A process and all its living descendants."""
    children = _children()
    pids = [pid]
    for each in pids:  # grows while it is walked
        pids += children.get(each, [])
    return pids


def leaves(pid: int) -> list[int]:
    """The processes of a tree that have no children: for a pre-forking server its workers."""
    children = _children()
    return [each for each in tree(pid) if each not in children]


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a tree has used so far, its dead and reaped children included."""
    fields = [fields for fields in map(_stat_fields, tree(pid)) if fields]
    return sum(int(ticks) for each in fields for ticks in each[11:15]) / _TICKS_PER_S


def thread_cpu_s(pid: int) -> float:
    """CPU seconds that the living threads of one process have used so far, to the nanosecond."""
    tasks = (_PROC / str(pid) / "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _machine_cpu_s() -> float:
    """CPU seconds that the machine has been busy, or kept from running by its host, since it started."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, (_PROC / "stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


class CpuMeter:
    """CPU of one server's tree from now on, and how many CPUs were busy meanwhile with what we have not started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        return cpu_s(self._pid), _machine_cpu_s() - cpu_s(os.getpid()), time.monotonic()

    def read(self) -> tuple[float, float]:
        """CPU seconds of the server, and CPUs that others kept busy on average."""
        server_s, others_s, elapsed_s = (now - before for now, before in zip(self._now(), self._start, strict=True))
        return server_s, max(0.0, others_s / elapsed_s)


def memory(pid: int) -> Memory:
    """Memory of one process; zero when it has gone."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return Memory(0, 0)
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return Memory(kib["Rss"] * 1024, kib["Pss"] * 1024)


def tree_rss(pid: int) -> int:
    """Resident bytes of a process and all its descendants; cheaper and less exact than `memory`, for frequent use."""
    return sum(int(fields[21]) for fields in map(_stat_fields, tree(pid)) if fields) * _PAGE_BYTES


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors of one process by what they are: `socket`, `pipe`, `anon_inode`, or `file` for any path."""
    kinds: Counter[str] = Counter()
    for fd in (_PROC / str(pid) / "fd").iterdir():
        try:
            name = str(fd.readlink())
        except FileNotFoundError:
            continue
        kinds["file" if name.startswith("/") else name.partition(":")[0]] += 1
    return kinds


def connections(pid: int, port: int) -> int:
    """How many connections to a port of this machine a process holds, at its own end."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    inodes = {each[9] for each in fields if int(each[1].partition(":")[2], 16) == port and each[3] == "01"}
    held = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held += str(link.readlink())[len("socket:[") : -1] in inodes
    return held
