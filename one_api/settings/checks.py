"""What no single field can show: errors in what concerns several fields, and warnings of what is probably a mistake."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from one_api.settings.adapters import DEFAULT_MODELS_DIR, AdapterConfig, LocalConfig
from one_api.settings.addresses import is_loopback
from one_api.settings.groups import GroupCycle, expanded, named_group
from one_api.settings.sections import (
    AdminConfig,
    CacheConfig,
    GroupConfig,
    KeyConfig,
    RateLimitConfig,
    ServerConfig,
    targets,
)
from one_api.settings.validation import Problems

T = TypeVar("T")
#: What ``config check`` prints in place of a secret.
MASK = "***"
#: The part of a long model's file name that is not in its id.
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def check_keys(keys: Iterable[KeyConfig | None], problems: Problems) -> None:
    """Check the keys of clients; those that could not be built are None."""
    entries = [entry for entry in keys if entry is not None]
    revealed = [entry.key.reveal() for entry in entries]
    if len(set(revealed)) < len(revealed):
        problems.add("api_keys", "the same key is given twice", "Remove one")
    for key in revealed:
        if not key.isascii() or not key.isprintable() or " " in key:
            problems.add("api_keys", "a key holds a space or a character outside ASCII", "Use letters, digits and -_.")
        if key.startswith(MASK):
            problems.warn("api_keys", "a key is masked, and easy to guess", "Put the key itself in its place")
    for name, count in Counter(entry.name for entry in entries).items():
        if name and count > 1:
            fix = "Give each a name of its own; until then, each has a part of its digest added"
            problems.warn("api_keys", f"{count} keys have the name {name!r}", fix)


def check_admin(admin: AdminConfig | None, keys: Iterable[KeyConfig | None], problems: Problems) -> None:
    """Check the operator's key; what could not be built is None."""
    key = admin.key.reveal() if admin is not None and admin.key is not None else None
    if key is None:
        return
    if not key.isascii() or not key.isprintable() or " " in key:
        problems.add("admin.key", "holds a space or a character outside ASCII", "Use letters, digits and -_.")
    if any(entry is not None and entry.key.reveal() == key for entry in keys):
        problems.add("admin.key", "is a client's key, too", "Make one that no client has")


def check_server(server: ServerConfig, keys: Collection[object], problems: Problems) -> None:
    """Check that only those are let in that should be."""
    if not keys and server.host is not None and not is_loopback(server.host):
        fix = "Set API_KEYS before you let others in, or HOST=127.0.0.1"
        problems.add("server.host", "can be reached from elsewhere, and there is no API key", fix)


def check_storage(
    section: str, settings: RateLimitConfig | CacheConfig | None, known: tuple[str, ...], problems: Problems
) -> None:
    """Check where limits or answers are kept."""
    storage = settings.storage if settings else None
    if storage and storage not in known and not re.match(r"(rediss?|unix)://.", storage):
        problems.add(f"{section}.storage", "names no storage", f"Use {', '.join(known)} or redis://HOST:PORT/DB")


def check_adapters(adapters: Mapping[str, AdapterConfig | None], problems: Problems) -> None:
    """Check names, and warn of folders and aliases that lead nowhere."""
    for name, adapter in adapters.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.add(f"adapters.{name}", "is not a usable name", "Use letters, digits, dots, dashes, underscores")
        if not isinstance(adapter, LocalConfig) or adapter.models_dir is None:
            continue
        if not Path(adapter.models_dir).is_dir():
            if adapter.models_dir != DEFAULT_MODELS_DIR:
                fix = "Make it, and put GGUF files into it: `flask --app wsgi models fetch` fetches a small one"
                problems.warn(f"adapters.{name}.models_dir", f"{adapter.models_dir} is not a folder", fix)
            continue
        files = _files(adapter.models_dir)
        for alias, model in adapter.aliases.items():
            if model not in files:
                problems.warn(
                    f"adapters.{name}.aliases.{alias}", f"there is no file for {model!r}", _near(model, files)
                )


def check_groups(
    groups: Mapping[str, GroupConfig | None], adapters: Mapping[str, AdapterConfig | None], problems: Problems
) -> None:
    """Check where groups lead; warn of models that their adapters do not list."""
    for name, group in groups.items():
        for target in targets(group.targets + group.fallbacks) if group else ():
            if named_group(target.model, name, groups, adapters):
                continue
            adapter, _, model = target.model.partition("/")
            if not model or adapter not in adapters:
                fix = _target_fix(target.model, name, groups, adapters)
                problems.add(f"model_groups.{name}", f"{target.model!r} names no adapter's model and no group", fix)
            elif (listed := _listed(adapters[adapter])) is not None and model not in listed:
                what = f"{adapter} does not list {model!r}"
                problems.warn(f"model_groups.{name}", what, _near(model, listed))
    whole = {name: group for name, group in groups.items() if group is not None}
    try:
        expanded(whole, adapters)
    except GroupCycle as error:
        fix = "Let one of them name deployments, as adapter/model"
        problems.add(f"model_groups.{error.path[0]}", str(error), fix)


def _target_fix(entry: str, own: str, groups: Collection[str], adapters: Mapping[str, AdapterConfig | None]) -> str:
    """Return what to write for an entry that leads nowhere."""
    serving = [f"{name}/{entry}" for name, adapter in adapters.items() if entry and entry in (_listed(adapter) or ())]
    near = serving or difflib.get_close_matches(entry, [name for name in groups if name != own], 1)
    known = f"Write a group's name, or adapter/model with an adapter of: {', '.join(adapters) or 'none is configured'}"
    return f"{known}. Did you mean {near[0]}?" if near else known


def _listed(adapter: AdapterConfig | None) -> set[str] | None:
    """Return the models that an adapter is known to have; None when that is not known before it is asked."""
    if isinstance(adapter, LocalConfig):
        folder = adapter.models_dir
        return {*_files(folder), *adapter.aliases} if folder is not None and Path(folder).is_dir() else None
    return None if adapter is None or adapter.models is None else set(adapter.models)


def _files(folder: str) -> set[str]:
    """Return the ids of the GGUF files in a folder."""
    return {_SPLIT.sub("", path.stem) for path in Path(folder).rglob("*.gguf")}


def _near(model: str, listed: Collection[str]) -> str:
    """Return the likely cure for a model that is not listed."""
    near = difflib.get_close_matches(model, listed, 1)
    return f"Did you mean {near[0]}?" if near else f"Listed are: {', '.join(sorted(listed)[:10]) or 'none'}"
