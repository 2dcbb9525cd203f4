"""The adapter for GGUF files on this machine: llama.cpp in child processes that all workers share.

To the rest of the gateway an engine is one more OpenAI-compatible upstream, behind a private Unix socket. It is always
asked for a stream, because only then does it notice that its client has left.
"""

import asyncio
import getpass
import logging
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from one_api.errors import (
    InvalidRequest,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamUnreachable,
)
from one_api.models.adapters.base import BaseModelAdapter, ChunkStream, ModelInfo
from one_api.models.adapters.local_files import Endpoint, EngineFailed, EngineSettings
from one_api.models.adapters.local_supervisor import EngineSupervisor
from one_api.models.adapters.upstream import Upstream
from one_api.models.gguf import ModelFile, discover
from one_api.settings import LocalConfig, Secret
from one_api.wire.assemble import Assembler
from one_api.wire.json import JSONObject
from one_api.wire.openai_request import Dialect, prepare
from one_api.wire.openai_response import Identity
from one_api.wire.openai_stream import OpenAIStream

logger = logging.getLogger(__name__)

#: How often the folder is looked at, in seconds.
_LOOK_S = 5.0
#: Requests that may wait for a slot of one model, per process.
_QUEUE = 64
#: What a small model needs to make sense; a request's own values win. By file name.
_SAMPLING: dict[str, JSONObject] = {"SmolLM2-135M-Instruct.Q4_1": {"temperature": 0.2, "top_p": 0.9}}
#: Keys of the engine's answers that are no part of OpenAI's format.
_ENGINE_KEYS = frozenset({"timings", "__verbose"})


class LocalModelAdapter(BaseModelAdapter):
    """The models in one folder."""

    def __init__(self, name: str, config: LocalConfig, run_dir: Path | None = None) -> None:
        """``run_dir`` is where processes that share engines meet; by default one per user."""
        self._name = name
        self._config = config
        self._folder = Path(config.models_dir)
        settings = EngineSettings(
            slots=config.slots,
            context_tokens=config.slot_context,
            threads=config.threads or 0,
            sleep_idle_s=int(config.idle_unload_s),
            start_limit_s=config.start_timeout_s,
        )
        self._supervisor = EngineSupervisor(
            run_dir or Path(tempfile.gettempdir()) / f"one_api-{getpass.getuser()}", settings
        )
        self._files: dict[str, ModelFile] = {}
        self._reported: dict[Path, str] = {}
        self._pending: str | None = "its folder has not been read yet"
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        #: By model id: who may talk to the engine now, and the door to the engine that runs.
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._waiting: dict[str, int] = {}
        self._upstreams: dict[str, tuple[Endpoint, Upstream]] = {}

    def list_models(self) -> list[ModelInfo]:
        """Return the models whose files can be read."""
        return [self._info(file) for file in self._files.values()]

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what the file says of one model."""
        file = self._files.get(model_id)
        return self._info(file) if file else None

    def _info(self, file: ModelFile) -> ModelInfo:
        window = min(file.context_length or self._config.slot_context, self._config.slot_context)
        return ModelInfo(file.id, self._name, created=file.mtime_ns // 1_000_000_000, context_window=window)

    @property
    def pending(self) -> str | None:
        """Say that the folder has not been read."""
        return self._pending

    async def start(self) -> None:
        """Begin to look into the folder, now and then."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    async def settled(self, timeout_s: float) -> None:
        """Wait until the folder has been read once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    async def _keep_looking(self) -> None:
        while True:
            files, unreadable = await asyncio.to_thread(discover, self._folder, list(self._files.values()))
            self._files = {file.id: file for file in files if not file.embedding_only}
            for path, reason in unreadable.items():
                if self._reported.get(path) != reason:
                    logger.warning("adapter %s: %s is left out: %s", self._name, path, reason)
            self._reported, self._pending = unreadable, None
            self._looked.set()
            await asyncio.sleep(_LOOK_S)

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
        """See ``BaseModelAdapter``."""
        _refuse_unsupported(messages, kwargs)
        named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        given = {key: value for key, value in named.items() if value is not None}
        if max_tokens is None and kwargs.get("max_completion_tokens") is None:
            given["max_tokens"] = self._config.default_max_tokens
        body = {**_SAMPLING.get(model, {}), "model": model, "messages": messages, **given, **kwargs, "stream": True}
        options = kwargs.get("stream_options") or {}
        include_usage = bool(options.get("include_usage")) or not stream
        answer = await self._open(model, prepare(body, Dialect(developer_as_system=True)), include_usage)
        if stream:
            return answer
        assembler = Assembler()
        async with answer:
            async for chunk in answer:
                assembler.add(chunk)
        return assembler.completion()

    async def _open(self, model: str, body: JSONObject, include_usage: bool) -> ChunkStream:
        """Take a slot and return the engine's stream; an engine that died is started again, once."""
        slot = await self._take_slot(model)
        identity = Identity(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model)
        try:
            for last_try in (False, True):
                endpoint, upstream = await self._upstream(model)
                translator = OpenAIStream(identity, include_usage=include_usage, drop=_ENGINE_KEYS)
                try:
                    stream = await upstream.post_stream("/v1/chat/completions", body, translator)
                except (UpstreamUnreachable, UpstreamFailed):
                    await self._supervisor.report_failure(endpoint)
                    if last_try:
                        raise
                else:
                    return SlotStream(stream, slot)
            raise AssertionError("unreachable")
        except BaseException:
            slot.release()
            raise

    async def _take_slot(self, model: str) -> asyncio.Semaphore:
        """Wait for a slot of the engine: it must never queue itself, for it would not notice who leaves."""
        slot = self._slots.setdefault(model, asyncio.Semaphore(self._config.slots))
        if self._waiting.get(model, 0) >= _QUEUE:
            raise UpstreamOverloaded(f"The queue of the local model `{model}` is full.", retry_after_s=5)
        self._waiting[model] = self._waiting.get(model, 0) + 1
        try:
            async with asyncio.timeout(self._config.timeouts.first_event_s):
                await slot.acquire()
        except TimeoutError:
            raise UpstreamOverloaded(f"The local model `{model}` is busy.", retry_after_s=5) from None
        finally:
            self._waiting[model] -= 1
        return slot

    async def _upstream(self, model: str) -> tuple[Endpoint, Upstream]:
        """Return the engine of ``model``, started if need be, and the door to it."""
        file = self._files.get(model)
        if file is None:
            raise UpstreamOverloaded(f"The file of the local model `{model}` is gone.")
        try:
            endpoint = await self._supervisor.ensure(file.path, model)
        except EngineFailed as error:
            raise EngineUnavailable(error.reason, retry_after_s=error.retry_after_s) from error
        known = self._upstreams.get(model)
        if known is None or known[0] != endpoint:
            if known is not None:
                await known[1].aclose()
            headers = {"authorization": Secret(f"Bearer {endpoint.api_key}")}
            upstream = Upstream("http://engine", headers, self._config.timeouts, unix_socket=str(endpoint.socket_path))
            known = self._upstreams[model] = (endpoint, upstream)
        return known

    async def aclose(self) -> None:
        """Stop looking, close the doors, and let the engines go."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
        for _, upstream in self._upstreams.values():
            await upstream.aclose()
        await self._supervisor.close()


class EngineUnavailable(UpstreamError):
    """The engine of a local model cannot be started; the message says why."""

    status = 503
    code = "no_backend_available"


class SlotStream(ChunkStream):
    """A stream that holds a slot of its engine until it is closed."""

    def __init__(self, stream: ChunkStream, slot: asyncio.Semaphore) -> None:
        self._stream = stream
        self._slot: asyncio.Semaphore | None = slot

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        try:
            return await self._stream.read()
        finally:
            self.usage, self.ended = self._stream.usage, self._stream.ended

    async def aclose(self) -> None:
        """Close the stream, and give the slot back."""
        slot, self._slot = self._slot, None
        try:
            await self._stream.aclose()
        finally:
            if slot is not None:
                slot.release()


def _refuse_unsupported(messages: list[JSONObject], parameters: JSONObject) -> None:
    """Refuse what the engine would accept and not do, or would fail at as if it were ill."""
    for i, message in enumerate(messages):
        parts = message.get("content")
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            if part["type"] not in ("text", "refusal"):
                raise InvalidRequest(
                    f"Local models read text only, not `{part['type']}`.",
                    param=f"messages[{i}].content[{j}].type",
                    code="unsupported_value",
                )
    if (parameters.get("n") or 1) != 1:
        raise InvalidRequest("Local models give one choice: leave `n` out.", param="n", code="unsupported_value")
    choice = parameters.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise InvalidRequest(
            "Local models cannot be forced to call a tool: use `auto` or `none`.",
            param="tool_choice",
            code="unsupported_value",
        )
