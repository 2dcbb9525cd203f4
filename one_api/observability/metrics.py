"""The metrics of this process: which there are, and what the end of a request adds to them.

A label's value comes from the configuration or from a closed list, never from a request. ``docs/metrics.md`` has them.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from one_api import __version__
from one_api.observability.cells import (
    MAX_CELLS,
    OWN_SECONDS,
    SECONDS,
    TOKEN_SECONDS,
    C,
    Family,
    Histogram,
    Kind,
    Number,
)
from one_api.records import NANO, AttemptRecord, CallRecord

#: Samples, about, that are written before others have the loop.
_AT_ONCE = 50
#: What a deployment can be in, see ``routing.explain.state_of``.
STATES = ("closed", "open", "half_open", "probing", "ramping", "cooling_down", "full")
#: A deployment that is not there any more is forgotten after so many seconds.
_GONE_S = 3600.0
#: Attempts that still went on, for others, when the request that began them had ended.
_MAX_UNSETTLED = 1000

_ROUTE = ("route", "model", "stream")


class OpeningCircuit(Protocol):
    """The circuit of a deployment."""

    #: How often it has opened.
    openings: int


class Metrics:
    """What this process counts. All of it belongs to the loop that serves."""

    def __init__(self, *, per_key: bool = False, max_cells: int = MAX_CELLS) -> None:
        """With ``per_key`` requests, tokens and cost are counted for each key, too."""
        self.families: list[Family[Any]] = []
        self._max_cells = max_cells
        self._per_key = per_key
        #: Still went on when their request had ended, since the call is shared; and whether it is streamed.
        self._unsettled: list[tuple[AttemptRecord, bool]] = []
        #: When a deployment was first seen to be gone, in monotonic seconds.
        self._gone: dict[str, float] = {}
        #: By deployment: its circuit, and how many of its openings are counted.
        self._circuits: dict[str, tuple[OpeningCircuit, int]] = {}
        self._add_requests()
        self._add_attempts()
        self._add_keys()
        self._add_state()

    # Which there are

    def _add_requests(self) -> None:
        self.requests = self._counter("requests_total", "Requests that have ended.", *_ROUTE, "outcome")
        self.duration = self._histogram(
            "request_duration_seconds",
            "From the arrival of a request to the last byte of its answer.",
            SECONDS,
            *_ROUTE,
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From the arrival to the first content sent of a stream.", SECONDS, "model"
        )
        self.per_token = self._histogram(
            "time_per_output_token_seconds", "Of a stream, after its first token.", TOKEN_SECONDS, "model"
        )
        self.overhead = self._histogram(
            "overhead_seconds",
            "What the gateway itself took; of streams, to the first content.",
            OWN_SECONDS,
            "stream",
        )
        self.broken = self._counter(
            "streams_broken_total", "Streams with status 200 that ended with an error.", "model", "after"
        )
        self.cache_requests = self._counter(
            "cache_requests_total", "Requests by what the cache had for them.", "result"
        )
        self.limit_refusals = self._counter(
            "limit_refusals_total", "Requests that a limit of their key refused.", "limit"
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests whose answers are not complete.")
        self.streams = self._gauge("streams_in_flight", "Those of them whose answers are streamed.")
        self.connections = self._gauge("connections", "Open connections of clients.")

    def _add_attempts(self) -> None:
        self.attempts = self._counter("attempts_total", "Attempts at deployments.", "deployment", "outcome")
        self.attempt_first_token = self._histogram(
            "attempt_first_token_seconds", "From the start of a streamed attempt to its first content.", SECONDS,
            "deployment",
        )  # fmt: skip
        self.failovers = self._counter(
            "failovers_total", "Attempts after the first one, or at a fallback.", "model", "kind"
        )
        self.retry_refusals = self._counter("retry_budget_refusals_total", "Retries that the limit to retries refused.")
        self.circuit = self._gauge("circuit_state", "1 for the state that a deployment is in.", "deployment", "state")
        self.openings = self._counter("circuit_openings_total", "How often a circuit has opened.", "deployment")
        self.tokens = self._counter(
            "tokens_total", "Tokens that answers took; cache and reasoning are parts of the others.", "model",
            "deployment", "type",
        )  # fmt: skip
        self.units = self._counter("units_total", "What answers took beside tokens.", "model", "deployment", "unit")
        self.cost = self._counter("cost_usd_total", "What answers cost, by the price list.", "model", "deployment")
        self.unpriced = self._counter("unpriced_tokens_total", "Tokens without a known price.", "model", "deployment")

    def _add_keys(self) -> None:
        self.key_requests = self._counter("key_requests_total", "Requests by key, with metrics.per_key.", "key")
        self.key_tokens = self._counter("key_tokens_total", "Tokens by key, with metrics.per_key.", "key")
        self.key_cost = self._counter("key_cost_usd_total", "Cost by key, with metrics.per_key.", "key")

    def _add_state(self) -> None:
        self.cache_bytes = self._gauge("cache_bytes", "What kept answers take in this process.")
        self.degraded = self._gauge("degraded", "1 while a part works only in part.", "part")
        self.loop_lag = self._histogram("event_loop_lag_seconds", "How late a timer of 100 ms fires.", OWN_SECONDS)
        self.log_dropped = self._counter("log_lines_dropped_total", "Lines of the log that nobody read in time.")

        self.spans_dropped = self._counter("spans_dropped_total", "Spans of traces that were not sent.")
        self.reload_successful = self._gauge("config_last_reload_successful", "0 after a reload that was refused.")
        self.reload_time = self._gauge(
            "config_last_reload_success_timestamp_seconds", "When the configuration in use was loaded."
        )
        self.config_info = self._gauge(
            "config_info", "Always 1; the digest is that of the configuration in use.", "digest"
        )
        self.restart_needed = self._gauge("config_restart_needed", "1 while a changed setting waits for a restart.")
        self.build_info = self._gauge("build_info", "Always 1.", "version", "python")
        self.build_info.at(__version__, ".".join(map(str, sys.version_info[:3]))).value = 1
        self.worker_up = self._gauge("worker_up", "0 for a process that did not answer the one that was scraped.")
        self.worker_up.at().value = 1
        self.draining = self._gauge("draining", "1 while the process ends its open requests.")
        self.overflow = self._counter(
            "label_overflow_total", "Additions that were made under other, for want of room.", "metric"
        )
        self.cpu = self._counter("process_cpu_seconds_total", "CPU time, user and system.", is_own=False)
        self.memory = self._gauge("process_resident_memory_bytes", "Resident memory.", is_own=False)
        self.open_fds = self._gauge("process_open_fds", "Open file descriptors.", is_own=False)
        self.max_fds = self._gauge("process_max_fds", "How many may be open.", is_own=False)
        self.started = self._gauge("process_start_time_seconds", "When the process started.", is_own=False)

    def _counter(self, name: str, text: str, *labels: str, is_own: bool = True) -> Family[Number]:
        family = self._add(name, text, "counter", Number, labels, is_own=is_own)
        if not labels:
            family.at()  # begins with 0
        return family

    def _gauge(self, name: str, text: str, *labels: str, is_own: bool = True) -> Family[Number]:
        return self._add(name, text, "gauge", Number, labels, is_own=is_own)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> Family[Histogram]:
        return self._add(name, text, "histogram", partial(Histogram, bounds), labels)

    def _add(
        self, name: str, text: str, kind: Kind, make: Callable[[], C], labels: tuple[str, ...], *, is_own: bool = True
    ) -> Family[C]:
        family = Family(f"one_api_{name}" if is_own else name, text, kind, make, labels, self._max_cells)
        self.families.append(family)
        return family

    # The end of a request

    def on_call(self, record: CallRecord) -> None:
        """See ``Observer``."""
        known = record.known_model
        model = known if known is not None else "none" if record.model is None else "unknown"
        stream = "true" if record.stream else "false"
        ended = record.ended if record.ended is not None else record.started
        self.requests.at(record.route, model, stream, record.outcome or "gateway_bug").value += 1
        self.duration.at(record.route, model, stream).observe(ended - record.started)
        if record.stream:
            self._count_stream(record, model, ended)
        if record.cache is not None:
            self.cache_requests.at("partial" if " " in record.cache else record.cache).value += 1
        if record.limit is not None:
            self.limit_refusals.at(record.limit).value += 1
        if record.retries_refused:
            self.retry_refusals.at().value += record.retries_refused
        if record.attempts:
            self._count_attempts(record, model, stream, ended)
        if record.deployment is not None and not record.free:
            if record.usage is not None:
                self._count_usage(record, model, record.deployment)
            if record.units is not None:
                self.units.at(model, record.deployment, record.units.unit).value += record.units.amount
            if record.cost is not None:
                self.cost.at(model, record.deployment).value += record.cost / NANO
        if self._per_key and record.caller is not None:
            self._count_key(record, record.caller)

    def _count_stream(self, record: CallRecord, model: str, ended: float) -> None:
        first = record.first_event
        if first is not None:
            self.first_token.at(model).observe(first - record.started)
            tokens = record.usage.completion_tokens if record.usage is not None else 0
            if tokens > 1 and record.outcome == "ok" and not record.free:
                self.per_token.at(model).observe((ended - first) / (tokens - 1))
        if record.error is not None and record.status == 200:
            self.broken.at(model, "first" if first is None else "content").value += 1

    def _count_attempts(self, record: CallRecord, model: str, stream: str, ended: float) -> None:
        for attempt in record.attempts:
            self._count_or_wait(attempt, model, is_streamed=record.stream)
        if record.outcome == "ok":
            self._count_overhead(record, stream, ended)

    def on_late_attempt(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """See ``Observer``."""
        self._count_or_wait(attempt, record.known_model or "unknown", is_streamed=record.stream)

    def _count_or_wait(self, attempt: AttemptRecord, model: str, *, is_streamed: bool) -> None:
        """Count an attempt, now or when it has ended."""
        if attempt.kind != "first":
            self.failovers.at(model, attempt.kind).value += 1
        if attempt.seconds is not None:
            self._count_attempt(attempt, is_streamed=is_streamed)
            return
        if len(self._unsettled) >= _MAX_UNSETTLED:
            self._count_settled()
        if len(self._unsettled) < _MAX_UNSETTLED:
            self._unsettled.append((attempt, is_streamed))

    def _count_attempt(self, attempt: AttemptRecord, *, is_streamed: bool) -> None:
        self.attempts.at(attempt.deployment, attempt.outcome).value += 1
        if is_streamed and attempt.first_s is not None:
            self.attempt_first_token.at(attempt.deployment).observe(attempt.first_s)

    def _count_settled(self) -> None:
        """Count those of the attempts which went on for others that have ended since."""
        waiting, self._unsettled = self._unsettled, []
        for attempt, is_streamed in waiting:
            if attempt.seconds is None:
                self._unsettled.append((attempt, is_streamed))
            else:
                self._count_attempt(attempt, is_streamed=is_streamed)

    def _count_overhead(self, record: CallRecord, stream: str, ended: float) -> None:
        """Observe what came before the first attempt, and after the one that was answered had its answer."""
        sent = record.first_event if record.stream else ended
        # Of several, that is the last one whose answer was there by then: others lost a race, or resumed the stream.
        ready = max((at for each in record.attempts if (at := _answered_at(each)) is not None and at <= (sent or 0)),
                    default=None)  # fmt: skip
        if ready is not None and sent is not None:
            before_s = record.attempts[0].began - record.started - record.waited_s
            self.overhead.at(stream).observe(max(0.0, before_s + sent - ready))

    def _count_usage(self, record: CallRecord, model: str, deployment: str) -> None:
        usage = record.usage
        assert usage is not None  # noqa: S101 - the caller has seen it
        self.tokens.at(model, deployment, "input").value += usage.prompt_tokens
        self.tokens.at(model, deployment, "output").value += usage.completion_tokens
        if usage.cached_tokens:
            self.tokens.at(model, deployment, "cache_read").value += usage.cached_tokens
        if usage.cache_write_tokens:
            self.tokens.at(model, deployment, "cache_write").value += usage.cache_write_tokens
        if usage.reasoning_tokens:
            self.tokens.at(model, deployment, "reasoning").value += usage.reasoning_tokens
        if record.cost is None:
            self.unpriced.at(model, deployment).value += usage.prompt_tokens + usage.completion_tokens

    def _count_key(self, record: CallRecord, key: str) -> None:
        self.key_requests.at(key).value += 1
        if record.usage is not None:
            self.key_tokens.at(key).value += record.usage.prompt_tokens + record.usage.completion_tokens
        if record.cost is not None:
            self.key_cost.at(key).value += record.cost / NANO

    # A scrape

    async def samples(self, worker: str) -> AsyncIterator[dict[str, str]]:
        """Yield the samples of every family in the text format, some at a time, by the metric's name.

        Others have the loop between them.
        """
        self._count_settled()
        for family in self.families:
            if family.overflows:
                self.overflow.at(family.name).value = family.overflows
        for family in self.families:
            texts: list[str] = []
            written = 0
            for text in family.samples(worker):
                texts.append(text)
                written += text.count("\n")
                if written >= _AT_ONCE:
                    yield {family.name: "".join(texts)}
                    await asyncio.sleep(0)
                    texts, written = [], 0
            if texts:
                yield {family.name: "".join(texts)}

    def set_circuits(self, states: Mapping[str, tuple[str, OpeningCircuit]]) -> None:
        """Set the state that each deployment is in now, and count how often its circuit has opened.

        Those without room are counted under "other", by their state.
        """
        self.circuit.forget("deployment", self.circuit.values_of("deployment") - states.keys())
        others: Counter[str] = Counter()
        for name, (state, circuit) in states.items():
            if self.circuit.has_room(len(STATES), name, state):
                for each in STATES:
                    self.circuit.at(name, each).value = each == state
            else:
                others[state] += 1
            self._count_openings(name, circuit)
        if others:
            self.circuit.overflows += others.total()
            for each in STATES:
                self.circuit.at("other", each).value = others[each]

    def _count_openings(self, name: str, circuit: OpeningCircuit) -> None:
        """Count what is new; a reload may give a deployment another circuit, which begins with none."""
        known, counted = self._circuits.get(name, (circuit, 0))
        new = known.openings - counted + (circuit.openings if circuit is not known else 0)
        if new:
            self.openings.at(name).value += new
        self._circuits[name] = circuit, circuit.openings

    @property
    def deployments(self) -> set[str]:
        """Return the deployments that something is counted for."""
        counted = {name for family in self.families for name in family.values_of("deployment")} - {"other"}
        return counted | self._circuits.keys()

    def forget(self, gone: set[str], now: float) -> None:
        """Drop what is counted for deployments that have been gone for an hour; ``gone`` are those that are now."""
        self._gone = {name: self._gone.get(name, now) for name in gone}
        if old := {name for name, since in self._gone.items() if now - since >= _GONE_S}:
            for family in self.families:
                family.forget("deployment", old)
            for name in old:
                self._circuits.pop(name, None)


def exposition(metrics: Metrics, parts: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield the text for a scrape, family by family: all workers' samples of one stand together below its head.

    ``parts`` are those of all workers, see ``Metrics.samples``.
    """
    texts: dict[str, list[str]] = {}
    for part in parts:
        for name, text in part.items():
            texts.setdefault(name, []).append(text)
    for family in metrics.families:
        if family.name in texts:
            yield family.head
            yield from texts[family.name]


def _answered_at(attempt: AttemptRecord) -> float | None:
    """Return when its first content, or its whole answer, was there, in monotonic seconds; None without one."""
    return None if attempt.first_s is None else attempt.began + attempt.first_s
