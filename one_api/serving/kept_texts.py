"""What gunicorn's master and its workers keep in common of the configuration, for workers that start later.

A worker that starts under a master takes the configuration that was applied last there, not what is in the files now:
an edit that was not applied yet, or one that cannot be used, does not get in because a process has died. The texts
are in memory that forked processes inherit, so nothing is left behind and no other user can read it.
"""

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeAlias

from one_api.dialects import json

try:
    import fcntl
except ImportError:  # not a Unix: there is one process
    fcntl = None  # type: ignore[assignment]

#: Texts of files by path; None is no such file.
Texts: TypeAlias = dict[str, str | None]

#: How often a reload was asked for; which result was logged last; the length of what follows, and its digest.
_HEAD = struct.Struct("=Q32sQ32s")
_COUNT = struct.Struct("=Q")
_RESULT = struct.Struct("=32s")


class KeptTexts:
    """The texts of the configuration that the master started with, and of the one that was applied last."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("one_api-configuration")
        else:
            with tempfile.TemporaryFile() as unnamed:
                self._file = os.dup(unnamed.fileno())
        #: Was anything kept? Known without a look at the file by processes that were forked later.
        self.is_shared = False

    def begin(self, texts: Mapping[str, str | None]) -> None:
        """Keep what a master starts with, before it forks."""
        self.is_shared = True
        self._write(dict(texts), dict(texts))

    def apply(self, start: Mapping[str, str | None], applied: Mapping[str, str | None]) -> None:
        """Keep what was applied, beside that of the start; does nothing in a process that has no master of ours."""
        if self.is_shared and self.read() != (start, applied):
            self._write(dict(start), dict(applied))

    def read(self) -> tuple[Texts, Texts] | None:
        """Return the texts of the start, and those that were applied last; None when there are none."""
        if not self.is_shared:
            return None
        with self._locked():
            head = os.pread(self._file, _HEAD.size, 0)
            if len(head) < _HEAD.size:
                return None
            _, _, length, digest = _HEAD.unpack(head)
            data = os.pread(self._file, length, _HEAD.size)
        if hashlib.sha256(data).digest() != digest:
            return None  # its writer was killed meanwhile
        found = json.decode_object(data)
        return found["start"], found["applied"]

    def request_reload(self) -> None:
        """Ask every process, also one that is just starting, to reload the configuration."""
        with self._locked():
            os.pwrite(self._file, _COUNT.pack(self.reload_requests + 1), 0)

    def is_first(self, result: str) -> bool:
        """Return whether no other process has come to this result of a reload yet: one line of the log is enough."""
        if not self.is_shared:
            return True
        mine = hashlib.sha256(f"{self.reload_requests} {result}".encode()).digest()
        with self._locked():
            if os.pread(self._file, _RESULT.size, _COUNT.size) == mine:
                return False
            os.pwrite(self._file, mine, _COUNT.size)
        return True

    @property
    def reload_requests(self) -> int:
        """How often a reload was asked for."""
        data = os.pread(self._file, _COUNT.size, 0)
        return int(_COUNT.unpack(data)[0]) if len(data) == _COUNT.size else 0

    def _write(self, start: Texts, applied: Texts) -> None:
        data = json.encode({"start": start, "applied": applied})
        with self._locked():
            (result,) = _RESULT.unpack(os.pread(self._file, _RESULT.size, _COUNT.size).ljust(_RESULT.size, b"\0"))
            os.pwrite(
                self._file, _HEAD.pack(self.reload_requests, result, len(data), hashlib.sha256(data).digest()) + data, 0
            )
            os.ftruncate(self._file, _HEAD.size + len(data))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock that belongs to this process, not to the descriptor that was inherited."""
        if fcntl is None:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


@lru_cache(maxsize=1)
def kept_texts() -> KeptTexts:
    """Return this process's; made on first use, so that forked processes have that of their parent."""
    return KeptTexts()
