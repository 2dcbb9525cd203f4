"""The record of each request, and the headers that every answer carries."""

import asyncio
import math
import random
import re
import string
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from flask import Flask, Response

from one_api.accounts.money import dollars
from one_api.api.service import Service, service
from one_api.api.snapshot import Snapshot
from one_api.contract import Caller
from one_api.dialects import durations
from one_api.errors import GatewayError, ShuttingDown
from one_api.records import ID, CallContext, CallRecord
from one_api.serving.bridge import await_
from one_api.serving.current import current_globals, current_request
from one_api.serving.request_body import RequestBody
from one_api.serving.responses import add_headers, has_header
from one_api.utils.auth import check_model

#: Probes and scrapes come every few seconds and are of no interest: they are not recorded.
_UNRECORDED = frozenset({"/health", "/ready", "/metrics"})
#: The headers in which clients (SDKs, Codex, Claude Code) send ids of their own, and what these are called in the log.
_CLIENT_IDS = (
    ("HTTP_X_CLIENT_REQUEST_ID", "client_request_id"),
    ("HTTP_SESSION_ID", "session_id"),
    ("HTTP_X_CLAUDE_CODE_SESSION_ID", "session_id"),
    ("HTTP_THREAD_ID", "thread_id"),
)
#: What a model's name may bring into a header as it is; all else is percent-encoded.
_HEADER_SAFE = string.punctuation
#: Below it are the addresses of Anthropic's API.
ANTHROPIC_PATH, MODELS_PATH = "/v1/messages", "/v1/models"
#: Anthropic's clients send it with each request.
ANTHROPIC_HEADER = "anthropic-version"
_ANTHROPIC_LIMITS = "anthropic-ratelimit-"
#: Longer lists of warnings are cut, in characters.
_MAX_WARNINGS = 1500


class OpenCall:
    """One request, from its arrival to the last byte of its answer, whole or streamed. Only here it ends."""

    def __init__(self, record: CallRecord, used: Snapshot, parts: Service) -> None:
        self.record = record
        #: What it is served with.
        self.snapshot = used
        #: Its answer is read after the view has returned; its reader ends the call.
        self.is_streamed = False
        #: Whose stream it is; None while it is no stream.
        self.caller: Caller | None = None
        self._parts = parts
        self._ended = False
        self._task: asyncio.Task[object] | None = None
        self._cut_by: GatewayError | None = None
        used.requests.add(self)
        self._is_recorded = record.path not in _UNRECORDED
        if self._is_recorded:
            parts.calls.add(self)

    def begin_stream(self) -> None:
        """Note that the answer of the current request will be read after its view has returned."""
        self.is_streamed, self.caller, self._task = True, current_globals().get("caller"), asyncio.current_task()

    def cut(self, why: GatewayError) -> None:
        """End a stream, with ``why`` as its last event. One that a thread reads goes on."""
        self._cut_by = why
        if self._task is not None:
            self._task.cancel()

    @property
    def interruption(self) -> GatewayError:
        """Return the error that ends a stream that is cut: why, or that the process ends."""
        return self._cut_by or ShuttingDown("The gateway is shutting down: the answer is not complete.")

    async def end(self, *, cancelled: bool, close: Callable[[], Awaitable[None]] | None = None) -> None:
        """Settle what the request was counted for, and hand its record to every observer. It ends only once.

        Args:
            cancelled: the client has left before the end.
            close: lets go of what the answer came from; it may note in the record what that took.
        """
        if self._ended:
            return
        self._ended = True
        self.record.end(cancelled=cancelled)
        try:
            if close is not None:
                await close()
        finally:
            await self._report()

    async def _report(self) -> None:
        try:
            if self._is_recorded:
                await self.snapshot.limits.settle(self.record)
                if self.record.cost is None:
                    self.record.cost = _cost(self.record, self.snapshot)
                if self._parts.accounts is not None:
                    self._parts.accounts.book(self.record, self.snapshot.prices)
                for observer in (self._parts.recent, *self._parts.observers):
                    observer.on_call(self.record)
        finally:
            self.snapshot.requests.discard(self)
            self._parts.calls.discard(self)


def call_context(model: str, *, stream: bool) -> CallContext:
    """Note what the current request asks for, and return what is known of it beside its body.

    Raises:
        Forbidden: when the key may not use the model.
    """
    known = current_globals()
    record: CallRecord = known.call
    check_model(known.caller, model)
    record.model, record.stream = model, stream
    accounts, used = service().accounts, known.snapshot
    within = (
        accounts.within_budgets(known.caller, record, used.config.budget, used.prices) if accounts is not None else None
    )
    cache_control = current_request().environ.get("HTTP_CACHE_CONTROL")
    return CallContext(record, known.caller, cache_control, within, known.get("is_short", False))


def register(app: Flask) -> None:
    """Record every request of ``app``."""
    app.before_request(_begin)
    app.after_request(_add_headers)
    app.teardown_request(_end)


def _begin() -> None:
    parts, known, asked = service(), current_globals(), current_request()
    route = _template(asked.url_rule.rule) if asked.url_rule is not None else "unknown"
    known.snapshot = used = parts.snapshot
    known.call = record = CallRecord(_new_id(), asked.method, asked.path, route=route, config=used.digest[:8])
    if parts.tracing is not None:
        sent = asked.environ
        record.trace = parts.tracing.begin(sent.get("HTTP_TRACEPARENT"), sent.get("HTTP_TRACESTATE"))
    for header, name in _CLIENT_IDS:
        if (own_id := asked.environ.get(header)) is not None and ID.fullmatch(own_id):
            record.client_ids[name] = own_id
    known.open_call = OpenCall(record, used, parts)
    asked.max_content_length = used.config.server.max_body_bytes


@lru_cache(maxsize=256)
def _template(rule: str) -> str:
    """Return a route's path with names for its variable parts: ``/v1/models/{model}``."""
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule)


def _new_id() -> str:
    """Return the id of a request that has just come: ids rise with the milliseconds that they begin with."""
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def _add_headers(response: Response) -> Response:
    known = current_globals()
    record: CallRecord | None = known.get("call")
    if record is None:
        return response
    record.status = response.status_code
    record.bytes_out = response.calculate_content_length() or 0
    body = current_request().environ["wsgi.input"]
    if type(body) is RequestBody:  # that of our own server, which knows more
        record.waited_s, record.bytes_in = record.waited_s + body.waited_s, body.taken
    else:
        record.bytes_in = current_request().content_length or 0
    headers = {
        **record.upstream_headers,
        "x-request-id": record.request_id,
        "x-gateway-attempts": str(len(record.attempts)),
        "openai-processing-ms": str(round((time.monotonic() - record.started) * 1000)),
        **known.get("limit_headers", {}),
    }
    if record.deployment is not None:
        headers["x-gateway-deployment"] = _in_header(record.deployment)
    if record.cache is not None:
        headers["x-gateway-cache"] = record.cache
    if record.cache_age_s is not None:
        headers["age"] = str(record.cache_age_s)
    if (cost := _cost(record, known.snapshot)) is not None:
        record.cost = cost
        headers["x-gateway-cost"] = dollars(cost)
    if record.warnings:
        headers["x-gateway-warnings"] = _warnings(record.warnings)
    if is_anthropic():
        headers = _for_anthropic(headers, record.request_id)
    if not has_header(response.headers, "cache-control"):
        headers["cache-control"] = "no-store"
    add_headers(response.headers, headers)
    return response


@lru_cache(maxsize=256)
def _in_header(deployment: str) -> str:
    return quote(deployment, safe=_HEADER_SAFE)


def _cost(record: CallRecord, used: Snapshot) -> int | None:
    """Return what an answer costs in nano-dollars; None where that is not known, or not yet."""
    prices = used.prices
    if prices is None or record.deployment is None or (record.usage is None and record.units is None):
        return None
    rates = prices.rates(record.deployment)
    return None if rates is None else rates.cost(record.usage, record.units)


def _for_anthropic(headers: dict[str, str], request_id: str) -> dict[str, str]:
    """Return headers as Anthropic's clients read them: the limits of the upstream's account are not the caller's."""
    found = {name: value for name, value in headers.items() if not name.startswith(_ANTHROPIC_LIMITS)}
    own = current_globals().get("limit_headers", {})
    for kind in ("requests", "tokens"):
        for what in ("limit", "remaining", "reset"):
            if (value := own.get(f"x-ratelimit-{what}-{kind}")) is not None:
                found[f"{_ANTHROPIC_LIMITS}{kind}-{what}"] = _moment_in(value) if what == "reset" else value
    return found | {"request-id": request_id}


def _moment_in(duration: str) -> str:
    """Return when a duration such as ``1m30s`` has passed, in UTC and whole seconds, as RFC 3339 writes it."""
    moment = math.ceil(time.time() + (durations.read(duration) or 0))
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_anthropic() -> bool:
    """Return whether the current request's client expects Anthropic's words: its address is one of that API.

    The lists of models are at one address for all clients; there a header decides, as at addresses that nobody serves.
    """
    asked = current_request()
    if asked.path.startswith(ANTHROPIC_PATH):
        return True
    of_all = asked.url_rule is None or asked.path.startswith(MODELS_PATH)
    return of_all and ANTHROPIC_HEADER in asked.headers


def _warnings(found: list[str]) -> str:
    """Return warnings for a header: each once, without a character that is not safe there, and not too much of it."""
    text = ", ".join(dict.fromkeys(found))
    return quote(text if len(text) <= _MAX_WARNINGS else f"{text[:_MAX_WARNINGS]}...", safe=_HEADER_SAFE + " ")


def _end(error: BaseException | None) -> None:
    """End a request whose answer is complete, or will never come."""
    call: OpenCall | None = current_globals().get("open_call")
    if call is not None and not call.is_streamed:
        await_(call.end(cancelled=isinstance(error, asyncio.CancelledError)))
