"""The header of a GGUF file, read without trusting it: the format and its limits, no file names.

Every count, length, type and offset is checked against the file's size before it is used. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

#: The most that is read of one file, in bytes. A vocabulary of 49,152 words takes 1.7 MiB.
MAX_HEADER_BYTES = 16 * 1024 * 1024

#: Small, because every read lets other threads run.
_CHUNK = 64 * 1024
_MAX_METADATA, _MAX_TENSORS = 65_536, 262_144
_MAX_KEY_BYTES, _MAX_TENSOR_NAME_BYTES, _MAX_TEXT_BYTES = 65_535, 63, 1024 * 1024
_MAX_DIMENSIONS, _MAX_ALIGNMENT = 4, 4096
_INT64_MAX = 2**63 - 1

_STRING, _ARRAY = 8, 9
#: Metadata value types of fixed size: struct code by type number.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

#: Tensor types: (elements per block, bytes per block) by type number, as the engine's ggml has them.
TENSOR_TYPES = {
    0: (1, 4),  # f32
    1: (1, 2),  # f16
    2: (32, 18),  # q4_0
    3: (32, 20),  # q4_1
    6: (32, 22),  # q5_0
    7: (32, 24),  # q5_1
    8: (32, 34),  # q8_0
    9: (32, 36),  # q8_1
    10: (256, 84),  # q2_K
    11: (256, 110),  # q3_K
    12: (256, 144),  # q4_K
    13: (256, 176),  # q5_K
    14: (256, 210),  # q6_K
    15: (256, 292),  # q8_K
    16: (256, 66),  # iq2_xxs
    17: (256, 74),  # iq2_xs
    18: (256, 98),  # iq3_xxs
    19: (256, 50),  # iq1_s
    20: (32, 18),  # iq4_nl
    21: (256, 110),  # iq3_s
    22: (256, 82),  # iq2_s
    23: (256, 136),  # iq4_xs
    24: (1, 1),  # i8
    25: (1, 2),  # i16
    26: (1, 4),  # i32
    27: (1, 8),  # i64
    28: (1, 8),  # f64
    29: (256, 56),  # iq1_m
    30: (1, 2),  # bf16
    34: (256, 54),  # tq1_0
    35: (256, 66),  # tq2_0
    39: (32, 17),  # mxfp4
    40: (64, 36),  # nvfp4
    41: (128, 18),  # q1_0
    42: (64, 18),  # q2_0
}


class InvalidGGUF(Exception):
    """The header is invalid; the message names the reason."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata that we look at, by key; values of other keys are skipped."""

    numbers: dict[str, int | float]
    texts: dict[str, str]

    def integer(self, key: str, default: int) -> int:
        """Return a whole number of at least 0; raises InvalidGGUF for a value of another kind."""
        value = self.numbers.get(key, default)
        if not isinstance(value, int) or value < 0 or key in self.texts:
            raise InvalidGGUF(f"{key} is not a whole number")
        return value


class HeaderReader:
    """A position in the header: reads forward in chunks, skips by seeking, and keeps account of both limits."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._buffer = b""
        self._base = 0
        self._at = 0
        self._budget = MAX_HEADER_BYTES

    @property
    def position(self) -> int:
        """How many bytes of the file lie behind."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """How many bytes of the file lie ahead."""
        return self._size - self.position

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes (at most 1 MiB)."""
        self._fill(length)
        start, self._at = self._at, self._at + length
        return self._buffer[start : self._at]

    def number(self, code: str) -> int:
        """Return the next little-endian integer of the given struct code."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def skip(self, length: int) -> None:
        """Pass over ``length`` bytes without reading them."""
        if length > self.left:
            raise InvalidGGUF("it is cut short, or a length in its header is wrong")
        self._at += length

    def text(self, limit: int, what: str) -> str:
        """Return the next string; at most ``limit`` bytes are valid. Bytes that are not UTF-8 are replaced."""
        length = self.number("Q")
        if length > limit:
            raise InvalidGGUF(f"{what} of {length} bytes: at most {limit} can be right")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Pass over ``count`` strings. One tight loop: a vocabulary holds up to half a million."""
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if self._at + 8 > len(self._buffer):
                self._fill(8)
            self._at += 8 + unpack(self._buffer, self._at)[0]
        self.skip(0)

    def _fill(self, length: int) -> None:
        """See that the next ``length`` bytes are in the buffer."""
        if length > self.left:
            raise InvalidGGUF("it is cut short, or a length in its header is wrong")
        if self._at + length <= len(self._buffer):
            return
        self._base, self._at = self.position, 0
        self._file.seek(self._base)
        wanted = min(max(length, _CHUNK), self.left)
        self._budget -= wanted
        if self._budget < 0:
            raise InvalidGGUF(f"its header is larger than {MAX_HEADER_BYTES // 1024**2} MiB")
        parts = []
        while wanted > 0 and (part := self._file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self._buffer = b"".join(parts)
        if len(self._buffer) < length:
            raise InvalidGGUF("it became shorter while it was read")


def read_metadata(reader: HeaderReader) -> Metadata:
    """Read and check the whole header: counts, metadata and tensor descriptions."""
    tensors, entries = _read_counts(reader)
    metadata = Metadata({}, {})
    keys: set[str] = set()
    for _ in range(entries):
        key = reader.text(_MAX_KEY_BYTES, "a metadata key")
        if not key or key in keys:
            raise InvalidGGUF(f"the metadata key {printable(key)!r} is empty or there twice")
        keys.add(key)
        _read_value(reader, key, metadata)
    alignment = metadata.integer("general.alignment", 32)
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise InvalidGGUF(f"its alignment is {alignment}: a power of two up to {_MAX_ALIGNMENT} is needed")
    _check_tensors(reader, tensors, alignment)
    if tensors == 0 and metadata.integer("split.count", 0) < 2:
        raise InvalidGGUF("it holds no weights")
    return metadata


def _read_counts(reader: HeaderReader) -> tuple[int, int]:
    """Return the number of tensors and of metadata entries; checks magic, version and both numbers."""
    if reader.left == 0:
        raise InvalidGGUF("it is empty")
    magic = reader.take(4) if reader.left >= 24 else b""
    if magic == b"vers":  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
        raise InvalidGGUF("it only names the file, as Git LFS does: fetch the file itself with `git lfs pull`")
    if magic != b"GGUF":
        raise InvalidGGUF("it is not a GGUF file")
    version = reader.number("I")
    if version in (0x02000000, 0x03000000):
        raise InvalidGGUF("it is a big-endian file; get the little-endian one")
    if version not in (2, 3):
        raise InvalidGGUF(f"it has GGUF version {version}: 2 and 3 can be read")
    tensors, entries = reader.number("Q"), reader.number("Q")
    # The smallest entry is a key of one byte, its type and a value of one byte; the smallest tensor has one dimension.
    if entries > _MAX_METADATA or entries * 14 > reader.left:
        raise InvalidGGUF(f"it claims {entries} metadata entries, more than can be right")
    if tensors > _MAX_TENSORS or tensors * 33 > reader.left:
        raise InvalidGGUF(f"it claims {tensors} tensors, more than can be right")
    return tensors, entries


def _read_value(reader: HeaderReader, key: str, metadata: Metadata) -> None:
    """Read one metadata value: keep it if it is a number or a text that we ask for, else pass over it."""
    kind = reader.number("I")
    if kind in _SCALARS:
        metadata.numbers[key] = struct.unpack("<" + _SCALARS[kind], reader.take(_scalar_size(kind)))[0]
    elif kind == _STRING:
        if key.startswith("general.") or key == "tokenizer.chat_template":
            metadata.texts[key] = reader.text(_MAX_TEXT_BYTES, key)
        else:
            reader.skip(reader.number("Q"))
    elif kind == _ARRAY:
        _skip_array(reader, key)
    else:
        raise InvalidGGUF(f"the value of {printable(key)} has the unknown type {kind}")


def _skip_array(reader: HeaderReader, key: str) -> None:
    """Pass over an array: by seeking if its items have a fixed size, else string by string."""
    kind, count = reader.number("I"), reader.number("Q")
    if kind not in _SCALARS and kind != _STRING:
        raise InvalidGGUF(f"the items of {printable(key)} have the unknown type {kind}")
    if count > reader.left // (8 if kind == _STRING else _scalar_size(kind)):
        raise InvalidGGUF(f"{printable(key)} claims {count} items, more than the file can hold")
    if kind == _STRING:
        reader.skip_strings(count)
    else:
        reader.skip(count * _scalar_size(kind))


def _check_tensors(reader: HeaderReader, tensors: int, alignment: int) -> None:
    """Check that each tensor's type, shape and place are possible, and that the file is long enough for all."""
    names: set[str] = set()
    end = 0
    for _ in range(tensors):
        name = reader.text(_MAX_TENSOR_NAME_BYTES, "a tensor's name")
        if name in names:
            raise InvalidGGUF(f"tensor {printable(name)!r} is there twice")
        names.add(name)
        size = _tensor_size(reader, name)
        offset = reader.number("Q")
        if offset % alignment:
            raise InvalidGGUF(f"tensor {printable(name)!r} is not aligned to {alignment} bytes")
        end = max(end, offset + size)
    start = -(-reader.position // alignment) * alignment
    if tensors and start + end > reader.position + reader.left:
        missing = start + end - reader.position - reader.left
        raise InvalidGGUF(f"it is cut short: {missing} bytes of its weights are missing; copy or download it again")


def _tensor_size(reader: HeaderReader, name: str) -> int:
    """Return the size in bytes of the tensor whose dimensions and type come next."""
    count = reader.number("I")
    if not 0 < count <= _MAX_DIMENSIONS:
        raise InvalidGGUF(f"tensor {printable(name)!r} has {count} dimensions: 1 to {_MAX_DIMENSIONS} are possible")
    dimensions = [reader.number("Q") for _ in range(count)]
    elements = math.prod(dimensions)
    if not 0 < elements <= _INT64_MAX:
        raise InvalidGGUF(f"tensor {printable(name)!r} has an impossible shape")
    kind = reader.number("I")
    if kind not in TENSOR_TYPES:
        raise InvalidGGUF(f"tensor {printable(name)!r} has the unknown type {kind}")
    block, block_bytes = TENSOR_TYPES[kind]
    if dimensions[0] % block:
        raise InvalidGGUF(f"tensor {printable(name)!r}: {dimensions[0]} is not a multiple of its block of {block}")
    return elements // block * block_bytes


def _scalar_size(kind: int) -> int:
    return struct.calcsize("<" + _SCALARS[kind])


def printable(text: str) -> str:
    """Return at most 200 characters of a text from the file, fit for a log line."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
