"""The command as people run it: against a scripted upstream, by each of its names."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from one_api.__main__ import main
from tests.api.bed import yaml
from tests.commands.test_cli import FLASK, MODULE, ROOT, config, run
from tests.support.replies import error
from tests.support.upstream import ScriptedUpstream

BY_NAME = pytest.mark.parametrize("command", [FLASK, MODULE], ids=["flask", "python -m one_api"])
SECRETS = {"API_KEYS": "alice:sk-client-secret", "KEY": "sk-upstream-secret"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """Lists one model."""
    with ScriptedUpstream(["m"]) as running:
        yield running


def env(tmp_path: Path, upstream: ScriptedUpstream) -> dict[str, str]:
    """An environment with one upstream."""
    adapters = {"eu": {"type": "openai", "base_url": upstream.base_url, "api_key": "${KEY}"}}
    return {**SECRETS, **config(tmp_path, yaml(adapters=adapters))}


@BY_NAME
def test_a_working_configuration_ends_with_status_0(
    tmp_path: Path, upstream: ScriptedUpstream, command: Sequence[str]
) -> None:
    done = run("doctor", env=env(tmp_path, upstream), command=command)

    assert (done.returncode, done.stderr) == (0, "")
    assert "answers and lists 1 models" in done.stdout
    assert "open files" in done.stdout
    assert "are free on its disk" in done.stdout
    assert "sk-" not in done.stdout


def test_a_problem_ends_with_status_1(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ScriptedUpstream() as refusing:
        refusing.on_models(error(401, "wrong key sk-upstream-secret"))
        done = run("doctor", env=env(tmp_path, refusing))

    assert (done.returncode, done.stderr) == (1, "")
    assert "problem  adapters.eu" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("1 problem")
    assert "sk-" not in done.stdout


@BY_NAME
def test_a_configuration_that_cannot_be_used_ends_with_status_1(command: Sequence[str]) -> None:
    done = run("doctor", env={"PORT": "many", "API_KEYS": "sk-client-secret"}, command=command)

    assert done.returncode == 1
    assert "PORT: is not a number" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "sk-" not in done.stdout + done.stderr


BROKEN = {
    "a library is missing": "raise ImportError('libgomp.so.1: cannot open shared object file')",
    "it ends the process": "import os; os.abort()",
    "it says much": "raise SystemError('x' * 5000 + chr(10) + 'y' * 5000)",
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_engine_that_is_broken_is_one_line_with_its_cure(tmp_path: Path, name: str) -> None:
    package = tmp_path / "site" / "xllamacpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN[name])
    variables = {**SECRETS, "LOCAL_MODELS_ENABLED": "true", "PYTHONPATH": str(package.parent)}

    done = run("doctor", env=variables)

    (line,) = [line for line in done.stdout.splitlines() if "local engine" in line]
    assert (done.returncode, done.stderr) == (1, "")
    assert line.startswith("problem")
    assert "LOCAL_MODELS_ENABLED=false" in line
    assert len(line) < 500


@pytest.mark.parametrize("allowed", [32, 64])
def test_few_descriptors_are_one_line_with_the_cure(tmp_path: Path, upstream: ScriptedUpstream, allowed: int) -> None:
    script = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({allowed}, {allowed}));"
        " runpy.run_module('one_api', run_name='__main__')"
    )
    variables = {"PATH": os.defpath, "ONE_API_ENV_FILE": os.devnull, **env(tmp_path, upstream)}
    command = [sys.executable, "-c", script, "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if "open files" in line]
    assert line.startswith(f"warning  open files (ulimit -n): {allowed} are allowed")
    assert "Raise the limit" in line


def test_the_console_script_leads_to_the_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert project["project"]["scripts"] == {"one-api": f"{main.__module__}:{main.__name__}"}


def test_a_gateway_that_serves_imports_nothing_of_the_examination() -> None:
    script = (
        "import sys, wsgi; print([name for name in ('requests', 'urllib3', 'one_api.doctor') if name in sys.modules])"
    )

    env = {"ONE_API_ENV_FILE": os.devnull, **SECRETS}

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")
