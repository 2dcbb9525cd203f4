"""What is known of each request, and who is told. Records are built from an allow-list: never a prompt, an answer,
a header or a key."""

import atexit
import io
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import msgspec

from one_api.schema import Usage
from one_api.wire import json

logger = logging.getLogger("one_api")


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
    def told(self) -> str:
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
        """Note what the answer took; ``usage`` is None when nobody has told."""
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
            "failed": " ".join(each.told for each in self.attempts if each.outcome not in ("ok", "pending")) or None,
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


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(CallRecord).decode
#: A kept record is no larger: names and warnings are as long as clients and upstreams make them.
_MOST_PACKED_BYTES = 16 * 1024


class Observer(Protocol):
    """Told of every request once, when it has ended."""

    def on_call(self, record: CallRecord) -> None:
        """Take note of ``record``; must not block."""


class RecentCalls:
    """Keeps the last chat requests of this process, for people who ask what happened.

    Each record is kept in one piece of bytes: small objects that stay would pin the memory of those that do not.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._packed: deque[bytes] = deque(maxlen=capacity)

    def on_call(self, record: CallRecord) -> None:
        """Keep the record of a request that named a model, unless somebody has made it absurdly large."""
        if record.model is not None and len(packed := _pack(record)) <= _MOST_PACKED_BYTES:
            self._packed.append(packed)

    def of(self, model: str, most: int) -> list[CallRecord]:
        """Return the last ones for a model, newest first."""
        found = (record for record in map(_unpack, reversed(self._packed)) if record.model == model)
        return list(islice(found, most))


class LogObserver:
    """Writes one line per request."""

    def __init__(self, writer: "LineWriter", *, as_json: bool) -> None:
        self._writer = writer
        self._as_json = as_json

    def on_call(self, record: CallRecord) -> None:
        """Write the line."""
        fields = record.fields()
        if self._as_json:
            line = json.encode({"event": "call", "time": round(time.time(), 3), **fields}).decode()
        else:
            told = [f"{key}={_plain(value)}" for key, value in fields.items() if value is not None]
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(told)}"
        self._writer.write(line)


_PLAIN = re.compile(r"[A-Za-z0-9/._:@+-]+").fullmatch


def _plain(value: object) -> str:
    """Return a value for a text line: nothing in it can end the line or pass for another field."""
    if isinstance(value, str):
        return value if _PLAIN(value) else json.encode([value]).decode()[1:-1]
    return str(value).lower() if isinstance(value, bool) else str(value)


#: A line is cut at this length; and what waits for the writer is no longer than that, in characters.
MAX_LINE_CHARACTERS = 64 * 1024
MAX_HELD_CHARACTERS = 8 * 1024 * 1024
#: How long the end of the process waits for the last lines to be read, in seconds.
_LAST_LINES_S = 1.0


class TextSink(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object:
        """Write ``text``."""

    def flush(self) -> None:
        """Write what is held."""


class LineWriter(logging.Handler):
    """Writes log lines from a thread of its own, in batches: a full or stuck pipe never stops a request.

    Holds at most ``capacity`` lines and MAX_HELD_CHARACTERS; what comes on top is counted and reported, not kept.
    After a fork the child writes its own lines only.
    """

    def __init__(self, stream: TextSink, capacity: int = 20_000) -> None:
        super().__init__()
        self._stream = stream
        self._capacity = capacity
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lines: deque[str] = deque()
        self._held_characters = 0
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record of the logging module."""
        self.write(self.format(record))

    def write(self, line: str) -> None:
        """Queue one line, or all lines of a traceback."""
        line = line[:MAX_LINE_CHARACTERS]
        if len(self._lines) >= self._capacity or self._held_characters + len(line) > MAX_HELD_CHARACTERS:
            self._dropped += 1
            return
        self._lines.append(line)
        self._held_characters += len(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="one_api-log", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            self._write()
            if not self._stopping:
                time.sleep(0.05)  # lets a batch gather
        self._write()

    def _write(self) -> None:
        batch = []
        while self._lines:
            batch.append(self._lines.popleft())
        self._held_characters = 0
        if self._dropped:
            batch.append(f"{self._dropped} log lines were dropped: the log is not read fast enough")
            self._dropped = 0
        if batch:
            try:
                self._stream.write("\n".join(batch) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self._dropped += len(batch)

    def close(self) -> None:
        """Write what is left, as far as somebody reads it within a second."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_LAST_LINES_S)
        super().close()

    @property
    def is_stuck(self) -> bool:
        """Return whether lines are still being written after the end."""
        return self._stopping and self._thread is not None and self._thread.is_alive()


class LogStream(io.TextIOBase):
    """Stands in for standard error: what is printed there goes line by line through the writer."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._rest = ""

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Log every line that is complete."""
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest[-MAX_LINE_CHARACTERS:]
        for line in lines:
            self._writer.emit(
                logging.LogRecord("stderr", logging.ERROR, "", 0, "%s", (line[:MAX_LINE_CHARACTERS],), None)
            )
        return len(text)


class _Descriptor:
    """A file descriptor as a stream without a lock: a thread that is stuck in it does not hold up the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Write all of it."""
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Nothing is held."""


class JSONFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``."""
        fields: dict[str, object] = {
            "event": "log",
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.encode(fields).decode()


def set_up_logging(level: str, *, as_json: bool) -> LineWriter:
    """Send this package's log to standard error, and return who writes it; set up once per process."""
    for known in logger.handlers:
        if isinstance(known, LineWriter):
            return known
    writer = LineWriter(_Descriptor(2))
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    writer.setFormatter(JSONFormatter() if as_json else text)
    logger.addHandler(writer)
    logger.setLevel(level.upper())
    logger.propagate = False
    atexit.register(_end_logging, writer)
    return writer


def route_all_logs() -> None:
    """Have all that this process logs or prints to standard error written by the package's writer, if it has one.

    For a process that serves on an event loop: a pipe that nobody reads would stop it.
    """
    for writer in logger.handlers:
        if isinstance(writer, LineWriter):
            for name in ("", "gunicorn.error", "uvicorn.error"):
                logging.getLogger(name).handlers[:] = [writer]
            sys.stderr = LogStream(writer)


def _end_logging(writer: LineWriter) -> None:
    writer.close()
    if not writer.is_stuck:
        sys.stderr = sys.__stderr__  # for what Python has to print while it ends
