"""What is known of each request, and who is told. Records are built from an allow-list: never a prompt, an answer,
a header or a key."""

import atexit
import logging
import re
import sys
import threading
import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from one_api.schema import Usage
from one_api.wire import json

logger = logging.getLogger("one_api")


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at one deployment; ``outcome`` is "ok", "cancelled" or the name of the error's class."""

    deployment: str
    outcome: str
    #: From the start of the try to its first event or answer, or to its end without one, in seconds.
    seconds: float


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
            "ms": _ms(ended - self.started),
            "first_event_ms": None if self.first_event is None else _ms(self.first_event - self.started),
            "prompt_tokens": self.usage and self.usage.prompt_tokens,
            "completion_tokens": self.usage and self.usage.completion_tokens,
            "cache": self.cache,
            "error": self.error,
        }
        return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


#: The record of the request that this context serves.
current_call: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)


class Observer(Protocol):
    """Told of every request once, when it has ended."""

    def on_call(self, record: CallRecord) -> None:
        """Take note of ``record``; must not block."""


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


class LineWriter(logging.Handler):
    """Writes log lines from a thread of its own, in batches: a full or stuck pipe never stops a request.

    Holds at most ``capacity`` lines; what comes on top is counted and reported, not kept.
    """

    def __init__(self, stream: TextIO, capacity: int = 20_000) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record of the logging module."""
        self.write(self.format(record))

    def write(self, line: str) -> None:
        """Queue one line."""
        if len(self._lines) >= self._capacity:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._thread is None or not self._thread.is_alive():  # first use, or the first after a fork
            self._thread = threading.Thread(target=self._run, name="one_api-log", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            self._write()
            time.sleep(0.05)  # lets a batch gather

    def _write(self) -> None:
        batch = []
        while self._lines:
            batch.append(self._lines.popleft())
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
        """Write what is left."""
        self._stopping = True
        self._wake.set()
        self._write()
        super().close()


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
    writer = LineWriter(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    writer.setFormatter(JSONFormatter() if as_json else text)
    logger.addHandler(writer)
    logger.setLevel(level.upper())
    logger.propagate = False
    atexit.register(writer.close)
    return writer
