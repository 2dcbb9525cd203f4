"""A file of records that the processes of one machine change, one at a time.

It is read and written, not mapped: a file that somebody has cut short, or a file system without room, is an error of
one call and not the end of the process.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from one_api.settings.private_files import open_private

try:
    import fcntl
except ImportError:  # not a Unix: there is one process, and MemoryStore
    fcntl = None  # type: ignore[assignment]

#: How long the lock is waited for, in seconds; holders need some microseconds.
_LOCK_S = 0.25
#: So often it is looked at in the next turn of the loop, then once a millisecond.
_MAX_QUICK_LOOKS = 20


class SharedFile:
    """Records of bytes at offsets. Every change holds the lock of the file that now has the name.

    Args:
        paths: where the file may be; the first one that can be used. One that is there comes before one to be made.
        size: its length in bytes; the space is taken at once.
        replaced: called with all that was in the file when another file has taken its name, or nothing has it.
    """

    def __init__(self, paths: Sequence[Callable[[], Path]], size: int, replaced: Callable[[bytes], None]) -> None:
        self._paths = paths
        self._path = Path()
        self._size = size
        self._replaced = replaced
        self._file: int | None = None

    def open(self) -> int:
        """Open the file, or make it, and return its descriptor; raises OSError when that is possible nowhere."""
        problem: OSError = FileNotFoundError("there is no folder for the file")
        attempts = [(find, flags) for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT) for find in self._paths]
        for find, flags in attempts:
            try:
                self._path = find()
                self._file = open_private(self._path, flags)
                self._take_space(self._file, is_new=bool(flags & os.O_CREAT))
            except OSError as error:
                self.close()
                problem = problem if isinstance(error, FileNotFoundError) else error
            else:
                self._paths = [find]  # others have chosen it for the same reasons
                return self._file
        raise problem

    def _take_space(self, file: int, *, is_new: bool) -> None:
        """Take the space for all records now, so that no later write is without it."""
        if os.fstat(file).st_size >= self._size and not is_new:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, self._size)
            else:
                os.ftruncate(file, self._size)
        except OSError:
            if is_new and os.fstat(file).st_size == 0:
                self._path.unlink(missing_ok=True)
            raise

    @property
    def is_lost(self) -> bool:
        """Say whether the open file has lost its name, or its length."""
        file = self._file
        return file is not None and (not self._has_name(file) or os.fstat(file).st_size < self._size)

    async def change(self, offset: int, length: int, act: Callable[[bytes], bytes]) -> bytes:
        """Replace one record by what ``act`` makes of it; returns that. A part that was cut off reads as zeros.

        Raises:
            OSError: when the file cannot be used, or its lock is held for too long (TimeoutError).
        """
        file = await self._acquire()
        try:
            self._take_space(file, is_new=False)
            record = act(os.pread(file, length, offset).ljust(length, b"\0"))
            if os.pwrite(file, record, offset) != length:
                raise OSError("no room for a record")
            return record
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    async def _acquire(self) -> int:
        """Return the descriptor of the file that has the name now, locked."""
        deadline, looks = time.monotonic() + _LOCK_S, 0
        while True:
            file = self.open() if self._file is None else self._file
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._has_name(file):
                    return file
                self._replaced(os.pread(file, self._size, 0).ljust(self._size, b"\0"))
                self.close()
            except BlockingIOError:
                await asyncio.sleep(0 if looks < _MAX_QUICK_LOOKS else 0.001)
            looks += 1
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds its lock")

    def _has_name(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.lstat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
