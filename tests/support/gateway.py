"""The real gateway under test: gunicorn in a process group of its own, with an environment made from scratch."""

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from .http1 import Json
from .launcher import LAUNCHER, REPOSITORY, Program, start_program
from .processes import group_of, is_alive
from .running_time import PATIENCE_S

Record: TypeAlias = dict[str, Json]

POLL_S = 0.02
LOG_TAIL = 8000


@dataclass(eq=False, kw_only=True)
class Gateway:
    """Starts gunicorn in the repository's root and waits until `ready_path` answers 200; a context manager.

    `env` adds to the environment and overrides it, `config_yaml` becomes the file that ONE_API_CONFIG names. `worker`
    "one_api" leaves the choice to gunicorn.conf.py, "gthread" serves the same application on plain threads; further
    arguments for gunicorn go into `env` as GUNICORN_CMD_ARGS. An application of the test's own is named by `wsgi_app`
    and found by `pythonpath`. `max_files` is how many files each of its processes may have open. `within` is a command
    that becomes the one after it, such as `ip netns exec NAME`.

    Leaving the context sends SIGTERM, after `stop_timeout_s` SIGKILL, and leaves no process behind. A test that fails
    inside it has the end of the log added to its exception.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str | None = None
    worker: Literal["one_api", "gthread"] = "one_api"
    wsgi_app: str = "wsgi:app"
    pythonpath: Sequence[str | Path] = ()
    within: Sequence[str] = ()
    ready_path: str = "/health"
    max_files: int | None = None
    start_timeout_s: float = 20.0
    stop_timeout_s: float = 10.0
    host: str = "127.0.0.1"
    port: int = field(default_factory=lambda: free_port())
    _kept: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)
    _parsed: list[Record] = field(default_factory=list, init=False, repr=False)
    _parsed_to: int = field(default=0, init=False, repr=False)

    def __enter__(self) -> Self:
        self._directory = Path(self._kept.enter_context(tempfile.TemporaryDirectory(prefix="gateway-")))
        try:
            self.environment = self._environment()
            self._start()
            self._wait_until(self._ready, self.start_timeout_s, f"GET {self.ready_path} to answer 200")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if failure is not None:
                failure.add_note(f"The gateway's log ends:\n{self.log[-LOG_TAIL:]}")
        finally:
            self._stop()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The URL that an OpenAI client is given."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What was written to standard output and error so far; until the context is left."""
        return self.read_log()[0]

    def read_log(self, start: int = 0) -> tuple[str, int]:
        """What was written to the log from a position on, in bytes, and the position of its end."""
        new = self._raw_log(start)
        return new.decode(errors="replace"), start + len(new)

    def wait_for_log(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Return once the log holds the text; raises AssertionError if it does not in time."""
        self._wait_until(lambda: text in self.log, timeout_s, f"{text!r} in the log")

    def call_records(self, at_least: int = 0, timeout_s: float = PATIENCE_S) -> list[Record]:
        """The log lines that are JSON objects with a `request_id`, in order, once there are so many of them."""
        self._wait_until(lambda: len(self._records()) >= at_least, timeout_s, f"{at_least} call records")
        return self._records()

    def record_of(self, request_id: str, timeout_s: float = PATIENCE_S) -> Record:
        """The log line of the only request with this id, once it is written."""

        def found() -> list[Record]:
            return [record for record in self._records() if record["request_id"] == request_id]

        self._wait_until(lambda: found() != [], timeout_s, f"the record of {request_id}")
        (record,) = found()
        return record

    def worker_pids(self, at_least: int = 1, timeout_s: float = PATIENCE_S) -> list[int]:
        """The processes that gunicorn's master has forked, once there are so many of them."""
        self._wait_until(lambda: len(self._children()) >= at_least, timeout_s, f"{at_least} workers")
        return self._children()

    @property
    def config_path(self) -> Path:
        """The file that ONE_API_CONFIG names, if `config_yaml` was given."""
        return self._directory / "config.yaml"

    def hang_up(self) -> None:
        """Ask the gateway to load its configuration anew (SIGHUP to the master)."""
        self._process.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """Ask gunicorn to stop after the requests in flight (SIGTERM)."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill master and workers on the spot (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float = 10.0) -> int:
        """The master's exit code, once it has exited; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def _start(self) -> None:
        arguments = ["-k", "gthread", "--threads", "64"] if self.worker == "gthread" else []
        self._log_path = self._directory / "log"
        self._log_path.touch()
        command = ("gunicorn", "-c", "gunicorn.conf.py", *arguments, self.wsgi_app)
        self._process: Program | subprocess.Popen[bytes]
        if self.within or "SSL_CERT_FILE" in self.environment:  # certificates are read by an import
            self._process = start_program(
                *command, folder=REPOSITORY, env=self.environment, output=self._log_path, within=self.within
            )
        else:
            self._process = LAUNCHER.start(
                *command, folder=REPOSITORY, env=self.environment, stdout=self._log_path, max_files=self.max_files
            )

    def _environment(self) -> dict[str, str]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            "TMPDIR": str(self._directory),
            "PYTHONUNBUFFERED": "1",
            "ONE_API_ENV_FILE": os.devnull,
            "HOST": self.host,
            "PORT": str(self.port),
            "API_KEYS": "test-key",
            "ADMIN_KEY": "admin-key",
            "LOCAL_MODELS_ENABLED": "false",
            "LOG_FORMAT": "json",
            "DATABASE_URL": "none",
        }
        if self.pythonpath:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, self.pythonpath))
        if self.config_yaml is not None:
            self.config_path.write_text(self.config_yaml)
            environment["ONE_API_CONFIG"] = str(self.config_path)
        return environment | dict(self.env)

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"gunicorn exited with code {self._process.returncode}:\n{self.log[-LOG_TAIL:]}")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1.0)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _children(self) -> list[int]:
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:  # the master is gone
            return []
        return [pid for pid in map(int, listed.split()) if is_alive(pid)]

    def _raw_log(self, start: int) -> bytes:
        with self._log_path.open("rb") as log:
            log.seek(start)
            return log.read()

    def _records(self) -> list[Record]:
        """All records so far; each line is parsed once, because some gateways serve a thousand tests."""
        new = self._raw_log(self._parsed_to)
        whole = new[: new.rfind(b"\n") + 1]
        self._parsed_to += len(whole)
        objects = [_json_object(line) for line in whole.decode(errors="replace").splitlines()]
        self._parsed += [record for record in objects if record is not None and "request_id" in record]
        return list(self._parsed)

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s} s for {what}; the log ends:\n{self.log[-LOG_TAIL:]}")
            time.sleep(POLL_S)

    def _stop(self) -> None:
        with self._kept:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(self.stop_timeout_s)
            self.kill()
            self.wait(PATIENCE_S)
            self._wait_until(self._all_gone, PATIENCE_S, "every process to end")

    def _all_gone(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        # Its processes may have ended, and not been waited for by whoever has inherited them.
        return not any(is_alive(pid) for pid in group_of(self.pid))


def _json_object(line: str) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def free_port() -> int:
    """A port of loopback on which nothing listens, and that nobody in this run of the tests was given lately.

    Gateways of one port share the limits of their keys, also one after the other: what a test has used would count in
    the next. Taken from below the range from which the kernel serves outgoing connections, so that none of them can
    take it, or connect to itself there, before (or without) a server binding it.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports go round")


def _ports() -> Iterator[int]:
    """All ports that are this process's own among those of pytest-xdist, again and again from a chance place on."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(20_000 + number, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    first = random.SystemRandom().randrange(len(own))
    return itertools.cycle([*own[first:], *own[:first]])


_PORTS = _ports()
