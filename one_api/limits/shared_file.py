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

#: How long the lock is waited for, in seconds; holders need some microseconds, if they have a processor.
_LOCK_S, _MAX_LOCK_S = 0.25, 2.0
#: So often it is looked at in the next turn of the loop, then once a millisecond.
_MAX_QUICK_LOOKS = 20
#: On a machine that is too busy for so many looks in that time, holders are not quick either: it is waited longer.
_MIN_LOOKS = 200


class SharedFile:
    """A file with room for a table. The process that has acquired it holds the lock of the file that has the name now.

    Args:
        paths: where the file may be; the first one that can be used. One that is there comes before one to be made.
        size: the length of its table in bytes; the space is taken at once.
        replaced: called with the descriptor of a file whose name another one has taken, or nothing has, before it is
            closed.
    """

    def __init__(self, paths: Sequence[Callable[[], Path]], size: int, replaced: Callable[[int], None]) -> None:
        self._paths = paths
        self._path = ""
        self._size = size
        self._replaced = replaced
        self._file: int | None = None
        #: Device and number of the open file.
        self._identity = (0, 0)

    def open(self) -> int:
        """Open the file, or make it, and return its descriptor; raises OSError when that is possible nowhere."""
        problem: OSError = FileNotFoundError("there is no folder for the file")
        attempts = [(find, flags) for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT) for find in self._paths]
        for find, flags in attempts:
            try:
                self._path = str(find())
                self._file = file = open_private(Path(self._path), flags)
                status = os.fstat(file)
                self._identity = status.st_dev, status.st_ino
                if status.st_size < self._size or flags & os.O_CREAT:
                    self._take_space(file, is_new=bool(flags & os.O_CREAT))
            except OSError as error:
                self.close()
                problem = problem if isinstance(error, FileNotFoundError) else error
            else:
                self._paths = [find]  # others have chosen it for the same reasons
                return file
        raise problem

    def _take_space(self, file: int, *, is_new: bool) -> None:
        """Take the space for the table now, so that no later write is without it."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, self._size)
            else:
                os.ftruncate(file, self._size)
        except OSError:
            if is_new and os.fstat(file).st_size == 0:
                Path(self._path).unlink(missing_ok=True)
            raise

    @property
    def descriptor(self) -> int | None:
        """Return the descriptor of the open file, for a look without the lock; None when there is none."""
        return self._file

    @property
    def is_lost(self) -> bool:
        """Return whether the open file has lost its name, or its length."""
        if self._file is None:
            return False
        status = self._status()
        return status is None or status.st_size < self._size

    async def acquire(self) -> int:
        """Return the descriptor of the file that has the name now, locked; it is to be released soon.

        Raises:
            OSError: when the file cannot be used, or its lock is held for too long (TimeoutError).
        """
        began, looks = 0.0, 0
        while True:
            file = self.open() if self._file is None else self._file
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                began = began or time.monotonic()
                await asyncio.sleep(0 if looks < _MAX_QUICK_LOOKS else 0.001)
            else:
                if (status := self._status()) is not None:
                    try:
                        if status.st_size < self._size:
                            self._take_space(file, is_new=False)
                    except BaseException:
                        self.release(file)
                        raise
                    return file
                began = began or time.monotonic()
                self._replaced(file)
                self.close()
            looks += 1
            if time.monotonic() - began > (_LOCK_S if looks >= _MIN_LOOKS else _MAX_LOCK_S):
                raise TimeoutError("another process holds its lock")

    def release(self, file: int) -> None:
        """Let others acquire the file."""
        fcntl.flock(file, fcntl.LOCK_UN)

    def _status(self) -> os.stat_result | None:
        """Return the status of the open file by its name; None when the name leads elsewhere."""
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            return None
        return status if (status.st_dev, status.st_ino) == self._identity else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
