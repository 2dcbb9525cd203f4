"""The loaded engines of this machine, and their limit, which all processes keep together."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from one_api.engine.files import EngineFailed, Plan, read_object
from one_api.engine.locks import POLL_S, FileLock, WaiterLock
from one_api.engine.process import is_engine
from one_api.engine.slots import SlotFile

#: How long counting the engines may take, in seconds; it normally takes milliseconds.
_MAX_COUNT_S = 5.0
#: How long a model may wait until a busy engine ends, in seconds.
MAX_CAPACITY_WAIT_S = 30.0
#: How long an engine may take to end after SIGTERM, in seconds.
_MAX_END_S = 5.0


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """One loaded engine. ``pid`` is 0 while it starts. ``last_used`` is in Unix seconds, 0 where it is not known."""

    name: str
    model: str
    pid: int
    slots: tuple[Path, ...]
    waiter_lock: Path
    last_used: float

    @property
    def memory_bytes(self) -> int | None:
        """The resident memory of the engine in bytes, with its share of the file; None if unknown."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return None
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def loaded_engines(run_dir: Path) -> list[LoadedEngine]:
    """Return the engines that are loaded or being loaded, the least recently used first. Touches files."""
    lock = FileLock(run_dir / "room")
    deadline = time.monotonic() + _MAX_COUNT_S
    while not lock.try_acquire() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    try:
        return _loaded_engines(run_dir)
    finally:
        lock.release()


def _loaded_engines(run_dir: Path) -> list[LoadedEngine]:
    """As ``loaded_engines``, for a caller that holds the lock on ``room``: no engine can start meanwhile."""
    names = {path.name.removesuffix(f".{ending}") for ending in ("alive", "starting") for path in
             run_dir.glob(f"*.{ending}")}  # fmt: skip
    # A starting engine is not checked for ``alive``: the check takes a lock, which would block the engine.
    found = [
        _loaded_engine(run_dir, name)
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


def _loaded_engine(run_dir: Path, name: str) -> LoadedEngine:
    state = read_object(run_dir / f"{name}.state")
    count, base, pid = state.get("slot_count"), state.get("slots"), state.get("pid")
    if not isinstance(count, int) or not isinstance(base, str) or not isinstance(pid, int):
        return LoadedEngine(name, "", 0, (), run_dir / f"{name}.waiting", 0.0)
    slots = tuple(run_dir / f"{base}.slot-{number}" for number in range(count))
    used = [path.stat().st_mtime for path in (*slots, run_dir / f"{name}.state") if path.exists()]
    return LoadedEngine(name, str(state.get("model")), pid, slots, run_dir / f"{base}.waiting", max(used, default=0.0))


class EngineCapacity:
    """Keeps the number of loaded engines of a machine within a limit."""

    def __init__(self, max_engines: int) -> None:
        self._max_engines = max_engines

    async def reserve(self, plan: Plan) -> FileLock:
        """Return a lock that stands for the engine of ``plan`` while it starts; the caller releases it then.

        Ends the least recently used engine that is idle, if there are too many; if all are busy, the least recently
        used one gets no more requests, and ends when the last of them has been answered.

        Raises:
            EngineFailed: if no engine became idle within ``MAX_CAPACITY_WAIT_S``.
        """
        deadline = time.monotonic() + MAX_CAPACITY_WAIT_S
        drain: EngineDrain | None = None
        try:
            while not isinstance(found := await asyncio.to_thread(self._try_reserve, plan), FileLock):
                if drain is None and (idle_candidates := [each for each in found if each.pid]):
                    drain = await asyncio.to_thread(EngineDrain, idle_candidates[0])
                if drain is not None and await asyncio.to_thread(drain.take_free_slots):
                    drain.close()
                    drain = None
                if time.monotonic() >= deadline:
                    raise EngineFailed(
                        f"{plan.alias}: {self._max_engines} other models are loaded and busy; "
                        "try again, or raise max_loaded",
                        5.0,
                    )
                await asyncio.sleep(POLL_S / 4)
            return found
        finally:
            if drain is not None:
                drain.close()

    def _try_reserve(self, plan: Plan) -> "FileLock | list[LoadedEngine]":
        """Reserve if the limit allows it; otherwise end an idle engine, or return the engines that are loaded."""
        folder = plan.base.parent
        lock = FileLock(folder / "room")
        if not lock.try_acquire():
            return []
        try:
            others = [each for each in _loaded_engines(folder) if each.name != plan.base.name]
            while len(others) >= self._max_engines and (idle := next(filter(_end_if_idle, others), None)):
                others.remove(idle)
            if len(others) >= self._max_engines:
                return others
            starting = FileLock(plan.file("starting"))
            starting.try_acquire()
            return starting
        finally:
            lock.release()


class EngineDrain:
    """Keeps new requests from one engine, slot by slot, until none is in use; touches files."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._loaded_engine = engine
        self._waiters = WaiterLock(engine.waiter_lock)
        self._slots = [SlotFile(path) for path in engine.slots]

    def take_free_slots(self) -> bool:
        """Take the free slots; end the engine once all are taken. Return whether it has ended."""
        self._waiters.add()
        taken = [slot.held or slot.take() for slot in self._slots]
        return all(taken) and _end(self._loaded_engine)

    def close(self) -> None:
        """Release the slots."""
        self._waiters.close()
        for slot in self._slots:
            slot.close()


def _end_if_idle(engine: LoadedEngine) -> bool:
    """End an engine if none of its slots is in use; return whether it has ended."""
    if not engine.pid:
        return False
    slots = []
    try:
        for path in engine.slots:
            slots.append(SlotFile(path))
            if not slots[-1].take():
                return False
        return _end(engine)
    finally:
        for slot in slots:
            slot.close()


def _end(engine: LoadedEngine) -> bool:
    """End an engine with SIGTERM; return whether it has ended."""
    if is_engine(engine.pid):
        os.kill(engine.pid, signal.SIGTERM)
    deadline = time.monotonic() + _MAX_END_S
    while is_engine(engine.pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
