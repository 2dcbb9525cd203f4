"""What a GGUF file says about itself, read without trusting it.

Only the header is read, never the weights: at most 16 MiB, whatever the file claims. A file that fails one
of the checks in `gguf_header` is `UnreadableModel`, which names the file and the reason.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from one_api.engine.gguf_header import HeaderReader, InvalidGGUF, Metadata, printable, read_metadata

#: The most model files that one folder may hold, and the most entries that are looked at to find them.
MAX_FILES, MAX_ENTRIES = 1_000, 100_000

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
#: The pooling type of models that rank.
_RANK = 4
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
    #: It does nothing but say how well documents answer a query.
    ranks: bool = False
    #: It says how the vectors of its tokens become one; a model for chats does not.
    has_pooling: bool = field(default=False, compare=False)
    #: What one token of the context takes in memory at 16 bits a number, at most; 0 where the header does not say.
    context_bytes: int = field(default=0, compare=False)

    @property
    def id(self) -> str:
        """The id under which the model is offered: the file's name without ``.gguf``."""
        return self.path.stem

    @property
    def chats(self) -> bool:
        """Whether it answers: neither embeds nor ranks only."""
        return not self.embedding_only and not self.ranks


def read_header(path: Path) -> ModelFile:
    """Return what the header of the GGUF file at ``path`` says; for a split model give its first file.

    Blocks on the disk, for 0.01 to 0.3 s (big vocabularies): call it in a thread.

    Raises:
        UnreadableModel: if the file is missing, unreadable, not GGUF, corrupt or cut short.
    """
    try:
        with _open_regular(path) as file:
            status = os.fstat(file.fileno())
            reader = HeaderReader(file, status.st_size)
            metadata = read_metadata(reader)
            return _describe(path, status, metadata)
    except InvalidGGUF as error:
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
    for path in paths[:MAX_FILES]:
        try:
            model = fresh.get(_identity(path)) or read_header(path)
        except UnreadableModel as error:
            errors[path] = error.reason
            continue
        twin = found.setdefault(model.id, model)
        if twin is not model:
            errors[path] = f"{twin.path} has the same id; rename one of them"
    for path in paths[MAX_FILES:]:
        errors[path] = f"not read: the folder holds more than {MAX_FILES} models"
    return sorted(found.values(), key=lambda model: model.id), errors


def _candidates(models_dir: Path) -> Iterator[Path]:
    """Yield the files that may be models; raises OSError if the folder itself cannot be read."""
    os.scandir(models_dir).close()
    seen = 0
    for folder, subfolders, names in os.walk(models_dir):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            seen += 1
            if seen > MAX_ENTRIES:
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
    except (OSError, InvalidGGUF):
        return None


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; anything else (a folder, a pipe) is invalid. `HeaderReader` buffers."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidGGUF("it is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _describe(path: Path, status: os.stat_result, metadata: Metadata) -> ModelFile:
    """Put together what the metadata says; raises InvalidGGUF where a model cannot be without it."""
    architecture = metadata.texts.get("general.architecture", "")
    if not re.fullmatch(r"[0-9A-Za-z._-]{1,64}", architecture):
        raise InvalidGGUF("it names no architecture")
    part = metadata.texts.get("general.type", "")
    if part in _PARTS or architecture == "clip":
        raise InvalidGGUF(f"it is {_PARTS.get(part, 'an image projector')}, not a model")
    template = metadata.texts.get("tokenizer.chat_template", "")
    pooling = metadata.integer(f"{architecture}.pooling_type", 0)
    return ModelFile(
        path=path,
        size_bytes=_total_size(path, status.st_size),
        mtime_ns=status.st_mtime_ns,
        architecture=architecture,
        name=printable(metadata.texts.get("general.name", "")),
        context_length=metadata.integer(f"{architecture}.context_length", 0),
        chat_template=bool(template),
        template_mentions_tools="tools" in template,
        embedding_only=pooling != _RANK and (pooling > 0 or architecture in _ENCODERS),
        ranks=pooling == _RANK,
        has_pooling=pooling > 0,
        context_bytes=_context_bytes(metadata, architecture),
    )


def _context_bytes(metadata: Metadata, architecture: str) -> int:
    """Return what keys and values of one token take in all layers, at 16 bits a number; 0 if it is not known.

    llama.cpp: ``n_layer * n_head_kv * (n_embd_head_k + n_embd_head_v)``; layers that keep less are counted in full.
    """

    def number(name: str, default: float = 0) -> float:
        value = metadata.numbers.get(f"{architecture}.{name}", default)
        return value if value > 0 else default

    heads = number("attention.head_count")
    per_head = number("embedding_length") / heads if heads else 0
    width = number("attention.key_length", per_head) + number("attention.value_length", per_head)
    total = number("block_count") * number("attention.head_count_kv", heads) * width * 2
    return int(total) if total < 2**40 else 0


def _total_size(path: Path, first: int) -> int:
    """Return the size of a model in bytes, ``first`` being that of its first file; all files must be there."""
    split = _SPLIT.search(path.stem)
    if split is None:
        return first
    count = int(split[2])
    if int(split[1]) != 1 or not 0 < count <= MAX_FILES:
        raise InvalidGGUF("it is not the first file of a split model; use the one with -00001-of-")
    base = path.stem[: split.start()]
    total = first
    for part in range(2, count + 1):
        other = path.with_name(f"{base}-{part:05}-of-{count:05}{path.suffix}")
        try:
            total += other.stat().st_size
        except OSError:
            raise InvalidGGUF(f"its part {other.name} is missing") from None
    return total
