"""How windows lie in a file that processes share: bytes in, windows out, and no lock.

The file is a table of 8192 places, each with room for one window. A key's place is one of 32 that its digest leads to:
the one that holds its digest, else the first whose window is over. Its leases, if requests at a time are limited, are
behind the table, in space that is taken when it is needed.
"""

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache

from one_api.limits.stores import MAX_KEYS
from one_api.limits.window import BUCKETS, LEASE_S, NUMBERS

_DIGEST_BYTES = 16
#: A record begins with the digest of its key, a number that each change raises, how long a tick is, in seconds, and
#: how many leases it has; then come the numbers of its window, and a checksum of it all.
_HEAD = struct.Struct(f"={_DIGEST_BYTES}sqdq")
_CHECKSUM = struct.Struct("=q")
_LEASE = struct.Struct("=qd")
_BODY = _HEAD.size + 8 * NUMBERS
_RECORD = _BODY + _CHECKSUM.size
#: Places in the table, and how many of them a key may be in.
_PLACES, _WAYS = MAX_KEYS, 32
#: How many records are read at a time when all are.
_READ_AT_ONCE = 256
#: Leases of one key that there is room for; ``rate_limit.concurrent`` allows no more. Behind them is a checksum.
_MAX_LEASES = 1024
_LEASES_BYTES = _MAX_LEASES * _LEASE.size + _CHECKSUM.size
#: The size of the table in bytes, and what files have in common that hold the same kind of table.
TABLE_BYTES = _RECORD * _PLACES
FORM = f"{_RECORD}\0{_PLACES}\0{_WAYS}"


class TableFull(OSError):
    """There is no place for one more key; the others are not concerned."""


@lru_cache(maxsize=MAX_KEYS)
def digest_of(key: str) -> bytes:
    """Return what stands for a key in the table."""
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()


def numbers_of(record: bytearray) -> memoryview:
    """Return the numbers of a record's window, to be read and changed there."""
    return memoryview(record)[_HEAD.size : _BODY].cast("q")


def state_of(record: bytearray) -> tuple[int, int]:
    """Return the number of a record's last change, 0 for one that is new, and how many leases it has."""
    _, sequence, _, held = _HEAD.unpack_from(record)
    return sequence, held


def tick_of(record: bytearray) -> float:
    """Return how long a tick of a record's window is, in seconds."""
    found: float = _HEAD.unpack_from(record)[2]
    return found


def is_over(record: bytearray, now: float) -> bool:
    """Return whether nothing in a record counts any more; one of the future is from before the machine was started."""
    tick_s, newest = tick_of(record), numbers_of(record)[0]
    begun = newest * tick_s
    return begun > now + tick_s or begun + max(BUCKETS, LEASE_S / tick_s + 1) * tick_s <= now


def in_use(file: int) -> Iterator[tuple[int, bytes]]:
    """Yield each place whose window counts, and the digest of its key."""
    now = time.monotonic()
    for first in range(0, _PLACES, _READ_AT_ONCE):
        part = os.pread(file, _RECORD * _READ_AT_ONCE, _RECORD * first)
        for place, start in enumerate(range(0, len(part) - _RECORD + 1, _RECORD), first):
            record = bytearray(part[start : start + _RECORD])
            if state_of(record)[0] and _is_intact(record) and not is_over(record, now):
                yield place, bytes(record[:_DIGEST_BYTES])


def find(file: int, digest: bytes, place: int | None, seen: bytearray | None) -> tuple[bytearray, int]:
    """Return the record of a key, a new one if there is none, and its place.

    ``place`` is where it was when last seen, and ``seen`` what it was then. Raises TableFull.
    """
    if place is not None:
        record = _read(file, place)
        if record == seen or (record.startswith(digest) and _is_intact(record)):
            return record, place
    free, now = None, time.monotonic()
    home = int.from_bytes(digest[:4], "big")
    for way in range(_WAYS):
        place = (home + way) % _PLACES
        record = _read(file, place)
        intact = _is_intact(record)
        if intact and record.startswith(digest):
            return record, place
        if free is None and (not intact or is_over(record, now)):
            free = place
    if free is None:
        raise TableFull("there is no place for one more key")
    return bytearray(_RECORD), free


def set_head(record: bytearray, digest: bytes, sequence: int, tick_s: float, held: int) -> None:
    """Set what a record says beside the numbers of its window."""
    _HEAD.pack_into(record, 0, digest, sequence, tick_s, held)


def write(file: int, place: int, record: bytearray) -> None:
    """Write a record, with its checksum; raises OSError."""
    _CHECKSUM.pack_into(record, _BODY, _checksum(record))
    if os.pwrite(file, record, _RECORD * place) != _RECORD:
        raise OSError("no room for a record")


def read_leases(file: int, place: int, held: int) -> dict[int, float]:
    """Return the leases of the record at a place; none when they are damaged."""
    size = min(held, _MAX_LEASES) * _LEASE.size
    data = os.pread(file, size + _CHECKSUM.size, TABLE_BYTES + _LEASES_BYTES * place)
    if len(data) != size + _CHECKSUM.size or _CHECKSUM.unpack_from(data, size)[0] != zlib.crc32(data[:size]):
        return {}
    return dict(_LEASE.iter_unpack(data[:size]))


def write_leases(file: int, place: int, leases: dict[int, float]) -> int:
    """Write the leases of the record at a place, as many as there is room for; returns how many those are."""
    kept = list(leases.items())[:_MAX_LEASES]
    data = b"".join(_LEASE.pack(*lease) for lease in kept)
    data += _CHECKSUM.pack(zlib.crc32(data))
    if os.pwrite(file, data, TABLE_BYTES + _LEASES_BYTES * place) != len(data):
        raise OSError("no room for leases")
    return len(kept)


def _read(file: int, place: int) -> bytearray:
    """Return the record at a place; what was cut off reads as zeros."""
    record = bytearray(_RECORD)
    os.preadv(file, [record], _RECORD * place)
    return record


def _checksum(record: bytearray) -> int:
    return zlib.crc32(memoryview(record)[:_BODY])


def _is_intact(record: bytearray) -> bool:
    return bool(_CHECKSUM.unpack_from(record, _BODY)[0] == _checksum(record))
