"""Locks on files, by which the processes of a machine agree: the kernel releases them however a process ends."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from one_api.settings.private_files import open_private

if sys.platform != "win32":
    import fcntl

#: How often a lock or a starting process is looked at, in seconds.
POLL_S = 0.02


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting, and return whether that worked."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


class FileLock:
    """A flock on a file, shared or exclusive. Whatever happens, it is released when this process dies."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._guard = threading.Lock()
        self._descriptor: int | None = None
        self._released = False

    def try_acquire(self) -> bool:
        """Take the lock if it is free now, and return whether this object holds it; never after ``release``."""
        with self._guard:
            if self._released or self._descriptor is not None:
                return not self._released
            descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
            is_locked = False
            try:
                is_locked = try_lock(descriptor, shared=self._shared)
            finally:
                if not is_locked:
                    os.close(descriptor)
            self._descriptor = descriptor if is_locked else None
            return is_locked

    async def acquire(self, limit_s: float, given_up: Callable[[], bool]) -> bool:
        """Wait for the lock for at most ``limit_s`` seconds or until ``given_up``; return whether it was got."""
        deadline = time.monotonic() + limit_s
        while not await asyncio.to_thread(self.try_acquire):
            if given_up() or time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def release(self) -> None:
        """Give the lock back for good, also while ``try_acquire`` runs in another thread."""
        with self._guard:
            self._released = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class WaiterLock:
    """Shows whether a process waits for a slot of one engine: each waiting process holds a shared lock on a file."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises OSError."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self) -> None:
        """Mark this process as waiting."""
        try_lock(self._descriptor, shared=True)

    def remove(self) -> None:
        """Mark this process as no longer waiting."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def others_wait(self) -> bool:
        """Return whether another process waits, while this process waits too."""
        alone = try_lock(self._descriptor)
        self.add()
        return not alone

    def any_wait(self) -> bool:
        """Return whether any process waits, while this process does not."""
        is_free = try_lock(self._descriptor)
        self.remove()
        return not is_free

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
