"""What a GGUF file says about itself, read without trusting it.

Only the header is read, never the weights: at most 16 MiB, whatever the file claims. Every count, length, type and
offset is checked against the file's size before it is used, and a file that fails a check is `UnreadableModel`, which
names the file and the reason. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: The most that is read of one file, in bytes. A vocabulary of 49,152 words takes 1.7 MiB.
HEADER_LIMIT = 16 * 1024 * 1024
#: The most model files that one folder may hold, and the most entries that are looked at to find them.
FILES_LIMIT, ENTRIES_LIMIT = 1_000, 100_000

#: Small, because every read lets other threads run.
_CHUNK = 64 * 1024
_METADATA_LIMIT, _TENSORS_LIMIT = 65_536, 262_144
_KEY_LIMIT, _TENSOR_NAME_LIMIT, _TEXT_LIMIT = 65_535, 63, 1024 * 1024
_DIMENSIONS_LIMIT, _ALIGNMENT_LIMIT = 4, 4096
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

#: Architectures that only embed; other models say so by a pooling type.
_ENCODERS = frozenset(
    [
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    ]
)
#: `general.type` of files that are parts of a model and cannot answer alone.
_PARTS = {"adapter": "a LoRA adapter", "mmproj": "an image projector", "imatrix": "calibration data"}
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")


class UnreadableModel(Exception):
    """A file that is not a usable model. ``path`` is the file, ``reason`` what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model on disk, as its header describes it.

    ``size_bytes`` is the sum over all files of a split model; ``mtime_ns`` is that of the first.
    ``context_length`` is what the model was trained for, in tokens, and 0 where the header does not say.
    """

    path: Path
    size_bytes: int
    mtime_ns: int
    architecture: str
    name: str
    context_length: int
    chat_template: bool
    template_mentions_tools: bool
    embedding_only: bool

    @property
    def id(self) -> str:
        """The id under which the model is offered: the file's name without ``.gguf``."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The metadata that we look at, by key; values of other keys are skipped."""

    numbers: dict[str, int | float]
    texts: dict[str, str]

    def integer(self, key: str, default: int) -> int:
        """Return a whole number of at least 0; raises _Odd for a value of another kind."""
        value = self.numbers.get(key, default)
        if not isinstance(value, int) or value < 0 or key in self.texts:
            raise _Odd(f"{key} is not a whole number")
        return value


class _Odd(Exception):
    """Something in the header that cannot be right; the message says what."""


def read_header(path: Path) -> ModelFile:
    """Return what the header of the GGUF file at ``path`` says; for a split model give its first file.

    Blocks on the disk, for 0.01 to 0.3 s (big vocabularies): call it in a thread.

    Raises:
        UnreadableModel: if the file is missing, unreadable, not GGUF, corrupt or cut short.
    """
    try:
        with _open_regular(path) as file:
            status = os.fstat(file.fileno())
            reader = _Reader(file, status.st_size)
            metadata = _read_metadata(reader)
            return _describe(path, status, metadata)
    except _Odd as error:
        raise UnreadableModel(path, str(error)) from None
    except OSError as error:
        raise UnreadableModel(path, error.strerror or str(error)) from error


def discover(models_dir: Path, known: Iterable[ModelFile] = ()) -> tuple[list[ModelFile], dict[Path, str]]:
    """Return the models under ``models_dir`` in the order of their ids, and a reason for each unreadable file.

    Image projectors (``mmproj``), hidden files and all but the first file of a split model are passed over. Files
    that are in ``known`` with the same size and time are not read again. Blocks on the disk: call it in a thread.
    """
    fresh: dict[tuple[Path, int, int] | None, ModelFile] = {
        (model.path, model.size_bytes, model.mtime_ns): model for model in known
    }
    found: dict[str, ModelFile] = {}
    errors: dict[Path, str] = {}
    try:
        paths = sorted(_candidates(models_dir))
    except OSError as error:
        return [], {models_dir: error.strerror or str(error)}
    for path in paths[:FILES_LIMIT]:
        try:
            model = fresh.get(_identity(path)) or read_header(path)
        except UnreadableModel as error:
            errors[path] = error.reason
            continue
        twin = found.setdefault(model.id, model)
        if twin is not model:
            errors[path] = f"{twin.path} has the same id; rename one of them"
    for path in paths[FILES_LIMIT:]:
        errors[path] = f"not read: the folder holds more than {FILES_LIMIT} models"
    return sorted(found.values(), key=lambda model: model.id), errors


def _candidates(models_dir: Path) -> Iterator[Path]:
    """Yield the files that may be models; raises OSError if the folder itself cannot be read."""
    os.scandir(models_dir).close()
    seen = 0
    for folder, subfolders, names in os.walk(models_dir):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            seen += 1
            if seen > ENTRIES_LIMIT:
                return
            stem, dot, extension = name.rpartition(".")
            split = _SPLIT.search(stem)
            hidden = name.startswith(".") or "mmproj" in name.lower()
            if dot and extension.lower() == "gguf" and not hidden and (split is None or int(split[1]) == 1):
                yield Path(folder, name)


def _identity(path: Path) -> tuple[Path, int, int] | None:
    """Return path, size (of all parts) and time as `ModelFile` has them, or None if the file cannot be asked."""
    try:
        status = path.stat()
        return path, _total_size(path, status.st_size), status.st_mtime_ns
    except (OSError, _Odd):
        return None


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; anything else (a folder, a pipe) is odd. Unbuffered: `_Reader` buffers."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Odd("it is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


class _Reader:
    """A position in the header: reads forward in chunks, skips by seeking, and keeps account of both limits."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._buffer = b""
        self._base = 0
        self._at = 0
        self._budget = HEADER_LIMIT

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
            raise _Odd("it is cut short, or a length in its header is wrong")
        self._at += length

    def text(self, limit: int, what: str) -> str:
        """Return the next string; one of more than ``limit`` bytes is odd. Bytes that are not UTF-8 are replaced."""
        length = self.number("Q")
        if length > limit:
            raise _Odd(f"{what} of {length} bytes: at most {limit} can be right")
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
            raise _Odd("it is cut short, or a length in its header is wrong")
        if self._at + length <= len(self._buffer):
            return
        self._base, self._at = self.position, 0
        self._file.seek(self._base)
        wanted = min(max(length, _CHUNK), self.left)
        self._budget -= wanted
        if self._budget < 0:
            raise _Odd(f"its header is larger than {HEADER_LIMIT // 1024**2} MiB")
        parts = []
        while wanted > 0 and (part := self._file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self._buffer = b"".join(parts)
        if len(self._buffer) < length:
            raise _Odd("it became shorter while it was read")


def _read_metadata(reader: _Reader) -> _Metadata:
    """Read and check the whole header: counts, metadata and tensor descriptions."""
    tensors, entries = _read_counts(reader)
    metadata = _Metadata({}, {})
    keys: set[str] = set()
    for _ in range(entries):
        key = reader.text(_KEY_LIMIT, "a metadata key")
        if not key or key in keys:
            raise _Odd(f"the metadata key {_printable(key)!r} is empty or there twice")
        keys.add(key)
        _read_value(reader, key, metadata)
    alignment = metadata.integer("general.alignment", 32)
    if not 0 < alignment <= _ALIGNMENT_LIMIT or alignment & (alignment - 1):
        raise _Odd(f"its alignment is {alignment}: a power of two up to {_ALIGNMENT_LIMIT} is needed")
    _check_tensors(reader, tensors, alignment)
    if tensors == 0 and metadata.integer("split.count", 0) < 2:
        raise _Odd("it holds no weights")
    return metadata


def _read_counts(reader: _Reader) -> tuple[int, int]:
    """Return the number of tensors and of metadata entries; checks magic, version and both numbers."""
    if reader.left == 0:
        raise _Odd("it is empty")
    if reader.left < 24 or reader.take(4) != b"GGUF":
        raise _Odd("it is not a GGUF file")
    version = reader.number("I")
    if version in (0x02000000, 0x03000000):
        raise _Odd("it is a big-endian file; get the little-endian one")
    if version not in (2, 3):
        raise _Odd(f"it has GGUF version {version}: 2 and 3 can be read")
    tensors, entries = reader.number("Q"), reader.number("Q")
    # The smallest entry is a key of one byte, its type and a value of one byte; the smallest tensor has one dimension.
    if entries > _METADATA_LIMIT or entries * 14 > reader.left:
        raise _Odd(f"it claims {entries} metadata entries, more than can be right")
    if tensors > _TENSORS_LIMIT or tensors * 33 > reader.left:
        raise _Odd(f"it claims {tensors} tensors, more than can be right")
    return tensors, entries


def _read_value(reader: _Reader, key: str, metadata: _Metadata) -> None:
    """Read one metadata value: keep it if it is a number or a text that we ask for, else pass over it."""
    kind = reader.number("I")
    if kind in _SCALARS:
        metadata.numbers[key] = struct.unpack("<" + _SCALARS[kind], reader.take(_scalar_size(kind)))[0]
    elif kind == _STRING:
        if key.startswith("general.") or key == "tokenizer.chat_template":
            metadata.texts[key] = reader.text(_TEXT_LIMIT, key)
        else:
            reader.skip(reader.number("Q"))
    elif kind == _ARRAY:
        _skip_array(reader, key)
    else:
        raise _Odd(f"the value of {_printable(key)} has the unknown type {kind}")


def _skip_array(reader: _Reader, key: str) -> None:
    """Pass over an array: by seeking if its items have a fixed size, else string by string."""
    kind, count = reader.number("I"), reader.number("Q")
    if kind not in _SCALARS and kind != _STRING:
        raise _Odd(f"the items of {_printable(key)} have the unknown type {kind}")
    if count > reader.left // (8 if kind == _STRING else _scalar_size(kind)):
        raise _Odd(f"{_printable(key)} claims {count} items, more than the file can hold")
    if kind == _STRING:
        reader.skip_strings(count)
    else:
        reader.skip(count * _scalar_size(kind))


def _check_tensors(reader: _Reader, tensors: int, alignment: int) -> None:
    """Check that each tensor's type, shape and place are possible, and that the file is long enough for all."""
    names: set[str] = set()
    end = 0
    for _ in range(tensors):
        name = reader.text(_TENSOR_NAME_LIMIT, "a tensor's name")
        if name in names:
            raise _Odd(f"tensor {_printable(name)!r} is there twice")
        names.add(name)
        size = _tensor_size(reader, name)
        offset = reader.number("Q")
        if offset % alignment:
            raise _Odd(f"tensor {_printable(name)!r} is not aligned to {alignment} bytes")
        end = max(end, offset + size)
    start = -(-reader.position // alignment) * alignment
    if tensors and start + end > reader.position + reader.left:
        missing = start + end - reader.position - reader.left
        raise _Odd(f"it is cut short: {missing} bytes of its weights are missing; copy or download it again")


def _tensor_size(reader: _Reader, name: str) -> int:
    """Return the size in bytes of the tensor whose dimensions and type come next."""
    count = reader.number("I")
    if not 0 < count <= _DIMENSIONS_LIMIT:
        raise _Odd(f"tensor {_printable(name)!r} has {count} dimensions: 1 to {_DIMENSIONS_LIMIT} are possible")
    dimensions = [reader.number("Q") for _ in range(count)]
    elements = math.prod(dimensions)
    if not 0 < elements <= _INT64_MAX:
        raise _Odd(f"tensor {_printable(name)!r} has an impossible shape")
    kind = reader.number("I")
    if kind not in TENSOR_TYPES:
        raise _Odd(f"tensor {_printable(name)!r} has the unknown type {kind}")
    block, block_bytes = TENSOR_TYPES[kind]
    if dimensions[0] % block:
        raise _Odd(f"tensor {_printable(name)!r}: {dimensions[0]} is not a multiple of its block of {block}")
    return elements // block * block_bytes


def _describe(path: Path, status: os.stat_result, metadata: _Metadata) -> ModelFile:
    """Put together what the metadata says; raises _Odd where a model cannot be without it."""
    architecture = metadata.texts.get("general.architecture", "")
    if not re.fullmatch(r"[0-9A-Za-z._-]{1,64}", architecture):
        raise _Odd("it names no architecture")
    part = metadata.texts.get("general.type", "")
    if part in _PARTS or architecture == "clip":
        raise _Odd(f"it is {_PARTS.get(part, 'an image projector')}, not a model")
    template = metadata.texts.get("tokenizer.chat_template", "")
    pooled = metadata.integer(f"{architecture}.pooling_type", 0) > 0
    return ModelFile(
        path=path,
        size_bytes=_total_size(path, status.st_size),
        mtime_ns=status.st_mtime_ns,
        architecture=architecture,
        name=_printable(metadata.texts.get("general.name", "")),
        context_length=metadata.integer(f"{architecture}.context_length", 0),
        chat_template=bool(template),
        template_mentions_tools="tools" in template,
        embedding_only=pooled or architecture in _ENCODERS,
    )


def _total_size(path: Path, first: int) -> int:
    """Return the size of a model in bytes, ``first`` being that of its first file; all files must be there."""
    split = _SPLIT.search(path.stem)
    if split is None:
        return first
    count = int(split[2])
    if int(split[1]) != 1 or not 0 < count <= FILES_LIMIT:
        raise _Odd("it is not the first file of a split model; use the one with -00001-of-")
    base = path.stem[: split.start()]
    total = first
    for part in range(2, count + 1):
        other = path.with_name(f"{base}-{part:05}-of-{count:05}{path.suffix}")
        try:
            total += other.stat().st_size
        except OSError:
            raise _Odd(f"its part {other.name} is missing") from None
    return total


def _scalar_size(kind: int) -> int:
    return struct.calcsize("<" + _SCALARS[kind])


def _printable(text: str) -> str:
    """Return at most 200 characters of a text from the file, fit for a log line."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
