"""How clients are fetched, each into a folder of its own outside the repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: How long a registry may take, in seconds.
_INSTALL_S = 600.0


@pytest.fixture(scope="session")
def npm_install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Installs packages of npm and returns the folder of its commands; without npm the check is skipped."""

    def install(*packages: str) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        folder = tmp_path_factory.mktemp("npm")
        _run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages], cwd=folder)
        return folder / "node_modules" / ".bin"

    return install


@pytest.fixture(scope="session")
def pip_install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Installs packages into a new environment and returns its Python."""

    def install(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        _run([sys.executable, "-m", "venv", str(folder)])
        python = folder / "bin" / "python"
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        return python

    return install


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
