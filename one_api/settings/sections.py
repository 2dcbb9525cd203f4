"""What can be set: one frozen struct per section of the configuration, with its default, unit and danger."""

import hashlib
from collections import Counter
from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_api.settings.addresses import mend_credential
from one_api.settings.kinds import Count, Host, Seconds, Secret, Storage, StorageSeconds, Weight
from one_api.settings.origins import Network, Origin, RootPath
from one_api.settings.validation import mended


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
    def files_needed(self) -> int:
        """Return how many files one process may have open: two for each client, and 100 besides."""
        return 2 * self.max_connections + 100

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


class AdminConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is for the operator of this machine only: ``/admin``."""

    #: The key for ``/admin``, which no client has; left out: ``/admin`` is closed.
    key: Annotated[Secret | None, mended(mend_credential)] = None


class ReloadConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a running gateway learns of a changed configuration, beside SIGHUP and ``flask config reload``."""

    #: Seconds between two looks at the files; 0: never.
    watch_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0


def targets(entries: tuple[TargetConfig | str, ...]) -> tuple[TargetConfig, ...]:
    """Return targets whole, whichever way they were written."""
    return tuple(TargetConfig(model=entry) if isinstance(entry, str) else entry for entry in entries)
