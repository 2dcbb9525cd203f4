"""Nobody has to read the log: requests go on, and the process ends, when its pipe is full."""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_api.observability.log import MAX_LINE_CHARACTERS, JSONFormatter, LineWriter, LogStream
from tests.support import Gateway
from tests.support.launcher import REPOSITORY

from .clients import get, wait_until

#: A program that writes each line of its input to its log.
LOGGING = [
    sys.executable,
    "-c",
    "import sys\n"
    "from one_api.observability.log import set_up_logging\n"
    "writer = set_up_logging('info', as_json=True)\n"
    "for line in sys.stdin:\n"
    "    writer.write(line.strip())\n",
]


class UnreadGateway(Gateway):
    """A gateway whose log is a full pipe that nobody reads."""

    def _start(self) -> None:
        self._log_path = self._directory / "log"
        self._log_path.touch()
        write_end = self._open_log()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", self.wsgi_app],
            cwd=REPOSITORY,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
        )
        os.close(write_end)

    def _open_log(self) -> int:
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        return write_end


class FullDiskGateway(UnreadGateway):
    """A gateway whose log is a file on a disk without room."""

    def _open_log(self) -> int:
        return os.open("/dev/full", os.O_WRONLY)


class StuckSink:
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        self.is_free = threading.Event()
        self.text = ""

    def write(self, text: str, /) -> None:
        """Wait, and take the text."""
        self.is_free.wait()
        self.text += text

    def flush(self) -> None:
        """Nothing is held."""


@pytest.fixture
def sink() -> Iterator[StuckSink]:
    made = StuckSink()
    yield made
    made.is_free.set()


def test_a_stuck_log_does_not_hold_up_who_writes_or_the_end(sink: StuckSink) -> None:
    writer = LineWriter(sink, capacity=10)

    for number in range(100):
        writer.write(f"line {number}")
    writer.close()

    assert writer.is_stuck


def test_lines_that_nobody_reads_are_bounded_by_their_size(sink: StuckSink) -> None:
    writer = LineWriter(sink)
    for _ in range(1000):
        writer.write("x" * 10 * MAX_LINE_CHARACTERS)
    sink.is_free.set()
    writer.close()

    assert len(sink.text) < 20_000_000
    assert "log lines were dropped" in sink.text


def test_what_is_printed_becomes_lines_of_the_log(sink: StuckSink) -> None:
    sink.is_free.set()
    writer = LineWriter(sink)
    stream = LogStream(writer)

    print("one\ntwo", file=stream)
    print("three", end="", file=stream)
    print("four", file=stream)
    writer.close()

    assert sink.text.splitlines() == ["one", "two", "threefour"]


def test_a_forked_process_writes_its_own_lines_only(sink: StuckSink) -> None:
    writer = LineWriter(sink)
    writer.write("of the parent")
    readable, writable = os.pipe()
    if (pid := os.fork()) == 0:
        sink.is_free.set()
        writer.write("of the child")
        writer.close()
        os.write(writable, sink.text.encode())
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(readable, 1000) == b"of the child\n"
    os.close(readable)
    os.close(writable)


def test_requests_go_on_when_nobody_reads_the_log() -> None:
    """Records, tracebacks, warnings of the server, and what is printed: all of them."""
    with UnreadGateway(wsgi_app="tests.serving.apps.noisy:app", pythonpath=[REPOSITORY]) as gateway:
        for _ in range(50):
            assert get(gateway, "/print").status == 200
            assert get(gateway, "/log").status == 200
            assert get(gateway, "/raise-later").status == 200
        gateway.terminate()
        assert gateway.wait() == 0


@pytest.mark.parametrize("kind", [UnreadGateway, FullDiskGateway])
def test_the_master_looks_after_its_workers_when_nobody_reads_the_log(kind: type[UnreadGateway]) -> None:
    """It logs each worker that was killed; a pipe that is full would stop it, and a disk that is full end it."""
    with kind() as gateway:
        for _ in range(2):
            (pid,) = gateway.worker_pids()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in gateway.worker_pids(0), "the worker to be gone")  # type: ignore[misc]
            gateway.worker_pids(at_least=1, timeout_s=10.0)
        wait_until(lambda: _answers(gateway), "the new worker to serve")
        gateway.terminate()
        assert gateway.wait() == 0


def _answers(gateway: Gateway) -> bool:
    try:
        return get(gateway, "/health").status == 200
    except (OSError, EOFError):
        return False


def test_what_was_changed_is_kept_before_lines_of_requests_and_what_is_not_is_counted(sink: StuckSink) -> None:
    writer = LineWriter(sink, capacity=100)
    for number in range(200):
        writer.write(f"request {number}")
    writer.emit(logging.LogRecord("one_api", logging.INFO, "", 0, "a key was made", (), None))
    dropped = writer.dropped
    sink.is_free.set()
    writer.close()

    lines = sink.text.splitlines()
    assert "a key was made" in lines
    assert sum(line.startswith("request") for line in lines) == 200 - dropped
    assert dropped > 0
    assert any(line.startswith(f"{dropped} log lines were dropped") for line in lines)


def test_what_was_dropped_is_a_line_of_the_logs_own_form(sink: StuckSink) -> None:
    writer = LineWriter(sink, capacity=10)
    writer.setFormatter(JSONFormatter())
    for number in range(20):
        writer.write(json.dumps({"number": number}))
    sink.is_free.set()
    writer.close()

    *_, last = map(json.loads, sink.text.splitlines())
    assert (last["event"], last["level"]) == ("log", "warning")
    assert last["message"].startswith(f"{writer.dropped} log lines were dropped")


def test_a_line_that_is_too_long_is_shortened_and_still_json() -> None:
    problems = [f"adapters.name-{number}: \u2028 has an unknown setting" for number in range(5000)]
    record = logging.LogRecord("one_api", logging.ERROR, "", 0, "\u2028".join(problems), (), None)
    record.event, record.facts = "config", {"by": "signal", "problems": problems}

    line = JSONFormatter().format(record)
    found = json.loads(line)

    assert MAX_LINE_CHARACTERS / 4 < len(line) <= MAX_LINE_CHARACTERS
    assert (found["event"], found["by"], found["level"]) == ("config", "signal", "error")
    assert found["message"].startswith(problems[0])
    assert found["problems"][:50] == problems[:50]
    assert found["problems"][-1] == f"and {len(problems) - len(found['problems']) + 1} more"


def test_a_pipe_that_somebody_else_has_made_non_blocking_gets_every_line() -> None:
    """Who shares it may have: then what finds no room in it is an error, and not a wait."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    lines = [json.dumps({"number": number, "more": "x" * 1000}) for number in range(1000)]
    with subprocess.Popen(LOGGING, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=writable, text=True) as writer:
        assert writer.stdin is not None
        writer.stdin.write("\n".join(lines))
        writer.stdin.close()
        wait_until(lambda: not select.select([], [writable], [], 0)[1], "the pipe to be full")
        os.close(writable)
        with os.fdopen(readable) as log:
            assert log.read().splitlines() == lines


def test_a_file_that_was_cut_short_is_written_on_at_its_new_end(tmp_path: Path) -> None:
    """That is what logrotate does with copytruncate; who has opened the file need not have done so for appending."""
    log = tmp_path / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(LOGGING, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=file, text=True, bufsize=1) as writer,
    ):
        assert writer.stdin is not None
        writer.stdin.write("before\n")
        wait_until(lambda: log.read_bytes() == b"before\n", "the first line")
        os.truncate(log, 0)
        writer.stdin.write("after\n")
        writer.stdin.close()
        assert writer.wait(10) == 0

    assert log.read_bytes() == b"after\n"
