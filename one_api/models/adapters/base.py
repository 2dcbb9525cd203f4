"""What every adapter is, and what it hands upward."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar, Literal, TypeAlias, overload

from one_api.contract import ChunkStream, JSONObject, ModelInfo
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.upstream.client import Upstream
from one_api.upstream.discovery import Discovery
from one_api.upstream.foreign import WholeStream, arguments_for, as_stream, failures_named, whole

#: What ``generate_completion`` may return: a completion, or a stream as ours or as any iterator of chunks.
Generated: TypeAlias = JSONObject | ChunkStream | AsyncIterator[JSONObject]


class BaseModelAdapter(ABC):
    """One upstream account or server.

    An adapter sees no caller, key, route or Flask object. OpenAI's format goes in and comes out. An adapter needs
    ``list_models`` and ``generate_completion``; one that wants the request as it came derives from
    ``RequestAdapter``.
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
    ) -> Generated:
        """Have ``model`` (the upstream's name) answer.

        Every other parameter of the request comes in ``kwargs``; None stands for "not given".

        Returns:
            A completion in OpenAI's format; or, with ``stream``, a ChunkStream whose first event has arrived, or any
            asynchronous iterator of chunks. An iterator that ends without a finish reason is a broken stream.

        Raises:
            UpstreamError: by class, see ``errors``.
            InvalidRequest: when this adapter cannot express the request.
        """

    async def complete(self, request: ChatRequest) -> JSONObject:
        """Return the completion that ``request`` asks for; its ``model`` is the upstream's name.

        Raises: as ``generate_completion``.
        """
        answer = await self._generate(request)
        return answer if isinstance(answer, dict) else await whole(as_stream(answer, request))

    async def stream(self, request: ChatRequest) -> ChunkStream:
        """Return the stream that ``request`` asks for, once its first event has arrived; raises as ``complete``."""
        answer = await self._generate(request)
        if isinstance(answer, dict):
            with failures_named():
                return WholeStream(answer, include_usage=request.include_usage)
        return as_stream(answer, request)

    async def _generate(self, request: ChatRequest) -> Generated:
        """Call the article's verb with what its signature takes of the request."""
        with failures_named():
            answer = self.generate_completion(**arguments_for(self.generate_completion, request.body))
            # An adapter may also be written as an asynchronous generator.
            return await answer if inspect.isawaitable(answer) else answer

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what is known of one model, or None."""
        return next((model for model in self.list_models() if model.id == model_id), None)

    def prefill_start(self, model: str, text: str) -> str | None:
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

    def inherit(self, before: "BaseModelAdapter") -> None:  # noqa: B027 - as above
        """Begin with what an adapter of the same upstream and credential, with other settings, has learnt."""

    async def retire(self) -> None:  # noqa: B027 - as above
        """Stop the work in the background: no new requests come, those under way go on until ``aclose``."""

    async def aclose(self) -> None:  # noqa: B027 - as above
        """Close what is open."""


class RequestAdapter(BaseModelAdapter):
    """An adapter that is handed the request as one object: what it does not touch stays as the client sent it."""

    @abstractmethod
    async def complete(self, request: ChatRequest) -> JSONObject:
        """See ``BaseModelAdapter``."""

    @abstractmethod
    async def stream(self, request: ChatRequest) -> ChunkStream:
        """See ``BaseModelAdapter``."""

    @overload
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        *,
        stream: Literal[True],
        **kwargs: Any,
    ) -> ChunkStream: ...

    @overload
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: Literal[False] | None = False,
        **kwargs: Any,
    ) -> JSONObject: ...

    @overload
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
    ) -> JSONObject | ChunkStream: ...

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
        """See ``BaseModelAdapter``: for callers in Python, over ``complete`` and ``stream``."""
        named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stream": stream or None}
        given = {key: value for key, value in named.items() if value is not None}
        request = ChatRequest.of({"model": model, "messages": messages, **given, **kwargs})
        return await (self.stream(request) if stream else self.complete(request))


class RemoteAdapter(RequestAdapter):
    """An adapter whose models are those of ``configured``, or what the upstream lists, asked every ``interval_s``."""

    #: Does the list tell more than which models there are, so that it is asked for when they are configured, too?
    list_tells_more: ClassVar[bool] = False

    def __init__(self, name: str, upstream: Upstream, configured: Iterable[str] | None, interval_s: float) -> None:
        self._name = name
        self._upstream = upstream
        self._discovery = Discovery(name, self._ask_for_models, configured, interval_s, ask_anyway=self.list_tells_more)

    @abstractmethod
    async def _ask_for_models(self) -> list[ModelInfo]:
        """Return what the upstream lists; raises UpstreamError."""

    def list_models(self) -> list[ModelInfo]:
        """Return the configured models, or those that the upstream listed last."""
        return list(self._discovery.models.values())

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what the upstream said of one model."""
        return self._discovery.models.get(model_id)

    @property
    def pending(self) -> str | None:
        """Say why no model list has been had yet."""
        return self._discovery.pending

    async def start(self) -> None:
        """Begin to ask for the model list, now and then, unless it is configured."""
        self._discovery.start()

    async def settled(self, timeout_s: float) -> None:
        """Wait for the end of the first question."""
        await self._discovery.settled(timeout_s)

    def inherit(self, before: BaseModelAdapter) -> None:
        """See ``BaseModelAdapter``: the models are known at once."""
        if isinstance(before, RemoteAdapter):
            self._discovery.inherit(before._discovery)

    async def retire(self) -> None:
        """Stop asking for the model list."""
        await self._discovery.aclose()

    async def aclose(self) -> None:
        """Stop asking, and close the session."""
        await self._discovery.aclose()
        await self._upstream.aclose()
