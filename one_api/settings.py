"""What can be set: one frozen struct per section of the configuration, with its default, unit and danger."""

import hashlib
import hmac
import re
from collections import Counter
from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_api.addresses import CLAUDE, OPENAI, check_credential, check_host, mend_credential, mend_host
from one_api.origins import Network, Origin, RootPath
from one_api.structs import checked, mended

Seconds = Annotated[float, Meta(gt=0, le=86400)]
StorageSeconds = Annotated[float, Meta(gt=0, le=5)]
Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(gt=0)]
#: What can stand in a header's list.
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+\Z")]
#: The address of an upstream, up to what its dialect adds.
OpenAIAddress = Annotated[str, mended(OPENAI.mend), checked(OPENAI.check)]
ClaudeAddress = Annotated[str, mended(CLAUDE.mend), checked(CLAUDE.check)]
#: Where the gateway listens: a host's name, or an IP address with or without brackets.
Host = Annotated[str, mended(mend_host), checked(check_host)]
OPENAI_BASE_URL = "https://api.openai.com/v1"
CLAUDE_BASE_URL = "https://api.anthropic.com"
DEFAULT_MODELS_DIR = "models"


class Secret:
    """A value that never shows itself: ``repr`` and ``str`` are masked, ``reveal()`` is explicit."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the one place that sends or compares it."""
        return self._value

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


def _check_credential(secret: Secret) -> tuple[str, str] | None:
    return check_credential(secret.reveal())


#: What is sent to an upstream in a header.
Credential = Annotated[Secret | None, mended(mend_credential), checked(_check_credential)]


class Storage(str):
    """Where something is kept: a word, or an address whose password never shows itself in ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(re.sub(r"//[^/]*@", "//***@", str(self)))


class Proxy(Storage):
    """The address of a proxy, or ``environment``; a password in it never shows itself in ``repr``."""

    __slots__ = ()


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key that clients may use; ``name`` stands for it in logs."""

    key: Annotated[Secret, mended(mend_credential)]
    name: str = ""


def key_names(keys: tuple[KeyConfig, ...]) -> list[str]:
    """Return what each key is called: its name, else one made of its digest; no two keys share one.

    Keys of one name get a part of their digests added, whatever their order: limits, the cache and records go by name.
    """
    digests = [hashlib.sha256(entry.key.reveal().encode()).hexdigest() for entry in keys]
    names = [entry.name or f"key-{digest[:8]}" for entry, digest in zip(keys, digests, strict=True)]
    taken = Counter(names)
    return [f"{name}-{digest[:16]}" if taken[name] > 1 else name for name, digest in zip(names, digests, strict=True)]


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

    base_url: OpenAIAddress = OPENAI_BASE_URL
    #: Sent as a bearer token; leave it out for a server that asks for none.
    api_key: Credential = None
    #: The upstream's model names. Left out: asked for at the upstream, and refreshed.
    models: tuple[str, ...] | None = None
    #: Share of the traffic among the targets of a group.
    weight: Weight = 1.0
    #: Requests in flight at once, per process.
    max_concurrency: Count = 1000
    timeouts: Timeouts = Timeouts()
    #: http://, socks5:// or socks5h://, with user and password if need be; or ``environment``: what HTTPS_PROXY,
    #: HTTP_PROXY, ALL_PROXY and NO_PROXY say. Never used for an address of this machine. Left out: none.
    proxy: Proxy | None = None
    #: Seconds between two questions for the model list.
    discovery_interval_s: Seconds = 300.0
    #: Ask for usage in streams; switch it off for a server that refuses ``stream_options``.
    stream_usage: bool = True
    #: Send ``developer`` messages as ``system``, for servers that do not know the role.
    developer_as_system: bool = False
    #: The server goes on with a last message of the assistant's; only then can a broken stream be resumed there by one.
    prefill: bool = False


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


class ClaudeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="claude"):
    """A server that speaks Anthropic's Messages dialect."""

    #: With or without a ``/v1`` at its end.
    base_url: ClaudeAddress = CLAUDE_BASE_URL
    #: Leave it out for a server that asks for none.
    api_key: Credential = None
    #: How the key is sent. OAuth tokens are sent as a bearer token whatever this says.
    key_header: Literal["x-api-key", "bearer"] = "x-api-key"
    #: Sent as ``anthropic-version``; from 2026-10-21 on the API refuses all sampling parameters.
    version: Token = "2023-06-01"
    #: Sent as ``anthropic-beta``; a value that the API does not know, or no longer, makes it refuse every request.
    beta: tuple[Token, ...] = ()
    #: The upstream's model names. Left out: asked for at the upstream, and refreshed. What the upstream says that each
    #: model can do counts in any case.
    models: tuple[str, ...] | None = None
    #: Share of the traffic among the targets of a group.
    weight: Weight = 1.0
    #: Requests in flight at once, per process.
    max_concurrency: Count = 1000
    timeouts: Timeouts = Timeouts()
    #: http://, socks5:// or socks5h://, with user and password if need be; or ``environment``: what HTTPS_PROXY,
    #: HTTP_PROXY, ALL_PROXY and NO_PROXY say. Never used for an address of this machine. Left out: none.
    proxy: Proxy | None = None
    #: Seconds between two questions for the model list.
    discovery_interval_s: Seconds = 300.0
    #: Refuse with 400 what would else be dropped or altered with a warning.
    strict: bool = False
    #: Answer ``n`` > 1 by as many requests, each of which costs the whole prompt; else ``n`` > 1 is refused.
    emulate_n: bool = False
    #: The longest answer, in tokens, when neither the request nor what is known of the model sets a limit.
    default_max_tokens: Count | None = None
    #: Ask for the thinking in words wherever the model thinks.
    show_reasoning: bool = True
    #: May clients ask for the prompt cache of one hour? To write it costs more.
    long_cache: bool = False
    #: The type of Anthropic's tool that ``web_search_options`` becomes, such as ``web_search_20250305``. Left out: such
    #: requests are refused. Each search costs.
    web_search: Token | None = None
    #: Files of the account that clients may refer to: the id that they send -> Anthropic's own. Danger: anyone with a
    #: key may ask what is in them.
    file_ids: dict[str, str] = {}
    #: Tell clients the blocks that OpenAI's format has no place for, such as results of searches, as they came.
    provider_blocks: bool = False
    #: Tell clients of an overloaded upstream with its own status 529, not with 503.
    keep_529: bool = False
    #: Families that can (before 4.6) may go on with the text of a stream that broke elsewhere.
    prefill: bool = False


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
    #: Context of one slot, in tokens: prompt and answer together. Left out: what the model was trained for, as far as
    #: an eighth of the memory holds it for all slots, from 2048 to 32768.
    slot_context: Annotated[int, Meta(ge=128, le=1_048_576)] | None = None
    #: Threads of one engine; left out: the machine's processors less one, at least one.
    threads: Count | None = None
    #: The longest answer, in tokens, when the request sets no limit.
    default_max_tokens: Count = 1024
    #: A model that nobody uses gives its memory back after this time.
    idle_unload_s: Seconds = 900.0
    #: How long an engine may take to start.
    start_timeout_s: Seconds = 60.0
    timeouts: Timeouts = Timeouts(first_event_s=120.0)


AdapterConfig = OpenAIConfig | ClaudeConfig | LocalConfig


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place where a group is served: ``model`` is "adapter/upstream model", split at the first slash."""

    model: str
    weight: Weight | None = None


class GroupTimeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long one target of a group may take, in seconds. They only shorten what its adapter allows."""

    #: From the request to the first content of a stream, while another candidate is left. Default: 30.
    first_event_s: Seconds | None = None
    #: Between two events of a stream.
    idle_s: Seconds | None = None
    #: A whole answer that is not streamed, while another candidate is left.
    total_s: Seconds | None = None


class HoldBackConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first part of a stream is held until one of these is reached, so that an early death stays unseen."""

    #: Milliseconds after the first content. The client waits so much longer for it.
    ms: Annotated[int, Meta(ge=0, le=60_000)] = 500
    #: Events with content, about one token each.
    tokens: Annotated[int, Meta(ge=1, le=10_000)] = 20


class HedgeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the next candidate as well when the first is slow, and keep whichever speaks first. It costs tokens twice."""

    #: Seconds; or p95: what 95 of the last 100 answers took to their first content.
    after: Seconds | Literal["p95"] = "p95"
    #: Requests that may be asked twice, as a share of the group's traffic.
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.05


class CacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are kept and shared. Off by default: with it, the same request may get the same answer twice."""

    enabled: bool = False
    #: How long an answer is kept.
    ttl_s: Seconds = 300.0
    #: What answers may take in the memory of one process, in bytes; the limit of Redis is its own ``maxmemory``.
    max_bytes: Count = 64 * 1024 * 1024
    #: A larger answer is not kept, and nobody joins it while it is under way.
    max_answer_bytes: Count = 1024 * 1024
    #: memory (each process has its own), or redis://HOST:PORT/DB. Danger: in Redis answers lie in plain text.
    storage: Storage = Storage("memory")
    #: How long one trip to Redis may take, in seconds; what takes longer is a miss.
    storage_timeout_s: StorageSeconds = 0.05
    #: Who shares answers: ``key``, nobody with another key; ``shared``, everyone. Danger: with ``shared``, one caller
    #: gets what was said to another, and can tell by the time it takes whether somebody has asked the same.
    scope: Literal["key", "shared"] = "key"
    #: Keep answers that call tools, too. Danger: a tool may be called twice for one decision of the model.
    store_tool_calls: bool = False
    #: Identical requests under way share one upstream call.
    single_flight: bool = True
    #: How long a request waits for the first of the answer to an identical one in another process, in seconds; only
    #: with Redis.
    join_wait_s: Seconds = 10.0


class GroupCacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model group does differently; what is left out is as in ``cache``."""

    enabled: bool | None = None
    ttl_s: Seconds | None = None
    scope: Literal["key", "shared"] | None = None
    store_tool_calls: bool | None = None
    single_flight: bool | None = None


class GroupConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public model id, and where it is served."""

    targets: Annotated[tuple[TargetConfig | str, ...], Meta(min_length=1)]
    #: Other models, tried in order when no target can answer.
    fallbacks: tuple[TargetConfig | str, ...] = ()
    #: Who of the targets is asked; ``adaptive`` goes by measured speed, success and load.
    strategy: Literal["adaptive", "weighted", "ordered", "round_robin", "least_busy"] = "adaptive"
    timeouts: GroupTimeouts = GroupTimeouts()
    #: When a stream breaks after content was sent: tell the client, or try to go on at another target.
    on_stream_failure: Literal["error", "resume"] = "error"
    #: Left out: nothing is held back.
    hold_back: HoldBackConfig | None = None
    #: Left out: one is asked at a time.
    hedge: HedgeConfig | None = None
    cache: GroupCacheConfig = GroupCacheConfig()


class ModelsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model list that clients see."""

    #: short: each model once, as "adapter/model" only where its short id leads elsewhere; all: under both ids. Both can
    #: always be asked for.
    list: Literal["short", "all"] = "short"


class RateLimitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one key may ask for."""

    enabled: bool = True
    requests_per_minute: Count = 100
    #: Tokens of prompt and answer together: estimated before, settled after. Left out: no limit.
    tokens_per_minute: Count | None = None
    #: Requests at a time. Left out: no limit.
    concurrent: Annotated[int, Meta(ge=1, le=1024)] | None = None
    #: auto (memory, or with several processes a file that they share), memory, shared, or redis://HOST:PORT/DB.
    storage: Storage = Storage("auto")
    #: How long one trip to Redis may take, in seconds; what takes longer is decided without it.
    storage_timeout_s: StorageSeconds = 0.05


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often one request is tried, and how many requests may be in a retry at one time."""

    max_attempts: Count = 3
    #: All attempts together, up to the whole answer or the first content of a stream.
    deadline_s: Seconds = 600.0
    #: Requests that may be in a retry at one time, as a share of those in flight; others wait for their turn.
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.2
    #: So many may always be in a retry. With 0, and a budget of 0, nothing is retried.
    min_concurrent: Annotated[int, Meta(ge=0, le=1000)] = 3


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listening side."""

    host: Host = "127.0.0.1"
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
    #: How long the status line of a stream waits for the first content.
    commit_s: Seconds = 15.0
    #: How long open requests may go on after SIGTERM.
    drain_s: Seconds = 600.0
    #: How long a connection may stay open without a request.
    keep_alive_s: Seconds = 75.0
    #: The path below which a proxy serves the gateway, such as /llm; requests may come with or without it.
    root_path: RootPath = ""
    #: Proxies whose X-Forwarded-Prefix, -Proto and -Host are believed: addresses or networks. Danger: whatever connects
    #: from there can claim any.
    trusted_proxies: tuple[Network, ...] = ()
    #: Connections that wait to be accepted.
    backlog: Count = 2048

    @property
    def url(self) -> str:
        """Return the address by which this machine reaches it, without a path."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - where it listens
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}"


class ErrorsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients read of the errors of upstreams."""

    #: show: what the upstream said, after our own sentence, without keys and addresses; hide: our own sentence alone.
    upstream_text: Literal["show", "hide"] = "show"


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line per request."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


def targets(entries: tuple[TargetConfig | str, ...]) -> tuple[TargetConfig, ...]:
    """Return targets whole, whichever way they were written."""
    return tuple(TargetConfig(model=entry) if isinstance(entry, str) else entry for entry in entries)
