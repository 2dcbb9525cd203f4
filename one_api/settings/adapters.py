"""What can be set of an adapter: one frozen struct per type, with its default, unit and danger."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_api.contract import Kind
from one_api.settings.kinds import (
    ClaudeAddress,
    Count,
    Credential,
    OpenAIAddress,
    OwnSettings,
    Proxy,
    Seconds,
    Token,
    Weight,
)

OPENAI_BASE_URL = "https://api.openai.com/v1"
CLAUDE_BASE_URL = "https://api.anthropic.com"
DEFAULT_MODELS_DIR = "models"


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


class _RemoteConfig(Struct, frozen=True, kw_only=True):
    """What every adapter for a server elsewhere has."""

    #: Share of the traffic among the targets of a group.
    weight: Weight = 1.0
    #: Requests in flight at once, per process.
    max_concurrency: Count = 1000
    timeouts: Timeouts = Timeouts()
    #: http://, socks5:// or socks5h://, with user and password if need be; or ``environment``: what HTTPS_PROXY,
    #: HTTP_PROXY, ALL_PROXY and NO_PROXY say. Never used for an address of this machine. Left out: none.
    proxy: Proxy | None = None
    #: Send the id of a request's trace to the upstream, in ``traceparent``. auto: where it is on this machine or in a
    #: private network, by its address.
    propagate_trace: Literal["auto"] | bool = "auto"
    #: What traces call the provider. Left out: by the adapter's type and its host.
    provider: Token | None = None
    #: Seconds between two questions for the model list.
    discovery_interval_s: Seconds = 300.0


class OpenAIConfig(
    _RemoteConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="openai"
):
    """A server that speaks OpenAI's Chat Completions dialect."""

    base_url: OpenAIAddress = OPENAI_BASE_URL
    #: Sent as a bearer token; leave it out for a server that asks for none.
    api_key: Credential = None
    #: The upstream's model names. Left out: asked for at the upstream, and refreshed.
    models: tuple[str, ...] | None = None
    #: Ask for usage in streams; switch it off for a server that refuses ``stream_options``.
    stream_usage: bool = True
    #: Send ``developer`` messages as ``system``, for servers that do not know the role.
    developer_as_system: bool = False
    #: Models that take ``reasoning_effort``; ``*`` stands for anything. To these goes what clients of other dialects,
    #: which always name an effort, say of it. Danger: other models refuse such requests.
    reasoning_models: tuple[str, ...] = ("gpt-5*", "gpt-oss*", "o1*", "o3*", "o4*")
    #: The server goes on with a last message of the assistant's; only then can a broken stream be resumed there by one.
    prefill: bool = False
    #: The dialects that it speaks. With ``responses`` such requests reach it as the client wrote them; without ``chat``
    #: chat requests are translated.
    apis: Annotated[tuple[Literal["chat", "responses"], ...], Meta(min_length=1)] = ("chat",)
    #: The types of tools that its Responses know: others are left out with a warning, and where ``custom`` is none of
    #: them such tools are asked for as functions. Left out: all of them.
    tool_types: tuple[str, ...] | None = None
    #: Requests for Responses bring the client's own headers along: its name, session and OpenAI's betas. Left out: to
    #: OpenAI itself only.
    client_headers: bool | None = None
    #: What models may be asked for, where neither the upstream's list nor the name says: model -> kinds. A request of
    #: another kind is refused with the address for it. Models of which nothing is known may be asked for anything.
    kinds: dict[str, tuple[Kind, ...]] = {}
    #: How embeddings are asked for; what comes is turned into what the client wants. Left out: as the client asks.
    embeddings: Literal["base64", "float"] | None = None
    #: Inputs of one request for embeddings; more are sent in several, at most 4 at a time.
    max_batch: Annotated[int, Meta(ge=1, le=2048)] = 512
    #: Inputs may be token ids: to a model with another tokenizer they are other words. Left out: at OpenAI itself only.
    token_ids: bool | None = None

    def takes_effort(self, model: str) -> bool:
        """Return whether ``model`` takes ``reasoning_effort``."""
        return any(fnmatchcase(model, pattern) for pattern in self.reasoning_models)


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


class ClaudeConfig(
    _RemoteConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="claude"
):
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
    #: For clients of ``/v1/messages``, whose requests are passed on as they came: what becomes of their
    #: ``anthropic-beta`` values. ``strip`` is for servers that refuse the header.
    betas: Literal["pass", "strip"] = "pass"
    #: Values of ``anthropic-beta`` that are never passed on.
    deny_betas: tuple[Token, ...] = ()
    #: Fields of their requests that the server refuses, such as ``context_management``.
    strip_fields: tuple[str, ...] = ()
    #: ``user``: system messages between the turns become user messages, for servers that do not know them.
    system_role: Literal["pass", "user"] = "pass"
    #: Whole answers that may be longer than this, in tokens, are streamed by the upstream and put together here.
    stream_above_tokens: Count = 8192


class LocalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="local"):
    """GGUF files on this machine, run by llama.cpp in a child process."""

    models_dir: str = DEFAULT_MODELS_DIR
    weight: Weight = 1.0
    #: Further names of models: alias -> id of a file.
    aliases: dict[str, str] = {}
    #: By id of a file.
    sampling: dict[str, SamplingConfig] = {}
    #: What models may be asked for: id of a file -> kinds. Left out: embeddings where the file says that it makes them,
    #: or that it ranks, else chats and legacy completions. A model for chats can embed, too, but weakly; one that ranks
    #: does nothing else.
    kinds: dict[str, tuple[Literal["chat", "completion", "embedding", "rerank"], ...]] = {}
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
    #: A model that is not used gives its memory back after this time.
    idle_unload_s: Seconds = 900.0
    #: How long an engine may take to start.
    start_timeout_s: Seconds = 60.0
    timeouts: Timeouts = Timeouts(first_event_s=120.0)


class OutsideConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter from outside of this project."""

    #: ``package.module:Class``, or the name of an entry point ``one_api.adapters``.
    type: str
    #: What its class is made with, by name.
    settings: OwnSettings = OwnSettings()
    #: Share of the traffic among the targets of a group.
    weight: Weight = 1.0
    #: Requests in flight at once, per process.
    max_concurrency: Count = 1000


AdapterConfig = OpenAIConfig | ClaudeConfig | LocalConfig | OutsideConfig
