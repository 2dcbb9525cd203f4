"""The log: one line per request, written by a thread so that a slow reader stops nothing."""

import atexit
import io
import itertools
import logging
import os
import random
import re
import select
import stat
import string
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol

from one_api.dialects import json
from one_api.records import AttemptRecord, CallRecord

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("one_api")


#: Of the lines in JSON, which ``docs/log.schema.json`` describes. A field that goes or changes makes a new one.
SCHEMA_VERSION = 1


def head_of(event: str, level: str | None = "info") -> dict[str, object]:
    """Return what every line in JSON begins with; the time is UTC, by RFC 3339, to the millisecond."""
    now = time.time()
    moment = f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z"
    return {"v": SCHEMA_VERSION, "event": event, "time": moment, "level": level}


@lru_cache(maxsize=2)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))


@lru_cache(maxsize=2)
def _local_second(now: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class LogObserver:
    """Writes one line per request; of those that went well only ``sample`` of them, a part of 1."""

    def __init__(
        self, writer: "LineWriter", *, as_json: bool, sample: float = 1.0, worker: Callable[[], int] = lambda: 0
    ) -> None:
        """``worker`` returns which process of the gateway this is."""
        self._writer = writer
        self._as_json = as_json
        self._sample = sample
        self._worker = worker

    def on_call(self, record: CallRecord) -> None:
        """Write the line."""
        fields = record.fields()
        fields["worker"] = self._worker()
        if self._sample < 1 and record.outcome in ("ok", "cached"):
            if random.random() >= self._sample:
                return
            fields["sample"] = self._sample
        if self._as_json:
            line = json_line(head_of("call") | fields)
        else:
            line = f"{_local_second(int(time.time()))} {_shown(fields)}"
        self._writer.write(line)

    def on_late_attempt(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """See ``Observer``: the line is written already."""


def json_line(value: Mapping[str, Any] | list[Any]) -> str:
    """Return JSON in ASCII and what else can be seen.

    Separators of lines, marks of direction and the like are escaped: readers and terminals obey them.
    """
    text = json.encode(value).decode()
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


_PLAIN = re.compile(r"[A-Za-z0-9/._:@+-]+").fullmatch
#: What values that need no quotes are made of.
_PLAIN_BYTES = (string.ascii_letters + string.digits + "/._:@+-").encode()


def _shown(fields: dict[str, object]) -> str:
    """Return the fields of a text line, without those that are None."""
    known = [
        f"{key}={'true' if value is True else 'false' if value is False else value}"
        for key, value in fields.items()
        if value is not None
    ]
    line = " ".join(known)
    # Nearly always no text is empty or needs quotes: all are looked at together first.
    marks = f"{line} ".encode("utf-8", "replace").translate(None, _PLAIN_BYTES)
    if marks == b"= " * len(known) and "= " not in f"{line} ":
        return line
    return " ".join([f"{key}={_plain(value)}" for key, value in fields.items() if value is not None])


def _plain(value: object) -> str:
    """Return a value for a text line: nothing in it can end the line or pass for another field."""
    if isinstance(value, str):
        return value if _PLAIN(value) else json_line([value])[1:-1]
    return str(value).lower() if isinstance(value, bool) else str(value)


#: A line is cut at this length; and what waits for the writer is no longer than that, in characters.
MAX_LINE_CHARACTERS = 64 * 1024
MAX_HELD_CHARACTERS = 8 * 1024 * 1024
#: What of that lines of requests may take; the rest is for what is changed, and what is wrong.
_REQUESTS_PART = 0.9
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
        #: Lines that were not kept, since the start.
        self.dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record of the logging module."""
        self.write(self.format(record), is_request=False)

    def write(self, line: str, *, is_request: bool = True) -> None:
        """Queue one line, or all lines of a traceback; lines of requests leave room for the others."""
        line = line[:MAX_LINE_CHARACTERS]
        part = _REQUESTS_PART if is_request else 1.0
        if len(self._lines) >= self._capacity * part or self._held_characters + len(line) > MAX_HELD_CHARACTERS * part:
            self._dropped += 1
            self.dropped += 1
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
            lost = f"{self._dropped} log lines were dropped: the log is not read fast enough"
            batch.append(self.format(logging.LogRecord("one_api", logging.WARNING, "", 0, lost, None, None)))
            self._dropped = 0
        if batch:
            try:
                self._stream.write("\n".join(batch) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self._dropped += len(batch)
                self.dropped += len(batch)

    def close(self) -> None:
        """Write what is left, as far as it is read within a second."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_LAST_LINES_S)
        super().close()

    @property
    def is_stuck(self) -> bool:
        """Return whether lines are still being written after the end."""
        return self._stopping and self._thread is not None and self._thread.is_alive()


class NonBlockingHandler(logging.Handler):
    """Writes to standard error what it takes at once, and drops the rest: for a process that must neither wait nor fork
    with a thread, gunicorn's master.
    """

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as far as that needs no waiting."""
        write_at_once(self.format(record), sys.stderr.fileno())


def write_at_once(lines: str, descriptor: int) -> None:
    """Write lines as far as that needs no waiting.

    A log that is not read must not hold up its writers, and one that cannot be written, on a full disk, not end them.
    """
    data = f"{lines}\n".encode(errors="replace")
    with suppress(OSError):
        for begin in range(0, len(data), select.PIPE_BUF):
            if not select.select([], [descriptor], [], 0)[1]:
                return
            os.write(descriptor, data[begin : begin + select.PIPE_BUF])  # never waits: there is room for so much


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
        with suppress(OSError):  # it is closed
            if fcntl is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
                # It is written at its end, also when it has been cut short, as `logrotate` does with `copytruncate`.
                fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)

    def write(self, text: str) -> None:
        """Write all of it."""
        data = text.encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program that has it, too, wants no waits; this thread may wait
                select.select([], [self._descriptor], [])

    def flush(self) -> None:
        """Nothing is held."""


def audit(event: str, **facts: object) -> dict[str, Any]:
    """Return the ``extra`` of a log call about a change: ``event`` is config, key or admin."""
    return {"event": event, "facts": facts}


class JSONFormatter(logging.Formatter):
    """One JSON object per line, of MAX_LINE_CHARACTERS at most."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``; what is too long in it is shortened."""
        fields = head_of(getattr(record, "event", "log"), record.levelname.lower())
        fields |= {"logger": record.name, "message": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return bounded_line(fields)


def bounded_line(fields: Mapping[str, object]) -> str:
    """Return a line in JSON of MAX_LINE_CHARACTERS at most; what is too long in it is shortened."""
    line, characters = json_line(fields), MAX_LINE_CHARACTERS
    while characters and len(line) > MAX_LINE_CHARACTERS:
        characters //= 2
        line = json_line({name: _shortened(value, characters) for name, value in fields.items()})
    return line


def _shortened(value: object, characters: int) -> object:
    """Return a text, or a list of texts, cut where it is longer than that."""
    if isinstance(value, str):
        return value if len(value) <= characters else f"{value[:characters]}..."
    if not isinstance(value, list):
        return value
    lengths = itertools.accumulate(len(str(each)) for each in value)
    fitting = sum(length <= characters for length in lengths)
    return value if fitting == len(value) else [*value[:fitting], f"and {len(value) - fitting} more"]


class _WantedLevel(logging.Filter):
    """Lets through this package's records from a level on, and those of a change at whatever level."""

    def __init__(self, level: str) -> None:
        super().__init__("one_api")
        self._level = logging.getLevelNamesMapping()[level.upper()]

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        return record.levelno >= self._level or hasattr(record, "facts") or not super().filter(record)


def set_up_logging(level: str, *, as_json: bool) -> LineWriter:
    """Send this package's log to standard error, and return its writer; set up once per process."""
    for known in logger.handlers:
        if isinstance(known, LineWriter):
            return known
    writer = LineWriter(_Descriptor(2))
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    writer.setFormatter(JSONFormatter() if as_json else text)
    writer.addFilter(_WantedLevel(level))
    logger.addHandler(writer)
    logger.setLevel("DEBUG" if level == "debug" else "INFO")
    logger.propagate = False
    atexit.register(_end_logging, writer)
    return writer


def route_all_logs() -> None:
    """Have all that this process logs or prints to standard error written by the package's writer, if it has one.

    For a process that serves on an event loop: a pipe that is not read would stop it.
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
