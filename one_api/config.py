"""Configuration: environment variables, a ``.env`` file and one YAML file become one frozen ``Config``.

The variables alone give a working gateway. The file named by ``ONE_API_CONFIG`` says more; a section in it replaces
what the variables say of the same thing. Everything is checked before anything starts, and every problem is reported
at once, with its place and what to do. This is the only module that reads the environment.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from msgspec import Struct

from one_api.settings import (
    CLAUDE_BASE_URL,
    DEFAULT_MODELS_DIR,
    OPENAI_BASE_URL,
    AdapterConfig,
    CacheConfig,
    GroupConfig,
    KeyConfig,
    LogConfig,
    ModelsConfig,
    RateLimitConfig,
    RetryConfig,
    Secret,
    ServerConfig,
    Storage,
    targets,
)
from one_api.sources import read_env_file, read_yaml
from one_api.structs import Builder, Problem, Problems

T = TypeVar("T")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration, valid as it stands."""

    api_keys: tuple[KeyConfig, ...] = ()
    adapters: dict[str, AdapterConfig] = {}
    model_groups: dict[str, GroupConfig] = {}
    models: ModelsConfig = ModelsConfig()
    rate_limit: RateLimitConfig = RateLimitConfig()
    cache: CacheConfig = CacheConfig()
    retry: RetryConfig = RetryConfig()
    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment (the process's own by default), its ``.env`` file and the YAML file it names.

        Raises:
            ConfigError: with every problem that was found.
        """
        given = dict(os.environ if environ is None else environ)
        problems = Problems()
        variables = read_env_file(given.get("ONE_API_ENV_FILE", ".env"), problems) | given
        raw = _from_variables(variables, problems)
        path, in_file = variables.get("ONE_API_CONFIG", "").strip(), {}
        if path:
            in_file = read_yaml(Path(path), variables, problems)
        values = Builder(problems, _secret).fields(cls, _merged(raw, in_file))
        given_values = {name: value for name, value in values.items() if value is not None}
        config = cls(**given_values)
        _cross_check(config, problems)
        if problems.found:
            raise ConfigError(tuple(_placed(problem, path, in_file) for problem in problems.found))
        return config


#: Sections whose fields stand for themselves: the file's win one by one. Of the others it replaces the whole.
_BY_FIELD = frozenset({"server", "rate_limit", "log"})


def _merged(raw: dict[str, Any], in_file: dict[str, Any]) -> dict[str, Any]:
    """Put what the file says over what the variables say."""
    by_field = {
        name: raw[name] | said
        for name, said in in_file.items()
        if name in _BY_FIELD and name in raw and isinstance(said, dict)
    }
    return raw | in_file | by_field


def _placed(problem: Problem, path: str, in_file: dict[str, Any]) -> Problem:
    """Name the file, or the variable, that the place of a problem belongs to."""
    section, *rest = re.split(r"[.[]", problem.where)
    said = {str(name): value for name, value in in_file.items()}
    by_field = section in _BY_FIELD and isinstance(said.get(section), dict)
    if section in said and not (by_field and rest and rest[0] not in said[section]):
        return replace(problem, where=f"{path}: {problem.where}")
    return replace(problem, where=_ORIGINS.get(problem.where, problem.where))


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has all that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(["The configuration cannot be used:", *(f"  - {problem}" for problem in problems)]))
        self.problems = problems


# From variables

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off", ""}

#: variable -> (section, field, kind); kinds: str, int, float, bool, list
_VARIABLES = {
    "HOST": ("server", "host", "str"),
    "PORT": ("server", "port", "int"),
    "DEBUG": ("server", "debug", "bool"),
    "WEB_CONCURRENCY": ("server", "workers", "int"),
    "CORS_ORIGINS": ("server", "cors_origins", "list"),
    "SCRIPT_NAME": ("server", "root_path", "str"),
    "TRUSTED_PROXIES": ("server", "trusted_proxies", "list"),
    "DRAIN_SECONDS": ("server", "drain_s", "float"),
    "RATE_LIMIT_ENABLED": ("rate_limit", "enabled", "bool"),
    "RATE_LIMIT_REQUESTS": ("rate_limit", "requests_per_minute", "int"),
    "LOG_FORMAT": ("log", "format", "str"),
    "LOG_LEVEL": ("log", "level", "str"),
}
#: place -> the variable that it comes from
_ORIGINS = {f"{section}.{field}": name for name, (section, field, _) in _VARIABLES.items()} | {
    "api_keys": "API_KEYS",
    "adapters.openai.base_url": "OPENAI_BASE_URL",
    "adapters.claude.base_url": "CLAUDE_BASE_URL",
}


def _from_variables(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Turn the variables into the shape of the file."""
    raw: dict[str, Any] = {}
    for name, (section, field, kind) in _VARIABLES.items():
        if (text := variables.get(name, "").strip()) and (value := _parse(name, text, kind, problems)) is not None:
            raw.setdefault(section, {})[field] = value
    raw["api_keys"] = [{"key": key} for key in _split(variables.get("API_KEYS", ""))]
    raw["adapters"] = _adapters_from_variables(variables, problems)
    return raw


#: Adapter, and its type -> the variables of its key and address, and the address when none is given.
_PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", OPENAI_BASE_URL),
    "claude": ("CLAUDE_API_KEY", "CLAUDE_BASE_URL", CLAUDE_BASE_URL),
}


def _adapters_from_variables(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return the adapters that the article's variables ask for."""
    adapters: dict[str, Any] = {}
    for name, (key_variable, url_variable, default_url) in _PROVIDERS.items():
        key, url = variables.get(key_variable, "").strip(), variables.get(url_variable, "").strip()
        if key or url:
            adapters[name] = {"type": name, "base_url": url or default_url} | ({"api_key": key} if key else {})
    enabled = variables.get("LOCAL_MODELS_ENABLED", "").strip() or "true"
    if _parse("LOCAL_MODELS_ENABLED", enabled, "bool", problems):
        folder = variables.get("LOCAL_MODELS_DIR", "").strip() or DEFAULT_MODELS_DIR
        adapters["local"] = {"type": "local", "models_dir": folder}
    return adapters


def _parse(name: str, text: str, kind: str, problems: Problems) -> Any:
    """Return the value of one variable, or None after noting why it has none."""
    if kind == "list":
        return _split(text)
    if kind == "bool":
        if text.lower() not in _TRUE | _FALSE:
            problems.add(name, "is neither true nor false", "Set it to true or false")
            return None
        return text.lower() in _TRUE
    if kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            problems.add(name, "is not a number", f"Set it to {'a whole' if kind == 'int' else 'a'} number")
            return None
    return text


def _split(text: str) -> list[str]:
    """Return the non-empty entries of a comma-separated list."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _secret(kind: type, raw: Any) -> Any:
    """Let texts become what hides itself (a hook of msgspec)."""
    if kind in (Secret, Storage) and isinstance(raw, str) and raw:
        return kind(raw)
    raise msgspec.ValidationError("expected a text that is not empty")


# What no single field can tell


def _cross_check(config: Config, problems: Problems) -> None:
    """Check what concerns several fields together; parts that could not be built are None."""
    keys = [entry.key.reveal() for entry in _built(config.api_keys)]
    if len(set(keys)) < len(keys):
        problems.add("api_keys", "the same key is given twice", "Remove one")
    for entry in keys:
        if not entry.isascii() or not entry.isprintable() or " " in entry:
            problems.add("api_keys", "a key holds a space or a character outside ASCII", "Use letters, digits and -_.")
    for name in config.adapters:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.add(f"adapters.{name}", "is not a usable name", "Use letters, digits, dots, dashes, underscores")
    _check_storage("rate_limit", config.rate_limit, ("auto", "memory", "shared"), problems)
    _check_storage("cache", config.cache, ("memory",), problems)
    if not config.api_keys and config.server.host not in ("127.0.0.1", "localhost", "::1"):
        fix = "Set API_KEYS before you let others in, or HOST=127.0.0.1"
        problems.add("server.host", "can be reached from elsewhere, and there is no API key", fix)
    for name, group in config.model_groups.items():
        for target in targets(group.targets + group.fallbacks) if group else ():
            adapter_name, slash, model = target.model.partition("/")
            if not slash or not model or adapter_name not in config.adapters:
                fix = f"Write adapter/model, with an adapter of: {', '.join(config.adapters) or 'none is configured'}"
                problems.add(f"model_groups.{name}", f"{target.model!r} names no adapter's model", fix)


def _check_storage(
    section: str, settings: RateLimitConfig | CacheConfig | None, known: tuple[str, ...], problems: Problems
) -> None:
    storage = settings.storage if settings else None
    if storage and storage not in known and not re.match(r"(rediss?|unix)://.", storage):
        fix = f"Use {', '.join(known)} or redis://HOST:PORT/DB"
        problems.add(f"{section}.storage", "names no storage", fix)


def _built(parts: Iterable[T | None]) -> list[T]:
    return [part for part in parts if part is not None]
