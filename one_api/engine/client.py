"""The client of a model's engine: it takes a slot, ensures a running engine, and opens a stream."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from one_api.contract import ChunkStream
from one_api.dialects.frames import Encode, Translator
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.stream import LocalStream
from one_api.dialects.llama.text import LocalTextStream
from one_api.dialects.openai.response import Identity
from one_api.dialects.tokens import count_in
from one_api.engine.files import Endpoint, EngineFailed, find_engine
from one_api.engine.gguf import ModelFile
from one_api.engine.slots import Slot, SlotQueue
from one_api.engine.supervisor import EngineSupervisor
from one_api.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from one_api.records import AttemptContext
from one_api.serving.timeouts import Deadline
from one_api.settings.adapters import LocalConfig
from one_api.settings.kinds import Secret
from one_api.upstream.client import Upstream
from one_api.upstream.errors import OPENAI_REPORTS, Reports
from one_api.upstream.exceptions import NamedErrors

T = TypeVar("T")

#: How long counting tokens may take, with the start of the engine, in seconds: clients ask for many counts at once.
_COUNT_S = 5.0
#: How the engine refuses a grammar, and what clients read instead: parameter, code, message.
_NO_GRAMMAR = "failed to parse grammar"
_NO_OWN_GRAMMAR = (
    "grammar",
    "invalid_value",
    "The engine cannot read this `grammar`: it takes GBNF with a rule `root`, and without left recursion.",
)
_NO_CALL_GRAMMAR = (
    "tools",
    "invalid_function_parameters",
    "The engine cannot hold a call to these schemas: make them smaller, or `strict` to learn which keyword is wrong.",
)


class EngineUnavailable(UpstreamError):
    """The engine of a local model cannot be started; the message says why."""

    status = 503
    code = "no_backend_available"


class EngineClient:
    """One process's client of the engine of one model, for the version of its ``file`` at the first request."""

    def __init__(
        self, supervisor: EngineSupervisor, config: LocalConfig, file: ModelFile, reports: Reports = OPENAI_REPORTS
    ) -> None:
        self.file = file
        self._supervisor = supervisor
        self._config = config
        self._reports = reports
        self._queue: SlotQueue | None = None
        self._endpoint: Endpoint | None = None
        self._upstream: Upstream | None = None

    @property
    def idle(self) -> bool:
        """Return whether no request is running or waiting."""
        return self._queue is None or self._queue.idle

    async def open(self, context: AttemptContext, body: JSONObject, answer: "EngineAnswer") -> ChunkStream:
        """Return the stream that the engine answers ``body`` with; an engine that died is started again, once.

        Raises:
            QueueFull: if there is no slot in time.
            EngineUnavailable: if no engine can be had.
            UpstreamError: if it does not answer.
        """
        slot = await self._take(context)
        try:
            stream, endpoint = await self._ask(partial(self._open, context, body, answer))
        except BaseException:
            slot.release()
            raise
        return SlotStream(stream, slot, self._supervisor, endpoint)

    async def embed(self, context: AttemptContext, body: JSONObject) -> bytes:
        """Return the engine's whole answer to a request for embeddings; raises as ``open`` does."""
        return await self._read_whole(context, "/v1/embeddings", body, "input")

    async def rerank(self, context: AttemptContext, body: JSONObject) -> bytes:
        """Return the engine's whole answer to a request for scores of documents; raises as ``open`` does."""
        return await self._read_whole(context, "/v1/rerank", body, "documents")

    async def _read_whole(self, context: AttemptContext, path: str, body: JSONObject, param: str) -> bytes:
        """Have the engine read texts, which are ``param`` of the client's request, in one piece each."""
        slot = await self._take(context)
        try:
            answer, _ = await self._ask(partial(self._post, context, path, body, param))
        finally:
            slot.release()
        return answer

    async def count(self, context: AttemptContext, body: JSONObject, answer: "EngineAnswer") -> int:
        """Return how many tokens the prompt has that ``body`` amounts to; it needs no slot. Raises as ``open``."""
        with NamedErrors("the count", _COUNT_S), Deadline(_COUNT_S):
            counted, _ = await self._ask_once(partial(self._count, context, body, answer))
        return counted

    async def _count(
        self, context: AttemptContext, body: JSONObject, answer: "EngineAnswer", upstream: Upstream, endpoint: Endpoint
    ) -> int:
        try:
            data = await upstream.post(f"{answer.path}/input_tokens", context, body)
        except UpstreamRejected as error:
            raise answer.explained(error, self.file, endpoint.context_tokens) from error
        if (count := count_in(data)) is None:
            raise UpstreamBroken("The engine's answer holds no count of tokens.")
        return count

    async def _take(self, context: AttemptContext) -> Slot:
        try:
            queue = await self._slots()
            return await queue.take(context.scope, self._config.timeouts.first_event_s or 120.0)
        except EngineFailed as error:
            raise EngineUnavailable(error.reason, retry_after_s=error.retry_after_s) from error

    async def _slots(self) -> SlotQueue:
        if self._queue is None:
            find_engine(self.file.id)
            base = await asyncio.to_thread(self._supervisor.slot_files, self.file.path)
            self._queue = self._queue or SlotQueue(self.file.id, base, self._config.slots, self._config.queue)
        return self._queue

    async def _open(
        self, context: AttemptContext, body: JSONObject, answer: "EngineAnswer", upstream: Upstream, endpoint: Endpoint
    ) -> ChunkStream:
        try:
            return await upstream.post_stream(answer.path, context, body, answer.translator())
        except UpstreamRejected as error:
            raise answer.explained(error, self.file, endpoint.context_tokens) from error

    async def _post(
        self, context: AttemptContext, path: str, body: JSONObject, param: str, upstream: Upstream, endpoint: Endpoint
    ) -> bytes:
        try:
            return await upstream.post(path, context, body)
        except (UpstreamFailed, UpstreamRejected) as error:
            if error.code != "context_length_exceeded" and "too large to process" not in error.said:
                raise
            raise UpstreamRejected(
                f"A text is too long; the local model `{self.file.id}` reads at most {endpoint.context_tokens} "
                "tokens: split it.",
                param=param,
                code="context_length_exceeded",
            ) from error

    async def _ask(self, ask: Callable[[Upstream, Endpoint], Awaitable[T]]) -> tuple[T, Endpoint]:
        """Ask the engine, and once more if it has died; return its answer, and which engine it was."""
        try:
            return await self._ask_once(ask)
        except (UpstreamUnreachable, UpstreamFailed):
            return await self._ask_once(ask)

    async def _ask_once(self, ask: Callable[[Upstream, Endpoint], Awaitable[T]]) -> tuple[T, Endpoint]:
        try:
            endpoint = await self._supervisor.ensure(self.file.path, self.file.id)
        except EngineFailed as error:
            raise EngineUnavailable(error.reason, retry_after_s=error.retry_after_s) from error
        upstream = await self._upstream_of(endpoint)
        try:
            found = await ask(upstream, endpoint)
        except UpstreamRejected:
            raise
        except UpstreamTimeout:
            self._supervisor.report_answer(endpoint, in_time=False)
            raise
        except UpstreamError:
            await self._supervisor.report_failure(endpoint)
            raise
        self._supervisor.report_answer(endpoint, in_time=True)
        return found, endpoint

    async def _upstream_of(self, endpoint: Endpoint) -> Upstream:
        if self._upstream is None or self._endpoint != endpoint:
            old = self._upstream
            headers = {"authorization": Secret(f"Bearer {endpoint.api_key}")}
            self._upstream = Upstream(
                "http://engine",
                headers,
                self._config.timeouts,
                unix_socket=str(endpoint.socket_path),
                reports=self._reports,
            )
            self._endpoint = endpoint
            if old is not None:
                await old.aclose()
        return self._upstream

    async def aclose(self) -> None:
        """Close the connections, and refuse waiting requests."""
        if self._queue is not None:
            await self._queue.close()
        if self._upstream is not None:
            await self._upstream.aclose()


class EngineAnswer:
    """How to translate the engine's stream.

    It needs the identity of the answer, whether a tool call was forced, and how many of the likeliest tokens are listed
    where log probabilities are asked for.
    """

    #: Where the engine is asked for it.
    path = "/v1/chat/completions"

    def __init__(self, identity: Identity, *, include_usage: bool, forced: bool, top_logprobs: int = 0) -> None:
        self._identity = identity
        self._include_usage = include_usage
        self._forced = forced
        self._top_logprobs = top_logprobs

    def translator(self) -> Translator:
        """Return a translator for one attempt."""
        return LocalStream(
            self._identity,
            include_usage=self._include_usage,
            forced=self._forced,
            top_logprobs=self._top_logprobs,
        )

    def explained(self, error: UpstreamRejected, file: ModelFile, context_tokens: int) -> UpstreamRejected:
        """Return the engine's refusal in OpenAI's words: it has numbers for codes, and names no parameter."""
        param, code, message = error.param, error.code, error.message
        if code == "context_length_exceeded":
            message = _too_long(error.said, file, context_tokens, "conversation")
        if code is not None and code.isdigit():
            code = None
        if "JSON schema error" in error.said:
            param = "tools" if self._forced else "response_format"
            code = "invalid_function_parameters" if self._forced else None
        elif _NO_GRAMMAR in error.said:
            param, code, message = _NO_CALL_GRAMMAR if self._forced else _NO_OWN_GRAMMAR
        elif "While executing" in error.said:
            param = "messages"
            reason = error.said.rpartition("Error: ")[2].removeprefix("Jinja Exception: ").strip()
            shown = f": {reason}" if error.said in message else "."
            message = f"The model's chat template refuses these messages{shown}"
        return UpstreamRejected(message, status=error.status, type=error.type, param=param, code=code)


class TextAnswer(EngineAnswer):
    """How to translate the stream of a legacy completion."""

    path = "/v1/completions"

    def __init__(self, identity: Identity, *, logprobs: int | None) -> None:
        super().__init__(identity, include_usage=False, forced=False)
        self._logprobs = logprobs

    def translator(self) -> Translator:
        """See ``EngineAnswer``."""
        return LocalTextStream(self._identity, logprobs=self._logprobs)

    def explained(self, error: UpstreamRejected, file: ModelFile, context_tokens: int) -> UpstreamRejected:
        """See ``EngineAnswer``."""
        code, message = error.code, error.message
        if code == "context_length_exceeded":
            message = _too_long(error.said, file, context_tokens, "prompt")
        code = None if code is not None and code.isdigit() else code
        param = "prompt"
        if _NO_GRAMMAR in error.said:
            param, code, message = _NO_OWN_GRAMMAR
        return UpstreamRejected(message, status=error.status, type=error.type, param=param, code=code)


def _too_long(message: str, file: ModelFile, context_tokens: int, what: str) -> str:
    """Return what to do about a request that does not fit; the engine's ``message`` begins with its length."""
    counted = re.search(r"(\d+) tokens", message)
    length = f"This {what} has {counted[1]} tokens" if counted else f"This {what} is too long"
    limit = f"{length}; the local model `{file.id}` reads at most {context_tokens}: shorten it, or use another model."
    if file.context_length and context_tokens >= file.context_length:
        return f"{limit} It was trained for no more."
    return f"{limit} The operator can raise `slot_context` in the configuration of its adapter."


class SlotStream(ChunkStream):
    """A stream that holds a slot of its engine until it is closed."""

    def __init__(self, stream: ChunkStream, slot: Slot, supervisor: EngineSupervisor, endpoint: Endpoint) -> None:
        self._stream = stream
        self._slot = slot
        self._supervisor = supervisor
        self._endpoint = endpoint

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        return await self._noted(self._stream.read())

    async def read_encoded(self, encode: Encode) -> bytes:
        """See ``ChunkStream``."""
        return await self._noted(self._stream.read_encoded(encode))

    async def _noted(self, reading: Awaitable[T]) -> T:
        """Await what the engine sends, and report its failure."""
        self._stream.idle_s = self.idle_s
        try:
            return await reading
        except UpstreamError:
            await self._supervisor.report_failure(self._endpoint)
            raise
        finally:
            self.usage, self.ended = self._stream.usage, self._stream.ended

    async def aclose(self) -> None:
        """Close the stream, and release the slot."""
        try:
            await self._stream.aclose()
        finally:
            self._slot.release()
