"""Keeps one engine process per model on this machine, shared by all workers.

Whoever needs a model first takes ``<name>.lock`` in the run directory, looks for a living engine, and starts one if
there is none; the others find it. Everything that processes agree on is a file there, ``name`` standing for the model
file as it is now and the settings:

========== ==============================================================================================
.lock      held while looking and starting: one process at a time
.alive     held by the engine for its life; its pid is inside. Free means: no engine
.lease     held (shared) by every process that uses the engine, until it closes or dies; if free, the engine ends
.state     pid, socket and key of a ready engine; an engine that ends in order removes it, so what is left is a crash
.failures  when starts failed and engines crashed, and the last reason
.log       what the engine printed
========== ==============================================================================================

All locks are flocks, which the kernel releases however a process ends. So nothing has to be cleaned up after SIGKILL.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import math
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from one_api.models.gguf import ModelFile, UnreadableModel, read_header
from one_api.wire.json import InvalidJSON, JSONObject, decode_object, encode

if sys.platform != "win32":
    import fcntl

#: How often a lock or a starting process is looked at, in seconds.
POLL_S = 0.02
#: An answer of ``ensure`` holds for this long, in seconds, before the engine's health is asked again.
FRESH_S = 1.0
#: Unix socket paths may have 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_LIMIT = 99

#: The settings that make an engine what it is; the others only say how it is looked after.
_TRAITS = ("slots", "context_tokens", "threads", "batch_tokens", "cache_ram_mib", "kv_type", "sleep_idle_s")

_ENGINE = Path(__file__).with_name("local_engine.py")
_MARK = "--- start "
_FAILURES_KEPT = 16
_LEASE_LIMIT_S = 5.0
_LOG_LINE = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")


class EngineFailed(Exception):
    """The engine of a model could not be started or found.

    ``reason`` names the model and says what to do; ``retry_after_s`` is when another attempt makes sense, None if
    only after a change.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How engines are run. Two settings that differ mean two engines, also for one model.

    Raises ValueError for a value that the engine is known to hang or die on.
    """

    #: Requests at once; each has a context of its own.
    slots: int = 4
    #: Tokens per slot; never more than the model was trained for.
    context_tokens: int = 2048
    #: 0 for one fewer than the processors this process may use. More than the free ones slow everything tenfold.
    threads: int = 0
    #: Tokens of a prompt that are computed in one piece; other streams wait meanwhile.
    batch_tokens: int = 256
    #: Memory for prompts that may come again, in MiB.
    cache_ram_mib: int = 256
    #: Number format of the context's memory: f16, q8_0, q5_1, q5_0, q4_1, q4_0 or bf16.
    kv_type: str = "q8_0"
    #: After so many seconds without a request the engine gives its memory back; -1 for never.
    sleep_idle_s: int = 900
    #: Loading may take so many seconds.
    start_limit_s: float = 60.0
    #: An engine outlives its last user by so many seconds.
    lease_rest_s: float = 5.0
    #: The engine must answer a health request within so many seconds; it is asked twice.
    health_limit_s: float = 3.0
    #: After more than ``failure_limit`` failures within ``failure_window_s`` seconds nothing is started.
    failure_limit: int = 3
    failure_window_s: float = 60.0
    log_cap_bytes: int = 1024 * 1024
    #: The engine's environment. It gets no other variables: those of the gateway hold keys.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        bounds = {
            "slots": (1, 64),
            "context_tokens": (128, 1_048_576),
            "threads": (0, 512),
            "batch_tokens": (32, 8192),
            "cache_ram_mib": (0, 1_048_576),
            "sleep_idle_s": (-1, 31_536_000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: {low} to {high} is possible")
        if self.kv_type not in ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):
            raise ValueError(f"kv_type is {self.kv_type!r}: f16, bf16, q8_0, q5_1, q5_0, q4_1 and q4_0 are possible")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a ready engine listens: HTTP on a Unix socket, with ``Authorization: Bearer <api_key>``."""

    socket_path: Path
    api_key: str = field(repr=False)
    pid: int
    #: Tokens of prompt and answer together that one request may have.
    context_tokens: int


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What this process knows of one model's engine. ``failure`` is the reason of the last failed ``ensure``."""

    model: Path
    alias: str
    endpoint: Endpoint | None
    starting: bool
    failure: str | None


class FileLock:
    """A flock on a file, shared or exclusive. Whatever happens, it is released when this process dies."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._guard = threading.Lock()
        self._descriptor: int | None = None
        self._released = False

    def try_acquire(self) -> bool:
        """Take the lock if it is free now, and say whether this object holds it; never after ``release``."""
        with self._guard:
            if self._released or self._descriptor is not None:
                return not self._released
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
            return True

    async def acquire(self, limit_s: float, given_up: Callable[[], bool]) -> bool:
        """Wait for the lock for at most ``limit_s`` seconds or until ``given_up``; say whether it was got."""
        deadline = time.monotonic() + limit_s
        while not await asyncio.to_thread(self.try_acquire):
            if given_up() or time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def release(self) -> None:
        """Give the lock back for good, also while ``try_acquire`` runs in another thread."""
        with self._guard:
            self._released = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One model, and the files by which processes agree on its engine."""

    model: ModelFile
    alias: str
    base: Path
    sockets: Path
    context_tokens: int
    package_dir: Path

    def file(self, ending: str) -> Path:
        return self.base.with_name(f"{self.base.name}.{ending}")

    def new_socket(self) -> Path:
        """Return a path that no earlier engine had: who kept an old one gets no answer rather than a wrong one."""
        return self.sockets / f"{self.base.name[-10:]}-{secrets.token_hex(2)}.sock"


@dataclass(slots=True)
class _Entry:
    """What this process knows of one model: the current answer, the lease that goes with it, a start under way."""

    alias: str
    endpoint: Endpoint | None = None
    checked_at: float = -math.inf
    lease: FileLock | None = None
    lease_name: str = ""
    failure: str | None = None
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
        # One entry per model file that was ever asked for: bounded by the models folder.
        self._entries: dict[Path, _Entry] = {}
        self._closing = False

    async def ensure(self, model: Path, alias: str) -> Endpoint:
        """Return the engine of ``model``, started if need be; all who ask at once share one start.

        ``alias`` is the model name that a newly started engine puts into its answers. Cancelling a caller leaves the
        start alone. Takes microseconds if the engine answered within the last second, else 1 ms; a start takes from
        0.5 s up to ``start_limit_s``.

        Raises:
            EngineFailed: if there is none and none can be started.
        """
        if self._closing:
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
        """Tell that ``endpoint`` refused or broke a connection: the next ``ensure`` asks it before answering."""
        for entry in self._entries.values():
            if entry.endpoint == endpoint:
                entry.checked_at = -math.inf

    def status(self) -> list[EngineStatus]:
        """Return what this process knows, one entry per model that was asked for. Touches no file."""
        return [
            EngineStatus(model, entry.alias, entry.endpoint, entry.task is not None, entry.failure)
            for model, entry in self._entries.items()
        ]

    async def close(self) -> None:
        """Give up starts under way and release all leases; engines that nobody else uses end ``lease_rest_s`` later."""
        self._closing = True
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
        return self._closing

    async def _refresh(self, model: Path, entry: _Entry) -> Endpoint | EngineFailed:
        """Bring ``entry`` up to date. Returns the error, because a task that nobody awaits must not raise."""
        try:
            known = endpoint = entry.endpoint
            if endpoint is None or not await _healthy(endpoint.socket_path, self._settings.health_limit_s):
                entry.endpoint = None
                plan = await asyncio.to_thread(_plan, self._run_dir, self._settings, model, entry.alias)
                await self._take_lease(plan, entry)
                endpoint = await self._find_or_start(plan, known)
            entry.endpoint, entry.checked_at, entry.failure = endpoint, time.monotonic(), None
            return endpoint
        except EngineFailed as error:
            entry.failure = error.reason
            return error
        except OSError as error:
            entry.failure = f"{entry.alias}: {error}; check {self._run_dir}"
            return EngineFailed(entry.failure)
        finally:
            entry.task = None

    async def _take_lease(self, plan: _Plan, entry: _Entry) -> None:
        """Hold the lease of the engine that ``plan`` names, and no other."""
        if entry.lease is not None and entry.lease_name != plan.base.name:
            entry.lease.release()
            entry.lease = None
        if entry.lease is None:
            entry.lease, entry.lease_name = FileLock(plan.file("lease"), shared=True), plan.base.name
        # It is refused only while an engine that has just found itself without users ends: a moment.
        if not await entry.lease.acquire(_LEASE_LIMIT_S, self._is_closing):
            raise EngineFailed(f"{plan.alias}: its engine does not end; look into {plan.file('log')}")

    async def _find_or_start(self, plan: _Plan, doubted: Endpoint | None) -> Endpoint:
        """Return the engine that runs, or start it; other processes wait meanwhile and share what comes of it."""
        lock = FileLock(plan.file("lock"))
        began = time.monotonic()
        try:
            if not await lock.acquire(self._settings.start_limit_s + 15.0, self._is_closing):
                raise EngineFailed(f"{plan.alias}: another process has been starting its engine for too long", 1.0)
            meanwhile = await asyncio.to_thread(_read_failures, plan)
            endpoint = await self._find(plan, doubted)
            if endpoint is not None:
                return endpoint
            if meanwhile.times and meanwhile.times[-1] >= began:
                raise EngineFailed(f"{plan.alias}: {meanwhile.reason}", 1.0)
            await asyncio.to_thread(_refuse_after_failures, plan, self._settings)
            return await self._start(plan)
        finally:
            lock.release()

    async def _find(self, plan: _Plan, doubted: Endpoint | None) -> Endpoint | None:
        """Return the running engine, or None after clearing away what is left of one that crashed or hangs.

        It hangs if it does not answer twice; ``doubted`` has been asked once already.
        """
        state = await asyncio.to_thread(_read_state, plan)
        crash = "it ended unexpectedly"
        if await asyncio.to_thread(_runs, plan):
            for _ in range(1 if state == doubted else 2):
                if state is not None and await _healthy(state.socket_path, self._settings.health_limit_s):
                    return state
            await _end(plan)
            crash = "it did not answer any more and was ended"
        if state is not None:
            await asyncio.to_thread(_record_failure, plan, crash)
        await asyncio.to_thread(_clear, plan)
        return None

    async def _start(self, plan: _Plan) -> Endpoint:
        """Start the engine and wait until it is ready; a failure is recorded for all processes."""
        target = Endpoint(plan.new_socket(), secrets.token_urlsafe(32), 0, plan.context_tokens)
        launcher = await asyncio.to_thread(_launch, plan, self._settings, target)
        try:
            code = await self._exit_code(launcher)
            endpoint = replace(target, pid=await asyncio.to_thread(_read_ready, launcher)) if code == 0 else target
        finally:
            await asyncio.to_thread(_stop, launcher)
        if endpoint.pid and await _healthy(endpoint.socket_path, self._settings.health_limit_s):
            await asyncio.to_thread(_write_state, plan, endpoint)
            return endpoint
        await _end(plan)
        if self._closing:
            raise EngineFailed(f"{plan.alias}: the gateway is shutting down")
        what = f"it was not ready within {self._settings.start_limit_s:g} s" if code is None else _explain(code)
        reason = await asyncio.to_thread(_record_failure, plan, what)
        raise EngineFailed(f"{plan.alias}: {reason}", 1.0)

    async def _exit_code(self, launcher: "subprocess.Popen[bytes]") -> int | None:
        """Wait for the launcher, which ends when the engine is ready or has failed; None if it takes too long."""
        deadline = time.monotonic() + self._settings.start_limit_s
        while launcher.poll() is None:
            if self._closing or time.monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_S)
        return launcher.returncode


def default_threads(cgroup_root: Path = Path("/sys/fs/cgroup"), cgroup_of: Path = Path("/proc/self/cgroup")) -> int:
    """Return one fewer than the processors that this process may use (at least 1), by affinity and cgroup quota.

    The engine's threads spin while they wait for each other: one too many, and all take turns instead of running.
    """
    if sys.platform == "linux":
        processors = float(len(os.sched_getaffinity(0)))
    else:
        processors = float(os.cpu_count() or 1)
    quota = _cgroup_quota(cgroup_root, cgroup_of)
    return max(1, int(min(processors, quota)) - 1)


def _cgroup_quota(root: Path, own: Path) -> float:
    """Return the smallest ``cpu.max`` of this process's cgroup (version 2) and those above it, in processors."""
    try:
        groups = [line.partition("::")[2] for line in own.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        groups = []
    quota = float("inf")
    group = Path((groups or ["/"])[0].lstrip("/"))
    for level in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):
            limit, period = (root / level / "cpu.max").read_text().split()
            quota = min(quota, int(limit) / int(period))
    return quota


def _is_fresh(entry: _Entry) -> bool:
    """Say whether the engine answered a moment ago and its process exists."""
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


async def _end(plan: _Plan) -> None:
    """End the engine that holds the ``.alive`` file, if there is one; raises EngineFailed if it does not end."""
    for number, limit_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + limit_s
        await asyncio.to_thread(_signal, plan, number)
        while await asyncio.to_thread(_runs, plan):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
    raise EngineFailed(f"{plan.alias}: its engine does not end; its pid is in {plan.file('alive')}", 10.0)


# What follows touches files and processes, and is called in threads.


def _plan(run_dir: Path, settings: EngineSettings, model: Path, alias: str) -> _Plan:
    """Check what can be checked before a start, and name the files; raises EngineFailed with what to do."""
    if sys.platform == "win32":
        raise EngineFailed(f"{alias}: local models need Linux or macOS")
    engine = importlib.util.find_spec("xllamacpp")
    if engine is None or engine.origin is None:
        raise EngineFailed(
            f"{alias}: the engine is missing; `pip install xllamacpp`, or set LOCAL_MODELS_ENABLED=false"
        )
    try:
        header = read_header(model.absolute())
    except UnreadableModel as error:
        raise EngineFailed(f"{alias}: {error}. Put a good copy there, or remove the file") from error
    traits = {name: getattr(settings, name) for name in _TRAITS} | {"environment": dict(settings.environment)}
    identity = [str(model.resolve()), header.size_bytes, header.mtime_ns, traits]
    stem = re.sub(r"[^0-9A-Za-z._-]", "_", model.stem)[:40]
    folder = _private_dir(run_dir)
    base = folder / f"{stem}-{hashlib.sha256(encode(identity)).hexdigest()[:10]}"
    context_tokens = min(settings.context_tokens, header.context_length or settings.context_tokens)
    return _Plan(header, alias, base, _socket_dir(folder), context_tokens, Path(engine.origin).parent.parent)


def _private_dir(path: Path) -> Path:
    """Create ``path`` with mode 0700 or check that it is a folder of ours that nobody else can enter; return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    status = path.lstat()
    if status.st_uid != os.geteuid():
        raise EngineFailed(f"{path} belongs to another user: engines need a run directory of this user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise EngineFailed(f"{path} is open to others: run `chmod 700 {path}`")
    return path


def _socket_dir(run_dir: Path) -> Path:
    """Return the folder for sockets: ``run_dir``, or one with a shorter path, because socket paths are limited."""
    room = SOCKET_PATH_LIMIT - len("/0123456789-0123.sock")
    if len(os.fsencode(run_dir)) <= room:
        return run_dir
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:8]
    short = Path(tempfile.gettempdir()) / f"one_api-{os.geteuid()}-{digest}"
    if len(os.fsencode(short)) > room:
        raise EngineFailed(f"{short} is too long for a socket: set TMPDIR to a shorter path")
    return _private_dir(short)


def _launch(plan: _Plan, settings: EngineSettings, target: Endpoint) -> "subprocess.Popen[bytes]":
    """Start the child program in a session of its own, so that no signal for the gateway's terminal reaches it."""
    config = {
        "model_path": str(plan.model.path),
        "alias": plan.alias,
        "socket_path": str(target.socket_path),
        "api_key": target.api_key,
        "n_ctx": settings.slots * plan.context_tokens,
        "slots": settings.slots,
        "threads": settings.threads or default_threads(),
        "batch": settings.batch_tokens,
        "cache_ram_mib": settings.cache_ram_mib,
        "kv_type": settings.kv_type,
        "sleep_idle_seconds": settings.sleep_idle_s,
        "alive_path": str(plan.file("alive")),
        "lease_path": str(plan.file("lease")),
        "lease_rest_s": settings.lease_rest_s,
        "state_path": str(plan.file("state")),
        "start_limit_s": settings.start_limit_s,
        "log_cap_bytes": settings.log_cap_bytes,
        "package_dir": str(plan.package_dir),
    }
    log = _open_log(plan, settings.log_cap_bytes)
    stdin, source = os.pipe()
    try:
        os.write(source, encode(config) + b"\n")  # Through a pipe, whose buffer holds it: `ps` must not show the key.
        return subprocess.Popen(  # noqa: S603 - our own program, by its path
            [sys.executable, "-P", str(_ENGINE)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=plan.base.parent,
            # Without GGML_NO_BACKTRACE an abort runs a debugger on the process.
            env={"PATH": os.defpath, "GGML_NO_BACKTRACE": "1", **settings.environment},
            start_new_session=True,
        )
    finally:
        for descriptor in (log, stdin, source):
            os.close(descriptor)


def _open_log(plan: _Plan, cap_bytes: int) -> int:
    """Open the log for appending, emptied if it is over its cap, and mark that a start begins."""
    log = os.open(plan.file("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    if os.fstat(log).st_size > cap_bytes:
        os.ftruncate(log, 0)
    os.write(log, f"{_MARK}{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n".encode())
    return log


def _read_ready(launcher: "subprocess.Popen[bytes]") -> int:
    """Return the engine's pid, which a launcher that ended well has written; 0 if it has not."""
    with contextlib.suppress(InvalidJSON):
        pid = decode_object(launcher.stdout.read() if launcher.stdout else b"").get("pid")
        return pid if isinstance(pid, int) else 0
    return 0


def _stop(launcher: "subprocess.Popen[bytes]") -> None:
    """Kill the launcher and the engine with it, if it still runs, and forget it."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait(timeout=10)
    if launcher.stdout is not None:
        launcher.stdout.close()


def _explain(code: int) -> str:
    """Say what the exit status of a launcher means."""
    if code == 0:
        return "its engine said that it was ready and does not answer"
    number = -code if code < 0 else code - 128
    if number <= 0:
        return "its engine could not load it"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = " (not enough memory, perhaps)" if number == signal.SIGKILL else ""
    return f"{name} ended its engine while it loaded{hint}"


def _runs(plan: _Plan) -> bool:
    """Say whether an engine holds the ``.alive`` file."""
    lock = FileLock(plan.file("alive"))
    try:
        return not lock.try_acquire()
    finally:
        lock.release()


def _signal(plan: _Plan, number: int) -> None:
    """Send a signal to the engine that holds the ``.alive`` file, if its pid is known here."""
    try:
        pid = int(plan.file("alive").read_text())
        # In another container's namespace, or after the engine has ended, this number may be anybody.
        command = Path(f"/proc/{pid}/cmdline")
        if sys.platform != "linux" or _ENGINE.name.encode() in command.read_bytes():
            os.kill(pid, number)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return


def _clear(plan: _Plan) -> None:
    """Remove what an ended engine may have left."""
    plan.file("state").unlink(missing_ok=True)
    for path in plan.sockets.glob(f"{plan.base.name[-10:]}-*.sock"):
        path.unlink(missing_ok=True)


def _read_state(plan: _Plan) -> Endpoint | None:
    """Return the endpoint in the ``.state`` file, or None if it is missing or damaged."""
    state = _read_object(plan.file("state"))
    pid, socket_path, api_key = state.get("pid"), state.get("socket"), state.get("key")
    if isinstance(pid, int) and isinstance(socket_path, str) and isinstance(api_key, str):
        return Endpoint(Path(socket_path), api_key, pid, plan.context_tokens)
    return None


def _write_state(plan: _Plan, endpoint: Endpoint) -> None:
    """Tell the other processes where the engine is."""
    state = {"pid": endpoint.pid, "socket": str(endpoint.socket_path), "key": endpoint.api_key}
    _write_object(plan.file("state"), state)


@dataclass(frozen=True, slots=True)
class _Failures:
    """When starts failed and engines crashed, by the machine's monotonic clock, and why the last one did."""

    times: list[float]
    reason: str


def _read_failures(plan: _Plan) -> _Failures:
    failures = _read_object(plan.file("failures"))
    times = failures.get("times")
    times = [at for at in times if isinstance(at, int | float)] if isinstance(times, list) else []
    return _Failures(times, str(failures.get("reason")))


def _record_failure(plan: _Plan, what: str) -> str:
    """Count a failure for all processes, and return its reason: ``what`` and the end of the log."""
    reason = f"{what}{_log_tail(plan.file('log'))}"
    times = [*_read_failures(plan).times, time.monotonic()][-_FAILURES_KEPT:]
    _write_object(plan.file("failures"), {"times": times, "reason": reason})
    return reason


def _refuse_after_failures(plan: _Plan, settings: EngineSettings) -> None:
    """Raise EngineFailed if there were too many failures lately."""
    failures = _read_failures(plan)
    now = time.monotonic()
    recent = [at for at in failures.times if now - settings.failure_window_s < at <= now]
    if len(recent) > settings.failure_limit:
        rest_s = recent[-1 - settings.failure_limit] + settings.failure_window_s - now
        raise EngineFailed(
            f"{plan.alias}: its engine keeps failing, next attempt in {math.ceil(rest_s)} s. Last: {failures.reason}",
            rest_s,
        )


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


def _read_object(path: Path) -> JSONObject:
    """Return the JSON object in a small file, empty if it is missing or damaged."""
    try:
        return decode_object(path.read_bytes())
    except (FileNotFoundError, InvalidJSON):
        return {}


def _write_object(path: Path, value: JSONObject) -> None:
    """Write a JSON object so that readers see the old file or the new one; mode 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(value))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
