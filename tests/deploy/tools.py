"""The programs that judge what is in ``deploy``. A test whose program is missing is skipped, and says how to get it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
#: Where `make check-deploy` installs the programs that come from PyPI.
INSTALLED = ROOT / ".venv-deploy" / "bin"
#: Set to 1, it makes a missing program a failure: `make check-deploy` does so.
REQUIRED = "ONE_API_REQUIRE_TOOLS"


def tool(name: str) -> str:
    """The path of a program; skips the test where there is none."""
    path = os.pathsep.join([str(INSTALLED), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        skip(f"{name} is not installed: `make check-deploy` installs it")
    return found


def skip(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything is required."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def run(name: str, *arguments: str | Path, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end; what it prints to either stream is in ``stdout``."""
    command = [tool(name), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s)
