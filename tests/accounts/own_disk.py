"""A small disk of a test's own, to be filled: nobody else uses it."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def own_disk() -> Iterator[Path]:
    """A folder that is a small disk, with blocks of 1 KiB as such disks have; skips where none can be mounted."""
    with tempfile.TemporaryDirectory(prefix="disk-") as place:
        image, folder = Path(place) / "image", Path(place) / "disk"
        folder.mkdir()
        make = ("mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0", "-N", "256", "-O", "^has_journal")
        try:
            subprocess.run([*make, image, "24m"], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here, for which root, mkfs.ext4 and a loop device are needed: {error}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def nearly_full(disk: Path, left_kib: int) -> Iterator[None]:
    """A disk with room for so much, and for files."""
    large = disk / "large"
    try:
        with large.open("wb", buffering=0) as written, contextlib.suppress(OSError):
            while written.write(bytes(1024)):
                pass
        os.truncate(large, large.stat().st_size - left_kib * 1024)
        yield
    finally:
        large.unlink()


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """A disk on which there is no room, neither for bytes nor for files."""
    folder = disk / "filler"
    folder.mkdir()
    is_full, is_over = threading.Event(), threading.Event()

    def fill() -> None:
        numbers = itertools.count()
        with (folder / "large").open("wb", buffering=0) as written:
            while not is_over.wait(0.001):  # also what is freed meanwhile
                with contextlib.suppress(OSError):
                    while True:
                        (folder / str(next(numbers))).touch()
                for size in (65536, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            written.write(bytes(size))
                is_full.set()

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        assert is_full.wait(60.0)
        yield
    finally:
        is_over.set()
        filling.join()
        shutil.rmtree(folder)
