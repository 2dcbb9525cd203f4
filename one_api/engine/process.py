"""Starting and ending the engine's process. Everything here touches files or processes: call it in threads."""

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

from one_api.dialects.json import InvalidJSON, JSONObject, decode_object, encode
from one_api.engine.failures import open_log
from one_api.engine.files import Endpoint, Plan
from one_api.engine.locks import FileLock
from one_api.engine.settings import EngineSettings
from one_api.settings.adapters import LocalConfig

#: What the contexts of one engine may take: this share of the memory, or so many bytes where that is unknown.
_CONTEXT_SHARE, _CONTEXT_BYTES = 1 / 8, 512 * 1024 * 1024
_ENGINE = Path(__file__).with_name("program.py")


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
    quota = float("inf")
    for level in _cgroups(root, own):
        with contextlib.suppress(OSError, ValueError):
            limit, period = (level / "cpu.max").read_text().split()
            quota = min(quota, int(limit) / int(period))
    return quota


def memory_bytes(
    meminfo: Path = Path("/proc/meminfo"),
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    cgroup_of: Path = Path("/proc/self/cgroup"),
) -> float:
    """Return the memory that this process may use at most, by the machine and its cgroups; infinite if unknown."""
    memory = float("inf")
    with contextlib.suppress(OSError, ValueError, IndexError):
        memory = int(meminfo.read_text().split("MemTotal:")[1].split()[0]) * 1024.0
    for level in _cgroups(cgroup_root, cgroup_of):
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int((level / "memory.max").read_text()))
    return memory


def _cgroups(root: Path, own: Path) -> list[Path]:
    """Return the folders of this process's cgroup (version 2) and of those above it."""
    try:
        groups = [line.partition("::")[2] for line in own.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        groups = []
    group = Path((groups or ["/"])[0].lstrip("/"))
    return [root / level for level in (group, *group.parents)]


def engine_settings(config: LocalConfig) -> EngineSettings:
    """Return how the engines of a local adapter are run on this machine."""
    share = memory_bytes() * _CONTEXT_SHARE
    memory = int(share) if math.isfinite(share) else _CONTEXT_BYTES
    return EngineSettings(
        slots=config.slots,
        context_tokens=config.slot_context or 0,
        context_memory=0 if config.slot_context else memory,
        threads=config.threads or 0,
        sleep_idle_s=int(config.idle_unload_s),
        start_limit_s=config.start_timeout_s,
        max_loaded=config.max_loaded,
        also_embed=frozenset(model for model, kinds in config.kinds.items() if "embedding" in kinds),
        ranking=frozenset(model for model, kinds in config.kinds.items() if "rerank" in kinds),
    )


def launch(plan: Plan, settings: EngineSettings, target: Endpoint) -> "subprocess.Popen[bytes]":
    """Start the child program in a session of its own, so that no signal for the gateway's terminal reaches it."""
    log = open_log(plan, settings.log_cap_bytes)
    stdin, source = os.pipe()
    try:
        os.write(
            source, encode(_program_config(plan, settings, target)) + b"\n"
        )  # Through a pipe, whose buffer holds it: `ps` must not show the key.
        return subprocess.Popen(  # noqa: S603 - our own program, by its path
            # Without site-packages: the engine's own package is all that the program needs.
            [sys.executable, "-P", "-S", str(_ENGINE)],
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


def _program_config(plan: Plan, settings: EngineSettings, target: Endpoint) -> JSONObject:
    """Return what the child program reads at its start."""
    return {
        "model_path": str(plan.model.path),
        "alias": plan.alias,
        "socket_path": str(target.socket_path),
        "api_key": target.api_key,
        "n_ctx": settings.slots * plan.context_tokens,
        "slots": settings.slots,
        "threads": settings.threads or default_threads(),
        "batch": plan.context_tokens if plan.embeds or plan.ranks else settings.batch_tokens,
        "embeds": plan.embeds or plan.ranks,
        "pooling": "" if plan.model.has_pooling else "RANK" if plan.ranks else "MEAN",
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


def read_ready(launcher: "subprocess.Popen[bytes]") -> int:
    """Return the engine's pid, which a launcher that ended well has written; 0 if it has not."""
    with contextlib.suppress(InvalidJSON):
        pid = decode_object(launcher.stdout.read() if launcher.stdout else b"").get("pid")
        return pid if isinstance(pid, int) else 0
    return 0


def stop(launcher: "subprocess.Popen[bytes]") -> None:
    """Kill the launcher and the engine with it, if it still runs, and forget it."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait(timeout=10)
    if launcher.stdout is not None:
        launcher.stdout.close()


def explain(code: int) -> str:
    """Return in words what the exit status of a launcher means."""
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


def runs(plan: Plan) -> bool:
    """Return whether an engine holds the ``.alive`` file."""
    lock = FileLock(plan.file("alive"))
    try:
        return not lock.try_acquire()
    finally:
        lock.release()


def is_engine(pid: int) -> bool:
    """Return whether ``pid`` is an engine: in another container's namespace, or later, it may be any program."""
    try:
        if sys.platform == "linux":
            return _ENGINE.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def send_signal(plan: Plan, number: int) -> None:
    """Send a signal to the engine that holds the ``.alive`` file, if its pid is known here."""
    with contextlib.suppress(ValueError, FileNotFoundError, ProcessLookupError):
        pid = int(plan.file("alive").read_text())
        if is_engine(pid):
            os.kill(pid, number)


def clear(plan: Plan) -> None:
    """Remove what an ended engine may have left."""
    plan.file("state").unlink(missing_ok=True)
    for path in plan.sockets.glob(f"{plan.base.name[-10:]}-*.sock"):
        path.unlink(missing_ok=True)
