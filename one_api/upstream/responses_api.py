"""A server that speaks Responses: for clients that do, as they wrote it; for all others, in chat's words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.responses.outbound.loose import ResponseEvents, read_whole
from one_api.dialects.responses.outbound.native import NativeResponse, usage_in, with_tools_of
from one_api.dialects.responses.outbound.request import stops_of, to_responses
from one_api.dialects.responses.outbound.stream import ResponsesStream, completion_of
from one_api.records import AttemptContext
from one_api.serving.fairness import aside
from one_api.settings.adapters import OPENAI_BASE_URL, OpenAIConfig
from one_api.upstream.client import Upstream, decode_large
from one_api.upstream.errors import Reports
from one_api.upstream.identity import new_identity
from one_api.upstream.thinking_store import ReplayCache, key_of_message

_PATH = "/responses"


@dataclass(frozen=True, slots=True)
class ResponsesAPI:
    """The address of one server."""

    upstream: Upstream
    reports: Reports
    config: OpenAIConfig
    #: Reasoning that clients of chat cannot bring back.
    replay: ReplayCache = field(default_factory=ReplayCache)

    async def stream_native(self, native: NativeRequest, model: str, context: AttemptContext) -> ChunkStream:
        """Return the stream of an answer, whose chunks hold the upstream's own events; raises UpstreamError."""
        body = self._native_body(native, model, context)
        return await self.upstream.post_stream(
            _PATH, context, body, NativeResponse(ResponseEvents().read), self._headers(native)
        )

    async def complete_native(self, native: NativeRequest, model: str, context: AttemptContext) -> JSONObject:
        """Return an answer whose ``native`` is the whole response; raises UpstreamError."""
        body = self._native_body(native, model, context)
        response = await self._whole(body, context, self._headers(native))
        return {"native": response, "usage": usage_in(response)}

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """Return the answer to a chat request as a stream of chat chunks; raises UpstreamError."""
        body = await self._translated(request, context)
        keep = partial(self.replay.keep_output, context.scope, request.model)
        translator = ResponsesStream(
            new_identity(request.model),
            include_usage=request.include_usage,
            stops=stops_of(request.body),
            on_output=keep,
        )
        return await self.upstream.post_stream(_PATH, context, body, translator)

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """Return the answer to a chat request as a completion; raises UpstreamError."""
        response = await self._whole(await self._translated(request, context), context)
        keep = partial(self.replay.keep_output, context.scope, request.model)
        return completion_of(response, new_identity(request.model), stops=stops_of(request.body), on_output=keep)

    async def _translated(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """Return a chat request in this dialect, and note what is dropped of it."""

        def find(message: JSONObject) -> list[JSONObject] | None:
            return self.replay.find(key_of_message(context.scope, request.model, message))

        reasons = self.config.takes_effort(request.model)
        work = partial(to_responses, request.body, reasons=reasons, replay=find)
        body, dropped = await aside(work, is_short=context.is_short)
        context.warnings += dropped
        context.counts_otherwise = True
        return body

    def _native_body(self, native: NativeRequest, model: str, context: AttemptContext) -> JSONObject:
        """Return the client's body for this server, and note what it does not get."""
        body = native.body | {"model": model}
        context.counts_otherwise = native.counts_otherwise
        if self.config.tool_types is None:
            return body
        body, dropped = with_tools_of(body, self.config.tool_types)
        context.warnings += dropped
        context.counts_otherwise = context.counts_otherwise or bool(dropped)
        return body

    def _headers(self, native: NativeRequest) -> Mapping[str, str]:
        """Return the headers of the client that go along."""
        said = self.config.client_headers
        passes = self.config.base_url == OPENAI_BASE_URL if said is None else said
        return native.headers if passes else {}

    async def _whole(
        self, body: JSONObject, context: AttemptContext, headers: Mapping[str, str] | None = None
    ) -> JSONObject:
        answer = await self.upstream.post(_PATH, context, body, headers, watch=NativeResponse)
        decoded = await decode_large(answer, as_written=True)
        with self.reports.for_attempt(context).faults_named():
            return read_whole(answer, decoded)
