"""The reader of GGUF headers: what it tells of good files, and that no bad file gets past it or costs much."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from one_api.engine import gguf_header
from one_api.engine.gguf import ModelFile, UnreadableModel, discover, read_header
from one_api.engine.gguf_header import TENSOR_TYPES
from one_api.engine.settings import EngineSettings, slot_context
from tests.support.running_time import RunningTime

U32, STRING, ARRAY, F32 = 4, 8, 9, 0


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def numbers(key: str, *values: int) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", U32, len(values)) + struct.pack(f"<{len(values)}I", *values))


def number(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def words(key: str, *values: str) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values)))


def tensor(name: str = "w", shape: tuple[int, ...] = (64,), kind: int = F32, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))
CONTEXT = number("llama.context_length", 4096)


def model(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (tensor(),),
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    base: bytes = ARCHITECTURE,
    weights: int = 256,
) -> bytes:
    """Return a GGUF file: a header with the given parts, padding, and ``weights`` bytes of tensor data."""
    parts = [base, *entries] if base else list(entries)
    tensor_count = len(tensors) if counts[0] is None else counts[0]
    entry_count = len(parts) if counts[1] is None else counts[1]
    header = magic + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join([*parts, *tensors])
    return header + b"\0" * (-len(header) % 32 + weights)


HUGE = struct.pack("<Q", 2**62)
CORRUPT: dict[str, bytes] = {
    "empty": b"",
    "zeros": b"\0" * 4096,
    "magic of another format": model(magic=b"GGML"),
    "magic reversed": model(magic=b"FUGG"),
    "only a magic": b"GGUF",
    "text": b"<!DOCTYPE html><html>Not found</html>",
    "version 0": model(version=0),
    "version 1": model(version=1),
    "version 4": model(version=4),
    "version 2^31": model(version=2**31),
    "big endian": model(version=0x03000000),
    "entries 2^63": model(counts=(None, 2**63)),
    "entries 2^64 - 1": model(counts=(None, 2**64 - 1)),
    "entries one too many": model(counts=(None, 2), weights=0, tensors=()),
    "tensors 2^40": model(counts=(2**40, None)),
    "tensors 2^63": model(counts=(2**63, None)),
    "tensors 100 instead of 1": model(counts=(100, None)),
    "no tensors": model(tensors=()),
    "alignment 0": model(number("general.alignment", 0)),
    "alignment 3": model(number("general.alignment", 3)),
    "alignment 2^31": model(number("general.alignment", 2**31)),
    "alignment is a text": model(entry("general.alignment", STRING, text("32"))),
    "alignment is negative": model(entry("general.alignment", 5, struct.pack("<i", -32))),
    "no dimensions": model(tensors=(tensor(shape=()),)),
    "5 dimensions": model(tensors=(tensor(shape=(2, 2, 2, 2, 2)),)),
    "2^31 dimensions": model(tensors=(text("w") + struct.pack("<IQIQ", 2**31, 64, F32, 0),)),
    "a dimension of 0": model(tensors=(tensor(shape=(64, 0)),)),
    "dimensions overflow to a small number": model(tensors=(tensor(shape=(2**32, 2**32)),)),
    "dimensions overflow to a negative number": model(tensors=(tensor(shape=(2**63,)),)),
    "dimensions too large for the file": model(tensors=(tensor(shape=(2**40,)),)),
    "tensor type 2^31": model(tensors=(tensor(kind=2**31),)),
    "tensor type that was removed": model(tensors=(tensor(kind=4),)),
    "tensor type one past the last": model(tensors=(tensor(kind=max(TENSOR_TYPES) + 1),)),
    "row is no whole number of blocks": model(tensors=(tensor(kind=2, shape=(33,)),)),
    "offset past the end": model(tensors=(tensor(offset=4096),)),
    "offset 2^63": model(tensors=(tensor(offset=2**63),)),
    "offset not aligned": model(tensors=(tensor(shape=(8,), offset=4),)),
    "tensor there twice": model(tensors=(tensor(), tensor())),
    "tensor name of 2^62 bytes": model(tensors=(HUGE + tensor()[8:],)),
    "tensor name of 64 bytes": model(tensors=(tensor(name="w" * 64),)),
    "key of 2^62 bytes": model(HUGE + number("x", 1)[8:]),
    "empty key": model(number("", 1)),
    "key there twice": model(CONTEXT, CONTEXT),
    "string of 2^62 bytes": model(entry("general.name", STRING, HUGE)),
    "string of 2^62 bytes that is skipped": model(entry("x", STRING, HUGE)),
    "value type 13": model(entry("x", 13, b"\0" * 8)),
    "value type 2^31": model(entry("x", 2**31, b"\0" * 8)),
    "array of 2^62 numbers": model(entry("x", ARRAY, struct.pack("<IQ", U32, 2**62))),
    "array of 2^61 strings": model(entry("x", ARRAY, struct.pack("<IQ", STRING, 2**61))),
    "array with a string of 2^62 bytes": model(entry("x", ARRAY, struct.pack("<IQ", STRING, 2) + HUGE + text("a"))),
    "array of arrays": model(entry("x", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", U32, 1))),
    "array of an unknown type": model(entry("x", ARRAY, struct.pack("<IQ", 99, 1))),
    "no architecture": model(base=b""),
    "architecture is a number": model(base=number("general.architecture", 7)),
    "architecture is no name": model(base=entry("general.architecture", STRING, text("../../etc"))),
    "context length is a fraction": model(entry("llama.context_length", 6, struct.pack("<f", 0.5))),
    "a LoRA adapter": model(entry("general.type", STRING, text("adapter"))),
    "an image projector": model(base=entry("general.architecture", STRING, text("clip"))),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes a file ``model.gguf`` and returns its path."""

    def write_model(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write_model


def test_a_header_tells_what_the_model_is(write: Callable[[bytes], Path]) -> None:
    name = entry("general.name", STRING, text("Tiny\nmodel"))
    template = entry("tokenizer.chat_template", STRING, text("{% if tools %}...{% endif %}"))
    path = write(model(CONTEXT, name, words("tokenizer.ggml.tokens", "a", "bc", ""), template))

    found = read_header(path)

    size, mtime_ns = path.stat().st_size, path.stat().st_mtime_ns
    assert found == ModelFile(path, size, mtime_ns, "llama", "Tiny?model", 4096, True, True, False)
    assert found.id == "model"


def test_what_the_header_does_not_say_is_empty(write: Callable[[bytes], Path]) -> None:
    found = read_header(write(model(version=2)))

    assert (found.name, found.context_length) == ("", 0)
    assert not (found.chat_template or found.template_mentions_tools or found.embedding_only)


@pytest.mark.parametrize(
    "data",
    [
        model(base=entry("general.architecture", STRING, text("nomic-bert"))),
        model(number("llama.pooling_type", 3)),
    ],
    ids=["encoder", "pooled"],
)
def test_a_model_that_only_embeds_is_recognised(write: Callable[[bytes], Path], data: bytes) -> None:
    found = read_header(write(data))

    assert (found.embedding_only, found.ranks, found.chats) == (True, False, False)


def test_a_model_that_only_ranks_is_recognised(write: Callable[[bytes], Path]) -> None:
    found = read_header(write(model(number("llama.pooling_type", 4))))

    assert (found.embedding_only, found.ranks, found.has_pooling, found.chats) == (False, True, True, False)


def test_there_are_at_least_40_kinds_of_corruption() -> None:
    assert len(CORRUPT) >= 40


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_file_is_refused_with_its_name_and_a_reason(write: Callable[[bytes], Path], kind: str) -> None:
    path = write(CORRUPT[kind])

    with pytest.raises(UnreadableModel) as caught:
        read_header(path)

    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert caught.value.reason


def test_a_pointer_of_git_lfs_is_called_one(write: Callable[[bytes], Path]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 98362432\n"

    with pytest.raises(UnreadableModel, match="git lfs pull"):
        read_header(write(pointer))


def test_a_file_cut_anywhere_is_refused(write: Callable[[bytes], Path]) -> None:
    whole = model(
        CONTEXT,
        words("tokenizer.ggml.tokens", *map(str, range(100))),
        tensors=(tensor(), tensor("v", offset=256)),
        weights=512,
    )
    read_header(write(whole))

    for length in range(len(whole)):
        path = write(whole[:length])
        with pytest.raises(UnreadableModel):
            read_header(path)


def test_random_damage_raises_nothing_else(write: Callable[[bytes], Path]) -> None:
    whole = model(
        CONTEXT, words("tokenizer.ggml.tokens", "a", "b"), tensors=(tensor(), tensor("v", offset=256)), weights=512
    )
    for place in range(len(whole) - 512):
        for value in (0x00, 0x7F, 0xFF):
            path = write(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                read_header(path)
            except UnreadableModel:
                continue


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)

    for path in (tmp_path, pipe, tmp_path / "missing.gguf"):
        with pytest.raises(UnreadableModel):
            read_header(path)


def sparse(path: Path, header: bytes, size: int) -> Path:
    """Write ``header`` and let the file claim ``size`` bytes, without storing them."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return path


def bytes_read() -> int:
    """Return how many bytes this process has read so far, as Linux counts them."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes that a process reads")
def test_no_more_than_the_limit_is_read_of_a_header_that_never_ends(tmp_path: Path) -> None:
    array = struct.pack("<IQ", STRING, 2**30)
    path = sparse(tmp_path / "model.gguf", model(entry("x", ARRAY, array), weights=0, tensors=()), 2**34)
    before = bytes_read()

    with RunningTime() as took, pytest.raises(UnreadableModel, match="larger than 16 MiB"):
        read_header(path)

    assert bytes_read() - before < gguf_header.MAX_HEADER_BYTES + 64 * 1024
    assert took.seconds < 10


def test_a_large_array_of_numbers_is_passed_over_without_reading(tmp_path: Path) -> None:
    count = 64 * 1024 * 1024
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + ARCHITECTURE
    header += entry("x", ARRAY, struct.pack("<IQ", U32, count))
    path = sparse(tmp_path / "model.gguf", header, len(header) + 4 * count)
    with path.open("ab") as file:
        file.write(tensor() + b"\0" * 512)

    assert read_header(path).architecture == "llama"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with good files, bad files and files that are no models."""
    good = model(CONTEXT)
    (tmp_path / "sub").mkdir()
    (tmp_path / ".fetch-1").mkdir()
    names = "b.gguf sub/a.GGUF mmproj-a.gguf a-mmproj-f16.gguf .hidden.gguf .fetch-1/c.gguf notes.txt d.gguf.part"
    names += " big-00001-of-00002.gguf big-00002-of-00002.gguf half-00001-of-00002.gguf lost-00002-of-00002.gguf"
    for name in names.split():
        (tmp_path / name).write_bytes(good)
    (tmp_path / "bad.gguf").write_bytes(good[:50])
    (tmp_path / "sub" / "b.gguf").write_bytes(good)
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_discovery_lists_models_and_reports_what_is_unreadable(folder: Path) -> None:
    models, errors = discover(folder)

    assert [found.id for found in models] == ["a", "b", "big-00001-of-00002"]
    assert models[2].size_bytes == 2 * models[1].size_bytes
    assert {str(path.relative_to(folder)) for path in errors} == {
        "bad.gguf",
        "gone.gguf",
        "half-00001-of-00002.gguf",
        "sub/b.gguf",
    }
    assert "same id" in errors[folder / "sub" / "b.gguf"]
    assert "half-00002-of-00002.gguf is missing" in errors[folder / "half-00001-of-00002.gguf"]


def test_discovery_does_not_read_known_files_again(folder: Path) -> None:
    models, _ = discover(folder)
    for found in models:
        status = found.path.stat()
        found.path.write_bytes(b"x" * status.st_size)
        os.utime(found.path, ns=(status.st_atime_ns, status.st_mtime_ns))

    again, _ = discover(folder, known=models)

    assert again == models
    assert all(one is other for one, other in zip(again, models, strict=True))


def test_a_changed_file_is_read_again(folder: Path) -> None:
    models, _ = discover(folder)
    (folder / "b.gguf").write_bytes(b"x")

    again, errors = discover(folder, known=models)

    assert folder / "b.gguf" in errors
    assert "a" in [found.id for found in again]


def test_a_missing_folder_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    assert discover(tmp_path / "nowhere") == ([], {tmp_path / "nowhere": "No such file or directory"})


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the engine has no wheel for this platform")
def test_the_tensor_types_are_those_of_the_engine() -> None:
    program = """
import ctypes, xllamacpp.xllamacpp as engine
library = ctypes.CDLL(engine.__file__)
library.ggml_blck_size.restype, library.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
count = int(engine.ggml_type.GGML_TYPE_COUNT)
print({n: (library.ggml_blck_size(n), library.ggml_type_size(n)) for n in range(count) if library.ggml_blck_size(n)})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == str(TENSOR_TYPES)


LAYERS = [
    number("llama.block_count", 30),
    number("llama.embedding_length", 576),
    number("llama.attention.head_count", 9),
]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([*LAYERS, number("llama.attention.head_count_kv", 3)], 30 * 3 * (64 + 64) * 2),
        (LAYERS, 30 * 9 * (64 + 64) * 2),
        ([*LAYERS, number("llama.attention.key_length", 80)], 30 * 9 * (80 + 64) * 2),
        ([*LAYERS, numbers("llama.attention.head_count_kv", 3, 9)], 30 * 9 * (64 + 64) * 2),
        (LAYERS[:2], 0),
        ([], 0),
    ],
    ids=["grouped", "plain", "own length", "by layer", "no heads", "nothing"],
)
def test_what_a_token_of_the_context_takes(tmp_path: Path, entries: list[bytes], expected: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model(*entries))

    assert read_header(path).context_bytes == expected


@pytest.mark.parametrize(
    ("settings", "trained", "per_token", "expected"),
    [
        ({"context_tokens": 4096}, 8192, 1000, 4096),
        ({"context_tokens": 9000}, 8192, 1000, 8192),
        ({"context_tokens": 9000}, 0, 1000, 9000),
        ({"context_memory": 2**30}, 8192, 23_040, 8192),
        ({"context_memory": 2**30}, 131_072, 131_072, 3840),
        ({"context_memory": 2**40}, 131_072, 131_072, 32_768),
        ({"context_memory": 2**20}, 131_072, 131_072, 2048),
        ({"context_memory": 2**20}, 512, 131_072, 512),
        ({"context_memory": 2**40}, 131_072, 0, 2048),
        ({"context_memory": 2**30, "slots": 1}, 131_072, 131_072, 15_360),
    ],
)
def test_the_context_follows_the_model_and_the_memory(
    tmp_path: Path, settings: dict[str, int], trained: int, per_token: int, expected: int
) -> None:
    found = ModelFile(tmp_path, 1, 1, "llama", "m", trained, True, True, False, context_bytes=per_token)
    given: dict[str, Any] = {"slots": 4, **settings}

    assert slot_context(found, EngineSettings(**given)) == expected
