"""The journal of one process: rows that the database does not have yet, in a file that outlives the process.

It is written without fsync: the death of a process loses nothing, a power cut may lose seconds. Its first megabyte is
reserved when it is made, so that a disk that fills up later does not stop it at once. The process holds a lock on its
file as long as it lives; a process that gets the lock may book what a dead one left.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec
from sqlalchemy import Engine

#: Length and CRC-32 of what follows, four bytes each.
_HEAD = 8
#: Stands in place of the next length: no more records.
_END = bytes(4)
#: Bytes that the disk keeps for each journal: some thousands of records.
_RESERVED = 1024 * 1024
_SUFFIX = ".journal"
#: Where journals lie, in the instance folder.
_JOURNALS = "accounts"


def journals_of(folder: Path, engine: Engine) -> Path:
    """Return where the journals of a database lie, the same for all its users: they are booked where they belong.

    ``folder`` is the instance folder.
    """
    url = engine.url
    place = hashlib.sha256(f"{url.host}:{url.port}/{url.database}?{url.query}".encode()).hexdigest()[:16]
    return folder / _JOURNALS / place


class Journal:
    """An open journal; at most one process has it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        #: Bytes of what this process has written.
        self.size = 0

    @property
    def holder(self) -> str:
        """Return the name of the process that it is of: its leases go by that."""
        return self.path.name.partition(".")[0]

    @classmethod
    def create(cls, folder: Path, holder: str | None = None) -> Self:
        """Make one in ``folder``, for the process of that name, or one with a new name; raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        holder = holder or f"{os.getpid()}-{os.urandom(8).hex()}"
        path = folder / f"{holder}.{os.urandom(4).hex()}{_SUFFIX}"
        # It has its name only once it is locked: else another process could take it for abandoned, and remove it.
        unseen = path.with_suffix(".new")
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _RESERVED)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unseen.rename(path)
        except OSError:
            unseen.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @classmethod
    def abandoned(cls, folder: Path) -> Iterator[Self]:
        """Open, one after the other, those whose processes have ended."""
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR)
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(descriptor).st_nlink:  # else another process has booked and removed it just now
                        yield cls(path, descriptor)
                        continue
                os.close(descriptor)

    @staticmethod
    def holders_in(folder: Path) -> set[str]:
        """Return the names of the processes whose journals are there: they live, or these will be booked."""
        return {path.name.partition(".")[0] for path in folder.glob(f"*{_SUFFIX}")}

    def append(self, record: Any) -> None:
        """Add one record; raises OSError, and then it does not count."""
        data = msgspec.msgpack.encode(record)
        data = len(data).to_bytes(4, "big") + zlib.crc32(data).to_bytes(4, "big") + data
        if os.pwrite(self._descriptor, data + _END, self.size) < len(data):
            raise OSError("the disk is full")
        self.size += len(data)

    def records(self) -> list[Any]:
        """Return every whole record up to the first that is cut. Raises OSError."""
        data, found, at = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0), [], 0
        while at + _HEAD <= len(data) and data[at : at + 4] != _END:
            end = at + _HEAD + int.from_bytes(data[at : at + 4], "big")
            record = data[at + _HEAD : end]
            if end > len(data) or zlib.crc32(record) != int.from_bytes(data[at + 4 : at + _HEAD], "big"):
                break
            found.append(msgspec.msgpack.decode(record))
            at = end
        return found

    def clear(self) -> None:
        """Forget every record: the database has them. Raises OSError."""
        if self.size > _RESERVED:
            os.ftruncate(self._descriptor, _RESERVED)
        if self.size:
            os.pwrite(self._descriptor, _END, 0)
            self.size = 0

    def remove(self) -> None:
        """Delete the file, and close it."""
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Leave the file for another process."""
        os.close(self._descriptor)
