"""The commands for local models."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from one_api.engine.inventory import table
from tests.support import run_program

ROOT = Path(__file__).parents[2]


#: An environment made from scratch.
CLEAN = {"PATH": os.environ.get("PATH", os.defpath), "ONE_API_ENV_FILE": os.devnull, "FLASK_SKIP_DOTENV": "1"}


def run(code: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run Python."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=CLEAN | dict(env), capture_output=True, text=True, timeout=60)


def flask(env: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run one of our commands."""
    return run_program("flask", "--app", "wsgi", *arguments, env=CLEAN | dict(env))


@pytest.fixture
def folder(model_file: Path, tmp_path: Path) -> Path:
    """A folder with the default model and with a file that is none."""
    models = tmp_path / "models"
    models.mkdir()
    (models / model_file.name).symlink_to(model_file)
    (models / "broken.gguf").write_bytes(b"not a model")
    return models


def test_models_are_listed_with_what_is_known_of_them(folder: Path, tmp_path: Path) -> None:
    done = flask({"LOCAL_MODELS_DIR": str(folder), "TMPDIR": str(tmp_path)}, "models", "list")

    head, row, problem = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert head.split() == ["MODEL", "SIZE", "CONTEXT", "TEMPLATE", "LOADED", "MEMORY", "FILE"]
    assert row.split()[:7] == ["SmolLM2-135M-Instruct.Q4_1", "98", "MB", "8192", "chat", "no", "-"]
    assert "broken.gguf" in problem


@pytest.mark.parametrize(("slot_context", "shown"), [("", "8192"), ("slot_context: 3072", "3072"), ("slots: 64", None)])
def test_the_list_shows_the_context_that_clients_are_shown(
    folder: Path, tmp_path: Path, slot_context: str, shown: str | None
) -> None:
    config = tmp_path / "one_api.yaml"
    config.write_text(f"adapters: {{local: {{type: local, models_dir: {folder}, {slot_context}}}}}")
    env = {"ONE_API_CONFIG": str(config), "API_KEYS": "k"}

    listed = flask(env, "models", "list").stdout.splitlines()[1].split()[3]
    answered = json.loads(run(ASK, env).stdout)

    assert answered == {"context_window": int(listed), "context_length": int(listed), "max_model_len": int(listed)}
    assert shown in (None, listed)


ASK = """
import json
from one_api.app import create_app

(entry,) = create_app().test_client().get("/v1/models", headers={"x-api-key": "k"}).json["data"]
print(json.dumps({name: entry[name] for name in ("context_window", "context_length", "max_model_len")}))
"""


def test_without_models_the_table_is_empty(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()

    assert len(table([tmp_path / "none"], tmp_path / "nowhere")) == 1


def test_a_model_that_is_there_is_not_fetched_again(folder: Path) -> None:
    done = flask({"LOCAL_MODELS_DIR": str(folder)}, "models", "fetch")

    assert (done.returncode, done.stderr) == (0, "")
    assert "is there" in done.stdout


def test_a_model_that_cannot_be_fetched_is_told_with_what_to_do(tmp_path: Path) -> None:
    env = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "HOME": str(tmp_path)}

    done = flask(env, "models", "fetch", str(tmp_path / "new"))

    assert done.returncode == 1
    assert "Without a network" in done.stderr


def test_listing_without_local_models_says_what_to_set() -> None:
    done = flask({"LOCAL_MODELS_ENABLED": "false"}, "models", "list")

    assert done.returncode == 1
    assert "LOCAL_MODELS_ENABLED" in done.stderr


IMPORTED = """
import json, sys
from one_api.app import create_app
create_app()
print(json.dumps([name for name in sys.modules if "xllamacpp" in name or "adapters.local" in name]))
"""


@pytest.mark.parametrize(("enabled", "some"), [("false", False), ("true", True)])
def test_without_local_models_nothing_of_the_engine_is_imported(enabled: str, some: bool) -> None:
    done = run(IMPORTED, {"LOCAL_MODELS_ENABLED": enabled})

    imported = json.loads(done.stdout)
    assert bool(imported) is some
    assert "xllamacpp" not in imported


WITHOUT_WHEEL = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "xllamacpp" else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from one_api.app import create_app
app = create_app()
client = app.test_client()
print(client.get("/health").status_code)
print(client.get("/v1/models", headers={"authorization": "Bearer k"}).status_code)
answer = client.post("/v1/chat/completions", headers={"authorization": "Bearer k"},
                     json={"model": "SmolLM2-135M-Instruct.Q4_1", "messages": [{"role": "user", "content": "Hi"}]})
print(answer.status_code, answer.json["error"]["message"])
"""


def test_without_the_wheel_the_message_is_clear_and_the_rest_works(folder: Path) -> None:
    done = run(WITHOUT_WHEEL, {"LOCAL_MODELS_DIR": str(folder), "API_KEYS": "k"})

    health, models, chat = done.stdout.splitlines()
    assert (health, models) == ("200", "200")
    assert chat.startswith("503 ")
    assert "pip install xllamacpp" in chat
    assert "pip install xllamacpp" in done.stderr
