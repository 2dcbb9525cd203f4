"""Configuration: environment variables, a ``.env`` file and one YAML file become one frozen ``Config``.

The variables alone give a working gateway. The file named by ``ONE_API_CONFIG`` says more; a section in it replaces
what the variables say of the same thing. Everything is checked before anything starts, and every problem is reported
at once, with its place and what to do. This is the only module that reads the environment.
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml
from dotenv import dotenv_values
from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(gt=0)]

OPENAI_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODELS_DIR = "models"


class Secret:
    """A value that never shows itself: ``repr`` and ``str`` are masked, ``reveal()`` is explicit."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the one place that sends or compares it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key that clients may use; ``name`` stands for it in logs."""

    key: Secret
    name: str = ""


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each phase of an exchange with an upstream may take, in seconds."""

    #: TCP and TLS.
    connect_s: Seconds = 2.0
    #: From the request to the first event of a stream. Default: 30 while another candidate is left, else 120.
    first_event_s: Seconds | None = None
    #: Between two events of a stream.
    idle_s: Seconds = 60.0
    #: A whole answer that is not streamed.
    total_s: Seconds = 600.0
    #: A whole stream.
    stream_total_s: Seconds = 3600.0


class OpenAIConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="openai"):
    """A server that speaks OpenAI's Chat Completions dialect."""

    base_url: str = OPENAI_BASE_URL
    #: Sent as a bearer token; leave it out for a server that asks for none.
    api_key: Secret | None = None
    #: The upstream's model names. Left out: asked for at the upstream, and refreshed.
    models: tuple[str, ...] | None = None
    #: Share of the traffic among the targets of a group.
    weight: Weight = 1.0
    #: Requests in flight at once, per process.
    max_concurrency: Count = 1000
    timeouts: Timeouts = Timeouts()
    #: Seconds between two questions for the model list.
    discovery_interval_s: Seconds = 300.0
    #: Ask for usage in streams; switch it off for a server that refuses ``stream_options``.
    stream_usage: bool = True
    #: Send ``developer`` messages as ``system``, for servers that do not know the role.
    developer_as_system: bool = False


class LocalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="local"):
    """GGUF files on this machine, run by llama.cpp in a child process."""

    models_dir: str = DEFAULT_MODELS_DIR
    weight: Weight = 1.0
    #: Requests that one engine decodes at once.
    slots: Count = 4
    #: Context of one slot, in tokens.
    slot_context: Count = 2048
    #: Threads of one engine; left out: the machine's processors less one, at least one.
    threads: Count | None = None
    #: The longest answer, in tokens, when the request sets no limit.
    default_max_tokens: Count = 1024
    #: A model that nobody uses gives its memory back after this time.
    idle_unload_s: Seconds = 900.0
    #: How long an engine may take to start.
    start_timeout_s: Seconds = 60.0
    timeouts: Timeouts = Timeouts(first_event_s=120.0)


AdapterConfig = OpenAIConfig | LocalConfig


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place where a group is served: ``model`` is "adapter/upstream model", split at the first slash."""

    model: str
    weight: Weight | None = None


class GroupConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public model id, and where it is served."""

    targets: Annotated[tuple[TargetConfig | str, ...], Meta(min_length=1)]
    #: Other models, tried in order when no target can answer.
    fallbacks: tuple[TargetConfig | str, ...] = ()
    strategy: Literal["weighted", "ordered", "round_robin", "least_busy"] = "weighted"


class RateLimitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one key may ask for."""

    enabled: bool = True
    requests_per_minute: Count = 100
    #: "memory", or a URI that the ``limits`` library knows.
    storage: str = "memory"


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often one request is tried, and how much of the traffic may be retries."""

    max_attempts: Count = 3
    #: Retries as a share of the requests, beyond a reserve of three.
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.1


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listening side."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    #: Processes. Limits and health are counted per process.
    workers: Count = 1
    debug: bool = False
    #: Origins that browsers may call from; none by default.
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Count = 32 * 1024 * 1024
    #: How long a request's body may take to arrive.
    body_timeout_s: Seconds = 30.0
    #: A stream that is silent this long gets a comment line.
    heartbeat_s: Seconds = 15.0
    #: How long the status line of a stream waits for the first upstream event.
    commit_s: Seconds = 15.0
    #: How long open requests may go on after SIGTERM.
    drain_s: Seconds = 600.0
    #: How long a connection may stay open without a request.
    keep_alive_s: Seconds = 75.0
    #: Connections that wait to be accepted.
    backlog: Count = 2048


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line per request."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration, valid as it stands."""

    api_keys: tuple[KeyConfig, ...] = ()
    adapters: dict[str, AdapterConfig] = {}
    model_groups: dict[str, GroupConfig] = {}
    rate_limit: RateLimitConfig = RateLimitConfig()
    retry: RetryConfig = RetryConfig()
    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    #: Settings that were given and have no effect, in words.
    notices: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment (the process's own by default), its ``.env`` file and the YAML file it names.

        Raises:
            ConfigError: with every problem that was found.
        """
        given = dict(os.environ if environ is None else environ)
        env_file = given.get("ONE_API_ENV_FILE", ".env")
        variables = {key: value for key, value in dotenv_values(env_file).items() if value is not None} | given
        problems = Problems()
        raw = _from_variables(variables, problems)
        if path := variables.get("ONE_API_CONFIG", "").strip():
            raw |= _from_file(Path(path), variables, problems)
        config = _struct(cls, raw, "", problems)
        if config is not None:
            _cross_check(config, problems)
        if problems.found or config is None:
            raise ConfigError(tuple(problems.found))
        return config


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (a variable, or a path in the file), what, and what to do."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.fix}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has all that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(["The configuration cannot be used:", *(f"  - {problem}" for problem in problems)]))
        self.problems = problems


class Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, where: str, what: str, fix: str) -> None:
        """Note one problem."""
        self.found.append(Problem(where, what, fix))


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
    "DRAIN_SECONDS": ("server", "drain_s", "float"),
    "RATE_LIMIT_ENABLED": ("rate_limit", "enabled", "bool"),
    "RATE_LIMIT_REQUESTS": ("rate_limit", "requests_per_minute", "int"),
    "LOG_FORMAT": ("log", "format", "str"),
    "LOG_LEVEL": ("log", "level", "str"),
}


def _from_variables(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Turn the variables into the shape of the file."""
    raw: dict[str, Any] = {}
    for name, (section, field, kind) in _VARIABLES.items():
        if (text := variables.get(name, "").strip()) and (value := _parse(name, text, kind, problems)) is not None:
            raw.setdefault(section, {})[field] = value
    raw["api_keys"] = [{"key": key} for key in _split(variables.get("API_KEYS", ""))]
    raw["adapters"] = _adapters_from_variables(variables, problems)
    if variables.get("CLAUDE_API_KEY", "").strip():
        raw["notices"] = ["CLAUDE_API_KEY is set, but this version has no Claude adapter yet: it is ignored"]
    return raw


def _adapters_from_variables(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return the adapters that the article's variables ask for."""
    adapters: dict[str, Any] = {}
    key, url = variables.get("OPENAI_API_KEY", "").strip(), variables.get("OPENAI_BASE_URL", "").strip()
    if key or url:
        adapters["openai"] = {"type": "openai", "base_url": url or OPENAI_BASE_URL}
        if key:
            adapters["openai"]["api_key"] = key
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


# From the file


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe subset, without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build one mapping; a key given twice is an error that names its line."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _from_file(path: Path, variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Read the YAML file and fill in its ``${VARIABLES}``."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        problems.add("ONE_API_CONFIG", f"cannot read {path}: {error}", "Name a readable YAML file")
        return {}
    except yaml.YAMLError as error:
        problems.add(str(path), f"is not valid YAML: {error}", "Mend the file at that line")
        return {}
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.add(str(path), "holds no mapping at its top", "Start it with a section, such as `adapters:`")
        return {}
    expanded: dict[str, Any] = _expand(raw, str(path), variables, problems)
    return expanded


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _expand(value: Any, where: str, variables: Mapping[str, str], problems: Problems) -> Any:
    """Replace ``${NAME}`` in every text of ``value`` by the variable's value."""
    if isinstance(value, dict):
        return {key: _expand(child, f"{where}: {key}", variables, problems) for key, child in value.items()}
    if isinstance(value, list):
        return [_expand(child, where, variables, problems) for child in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if not variables.get(name):
            problems.add(where, f"the variable {name} is not set", f"Set {name} in the environment or in .env")
    return _VARIABLE.sub(lambda match: variables.get(match[1], ""), value)


# From plain values to structs, collecting every problem

S = TypeVar("S", bound=Struct)


def _struct(kind: type[S], raw: Any, where: str, problems: Problems) -> S | None:
    """Build one struct; returns None after noting what stands in the way."""
    if not isinstance(raw, dict):
        problems.add(where or "the file", f"is {_name(raw)}, not a mapping", "Give it fields")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    before = len(problems.found)
    for key in raw:
        if key not in fields and key != kind.__struct_config__.tag_field:
            near = difflib.get_close_matches(str(key), fields, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(fields))}"
            problems.add(_join(where, key), "is not a setting", fix)
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _value(field.type, raw[name], _join(where, name), problems)
        elif field.required:
            problems.add(_join(where, name), "is missing", "Add it")
    return kind(**values) if len(problems.found) == before else None


def _value(kind: Any, raw: Any, where: str, problems: Problems) -> Any:
    """Convert one value to its field's type."""
    if typing.get_origin(kind) is Annotated and not _is_leaf(kind):
        return _value(typing.get_args(kind)[0], raw, where, problems)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(kind, raw, where, problems)
    if kind == AdapterConfig:
        return _adapter(raw, where, problems)
    if kind == (TargetConfig | str):
        return _struct(TargetConfig, {"model": raw} if isinstance(raw, str) else raw, where, problems)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(raw, dict):
        return {str(key): _value(arguments[1], child, _join(where, key), problems) for key, child in raw.items()}
    if origin is tuple and isinstance(raw, list):
        return tuple(_value(arguments[0], child, f"{where}[{i}]", problems) for i, child in enumerate(raw))
    try:
        return msgspec.convert(raw, kind, dec_hook=_secret)
    except msgspec.ValidationError as error:
        problems.add(where, f"has a bad value: {error}", "Change it as the message says")
        return None


def _is_leaf(kind: Any) -> bool:
    """Say whether an annotated type is a plain number or text."""
    return typing.get_args(kind)[0] in (int, float, str)


def _adapter(raw: Any, where: str, problems: Problems) -> AdapterConfig | None:
    """Build the struct that an adapter's ``type`` names."""
    known: dict[str, type[AdapterConfig]] = {
        str(kind.__struct_config__.tag): kind for kind in typing.get_args(AdapterConfig)
    }
    tag = raw.get("type") if isinstance(raw, dict) else None
    if tag not in known:
        problems.add(_join(where, "type"), "names no kind of adapter", f"Use one of: {', '.join(known)}")
        return None
    return _struct(known[tag], raw, where, problems)


def _secret(kind: type, raw: Any) -> Any:
    """Let texts become secrets (a hook of msgspec)."""
    if kind is Secret and isinstance(raw, str) and raw:
        return Secret(raw)
    raise msgspec.ValidationError("expected a text that is not empty")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _name(raw: Any) -> str:
    return {list: "a list", str: "a text", type(None): "empty"}.get(type(raw), "a " + type(raw).__name__)


# What no single field can tell


def _cross_check(config: Config, problems: Problems) -> None:
    """Check what concerns several fields together."""
    keys = [entry.key.reveal() for entry in config.api_keys]
    if len(set(keys)) < len(keys):
        problems.add("api_keys", "the same key is given twice", "Remove one")
    for entry in keys:
        if not entry.isascii() or not entry.isprintable() or " " in entry:
            problems.add("api_keys", "a key holds a space or a character outside ASCII", "Use letters, digits and -_.")
    for name, adapter in config.adapters.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.add(f"adapters.{name}", "is not a usable name", "Use letters, digits, dots, dashes, underscores")
        if isinstance(adapter, OpenAIConfig):
            _check_url(f"adapters.{name}.base_url", adapter.base_url, problems)
    for name, group in config.model_groups.items():
        for target in targets(group.targets + group.fallbacks):
            adapter_name, slash, model = target.model.partition("/")
            if not slash or not model or adapter_name not in config.adapters:
                fix = f"Write adapter/model, with an adapter of: {', '.join(config.adapters) or 'none is configured'}"
                problems.add(f"model_groups.{name}", f"{target.model!r} names no adapter's model", fix)


def _check_url(where: str, url: str, problems: Problems) -> None:
    """Check that an upstream's address is one that we can build on."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        usable = usable and not parts.query and not parts.fragment
        if parts.username or parts.password:
            problems.add(where, "holds a user name or a password", "Put the credential into api_key")
    if not usable:
        problems.add(where, "is not an http(s) address", "Write it like https://host:port/v1, without a query")


def targets(entries: tuple[TargetConfig | str, ...]) -> tuple[TargetConfig, ...]:
    """Return targets whole, whichever way they were written."""
    return tuple(TargetConfig(model=entry) if isinstance(entry, str) else entry for entry in entries)


def as_lines(value: Any, indent: int = 0) -> list[str]:
    """Return any part of a configuration as YAML-like lines, secrets masked."""
    pad = "  " * indent
    if isinstance(value, Struct):
        value = (
            {"type": value.__struct_config__.tag} | msgspec.structs.asdict(value)
            if value.__struct_config__.tag
            else (msgspec.structs.asdict(value))
        )
    if isinstance(value, dict):
        entries = [(f"{pad}{key}:", child) for key, child in value.items()]
    elif isinstance(value, (tuple, list)):
        entries = [(f"{pad}-", child) for child in value]
    else:
        return [pad + _scalar(value)]
    lines = []
    for head, child in entries:
        if isinstance(child, (Struct, dict, tuple, list)) and child:
            lines += [head, *as_lines(child, indent + 1)]
        else:
            lines.append(f"{head} {_scalar(child)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, types.NoneType):
        return "null"
    return "[]" if value == () else "{}" if value == {} else str(value)
