"""What every adapter is, and what it hands upward."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from copy import copy
from typing import Any, ClassVar, Literal, TypeAlias, overload

from msgspec.structs import replace

from one_api.contract import DOORS, Answer, ByteStream, Call, ChunkStream, JSONObject, Kind, ModelInfo
from one_api.dialects.native import NativeRequest
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.embeddings import EmbeddingRequest
from one_api.dialects.openai.passthrough import PassthroughRequest
from one_api.dialects.openai.text_completion import TextRequest
from one_api.dialects.parameter_names import without_positions
from one_api.errors import GatewayError, InvalidRequest
from one_api.records import AttemptContext
from one_api.upstream.client import Upstream
from one_api.upstream.discovery import Discovery
from one_api.upstream.foreign import (
    as_completion,
    as_stream,
    asked_of,
    failures_named,
    generated,
    whole,
)

#: What ``generate_completion`` may return: a completion, or a stream as ours or as any iterator of chunks.
Generated: TypeAlias = JSONObject | ChunkStream | AsyncIterator[JSONObject]


class BaseModelAdapter(ABC):
    """One upstream account or server.

    An adapter sees no caller, key, route or Flask object. OpenAI's format goes in and comes out. An adapter needs
    ``list_models`` and ``generate_completion``; one that wants the request as it came derives from
    ``RequestAdapter``. Those that do more than chat say so in ``speaks``, and have the verbs for it.
    """

    #: What its dialect has words for.
    speaks: ClassVar[frozenset[Kind]] = frozenset({"chat"})
    #: The dialects, beside OpenAI's chat, in which it takes a request as the client sent it: see ``NativeRequest``.
    apis: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose models would have to be waited for."""
        super().__init_subclass__(**kwargs)
        for name in ("list_models", "get_model_info"):
            if inspect.iscoroutinefunction(getattr(cls, name)):
                why = "it is called for every request, and must not wait. Write `def`, and learn the models in `start`"
                raise TypeError(f"{cls.__name__}.{name} is `async def`: {why}")

    @abstractmethod
    def list_models(self) -> Sequence[ModelInfo | JSONObject | str]:
        """Return the models that it serves, as far as is known now; never waits.

        An entry may be an id, or a dict of OpenAI's model list, such as ``{"id": "mine"}``.
        """

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

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """Return the completion that ``request`` asks for; its ``model`` is the upstream's name.

        What clients are to know of the answer beside it goes into ``context``.

        Raises: as ``generate_completion``.
        """
        answer = await self._generate(request)
        return as_completion(answer, request) if isinstance(answer, dict) else await whole(as_stream(answer, request))

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """Return the stream that ``request`` asks for, once its first event has arrived; raises as ``complete``."""
        return as_stream(await self._generate(request), request)

    async def answer(self, request: Call, context: AttemptContext) -> Answer:
        """Do what ``request`` asks for, whatever it is; the verbs for each kind are below and above.

        Raises: as ``generate_completion``.
        """
        match request:
            case ChatRequest():
                asked = self._in_own_dialect(request, context)
                try:
                    return await (self.stream if asked.stream else self.complete)(asked, context)
                except GatewayError as error:
                    if asked.native is None and request.native is not None:
                        raise _uncounted(error) from None
                    raise
            case TextRequest():
                return await (self.stream_text if request.stream else self.complete_text)(request, context)
            case EmbeddingRequest():
                return await self.embed(request, context)
            case PassthroughRequest():
                return await self.forward(request, context)
        raise _not_spoken(request)

    def _in_own_dialect(self, request: ChatRequest, context: AttemptContext) -> ChatRequest:
        """Return the request for this adapter's dialect; raises UpstreamUnsuitable when it cannot be said there."""
        native = request.native
        if native is None:
            return request
        context.native = self._takes(native)
        if context.native:
            return request
        native.refuse_translation()
        context.counts_otherwise = True
        context.warnings += native.warnings
        changes: JSONObject = {}
        if native.effort is not None and self.takes_effort(request.model):
            changes["reasoning_effort"] = native.effort
        body = request.body
        if "reasoning_effort" in body and self.may_refuse_effort(request.model):
            body = {key: value for key, value in body.items() if key != "reasoning_effort"}
            context.warnings.append("reasoning_effort")
        most, limit = self._longest_answer(request.model), request.body.get("max_completion_tokens")
        if most is not None and isinstance(limit, int) and limit > most:
            changes["max_completion_tokens"] = most
            context.warnings.append("max_tokens")
        return replace(request, native=None, body=body | changes)

    def _takes(self, native: NativeRequest) -> bool:
        """Return whether a request is sent as its client wrote it."""
        return native.api in self.apis

    def _longest_answer(self, model: str) -> int | None:
        """Return how many tokens an answer may have, as far as is known; half of a context that is all there is."""
        info = model_of(self, model)
        if info is None or (info.max_output_tokens is None and info.context_window is None):
            return None
        return info.max_output_tokens or (info.context_window or 0) // 2

    async def complete_text(self, request: TextRequest, context: AttemptContext) -> JSONObject:
        """Return the legacy completion that ``request`` asks for; it is never made into a chat."""
        raise _not_spoken(request)

    async def stream_text(self, request: TextRequest, context: AttemptContext) -> ChunkStream:
        """Return the stream of chunks that ``request`` asks for, once its first event has arrived."""
        raise _not_spoken(request)

    async def embed(self, request: EmbeddingRequest, context: AttemptContext) -> JSONObject:
        """Return the answer to ``request`` in OpenAI's format, with vectors as arrays: see ``embeddings.answer_of``."""
        raise _not_spoken(request)

    async def forward(self, request: PassthroughRequest, context: AttemptContext) -> ByteStream:
        """Return the upstream's own answer to ``request``, once its first bytes have arrived."""
        raise _not_spoken(request)

    async def _generate(self, request: ChatRequest) -> Generated:
        """Call ``generate_completion`` with what its signature takes of the request."""
        with failures_named():
            answer: Generated = await generated(self.generate_completion, request.body)
            return answer

    def takes_effort(self, model: str) -> bool:
        """Return whether ``model`` is known to take ``reasoning_effort``."""
        return False

    def may_refuse_effort(self, model: str) -> bool:
        """Return whether ``model`` may refuse a request that holds ``reasoning_effort``, so that it is not sent."""
        return False

    async def count_tokens(self, request: ChatRequest, context: AttemptContext) -> int | None:
        """Return how many tokens the input has; None when the upstream does not count. Raises UpstreamError."""
        return None

    def get_model_info(self, model_id: str) -> ModelInfo | JSONObject | None:
        """Return what is known of one model, or None for one that it does not serve."""
        return next((model for model in models_of(self) if model.id == model_id), None)

    def kinds_of(self, model: str) -> tuple[Kind, ...] | None:
        """Return what ``model`` may be asked for; None when it is not known."""
        info = model_of(self, model)
        if info is not None and info.kinds is not None:
            return info.kinds
        return tuple(self.speaks) if len(self.speaks) == 1 else None

    def serves(self, model: str, kind: Kind) -> bool:
        """Return whether ``model`` may be asked for ``kind``, as far as is known."""
        known = self.kinds_of(model)
        return kind in self.speaks and (known is None or kind in known)

    def prefill_start(self, model: str, text: str) -> str | None:
        """Return the beginning of ``text`` that ``model`` goes on from when it is the last message, an assistant's.

        All of it, or what is left of it there; None when the model would begin anew, or refuse.
        """
        return None

    @property
    def pending(self) -> str | None:
        """Return why the model list may be incomplete; None when it is not."""
        return None

    async def start(self) -> None:  # noqa: B027 - many have none
        """Begin work in the background; called once per process, on its loop."""

    async def wait_discovered(self, timeout_s: float) -> None:  # noqa: B027 - as above
        """Wait until the first attempt to learn the models has ended, at most ``timeout_s``."""

    def inherit(self, before: "BaseModelAdapter") -> None:  # noqa: B027 - as above
        """Begin with what an adapter of the same upstream and credential, with other settings, has learnt."""

    async def retire(self) -> None:  # noqa: B027 - as above
        """Stop the work in the background: no new requests come, those under way go on until ``aclose``."""

    async def aclose(self) -> None:  # noqa: B027 - as above
        """Close what is open."""


# Functions, not methods: adapters of others have attributes of their own, and may call them the same.


def models_of(adapter: BaseModelAdapter) -> list[ModelInfo]:
    """Return what an adapter lists, whichever way it writes it."""
    entries = asked_of(adapter.list_models) or ()
    if isinstance(entries, dict):  # OpenAI's own list
        entries = entries.get("data") or ()
    return [info for entry in entries if (info := ModelInfo.read(entry)) is not None]


def model_of(adapter: BaseModelAdapter, model_id: str, owner: str = "") -> ModelInfo | None:
    """Return what an adapter knows of a model; None when it does not serve it, or raises.

    ``owner`` stands for an owner that it does not name.
    """
    entry = asked_of(adapter.get_model_info, model_id)
    if isinstance(entry, dict) and entry:
        entry = {"id": model_id, **entry}
    info = entry if isinstance(entry, ModelInfo) else ModelInfo.read(entry, owner)
    if info is None and not isinstance(adapter, RequestAdapter):  # it may forget here what it lists
        return next((each for each in models_of(adapter) if each.id == model_id), None)
    return info


def _uncounted(error: GatewayError) -> GatewayError:
    """Return the error for a client whose own messages and tools are others than those that were looked at."""
    found = copy(error)
    found.message = without_positions(error.message)
    found.param = error.param and without_positions(error.param)
    return found


def _not_spoken(request: Call) -> InvalidRequest:
    return InvalidRequest(
        f"`{request.model[:256]}` does not serve {DOORS[request.kind]}.", param="model", code="model_not_supported"
    )


class RequestAdapter(BaseModelAdapter):
    """An adapter that is handed the request as one object: what it does not touch stays as the client sent it."""

    @abstractmethod
    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``."""

    @abstractmethod
    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
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
        context = AttemptContext()
        return await (self.stream(request, context) if stream else self.complete(request, context))


class RemoteAdapter(RequestAdapter):
    """An adapter whose models are those of ``configured``, or what the upstream lists, asked every ``interval_s``."""

    #: The list says more than which models there are, so it is asked for also where the models are configured.
    list_tells_more: ClassVar[bool] = False

    def __init__(self, name: str, upstream: Upstream, configured: Iterable[str] | None, interval_s: float) -> None:
        self._name = name
        self._upstream = upstream
        known = None if configured is None else [self._describe({"id": model}) for model in configured]
        self._discovery = Discovery(name, self._ask_for_models, known, interval_s, ask_anyway=self.list_tells_more)

    def _describe(self, entry: JSONObject) -> ModelInfo:
        """Return what is known of a model by its entry in a list, which has at least an ``id``."""
        return ModelInfo(entry["id"], self._name)

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
        """Return why no model list has been had yet."""
        return self._discovery.pending

    async def start(self) -> None:
        """Begin to ask for the model list, now and then, unless it is configured."""
        self._discovery.start()

    async def wait_discovered(self, timeout_s: float) -> None:
        """Wait for the end of the first question."""
        await self._discovery.wait_discovered(timeout_s)

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
