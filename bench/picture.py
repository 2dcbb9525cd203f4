"""A stacked picture of shares over time as a PNG, written with what Python has on board."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

COLOURS = ((214, 96, 77), (67, 147, 195), (120, 171, 92))
"""Of the first, second and third deployment."""

HEIGHT, COLUMN, GAP = 100, 4, 10
"""Pixels: of a band, of one step of time, and between two bands."""

_WHITE = bytes((255, 255, 255))
_BLACK = bytes((0, 0, 0))


def draw(bands: Sequence[Sequence[Sequence[float]]], path: Path, marks: Sequence[int]) -> None:
    """Write one band below the other.

    Args:
        bands: of each band the steps of time, of each step the shares, which sum up to at most 1.
        path: where the picture goes.
        marks: steps before which a black line is drawn.
    """
    width = COLUMN * max(len(band) for band in bands)
    blank = [_WHITE * width] * GAP
    rows = [row for band in bands for row in (*_band(band, marks), *blank)]
    path.write_bytes(_png(width, rows))


def _band(steps: Sequence[Sequence[float]], marks: Sequence[int]) -> list[bytes]:
    columns = [_column(shares) for shares in steps]
    for mark in marks:
        columns[mark] = [_BLACK + pixel * (COLUMN - 1) for pixel in (each[:3] for each in columns[mark])]
    return [b"".join(column[row] for column in columns) for row in range(HEIGHT)]


def _column(shares: Sequence[float]) -> list[bytes]:
    """Return one step from the top down; the first share is at the bottom."""
    pixels: list[bytes] = []
    reached = 0.0
    for share, colour in zip(shares, COLOURS, strict=True):
        reached += share
        pixels += [bytes(colour) * COLUMN] * (round(reached * HEIGHT) - len(pixels))
    pixels += [_WHITE * COLUMN] * (HEIGHT - len(pixels))
    return pixels[::-1]


def _png(width: int, rows: Sequence[bytes]) -> bytes:
    """Encode rows of RGB pixels; see the PNG specification, https://www.w3.org/TR/png-3/."""
    head = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
