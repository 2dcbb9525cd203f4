"""What the rooms hand to each other: the types that routing, adapters, cache and doors agree on."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

#: A JSON object at the border, where its fields are not ours to know.
JSONObject: TypeAlias = dict[str, Any]

#: Token counts beyond this are nonsense, whatever server reports them.
_MAX_TOKENS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the key, never the key."""

    name: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, in tokens; ``prompt_tokens`` includes cached ones, as OpenAI counts."""

    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def read(cls, usage: Any) -> "Usage | None":
        """Read an OpenAI ``usage`` object; None when there is none, and absurd counts are clamped."""
        if not isinstance(usage, dict):
            return None
        return cls(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: Any) -> int:
    """Return a plausible count for what an upstream said."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(min(max(value, 0), _MAX_TOKENS))


class ChunkStream(ABC):
    """A streamed answer: OpenAI chunks as dicts. It ends exactly once; whoever has it calls ``aclose()``.

    ``usage`` is set once the upstream has sent it.
    """

    usage: Usage | None = None
    #: True once ``read`` would return the end without waiting.
    ended: bool = False
    #: The longest silence between two events of the upstream, in seconds, where it is shorter than the adapter's own.
    idle_s: float | None = None

    @abstractmethod
    async def read(self) -> list[JSONObject]:
        """Wait for the next chunks and return all that are there; an empty list is the end.

        It may be cancelled while it waits, and called again: nothing is lost.

        Raises:
            UpstreamError: when the answer cannot be completed, also when the upstream's bytes stop without
                the upstream having said that it was finished.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the upstream. May be called at any time, and again."""

    async def __aiter__(self) -> AsyncIterator[JSONObject]:
        while chunks := await self.read():
            for chunk in chunks:
                yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an adapter knows of a model. ``created`` is in Unix seconds; ``context_window`` in tokens."""

    id: str
    owned_by: str
    created: int = 0
    context_window: int | None = None
    max_output_tokens: int | None = None
    #: What else the upstream said of it.
    extra: JSONObject = field(default_factory=dict)

    def to_openai(self, model_id: str) -> JSONObject:
        """Return the entry for the model list, under the id that clients use."""
        entry: JSONObject = {"id": model_id, "object": "model", "created": self.created, "owned_by": self.owned_by}
        if self.context_window is not None:
            entry |= dict.fromkeys(("context_window", "context_length", "max_model_len"), self.context_window)
        if self.max_output_tokens is not None:
            entry["max_output_tokens"] = self.max_output_tokens
        return entry | {key: value for key, value in self.extra.items() if key not in entry}
