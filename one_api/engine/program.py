"""The child program that runs one model: llama.cpp's server on a private Unix socket.

Started by `supervisor` as `python program.py`, by its path. It imports nothing of one_api and is the only
place that imports the engine: a fault in there ends this process and no other.

It reads one line of JSON from stdin (see `EngineConfig`), forks, loads the model in the child, writes one line
``{"ready": true, "pid": ...}`` to stdout when the server answers, and the parent ends. So the engine belongs to no
worker: it lives on when the one that asked for it is gone, and leaves no zombie process. It ends

- when no process has held the lease file for ``lease_rest_s``: the kernel releases a lease however its holder died;
- on SIGTERM, at once: there is no drain, the sender has drained before;
- if loading takes longer than ``start_limit_s`` or no process is left to wait for it.

The engine prints errors to stderr, which the supervisor has opened as a log file.
"""

import fcntl
import json
import os
import resource
import select
import signal
import stat
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypedDict

#: How often the lease is looked at, in seconds.
TICK_S = 0.5
#: How often the engine tries to lock the file that says that it lives.
_MAX_LOCK_TRIES = 20


class EngineConfig(TypedDict):
    """What the supervisor sends. Sizes in tokens unless their names say otherwise."""

    model_path: str
    alias: str
    socket_path: str
    api_key: str
    n_ctx: int
    slots: int
    threads: int
    batch: int
    embeds: bool
    pooling: str
    cache_ram_mib: int
    kv_type: str
    sleep_idle_seconds: int
    alive_path: str
    lease_path: str
    lease_rest_s: float
    state_path: str
    start_limit_s: float
    log_cap_bytes: int
    package_dir: str


def main() -> int:
    """Start the engine in a child process, report that it is ready, and return the exit status."""
    config: EngineConfig = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ready, report = os.pipe()
    engine = os.fork()
    if engine == 0:
        os.close(ready)
        _serve(config, report)
    os.close(report)
    if not _became_ready(ready, engine, config):
        return _exit_status(engine)
    sys.stdout.write(json.dumps({"ready": True, "pid": engine}) + "\n")
    return 0


def _became_ready(ready: int, engine: int, config: EngineConfig) -> bool:
    """Wait until the engine reports that it is ready or ends; kill it if it is late or no process waits for it."""
    lease = Lease(Path(config["lease_path"]), config["lease_rest_s"])
    deadline = time.monotonic() + config["start_limit_s"]
    while not select.select([ready], [], [], TICK_S)[0]:
        if time.monotonic() > deadline or lease.expired():
            _log("the model was not loaded in time, or no process waits for it any more")
            os.kill(engine, signal.SIGKILL)
            return False
    return os.read(ready, 1) != b""


def _exit_status(engine: int) -> int:
    """Return the ended engine's status as a shell would: 128 plus the signal's number if a signal ended it."""
    code = os.waitstatus_to_exitcode(os.waitpid(engine, 0)[1])
    return code if code >= 0 else 128 - code


def _serve(config: EngineConfig, report: int) -> NoReturn:
    """Load the model and serve until no process uses it; never returns."""
    os.umask(0o077)
    _detach_stdio()
    _offer_to_oom_killer()
    _claim(Path(config["alive_path"]))
    try:
        _server = _start_server(config)
    except (ImportError, RuntimeError, ValueError) as error:
        _log(f"{type(error).__name__}: {error}")
        sys.exit(1)  # not at once: what the engine has to say of it is written by a thread of its own

    def leave(signum: int, frame: FrameType | None) -> None:
        _leave(config)

    signal.signal(signal.SIGTERM, leave)
    os.write(report, b"1")
    os.close(report)
    _watch(config)


def _start_server(config: EngineConfig) -> object:
    """Load the model and return the listening server, which serves on threads of its own.

    Holds the interpreter's lock while it loads. Raises RuntimeError if the model cannot be loaded; the reason is then
    in the log.
    """
    sys.path.append(config["package_dir"])
    import xllamacpp as engine  # type: ignore[import-not-found, unused-ignore]

    params = engine.CommonParams()
    params.model.path = config["model_path"]
    params.model_alias = {config["alias"]}
    params.hostnames = [config["socket_path"]]
    params.api_keys = [config["api_key"]]
    params.ui = False
    params.verbosity = 1
    # Each slot has a context of its own: a shared one fails all requests together when they overflow it.
    params.kv_unified = False
    params.n_parallel = config["slots"]
    params.n_ctx = config["n_ctx"]
    params.n_batch = params.n_ubatch = config["batch"]
    if config["embeds"]:
        params.embedding = True
        if config["pooling"]:  # how the vectors of all tokens become one, where the file does not say
            pooling = f"LLAMA_POOLING_TYPE_{config['pooling']}"
            params.pooling_type = getattr(engine.llama_pooling_type, pooling)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    params.cache_type_k = params.cache_type_v = _kv_type(engine, config["kv_type"])
    params.cache_ram_mib = config["cache_ram_mib"]
    params.sleep_idle_seconds = config["sleep_idle_seconds"]
    return engine.Server(params)  # type: ignore[no-any-return, unused-ignore]


def _kv_type(engine: Any, name: str) -> object:
    """Return the engine's constant for a cache type such as ``q8_0``; raises ValueError for an unknown one."""
    kind = getattr(engine.ggml_type, f"GGML_TYPE_{name.upper()}", None)
    if kind is None:
        raise ValueError(f"the cache type {name} is unknown to the engine")
    return kind


class Lease:
    """The file on which every process that uses the engine holds a shared lock."""

    def __init__(self, path: Path, rest_s: float) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._rest_s = rest_s
        self._free_since: float | None = None

    def expired(self) -> bool:
        """Return whether no process has held the lease for ``rest_s`` seconds; then this one takes it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._free_since = None
            return False
        now = time.monotonic()
        self._free_since = now if self._free_since is None else self._free_since
        if now - self._free_since >= self._rest_s:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False


def _watch(config: EngineConfig) -> NoReturn:
    """Look at the lease until it has expired, then leave. Keeps the log within its cap."""
    lease = Lease(Path(config["lease_path"]), config["lease_rest_s"])
    while not lease.expired():
        log = os.fstat(sys.stderr.fileno())
        if stat.S_ISREG(log.st_mode) and log.st_size > config["log_cap_bytes"]:
            os.ftruncate(sys.stderr.fileno(), 0)
        time.sleep(TICK_S)
    # A newcomer gets the lease only when this process is gone, so it cannot meet an engine about to end.
    _leave(config)


def _leave(config: EngineConfig) -> NoReturn:
    """End at once, with nothing left behind that would look like a crash."""
    for path in (config["state_path"], config["socket_path"]):
        Path(path).unlink(missing_ok=True)
    os._exit(0)


def _claim(path: Path) -> None:
    """Lock the file that says that this engine lives, for as long as it does, and write the pid into it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_MAX_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(TICK_S / 10)  # another process may only be looking whether an engine lives
        else:
            break
    else:
        _log("another engine serves this model")
        os._exit(1)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


def _detach_stdio() -> None:
    """Give up stdin and stdout: they belong to the supervisor's talk with the parent."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _offer_to_oom_killer() -> None:
    """Ask Linux to end the engine before the gateway when memory runs out; elsewhere there is no such file."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
