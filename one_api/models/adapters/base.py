"""What every adapter is, and what it hands upward."""

import asyncio
import inspect
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from one_api.errors import GatewayError, UpstreamBroken, UpstreamFailed, UpstreamTimeout
from one_api.schema import ChatRequest, Usage
from one_api.wire import json, sse
from one_api.wire.assemble import Assembler
from one_api.wire.json import JSONObject
from one_api.wire.openai_response import ErrorPayload, Identity, InvalidAnswer
from one_api.wire.openai_stream import OpenAIStream
from one_api.wire.replay import chunks_of

logger = logging.getLogger(__name__)

#: The parameters of ``generate_completion`` that a request's body may set by name.
_NAMED = frozenset({"model", "messages", "temperature", "top_p", "max_tokens", "stream"})


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


class WholeStream(ChunkStream):
    """A whole answer as a stream: all of it is there at once."""

    def __init__(self, answer: JSONObject, *, include_usage: bool) -> None:
        self._chunks = chunks_of(answer, include_usage=include_usage)
        self.usage = Usage.read(answer.get("usage"))

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks, self._chunks, self.ended = self._chunks, [], True
        return chunks

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self._chunks, self.ended = [], True


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
        return answer if isinstance(answer, dict) else await whole(_as_stream(answer, request))

    async def stream(self, request: ChatRequest) -> ChunkStream:
        """Return the stream that ``request`` asks for, once its first event has arrived; raises as ``complete``."""
        answer = await self._generate(request)
        if isinstance(answer, dict):
            with failures_named():
                return WholeStream(answer, include_usage=request.include_usage)
        return _as_stream(answer, request)

    async def _generate(self, request: ChatRequest) -> Generated:
        """Call the article's verb with what its signature takes of the request."""
        with failures_named():
            answer = self.generate_completion(**_arguments(self.generate_completion, request.body))
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

    async def aclose(self) -> None:  # noqa: B027 - as above
        """Close what is open."""


#: How long a stream that has its finish reason may take to its end, in seconds: its usage may still come.
_TAIL_S = 2.0
#: The longest silence of an iterator where no limit is set, in seconds.
_IDLE_S = 60.0


class IteratedStream(ChunkStream):
    """The chunks of an asynchronous iterator, read as generously as the events of any OpenAI-compatible upstream."""

    def __init__(self, chunks: AsyncIterator[JSONObject], request: ChatRequest) -> None:
        self._chunks = chunks
        identity = Identity(f"chatcmpl-{os.urandom(16).hex()}", int(time.time()), request.model)
        self._translator = OpenAIStream(identity, include_usage=request.include_usage)
        #: The iterator is asked in a task of its own: whoever reads may be cancelled while it waits.
        self._asking: asyncio.Task[JSONObject | None] | None = None
        #: The choices that have begun and have no finish reason.
        self._unfinished: set[int] = set()
        self._begun = False

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks: list[JSONObject] = []
        while not chunks and not self.ended:
            chunk = await self._next()
            with failures_named():
                chunks = self._translator.end() if chunk is None else self._translator.feed(_event(chunk))
            self.ended = chunk is None
            self.usage = Usage.read(self._translator.usage)
            self._note(chunks)
        if self.ended and not self._translator.finished:
            raise UpstreamBroken(
                "The upstream's stream stopped before the answer was complete.", code="upstream_stream_truncated"
            )
        return chunks

    async def _next(self) -> JSONObject | None:
        """Return the next chunk as it is; None is the end."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(anext(self._chunks, None))
        complete = self._begun and not self._unfinished
        limit_s = _TAIL_S if complete else min(self.idle_s or _IDLE_S, _IDLE_S)
        done, _ = await asyncio.wait([self._asking], timeout=limit_s)
        if not done and not complete:
            raise UpstreamTimeout(f"The upstream did not send the next event within {limit_s:g} s.")
        if not done:
            return None
        asking, self._asking = self._asking, None
        with failures_named():
            return asking.result()

    def _note(self, chunks: list[JSONObject]) -> None:
        for choice in (choice for chunk in chunks for choice in chunk["choices"]):
            self._begun = True
            self._unfinished.add(choice["index"])
            if choice.get("finish_reason") is not None:
                self._unfinished.discard(choice["index"])

    async def aclose(self) -> None:
        """See ``ChunkStream``; a generator is closed, so that what it holds open is."""
        self.ended = True
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking])
        if (close := getattr(self._chunks, "aclose", None)) is not None:
            with suppress(Exception):  # the answer is over, whatever its iterator has to say
                await close()


def _event(chunk: Any) -> sse.Event:
    if not isinstance(chunk, dict):
        raise InvalidAnswer("a chunk is not an object")
    return sse.Event(json.encode(chunk))


def _as_stream(answer: Any, request: ChatRequest) -> ChunkStream:
    """Return what an adapter generated as a stream of ours."""
    if isinstance(answer, ChunkStream):
        return answer
    if not isinstance(answer, AsyncIterable):
        raise UpstreamBroken("The adapter returned neither an answer nor an iterator of chunks.")
    return IteratedStream(aiter(answer), request)


def _arguments(generate: Callable[..., Any], body: JSONObject) -> JSONObject:
    """Return what of ``body`` goes to an adapter's own ``generate_completion``.

    Only the article's parameters are set by name, and ``kwargs`` takes what is left: a key of a client's JSON never
    reaches another parameter of that signature.
    """
    # Of the function, not of the method: ``self`` is a parameter that a key may not reach either.
    parameters = inspect.signature(getattr(generate, "__func__", generate)).parameters
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = {name for name, each in parameters.items() if each.kind in by_name}
    return {key: value for key, value in body.items() if (key in _NAMED if key in own else takes_more)}


@contextmanager
def failures_named() -> Iterator[None]:
    """Turn what a foreign adapter raises into an error of an upstream: its bug must not be every client's 500."""
    try:
        yield
    except (GatewayError, asyncio.CancelledError):
        raise
    except ErrorPayload as error:
        said = error.payload.get("error")
        message = said.get("message") if isinstance(said, dict) else said
        raise UpstreamFailed(f"The upstream reported an error: {message}"[:500]) from None
    except InvalidAnswer as error:
        raise UpstreamBroken(f"The upstream's stream cannot be read: {error}.") from None
    except TimeoutError as error:
        raise UpstreamTimeout("The adapter did not answer in time.") from error
    except Exception as error:  # whatever it is, another deployment may do better
        logger.exception("an adapter failed")
        raise UpstreamFailed("The adapter failed; the gateway's log says how.") from error


async def whole(stream: ChunkStream) -> JSONObject:
    """Return the completion that a stream amounts to, and close it."""
    assembler = Assembler()
    async with stream:
        async for chunk in stream:
            assembler.add(chunk)
    return assembler.completion()
