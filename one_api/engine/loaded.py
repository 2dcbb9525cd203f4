"""Which engines are loaded on this machine, and making room for another: all processes count them together."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from one_api.engine.files import POLL_S, EngineFailed, FileLock, Plan, read_object
from one_api.engine.process import is_engine
from one_api.engine.slots import Crowd, SlotFile

#: How long looking at the engines of a machine may take, in seconds; each look takes milliseconds.
_LOOK_LIMIT_S = 5.0
#: How long a model may wait for a busy one to end, in seconds.
ROOM_LIMIT_S = 30.0
#: How long an engine may take to end after SIGTERM, in seconds.
_END_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Resident:
    """One loaded engine. ``pid`` is 0 while it starts. ``last_used`` is in Unix seconds, 0 where it is not known."""

    name: str
    model: str
    pid: int
    slots: tuple[Path, ...]
    crowd: Path
    last_used: float

    @property
    def memory_bytes(self) -> int | None:
        """How much memory the engine has resident, its share of the file included; None where that is not told."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return None
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def residents(run_dir: Path) -> list[Resident]:
    """Return the engines that are loaded or being loaded, the least recently used first. Touches files."""
    lock = FileLock(run_dir / "room")
    deadline = time.monotonic() + _LOOK_LIMIT_S
    while not lock.try_acquire() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    try:
        return _residents(run_dir)
    finally:
        lock.release()


def _residents(run_dir: Path) -> list[Resident]:
    """As ``residents``, for who holds the lock on ``room``: meanwhile nobody begins to start an engine."""
    names = {path.name.removesuffix(f".{ending}") for ending in ("alive", "starting") for path in
             run_dir.glob(f"*.{ending}")}  # fmt: skip
    # What starts is not asked whether it lives: the question is a lock, and would stand in its way.
    found = [
        _resident(run_dir, name)
        for name in names
        if _is_held(run_dir / f"{name}.starting") or _is_held(run_dir / f"{name}.alive")
    ]
    return sorted(found, key=lambda each: each.last_used)


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.try_acquire()
    finally:
        lock.release()


def _resident(run_dir: Path, name: str) -> Resident:
    state = read_object(run_dir / f"{name}.state")
    count, base, pid = state.get("slot_count"), state.get("slots"), state.get("pid")
    if not isinstance(count, int) or not isinstance(base, str) or not isinstance(pid, int):
        return Resident(name, "", 0, (), run_dir / f"{name}.waiting", 0.0)
    slots = tuple(run_dir / f"{base}.slot-{number}" for number in range(count))
    used = [path.stat().st_mtime for path in (*slots, run_dir / f"{name}.state") if path.exists()]
    return Resident(name, str(state.get("model")), pid, slots, run_dir / f"{base}.waiting", max(used, default=0.0))


class Room:
    """Keeps the number of loaded engines of a machine within a limit."""

    def __init__(self, most: int) -> None:
        self._most = most

    async def reserve(self, plan: Plan) -> FileLock:
        """Return a lock that stands for the engine of ``plan`` while it starts; the caller releases it then.

        Ends the least recently used engine that is idle, if there are too many; if all are busy, the least recently
        used one gets no more requests, and ends when the last of them has been answered.

        Raises:
            EngineFailed: if no engine became idle within ``ROOM_LIMIT_S``.
        """
        deadline = time.monotonic() + ROOM_LIMIT_S
        drain: Drain | None = None
        try:
            while not isinstance(found := await asyncio.to_thread(self._try_reserve, plan), FileLock):
                if drain is None and (victims := [each for each in found if each.pid]):
                    drain = await asyncio.to_thread(Drain, victims[0])
                if drain is not None and await asyncio.to_thread(drain.tighten):
                    drain.close()
                    drain = None
                if time.monotonic() >= deadline:
                    raise EngineFailed(
                        f"{plan.alias}: {self._most} other models are loaded and busy; try again, or raise max_loaded",
                        5.0,
                    )
                await asyncio.sleep(POLL_S / 4)
            return found
        finally:
            if drain is not None:
                drain.close()

    def _try_reserve(self, plan: Plan) -> "FileLock | list[Resident]":
        """Reserve if there is room; else end an idle engine, or return what stands in the way."""
        folder = plan.base.parent
        lock = FileLock(folder / "room")
        if not lock.try_acquire():
            return []
        try:
            others = [each for each in _residents(folder) if each.name != plan.base.name]
            while len(others) >= self._most and (idle := next(filter(_end_if_idle, others), None)):
                others.remove(idle)
            if len(others) >= self._most:
                return others
            starting = FileLock(plan.file("starting"))
            starting.try_acquire()
            return starting
        finally:
            lock.release()


class Drain:
    """Keeps new requests from one engine, slot by slot, until none is in use; touches files."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._crowd = Crowd(resident.crowd)
        self._slots = [SlotFile(path) for path in resident.slots]

    def tighten(self) -> bool:
        """Take the slots that are free; end the engine when all are taken, and say whether it has ended."""
        self._crowd.join()
        taken = [slot.held or slot.take() for slot in self._slots]
        return all(taken) and _end(self._resident)

    def close(self) -> None:
        """Give the slots back."""
        self._crowd.close()
        for slot in self._slots:
            slot.close()


def _end_if_idle(resident: Resident) -> bool:
    """End an engine none of whose slots is in use, and say whether that was so."""
    if not resident.pid:
        return False
    slots = []
    try:
        for path in resident.slots:
            slots.append(SlotFile(path))
            if not slots[-1].take():
                return False
        return _end(resident)
    finally:
        for slot in slots:
            slot.close()


def _end(resident: Resident) -> bool:
    """End an engine in order, and say whether it has ended."""
    if is_engine(resident.pid):
        os.kill(resident.pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_LIMIT_S
    while is_engine(resident.pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
