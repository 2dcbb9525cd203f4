"""Variables, of the environment or of ``.env``: each known one has a place in the shape of the YAML file."""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from one_api.settings.adapters import CLAUDE_BASE_URL, DEFAULT_MODELS_DIR, OPENAI_BASE_URL
from one_api.settings.validation import Problems

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
    "ADMIN_KEY": ("admin", "key", "str"),
    "ADMIN_LISTEN": ("admin", "listen", "str"),
    "ADMIN_ALLOW": ("admin", "allow", "list"),
    "DATABASE_URL": ("database", "url", "str"),
    "METRICS_TOKEN": ("metrics", "token", "str"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("telemetry", "endpoint", "str"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("telemetry", "traces_endpoint", "str"),
    "OTEL_SDK_DISABLED": ("telemetry", "disabled", "bool"),
    "LOG_FORMAT": ("log", "format", "str"),
    "LOG_LEVEL": ("log", "level", "str"),
}
#: Adapter, and its type -> the variables of its key and address, and the address when none is given.
_PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", OPENAI_BASE_URL),
    "claude": ("CLAUDE_API_KEY", "CLAUDE_BASE_URL", CLAUDE_BASE_URL),
}
#: OpenTelemetry's own, beside those above; and how spans are sent.
_OTEL = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
)
_PROTOCOL = "http/protobuf"
#: Every variable that is read.
KNOWN = frozenset(
    {*_VARIABLES, *_OTEL, "API_KEYS", "LOCAL_MODELS_ENABLED", "LOCAL_MODELS_DIR", "ONE_API_CONFIG", "ONE_API_ENV_FILE"}
    | {variable for *variables, _ in _PROVIDERS.values() for variable in variables}
)
#: Place -> the variable that it comes from.
ORIGINS = (
    {f"{section}.{field}": name for name, (section, field, _) in _VARIABLES.items()}
    | {f"adapters.{name}.api_key": key for name, (key, _, _) in _PROVIDERS.items()}
    | {f"adapters.{name}.base_url": url for name, (_, url, _) in _PROVIDERS.items()}
    | {"api_keys": "API_KEYS", "adapters.local.models_dir": "LOCAL_MODELS_DIR"}
)
#: What other programs call the same -> ours.
_ELSEWHERE = {
    "anthropic_api_key": "CLAUDE_API_KEY",
    "anthropic_auth_token": "CLAUDE_API_KEY",
    "claude_key": "CLAUDE_API_KEY",
    "anthropic_base_url": "CLAUDE_BASE_URL",
    "anthropic_api_url": "CLAUDE_BASE_URL",
    "claude_api_base": "CLAUDE_BASE_URL",
    "openai_key": "OPENAI_API_KEY",
    "openai_token": "OPENAI_API_KEY",
    "openai_api_base": "OPENAI_BASE_URL",
    "openai_api_base_url": "OPENAI_BASE_URL",
    "openai_api_url": "OPENAI_BASE_URL",
    "openai_base": "OPENAI_BASE_URL",
    "one_api_key": "API_KEYS",
    "one_api_keys": "API_KEYS",
    "one_api_host": "HOST",
    "one_api_port": "PORT",
    "one_api_config_file": "ONE_API_CONFIG",
    "database_uri": "DATABASE_URL",
    "sql_dsn": "DATABASE_URL",
    "sqlalchemy_database_uri": "DATABASE_URL",
    "cors_allowed_origins": "CORS_ORIGINS",
    "cors_allow_origins": "CORS_ORIGINS",
    "gunicorn_workers": "WEB_CONCURRENCY",
    "rate_limit_rpm": "RATE_LIMIT_REQUESTS",
}
#: Samplers of OpenTelemetry, with the part of 1 that they keep; None is in their argument. Whether they go
#: by the parent is ``telemetry.trust_trace``.
_SAMPLERS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_RATIO = re.compile(r"0|1|[01]?\.0*|0?\.\d+|1\.0+")
#: How alike two names are, of 1, so that one is taken for a slip in the other.
_ALIKE = 0.85
#: Names of other programs that are alike by chance.
_OTHERS = {
    "HOSTS",
    "LOGLEVEL",
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    *(f"OTEL_EXPORTER_OTLP_{kind}_{what}" for kind in ("METRICS", "LOGS") for what in ("ENDPOINT", "PROTOCOL")),
}


def from_variables(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Turn the variables into the shape of the file."""
    raw: dict[str, Any] = {"database": {"url": "sqlite"}}
    for name, (section, field, kind) in _VARIABLES.items():
        if (text := variables.get(name, "").strip()) and (value := _parse(name, text, kind, problems)) is not None:
            raw.setdefault(section, {})[field] = value
    _telemetry(variables, raw, problems)
    raw["api_keys"] = [_key(entry, problems) for entry in _split(variables.get("API_KEYS", ""))]
    raw["adapters"] = _adapters(variables, problems)
    return raw


def _telemetry(variables: Mapping[str, str], raw: dict[str, Any], problems: Problems) -> None:
    """Take over what OpenTelemetry's other variables say of traces. What is not known is ignored, as they have it."""
    given = {name: text for name in _OTEL if (text := variables.get(name, "").strip())}
    found = raw.get("telemetry", {})
    if (exporter := given.get("OTEL_TRACES_EXPORTER", "otlp")) == "none":
        found["disabled"] = True
    elif exporter != "otlp":
        problems.warn("OTEL_TRACES_EXPORTER", "is neither otlp nor none and is ignored", "Set it to otlp")
    if (sampler := given.get("OTEL_TRACES_SAMPLER")) is not None:
        ratio = _ratio(sampler.removeprefix("parentbased_"), given.get("OTEL_TRACES_SAMPLER_ARG", "1"), problems)
        found |= {} if ratio is None else {"ratio": ratio}
    is_sent = not found.get("disabled") and found.keys() & {"endpoint", "traces_endpoint"}
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        if given.get(name, _PROTOCOL) != _PROTOCOL and is_sent:
            fix = f"Set it to {_PROTOCOL}, and the endpoint to a port for that: usually 4318, not 4317"
            problems.warn(name, f"is ignored: traces are sent by {_PROTOCOL}", fix)
    if is_sent and not (variables.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "").strip() or "0").isdecimal():
        problems.add(  # its library, which reads it when it is imported, would end the start
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "is no whole number from 0 on", "Correct it, or leave it out"
        )
    if found:
        raw["telemetry"] = found


def _ratio(sampler: str, argument: str, problems: Problems) -> float | None:
    """Return the part of 1 that a sampler keeps; None after noting why that is not known."""
    if sampler not in _SAMPLERS:
        names = ", ".join(_SAMPLERS)
        problems.warn("OTEL_TRACES_SAMPLER", "is not known here and is ignored", f"Use one of {names}")
        return None
    if sampler != "traceidratio":
        return _SAMPLERS[sampler]
    if not _RATIO.fullmatch(argument):
        problems.warn("OTEL_TRACES_SAMPLER_ARG", "is no number from 0 to 1 and is ignored", "Set it to one")
        return None
    return float(argument)


def warn_of_near_misses(
    variables: Mapping[str, str], in_file: Collection[str], used: Collection[str], problems: Problems
) -> None:
    """Warn of variables whose names are nearly ours.

    ``in_file`` are the sections of the YAML file: variables that it replaces need no right name. ``used`` are the
    variables that it refers to.
    """
    for name in sorted(variables):
        if name in KNOWN or name in used or not variables[name].strip():
            continue
        meant = _ELSEWHERE.get(name.lower())
        if meant and (("adapters" in in_file and meant.startswith(("OPENAI", "CLAUDE"))) or variables.get(meant)):
            continue
        meant = meant or _slip(name)
        if meant:
            problems.warn(name, "is not a variable of one_api and is ignored", f"Did you mean {meant}?")


def _slip(name: str) -> str | None:
    """Return the variable that a name is a slip of; case counts, because it makes another variable."""
    upper = name.upper()
    if name in _OTHERS:
        return None
    if upper in KNOWN:
        return upper if "_" in name and not name.startswith("_") else None
    near = difflib.get_close_matches(name, KNOWN, 1, _ALIKE)
    return near[0] if near else None


def _key(entry: str, problems: Problems) -> dict[str, str]:
    """Return one key; ``name:key`` gives it a name, unless what comes first looks like a key itself."""
    name, colon, key = (part.strip() for part in entry.partition(":"))
    if not colon or name.startswith("sk-"):
        return {"key": entry}
    if not key or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*", name):
        problems.add("API_KEYS", "an entry is not name:key", "Write name:key with letters, digits and ._@- in the name")
    return {"key": key or "-", "name": name}


def _adapters(variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return the adapters that the variables of providers and of local models ask for."""
    adapters: dict[str, Any] = {}
    for name, (key_variable, url_variable, default_url) in _PROVIDERS.items():
        key, url = variables.get(key_variable, ""), variables.get(url_variable, "")
        if key.strip() or url.strip():
            given = {"api_key": key} if key.strip() else {}
            adapters[name] = {"type": name, "base_url": url if url.strip() else default_url} | given
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
            if not text.isascii() or "_" in text:
                raise ValueError(text)
            return int(text) if kind == "int" else float(text)
        except ValueError:
            problems.add(name, "is not a number", f"Set it to {'a whole' if kind == 'int' else 'a'} number")
            return None
    return text


def _split(text: str) -> list[str]:
    """Return the non-empty entries of a comma-separated list."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]
