"""The adapter for Anthropic's Messages API, and for any server that speaks it."""

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from one_api.contract import ChunkStream, ModelInfo
from one_api.dialects import json
from one_api.dialects.anthropic.models import ModelTraits, corrected, entry_of, traits_of
from one_api.dialects.anthropic.request import RequestOptions, Translated, translate
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest
from one_api.models.adapters.base import BaseModelAdapter, RemoteAdapter
from one_api.records import AttemptContext
from one_api.serving.fairness import aside
from one_api.serving.tasks import abandon
from one_api.serving.timeouts import Deadline
from one_api.settings.adapters import ClaudeConfig
from one_api.settings.kinds import Secret
from one_api.settings.providers import tells_trace
from one_api.upstream.anthropic_stream import MessageStream, open_message
from one_api.upstream.choices import ChoicesStream
from one_api.upstream.client import Upstream
from one_api.upstream.discovery import DISCOVERY_TIMEOUT_S, MAX_MODELS, entries_of
from one_api.upstream.errors import Reports
from one_api.upstream.exceptions import NamedErrors
from one_api.upstream.foreign import whole
from one_api.upstream.identity import new_identity
from one_api.upstream.limit_headers import claude_headers
from one_api.upstream.native_messages import NativeMessages
from one_api.upstream.scrubbing import Scrubber, addresses_in, secrets_in
from one_api.upstream.thinking_store import ReplayCache, key_of_message

#: Models that one page of the list holds.
_PAGE = 1000
#: A conversation with more messages is translated beside the loop, also where its bytes are few.
_SHORT_MESSAGES = 100
#: What of a request counts as its input.
_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"})
#: The most choices that are emulated.
_MAX_CHOICES = 16
#: How keys begin that are accepted as a bearer token only.
_OAUTH = "sk-ant-oat"


class ClaudeAdapter(RemoteAdapter):
    """One account at Anthropic, or one server that imitates it.

    The upstream always streams, so that no connection is idle and a client that leaves is noticed. Thinking that
    clients drop is kept in memory and sent back in the next request of the conversation.
    """

    apis = frozenset({"messages"})
    list_tells_more = True

    def __init__(self, name: str, config: ClaudeConfig, reports: Reports | None = None) -> None:
        """``reports`` reads the upstream's errors; by default one that knows this adapter's own secrets."""
        base_url = config.base_url.rstrip("/").removesuffix("/v1")
        reports = replace(
            reports or Reports(name, Scrubber(secrets_in(config), addresses_in(config))),
            keep_529=config.keep_529,
            select_headers=claude_headers,
        )
        upstream = Upstream(
            base_url,
            request_headers(config),
            config.timeouts,
            reports=reports,
            proxy=config.proxy,
            propagate_trace=tells_trace(config),
        )
        super().__init__(name, upstream, config.models, config.discovery_interval_s)
        self._config = config
        self._options = _options(name, config)
        self._replay = ReplayCache()
        self._native = NativeMessages(upstream, reports, config)
        #: What the upstream's list says of its models.
        self._entries: dict[str, JSONObject] = {}

    def inherit(self, before: BaseModelAdapter) -> None:
        """See ``BaseModelAdapter``: also what models can do, and the thinking of conversations."""
        super().inherit(before)
        if isinstance(before, ClaudeAdapter):
            self._entries, self._replay = before._entries, before._replay

    async def _ask_for_models(self) -> list[ModelInfo]:
        """Return all pages of the list; models that are retired are not in it."""
        entries: dict[str, JSONObject] = {}
        after = ""
        while len(entries) < MAX_MODELS:
            page = await self._upstream.get_json(f"/v1/models?limit={_PAGE}{after}", DISCOVERY_TIMEOUT_S)
            known = len(entries)
            entries |= {entry["id"]: entry for entry in entries_of(page)}
            last = page.get("last_id") if isinstance(page, dict) and page.get("has_more") is True else None
            if not isinstance(last, str) or len(entries) == known:
                break
            after = f"&after_id={quote(last, safe='')}"
        self._entries = entries
        return [_model_info(entry, self._name) for entry in entries.values() if entry.get("lifecycle") != "retired"]

    def _traits(self, model: str) -> ModelTraits:
        return corrected(traits_of(model), entry_of(model, self._entries))

    def prefill_start(self, model: str, text: str) -> str | None:
        """See ``BaseModelAdapter``: the upstream takes no white space at the end, and newer families take none."""
        able = self._config.prefill and self._traits(model).prefill
        return (text.rstrip() or None) if able else None

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``. What Anthropic cannot do is refused, or dropped with a warning."""
        if request.native is not None:
            return await self._native.complete(request.native, request.model, context)
        limit_s = self._config.timeouts.total_s
        opened = await self._opening(request, context, include_usage=True)
        with NamedErrors("the answer", limit_s), Deadline(limit_s):
            return await _whole(await opened)

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """See ``complete``."""
        if request.native is not None:
            return await self._native.stream(request.native, request.model, context)
        return await (await self._opening(request, context, include_usage=request.include_usage))

    async def count_tokens(self, request: ChatRequest, context: AttemptContext) -> int | None:
        """See ``BaseModelAdapter``: the upstream counts."""
        if request.native is not None and self._takes(request.native):
            return await self._native.count_tokens(request.native, request.model, context)
        translated = await self._translated(request, context)
        body = {key: value for key, value in translated.body.items() if key in _COUNTED}
        return await self._native.count(json.encode(body), {}, context)

    async def _opening(
        self, request: ChatRequest, context: AttemptContext, *, include_usage: bool
    ) -> Coroutine[Any, Any, ChunkStream]:
        """Translate ``request``, and return what opens its stream."""
        body, choices = dict(request.body), 1
        if self._config.emulate_n:
            choices = _choices(body)
        translated = await self._translated(request.with_body(body), context)
        return self._open_all(translated, context, choices, include_usage)

    async def _translated(self, request: ChatRequest, context: AttemptContext) -> Translated:
        """Return ``request`` in Anthropic's words."""
        context.counts_otherwise = True
        body = {key: value for key, value in request.body.items() if value is not None}
        find = partial(self._find, context.scope, request.model)
        work = partial(translate, body, self._traits(request.model), self._options, find)
        return await aside(work, is_short=context.is_short and len(body["messages"]) <= _SHORT_MESSAGES)

    def _find(self, scope: str, model: str, message: JSONObject) -> list[JSONObject] | None:
        """Return the blocks that an assistant message was made from, when they are still known."""
        return self._replay.find(key_of_message(scope, model, message))

    async def _open_all(
        self, translated: Translated, context: AttemptContext, choices: int, include_usage: bool
    ) -> ChunkStream:
        """Open the streams of all choices, and note what was dropped or altered."""
        opening = [
            asyncio.ensure_future(self._open(translated, context, include_usage=include_usage)) for _ in range(choices)
        ]
        try:
            streams = await asyncio.gather(*opening)
        except BaseException:
            await asyncio.gather(*map(abandon, opening))
            raise
        context.warnings += [*translated.warnings, *streams[0].warnings]
        return streams[0] if choices == 1 else ChoicesStream(streams, include_usage=include_usage, pays_each=True)

    async def _open(self, translated: Translated, context: AttemptContext, *, include_usage: bool) -> MessageStream:
        model = translated.body["model"]
        stream = await open_message(
            partial(self._upstream.post_stream, "/v1/messages", context),
            translated.body,
            new_identity(model),
            replace(translated.response, provider_blocks=self._config.provider_blocks),
            include_usage=include_usage,
        )
        stream.on_end = partial(self._replay.keep_turn, context.scope, model)
        return stream


def request_headers(config: ClaudeConfig) -> dict[str, Secret]:
    """Return the headers of every request to the upstream: its version, its key, and what is in beta."""
    headers = {"anthropic-version": Secret(config.version)}
    if config.beta:
        headers["anthropic-beta"] = Secret(",".join(config.beta))
    if config.api_key is not None:
        key = config.api_key.reveal()
        bearer = config.key_header == "bearer" or key.startswith(_OAUTH)
        headers |= {"authorization": Secret(f"Bearer {key}")} if bearer else {"x-api-key": config.api_key}
    return headers


def _options(name: str, config: ClaudeConfig) -> RequestOptions:
    """Return what the operator decided; the key under which end users are hashed is one that only we can have."""
    known = config.api_key.reveal() if config.api_key else name
    return RequestOptions(
        strict=config.strict,
        version=config.version,
        default_max_tokens=config.default_max_tokens,
        user_secret=hashlib.sha256(f"one_api end users {known}".encode()).digest(),
        show_reasoning=config.show_reasoning,
        long_cache=config.long_cache,
        web_search=config.web_search,
        file_ids=config.file_ids,
    )


def _choices(body: JSONObject) -> int:
    """Take ``n`` out of ``body`` and return it."""
    number = body.pop("n", None)
    if number is None:
        return 1
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MAX_CHOICES:
        raise InvalidRequest(
            f"`n` must be a whole number from 1 to {_MAX_CHOICES}.", param="n", code="unsupported_value"
        )
    return number


async def _whole(stream: ChunkStream) -> JSONObject:
    """Return the completion that a stream amounts to."""
    answer = await whole(stream)
    for choice in answer["choices"]:
        choice["message"].setdefault("annotations", [])
    return answer


def _model_info(entry: JSONObject, owner: str) -> ModelInfo:
    """Read one entry of an upstream's model list, in Anthropic's form or in OpenAI's."""
    created, retires = entry.get("created"), entry.get("retires_at")
    window, most = entry.get("max_input_tokens"), entry.get("max_tokens")
    extra: JSONObject = {"shutdown_date": retires[:10] if isinstance(retires, str) else None}
    extra |= {key: entry[key] for key in ("display_name", "capabilities") if entry.get(key) is not None}
    return ModelInfo(
        id=entry["id"],
        owned_by="anthropic" if entry.get("type") == "model" else owner,
        created=created if isinstance(created, int) else _unix(entry.get("created_at")),
        context_window=window if isinstance(window, int) else None,
        max_output_tokens=most if isinstance(most, int) else None,
        extra=extra,
    )


def _unix(moment: Any) -> int:
    """Return a moment (RFC 3339) in Unix seconds; 0 when it is not one."""
    try:
        return max(0, int(datetime.fromisoformat(moment).timestamp()))
    except (TypeError, ValueError, OverflowError):
        return 0
