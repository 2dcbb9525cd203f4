"""What can be set: one frozen struct per section of the configuration, with its default, unit and danger."""

import hashlib
from collections import Counter
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from one_api.settings.addresses import mend_credential, split_address, url_of
from one_api.settings.kinds import Count, Host, ListenAddress, Price, Seconds, Secret, Storage, StorageSeconds, Weight
from one_api.settings.origins import Network, Origin, RootPath
from one_api.settings.validation import mended

try:
    import resource
except ImportError:  # not a Unix: nothing limits the files
    resource = None  # type: ignore[assignment]

#: The most connections that a process takes where none is set, and the least that may be set.
_MAX_CONNECTIONS, _MIN_CONNECTIONS = 10_000, 16
#: Files that one client may need, itself and its upstream; and files besides.
_FILES_PER_CONNECTION, _OTHER_FILES = 2, 100


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
    #: A larger answer is not kept, and no other request joins it while it is under way.
    max_answer_bytes: Count = 1024 * 1024
    #: memory (each process has its own), or redis://HOST:PORT/DB. Danger: in Redis answers lie in plain text.
    storage: Storage = Storage("memory")
    #: How long one trip to Redis may take, in seconds; what takes longer is a miss.
    storage_timeout_s: StorageSeconds = 0.05
    #: Which keys share answers: ``key``, none; ``shared``, all. Danger: with ``shared``, one caller
    #: gets what was said to another, and can see by the time it takes whether the same was asked before.
    scope: Literal["key", "shared"] = "key"
    #: Keep answers that call tools, too. Danger: a tool may be called twice for one decision of the model.
    store_tool_calls: bool = False
    #: Identical requests under way share one upstream call.
    single_flight: bool = True
    #: How long a request waits for the first of the answer to an identical one in another process, in seconds; only
    #: with Redis. And for the answer to an identical request for a ranking.
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
    #: Which of the targets is asked; ``adaptive`` goes by measured speed, success and load.
    strategy: Literal["adaptive", "weighted", "ordered", "round_robin", "least_busy"] = "adaptive"
    timeouts: GroupTimeouts = GroupTimeouts()
    #: When a stream breaks after content was sent: send the client an error, or try to go on at another target.
    on_stream_failure: Literal["error", "resume"] = "error"
    #: Left out: nothing is held back.
    hold_back: HoldBackConfig | None = None
    #: Left out: one is asked at a time.
    hedge: HedgeConfig | None = None
    cache: GroupCacheConfig = GroupCacheConfig()
    #: Any name: the targets are one embedding model, whatever each of them calls it. Left out: only those of one name
    #: stand in for each other. Danger: vectors of different models cannot be compared, and nothing shows it.
    embedding_space: str | None = None
    #: The same for models that rank: scores of different models cannot be compared.
    rerank_space: str | None = None


class ModelsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model list that clients see."""

    #: short: each model once, as "adapter/model" only where its short id leads elsewhere; all: under both ids. Both can
    #: always be asked for.
    list: Literal["short", "all"] = "short"
    #: The model for requests for moderation that name none. Left out: the first of the list whose kinds say that it
    #: moderates.
    moderation: str | None = None
    #: Lists every other model for Anthropic's clients a second time under this beginning, which requests to
    #: ``/v1/messages`` may then use: Claude Code's picker shows only ids with ``claude`` or ``anthropic`` in them.
    anthropic_alias_prefix: str = ""
    #: The first text that Codex sends to a model, where it takes its list of models from here.
    codex_instructions: str = "You are a coding agent. Work with the tools that you have, and say briefly what you did."

    def without_alias(self, model: str) -> str:
        """Return the id of a model that Anthropic's clients may ask for by an alias."""
        return model.removeprefix(self.anthropic_alias_prefix)


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
    #: Ask another deployment, too, for an image or speech that did not come in time. Danger: both may be paid for.
    after_send: bool = False


def connections_for(files: int | None) -> int:
    """Return how many connections a process takes that may have so many open files; None stands for any number."""
    if files is None:
        return _MAX_CONNECTIONS
    return max(_MIN_CONNECTIONS, min(_MAX_CONNECTIONS, (files - _OTHER_FILES) // _FILES_PER_CONNECTION))


def _default_connections() -> int:
    if resource is None:
        return connections_for(None)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return connections_for(None if allowed == resource.RLIM_INFINITY else allowed)


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
    #: A form with files, such as a recording; what is more than 1 MiB waits on the disk.
    max_upload_bytes: Count = 100 * 1024 * 1024
    #: How long a request's body may take to arrive.
    body_timeout_s: Seconds = 30.0
    #: How long a request's head may take to arrive.
    head_timeout_s: Seconds = 10.0
    #: How long a client may take nothing of what waits for it.
    write_timeout_s: Seconds = 30.0
    #: Connections at a time, per process; more are refused with 503. Default: 10,000, or as many as the hard limit of
    #: open files allows.
    max_connections: Count = field(default_factory=_default_connections)
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
    #: Where reranking is served beside ``/v1/rerank``: clients that were made for others ask there.
    rerank_paths: tuple[Literal["/rerank", "/v2/rerank"], ...] = ()
    #: Proxies whose X-Forwarded-Prefix, -Proto and -Host are believed: addresses or networks. Danger: whatever connects
    #: from there can claim any.
    trusted_proxies: tuple[Network, ...] = ()
    #: Connections that wait to be accepted.
    backlog: Count = 2048

    @property
    def files_needed(self) -> int:
        """Return how many files one process may have open: two for each client, and 100 besides."""
        return _FILES_PER_CONNECTION * self.max_connections + _OTHER_FILES

    @property
    def url(self) -> str:
        """Return the address by which this machine reaches it, without a path."""
        return url_of(self.host, self.port)


class ErrorsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients read of the errors of upstreams."""

    #: show: what the upstream said, after our own sentence, without keys and addresses; hide: our own sentence alone.
    upstream_text: Literal["show", "hide"] = "show"


class ResponsesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/v1/responses``."""

    #: off: nothing is kept, every answer says ``store: false``. Else responses can be read again and gone on from by
    #: the key that made them: database, in that of the accounts, from any process; memory, until this process ends,
    #: which must be the only one. Left out: database where accounts have one, else off.
    state: Literal["off", "memory", "database"] | None = None
    #: How long a response is kept; going on from it begins the time anew.
    ttl_s: Seconds = 86_400.0
    #: What all responses may take in memory, in bytes; those that were longest out of use go first. In a database: what
    #: one of them may take.
    max_bytes: Count = 64 * 1024 * 1024
    #: show: what models thought, as a summary or as it is. hide: nothing of it but what clients carry sealed.
    reasoning: Literal["show", "hide"] = "show"
    #: A failed stream ends with a second event, in the form of chat's error: OpenAI's own clients raise an exception on
    #: nothing else.
    error_frame: bool = True
    #: Answer streamed requests that no deployment can serve now (503 elsewhere) with a stream of one error: Codex
    #: asks thirty times after a 503, and once after that.
    overload_as_event: bool = False


class AdminConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is for the operator only: ``/admin``."""

    #: The key for ``/admin``, which no client has; left out: ``/admin`` is closed.
    key: Annotated[Secret | None, mended(mend_credential)] = None
    #: HOST:PORT, where ``/admin`` answers then, and nowhere else. Left out: at the gateway's own address.
    listen: ListenAddress = None
    #: From where it may be asked: addresses or networks; other ones than this machine's only with ``listen``.
    allow: tuple[Network, ...] = ("127.0.0.0/8", "::1")

    @property
    def address(self) -> tuple[str, int] | None:
        """Return host and port of its own address; None when it has none."""
        return split_address(self.listen) if self.listen is not None else None

    @property
    def url(self) -> str | None:
        """Return where this machine reaches its own address, without a path; None when it has none."""
        return url_of(*self.address) if self.address is not None else None


class DatabaseConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where keys and the ledger are kept. A configuration that is made in code has none."""

    #: none; sqlite, a file in the instance folder; sqlite:///PATH; or postgresql://USER:PASSWORD@HOST/NAME.
    url: Storage = Storage("none")
    #: Bring the tables up to date at the start; with false a database that is behind is an error.
    migrate: bool = True
    #: How long rows of the ledger are kept, in days.
    ledger_days: Count = 30
    #: How long the sums by hour are kept, in days; those by minute are kept for two.
    usage_days: Count = 400
    #: How long the record of changes of keys and teams is kept, in days.
    audit_days: Count = 400


class BudgetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests of keys with a budget reserve of it, and owe; the budgets themselves are in the database."""

    #: Tokens that an answer is taken to have, at most, where the request sets no limit.
    reserve_tokens: Count = 4096
    #: What a client owes that has left while its answer came: estimate, its tokens as they were reported, else as they
    #: are estimated; or nothing.
    charge_cancelled: Literal["estimate", "nothing"] = "estimate"
    #: What becomes of a stream that goes on beyond what it has reserved, when its budgets have no more: finish, it is
    #: charged whole; or cut, it ends with the error ``budget_exceeded``.
    overrun: Literal["finish", "cut"] = "finish"
    #: What becomes of a request that needs more of a budget than its process holds while the database is away: refuse,
    #: 503 ``accounts_unavailable``; or allow, as far as ``allow_usd`` goes.
    on_database_down: Literal["refuse", "allow"] = "refuse"
    #: US dollars that each process lets requests cost, beyond what it holds, until the database is back. Danger: by so
    #: much for each process budgets may be overspent.
    allow_usd: Price = 1.0


class ReloadConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a running gateway takes over what has changed."""

    #: Seconds between two looks at the files, beside SIGHUP and ``flask config reload``; 0: never.
    watch_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    #: End the open streams of a key when it is removed or revoked, each with an error; else they go on to their end.
    cut_revoked: bool = False


def targets(entries: tuple[TargetConfig | str, ...]) -> tuple[TargetConfig, ...]:
    """Return targets whole, whichever way they were written."""
    return tuple(TargetConfig(model=entry) if isinstance(entry, str) else entry for entry in entries)
