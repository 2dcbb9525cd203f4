"""How engines are run, and what of a model decides about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from one_api.engine.gguf import ModelFile

#: The settings that make an engine what it is; the others only say how it is looked after.
TRAITS = (
    "slots",
    "context_tokens",
    "context_memory",
    "threads",
    "batch_tokens",
    "cache_ram_mib",
    "kv_type",
    "sleep_idle_s",
)

#: What one input of an embedding model may have where no context is configured, and at most, in tokens: all of it is
#: computed in one piece.
_EMBEDDING_CONTEXT, _MAX_EMBEDDING_CONTEXT = 2048, 8192

#: The context that is chosen where none is configured, in tokens: a longer one takes minutes to read without a GPU.
MIN_AUTO_CONTEXT, MAX_AUTO_CONTEXT = 2048, 32_768
#: Bits that a number of the context takes, by its format, with the scales of its block (ggml's block sizes).
_BITS = {"f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How engines are run. Two settings that differ mean two engines, also for one model.

    Raises ValueError for a value that the engine is known to hang or die on.
    """

    #: Requests at once; each has a context of its own.
    slots: int = 4
    #: Tokens per slot; never more than the model was trained for. 0 for what fits into ``context_memory``.
    context_tokens: int = 0
    #: What the contexts of all slots may take when ``context_tokens`` is 0, in bytes.
    context_memory: int = 0
    #: 0 for one fewer than the processors this process may use. More than the free ones slow everything tenfold.
    threads: int = 0
    #: Tokens of a prompt that are computed in one piece; other streams wait meanwhile.
    batch_tokens: int = 256
    #: Memory for prompts that may come again, in MiB.
    cache_ram_mib: int = 256
    #: Number format of the context's memory: f16, q8_0, q5_1, q5_0, q4_1, q4_0 or bf16.
    kv_type: str = "q8_0"
    #: After so many seconds without a request the engine gives its memory back; -1 for never.
    sleep_idle_s: int = 900
    #: Loading may take so many seconds.
    start_limit_s: float = 60.0
    #: An engine outlives its last user by so many seconds.
    lease_rest_s: float = 5.0
    #: The engine must answer a health request within so many seconds; it is asked twice.
    health_limit_s: float = 3.0
    #: After more than ``failure_limit`` failures within ``failure_window_s`` seconds nothing is started.
    failure_limit: int = 3
    failure_window_s: float = 60.0
    #: Pause before a start after the second failure within the window; it doubles with each further one.
    backoff_s: float = 1.0
    #: Engines that may be loaded at once on this machine; the least recently used idle one ends for another.
    max_loaded: int = 3
    #: Ids of models for chats that embed, too.
    also_embed: frozenset[str] = frozenset()
    #: Ids of models that rank documents, and nothing else, where their files do not say so.
    ranking: frozenset[str] = frozenset()
    log_cap_bytes: int = 1024 * 1024
    #: The engine's environment. It gets no other variables: those of the gateway hold keys.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        bounds = {
            "slots": (1, 64),
            "context_tokens": (0, 1_048_576),
            "threads": (0, 512),
            "batch_tokens": (32, 8192),
            "cache_ram_mib": (0, 1_048_576),
            "sleep_idle_s": (-1, 31_536_000),
            "max_loaded": (1, 1024),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: {low} to {high} is possible")
        if 0 < self.context_tokens < 128:
            raise ValueError(f"context_tokens is {self.context_tokens}: 0, or at least 128 is possible")
        if self.kv_type not in _BITS:
            raise ValueError(f"kv_type is {self.kv_type!r}: {', '.join(_BITS)} are possible")


def does_embed(model: ModelFile, settings: EngineSettings) -> bool:
    """Return whether the engine of a model makes embeddings."""
    return model.embedding_only or model.id in settings.also_embed


def does_rank(model: ModelFile, settings: EngineSettings) -> bool:
    """Return whether the engine of a model ranks documents."""
    return model.ranks or model.id in settings.ranking


def slot_context(model: ModelFile, settings: EngineSettings) -> int:
    """Return the tokens of prompt and answer together that one slot has; lists, answers and errors show this figure."""
    tokens = settings.context_tokens
    if does_embed(model, settings) or does_rank(model, settings):
        tokens = min(tokens or _EMBEDDING_CONTEXT, _MAX_EMBEDDING_CONTEXT)
    if not tokens:
        per_token = model.context_bytes * settings.slots * _BITS[settings.kv_type] / 16
        affordable = int(settings.context_memory / per_token) if per_token else 0
        tokens = max(MIN_AUTO_CONTEXT, min(affordable // 256 * 256, MAX_AUTO_CONTEXT))
    return min(tokens, model.context_length or tokens)
