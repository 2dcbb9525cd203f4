"""The adapter for GGUF files on this machine: llama.cpp in child processes that all workers share.

To the rest of the gateway an engine is one more OpenAI-compatible upstream, behind a private Unix socket. It is always
asked for a stream, because only then does it notice that its client has left.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from one_api.contract import ByteStream, ChunkStream, Kind, ModelInfo, Usage, WholeBytes
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.forced_calls import apply_choice
from one_api.dialects.llama.request import LocalRequest, Model, read_request
from one_api.dialects.llama.rerank import RerankRequest, scores_in
from one_api.dialects.llama.text import read_text_request
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.embeddings import EmbeddingRequest, RawAnswer
from one_api.dialects.openai.passthrough import JSONBody, PassthroughRequest, units_asked
from one_api.dialects.openai.request import Quirks, prepare
from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.text_completion import TextAssembler, TextRequest
from one_api.dialects.payloads import InvalidAnswer
from one_api.engine.client import EngineAnswer, EngineClient, TextAnswer
from one_api.engine.files import EngineFailed, default_run_dir, find_engine
from one_api.engine.gguf import ModelFile, discover
from one_api.engine.process import engine_settings
from one_api.engine.settings import slot_context
from one_api.engine.supervisor import EngineSupervisor
from one_api.errors import InvalidRequest, UpstreamBroken, UpstreamOverloaded, UpstreamUnfit, UpstreamUnsuitable
from one_api.models.adapters.base import RequestAdapter
from one_api.records import AttemptContext
from one_api.serving.tasks import stop
from one_api.settings.adapters import LocalConfig
from one_api.upstream.choices import ChoicesStream, OpenedLater
from one_api.upstream.embeddings import embed_in_parts
from one_api.upstream.errors import OPENAI_REPORTS, Reports
from one_api.upstream.foreign import whole
from one_api.upstream.identity import new_identity

logger = logging.getLogger(__name__)

#: How often the folder is looked at, in seconds.
LOOK_S = 5.0
#: Inputs that the engine is given at once.
_MAX_BATCH = 16
_QUIRKS = Quirks(developer_as_system=True)
#: What a small model needs to make sense; the configuration and a request win. By file name.
_SAMPLING = {"SmolLM2-135M-Instruct.Q4_1": {"temperature": 0.2, "top_p": 0.9, "top_k": 40, "min_p": 0.05}}


class LocalModelAdapter(RequestAdapter):
    """The models in one folder."""

    speaks = frozenset({"chat", "completion", "embedding", "rerank"})

    def __init__(
        self,
        name: str,
        config: LocalConfig,
        run_dir: Path | None = None,
        look_s: float = LOOK_S,
        reports: Reports = OPENAI_REPORTS,
    ) -> None:
        """``run_dir`` is where processes that share engines meet, by default one per user.

        The folder is looked at every ``look_s`` seconds; ``reports`` reads the engine's errors.
        """
        self._name = name
        self._config = config
        self._reports = reports
        self._folder = Path(config.models_dir)
        self._look_s = look_s
        self._settings = engine_settings(config)
        self._supervisor = EngineSupervisor(run_dir or default_run_dir(), self._settings)
        self._files: dict[str, ModelFile] = {}
        self._reported: dict[Path, str] = {}
        self._pending: str | None = "its folder has not been read yet"
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        #: By file; those of files that have gone are closed.
        self._clients: dict[Path, EngineClient] = {}

    def list_models(self) -> list[ModelInfo]:
        """Return the models whose files can be read, under their ids and then under their aliases."""
        aliases = [alias for alias in self._config.aliases if alias not in self._files]
        return [info for name in (*self._files, *aliases) if (info := self.get_model_info(name))]

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what the file says of one model."""
        file = self._file(model_id)
        if file is None:
            return None
        window = slot_context(file, self._settings)
        kinds = self._config.kinds.get(file.id) or _kinds_of(file)
        created = file.mtime_ns // 1_000_000_000
        return ModelInfo(model_id, self._name, created=created, context_window=window, kinds=kinds)

    def _file(self, model_id: str) -> ModelFile | None:
        return self._files.get(model_id) or self._files.get(self._config.aliases.get(model_id, ""))

    @property
    def pending(self) -> str | None:
        """Return that the folder has not been read, until it has."""
        return self._pending

    async def start(self) -> None:
        """Begin to look into the folder, now and then."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    async def wait_discovered(self, timeout_s: float) -> None:
        """Wait until the folder has been read once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    async def _keep_looking(self) -> None:
        try:
            find_engine("local models cannot be served")
        except EngineFailed as error:
            logger.warning("adapter %s: %s", self._name, error.reason)
        while True:
            files, unreadable = await asyncio.to_thread(discover, self._folder, list(self._files.values()))
            self._files = {file.id: file for file in files}
            for path, reason in unreadable.items():
                if self._reported.get(path) != reason:
                    logger.warning("adapter %s: %s is left out: %s", self._name, path, reason)
            self._reported, self._pending = unreadable, None
            self._looked.set()
            await self._let_go()
            await asyncio.sleep(self._look_s)

    async def _let_go(self) -> None:
        """Close the clients to files that are gone or have been replaced, once no request is on its way through."""
        now = {file.path: file for file in self._files.values()}
        for path, client in list(self._clients.items()):
            if client.idle and now.get(path) != client.file:
                del self._clients[path]
                self._supervisor.forget(path)
                await client.aclose()

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``."""
        return await whole(await self._ask(request, context, include_usage=True))

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """See ``BaseModelAdapter``."""
        return await self._ask(request, context, include_usage=request.include_usage)

    async def _ask(self, request: ChatRequest, context: AttemptContext, *, include_usage: bool) -> ChunkStream:
        file = self._existing(request.model)
        checked = read_request(request.body, self._model(file))
        context.warnings += _dropped(checked, file)
        return await self._answer(file, request.model, checked, context, include_usage=include_usage)

    async def count_tokens(self, request: ChatRequest, context: AttemptContext) -> int | None:
        """See ``BaseModelAdapter``: the model's own template and tokenizer count."""
        file = self._existing(request.model)
        try:
            if request.native is not None:
                request.native.refuse_translation()
            checked = read_request(request.body, self._model(file))
        except (InvalidRequest, UpstreamUnsuitable):
            return None  # the client gets that error when it asks for an answer
        body, forced = apply_choice(checked.body)
        body = prepare(body | {"model": file.id}, _QUIRKS)
        answer = EngineAnswer(Identity("", 0, request.model), include_usage=False, forced=forced)
        return await self._client(file).count(context, body, answer)

    async def complete_text(self, request: TextRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``."""
        assembler = TextAssembler()
        async with await self._ask_text(request, context, include_usage=True) as stream:
            async for chunk in stream:
                assembler.add(chunk)
        return assembler.completion()

    async def stream_text(self, request: TextRequest, context: AttemptContext) -> ChunkStream:
        """See ``BaseModelAdapter``."""
        return await self._ask_text(request, context, include_usage=request.include_usage)

    async def _ask_text(self, request: TextRequest, context: AttemptContext, *, include_usage: bool) -> ChunkStream:
        """Return the stream of all choices, once the first event has arrived."""
        file = self._existing(request.model)
        checked = read_text_request(request.body, self._model(file))
        context.warnings += checked.dropped
        identity = new_identity(request.model, "cmpl")
        answer, client = TextAnswer(identity, logprobs=checked.logprobs), self._client(file)

        async def open_one(index: int) -> ChunkStream:
            return await client.open(context, checked.body_of(index) | {"model": file.id}, answer)

        streams = await self._in_turns(open_one, checked.choices)
        return ChoicesStream(streams, include_usage=include_usage, prompts=len(checked.prompts))

    async def embed(self, request: EmbeddingRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``: in small parts, one after the other, so that others have their turn."""
        file = self._existing(request.model)
        client = self._client(file)

        async def post(part: EmbeddingRequest) -> RawAnswer:
            body = {"model": file.id, "input": list(part.inputs), "encoding_format": "base64"}
            try:
                return RawAnswer.read(await client.embed(context, body), len(part.inputs))
            except InvalidAnswer as error:
                raise UpstreamBroken(f"The engine's answer cannot be used: {error}.") from None

        try:
            return await embed_in_parts(request, _MAX_BATCH, post, at_once=1)
        except UpstreamUnfit as error:
            if request.dimensions is None:
                raise
            raise UpstreamUnsuitable(
                f"The vectors of the local model `{request.model}` have one length: leave `dimensions` out.",
                param="dimensions",
                code="unsupported_value",
            ) from error

    async def forward(self, request: PassthroughRequest, context: AttemptContext) -> ByteStream:
        """See ``BaseModelAdapter``: documents are ranked in small parts, as inputs are embedded."""
        file, fields = self._existing(request.model), request.body.fields if isinstance(request.body, JSONBody) else {}
        asked, client = RerankRequest.read(fields), self._client(file)
        scores: list[float] = []
        tokens = 0
        for at in range(0, len(asked.documents), _MAX_BATCH):
            part = asked.documents[at : at + _MAX_BATCH]
            body = {"model": file.id, "query": asked.query, "documents": part}
            try:
                found, used = scores_in(json.decode_object(await client.rerank(context, body)), len(part))
            except (InvalidAnswer, json.InvalidJSON) as error:
                raise UpstreamBroken(f"The engine's answer cannot be used: {error}.") from None
            scores += found
            tokens += used
        answer = asked.answer(scores, f"rerank-{uuid.uuid4().hex}", request.model, tokens)
        return WholeBytes(json.encode(answer), usage=Usage(tokens, 0), units=units_asked(request))

    def _existing(self, model: str) -> ModelFile:
        file = self._file(model)
        if file is None:
            raise UpstreamOverloaded(f"The file of the local model `{model}` is gone.")
        return file

    def _client(self, file: ModelFile) -> EngineClient:
        return self._clients.setdefault(file.path, EngineClient(self._supervisor, self._config, file, self._reports))

    def _model(self, file: ModelFile) -> Model:
        """Return what a request has to know of the model in ``file``."""
        window = slot_context(file, self._settings)
        sampling: dict[str, float] = dict(_SAMPLING.get(file.id, {}))
        if (said := self._config.sampling.get(file.id)) is not None:
            sampling |= said.given()
        return Model(window, self._config.default_max_tokens, sampling)

    async def _answer(
        self, file: ModelFile, model: str, request: LocalRequest, context: AttemptContext, *, include_usage: bool
    ) -> ChunkStream:
        """Return the stream of all choices, once the first event has arrived."""
        body, forced = apply_choice(request.body)
        body = prepare(body | {"model": file.id}, _QUIRKS)
        identity = new_identity(model)
        answer = EngineAnswer(identity, include_usage=include_usage, forced=forced, top_logprobs=request.top_logprobs)
        client = self._client(file)

        async def open_one(index: int) -> ChunkStream:
            return await client.open(context, body | request.seed_of(index), answer)

        if request.n == 1:
            return await open_one(0)
        streams = await self._in_turns(open_one, request.n)
        return ChoicesStream(streams, include_usage=include_usage)

    async def _in_turns(self, open_one: Callable[[int], Awaitable[ChunkStream]], n: int) -> list[OpenedLater]:
        """Return the streams of ``n`` choices: the first is open; only as many are at a time as there are slots."""
        turns = asyncio.Semaphore(self._config.slots)
        streams = [OpenedLater(partial(open_one, index), turns) for index in range(n)]
        await streams[0].start()
        return streams

    async def aclose(self) -> None:
        """Stop looking, close the clients, and let the engines go."""
        await stop(self._looking)
        self._looking = None
        for client in self._clients.values():
            await client.aclose()
        await self._supervisor.close()


def _kinds_of(file: ModelFile) -> tuple[Kind, ...]:
    """Return what a file is for by itself."""
    if file.chats:
        return ("chat", "completion")
    return ("rerank",) if file.ranks else ("embedding",)


def _dropped(request: LocalRequest, file: ModelFile) -> list[str]:
    """Return the parameters that do nothing here."""
    free = request.body.get("tool_choice") in (None, "auto")
    ignores_tools = request.body.get("tools") and free and not file.template_mentions_tools
    return [*request.dropped, "tools"] if ignores_tools else [*request.dropped]
