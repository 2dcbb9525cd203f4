"""Configuration: environment variables, a ``.env`` file and one YAML file become one frozen ``Config``.

The variables alone give a working gateway. The file named by ``ONE_API_CONFIG`` says more; a section in it replaces
what the variables say of the same thing. Everything is checked before anything starts, and every problem is reported
at once, with its place and what to do. This is the only module that reads the environment.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from one_api.settings.adapters import AdapterConfig, LocalConfig
from one_api.settings.addresses import ENVIRONMENT, check_proxy
from one_api.settings.checks import (
    MASK,
    check_adapters,
    check_admin,
    check_database,
    check_groups,
    check_keys,
    check_prices,
    check_responses,
    check_server,
    check_storage,
    check_telemetry,
)
from one_api.settings.files import Files, loaded_by_flask, read_env_file, read_yaml, variables_in
from one_api.settings.groups import expanded
from one_api.settings.kinds import OwnSettings, Proxy, Secret, Storage, without_secrets
from one_api.settings.observing import LogConfig, MetricsConfig, TelemetryConfig
from one_api.settings.outside import settings_of
from one_api.settings.prices import PricesConfig
from one_api.settings.proxies import from_environment
from one_api.settings.sections import (
    AdminConfig,
    BudgetConfig,
    CacheConfig,
    DatabaseConfig,
    ErrorsConfig,
    GroupConfig,
    KeyConfig,
    ModelsConfig,
    RateLimitConfig,
    ReloadConfig,
    ResponsesConfig,
    RetryConfig,
    ServerConfig,
)
from one_api.settings.validation import MAX_TOLD, Builder, Problem, Problems
from one_api.settings.variables import KNOWN, ORIGINS, from_variables, warn_of_near_misses

DEFAULT_ENV_FILE = ".env"
#: Of keys with so many characters the last four are shown.
_LONG_KEY = 8


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
    responses: ResponsesConfig = ResponsesConfig()
    errors: ErrorsConfig = ErrorsConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    admin: AdminConfig = AdminConfig()
    reload: ReloadConfig = ReloadConfig()
    database: DatabaseConfig = DatabaseConfig()
    prices: PricesConfig = PricesConfig()
    budget: BudgetConfig = BudgetConfig()

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "Config":
        """Return what ``load`` reads, without its warnings; raises ConfigError."""
        return load(environ).config


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and how it came about."""

    config: Config
    #: What can be used, but is probably a mistake.
    warnings: tuple[Problem, ...]
    #: The files that were read, in order.
    files: tuple[Path, ...]
    #: The variables of the environment that name those files.
    named_files: dict[str, str]
    #: The texts that were read, by path, secrets in files of their own included; None is no such file.
    texts: dict[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def sources(self) -> str:
        """Return in words where the configuration comes from."""
        return ", ".join(["the environment", *map(str, self.files)])


def load(environ: Mapping[str, str] | None = None, kept: Mapping[str, str | None] | None = None) -> Loaded:
    """Read the environment (the process's own by default), its ``.env`` file and the YAML file it names.

    With ``kept``, the ``texts`` of a configuration of before, these stand for the files, whatever is in them now.

    Raises:
        ConfigError: with every problem that was found.
    """
    given = dict(environ) if environ is not None else _environment()
    problems, files = Problems(), Files(kept)
    env_file = given.get("ONE_API_ENV_FILE", "").strip() or DEFAULT_ENV_FILE
    variables = (in_env_file := read_env_file(env_file, problems, files)) | given
    if "ONE_API_ENV_FILE" in given and files.texts.get(env_file, "") is None:
        problems.warn("ONE_API_ENV_FILE", f"there is no file {env_file}", "Name a file that is there, or leave it out")
    raw, path = from_variables(variables, problems), variables.get("ONE_API_CONFIG", "").strip()
    in_file = read_yaml(Path(path), variables, problems, files) if path else {}
    warn_of_near_misses(variables, in_file, variables_in(in_file), problems)
    for name in sorted(in_env_file.keys() - given.keys() - KNOWN):
        if name.startswith("OTEL_"):
            problems.warn(name, f"is not read from {env_file}", "Set it in the environment of the process")
    values = Builder(problems, _secret, settings_of).fields(Config, _merged(raw, in_file))
    values["adapters"] = _with_proxies(values.get("adapters") or {}, variables, problems)
    config = Config(**{name: value for name, value in values.items() if value is not None})
    _check(config, problems)
    if problems.found:
        told = [_placed(problem, path, in_file) for problem in problems.found[:MAX_TOLD]]
        if (more := len(problems.found) - MAX_TOLD) > 0:
            told.append(Problem(path or "the configuration", f"has {more} more problems", "Mend these first"))
        raise ConfigError(tuple(told))
    warnings = tuple(_placed(problem, path, in_file) for problem in problems.warnings)
    paths = [Path(each).resolve() for each in (env_file, path) if each and Path(each).is_file()]
    groups = expanded(config.model_groups, config.adapters)
    named = {name: given[name] for name in ("ONE_API_ENV_FILE", "ONE_API_CONFIG") if given.get(name, "").strip()}
    return Loaded(structs.replace(config, model_groups=groups), warnings, tuple(paths), named, files.texts)


def from_mapping(values: Mapping[str, Any]) -> Loaded:
    """Read the settings from a mapping with the names of the variables, and from the files that it names; no others.

    Values are texts as in the environment, or what they stand for: numbers, switches, lists; None is no value.

    Raises:
        ConfigError: with every problem that was found.
    """
    given = {str(name): _as_text(value) for name, value in values.items() if value is not None}
    return load({"ONE_API_ENV_FILE": os.devnull, **given})


def _as_text(value: Any) -> str:
    """Return a value as a variable of the environment holds it."""
    if isinstance(value, (list, tuple, set)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_variables(config: "Config") -> dict[str, Any]:
    """Return the settings that variables stand for, by their names, as they are in effect; secrets are masked."""
    shown = masked(config)
    found = {name: _at(shown, place) for place, name in ORIGINS.items()}
    found["API_KEYS"] = [entry["key"] for entry in shown["api_keys"]]
    found["LOCAL_MODELS_ENABLED"] = any(isinstance(each, LocalConfig) for each in config.adapters.values())
    return found


def _at(value: Any, place: str) -> Any:
    """Return what stands at a place such as ``server.port``; None when there is nothing."""
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _environment() -> dict[str, str]:
    """Return this process's environment, after taking out what Flask's command line put there from its own files.

    It reads ``.env`` before anything of ours, also when ``ONE_API_ENV_FILE`` names another file. It is taken out for
    good, so that processes started from here, such as that of Flask's reloader, do not inherit it.
    """
    if "FLASK_RUN_FROM_CLI" in os.environ:
        started = _started_with()
        for name, value in loaded_by_flask().items():
            if os.environ.get(name) == value and name not in started:
                del os.environ[name]
    return dict(os.environ)


def inherits_sockets() -> bool:
    """Return whether gunicorn is handed its listening sockets, by another gunicorn or by systemd."""
    return bool({"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys())


def _started_with() -> dict[str, str]:
    """Return the environment that this process was started with, where the system keeps it."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (os.fsdecode(entry).partition("=") for entry in entries)}


#: Sections whose fields stand for themselves: the file's win one by one. Of the others it replaces the whole.
_BY_FIELD = frozenset({"server", "rate_limit", "log", "metrics", "telemetry", "admin", "database"})


def _merged(raw: dict[str, Any], in_file: dict[str, Any]) -> dict[str, Any]:
    """Put what the file says over what the variables say."""
    if isinstance(groups := in_file.get("model_groups"), dict):
        # A group that is written as a text is an alias.
        whole = {name: {"targets": [group]} if isinstance(group, str) else group for name, group in groups.items()}
        in_file = in_file | {"model_groups": whole}
    if isinstance(url := in_file.get("database"), str):
        in_file = in_file | {"database": {"url": url}}  # it may be written as its address alone
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
    place = "api_keys" if section == "api_keys" else problem.where
    return replace(problem, where=ORIGINS.get(place, place))


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has all that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(["The configuration cannot be used:", *(f"  - {problem}" for problem in problems)]))
        self.problems = problems


# What is reported, and what is not


def _secret(kind: type, raw: Any) -> Any:
    """Let texts become what hides itself (a hook of msgspec)."""
    if kind is Proxy and isinstance(raw, str) and (wrong := check_proxy(raw)):
        raise msgspec.ValidationError(f"it {'. '.join(wrong)}")
    if kind is OwnSettings and isinstance(raw, dict):
        return OwnSettings.read(raw)
    if kind is OwnSettings:
        raise msgspec.ValidationError("expected a mapping")
    if kind in (Secret, Storage, Proxy) and isinstance(raw, str) and raw:
        return kind(str(raw))
    raise msgspec.ValidationError("expected a text that is not empty")


def _with_proxies(adapters: dict[str, Any], variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return the adapters, each with the proxy that the environment names for it, if it is to."""
    found = dict(adapters)
    for name, adapter in adapters.items():
        if getattr(adapter, "proxy", None) != ENVIRONMENT:
            continue
        try:
            found[name] = msgspec.structs.replace(adapter, proxy=from_environment(adapter.base_url, variables))
        except ValueError as error:
            problems.add(str(error), *check_proxy("") or ("", ""))
    return found


def _check(config: Config, problems: Problems) -> None:
    """Check what concerns several fields together; parts that could not be built are None."""
    check_keys(config.api_keys, problems)
    check_admin(config.admin, config.server, config.api_keys, problems)
    check_adapters(config.adapters, problems)
    check_telemetry(config.telemetry, problems)
    check_storage("rate_limit", config.rate_limit, ("auto", "memory", "shared"), problems)
    check_storage("cache", config.cache, ("memory",), problems)
    check_server(config.server, config.api_keys, config.database, problems)
    check_database(config.database, problems)
    check_prices(config.prices, config.adapters, problems)
    check_responses(config.responses, config.server, config.database, problems)
    check_groups(config.model_groups, config.adapters, problems)


def masked(value: Any) -> Any:
    """Return any part of a configuration as plain values, secrets masked.

    Of a client's key its last four characters are shown when it is long enough, so that people can recognise it.
    """
    if isinstance(value, KeyConfig):
        key = value.key.reveal()
        shown = key if key.startswith(MASK) else MASK + (key[-4:] if len(key) >= _LONG_KEY else "")
        return {"key": shown, "name": value.name}
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Struct):
        fields = {name: masked(getattr(value, name)) for name in value.__struct_fields__}
        tag = value.__struct_config__.tag
        return ({"type": tag} if tag else {}) | fields
    if isinstance(value, dict):
        return {str(key): masked(child) for key, child in value.items()}
    if isinstance(value, (tuple, list)):
        return [masked(child) for child in value]
    if isinstance(value, Storage):
        return without_secrets(str(value))
    return re.sub(r"(?<=://)[^/@\s]*@", f"{MASK}@", str(value)) if isinstance(value, str) else value
