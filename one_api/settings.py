"""What can be set: one frozen struct per section of the configuration, with its default, unit and danger."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from one_api.structs import checked


def _check_url(url: str) -> tuple[str, str] | None:
    """Tell what keeps an upstream's address from being one that we can build on."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        if parts.username or parts.password:
            return "holds a user name or a password", "Put the credential into api_key"
        usable = usable and not parts.query and not parts.fragment
    return None if usable else ("is not an http(s) address", "Write it like https://host:port/v1, without a query")


Seconds = Annotated[float, Meta(gt=0, le=86400)]
Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(gt=0)]
Address = Annotated[str, checked(_check_url)]
#: No pattern: Flask-CORS would take it for a regular expression, without an end, that other origins match as well.
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9._-]+(:[0-9]+)?)\Z")]

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

    base_url: Address = OPENAI_BASE_URL
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


class SamplingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a local model chooses its words when a request does not say; left out: OpenAI's own defaults."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    #: Only among so many of the likeliest tokens; 0 for all.
    top_k: Annotated[int, Meta(ge=0)] | None = None
    #: Only tokens that are at least so likely as this share of the likeliest.
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    #: More than 1 makes repetitions less likely.
    repeat_penalty: Annotated[float, Meta(ge=0, le=10)] | None = None

    def given(self) -> dict[str, float]:
        """Return the values that are set."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in found.items() if value is not None}


class LocalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="local"):
    """GGUF files on this machine, run by llama.cpp in a child process."""

    models_dir: str = DEFAULT_MODELS_DIR
    weight: Weight = 1.0
    #: Further names of models: alias -> id of a file.
    aliases: dict[str, str] = {}
    #: By id of a file.
    sampling: dict[str, SamplingConfig] = {}
    #: Requests that one engine decodes at once, from all processes of the machine.
    slots: Annotated[int, Meta(ge=1, le=64)] = 4
    #: Requests of one process that may wait for a slot of one model; more are refused with 503.
    queue: Count = 64
    #: Models loaded at once on this machine; the least recently used idle one makes room for another.
    max_loaded: Annotated[int, Meta(ge=1, le=1024)] = 3
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
    #: Tokens of prompt and answer together: estimated before, settled after. Left out: no limit.
    tokens_per_minute: Count | None = None
    #: Requests at a time. Left out: no limit.
    concurrent: Annotated[int, Meta(ge=1, le=1024)] | None = None
    #: auto (memory, or with several processes a file that they share), memory, shared, or redis://HOST:PORT/DB.
    storage: str = "auto"


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often one request is tried, and how much of the traffic may be retries."""

    max_attempts: Count = 3
    #: Retries as a share of the requests, beyond a reserve of three.
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.1


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listening side."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    #: Processes. Health is counted in each; limits are shared.
    workers: Count = 1
    debug: bool = False
    #: Origins that browsers may call from; none by default.
    cors_origins: tuple[Origin, ...] = ()
    max_body_bytes: Count = 32 * 1024 * 1024
    #: How long a request's body may take to arrive.
    body_timeout_s: Seconds = 30.0
    #: How long a request's head may take to arrive.
    head_timeout_s: Seconds = 10.0
    #: How long a client may take nothing of what waits for it.
    write_timeout_s: Seconds = 30.0
    #: Connections at a time, per process; more are refused with 503.
    max_connections: Count = 10_000
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


def targets(entries: tuple[TargetConfig | str, ...]) -> tuple[TargetConfig, ...]:
    """Return targets whole, whichever way they were written."""
    return tuple(TargetConfig(model=entry) if isinstance(entry, str) else entry for entry in entries)
