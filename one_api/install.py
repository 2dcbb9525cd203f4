"""Install pinned packages with pip, and show how it goes: ``python -m one_api.install requirements.txt``.

Runs before anything else is installed, so it uses Python's own library alone.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

#: What pip writes when it cannot reach the place that packages come from.
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|connection broken|ProxyError|"
    r"Failed to establish a new connection|Network is unreachable|Connection refused|timed out",
    re.IGNORECASE,
)
NO_NETWORK = (
    "The packages could not be downloaded: the network, or the place that pip asks, cannot be reached. Behind a proxy "
    "set HTTPS_PROXY, for a mirror PIP_INDEX_URL; without any network set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a "
    "folder with the wheels. Then run the same command again."
)


def main(arguments: list[str]) -> int:
    """Install the packages of one requirements file; return pip's exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m one_api.install REQUIREMENTS\n")
        return 2
    if fault := fault_of(sys.version_info[:3]):
        sys.stderr.write(f"{fault}\n")
        return 1
    count = _count(Path(arguments[0]))
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes"]
    command += ["--progress-bar", "off", "--retries", "2", "--requirement", arguments[0]]
    with subprocess.Popen(  # noqa: S603 - every word of the command is ours or the caller's
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        lines = list(_shown(pip.stdout or (), count))
    if pip.returncode != 0:
        sys.stderr.write("".join(lines[-6:]))
        if any(_UNREACHABLE.search(line) for line in lines):
            sys.stderr.write(f"\n{NO_NETWORK}\n")
    return pip.returncode


def fault_of(python: tuple[int, ...]) -> str:
    """Return in one sentence why a version of Python cannot be used, or nothing."""
    if python >= (3, 11):
        return ""
    return (
        f"one_api needs Python 3.11 or newer, and this is {'.'.join(map(str, python))}: remove the environment "
        f"{sys.prefix} and make it with a newer one, such as `python3.11 -m venv .venv`."
    )


def _count(requirements: Path) -> int:
    """Return how many packages a file names."""
    return len(re.findall(r"^[A-Za-z0-9][^\s=]*==", requirements.read_text(encoding="utf-8"), re.MULTILINE))


def _shown(lines: Iterable[str], count: int) -> Iterator[str]:
    """Pass pip's lines on; on the way, write one for each tenth package, and for the steps that take long."""
    found = 0
    for line in lines:
        if line.startswith(("Collecting ", "Processing ", "Requirement already")):
            found += 1
            if found % 10 == 0:
                _write(f"  {found} of at most {count} packages found")
        elif line.startswith("Installing collected"):
            _write("  installing them")
        yield line


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: run the same command again to go on")
