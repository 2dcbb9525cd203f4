"""How clients are fetched, each into a folder of its own outside the repository; the end says in which versions."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: How long a registry may take, in seconds.
_INSTALL_S = 600.0
_FETCHED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of what is fetched."""
    config.stash[_FETCHED] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell which versions the registries gave: npm chooses those that the installed Node can run."""
    if fetched := config.stash[_FETCHED]:
        terminalreporter.write_line(f"tried: {', '.join(sorted(set(fetched)))}")


@pytest.fixture(scope="session")
def npm_install(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Installs packages of npm and returns the folder of its commands; without npm the check is skipped."""

    def install(*packages: str) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        folder = tmp_path_factory.mktemp("npm")
        _run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages], cwd=folder)
        for package in packages:
            about = json.loads((folder / "node_modules" / package / "package.json").read_text(encoding="utf-8"))
            pytestconfig.stash[_FETCHED].append(f"{package} {about['version']}")
        return folder / "node_modules" / ".bin"

    return install


@pytest.fixture(scope="session")
def pip_install(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Installs packages into a new environment and returns its Python."""

    def install(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        _run([sys.executable, "-m", "venv", str(folder)])
        python = folder / "bin" / "python"
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        listed = _run([str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"])
        versions = {each["name"]: each["version"] for each in json.loads(listed)}
        pytestconfig.stash[_FETCHED] += [f"{package} {versions[package]}" for package in packages]
        return python

    return install


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
