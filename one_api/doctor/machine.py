"""What the gateway needs of this machine: files, descriptors, disk space, the local engine, Redis and a database."""

import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from one_api.config import Config, Loaded
from one_api.doctor.finding import Finding, of_configuration, ok, problem, warning
from one_api.engine.files import EngineFailed, default_run_dir, find_engine
from one_api.engine.gguf import discover
from one_api.settings.adapters import LocalConfig
from one_api.settings.private_files import machine_warnings
from one_api.settings.sections import ServerConfig

#: Less free space than this is a warning, and a problem, in bytes.
LOW_SPACE, NO_SPACE = 1 << 30, 64 << 20
#: How long the engine may take to be imported, in seconds.
_IMPORT_S = 30.0
#: How long Redis may take to answer, in seconds, before it counts as unreachable.
_REDIS_S = 2.0
#: Files that cannot be used are named up to this number.
_MAX_NAMED = 5


# Files


def of_files(loaded: Loaded) -> list[Finding]:
    """Return what is wrong with the user, and with the permissions of the files of the configuration."""
    unsafe = of_configuration("warning", machine_warnings(loaded.files))
    named = {found.where for found in unsafe}
    return unsafe + [ok(str(path), "other users cannot read a secret in it") for path in _safe(loaded.files, named)]


def _safe(files: tuple[Path, ...], named: set[str]) -> list[Path]:
    return [path for path in files if str(path) not in named]


def of_folder(folder: Path) -> Finding:
    """Return whether this user can write into a folder, or make it."""
    place = _existing(folder)
    if not place.is_dir():
        return problem(str(folder), f"{place} is no folder", "Move that file away, or name another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            fix = "Mount it for writing, or use another folder"
            return warning(str(folder), "its file system is mounted read-only", fix)
        make = f"mkdir -p {folder} && " if place != folder else ""
        return warning(str(folder), "this user cannot write there", f"Run `{make}chown {_user()} {folder}` as root")
    if place.stat().st_mode & stat.S_IWOTH and not place.stat().st_mode & stat.S_ISVTX:
        return warning(str(place), "every user of this machine can write there", f"Run `chmod o-w {place}`")
    return ok(str(folder), "can be written" if place == folder else "can be made")


def _user() -> str:
    return str(os.geteuid())


def _existing(path: Path) -> Path:
    """Return the path itself, or the nearest one above it that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if os.access(each, os.F_OK))


# Space


def of_space(folder: Path) -> Finding:
    """Return whether there is room on the disk of a folder."""
    return space(folder, shutil.disk_usage(_existing(folder)).free)


def space(folder: Path, free: int) -> Finding:
    """Return what ``free`` bytes on the disk of a folder mean."""
    shown = f"{free / (1 << 30):.1f} GiB" if free >= LOW_SPACE else f"{free >> 20} MiB"
    text = f"{shown} are free on its disk"
    if free >= LOW_SPACE:
        return ok(str(folder), text)
    return (problem if free < NO_SPACE else warning)(str(folder), text, "Make room there, or use another folder")


# Descriptors


def of_descriptors(server: ServerConfig) -> Finding:
    """Return whether this user may open enough files; the server raises its limit as far as it may."""
    return descriptors(server, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def descriptors(server: ServerConfig, allowed: int) -> Finding:
    """Return what a hard limit of ``allowed`` open files means for a server."""
    needed, where = server.files_needed, "open files (ulimit -n)"
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        shown = "any number is" if allowed == resource.RLIM_INFINITY else f"{allowed} are"
        return ok(where, f"{shown} allowed, and server.max_connections of {server.max_connections} may need {needed}")
    what = f"{allowed} are allowed, and server.max_connections of {server.max_connections} may need {needed}"
    return warning(where, what, f"Raise the limit to {needed}, or lower server.max_connections")


# The local engine


def of_engine() -> Finding:
    """Return whether the local engine can be imported; tried in a process of its own, because a fault may end it."""
    where = "local engine"
    try:
        find_engine(where)
    except EngineFailed as error:
        return problem(where, str(error).removeprefix(f"{where}: "), "Everything else works without it")
    command = [sys.executable, "-c", "import xllamacpp"]
    fix = "Run `pip install --force-reinstall xllamacpp`, or set LOCAL_MODELS_ENABLED=false"
    try:
        done = subprocess.run(command, capture_output=True, timeout=_IMPORT_S, check=False)  # noqa: S603 - our own words
    except (OSError, subprocess.TimeoutExpired):
        return warning(where, f"it could not be imported within {_IMPORT_S:g} s", "Try again when the machine is idle")
    if done.returncode == 0:
        return ok(where, "it can be imported")
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
    how = f"ended by signal {-done.returncode}" if done.returncode < 0 else last
    return problem(where, f"it cannot be imported ({how})", fix)


def of_models(name: str, settings: LocalConfig) -> Iterator[Finding]:
    """Yield what is wrong with the model files of a local adapter, or how many can be served."""
    where, folder = f"adapters.{name}", Path(settings.models_dir)
    models, unreadable = discover(folder) if os.access(folder, os.F_OK) else ([], {})
    if models:
        yield ok(where, f"{len(models)} model files in {folder} can be read")
    else:
        fix = "Put GGUF files into it: `python -m one_api models fetch` fetches a small one"
        yield warning(where, f"there is no model in {folder}", fix)
    for path, reason in list(unreadable.items())[:_MAX_NAMED]:
        yield warning(where, f"{path}: {reason}", "Mend its permissions, fetch it again, or move it away")
    if (more := len(unreadable) - _MAX_NAMED) > 0:
        yield warning(where, f"{more} more files cannot be used", "See `python -m one_api models list`")


def of_local(config: Config) -> Iterator[Finding]:
    """Yield what concerns the local adapters, when there are any."""
    local = {name: each for name, each in config.adapters.items() if isinstance(each, LocalConfig)}
    if not local:
        return
    yield of_engine()
    yield of_folder(default_run_dir())
    found = [each for name, settings in local.items() for each in of_models(name, settings)]
    yield from found
    if len(local) == len(config.adapters) and not any(each.state == "ok" for each in found):
        yield problem("adapters", "none of them has a model, so nothing can be served", "Add a model, or an upstream")
    for folder in sorted({Path(settings.models_dir) for settings in local.values()}):
        yield of_space(folder)


# Redis


def of_redis(config: Config) -> Iterator[Finding]:
    """Yield whether each Redis that the configuration names answers, and how fast."""
    limits, cache = config.rate_limit, config.cache
    used = {"rate_limit.storage": limits.enabled and limits.storage, "cache.storage": cache.enabled and cache.storage}
    limits_s = {"rate_limit.storage": limits.storage_timeout_s, "cache.storage": cache.storage_timeout_s}
    for where, storage in used.items():
        if storage and "://" in storage:
            yield _redis(where, storage, limits_s[where])


def _redis(where: str, url: str, limit_s: float) -> Finding:
    # Only here, so that an examination without Redis imports nothing of its client.
    from one_api.redis.probe import ProbeFailed, probe

    try:
        found = probe(url, _REDIS_S)
    except ProbeFailed as error:
        return problem(where, error.what, error.fix)
    if found.evicts and where == "rate_limit.storage":
        what = "Redis throws keys away when its memory is full, counts of limits too"
        return warning(where, what, "Set its `maxmemory-policy` to noeviction, or give limits a Redis of their own")
    text = f"Redis answers within {found.latency_s * 1000:.1f} ms"
    if found.latency_s <= limit_s:
        return ok(where, text)
    setting = f"{where.partition('.')[0]}.storage_timeout_s"
    return warning(where, f"{text}, more than {setting} of {limit_s:g} s", f"Raise {setting}, or use a nearer Redis")


# The database


def of_database(config: Config, instance: Path) -> Iterator[Finding]:
    """Yield whether the database of the accounts can be used; that of the default setting, a file, may be missing."""
    if config.database.url == "none":
        return
    # Only here, so that an examination without a database imports nothing of SQLAlchemy.
    from one_api.accounts.probe import ProbeFailed, examine, file_of

    where = "database.url"
    state = warning if config.database.url == "sqlite" else problem
    try:
        file = file_of(config.database, instance)
        if file is None or file.exists():
            yield ok(where, examine(config.database, instance))
        elif (found := of_folder(file.parent)).state == "ok":
            yield ok(where, f"{file} can be made")
        else:
            yield state(where, f"{file} cannot be made: {found.what}", found.fix)
    except ProbeFailed as error:
        yield state(where, error.what, error.fix)
