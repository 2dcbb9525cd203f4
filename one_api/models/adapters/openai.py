"""The adapter for any server that speaks OpenAI's Chat Completions dialect."""

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from one_api.contract import ChunkStream, ModelInfo
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.answer import read_answer
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.openai.reasoning_names import ReasoningNames, name_in_body, other_name
from one_api.dialects.openai.request import Dialect, prepare
from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.errors import UpstreamBroken, UpstreamRejected
from one_api.models.adapters.base import RemoteAdapter
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.upstream.client import Upstream
from one_api.upstream.discovery import DISCOVERY_TIMEOUT_S, entries_of
from one_api.upstream.errors import Reports
from one_api.upstream.scrubbing import Scrubber, addresses_in, secrets_in

T = TypeVar("T")

#: Keys of a model entry that we set ourselves, or that mean nothing behind a gateway.
_OWN_KEYS = frozenset({"id", "object", "created", "owned_by", "permission", "root", "parent"})


class OpenAIAdapter(RemoteAdapter):
    """One account at OpenAI, or one server that imitates it."""

    def __init__(self, name: str, config: OpenAIConfig, reports: Reports | None = None) -> None:
        """``reports`` reads the upstream's errors; by default one that knows this adapter's own secrets."""
        self._reports = reports or Reports(name, Scrubber(secrets_in(config), addresses_in(config)))
        headers = {"authorization": Secret(f"Bearer {config.api_key.reveal()}")} if config.api_key else {}
        upstream = Upstream(config.base_url, headers, config.timeouts, reports=self._reports, proxy=config.proxy)
        super().__init__(name, upstream, config.models, config.discovery_interval_s)
        self._prefill = config.prefill
        self._dialect = Dialect(config.stream_usage, config.developer_as_system)
        self._reasoning = ReasoningNames()

    async def _ask_for_models(self) -> list[ModelInfo]:
        listing = await self._upstream.get_json("/models", DISCOVERY_TIMEOUT_S)
        return [_model_info(entry, self._name) for entry in entries_of(listing)]

    def prefill_start(self, model: str, text: str) -> str | None:
        """See ``BaseModelAdapter``: nothing but the configuration tells."""
        return text if self._prefill else None

    async def complete(self, request: ChatRequest) -> JSONObject:
        """See ``BaseModelAdapter``. The request passes through but for what the upstream's dialect needs."""
        answer = await self._send(request, partial(self._upstream.post, "/chat/completions"))
        self._reasoning.learn(request.model, name_in_body(answer))
        try:
            return read_answer(answer, _identity(request), choices=_choices_of(request), tools=_tools_of(request))
        except ErrorPayload as error:
            raise self._reports.error_of_payload(error.payload) from None
        except InvalidAnswer as error:
            raise UpstreamBroken(f"The upstream's answer cannot be used: {error}.") from None

    async def stream(self, request: ChatRequest) -> ChunkStream:
        """See ``complete``."""

        async def post(body: JSONObject) -> ChunkStream:
            translator = OpenAIStream(
                _identity(request),
                include_usage=request.include_usage,
                choices=_choices_of(request),
                tools=_tools_of(request),
                on_reasoning_name=partial(self._reasoning.learn, request.model),
            )
            return await self._upstream.post_stream("/chat/completions", body, translator)

        return await self._send(request, post)

    async def _send(self, request: ChatRequest, post: Callable[[JSONObject], Awaitable[T]]) -> T:
        """Send ``request``; once more when the upstream refuses the client's word for reasoning, and has another."""
        body = prepare(request.body, self._dialect, self._reasoning.get(request.model))
        try:
            return await post(body)
        except UpstreamRejected as error:
            other = other_name(error.message, body["messages"])
            if other is None:
                raise
        answer = await post(prepare(request.body, self._dialect, other))
        self._reasoning.learn(request.model, other)
        return answer


def _identity(request: ChatRequest) -> Identity:
    return Identity(f"chatcmpl-{os.urandom(16).hex()}", int(time.time()), request.model)


def _choices_of(request: ChatRequest) -> int:
    """Return how many choices are asked for."""
    return n if isinstance(n := request.body.get("n"), int) else 1


def _tools_of(request: ChatRequest) -> frozenset[str]:
    """Return the names of the functions among the tools of a request."""
    functions = [tool.get("function") for tool in request.body.get("tools") or () if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _model_info(entry: JSONObject, owner: str) -> ModelInfo:
    """Read one entry of an upstream's model list."""
    window = next((entry[key] for key in ("context_window", "context_length", "max_model_len") if entry.get(key)), None)
    created, owned_by, most = entry.get("created"), entry.get("owned_by"), entry.get("max_output_tokens")
    return ModelInfo(
        id=entry["id"],
        owned_by=owned_by if isinstance(owned_by, str) else owner,
        created=created if isinstance(created, int) else 0,
        context_window=window if isinstance(window, int) else None,
        max_output_tokens=most if isinstance(most, int) else None,
        extra={key: value for key, value in entry.items() if key not in _OWN_KEYS},
    )
