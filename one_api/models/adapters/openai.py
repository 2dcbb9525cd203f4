"""The adapter for any server that speaks OpenAI's Chat Completions dialect."""

import asyncio
import logging
import os
import time
from contextlib import suppress
from typing import Any

from one_api.errors import UpstreamBroken, UpstreamError
from one_api.models.adapters.base import BaseModelAdapter, ChunkStream, ModelInfo
from one_api.models.adapters.reports import error_of_payload
from one_api.models.adapters.upstream import Upstream
from one_api.settings import OpenAIConfig, Secret
from one_api.wire.json import JSONObject
from one_api.wire.openai_request import Dialect, prepare
from one_api.wire.openai_response import ErrorPayload, Identity, InvalidAnswer, normalise
from one_api.wire.openai_stream import OpenAIStream

logger = logging.getLogger(__name__)

#: How long one question for the model list may take, in seconds.
_DISCOVERY_TIMEOUT_S = 10.0
#: Pause after a failed question: doubles from the first to the last, in seconds.
_DISCOVERY_RETRY_S = (0.5, 10.0)
#: More models than this from one upstream are not kept.
_MOST_MODELS = 10_000
#: Keys of a model entry that we set ourselves, or that mean nothing behind a gateway.
_OWN_KEYS = frozenset({"id", "object", "created", "owned_by", "permission", "root", "parent"})


class OpenAIAdapter(BaseModelAdapter):
    """One account at OpenAI, or one server that imitates it."""

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        self._name = name
        self._config = config
        headers = {"authorization": Secret(f"Bearer {config.api_key.reveal()}")} if config.api_key else {}
        self._upstream = Upstream(config.base_url, headers, config.timeouts)
        self._dialect = Dialect(config.stream_usage, config.developer_as_system)
        self._models = {model: ModelInfo(model, name) for model in config.models or ()}
        self._pending: str | None = None if config.models is not None else "its models are not known yet"
        self._tried = asyncio.Event()
        self._discovery: asyncio.Task[None] | None = None

    def list_models(self) -> list[ModelInfo]:
        """Return the configured models, or those that the upstream listed last."""
        return list(self._models.values())

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what the upstream said of one model."""
        return self._models.get(model_id)

    @property
    def pending(self) -> str | None:
        """Say why no model list has been had yet."""
        return self._pending

    async def start(self) -> None:
        """Begin to ask for the model list, now and then, unless it is configured."""
        if self._config.models is None and self._discovery is None:
            self._discovery = asyncio.get_running_loop().create_task(self._keep_discovering())

    async def settled(self, timeout_s: float) -> None:
        """Wait for the end of the first question."""
        if self._discovery is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._tried.wait()

    async def _keep_discovering(self) -> None:
        pause_s, longest_s = _DISCOVERY_RETRY_S
        while True:
            try:
                await self._discover()
            except UpstreamError as error:
                if self._pending is not None and self._pending != error.message:
                    self._pending = error.message
                    logger.warning("adapter %s: its model list cannot be had: %s", self._name, error.message)
                wait_s, pause_s = pause_s, min(pause_s * 2, longest_s)
            else:
                wait_s, pause_s = self._config.discovery_interval_s, _DISCOVERY_RETRY_S[0]
            self._tried.set()
            await asyncio.sleep(wait_s)

    async def _discover(self) -> None:
        """Ask once; what was known stays when the answer is of no use."""
        listing = (await self._upstream.get_json("/models", _DISCOVERY_TIMEOUT_S)).get("data")
        if not isinstance(listing, list):
            raise UpstreamBroken("The upstream's model list holds no `data`.")
        found = {info.id: info for entry in listing[:_MOST_MODELS] if (info := _model_info(entry, self._name))}
        if self._pending is not None:
            logger.info("adapter %s: %d models", self._name, len(found))
        self._models, self._pending = found, None

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
        """See ``BaseModelAdapter``. The request passes through but for what the upstream's dialect needs."""
        named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stream": stream or None}
        given = {key: value for key, value in named.items() if value is not None}
        body = prepare({"model": model, "messages": messages, **given, **kwargs}, self._dialect)
        identity = Identity(f"chatcmpl-{os.urandom(16).hex()}", int(time.time()), model)
        if stream:
            options = kwargs.get("stream_options") or {}
            translator = OpenAIStream(identity, include_usage=bool(options.get("include_usage")))
            return await self._upstream.post_stream("/chat/completions", body, translator)
        answer = await self._upstream.post_json("/chat/completions", body)
        try:
            return normalise(answer, identity)
        except ErrorPayload as error:
            raise error_of_payload(error.payload) from None
        except InvalidAnswer as error:
            raise UpstreamBroken(f"The upstream's answer cannot be used: {error}.") from None

    async def aclose(self) -> None:
        """Stop asking, and close the session."""
        if self._discovery is not None:
            self._discovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._discovery
            self._discovery = None
        await self._upstream.aclose()


def _model_info(entry: Any, owner: str) -> ModelInfo | None:
    """Read one entry of an upstream's model list; None when it is none."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        return None
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
