"""Forms of several parts: the one field is found wherever it stands, and nothing else is taken for it."""

import contextlib
import mmap
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from one_api.dialects.multipart import InvalidForm, check_boundary, find_field

BOUNDARY = b"xYz"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes, end: bytes = b"--xYz--\r\n") -> bytes:
    return b"".join(parts) + end


AUDIO = part("file", b"RIFF\x00\xff\r\n--xYzno\r\n", '; filename="a.wav"\r\nContent-Type: audio/wav')


@pytest.mark.parametrize(
    "data",
    [
        form(part("model", b"whisper-1"), AUDIO),
        form(AUDIO, part("model", b"whisper-1")),
        b"a preamble\r\n" + form(AUDIO, part("model", b"whisper-1")),
        form(AUDIO, part("model", b"whisper-1"), end=b"--xYz--"),
        form(part("model", b"whisper-1").replace(b"--xYz\r\n", b"--xYz \t\r\n")),
        form(part("model", b"whisper-1").replace(b'"model"', b"model")),
        form(part("model", b"whisper-1").replace(b"Content-Disposition", b"X-Other: 1\r\ncontent-disposition")),
        form(part("model", b"whisper-1", "\r\nContent-Type: text/plain")),
        form(part("file", b"x", '; filename="; name=\\"model\\""'), part("model", b"whisper-1")),
        form(part("file", b"x", '; filename="a; name=model"'), part("model", b"whisper-1")),
        form(part("x", b'Content-Disposition: form-data; name="model"\r\n\r\nno'), part("model", b"whisper-1")),
    ],
)
def test_the_field_is_found_wherever_it_stands(data: bytes) -> None:
    found = find_field(data, BOUNDARY, "model")

    assert found is not None
    assert found.value == "whisper-1"
    assert data[found.start : found.end] == b"whisper-1"


def test_a_form_without_the_field() -> None:
    assert find_field(form(AUDIO), BOUNDARY, "model") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--xYz",
        b"--xYz--\r\n",
        form(part("model", b"m"), end=b""),
        form(part("model", b"a"), part("model", b"b")),
        form(part("model", b"m" * 513)),
        form(part("model", b"\xff")),
        form(b"--xYz\r\n" + b"a" * 20_000),
        form(*[part("x", b"")] * 1001),
        form(part("model", b"m")).replace(b"xYz", b"other"),
    ],
)
def test_what_is_no_form(data: bytes) -> None:
    with pytest.raises(InvalidForm):
        find_field(data, BOUNDARY, "model")


@pytest.mark.parametrize("boundary", [None, "", "a" * 71, "a\r\nb", 'a"b', "ü", "a "])
def test_what_is_no_boundary(boundary: str | None) -> None:
    with pytest.raises(InvalidForm):
        check_boundary(boundary)


def test_a_form_in_a_file_is_read_as_one_in_memory() -> None:
    data = form(AUDIO, part("model", b"whisper-1"))
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert find_field(mapped, BOUNDARY, "model") == find_field(data, BOUNDARY, "model")


@given(st.lists(st.tuples(st.sampled_from(["file", "prompt", "image[]"]), st.binary()), max_size=4), st.integers(0, 4))
def test_whatever_the_other_parts_hold(others: list[tuple[str, bytes]], place: int) -> None:
    fields = [*others[:place], ("model", b"m"), *others[place:]]
    if any(b"--xYz" in value for _, value in others):
        return
    data, _ = encode_multipart_formdata(fields, boundary="xYz")

    found = find_field(data, BOUNDARY, "model")

    assert found is not None
    assert data[: found.start] + b"m" + data[found.end :] == data


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidForm):
        find_field(b"--xYz\r\n" + data, BOUNDARY, "model")
