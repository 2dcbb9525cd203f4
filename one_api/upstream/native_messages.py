"""Requests of Messages clients to a server that speaks Messages: passed on as they came, and their answers back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from one_api.contract import ChunkStream
from one_api.dialects.anthropic.inbound.native import (
    HEADERS,
    Deviations,
    MessageAssembler,
    NativeMessage,
    body_for,
    keeps_blocks,
    read_message,
)
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.tokens import count_in
from one_api.errors import UpstreamBroken
from one_api.records import AttemptContext
from one_api.serving.timeouts import Deadline
from one_api.settings.adapters import ClaudeConfig
from one_api.upstream.client import Upstream, decode_large
from one_api.upstream.errors import Reports
from one_api.upstream.exceptions import NamedErrors
from one_api.upstream.stream import UpstreamStream

_PATH = "/v1/messages"
#: How long an upstream may take to count the tokens of a request, in seconds: clients ask for many counts at once.
_COUNT_S = 5.0


class NativeStream(UpstreamStream):
    """The upstream's own events, for a client that reads them."""

    is_chat = False

    def has_content(self, chunk: JSONObject) -> bool:
        """See ``ChunkStream``."""
        return bool(chunk["content"])

    def show_model(self, chunk: JSONObject, model: str) -> None:
        """See ``ChunkStream``: the start of a message names its model."""
        if "native_start" in chunk:
            chunk["native_start"]["message"]["model"] = model


@dataclass(frozen=True, slots=True)
class NativeMessages:
    """One server that speaks Messages, for clients that do."""

    upstream: Upstream
    reports: Reports
    config: ClaudeConfig

    @property
    def _deviations(self) -> Deviations:
        return Deviations(frozenset(self.config.strip_fields), self.config.system_role == "user")

    async def stream(self, native: NativeRequest, model: str, context: AttemptContext) -> ChunkStream:
        """Return the stream of an answer, whose chunks hold the upstream's own events; raises UpstreamError."""
        return await self._stream(self._body(native, model, context), native, context)

    def _body(
        self, native: NativeRequest, model: str, context: AttemptContext, *, stream: bool | None = None
    ) -> bytes | JSONObject:
        """Return what to send, and note whether the upstream counts its blocks as the client does."""
        data = body_for(native, model, self._deviations, stream=stream)
        context.counts_otherwise = not isinstance(data, bytes) and not keeps_blocks(native)
        return data

    async def _stream(self, data: bytes | JSONObject, native: NativeRequest, context: AttemptContext) -> ChunkStream:
        headers = self._headers(native)
        return await self.upstream.post_stream(_PATH, context, data, NativeMessage(_new_id()), headers, NativeStream)

    async def complete(self, native: NativeRequest, model: str, context: AttemptContext) -> JSONObject:
        """Return an answer whose ``native`` is the whole message; raises UpstreamError.

        A long one is streamed by the upstream, so that no connection is idle for minutes.
        """
        limit = native.body.get("max_tokens")
        is_long = isinstance(limit, int) and limit > self.config.stream_above_tokens
        if is_long:
            return await self._assembled(native, model, context)
        data = self._body(native, model, context)
        answer = await self.upstream.post(_PATH, context, data, self._headers(native), watch=NativeMessage)
        decoded = await decode_large(answer, as_written=True)
        with self.reports.for_attempt(context).faults_named():
            return read_message(answer, decoded)

    async def _assembled(self, native: NativeRequest, model: str, context: AttemptContext) -> JSONObject:
        data = self._body(native, model, context, stream=True)
        limit_s, assembler = self.config.timeouts.total_s, MessageAssembler()
        with NamedErrors("the answer", limit_s), Deadline(limit_s), self.reports.for_attempt(context).faults_named():
            async with await self._stream(data, native, context) as stream:
                async for chunk in stream:
                    assembler.add(chunk)
        return assembler.answer

    async def count_tokens(self, native: NativeRequest, model: str, context: AttemptContext) -> int:
        """Return how many tokens the input of a request has; raises UpstreamError."""
        return await self.count(self._body(native, model, context), self._headers(native), context)

    async def count(self, data: bytes | JSONObject, headers: Mapping[str, str], context: AttemptContext) -> int:
        """Return the upstream's count for the body of a request; raises UpstreamError."""
        with NamedErrors("the count", _COUNT_S), Deadline(_COUNT_S):
            answer = await self.upstream.post(f"{_PATH}/count_tokens", context, data, headers)
        if (count := count_in(answer)) is None:
            raise UpstreamBroken("The upstream's answer holds no count of tokens.")
        return count

    def _headers(self, native: NativeRequest) -> Mapping[str, str]:
        """Return the headers of the client that go along; its betas before those of the operator."""
        found = {name: native.headers[name] for name in HEADERS if name in native.headers}
        if self.config.betas == "pass" and not self.config.beta and not self.config.deny_betas:
            return found
        own = [] if self.config.betas == "strip" else _betas(found.get("anthropic-beta", ""))
        betas = dict.fromkeys([*own, *self.config.beta])
        found["anthropic-beta"] = ",".join(beta for beta in betas if beta not in self.config.deny_betas)
        return found if found["anthropic-beta"] else {key: found[key] for key in found if key != "anthropic-beta"}


def _new_id() -> str:
    """Return the id of a message whose upstream gives it none."""
    return f"msg_{os.urandom(12).hex()}"


def _betas(header: str) -> list[str]:
    return [beta.strip() for beta in header.split(",") if beta.strip()]
