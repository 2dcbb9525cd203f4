"""``one-api serve`` and ``one-api chat``, where nothing but the package is: no clone, no settings, an empty folder."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.clients import wait_until
from tests.serving.test_start import answers
from tests.support import ScriptedUpstream, free_port, sse, text_chunks
from tests.support.launcher import REPOSITORY, run_program


def environment(folder: Path, port: int, **more: str) -> dict[str, str]:
    """What somebody has who has set nothing up."""
    given = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    return given | {"PORT": str(port), "LOCAL_MODELS_ENABLED": "false", "PYTHONPATH": str(REPOSITORY)} | more


class Installed:
    """The commands, in a folder of their own; the package is found as an installed one is."""

    def __init__(self, folder: Path, **more: str) -> None:
        (folder / "tmp").mkdir(mode=0o700)
        self.folder, self.port = folder, free_port()
        self._env = environment(folder, self.port, **more)

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return run_program("one_api", *arguments, env=self._env, folder=self.folder, stdin=stdin)

    @contextlib.contextmanager
    def serving(self, *arguments: str) -> Iterator[Path]:
        """Serve until the context is left; returns the log."""
        log = self.folder / "log"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "one_api", "serve", *arguments]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdout=file, stderr=file, start_new_session=True
            )
        try:
            wait_until(lambda: answers(self.port) or process.poll() is not None, "the start", 30)
            assert process.poll() is None, log.read_text()
            yield log
            process.terminate()
            assert process.wait(10) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["m"]) as started:
        started.on("m", sse(*text_chunks("Hel", "lo")))
        yield started


def test_an_empty_folder_gets_keys_and_is_served(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    installed = Installed(tmp_path, OPENAI_BASE_URL=upstream.base_url)
    with installed.serving("--workers", "2") as log:
        env = tmp_path / ".env"
        assert stat.S_IMODE(env.stat().st_mode) == 0o600
        assert "made .env with new keys" in log.read_text()
        assert "processes      2" in log.read_text()
        asked = installed.run("chat", "Hi", "there")
        assert (asked.returncode, asked.stdout) == (0, "Hello\n"), asked.stderr
        told = installed.run("chat", "--model", "m", stdin="Hi\n\nAgain\n")
        assert (told.returncode, told.stdout) == (0, "Hello\nHello\n"), told.stderr
        reloaded = installed.run("config", "reload")
        assert reloaded.returncode == 0, reloaded.stderr
        check = installed.run("check")
        assert (check.returncode, f"port: {installed.port}" in check.stdout) == (0, True)
    assert {each.name for each in tmp_path.iterdir()} <= {".env", "log", "tmp", ".gunicorn"}


def test_a_model_that_could_not_be_fetched_is_fetched_at_the_next_start(tmp_path: Path) -> None:
    installed = Installed(tmp_path, LOCAL_MODELS_ENABLED="true", PIP_NO_INDEX="1")
    for start in range(2):
        with installed.serving() as log:
            said = log.read_text()
            assert ("made .env with new keys" in said) == (start == 0)
            assert "Fetching SmolLM2-135M-Instruct.Q4_1.gguf" in said
            assert "The gateway starts without it. For a model of a provider put OPENAI_API_KEY=" in said
            asked = installed.run("chat", "Hi")
            assert asked.returncode == 1
            assert "lists no model: `python -m one_api doctor` says why" in asked.stderr


def test_what_somebody_has_set_up_is_not_added_to(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    (tmp_path / ".env").write_text(f"API_KEYS=sk-mine\nOPENAI_BASE_URL={upstream.base_url}\n")
    with Installed(tmp_path, LOCAL_MODELS_ENABLED="true", PIP_NO_INDEX="1").serving() as log:
        assert "Fetching" not in log.read_text()


def test_who_has_a_key_gets_no_file(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    installed = Installed(tmp_path, OPENAI_BASE_URL=upstream.base_url, API_KEYS="sk-mine")
    with installed.serving():
        assert installed.run("chat", "Hi").stdout == "Hello\n"
    assert not (tmp_path / ".env").exists()


def test_another_projects_example_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("DATABASE_URL=\nAPI_KEYS=\n")
    with Installed(tmp_path).serving():
        assert "DATABASE_URL" not in (tmp_path / ".env").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat", "Hi"], "start it first"),
        (["chat", "--key", "x", "Hi"], "named x; there are: mine"),
        (["chat", ""], "the message is empty"),
    ],
)
def test_chat_says_what_is_missing(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = Installed(tmp_path, API_KEYS="mine:sk-mine").run(*arguments)

    assert (done.returncode, said in done.stderr) == (1, True)


def test_a_bad_configuration_is_said_in_words(tmp_path: Path) -> None:
    done = Installed(tmp_path, PORT="many").run("serve")

    assert (done.returncode, "PORT: is not a number" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


@pytest.mark.parametrize("data", ["API_KEYS=k\n".encode("utf-16"), "# Schlüssel\nAPI_KEYS=k\n".encode("latin-1")])
def test_a_file_in_another_encoding_is_said_in_words(tmp_path: Path, data: bytes) -> None:
    installed = Installed(tmp_path)
    (tmp_path / ".env").write_bytes(data)

    done = installed.run("key")

    assert done.returncode == 1
    assert ".env: cannot be read" in done.stderr
    assert "Save it as UTF-8 text" in done.stderr
    assert "Traceback" not in done.stderr
