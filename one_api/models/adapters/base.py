"""What every adapter is, and what it hands upward."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

from one_api.schema import Usage
from one_api.wire.json import JSONObject


class ChunkStream(ABC):
    """A streamed answer: OpenAI chunks as dicts. It ends exactly once; whoever has it calls ``aclose()``.

    ``usage`` is set once the upstream has told it.
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


class BaseModelAdapter(ABC):
    """One upstream account or server.

    An adapter sees no caller, key, route or Flask object. OpenAI's format goes in and comes out.
    """

    @abstractmethod
    def list_models(self) -> list[ModelInfo]:
        """Return the models that it serves, as far as is known now; never waits."""

    @abstractmethod
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: bool | None = False,
        **kwargs: Any,
    ) -> JSONObject | ChunkStream:
        """Have ``model`` (the upstream's name) answer.

        Every other parameter of the request comes in ``kwargs``; None stands for "not given".

        Returns:
            A completion in OpenAI's format; or, with ``stream``, a ChunkStream whose first event has arrived.

        Raises:
            UpstreamError: by class, see ``errors``.
            InvalidRequest: when this adapter cannot express the request.
        """

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what is known of one model, or None."""
        return next((model for model in self.list_models() if model.id == model_id), None)

    def goes_on_from(self, model: str, text: str) -> str | None:
        """Return the beginning of ``text`` that ``model`` goes on from when it is the last message, an assistant's.

        All of it, or what is left of it there; None when the model would begin anew, or refuse.
        """
        return None

    @property
    def pending(self) -> str | None:
        """Say why the model list may be incomplete; None when it is not."""
        return None

    async def start(self) -> None:  # noqa: B027 - many have none
        """Begin work in the background; called once per process, on its loop."""

    async def settled(self, timeout_s: float) -> None:  # noqa: B027 - as above
        """Wait until the first attempt to learn the models has ended, at most ``timeout_s``."""

    async def aclose(self) -> None:  # noqa: B027 - as above
        """Close what is open."""
