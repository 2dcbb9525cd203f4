"""What differs between two configurations, and which of it a running process can take over."""

import hashlib
from typing import Any, TypeVar

from msgspec import Struct, structs

from one_api.settings.adapters import AdapterConfig, LocalConfig, OutsideConfig
from one_api.settings.kinds import Secret, Storage
from one_api.settings.sections import KeyConfig, ServerConfig, key_names

#: The whole configuration, ``one_api.config.Config``.
C = TypeVar("C", bound=Struct)

#: The settings of the listening side that a running process takes over.
_LIVE_SERVER = frozenset(
    {
        "cors_origins",
        "max_body_bytes",
        "max_upload_bytes",
        "body_timeout_s",
        "head_timeout_s",
        "write_timeout_s",
        "heartbeat_s",
        "commit_s",
        "max_connections",
    }
)
#: By section: the settings that count from the next start only, because what they shape is built once.
_AT_START: dict[str, tuple[str, ...]] = {
    "admin": ("listen",),
    "log": ("format", "level", "sample"),
    "metrics": ("per_key",),
    "telemetry": ("endpoint", "traces_endpoint", "disabled", "ratio", "slow_s", "trust_trace", "forced_per_s"),
    "rate_limit": ("storage", "storage_timeout_s"),
    "cache": ("storage", "storage_timeout_s"),
    "database": ("url", "migrate", "ledger_days", "usage_days", "audit_days"),
}


def digest_of(config: Struct) -> str:
    """Return SHA-256, in hexadecimal digits, of everything that is set; secrets go in by their own digests."""
    lines = [f"{path}={value}" for path, value in sorted(_flat(config).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def changed_paths(old: Struct, new: Struct) -> list[str]:
    """Return the places of all settings that differ, such as ``adapters.openai.base_url``; never their values."""
    before, after = _flat(old), _flat(new)
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def applicable(running: C, new: C) -> tuple[C, list[str]]:
    """Return ``new`` with the settings of ``running`` where only a start can change them, and the places of those."""
    kept: dict[str, Any] = {}
    paths: list[str] = []
    server = tuple(name for name in ServerConfig.__struct_fields__ if name not in _LIVE_SERVER)
    for section, names in {"server": server, **_AT_START}.items():
        old, fresh = getattr(running, section), getattr(new, section)
        differing = [name for name in names if getattr(old, name) != getattr(fresh, name)]
        paths += [f"{section}.{name}" for name in differing]
        kept[section] = structs.replace(fresh, **{name: getattr(old, name) for name in differing})
    return structs.replace(new, **kept), paths


def is_same_adapter(old: AdapterConfig, new: AdapterConfig) -> bool:
    """Return whether an adapter that was built for ``old`` serves ``new``: what routing reads may differ."""
    return _built_from(old) == _built_from(new)


def upstream_of(settings: AdapterConfig | None) -> object:
    """Return what identifies the upstream of an adapter: another address or credential is another upstream."""
    if settings is None or isinstance(settings, LocalConfig):
        return settings and settings.models_dir
    if isinstance(settings, OutsideConfig):
        return settings.type, settings.settings
    return settings.__struct_config__.tag, settings.base_url, settings.api_key, getattr(settings, "key_header", None)


def _built_from(settings: AdapterConfig) -> AdapterConfig:
    routing = {"weight": 1.0, "max_concurrency": 1000}
    return structs.replace(settings, **{name: value for name, value in routing.items() if hasattr(settings, name)})


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return every value below ``path`` as text, by its place."""
    if isinstance(value, Struct):
        tag = value.__struct_config__.tag
        children = {name: getattr(value, name) for name in value.__struct_fields__}
        found = {f"{path}.type": str(tag)} if tag else {}
    elif isinstance(value, dict):
        # The order counts, too: of two adapters with the same model the first one is asked first.
        children, found = {str(key): child for key, child in value.items()}, {path: repr(list(value))}
    elif isinstance(value, tuple) and value and isinstance(value[0], KeyConfig):
        children = {name: entry.key for name, entry in zip(key_names(value), value, strict=True)}
        found = {path: repr(list(children))}
    else:
        return {path: _text(value)}
    for name, child in children.items():
        found |= _flat(child, f"{path}.{name}" if path else name)
    return found


def _text(value: Any) -> str:
    if isinstance(value, (Secret, Storage)):
        text = value.reveal() if isinstance(value, Secret) else str(value)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if isinstance(value, tuple):
        return repr([_flat(each) for each in value])
    return repr(value)
