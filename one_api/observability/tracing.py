"""Traces over OTLP, with OpenTelemetry's exporter (the extra ``otel``); imported only where an endpoint is set.

A request costs ids while it is served. When it has ended it is decided whether its trace is kept; then its spans are
made of its record, with their true times, and a thread sends them. ``docs/tracing.md`` has what is in them.
"""

import logging
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.re import parse_env_headers

from one_api import __version__
from one_api.contract import Usage
from one_api.dialects.traces import parse, parse_state
from one_api.records import AttemptRecord, CallRecord, Trace
from one_api.settings.adapters import AdapterConfig
from one_api.settings.observing import TelemetryConfig
from one_api.settings.providers import provider_of

logger = logging.getLogger(__name__)

#: Spans that wait for the thread; what comes on top is counted and not kept.
MAX_WAITING = 2048
#: Spans that are sent at once, and how long they gather, in seconds.
_BATCH, _GATHER_S = 512, 1.0
#: How long the end of the process waits for the last ones, in seconds.
_LAST_SPANS_S = 2.0
#: What is read of a collector's answer, in bytes: it says nothing that we need.
_MAX_ANSWER_BYTES = 64 * 1024
#: Keys whose forced traces are counted.
_MAX_KEYS = 10_000
_SCOPE = InstrumentationScope("one_api", __version__)
#: Kinds of requests by the names that the conventions have for them.
_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}


class Tracing:
    """Keeps the traces that are wanted, and has a thread send them. It is one of the observers."""

    def __init__(self, settings: TelemetryConfig, adapters: Callable[[], Mapping[str, AdapterConfig]]) -> None:
        """``adapters`` returns the settings of those that are in use."""
        self._settings = settings
        self._adapters = adapters
        #: Spans that were not sent.
        self.dropped = 0
        self._kept: dict[str, tuple[int, int]] = {}
        #: Attempts that still went on, for others, when the request that began them had ended; see ``_attempt_span``.
        self._unsettled: list[tuple[AttemptRecord, CallRecord, Trace, int]] = []
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget_thread)
        own = {"service.name": "one_api", "service.version": __version__, "service.instance.id": str(uuid4())}
        self._resource = Resource.create({name: value for name, value in own.items() if name not in _named_outside()})

    def _forget_thread(self) -> None:
        self._thread, self._wake = None, threading.Event()

    def begin(self, traceparent: str | None, tracestate: str | None) -> Trace:
        """Return the trace of a request that has just come; the caller's counts once the caller is known."""
        parent = None
        if traceparent is not None and self._settings.trust_trace != "ignore":
            parent = parse(traceparent)
        state = parse_state(tracestate) if tracestate is not None and parent is not None else None
        ids = os.urandom(24).hex()
        sampled = random.random() < self._settings.ratio
        given = (*parent, state) if parent is not None else None
        return Trace(ids[:32], ids[32:], sampled, given, links=self._settings.trust_trace == "link")

    # The end of a request

    def on_call(self, record: CallRecord) -> None:
        """See ``Observer``."""
        if self._unsettled:
            self._keep_settled()
        trace = record.trace
        if trace is None or not self._is_kept(record, trace):
            return
        if not self._has_room(1 + len(record.attempts)):
            return
        offset_ns = time.time_ns() - time.monotonic_ns()
        spans = [self._request_span(record, trace, offset_ns)]
        for attempt in record.attempts:
            if attempt.seconds is None:
                self._unsettled.append((attempt, record, trace, offset_ns))
            else:
                spans.append(self._attempt_span(attempt, record, trace, offset_ns))
        self._keep(spans)

    def on_late_attempt(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """See ``Observer``: the trace of a request whose client has left is kept."""
        if record.trace is not None and self._has_room(1):
            self._unsettled.append((attempt, record, record.trace, time.time_ns() - time.monotonic_ns()))

    def _keep_settled(self) -> None:
        """Keep the spans of those attempts which went on for others that have ended since."""
        going_on = self._unsettled
        self._unsettled = [each for each in going_on if each[0].seconds is None]
        if settled := [each for each in going_on if each[0].seconds is not None]:
            self._keep([self._attempt_span(*each) for each in settled])

    def _has_room(self, spans: int) -> bool:
        """Return whether so many more may wait; if not, they are counted as dropped."""
        has_room = len(self._waiting) + len(self._unsettled) + spans <= MAX_WAITING
        self.dropped += 0 if has_room else spans
        return has_room

    def _keep(self, spans: list[ReadableSpan]) -> None:
        self._waiting.extend(spans)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="one_api-traces", daemon=True)
            self._thread.start()
        self._wake.set()

    def _is_kept(self, record: CallRecord, trace: Trace) -> bool:
        if trace.sampled or record.outcome not in ("ok", "cached"):
            return True
        if any(attempt.kind != "first" for attempt in record.attempts):
            return True
        took_s = (record.ended or record.started) - record.started
        return took_s > self._settings.slow_s or (trace.is_forced and self._may_force(record.caller or ""))

    def _may_force(self, caller: str) -> bool:
        """Count a trace that only its caller's flag keeps: of each key there are so many in a second."""
        second = int(time.monotonic())
        since, count = self._kept.get(caller, (second, 0))
        if since != second:
            count = 0
        if len(self._kept) >= _MAX_KEYS:
            self._kept.clear()
        self._kept[caller] = (second, count + 1)
        return count < self._settings.forced_per_s

    # Spans

    def _request_span(self, record: CallRecord, trace: Trace, offset_ns: int) -> ReadableSpan:
        parent = _context(trace.trace_id, trace.parent_id) if trace.parent_id is not None else None
        return ReadableSpan(
            f"{record.method} {record.route}" if record.route != "unknown" else record.method,
            _context(trace.trace_id, trace.span_id),
            parent,
            self._resource,
            _attributes(record),
            links=[Link(_context(*trace.link))] if trace.link is not None else (),
            kind=SpanKind.SERVER,
            status=_failed(record.error or "") if (record.status or 500) >= 500 or _is_cut(record) else Status(),
            start_time=_ns(record.started, offset_ns),
            end_time=_ns(record.ended if record.ended is not None else record.started, offset_ns),
            instrumentation_scope=_SCOPE,
        )

    def _attempt_span(self, attempt: AttemptRecord, record: CallRecord, trace: Trace, offset_ns: int) -> ReadableSpan:
        """Make a span; ``offset_ns`` is how far Unix time is ahead of monotonic time, the same for a whole trace."""
        name, _, model = attempt.deployment.partition("/")
        operation = _OPERATIONS.get(trace.operation, trace.operation)
        ended = attempt.began + attempt.seconds if attempt.seconds is not None else record.ended or attempt.began
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "one_api.deployment": attempt.deployment,
            "one_api.outcome": attempt.outcome,
            **trace.parameters,
            **self._upstream(name),
            **_response(attempt, streamed=record.stream),
        }
        is_error = attempt.outcome[:1].isupper()
        if is_error:
            attributes["error.type"] = snake_case(attempt.outcome)
        return ReadableSpan(
            f"{operation} {model}",
            _context(trace.trace_id, attempt.span_id or os.urandom(8).hex()),
            _context(trace.trace_id, trace.span_id),
            self._resource,
            attributes,
            kind=SpanKind.CLIENT,
            status=_failed(snake_case(attempt.outcome)) if is_error else Status(),
            start_time=_ns(attempt.began, offset_ns),
            end_time=_ns(ended, offset_ns),
            instrumentation_scope=_SCOPE,
        )

    def _upstream(self, adapter: str) -> dict[str, str | int]:
        settings = self._adapters().get(adapter)
        if settings is None:
            return {}
        found: dict[str, str | int] = {"gen_ai.provider.name": provider_of(settings)}
        address = urlsplit(getattr(settings, "base_url", ""))
        if address.hostname:
            found["server.address"] = address.hostname
            found["server.port"] = address.port or (443 if address.scheme == "https" else 80)
        return found

    # The thread

    def _run(self) -> None:
        exporter = OTLPSpanExporter(self._settings.url, session=_CollectorSession())
        while not self._stopping or self._waiting:
            if not self._waiting:
                self._wake.wait()
                self._wake.clear()
                if not self._stopping:
                    time.sleep(_GATHER_S)  # lets a batch gather
            # They count as waiting until they have been sent: the queue is bounded whatever the collector does.
            batch = [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]
            try:
                if batch and exporter.export(batch) is not SpanExportResult.SUCCESS:
                    self.dropped += len(batch)
            except Exception:  # whatever the exporter does: the next batch may be sent
                logger.exception("%d spans could not be sent", len(batch))
                self.dropped += len(batch)
            for _ in batch:
                self._waiting.popleft()

    def close(self) -> None:
        """Send what is left, as far as the collector takes it within two seconds; to be called in a thread."""
        if self._unsettled:
            self._keep([self._attempt_span(*each) for each in self._unsettled])
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_LAST_SPANS_S)


class _CollectorSession(requests.Session):
    """Reads no more of a collector's answer than an answer has, and takes a redirect for a failure.

    The exporter alone would read one without end into memory, and count spans as sent that were only redirected.
    """

    def send(self, request: requests.PreparedRequest, **how: Any) -> requests.Response:
        """Send a request; an override point of requests."""
        response = super().send(request, **(how | {"stream": True}))
        with response:
            next(response.iter_content(_MAX_ANSWER_BYTES), None)
        if 300 <= response.status_code < 400:
            raise requests.RequestException("the collector redirects, which is not followed: correct the endpoint")
        return response


class _OnceAMinute(logging.Filter):
    """Lets one line a minute through: the exporter has one for each try."""

    _silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + 60
        return True


logging.getLogger(OTLPSpanExporter.__module__).addFilter(_OnceAMinute())


def _hide_header(record: logging.LogRecord) -> bool:
    """Name the variable that the library cannot read, not the text of it, which the library repeats: it is a secret."""
    record.msg, record.args = "a part of OTEL_EXPORTER_OTLP_HEADERS is not NAME=VALUE, and is not sent", ()
    return True


logging.getLogger(parse_env_headers.__module__).addFilter(_hide_header)


def _named_outside() -> set[str]:
    """Return what the variables of OpenTelemetry say of this service, which comes before what we say."""
    return {name for name, value in Resource.create().attributes.items()
            if name.startswith("service.") and not str(value).startswith("unknown_service")}  # fmt: skip


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _attributes(record: CallRecord) -> dict[str, str | int]:
    found = {
        "http.request.method": record.method,
        "http.route": None if record.route == "unknown" else record.route,
        "http.response.status_code": record.status,
        "one_api.request_id": record.request_id,
        "one_api.model": record.known_model,
        "one_api.deployment": record.deployment,
        "one_api.outcome": record.outcome,
        "one_api.attempts": len(record.attempts),
        "one_api.cache": record.cache,
        "error.type": record.error,
    }
    return {name: value for name, value in found.items() if value is not None}


def _response(attempt: AttemptRecord, *, streamed: bool) -> dict[str, str | int | float | tuple[str]]:
    """Return what is known of an upstream's response; of the answer only what says nothing of its content."""
    found = {
        "http.response.status_code": attempt.status,
        "gen_ai.request.stream": True if streamed else None,
        "gen_ai.response.id": attempt.response_id,
        "gen_ai.response.model": attempt.response_model,
        "gen_ai.response.finish_reasons": (attempt.finish_reason,) if attempt.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": attempt.first_s if streamed else None,
    }
    known = {name: value for name, value in found.items() if value is not None}
    return known if attempt.usage is None else known | _usage(attempt.usage)


def _usage(usage: Usage) -> dict[str, int]:
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    whole = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    return whole | {name: tokens for name, tokens in parts.items() if tokens}


def _is_cut(record: CallRecord) -> bool:
    return record.error is not None and record.status == 200


def _failed(what: str) -> Status:
    return Status(StatusCode.ERROR, what)


def _ns(moment: float, offset_ns: int) -> int:
    return int(moment * 1e9) + offset_ns


def snake_case(name: str) -> str:
    """Return the name of a class in the form that attributes have: ``upstream_timeout``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
