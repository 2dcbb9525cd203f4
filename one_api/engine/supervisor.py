"""Keeps one engine process per model on this machine, shared by all workers.

A process that needs a model first takes ``<name>.lock`` in the run directory. It looks for a living engine, and starts
one if there is none; the others find it. Everything that processes agree on is a file there, ``name`` standing
for the model
file as it is now and the settings:

========== ==============================================================================================
.lock      held while looking and starting: one process at a time
.alive     held by the engine for its life; its pid is inside. Free means: no engine
.lease     held (shared) by every process that uses the engine, until it closes or dies; if free, the engine ends
.state     pid, socket and key of a ready engine; an engine that ends in order removes it, so what is left is a crash
.starting  held by the process that starts the engine
.failures  when starts failed and engines crashed, and the last reason
.log       what the engine printed
.slot-N    held by the process that has a request at the engine, one for each of its slots
.waiting   held (shared) by every process that has requests waiting for a slot
.line-TAG  the same, for the requests of one key
========== ==============================================================================================

`room` is held for a moment by the process that counts the engines. All locks are flocks, which the kernel releases
however a process ends. So nothing has to be cleaned up after SIGKILL.
"""

import asyncio
import math
import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from one_api.engine.failures import backoff_s, read_failures, record_failure, refuse_after_failures
from one_api.engine.files import Endpoint, EngineFailed, Plan, plan_for, read_state, slots_base, write_state
from one_api.engine.loaded import MAX_CAPACITY_WAIT_S, EngineCapacity
from one_api.engine.locks import POLL_S, FileLock
from one_api.engine.process import clear, explain, launch, memory_bytes, read_ready, runs, send_signal, stop
from one_api.engine.settings import EngineSettings

#: An answer of ``ensure`` holds for this long, in seconds, before the engine's health is asked again.
FRESH_S = 1.0
_MAX_LEASE_WAIT_S = 5.0
#: After so many requests in a row that the engine did not answer in time it is ended, though its health check passes.
_MAX_TIMEOUTS = 2


@dataclass(slots=True)
class _Entry:
    """What this process knows of one model: the current answer, the lease that goes with it, a start under way."""

    alias: str
    endpoint: Endpoint | None = None
    checked_at: float = -math.inf
    lease: FileLock | None = None
    lease_name: str = ""
    #: Requests in a row that were not answered in time.
    hangs: int = 0
    task: asyncio.Task[Endpoint | EngineFailed] | None = None


class EngineSupervisor:
    """Finds or starts the engine of a model, for one process and one event loop.

    Make it anywhere; call ``ensure`` only after the process has forked for the last time, because a lease is shared
    with forked children. Nothing here blocks the loop: files and processes are asked in threads.
    """

    def __init__(self, run_dir: Path, settings: EngineSettings) -> None:
        """``run_dir`` is created with mode 0700 on the first use; processes that share it share engines."""
        self._run_dir = run_dir
        self._settings = settings
        # One entry per model file that was asked for and not forgotten: bounded by the models folder.
        self._entries: dict[Path, _Entry] = {}
        self._capacity = EngineCapacity(settings.max_loaded)
        self._shut = asyncio.Event()

    async def ensure(self, model: Path, alias: str) -> Endpoint:
        """Return the engine of ``model``, started if need be; calls at the same time share one start.

        ``alias`` is the model name that a newly started engine puts into its answers. Cancelling a caller leaves the
        start alone. Takes microseconds if the engine answered within the last second, else 1 ms; a start takes from
        0.5 s up to ``start_limit_s``.

        Raises:
            EngineFailed: if there is none and none can be started.
        """
        if self._shut.is_set():
            raise EngineFailed(f"{alias}: the gateway is shutting down")
        entry = self._entries.setdefault(model, _Entry(alias))
        if entry.endpoint is not None and _is_fresh(entry):
            return entry.endpoint
        if entry.task is None:
            entry.task = asyncio.create_task(self._refresh(model, entry), name=f"engine {alias}")
        result = await asyncio.shield(entry.task)
        if isinstance(result, EngineFailed):
            raise EngineFailed(result.reason, result.retry_after_s)
        return result

    async def report_failure(self, endpoint: Endpoint) -> None:
        """Record that ``endpoint`` refused or broke a connection: the next ``ensure`` checks its health first."""
        for entry in self._entries.values():
            if entry.endpoint == endpoint:
                entry.checked_at = -math.inf

    def report_answer(self, endpoint: Endpoint, *, in_time: bool) -> None:
        """Record whether ``endpoint`` began to answer a request in time.

        One that does not, twice in a row, is replaced by the next ``ensure``: a chat template without an end keeps a
        thread of the engine busy for ever.
        """
        for entry in self._entries.values():
            if entry.endpoint == endpoint:
                entry.hangs = 0 if in_time else entry.hangs + 1
                if not in_time:
                    entry.checked_at = -math.inf

    def forget(self, model: Path) -> None:
        """Give up what this process has of a model whose file is gone or another; its engine ends with its last user.

        For models that no request of this process is on its way to.
        """
        entry = self._entries.get(model)
        if entry is not None and entry.task is None:
            del self._entries[model]
            if entry.lease is not None:
                entry.lease.release()

    def slot_files(self, model: Path) -> Path:
        """Return what the names of a model's slot files begin with; touches files, and raises EngineFailed."""
        return slots_base(self._run_dir, self._settings, model)

    async def close(self) -> None:
        """Give up starts under way and release all leases; engines without a user end ``lease_rest_s`` later."""
        self._shut.set()
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=10.0)
            for task in late:
                task.cancel()
        for entry in self._entries.values():
            if entry.lease is not None:
                entry.lease.release()
            entry.endpoint = entry.lease = None

    def _is_closing(self) -> bool:
        return self._shut.is_set()

    async def _refresh(self, model: Path, entry: _Entry) -> Endpoint | EngineFailed:
        """Bring ``entry`` up to date. Returns the error, because a task that is not awaited must not raise."""
        try:
            known = endpoint = entry.endpoint
            hangs = entry.hangs >= _MAX_TIMEOUTS
            if endpoint is None or hangs or not await _healthy(endpoint.socket_path, self._settings.health_limit_s):
                entry.endpoint = None
                plan = await asyncio.to_thread(plan_for, self._run_dir, self._settings, model, entry.alias)
                await self._take_lease(plan, entry)
                endpoint = await self._find_or_start(plan, known, hangs)
                entry.hangs = 0
            entry.endpoint, entry.checked_at = endpoint, time.monotonic()
            return endpoint
        except EngineFailed as error:
            return error
        except OSError as error:
            return EngineFailed(f"{entry.alias}: {error}; check {self._run_dir}")
        finally:
            entry.task = None

    async def _take_lease(self, plan: Plan, entry: _Entry) -> None:
        """Hold the lease of the engine that ``plan`` names, and no other."""
        if entry.lease is not None and entry.lease_name != plan.base.name:
            entry.lease.release()
            entry.lease = None
        if entry.lease is None:
            entry.lease, entry.lease_name = FileLock(plan.file("lease"), shared=True), plan.base.name
        # It is refused only while an engine that has just found itself without users ends: a moment.
        if not await entry.lease.acquire(_MAX_LEASE_WAIT_S, self._is_closing):
            raise EngineFailed(f"{plan.alias}: its engine does not end; look into {plan.file('log')}")

    async def _find_or_start(self, plan: Plan, suspect: Endpoint | None, hangs: bool) -> Endpoint:
        """Return the engine that runs, or start it; other processes wait meanwhile and share what comes of it."""
        lock = FileLock(plan.file("lock"))
        began = time.monotonic()
        try:
            if not await lock.acquire(self._settings.start_limit_s + MAX_CAPACITY_WAIT_S + 15.0, self._is_closing):
                raise EngineFailed(f"{plan.alias}: another process has been starting its engine for too long", 1.0)
            meanwhile = await asyncio.to_thread(read_failures, plan)
            endpoint = await self._find(plan, suspect, hangs)
            if endpoint is not None:
                return endpoint
            if meanwhile.times and meanwhile.times[-1] >= began:
                raise EngineFailed(f"{plan.alias}: {meanwhile.reason}", 1.0)
            await asyncio.to_thread(refuse_after_failures, plan, self._settings)
            await self._pause(await asyncio.to_thread(backoff_s, plan, self._settings))
            return await self._start(plan)
        finally:
            lock.release()

    async def _pause(self, pause_s: float) -> None:
        """Let time pass before the next start, unless the gateway ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._shut.wait()

    async def _find(self, plan: Plan, suspect: Endpoint | None, hangs: bool) -> Endpoint | None:
        """Return the running engine, or None after clearing away what is left of one that crashed or hangs.

        It hangs if it does not answer twice; ``suspect`` has been asked once already, and ``hangs`` says that it did
        not answer requests.
        """
        state = await asyncio.to_thread(read_state, plan)
        crash = "it ended unexpectedly"
        if await asyncio.to_thread(runs, plan):
            for _ in range(1 if state == suspect else 2):
                if (
                    state is not None
                    and not (hangs and state == suspect)
                    and await _healthy(state.socket_path, self._settings.health_limit_s)
                ):
                    return state
            await _end(plan)
            crash = "it did not answer any more and was ended"
        if state is not None:
            await asyncio.to_thread(record_failure, plan, crash)
        await asyncio.to_thread(clear, plan)
        return None

    async def _start(self, plan: Plan) -> Endpoint:
        """Start the engine and wait until it is ready; a failure is recorded for all processes."""
        memory = await asyncio.to_thread(memory_bytes)
        if plan.model.size_bytes > memory:
            raise EngineFailed(
                f"{plan.alias}: its file has {plan.model.size_bytes // 1_000_000} MB, and this machine "
                f"{memory / 1e6:.0f} MB of memory; use a smaller one"
            )
        target = Endpoint(plan.new_socket(), secrets.token_urlsafe(32), 0, plan.context_tokens)
        starting = await self._capacity.reserve(plan)
        try:
            code, endpoint = await self._launch(plan, target)
        finally:
            starting.release()
        if endpoint.pid and await _healthy(endpoint.socket_path, self._settings.health_limit_s):
            await asyncio.to_thread(write_state, plan, endpoint, self._settings.slots)
            return endpoint
        await _end(plan)
        if self._shut.is_set():
            raise EngineFailed(f"{plan.alias}: the gateway is shutting down")
        what = f"it was not ready within {self._settings.start_limit_s:g} s" if code is None else explain(code)
        reason = await asyncio.to_thread(record_failure, plan, what)
        raise EngineFailed(f"{plan.alias}: {reason}", 1.0)

    async def _launch(self, plan: Plan, target: Endpoint) -> tuple[int | None, Endpoint]:
        """Start the program and wait for it; returns its exit status and ``target`` with the engine's pid, or 0."""
        launcher = await asyncio.to_thread(launch, plan, self._settings, target)
        try:
            code = await self._exit_code(launcher)
            return code, replace(target, pid=await asyncio.to_thread(read_ready, launcher)) if code == 0 else target
        finally:
            await asyncio.to_thread(stop, launcher)

    async def _exit_code(self, launcher: "subprocess.Popen[bytes]") -> int | None:
        """Wait for the launcher, which ends when the engine is ready or has failed; None if it takes too long."""
        deadline = time.monotonic() + self._settings.start_limit_s
        while launcher.poll() is None:
            if self._shut.is_set() or time.monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_S)
        return launcher.returncode


def _is_fresh(entry: _Entry) -> bool:
    """Return whether the engine answered a moment ago and its process exists."""
    if entry.endpoint is None or time.monotonic() - entry.checked_at > FRESH_S:
        return False
    try:
        os.kill(entry.endpoint.pid, 0)
    except OSError:
        return False
    return True


async def _healthy(socket_path: Path, limit_s: float) -> bool:
    """Ask the engine's /health, which it answers also while it is busy; False if it does not within ``limit_s``."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_unix_connection(str(socket_path))
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).split(b" ")[1:2] == [b"200"]
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False


async def _end(plan: Plan) -> None:
    """End the engine that holds the ``.alive`` file, if there is one; raises EngineFailed if it does not end."""
    for number, limit_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + limit_s
        await asyncio.to_thread(send_signal, plan, number)
        while await asyncio.to_thread(runs, plan):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
    raise EngineFailed(f"{plan.alias}: its engine does not end; its pid is in {plan.file('alive')}", 10.0)
