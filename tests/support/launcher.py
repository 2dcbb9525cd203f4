"""Programs that start with their imports done: forks of one process that holds them.

Hundreds of gateways and commands are started by the tests, and each would else spend most of its start on importing the
same modules. What is run is the same: ``python -m MODULE``, in a session, folder and environment of its own.

Three things are not: ``sys.modules`` holds more from the start, ``/proc/self/environ`` is that of the holding process,
and a program that has ended by itself leaves its memory as it is (``End``). ``start_program`` is for tests of these.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.01
#: What gunicorn, the gateway and its commands import. Not one_api.serving.gunicorn_conf, which loads a configuration.
PRELOADED = (
    "encodings.idna",
    "flask.cli",
    "gunicorn.app.wsgiapp",
    "gunicorn.glogging",
    "gunicorn.workers.gthread",
    "one_api.accounts.migrate",
    "one_api.accounts.service",
    "one_api.app",
    "one_api.quickstart",
    "one_api.api.account",
    "one_api.admin.accounts",
    "one_api.models.adapters.openai",
    "one_api.models.adapters.claude",
    "one_api.models.adapters.local",
    "one_api.serving.worker",
    "psycopg",
    "sqlite3",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)


class Program:
    """One that runs; as ``subprocess.Popen``, as far as the tests need it."""

    def __init__(self, launcher: "Launcher", pid: int) -> None:
        self._launcher = launcher
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._launcher.status_of(self.pid)
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it has ended; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout_s)
            time.sleep(POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends meanwhile
                os.kill(self.pid, number)


class Launcher:
    """Starts programs; from the first one on there is a process that holds the imports, until this one ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: subprocess.Popen[bytes] | None = None
        self._ended: dict[int, int] = {}

    def start(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        env: Mapping[str, str],
        stdout: Path,
        stderr: Path | None = None,
        stdin: Path | None = None,
        max_files: int | None = None,
    ) -> Program:
        """Run ``python -m module arguments``, which writes to files; without ``stderr`` all goes into one.

        Without ``stdin`` it reads nothing. ``max_files`` is how many files it may have open.
        """
        asked = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder),
            "env": dict(env),
            "stdout": str(stdout),
            "stderr": str(stderr or stdout),
            "stdin": str(stdin or os.devnull),
            "max_files": max_files,
        }
        with self._lock:
            if self._holder is None:
                self._holder = self._hold()
            assert self._holder.stdin is not None
            self._holder.stdin.write(json.dumps(asked).encode() + b"\n")
            self._holder.stdin.flush()
            while (pid := self._read()) is None:
                pass
            self._ended.pop(pid, None)  # of another one that had this id and was never asked for
        return Program(self, pid)

    def status_of(self, pid: int) -> int | None:
        """The exit code of a program that has ended; asked for once."""
        with self._lock:
            assert self._holder is not None
            assert self._holder.stdout is not None
            while select.select([self._holder.stdout], [], [], 0)[0]:
                self._read()
            return self._ended.pop(pid, None)

    def _hold(self) -> "subprocess.Popen[bytes]":
        env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def _read(self) -> int | None:
        """Read one line of the process: a pid that was started is returned, a status that one ended with is kept."""
        assert self._holder is not None
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        assert line, "the process that holds the imports has ended"
        pid, *status = map(int, line.split())
        if not status:
            return pid
        self._ended[pid] = status[0]
        return None


#: The tests' own.
LAUNCHER = Launcher()


def start_program(
    module: str, *arguments: str, folder: Path, env: Mapping[str, str], output: Path, within: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Run ``python -m module arguments`` as a shell would, with all of its imports; ``within`` stands before it."""
    with output.open("ab") as opened:
        return subprocess.Popen(
            [*within, sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_program(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    folder: Path = REPOSITORY,
    stdin: str = "",
    timeout_s: float = 60.0,
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m module arguments`` to its end; raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="program-") as files:
        out, err, given = Path(files, "out"), Path(files, "err"), Path(files, "in")
        given.write_text(stdin)
        program = LAUNCHER.start(module, *arguments, folder=folder, env=env, stdout=out, stderr=err, stdin=given)
        try:
            status = program.wait(timeout_s)
        finally:
            program.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess((module, *arguments), status, out.read_text(), err.read_text())


def asked_for() -> Iterator[dict[str, Any]]:
    """In the process that holds the imports: what to start, one after the other; reports what has ended meanwhile."""
    running: dict[int, int] = {}
    ready = select.poll()
    ready.register(sys.stdin, select.POLLIN)
    while True:
        for descriptor, _ in ready.poll():
            if pid := running.pop(descriptor, 0):
                ready.unregister(descriptor)
                os.close(descriptor)
                print(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            elif not (line := sys.stdin.buffer.readline()):
                return
            elif pid := os.fork():
                print(pid, flush=True)
                running[descriptor := os.pidfd_open(pid)] = pid
                ready.register(descriptor, select.POLLIN)
            else:
                for descriptor in running:
                    os.close(descriptor)
                yield json.loads(line)
                return


def become(asked: dict[str, Any]) -> None:
    """Make this process what the program's would be, had it been started by a shell."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate((asked["stdin"], asked["stdout"], asked["stderr"])):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if descriptor else os.O_RDONLY
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    if files := asked["max_files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["folder"])
    paths = filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [asked["folder"], *paths]
    sys.argv = [asked["module"], *asked["arguments"]]


class End:
    """How a process that has nothing more to do ends; called after everything else that was left for its end.

    It leaves its memory as it is: to take apart what it shares with the others would have all of it copied first, which
    takes as long as a gateway's start.
    """

    #: None leaves the end to Python.
    status: int | None = None

    def __call__(self) -> None:
        """End, if the program has."""
        if self.status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)


def run(asked: dict[str, Any], end: End) -> None:
    """Be the program to its end, in each process of it."""
    become(asked)
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        end.status = 0
    except SystemExit as error:
        if not isinstance(error.code, str):  # which Python has to print
            end.status = int(error.code or 0)
        raise


if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)
    atexit.register(the_end := End())  # what was registered first is called last
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for task in asked_for():
        run(task, the_end)
