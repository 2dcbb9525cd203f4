"""What is known of a request and of its attempts, from arrival to the last byte."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from one_api.contract import Usage


@dataclass(frozen=True, slots=True)
class CandidateRecord:
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


@dataclass(slots=True)
class AttemptRecord:
    """One try at one deployment. Times are in seconds, from the start of the try."""

    deployment: str
    #: "pending", "ok", "cancelled", "diverged" (another text than the one to be resumed), or an error's class.
    outcome: str = "pending"
    #: To the first content, or to a whole answer.
    first_s: float | None = None
    #: To its end.
    seconds: float | None = None
    usage: Usage | None = None
    #: All that could be chosen from for this try.
    candidates: Sequence[CandidateRecord] = ()

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


@dataclass(slots=True)
class CallRecord:
    """One request, from its arrival to the last byte of its answer. Times are monotonic seconds."""

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    caller: str | None = None
    model: str | None = None
    deployment: str | None = None
    stream: bool = False
    status: int | None = None
    #: The error's code, when the answer is an error or was cut short by one.
    error: str | None = None
    first_event: float | None = None
    ended: float | None = None
    #: What this request took from upstreams: nothing, when it is ``free``.
    usage: Usage | None = None
    #: Where the answer came from: "hit", "miss", "joined" or "bypass"; None without a cache.
    cache: str | None = None
    #: How old a "hit" is, in seconds.
    cache_age_s: int | None = None
    #: No upstream was asked for this request: the answer was kept, or another request stands for its cost.
    free: bool = False
    #: In the order of their start.
    attempts: list[AttemptRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Headers of the upstream's last response that the client may see, under the client's names.
    upstream_headers: dict[str, str] = field(default_factory=dict)

    def used(self, usage: Usage | None) -> None:
        """Note what the answer took; ``usage`` is None when the upstream has not said."""
        self.usage = Usage(0, 0) if self.free else usage

    def fields(self) -> dict[str, object]:
        """Return what a log line holds; times in milliseconds."""
        ended = self.ended if self.ended is not None else time.monotonic()
        found: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path[:256],
            "status": self.status,
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
            "cache": self.cache,
            "error": self.error,
        }
        return found

    def as_dict(self) -> dict[str, object]:
        """Return all that is known of the request: the log line's fields, and every attempt with its candidates."""
        return self.fields() | {"attempts": [each.as_dict() for each in self.attempts]}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


#: The record of the request that this context serves.
current_call: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)


class Observer(Protocol):
    """Told of every request once, when it has ended."""

    def on_call(self, record: CallRecord) -> None:
        """Take note of ``record``; must not block."""
