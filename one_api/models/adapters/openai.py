"""The adapter for any server that speaks OpenAI's Chat Completions dialect."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from one_api.contract import DOORS, ByteStream, ChunkStream, ModelInfo
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.openai import text_completion
from one_api.dialects.openai.answer import read_in_steps
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.embeddings import EmbeddingRequest, RawAnswer
from one_api.dialects.openai.kinds import kinds_in
from one_api.dialects.openai.passthrough import PassthroughRequest
from one_api.dialects.openai.reasoning_names import ReasoningNames, name_in_body, other_name
from one_api.dialects.openai.request import Quirks, prepare
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.openai.text_completion import TextRequest, TextStream
from one_api.dialects.responses.outbound.native import has_custom_tools
from one_api.errors import UpstreamRejected, UpstreamUnsuitable
from one_api.models.adapters.base import BaseModelAdapter, RemoteAdapter
from one_api.records import AttemptContext
from one_api.serving.fairness import aside, finished
from one_api.settings.adapters import OPENAI_BASE_URL, OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.settings.providers import tells_trace
from one_api.upstream.client import Upstream, decode_large
from one_api.upstream.discovery import DISCOVERY_TIMEOUT_S, entries_of
from one_api.upstream.embeddings import MAX_VECTORS_BYTES, embed_in_parts
from one_api.upstream.errors import Reports
from one_api.upstream.identity import new_identity
from one_api.upstream.responses_api import ResponsesAPI
from one_api.upstream.scrubbing import Scrubber, addresses_in, secrets_in

#: A longer answer takes long to read.
_SHORT_ANSWER_BYTES = 64 * 1024

T = TypeVar("T")


class OpenAIAdapter(RemoteAdapter):
    """One account at OpenAI, or one server that imitates it."""

    speaks = frozenset(DOORS)

    def __init__(self, name: str, config: OpenAIConfig, reports: Reports | None = None) -> None:
        """``reports`` reads the upstream's errors; by default one that knows this adapter's own secrets."""
        self._config = config
        self._reports = reports or Reports(name, Scrubber(secrets_in(config), addresses_in(config)))
        upstream = Upstream(
            config.base_url,
            request_headers(config),
            config.timeouts,
            reports=self._reports,
            proxy=config.proxy,
            propagate_trace=tells_trace(config),
        )
        super().__init__(name, upstream, config.models, config.discovery_interval_s)
        self._prefill = config.prefill
        self._quirks = Quirks(config.stream_usage, config.developer_as_system)
        self._reasoning = ReasoningNames()
        self.apis = frozenset({"responses"} & set(config.apis))
        self._speaks_chat = "chat" in config.apis
        self._responses = ResponsesAPI(upstream, self._reports, config)

    def inherit(self, before: BaseModelAdapter) -> None:
        """See ``BaseModelAdapter``: reasoning is sent again after a reload, too."""
        super().inherit(before)
        if isinstance(before, OpenAIAdapter):
            self._responses = replace(self._responses, replay=before._responses.replay)

    async def _ask_for_models(self) -> list[ModelInfo]:
        listing = await self._upstream.get_json("/models", DISCOVERY_TIMEOUT_S)
        return [self._describe(entry) for entry in entries_of(listing)]

    def _describe(self, entry: JSONObject) -> ModelInfo:
        info = ModelInfo.read(entry, self._name) or super()._describe(entry)
        return replace(info, kinds=self._config.kinds.get(info.id) or kinds_in(entry))

    def prefill_start(self, model: str, text: str) -> str | None:
        """See ``BaseModelAdapter``: only the configuration says so."""
        return text if self._prefill else None

    def takes_effort(self, model: str) -> bool:
        """See ``BaseModelAdapter``: only the configuration says so."""
        return self._config.takes_effort(model)

    def may_refuse_effort(self, model: str) -> bool:
        """See ``BaseModelAdapter``: models that are not known to take it were seen to refuse it."""
        return not self.takes_effort(model)

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``. The request passes through but for what the upstream's dialect needs."""
        if request.native is not None:
            return await self._responses.complete_native(request.native, request.model, context)
        if not self._speaks_chat:
            return await self._responses.complete(request, context)
        identity, choices, tools = new_identity(request.model), _choices_of(request), _tools_of(request)
        watch = partial(OpenAIStream, identity, include_usage=True, choices=choices, tools=tools)
        answer = await self._send(
            request, context, partial(self._upstream.post, "/chat/completions", context, watch=watch)
        )
        decoded = await decode_large(answer)
        self._reasoning.learn(request.model, name_in_body(answer, decoded))
        reading = read_in_steps(answer, identity, choices=choices, tools=tools, decoded=decoded)
        with self._reports.for_attempt(context).faults_named():
            return await aside(partial(finished, reading), is_short=len(answer) <= _SHORT_ANSWER_BYTES)

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """See ``complete``."""
        if request.native is not None:
            return await self._responses.stream_native(request.native, request.model, context)
        if not self._speaks_chat:
            return await self._responses.stream(request, context)

        async def post(body: JSONObject) -> ChunkStream:
            translator = OpenAIStream(
                new_identity(request.model),
                include_usage=request.include_usage,
                choices=_choices_of(request),
                tools=_tools_of(request),
                on_reasoning_name=partial(self._reasoning.learn, request.model),
            )
            return await self._upstream.post_stream("/chat/completions", context, body, translator)

        return await self._send(request, context, post)

    def _takes(self, native: NativeRequest) -> bool:
        """See ``BaseModelAdapter``: chat has a function for a tool that this server's Responses do not know."""
        types = self._config.tool_types
        lacks = types is not None and "custom" not in types and has_custom_tools(native.body)
        return super()._takes(native) and not lacks

    async def complete_text(self, request: TextRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``."""
        body = text_completion.prepare(request, stream_usage=self._config.stream_usage)
        answer = await self._upstream.post("/completions", context, body)
        decoded = await decode_large(answer)
        with self._reports.faults_named():
            return text_completion.read_answer(answer, new_identity(request.model, "cmpl"), decoded)

    async def stream_text(self, request: TextRequest, context: AttemptContext) -> ChunkStream:
        """See ``BaseModelAdapter``."""
        body = text_completion.prepare(request, stream_usage=self._config.stream_usage)
        translator = TextStream(
            new_identity(request.model, "cmpl"), include_usage=request.include_usage, choices=request.choices
        )
        return await self._upstream.post_stream("/completions", context, body, translator)

    async def embed(self, request: EmbeddingRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``: in parts if there are many inputs, and all of them or none."""
        if request.has_token_ids and not self._reads_token_ids:
            raise UpstreamUnsuitable(
                "This model is not asked with token ids, which may be other words to it: send texts.",
                param="input",
                code="unsupported_value",
            )
        if self._config.embeddings is not None:
            request = request.in_encoding(self._config.embeddings)
        return await embed_in_parts(request, self._config.max_batch, partial(self._post_inputs, context))

    @property
    def _reads_token_ids(self) -> bool:
        said = self._config.token_ids
        return self._config.base_url == OPENAI_BASE_URL if said is None else said

    async def _post_inputs(self, context: AttemptContext, part: EmbeddingRequest) -> RawAnswer:
        data = await self._upstream.post("/embeddings", context, part.body, max_bytes=MAX_VECTORS_BYTES)
        with self._reports.faults_named():
            return RawAnswer.read(data, len(part.inputs))

    async def forward(self, request: PassthroughRequest, context: AttemptContext) -> ByteStream:
        """See ``BaseModelAdapter``."""
        return await self._upstream.forward(request, context)

    async def _send(
        self, request: ChatRequest, context: AttemptContext, post: Callable[[JSONObject], Awaitable[T]]
    ) -> T:
        """Send ``request``; once more when the upstream refuses the client's word for reasoning, and has another."""
        work = partial(prepare, request.body, self._quirks, self._reasoning.get(request.model))
        body = await aside(work, is_short=context.is_short)
        try:
            return await post(body)
        except UpstreamRejected as error:
            other = other_name(error.said, body["messages"])
            if other is None:
                raise
        answer = await post(prepare(request.body, self._quirks, other))
        self._reasoning.learn(request.model, other)
        return answer


def _choices_of(request: ChatRequest) -> int:
    """Return how many choices are asked for."""
    return n if isinstance(n := request.body.get("n"), int) else 1


def _tools_of(request: ChatRequest) -> frozenset[str]:
    """Return the names of the functions among the tools of a request."""
    tools = request.body.get("tools")
    if not tools:
        return frozenset()
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def request_headers(config: OpenAIConfig) -> dict[str, Secret]:
    """Return the headers of every request to the upstream beside what HTTP needs: its key, if it has one."""
    return {"authorization": Secret(f"Bearer {config.api_key.reveal()}")} if config.api_key else {}
