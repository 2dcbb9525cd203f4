"""The commands of the application: what they print, and how they end."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from one_api import __version__
from tests.api.bed import yaml
from tests.support import run_program

ROOT = Path(__file__).parents[2]
FLASK = ("flask", "--app", "wsgi")
MODULE = ("one_api",)


def run(*arguments: str, env: Mapping[str, str], command: Sequence[str] = FLASK) -> "subprocess.CompletedProcess[str]":
    """Run a command in an environment made from scratch."""
    clean = {"PATH": os.environ.get("PATH", os.defpath), "ONE_API_ENV_FILE": os.devnull, "FLASK_SKIP_DOTENV": "1"}
    return run_program(*command, *arguments, env=clean | dict(env))


def config(tmp_path: Path, text: str) -> dict[str, str]:
    """An environment that names a configuration file."""
    path = tmp_path / "one_api.yaml"
    path.write_text(text)
    return {"ONE_API_CONFIG": str(path)}


SECRETS = {"API_KEYS": "sk-client-one,sk-client-two", "OPENAI_API_KEY": "sk-upstream-secret"}


@pytest.mark.parametrize("command", [FLASK, MODULE], ids=["flask", "python -m one_api"])
def test_check_prints_the_whole_configuration_without_secrets(command: Sequence[str]) -> None:
    done = run("config", "check", env={**SECRETS, "PORT": "8123", "RATE_LIMIT_REQUESTS": "7"}, command=command)

    assert (done.returncode, done.stderr) == (0, "")
    for line in ("port: 8123", "requests_per_minute: 7", "base_url: https://api.openai.com/v1", "type: openai"):
        assert line in done.stdout
    assert done.stdout.count("***") == 3
    assert "sk-" not in done.stdout


def test_check_reads_the_file_and_its_variables(tmp_path: Path) -> None:
    adapters = {"eu": {"type": "openai", "base_url": "${EU_URL}", "api_key": "${EU_KEY}", "models": ["m"]}}
    groups = {"fast": {"targets": ["eu/m"], "strategy": "ordered"}}
    env = config(tmp_path, yaml(adapters=adapters, model_groups=groups))

    done = run("config", "check", env={**env, "EU_URL": "https://eu.example/v1", "EU_KEY": "sk-eu-secret"})

    assert (done.returncode, done.stderr) == (0, "")
    for line in ("base_url: https://eu.example/v1", "strategy: ordered", "api_key: '***'"):
        assert line in done.stdout
    assert "sk-eu-secret" not in done.stdout


WRONG = """
adapters:
  eu:
    type: openai
    base_url: ftp://eu.example
    api_key: ${MISSING_KEY}
    wieght: 2
  x/y: {type: local}
  odd: {type: claudette}
model_groups:
  fast: {targets: [us/m], strategy: fastest}
  none: {targets: []}
server: {port: 99999, workers: 0}
retry: {max_attempts: many}
sever: {}
"""


@pytest.mark.parametrize("command", [FLASK, MODULE], ids=["flask", "python -m one_api"])
def test_check_tells_everything_that_is_wrong_at_once(tmp_path: Path, command: Sequence[str]) -> None:
    env = config(tmp_path, WRONG)

    done = run("config", "check", env={**env, **SECRETS, "DEBUG": "maybe", "PORT": "many"}, command=command)

    assert done.returncode != 0
    for place in (
        "DEBUG", "PORT", "MISSING_KEY", "adapters.eu.wieght", "adapters.odd.type", "model_groups.fast.strategy",
        "model_groups.none.targets", "server.port", "server.workers", "retry.max_attempts", "sever",
    ):  # fmt: skip
        assert place in done.stderr, place
    assert "Did you mean weight?" in done.stderr
    assert "Did you mean server?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sk-" not in done.stdout + done.stderr


def test_check_tells_what_only_fits_badly_together(tmp_path: Path) -> None:
    adapters = {"eu": {"type": "openai", "base_url": "ftp://eu.example"}, "x/y": {"type": "local"}}
    groups = {"fast": {"targets": ["us/m", "eu"]}}
    env = config(tmp_path, yaml(adapters=adapters, model_groups=groups, api_keys=[{"key": "a b"}, {"key": "a b"}]))

    done = run("config", "check", env=env)

    assert done.returncode != 0
    for place in ("adapters.eu.base_url", "adapters.x/y", "model_groups.fast", "api_keys", "twice"):
        assert place in done.stderr
    assert "a b" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adapters: [", "not valid YAML"),
        ("- list", "no mapping"),
        ("server: {host: a}\nserver: {host: b}", "given twice"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, words: str) -> None:
    done = run("config", "check", env=config(tmp_path, text))

    assert done.returncode != 0
    assert "one_api.yaml" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("config", "check", env={"ONE_API_CONFIG": str(tmp_path / "missing.yaml")})

    assert done.returncode != 0
    assert "missing.yaml" in done.stderr


def test_gunicorn_does_not_start_half_configured() -> None:
    done = run("wsgi:app", env={"PORT": "many"}, command=("gunicorn",))

    assert done.returncode != 0
    assert "PORT: is not a number" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version() -> None:
    done = run("--version", env={}, command=MODULE)

    assert (done.returncode, done.stdout.strip()) == (0, f"one_api, version {__version__}")


def test_the_version_does_not_need_a_configuration() -> None:
    done = run("--version", env={"PORT": "many"}, command=MODULE)

    assert (done.returncode, done.stderr) == (0, "")


#: Says what is imported where a command ends, or becomes gunicorn.
AUDITED = """
import atexit, sys

def loaded(how):
    print(how, *(name for name in ("one_api.app", "flask_limiter", "aiohttp") if name in sys.modules), flush=True)

sys.addaudithook(lambda event, _: loaded("becomes gunicorn") if event == "os.exec" else None)
atexit.register(loaded, "ends")
from one_api.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["--version"], "ends"),
        (["key"], "ends"),
        (["chat", "Hi"], "ends"),
        (["models", "list"], "ends"),
        (["serve", "--version"], "becomes gunicorn"),
    ],
)
def test_a_command_that_needs_no_application_imports_none(arguments: list[str], end: str) -> None:
    env = {"PATH": os.environ.get("PATH", os.defpath), "ONE_API_ENV_FILE": os.devnull, "API_KEYS": "k"}
    command = [sys.executable, "-c", AUDITED, *arguments]

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)

    assert end in done.stdout.splitlines(), done.stdout + done.stderr


def test_the_commands_are_listed() -> None:
    done = run("--help", env={})

    assert done.returncode == 0
    assert "config" in done.stdout


# Files


def run_in(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run Flask's command line in a folder of its own, with all that it does by itself."""
    clean = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), **env}
    # A real start: which variables it began with is looked up in /proc.
    return subprocess.run(
        [sys.executable, "-m", *FLASK, *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("env", "port"),
    [
        ({}, 1111),
        ({"ONE_API_ENV_FILE": "other.env"}, 2222),
        ({"ONE_API_ENV_FILE": "other.env", "PORT": "3333"}, 3333),
        ({"ONE_API_ENV_FILE": "other.env", "PORT": "1111"}, 1111),
        ({"ONE_API_ENV_FILE": os.devnull}, 8000),
    ],
)
def test_flasks_own_env_file_is_not_read_beside_ours(tmp_path: Path, env: dict[str, str], port: int) -> None:
    (tmp_path / ".env").write_text("PORT=1111\n")
    (tmp_path / ".flaskenv").write_text("PORT=4444\n")
    (tmp_path / "other.env").write_text("PORT=2222\n")

    done = run_in(tmp_path, "config", "check", **env)

    assert f"port: {port}\n" in done.stdout, done.stderr


PROBE = """
import os
from flask import Flask
from one_api.config import load
load()
print({name: os.environ.get(name) for name in ("PORT", "HOST")})
app = Flask("probe")
"""


def test_processes_started_from_a_command_do_not_inherit_flasks_files(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1111\nHOST=127.0.0.1\n")
    (tmp_path / "wsgi.py").write_text(PROBE)

    done = run_in(tmp_path, "routes", HOST="127.0.0.1")

    assert "{'PORT': None, 'HOST': '127.0.0.1'}" in done.stdout, done.stderr


@pytest.mark.parametrize("command", [("config", "check"), ("models", "list")])
def test_commands_name_the_files_that_they_read(tmp_path: Path, command: tuple[str, str]) -> None:
    (tmp_path / ".env").write_text("ONE_API_CONFIG=one_api.yaml\n")
    (tmp_path / "one_api.yaml").write_text("adapters: {here: {type: local}}")

    done = run_in(tmp_path, *command)

    assert done.returncode == 0, done.stderr
    for name in (".env", "one_api.yaml"):
        assert str(tmp_path / name) in done.stdout + done.stderr


# Warnings


@pytest.mark.parametrize("command", [FLASK, MODULE], ids=["flask", "python -m one_api"])
def test_a_warning_is_an_error_when_strict(command: Sequence[str]) -> None:
    env = {"PORTT": "8123", "ANTHROPIC_API_KEY": "sk-secret-secret"}

    kind, strict = (run("config", "check", *more, env=env, command=command) for more in ([], ["--strict"]))

    assert (kind.returncode, strict.returncode) == (0, 1)
    for done in (kind, strict):
        assert "Did you mean PORT?" in done.stderr
        assert "Did you mean CLAUDE_API_KEY?" in done.stderr
        assert "sk-secret" not in done.stdout + done.stderr


def test_without_warnings_strict_changes_nothing() -> None:
    done = run("config", "check", "--strict", env=SECRETS)

    assert (done.returncode, done.stderr) == (0, "")


# Keys


@pytest.mark.parametrize(
    ("arguments", "key"), [([], "sk-client-one"), (["bob"], "sk-client-two"), (["alice"], "sk-client-one")]
)
def test_a_key_is_printed_for_a_command_line(arguments: list[str], key: str) -> None:
    env = {"API_KEYS": "alice:sk-client-one, bob:sk-client-two"}

    done = run("key", *arguments, env=env, command=MODULE)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{key}\n", "")


@pytest.mark.parametrize(("env", "arguments"), [({}, []), ({"API_KEYS": "a:sk-1"}, ["b"]), ({"PORT": "x"}, [])])
def test_a_key_that_is_not_there_is_an_error_in_words(env: dict[str, str], arguments: list[str]) -> None:
    done = run("key", *arguments, env=env, command=MODULE)

    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def test_check_shows_which_key_has_which_name() -> None:
    done = run("config", "check", env={"API_KEYS": "alice:sk-client-one,sk-client-two"})

    assert "- key: '***-one'\n  name: alice\n- key: '***-two'\n  name: key-" in done.stdout
