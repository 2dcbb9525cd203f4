"""Adapters of others (docs/adapters.md): what their ``generate_completion`` is given, and what it returns."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from one_api.contract import ChunkStream, JSONObject, Usage, WholeChunks
from one_api.dialects import error_body, json, sse
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.response import ErrorPayload, InvalidAnswer, normalise
from one_api.dialects.openai.split import chunks_of
from one_api.dialects.openai.stream import OpenAIStream
from one_api.errors import GatewayError, UpstreamBroken, UpstreamFailed, UpstreamTimeout
from one_api.serving.tasks import stop
from one_api.upstream.exceptions import truncated
from one_api.upstream.identity import new_identity

logger = logging.getLogger(__name__)

#: The parameters of ``generate_completion`` that a request's body may set by name.
_NAMED = frozenset({"model", "messages", "temperature", "top_p", "max_tokens", "stream"})
#: How long a stream that has its finish reason may take to its end, in seconds: its usage may still come.
_TAIL_S = 2.0
#: The longest silence of an iterator where no limit is set, in seconds.
_IDLE_S = 60.0
#: Where adapters wait that are written without ``async``.
_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="adapter")
#: What follows the last chunk of a plain iterator.
_END = object()


class IteratedStream(ChunkStream):
    """The chunks of an asynchronous iterator, read as generously as the events of any OpenAI-compatible upstream."""

    def __init__(self, chunks: AsyncIterator[JSONObject], request: ChatRequest) -> None:
        self._chunks = chunks
        self._translator = OpenAIStream(new_identity(request.model), include_usage=request.include_usage)
        #: The iterator is asked in a task of its own, because ``read`` may be cancelled while it waits.
        self._asking: asyncio.Task[JSONObject | None] | None = None

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks: list[JSONObject] = []
        while not chunks and not self.ended:
            chunk = await self._next()
            with failures_named():
                chunks = self._translator.end() if chunk is None else self._translator.feed(_event(chunk))
            self.ended = chunk is None
            self.usage = Usage.read(self._translator.usage)
        if self.ended and not self._translator.finished:
            raise truncated()
        return chunks

    async def _next(self) -> JSONObject | None:
        """Return the next chunk as it is; None is the end."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(anext(self._chunks, None))
        complete = self._translator.is_complete
        limit_s = _TAIL_S if complete else min(self.idle_s or _IDLE_S, _IDLE_S)
        done, _ = await asyncio.wait([self._asking], timeout=limit_s)
        if not done and not complete:
            raise UpstreamTimeout(f"The upstream did not send the next event within {limit_s:g} s.")
        if not done:
            return None
        asking, self._asking = self._asking, None
        with failures_named():
            return asking.result()

    async def aclose(self) -> None:
        """See ``ChunkStream``; a generator is closed, so that what it holds open is."""
        self.ended = True
        asking, self._asking = self._asking, None
        await stop(asking)
        if (close := getattr(self._chunks, "aclose", None)) is not None:
            with suppress(Exception):  # the answer is over, whatever its iterator has to say
                await close()


class _Threaded(AsyncIterator[Any]):
    """A plain iterator, each step of which is taken in a thread: it may wait."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> Any:
        chunk = await _in_thread(next, self._chunks, _END)
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Close a generator; one that is waiting in its thread is left to its end."""
        if (close := getattr(self._chunks, "close", None)) is not None:
            await _in_thread(close)


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)


def _plain(value: Any) -> Any:
    """Return a model of pydantic, such as those of OpenAI's SDK, as a dict; else the value itself."""
    dump = getattr(value, "model_dump", None)
    return dump(exclude_unset=True) if callable(dump) else value


def _event(chunk: Any) -> sse.Event:
    chunk = _plain(chunk)
    if not isinstance(chunk, dict):
        raise InvalidAnswer("a chunk is not an object")
    return sse.Event(json.encode(chunk))


def as_stream(answer: Any, request: ChatRequest) -> ChunkStream:
    """Return what an adapter generated as a stream of ours."""
    if isinstance(answer, ChunkStream):
        return answer
    if isinstance(answer, dict):
        with failures_named():
            completion = as_completion(answer, request)
            chunks = chunks_of(completion, include_usage=request.include_usage)
            return WholeChunks(chunks, Usage.read(completion.get("usage")))
    if isinstance(answer, AsyncIterable):
        return IteratedStream(aiter(answer), request)
    if isinstance(answer, Iterable) and not isinstance(answer, str | bytes):
        return IteratedStream(_Threaded(iter(answer)), request)
    raise UpstreamBroken("The adapter returned neither an answer nor an iterator of chunks.")


def as_completion(answer: JSONObject, request: ChatRequest) -> JSONObject:
    """Return a whole answer that an adapter generated, filled up and mended like that of any other upstream."""
    with failures_named():
        # A copy: the adapter may keep its own, and what cannot be written as JSON is found out here.
        copy = json.decode_object(json.encode(answer))
        return normalise(copy, new_identity(request.model), has_tools=bool(request.body.get("tools")))


def asked_of(ask: Callable[..., Any], *arguments: str) -> Any:
    """Return what a method of an adapter knows of its models; None when it raises: other models go on."""
    try:
        return ask(*arguments)
    except Exception:
        if not arguments:  # for one model it is a way to say that there is none
            logger.exception("an adapter cannot list its models")
        return None


async def generated(generate: Callable[..., Any], body: JSONObject) -> Any:
    """Return what an adapter's own ``generate_completion`` makes of a request's body, models of pydantic as dicts.

    One that is written without ``async`` may wait: it runs in a thread.
    """
    call = partial(generate, **arguments_for(generate, body))
    is_async = inspect.iscoroutinefunction(generate) or inspect.isasyncgenfunction(generate)
    answer = call() if is_async else await _in_thread(call)
    return _plain(await answer if inspect.isawaitable(answer) else answer)


def arguments_for(generate: Callable[..., Any], body: JSONObject) -> JSONObject:
    """Return what of ``body`` goes to an adapter's own ``generate_completion``.

    Only the parameters of ``_NAMED`` are set by name, and ``kwargs`` takes what is left: a key of a client's JSON never
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
        message = error_body.read_value(error.payload).message
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
