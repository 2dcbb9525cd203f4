"""What processes agree on about an engine: its plan, its endpoint, and the small files in the run directory."""

import hashlib
import importlib.util
import os
import re
import secrets
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from one_api.dialects.json import InvalidJSON, JSONObject, decode_object, encode
from one_api.engine.gguf import ModelFile, UnreadableModel, read_header
from one_api.engine.settings import TRAITS, EngineSettings, does_embed, does_rank, slot_context
from one_api.settings.private_files import private_folder, user_folder

#: Unix socket paths may have 107 bytes on Linux and 103 on macOS.
MAX_SOCKET_PATH_BYTES = 99


class EngineFailed(Exception):
    """The engine of a model could not be started or found.

    ``reason`` names the model and says what to do; ``retry_after_s`` is when another attempt makes sense, None if
    only after a change.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a ready engine listens: HTTP on a Unix socket, with ``Authorization: Bearer <api_key>``."""

    socket_path: Path
    api_key: str = field(repr=False)
    pid: int
    #: Tokens of prompt and answer together that one request may have.
    context_tokens: int


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
    traits = {name: getattr(settings, name) for name in TRAITS} | {"environment": dict(settings.environment)}
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
