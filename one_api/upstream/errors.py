"""What an upstream reports as an error, as one of our classes: read, judged by the table, and put into words."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from one_api.dialects import error_body
from one_api.dialects.error_body import ErrorReport
from one_api.dialects.json import JSONObject
from one_api.dialects.parameter_names import without_positions
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer
from one_api.errors import (
    UpstreamBroken,
    UpstreamClosed,
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnsuitable,
)
from one_api.records import ID, AttemptContext
from one_api.upstream.error_table import STATUS_OF_NAME, Fault, fault_of, status_of
from one_api.upstream.limit_headers import refused_limits
from one_api.upstream.scrubbing import Scrubber
from one_api.upstream.waits import plausible, reset_in, retry_after

logger = logging.getLogger(__name__)

#: Where a message of Anthropic's says that the fault is, by the name that the client knows.
_CLAUDE_PARAMS = {
    "messages": "messages", "system": "messages", "tools": "tools", "tool_choice": "tool_choice", "model": "model",
    "max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "stop_sequences": "stop",
    "thinking": "reasoning_effort", "output_config": "response_format", "metadata": "user",
    "service_tier": "service_tier",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Case:
    """One report with what came around it; names are clean, ``text`` is what clients may read of its words."""

    report: ErrorReport
    status: int
    type: str | None
    code: str | None
    param: str | None
    text: str
    retry_after_s: float | None
    limits: dict[str, str]
    #: The status that an overloaded upstream is reported with; None for ours.
    kept_status: int | None
    #: Why nobody can read what it said, as a sentence; empty if it was read.
    unread: str

    def after(self, sentence: str) -> str:
        """Return our sentence, and after it what the upstream said."""
        return f"{sentence} It said: {self.text}" if self.text else f"{sentence} {self.unread}".rstrip()

    def words(self, sentence: str) -> str:
        """Return what the upstream said of the client's own request, or our sentence where it may not be read."""
        return self.text or self.after(sentence)


@dataclass(frozen=True, slots=True)
class Reports:
    """How the errors of one upstream are read, and which of its response headers clients may see."""

    #: The adapter, for the log.
    name: str = "upstream"
    scrubber: Scrubber = field(default_factory=Scrubber)
    #: May clients read what the upstream said?
    show_text: bool = True
    #: Report an overloaded upstream with its own 529.
    keep_529: bool = False
    #: Returns what clients may see of response headers; None: nothing.
    select_headers: Callable[[Mapping[str, str]], dict[str, str]] | None = None
    #: The upstream counts messages and tools as the client does.
    counts_alike: bool = True

    def for_attempt(self, context: AttemptContext | None) -> "Reports":
        """Return how the errors of one attempt are read."""
        return replace(self, counts_alike=False) if context is not None and context.counts_otherwise else self

    def error_of(self, status: int, body: bytes, headers: Mapping[str, str], unread: str = "") -> UpstreamError:
        """Return the error that an answer's status, body and headers stand for; ``unread`` is why there is no body."""
        return self._error(error_body.read(body), status, headers, unread)

    def error_of_payload(self, payload: JSONObject | list[Any] | str) -> UpstreamError:
        """Return the error for a report that came with status 200, or inside a stream."""
        return self._error(error_body.read_value(payload), None, {})

    def faults_named(self) -> "_NamedFaults":
        """Turn what the dialects find wrong with a whole answer inside ``with`` into our errors."""
        return _NamedFaults(self)

    def seen_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return what a client may see of the response headers of any answer; none that holds a secret."""
        if self.select_headers is None:
            return {}
        return {name: value for name, value in self.select_headers(headers).items() if self.scrubber.is_clean(value)}

    def id_in(self, headers: Mapping[str, str]) -> str | None:
        """Return the upstream's id of a request, which its provider's support asks for."""
        found = headers.get("x-request-id") or headers.get("request-id") or ""
        return found if ID.fullmatch(found) and self.scrubber.is_clean(found) else None

    def _error(
        self, report: ErrorReport, given: int | None, headers: Mapping[str, str], unread: str = ""
    ) -> UpstreamError:
        status = status_of(report, given)
        fault = fault_of(report, status)
        text, param = self.scrubber.clean(report.message), self.scrubber.name(report.param)
        if not self.counts_alike:
            text, param = without_positions(text), param and without_positions(param)
        if fault is Fault.NO_CREDIT:
            logger.warning("adapter %s: the account at the upstream has no credit: %s", self.name, text or status)
        limits = refused_limits(headers) if fault is Fault.LIMIT else {}
        wait_s = _wait_asked_for(headers, report)
        if wait_s is None and fault is Fault.LIMIT:
            wait_s = reset_in(headers)
        kept = (given or 529) if self.keep_529 and given in (None, 503, 529) else None
        case = _Case(
            report=report,
            status=status,
            type=self.scrubber.name(report.type),
            code=self.scrubber.name(report.code if report.code and ":" not in report.code else None),
            param=param,
            text=text if self.show_text else "",
            retry_after_s=wait_s,
            limits={name: value for name, value in limits.items() if self.scrubber.is_clean(value)},
            kept_status=kept,
            unread=unread,
        )
        error = _BUILDERS[fault](case)
        error.said = text
        return error


# One builder for each fault


def _request(case: _Case) -> UpstreamError:
    code = case.code or ("request_too_large" if case.status == 413 else None)
    message = case.words("The upstream refused the request.")
    if not case.report.is_claude:
        status = case.status if case.status in (400, 413, 422) else 400
        return UpstreamRejected(message, status=status, type=case.type, param=case.param, code=code)
    kind = None if case.type in STATUS_OF_NAME else case.type
    return UpstreamRejected(message, status=case.status, type=kind, param=_claude_param(case), code=code)


def _too_long(case: _Case) -> UpstreamError:
    return UpstreamRejected(
        case.words("The request is longer than the model's context: shorten it."),
        status=case.status if case.status in (413, 422) else 400,
        param=case.param or "messages",
        code="context_length_exceeded",
    )


def _refused(case: _Case) -> UpstreamError:
    return UpstreamRejected(
        case.words("The upstream refuses what the request says."),
        status=case.status if 400 <= case.status < 500 else 400,
        type=case.type,
        param=case.param,
        code=case.code if case.code and not case.code.isdigit() else "content_filter",
    )


def _unsuitable(case: _Case) -> UpstreamError:
    # 401 would say that the client's own key is wrong.
    return UpstreamUnsuitable(
        case.words("The upstream cannot serve this request."),
        status=case.status if case.status in (402, 403, 404, 422) else 400,
        param=case.param,
        code=case.code if case.code and not case.code.isdigit() else None,
    )


def _credential(case: _Case) -> UpstreamError:
    return UpstreamMisconfigured(case.after("The upstream refused this gateway's credential."))


def _closed(case: _Case) -> UpstreamError:
    if not case.report.is_claude:
        return UpstreamMisconfigured(case.after("The upstream does not let this gateway's account use the model."))
    message = case.words("The upstream does not let this gateway's account use the model.")
    return UpstreamClosed(message, code=case.code)


def _model(case: _Case) -> UpstreamError:
    if case.report.is_claude and "model" in case.report.message:
        message = case.words("The upstream does not know this model.")
        return UpstreamMisconfigured(
            message, status=404, type="invalid_request_error", param="model", code="model_not_found"
        )
    return UpstreamMisconfigured(case.after("The upstream does not know this model or address."), code="upstream_error")


def _no_credit(case: _Case) -> UpstreamError:
    """Return the error of an account without credit: the client can do nothing, and reads nothing of the account."""
    wait_s = case.retry_after_s if case.status == 402 else None
    if wait_s is None:
        wait_s = UpstreamExhausted.default_cooldown_s
    message = "The gateway's account at the upstream has no credit left: its operator has to add some."
    if case.report.is_claude:
        given: dict[str, Any] = {"status": 429, "type": "insufficient_quota", "code": "insufficient_quota"}
        return UpstreamExhausted(message, retry_after_s=wait_s, **given)
    return UpstreamExhausted(message, retry_after_s=wait_s)


def _limit(case: _Case) -> UpstreamError:
    is_tokens = case.report.type == "tokens" or "token" in case.report.message.lower()
    return UpstreamRateLimited(
        case.after("The upstream's rate limit is reached."),
        type="tokens" if is_tokens else "requests",
        retry_after_s=case.retry_after_s,
        more_headers=case.limits,
    )


def _overloaded(case: _Case) -> UpstreamError:
    message = case.after("The upstream is overloaded.")
    return UpstreamOverloaded(message, status=case.kept_status, retry_after_s=case.retry_after_s)


def _failed(case: _Case) -> UpstreamError:
    if case.report.is_claude and 400 <= case.status < 500:
        if case.type == "conflict_error":
            return UpstreamFailed(case.after("The upstream met a conflict."), status=case.status, type=case.type)
        message = case.words("The upstream refused the request.")
        return UpstreamRejected(message, status=case.status, type=case.type, code=case.code)
    return UpstreamFailed(case.after(f"The upstream failed with status {case.status}."))


_BUILDERS: dict[Fault, Callable[[_Case], UpstreamError]] = {
    Fault.REQUEST: _request,
    Fault.TOO_LONG: _too_long,
    Fault.REFUSED: _refused,
    Fault.UNSUITABLE: _unsuitable,
    Fault.CREDENTIAL: _credential,
    Fault.CLOSED: _closed,
    Fault.MODEL: _model,
    Fault.NO_CREDIT: _no_credit,
    Fault.LIMIT: _limit,
    Fault.OVERLOADED: _overloaded,
    Fault.TIMEOUT: lambda case: UpstreamTimeout(case.after("The upstream timed out.")),
    Fault.REDIRECT: lambda _: UpstreamRedirected("The upstream answered with a redirect, which is never followed."),
    Fault.FAILED: _failed,
}


def _claude_param(case: _Case) -> str | None:
    """Return the parameter that a message of Anthropic's begins with: `messages.0.content: ...`."""
    place, colon, _ = case.report.message.partition(": ")
    return _CLAUDE_PARAMS.get(place.partition(".")[0]) if colon else None


# Waits


def _wait_asked_for(headers: Mapping[str, str], report: ErrorReport) -> float | None:
    found = retry_after(headers)
    return found if found is not None or report.retry_after_s is None else plausible(report.retry_after_s)


class _NamedFaults:
    """See ``Reports.faults_named``."""

    __slots__ = ("_reports",)

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, ErrorPayload):
            raise self._reports.error_of_payload(error.payload) from None
        if isinstance(error, InvalidAnswer):
            raise UpstreamBroken(f"The upstream's answer cannot be used: {error}.") from None


OPENAI_REPORTS = Reports()
