"""What a clone needs before anything works: locks for every Python, and an installation that explains itself."""

import ast
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from one_api.install import fault_of

ROOT = Path(__file__).parent.parent
LOCKS = ["requirements.txt", "requirements-dev.txt"]
PYTHONS = ["3.11.0", "3.11.2", "3.11.3", "3.12.1", "3.13.0", "3.14.0"]


def on(python: str) -> dict[str, str]:
    """The environment that markers are judged by, on this machine with another Python."""
    return {**default_environment(), "python_full_version": python, "python_version": python.rpartition(".")[0]}  # type: ignore[dict-item]


def locked(lock: str, python: str) -> set[str]:
    """The packages that a lock installs there."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    found = [Requirement(line) for line in re.findall(r"^([A-Za-z0-9][^\\\n]*?)\s*\\$", text, re.MULTILINE)]
    return {canonicalize_name(each.name) for each in found if each.marker is None or each.marker.evaluate(on(python))}


def needed(name: str, python: str) -> Iterator[str]:
    """What a package needs there, without its extras; nothing for a package that is not installed here."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({**on(python), "extra": ""}):
            yield canonicalize_name(requirement.name)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_on_every_python(lock: str, python: str) -> None:
    there = locked(lock, python)

    missing = {(name, each) for name in there for each in needed(name, python) if each not in there}

    assert missing == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_pip_itself_is_locked(lock: str) -> None:
    assert "pip" in locked(lock, "3.11.2")


def install(requirements: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run our installation."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(requirements.parent), **env}
    command = [sys.executable, "-m", "one_api.install", str(requirements)]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120)


def test_without_a_network_the_cure_is_named(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"no-such-package-of-ours==1.0 --hash=sha256:{'0' * 64}\n")

    done = install(requirements, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0")

    assert done.returncode != 0
    for word in ("HTTPS_PROXY", "PIP_INDEX_URL", "PIP_FIND_LINKS"):
        assert word in done.stderr


def test_what_is_wrong_with_a_file_is_no_matter_of_the_network(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"no-such-package-of-ours==1.0 --hash=sha256:{'0' * 64}\n")

    done = install(requirements, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)

    assert done.returncode != 0
    assert "HTTPS_PROXY" not in done.stderr


@pytest.mark.parametrize("module", ["one_api.install", "one_api.quickstart"])
def test_what_is_interrupted_ends_in_a_sentence(module: str, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"no-such-package-of-ours==1.0 --hash=sha256:{'0' * 64}\n")
    with socket.create_server(("127.0.0.1", 0)) as index:  # where pip waits
        env = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
        }  # fmt: skip
        command = [sys.executable, "-m", module, *([str(requirements)] if module == "one_api.install" else [])]
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            index.settimeout(60)
            with index.accept()[0]:
                os.killpg(process.pid, signal.SIGINT)
                _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "interrupted: run the same command again" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("python", "is_fit"), [((3, 9, 6), False), ((3, 10, 12), False), ((3, 11, 0), True)])
def test_an_old_python_is_named_with_the_cure(python: tuple[int, ...], is_fit: bool) -> None:
    fault = fault_of(python)

    assert (fault == "") == is_fit
    assert is_fit or f"this is {'.'.join(map(str, python))}: remove" in fault


def test_old_pythons_understand_the_installation() -> None:
    for module in ("__init__.py", "install.py"):
        ast.parse((ROOT / "one_api" / module).read_text(encoding="utf-8"), feature_version=(3, 9))


def test_it_runs_before_anything_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "one_api/install.py")], capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 2
    assert "usage" in done.stderr


def test_the_commands_without_make_are_in_both_readmes() -> None:
    commands = [
        "python3 -m venv .venv",
        ".venv/bin/python -m one_api.install requirements.txt",
        ".venv/bin/python -m one_api.quickstart",
        ".venv/bin/gunicorn wsgi:app",
    ]

    for page in ("README.md", "README.zh-CN.md"):
        assert "\n".join(commands) in (ROOT / page).read_text(encoding="utf-8")
