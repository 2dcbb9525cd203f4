"""What is known of a request and of each attempt at it, and how that goes down to the attempts and up to observers."""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, Self, TypeAlias

from msgspec import Struct, field

from one_api.contract import Answer, Call, Caller, Units, Usage
from one_api.errors import GatewayError, UpstreamError
from one_api.outcomes import Outcome, outcome_of

#: Nano-dollars in a dollar.
NANO = 1_000_000_000
#: What an id that others gave to a request looks like, if it may be written down.
ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: What upstreams say of their answers looks like this, or is not noted.
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+-]{1,256}")
#: Why a deployment was asked: the first one that was chosen, or what kind of failover it is.
AttemptKind: TypeAlias = Literal["first", "retry", "fallback", "hedge", "resume"]


class Trace(Struct, array_like=True):
    """Which trace a request belongs to, where there are traces; ids in hexadecimal digits."""

    trace_id: str
    span_id: str
    #: It is kept whatever becomes of the request.
    sampled: bool
    #: What the caller has named: trace, span, whether it keeps the trace, and ``tracestate``.
    given: tuple[str, str, bool, str | None] | None = None
    #: The caller's trace is linked to, not continued.
    links: bool = False
    parent_id: str | None = None
    link: tuple[str, str] | None = None
    #: The caller keeps its trace.
    is_forced: bool = False
    state: str | None = None
    #: What is asked for, and the parameters of it that say nothing of its content, by their attributes.
    operation: str = ""
    parameters: dict[str, str | int | float] = field(default_factory=dict)

    def join(self) -> None:
        """Use the trace of the caller, now that the caller is known."""
        if self.given is None:
            return
        trace_id, span_id, self.is_forced, state = self.given
        if self.links:
            self.link = (trace_id, span_id)
        else:
            self.trace_id, self.parent_id, self.state = trace_id, span_id, state

    def headers(self, span_id: str) -> dict[str, str]:
        """Return what goes to the upstream of the attempt with that id: never what the client has sent."""
        flags = "01" if self.sampled or self.is_forced else "00"
        found = {"traceparent": f"00-{self.trace_id}-{span_id}-{flags}"}
        return found if self.state is None else found | {"tracestate": self.state}


class CandidateRecord(Struct, frozen=True, array_like=True):
    """A deployment as it was seen when one was to be chosen."""

    deployment: str
    #: In one word; the page on routing lists them.
    state: str
    #: The seconds that a typical answer is expected to cost there, made dearer by failures and load.
    score: float
    #: Why it could not be chosen; None when it could.
    why: str | None = None
    #: Another model, for when no target can answer.
    fallback: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return what people are shown."""
        return {
            "deployment": self.deployment,
            "fallback": self.fallback,
            "state": self.state,
            "score": round(self.score, 4),
            "why": self.why,
        }


class AttemptRecord(Struct, array_like=True):
    """One try at one deployment. Times are in seconds, from the start of the try."""

    deployment: str
    #: "pending", "ok", "cancelled", "hedge_lost", "diverged" (another text than the one to be resumed), or an error's
    #: class.
    outcome: str = "pending"
    #: To the first content, or to a whole answer.
    first_s: float | None = None
    #: To its end.
    seconds: float | None = None
    usage: Usage | None = None
    #: All that could be chosen from for this try.
    candidates: Sequence[CandidateRecord] = ()
    kind: AttemptKind = "first"
    #: Its start, in monotonic seconds.
    began: float = 0.0
    #: Its id, where there are traces.
    span_id: str | None = None
    #: The status that the upstream has responded with, and its own id of the request.
    status: int | None = None
    upstream_request_id: str | None = None
    #: It was asked in the client's own dialect; None where that is chat's, which all are asked in.
    native: bool | None = None
    #: What the answer says of itself: why it ended, its id, and the upstream's name of the model.
    finish_reason: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    #: What it took beside tokens.
    units: Units | None = None

    def describe(self, finish_reason: object, response_id: object, model: object) -> None:
        """Note what an answer says of itself, as far as that is plain and short."""
        self.finish_reason = _plain(finish_reason)
        self.response_id, self.response_model = _plain(response_id), _plain(model)

    @property
    def log_text(self) -> str:
        """Return what the log line says of a try that failed: deployment, outcome, milliseconds."""
        return f"{self.deployment[:256]}:{self.outcome}:{_ms(self.seconds or 0)}"

    def as_dict(self) -> dict[str, object]:
        """Return what people are shown; times in milliseconds."""
        return {
            "deployment": self.deployment,
            "outcome": self.outcome,
            "first_ms": None if self.first_s is None else _ms(self.first_s),
            "ms": None if self.seconds is None else _ms(self.seconds),
            "prompt_tokens": self.usage and self.usage.prompt_tokens,
            "completion_tokens": self.usage and self.usage.completion_tokens,
            "candidates": [each.as_dict() for each in self.candidates],
        }


class CallRecord(Struct, array_like=True):
    """One request, from its arrival to the last byte of its answer. Times are monotonic seconds."""

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    #: The path of the route that serves it, with names for its variable parts.
    route: str = "unknown"
    #: The client's own ids of it, its session and its thread, by their names in the log; only such as fit into it.
    client_ids: dict[str, str] = field(default_factory=dict)
    #: None without traces.
    trace: Trace | None = None
    #: The beginning of the digest of the configuration that serves it.
    config: str | None = None
    caller: str | None = None
    #: The model that the client named, and its id once it is found to exist here.
    model: str | None = None
    known_model: str | None = None
    deployment: str | None = None
    stream: bool = False
    status: int | None = None
    #: The error's code, when the answer is an error or was cut short by one.
    error: str | None = None
    #: Set by an error, else at the end.
    outcome: Outcome | None = None
    #: Which of the caller's limits refused it.
    limit: str | None = None
    first_event: float | None = None
    ended: float | None = None
    #: What this request took from upstreams: nothing, when it is ``free``.
    usage: Usage | None = None
    #: What it took beside tokens.
    units: Units | None = None
    #: What that costs, in nano-dollars; None where no price is known.
    cost: int | None = None
    #: Of the bodies, in bytes.
    bytes_in: int = 0
    bytes_out: int = 0
    #: How long it waited for the client's body and for the stores of limits and answers, in seconds.
    waited_s: float = 0.0
    #: Retries that the limit to retries had no room for.
    retries_refused: int = 0
    #: Where the answer came from: "hit", "miss", "joined" or "bypass"; None without a cache.
    cache: str | None = None
    #: How old a "hit" is, in seconds.
    cache_age_s: int | None = None
    #: No upstream was asked for this request: the answer was kept, or another request stands for its cost.
    free: bool = False
    #: Observers have been given it.
    reported: bool = False
    #: In the order of their start.
    attempts: list[AttemptRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Headers of the upstream's last response that the client may see, under the client's names.
    upstream_headers: dict[str, str] = field(default_factory=dict)

    def called_by(self, caller: str) -> None:
        """Note the caller, whose key is known here."""
        self.caller = caller
        if self.trace is not None:
            self.trace.join()

    def used(self, usage: Usage | None, units: Units | None = None) -> None:
        """Note what the answer took; ``usage`` is None when the upstream has not said."""
        self.usage, self.units = (Usage(0, 0), None) if self.free else (usage, units)

    def fail(self, error: GatewayError) -> None:
        """Note that the answer is an error, or ends with one."""
        is_cut = self.first_event is not None and isinstance(error, UpstreamError)
        self.outcome = "upstream_broken" if is_cut else outcome_of(error)
        # Some upstreams put words of the request where an error's name belongs.
        self.error, self.limit = _plain(error.code) or _plain(error.type) or self.outcome, error.limit

    def end(self, *, cancelled: bool) -> None:
        """Note the end, and what came of the request; ``cancelled``: the client has left before."""
        self.ended = time.monotonic()
        if cancelled:
            self.status, self.error, self.outcome = 499, "cancelled", "client_gone"
        elif self.outcome is None:
            self.outcome = self._outcome_without_error()

    def _outcome_without_error(self) -> Outcome:
        if self.status is None or self.status >= 500:
            return "gateway_bug"
        if self.status >= 400:
            return "client_invalid"
        return "cached" if self.cache == "hit" else "ok"

    def fields(self) -> dict[str, object]:
        """Return what a log line holds; times in milliseconds."""
        ended = self.ended if self.ended is not None else time.monotonic()
        last = self.attempts[-1] if self.attempts else None
        found: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path[:256],
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "caller": self.caller,
            "model": self.model and self.model[:256],
            "deployment": self.deployment,
            "stream": self.stream,
            "attempts": len(self.attempts),
            "failed": " ".join(each.log_text for each in self.attempts if each.outcome not in ("ok", "pending"))
            or None,
            "ms": _ms(ended - self.started),
            "first_event_ms": None if self.first_event is None else _ms(self.first_event - self.started),
            "prompt_tokens": self.usage and self.usage.prompt_tokens,
            "completion_tokens": self.usage and self.usage.completion_tokens,
            "cost_usd": None if self.cost is None else self.cost / NANO,
            "finish_reason": last and last.finish_reason,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "cache": self.cache,
            "error": self.error,
            "upstream_request_id": last and last.upstream_request_id,
            "config": self.config,
        }
        if self.trace is not None:
            found |= {"trace_id": self.trace.trace_id, "span_id": self.trace.span_id}
        if self.units is not None:
            found |= {"units": self.units.amount, "unit": self.units.unit}
        if last is not None and last.native is not None:
            found["native"] = last.native
        found |= self.client_ids
        return found

    def as_dict(self) -> dict[str, object]:
        """Return all that is known of the request: the log line's fields, and every attempt with its candidates."""
        return self.fields() | {"attempts": [each.as_dict() for each in self.attempts]}


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


class Observer(Protocol):
    """Is given the record of every request, once, when it has ended."""

    def on_call(self, record: CallRecord) -> None:
        """Take note of ``record``; must not block."""

    def on_late_attempt(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """Take note of an attempt that begins after ``record`` was given, for requests that share its call."""


class WithinBudgets(Protocol):
    """The budgets of one request."""

    async def ask(self, call: Call, deployments: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what ``ask`` answers, by one of ``deployments``, if the budgets allow what that may cost."""

    def inherit(self, before: Self) -> None:
        """Stand for the cost of what another request has asked for, which is gone."""


class CallContext(Struct, frozen=True):
    """What is known of a request beside its body. It goes down as an argument, from the door to the attempts.

    Callers in Python need not know anything: they get one of their own.
    """

    #: Where all that happens to the request is noted.
    record: CallRecord = field(default_factory=lambda: CallRecord("", "", ""))
    #: None for callers in Python.
    caller: Caller | None = None
    #: The header ``Cache-Control``, as the client sent it.
    cache_control: str | None = None
    #: Has upstreams asked only if the caller's budgets allow it; None without a budget.
    within_budgets: "WithinBudgets | None" = None
    #: The request is known to be short: no time need be spent on finding that out.
    is_short: bool = False
    #: Gives observers an attempt that begins when they have been given the record already.
    on_late_attempt: Callable[[CallRecord, AttemptRecord], None] | None = None

    def begins(self, attempt: AttemptRecord) -> None:
        """Note an attempt that begins."""
        self.record.attempts.append(attempt)
        if self.record.reported and self.on_late_attempt is not None:
            self.on_late_attempt(self.record, attempt)

    def for_attempt(self) -> "AttemptContext":
        """Return what one attempt's adapter may know."""
        return AttemptContext(self.caller.name if self.caller is not None else "", is_short=self.is_short)


class AttemptContext(Struct):
    """What an adapter knows of a call beside the request's body, and where it puts what it has to say of its answer."""

    #: Whose request it is, for fairness and for what is kept between requests: equal or not, and no more than that.
    scope: str = ""
    #: As ``CallContext`` has it.
    is_short: bool = False
    #: Parameters of the request that were dropped or altered.
    warnings: list[str] = field(default_factory=list)
    #: Headers of the upstream's last response that the client may see, under the client's names; None before that.
    headers: dict[str, str] | None = None
    #: The headers that make the upstream part of the trace, if it may be; None without traces.
    trace_headers: dict[str, str] | None = None
    #: The status of that response, and the upstream's own id of it.
    status: int | None = None
    upstream_request_id: str | None = None
    #: The upstream was asked in the client's own dialect, and not in chat's; None where that is the same.
    native: bool | None = None
    #: The upstream's lists of messages and tools are not the client's: a place that it names would be another one.
    counts_otherwise: bool = False
