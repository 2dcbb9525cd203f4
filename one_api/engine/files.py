"""What processes agree on about an engine: settings, locks, and the small files in the run directory."""

import asyncio
import hashlib
import importlib.util
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from one_api.dialects.json import InvalidJSON, JSONObject, decode_object, encode
from one_api.engine.gguf import ModelFile, UnreadableModel, read_header
from one_api.settings.private_files import open_private, private_folder, user_folder

if sys.platform != "win32":
    import fcntl

#: How often a lock or a starting process is looked at, in seconds.
POLL_S = 0.02
#: Unix socket paths may have 107 bytes on Linux and 103 on macOS.
MAX_SOCKET_PATH_BYTES = 99

#: The settings that make an engine what it is; the others only say how it is looked after.
_TRAITS = (
    "slots",
    "context_tokens",
    "context_memory",
    "threads",
    "batch_tokens",
    "cache_ram_mib",
    "kv_type",
    "sleep_idle_s",
)

#: What one input of an embedding model may have where no context is configured, and at most, in tokens: all of it is
#: computed in one piece.
_EMBEDDING_CONTEXT, _MAX_EMBEDDING_CONTEXT = 2048, 8192

#: The context that is chosen where none is configured, in tokens: a longer one takes minutes to read without a GPU.
MIN_AUTO_CONTEXT, MAX_AUTO_CONTEXT = 2048, 32_768
#: Bits that a number of the context takes, by its format, with the scales of its block (ggml's block sizes).
_BITS = {"f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}


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
    #: Tokens per slot; never more than the model was trained for. 0 for what fits into ``context_memory``.
    context_tokens: int = 0
    #: What the contexts of all slots may take when ``context_tokens`` is 0, in bytes.
    context_memory: int = 0
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
    #: Pause before a start after the second failure within the window; it doubles with each further one.
    backoff_s: float = 1.0
    #: Engines that may be loaded at once on this machine; the least recently used idle one ends for another.
    max_loaded: int = 3
    #: Ids of models for chats that embed, too.
    also_embed: frozenset[str] = frozenset()
    #: Ids of models that rank documents, and nothing else, where their files do not say so.
    ranking: frozenset[str] = frozenset()
    log_cap_bytes: int = 1024 * 1024
    #: The engine's environment. It gets no other variables: those of the gateway hold keys.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        bounds = {
            "slots": (1, 64),
            "context_tokens": (0, 1_048_576),
            "threads": (0, 512),
            "batch_tokens": (32, 8192),
            "cache_ram_mib": (0, 1_048_576),
            "sleep_idle_s": (-1, 31_536_000),
            "max_loaded": (1, 1024),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: {low} to {high} is possible")
        if 0 < self.context_tokens < 128:
            raise ValueError(f"context_tokens is {self.context_tokens}: 0, or at least 128 is possible")
        if self.kv_type not in _BITS:
            raise ValueError(f"kv_type is {self.kv_type!r}: {', '.join(_BITS)} are possible")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a ready engine listens: HTTP on a Unix socket, with ``Authorization: Bearer <api_key>``."""

    socket_path: Path
    api_key: str = field(repr=False)
    pid: int
    #: Tokens of prompt and answer together that one request may have.
    context_tokens: int


class FileLock:
    """A flock on a file, shared or exclusive. Whatever happens, it is released when this process dies."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._guard = threading.Lock()
        self._descriptor: int | None = None
        self._released = False

    def try_acquire(self) -> bool:
        """Take the lock if it is free now, and return whether this object holds it; never after ``release``."""
        with self._guard:
            if self._released or self._descriptor is not None:
                return not self._released
            descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
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
        """Wait for the lock for at most ``limit_s`` seconds or until ``given_up``; return whether it was got."""
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
class Plan:
    """One model, and the files by which processes agree on its engine."""

    model: ModelFile
    alias: str
    base: Path
    #: The files of its slots begin like this: the same for all versions of the file.
    slots: Path
    sockets: Path
    context_tokens: int
    package_dir: Path
    #: The engine makes embeddings, or ranks.
    embeds: bool = False
    ranks: bool = False

    def file(self, ending: str) -> Path:
        """Return one of the files that stand for the engine, by its ending."""
        return self.base.with_name(f"{self.base.name}.{ending}")

    def new_socket(self) -> Path:
        """Return a path that no earlier engine had: an old path gives no answer rather than a wrong one."""
        return self.sockets / f"{self.base.name[-10:]}-{secrets.token_hex(2)}.sock"


def default_run_dir() -> Path:
    """Return the run directory that the processes of this user share."""
    return user_folder()


def plan_for(run_dir: Path, settings: EngineSettings, model: Path, alias: str) -> Plan:
    """Check what can be checked before a start, and name the files; raises EngineFailed with what to do."""
    engine = find_engine(alias)
    try:
        header = read_header(model.absolute())
    except UnreadableModel as error:
        raise EngineFailed(f"{alias}: {error}. Put a good copy there, or remove the file") from error
    slots = slots_base(run_dir, settings, model)
    version = hashlib.sha256(f"{slots.name} {header.size_bytes} {header.mtime_ns}".encode()).hexdigest()[:10]
    base = slots.with_name(f"{slots.name[:-11]}-{version}")
    context_tokens = slot_context(header, settings)
    ranks = does_rank(header, settings)
    embeds = does_embed(header, settings) and not ranks
    return Plan(header, alias, base, slots, _socket_dir(slots.parent), context_tokens, engine, embeds, ranks)


def does_embed(model: ModelFile, settings: EngineSettings) -> bool:
    """Return whether the engine of a model makes embeddings."""
    return model.embedding_only or model.id in settings.also_embed


def does_rank(model: ModelFile, settings: EngineSettings) -> bool:
    """Return whether the engine of a model ranks documents."""
    return model.ranks or model.id in settings.ranking


def slot_context(model: ModelFile, settings: EngineSettings) -> int:
    """Return the tokens of prompt and answer together that one slot has; lists, answers and errors show this figure."""
    tokens = settings.context_tokens
    if does_embed(model, settings) or does_rank(model, settings):
        tokens = min(tokens or _EMBEDDING_CONTEXT, _MAX_EMBEDDING_CONTEXT)
    if not tokens:
        per_token = model.context_bytes * settings.slots * _BITS[settings.kv_type] / 16
        affordable = int(settings.context_memory / per_token) if per_token else 0
        tokens = max(MIN_AUTO_CONTEXT, min(affordable // 256 * 256, MAX_AUTO_CONTEXT))
    return min(tokens, model.context_length or tokens)


def find_engine(alias: str) -> Path:
    """Return the folder that the engine's package is in; raises EngineFailed where there is none."""
    if sys.platform == "win32":
        raise EngineFailed(f"{alias}: local models need Linux or macOS")
    try:
        engine = importlib.util.find_spec("xllamacpp")
    except (ImportError, ValueError):  # half of it is there
        engine = None
    if engine is None or engine.origin is None:
        raise EngineFailed(
            f"{alias}: the engine is missing; `pip install xllamacpp`, or set LOCAL_MODELS_ENABLED=false. There is "
            "no wheel for Alpine (use a Debian image) and Windows on ARM"
        )
    return Path(engine.origin).parent.parent


def slots_base(run_dir: Path, settings: EngineSettings, model: Path) -> Path:
    """Return what the names of a model's slot files begin with; makes the run directory."""
    traits = {name: getattr(settings, name) for name in _TRAITS} | {"environment": dict(settings.environment)}
    traits |= {"embeds": True} if model.stem in settings.also_embed else {}
    traits |= {"ranks": True} if model.stem in settings.ranking else {}
    stem = re.sub(r"[^0-9A-Za-z._-]", "_", model.stem)[:40]
    digest = hashlib.sha256(encode([str(model.resolve()), traits])).hexdigest()[:10]
    return _private_dir(run_dir) / f"{stem}-{digest}"


def _private_dir(path: Path) -> Path:
    """Create ``path`` for this user alone, or check that it is; raises EngineFailed with what to do."""
    try:
        return private_folder(path)
    except PermissionError as error:
        raise EngineFailed(f"the run directory of engines: {error}") from error


def _socket_dir(run_dir: Path) -> Path:
    """Return the folder for sockets: ``run_dir``, or one with a shorter path, because socket paths are limited."""
    room = MAX_SOCKET_PATH_BYTES - len("/0123456789-0123.sock")
    if len(os.fsencode(run_dir)) <= room:
        return run_dir
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:8]
    short = Path(tempfile.gettempdir()) / f"one_api-{os.geteuid()}-{digest}"
    if len(os.fsencode(short)) > room:
        raise EngineFailed(f"{short} is too long for a socket: set TMPDIR to a shorter path")
    return _private_dir(short)


def read_state(plan: Plan) -> Endpoint | None:
    """Return the endpoint in the ``.state`` file, or None if it is missing or damaged."""
    state = read_object(plan.file("state"))
    pid, socket_path, api_key = state.get("pid"), state.get("socket"), state.get("key")
    if isinstance(pid, int) and isinstance(socket_path, str) and isinstance(api_key, str):
        return Endpoint(Path(socket_path), api_key, pid, plan.context_tokens)
    return None


def write_state(plan: Plan, endpoint: Endpoint, slots: int) -> None:
    """Write the engine's endpoint and model for the other processes."""
    state = {"pid": endpoint.pid, "socket": str(endpoint.socket_path), "key": endpoint.api_key}
    state |= {"model": str(plan.model.path), "slots": plan.slots.name, "slot_count": slots}
    write_object(plan.file("state"), state)


def read_object(path: Path) -> JSONObject:
    """Return the JSON object in a small file, empty if it is missing or damaged."""
    try:
        return decode_object(path.read_bytes())
    except (FileNotFoundError, InvalidJSON):
        return {}


def write_object(path: Path, value: JSONObject) -> None:
    """Write a JSON object so that readers see the old file or the new one; mode 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(value))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
