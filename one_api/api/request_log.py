"""The record of each request, from its arrival to its only end."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

from flask import Flask

from one_api.api import response_headers
from one_api.api.service import Service, service
from one_api.api.snapshot import Snapshot
from one_api.contract import Caller
from one_api.errors import GatewayError, ShuttingDown
from one_api.records import ID, CallContext, CallRecord
from one_api.serving.bridge import await_
from one_api.serving.current import current_globals, current_request
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
                    self.record.cost = self.snapshot.cost_of(self.record)
                if self._parts.accounts is not None:
                    self._parts.accounts.book(self.record, self.snapshot.prices)
                self._parts.recent.on_call(self.record)
                for observer in self._parts.observers:
                    observer.on_call(self.record)
                self.record.reported = True
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
    is_short, on_late_attempt = known.get("is_short", False), service().on_late_attempt
    return CallContext(record, known.caller, cache_control, within, is_short, on_late_attempt)


def register(app: Flask) -> None:
    """Record every request of ``app``."""
    app.before_request(_begin)
    app.after_request(response_headers.add_to)
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


def _end(error: BaseException | None) -> None:
    """End a request whose answer is complete, or will never come."""
    call: OpenCall | None = current_globals().get("open_call")
    if call is not None and not call.is_streamed:
        await_(call.end(cancelled=isinstance(error, asyncio.CancelledError)))
