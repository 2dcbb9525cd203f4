"""What the gateway reports when it starts: once, true, and with a line that works as printed."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from one_api.commands.startup import (
    Listening,
    address_problem,
    announcement,
    announcement_as_json,
    first_request,
)
from one_api.config import Loaded, load
from one_api.observability.log import MAX_LINE_CHARACTERS
from one_api.settings.private_files import machine_warnings
from tests.support import Gateway, free_port, run_program
from tests.support.launcher import REPOSITORY

URL = "http://127.0.0.1:8000"
KEY = "sk-canary-7f3a9c"


def read(folder: Path, env_text: str, yaml_text: str = "", **environ: str) -> Loaded:
    """What is read in a folder with these files."""
    (folder / "one_api.yaml").write_text(yaml_text or "log: {format: text}")
    (folder / ".env").write_bytes(env_text.encode())
    return load({"ONE_API_ENV_FILE": str(folder / ".env"), **environ})


def key_sent_by(line: str) -> str:
    """The key that a printed curl line sends, as any shell runs it."""
    header = re.search(r'-H "Authorization: Bearer (.*)"', line)
    assert header
    done = subprocess.run(["bash", "-c", f'printf %s "{header[1]}"'], cwd="/", env={"PATH": os.environ["PATH"]},
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert done.stderr == ""
    return done.stdout


# The first request


@pytest.mark.parametrize(
    "env_text",
    [
        f"API_KEYS={KEY}\n",
        f"API_KEYS={KEY},sk-other\n",
        f"API_KEYS=alice:{KEY},bob:sk-other\r\n",
        f'API_KEYS="{KEY}, sk-other"  # two\n',
        f"export API_KEYS='{KEY}'\n",
        f"KEY_={KEY}\nONE_API_CONFIG={{folder}}/keys.yaml\n",
    ],
    ids=["one", "two", "named, CRLF", "quoted", "exported", "in YAML"],
)
def test_the_printed_line_sends_the_key_wherever_it_is_kept(tmp_path: Path, env_text: str) -> None:
    (tmp_path / "keys.yaml").write_text("api_keys: [{key: '${KEY_}', name: team}, {key: other}]")
    loaded = read(tmp_path, env_text.replace("{folder}", str(tmp_path)))

    line = first_request(loaded, URL)

    assert line
    assert KEY not in line
    assert key_sent_by(line) == KEY


def test_a_key_that_no_other_shell_can_read_is_not_asked_for(tmp_path: Path) -> None:
    by_environment = read(tmp_path, "", API_KEYS=KEY)
    by_variable = read(tmp_path, f"ONE_API_CONFIG={tmp_path}/one_api.yaml", "api_keys: [{key: '${K}'}]", K=KEY)

    for loaded in (by_environment, by_variable, read(tmp_path, "")):
        assert first_request(loaded, URL) is None
        assert "curl" not in announcement(loaded, Listening(URL, 1))


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("adapters: {up: {type: openai}}", None),
        ('adapters: {up: {type: openai, models: ["it\'s"]}}', "it's"),
        ("adapters: {up: {type: openai}}\nmodel_groups: {fast: up/m}", "fast"),
        ("adapters: {here: {type: local, models_dir: /nowhere}}", None),
    ],
)
def test_the_printed_line_names_a_model_that_is_there(tmp_path: Path, text: str, model: str | None) -> None:
    env_text = f"API_KEYS={KEY}\nONE_API_CONFIG={tmp_path}/one_api.yaml\n"

    words = shlex.split(first_request(read(tmp_path, env_text, text), URL) or "")

    if model is None:
        assert words[1] == f"{URL}/v1/models"
    else:
        assert words[1] == f"{URL}/v1/chat/completions"
        assert json.loads(words[-1])["model"] == model


def test_the_model_that_comes_with_the_gateway_is_asked_for_a_short_answer(tmp_path: Path) -> None:
    text = "adapters: {up: {type: openai, models: [SmolLM2-135M-Instruct.Q4_1]}}"
    env_text = f"API_KEYS={KEY}\nONE_API_CONFIG={tmp_path}/one_api.yaml\n"

    words = shlex.split(first_request(read(tmp_path, env_text, text), URL) or "")

    assert json.loads(words[-1])["max_tokens"] == 100


# The table


GROUPS = """
adapters: {up: {type: openai, base_url: 'http://127.0.0.1:9/v1', models: [m, n]}, other: {type: openai, models: [o]}}
model_groups: {fast: {targets: [up/m], fallbacks: [other/o]}}
rate_limit: {requests_per_minute: 7}
"""


def test_the_start_is_reported_once_for_all_processes(tmp_path: Path) -> None:
    env_file = tmp_path / "x.env"
    env_file.write_text(f"API_KEYS=alice:{KEY}\n")
    env = {"LOG_FORMAT": "text", "WEB_CONCURRENCY": "2", "ONE_API_ENV_FILE": str(env_file), "PORTT": "1"}
    with Gateway(env=env | {"API_KEYS": f"alice:{KEY}"}, config_yaml=GROUPS) as gateway:
        for text in ("is listening on", "up (openai, http://127.0.0.1:9/v1): m, n", "fast: up/m; else other/o", "alice",
                     "7 requests a minute", "database", str(env_file), gateway.url, "Did you mean PORT?",
                     f"chmod 600 {env_file}"):  # fmt: skip
            gateway.wait_for_log(text)
        gateway.terminate()  # so that each process has said all that it says
        gateway.wait()
        log = gateway.log

    assert log.count("is listening on") == log.count("fast: up/m; else other/o") == log.count("Did you mean PORT?") == 1
    assert KEY not in log


def test_a_log_of_json_reports_it_in_one_line() -> None:
    with Gateway(env={"PORTT": "1"}, config_yaml=GROUPS) as gateway:
        gateway.wait_for_log('"event":"start"')
        gateway.terminate()
        gateway.wait()
        lines = [json.loads(line) for line in gateway.log.splitlines()]

    (start,) = [line for line in lines if line["event"] == "start"]
    assert start["groups"] == ["fast: up/m; else other/o"]
    assert any(line.get("level") == "warning" and "PORTT" in line["message"] for line in lines)


# The address


def gunicorn(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Start the gateway where it cannot start."""
    clean = {"PATH": os.environ["PATH"], "ONE_API_ENV_FILE": os.devnull, "API_KEYS": "k", **env}
    return run_program("gunicorn", *arguments, "wsgi:app", env=clean)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]"])
def test_a_port_in_use_is_one_sentence_that_names_it(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.bind(("::1" if ":" in host else "127.0.0.1", free_port()))
        holder.listen()
        port = holder.getsockname()[1]

        done = gunicorn(HOST=host, PORT=str(port))

    assert done.returncode == 1
    assert f"Port {port} is in use by process {os.getpid()}" in done.stderr
    assert "PORT" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_flask_run_says_the_same_instead_of_what_it_would_serve() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))
        holder.listen()
        port = holder.getsockname()[1]
        env = {"PATH": os.environ["PATH"], "ONE_API_ENV_FILE": os.devnull, "API_KEYS": "k", "PORT": str(port)}
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "run"]

        done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert f"Port {port} is in use by process {os.getpid()}" in done.stderr
    assert "listening" not in done.stdout + done.stderr


def test_the_address_that_gunicorn_is_given_is_the_one_that_counts() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))
        holder.listen()
        port = holder.getsockname()[1]

        done = gunicorn("--bind", f"127.0.0.1:{port}")

    assert f"Port {port} is in use" in done.stderr


@pytest.mark.parametrize(("host", "says"), [("192.0.2.1", "HOST"), ("no-such-host.invalid", "HOST")])
def test_an_address_that_cannot_be_had_is_one_sentence_with_the_cure(host: str, says: str) -> None:
    problem = address_problem(host, free_port())

    assert problem
    assert says in problem


def test_a_free_address_is_no_problem() -> None:
    assert address_problem("127.0.0.1", free_port()) is None


# The machine


@pytest.mark.parametrize(
    ("mode", "text", "warned"),
    [
        (0o600, "API_KEYS=sk\n", False),
        (0o640, "API_KEYS=sk\n", False),
        (0o644, "API_KEYS=sk\n", True),
        (0o666, "API_KEYS=sk\n", True),
        (0o644, "API_KEYS=\n# OPENAI_API_KEY=sk\nPORT=1\n", False),
        (0o602, "PORT=1\n", True),
    ],
)
def test_secrets_that_others_can_read_are_a_warning(tmp_path: Path, mode: int, text: str, warned: bool) -> None:
    loaded = read(tmp_path, text)
    (tmp_path / ".env").chmod(mode)

    found = [warning.where for warning in machine_warnings(loaded.files, user=1000)]

    assert found == ([str(tmp_path / ".env")] if warned else [])


@pytest.mark.parametrize(
    ("text", "warned"),
    [("api_keys: [{key: sk-1}]", True), ("adapters:\n  u: {type: openai, api_key: sk-1}", True),
     ("adapters:\n  u: {type: openai, api_key: '${PORT}'}", False), ("server: {keep_alive_s: 3}", False)],
)  # fmt: skip
def test_so_they_are_in_the_yaml_file(tmp_path: Path, text: str, warned: bool) -> None:
    loaded = read(tmp_path, f"ONE_API_CONFIG={tmp_path}/one_api.yaml\nPORT=8000", text)
    (tmp_path / ".env").chmod(0o600)

    found = [warning.where for warning in machine_warnings(loaded.files, user=1000)]

    assert found == ([str(tmp_path / "one_api.yaml")] if warned else [])


def test_root_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / ".env").touch(mode=0o600)
    loaded = load({"ONE_API_ENV_FILE": str(tmp_path / ".env")})

    assert [warning.where for warning in machine_warnings(loaded.files, user=0)] == ["root"]
    assert machine_warnings(loaded.files, user=1000) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@db.example/one_api",
        "postgresql://user:s3@cret/s3cret@db.example/one_api",
        "postgresql://db.example/one_api?user=user&password=s3cret",
    ],
)
def test_the_table_shows_which_database_and_no_password(tmp_path: Path, url: str) -> None:
    loaded = read(tmp_path, f"API_KEYS={KEY}\nDATABASE_URL={url}\n")

    for said in (announcement(loaded, Listening(URL, 1)), announcement_as_json(loaded, Listening(URL, 1))):
        assert "db.example/one_api" in said
        assert "s3cret" not in said


def test_the_line_of_the_start_is_bounded_however_much_is_served(tmp_path: Path) -> None:
    entry = "{type: openai, base_url: 'http://127.0.0.1:9/v1', models: [m]}"
    adapters = "\n".join(f"  adapter-{number}: {entry}" for number in range(1500))
    loaded = read(
        tmp_path, f"API_KEYS={KEY}\n", f"adapters:\n{adapters}", ONE_API_CONFIG=str(tmp_path / "one_api.yaml")
    )

    line = announcement_as_json(loaded, Listening(URL, 1))

    assert MAX_LINE_CHARACTERS / 4 < len(line) <= MAX_LINE_CHARACTERS
    assert json.loads(line)["address"] == [URL]
    assert re.fullmatch(r"and \d+ more", json.loads(line)["adapters"][-1])
