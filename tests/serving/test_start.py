"""gunicorn started from another folder, or with another worker: our settings count, or the log names the cure."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import free_port
from tests.support.launcher import REPOSITORY

from .clients import wait_until


@contextlib.contextmanager
def gunicorn(tmp_path: Path, *arguments: str) -> Iterator[str]:
    """Start gunicorn in an empty folder; returns its log once it answers."""
    port = free_port()
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(tmp_path), "API_KEYS": "k", "PORT": str(port),
        "LOCAL_MODELS_ENABLED": "false", "ONE_API_ENV_FILE": os.devnull, "ONE_API_CONFIG": str(tmp_path / "few.yaml"),
    }  # fmt: skip
    # So few that any machine allows the files: else a warning of the worker would be in the log.
    (tmp_path / "few.yaml").write_text("server: {max_connections: 100}")
    (tmp_path / "few.yaml").chmod(0o600)
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "gunicorn", *(each.format(port=port) for each in arguments), "wsgi:app"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, "an answer", timeout_s=20)
        assert process.poll() is None, log.read_text()
        process.terminate()
        process.wait(10)
        yield log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    """Whether a gateway answers there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


FOLDER = str(REPOSITORY)
SETTINGS = str(REPOSITORY / "gunicorn.conf.py")


@pytest.mark.parametrize("arguments", [["-c", SETTINGS], ["-c", SETTINGS, "--chdir", FOLDER]], ids=["-c", "-c --chdir"])
def test_our_settings_count_wherever_they_are_read_from(tmp_path: Path, arguments: list[str]) -> None:
    with gunicorn(tmp_path, *arguments) as log:
        assert "is listening on" in log
        assert "WARNING" not in log


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chdir", FOLDER, "-b", "127.0.0.1:{port}"], "`sync` worker"),
        (["--chdir", FOLDER, "-b", "127.0.0.1:{port}", "--threads", "4"], "`gthread` worker"),
        (["-c", SETTINGS, "-k", "sync"], "`sync` worker"),
    ],
    ids=["settings not read", "threads", "another worker"],
)
def test_an_unfit_worker_is_named_with_its_cure(tmp_path: Path, arguments: list[str], words: str) -> None:
    with gunicorn(tmp_path, *arguments) as log:
        (line,) = [line for line in log.splitlines() if "WARNING gunicorn serves" in line]

    assert words in line
    assert f"gunicorn -c {SETTINGS} wsgi:app, without -k" in line


def test_preload_is_refused_with_its_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="--preload cannot be used: each worker"),
        gunicorn(tmp_path, "-c", SETTINGS, "--preload"),
    ):
        pass


#: Holds each new process of gunicorn where it has nothing of its own yet, until a signal has come.
HOLD_FORKS = """
import os, pathlib, signal

def hold():
    come, put = os.pipe()
    os.set_blocking(put, False)
    signal.set_wakeup_fd(put)
    pathlib.Path(__file__).with_name(f"forked-{os.getpid()}").touch()
    os.read(come, 1)
    signal.set_wakeup_fd(-1)

os.register_at_fork(after_in_child=hold)
"""


def test_a_worker_that_is_asked_to_end_while_it_is_being_made_ends(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOLD_FORKS)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(tmp_path), "API_KEYS": "k", "PORT": str(free_port()),
        "LOCAL_MODELS_ENABLED": "false", "ONE_API_ENV_FILE": os.devnull, "DATABASE_URL": "none",
        "PYTHONPATH": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: list(tmp_path.glob("forked-*")) != [], "a worker to be forked", timeout_s=20)
        process.terminate()
        assert process.wait(10) == 0, (tmp_path / "log").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
