"""Bodies that clients compress."""

import gzip
import json
import struct
import zlib

import pytest

from tests.support.raw import build_request

from .bed import KEY, Answer, Bed, Body, user

LIMIT = 32 * 1024 * 1024
#: By its address, what a door takes.
DOORS: dict[str, Body] = {
    "/v1/chat/completions": {"messages": user()},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": user(), "max_tokens": 50},
}


def send(bed: Bed, body: bytes, encoding: str, path: str = "/v1/chat/completions", kind: str = "json") -> Answer:
    """The answer to a body that says how it is encoded."""
    headers = [
        ("Content-Type", "application/json" if kind == "json" else "multipart/form-data; boundary=x"),
        ("Content-Encoding", encoding),
        ("Authorization", f"Bearer {KEY}"),
    ]
    return bed.send(build_request("POST", path, bed.gateway.host, bed.gateway.port, headers=headers, body=body))


def written(bed: Bed, path: str = "/v1/chat/completions") -> tuple[str, bytes]:
    """A model, and a request for it."""
    model = bed.model()
    return model, json.dumps({"model": model, **DOORS[path]}).encode()


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "identity, gzip"])
def test_gzip_is_read(bed: Bed, path: str, encoding: str) -> None:
    model, body = written(bed, path)

    assert send(bed, gzip.compress(body), encoding, path).status == 200
    assert bed.last(model).json["messages"] == user()


def test_a_large_body_is_read_too(bed: Bed) -> None:
    model, body = written(bed)

    assert send(bed, gzip.compress(b" " * 10_000_000 + body), "gzip").status == 200
    assert bed.asked(model) == {"a": 1}


@pytest.mark.parametrize("encoding", ["zstd", "br", "deflate", "gzip, gzip", "gzip, br"])
def test_another_encoding_is_named(bed: Bed, encoding: str) -> None:
    model, body = written(bed)

    answer = send(bed, gzip.compress(body), encoding)

    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert f"`{encoding}`" in answer.error["message"]
    assert not bed.asked(model)


@pytest.mark.parametrize("damage", ["plain", "cut", "longer", "twice", "checksum"])
def test_what_is_not_gzip_is_refused(bed: Bed, damage: str) -> None:
    model, body = written(bed)
    packed = gzip.compress(body)
    sent = {
        "plain": body,
        "cut": packed[:-3],
        "longer": packed + b"x",
        "twice": packed + packed,
        "checksum": packed[:-8] + b"\0" * 4 + packed[-4:],
    }[damage]

    answer = send(bed, sent, "gzip")

    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert not bed.asked(model)


def spaces_before(body: bytes, size: int) -> bytes:
    """What ``gzip.compress`` would write of so many spaces and a body, in no time: a piece of it repeated."""
    spaces = b" " * (1024 * 1024)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    piece = packer.compress(spaces) + packer.flush(zlib.Z_FULL_FLUSH)
    rest, crc = packer.compress(body) + packer.flush(), 0
    for _ in range(size // len(spaces)):
        crc = zlib.crc32(spaces, crc)
    ends = struct.pack("<II", zlib.crc32(body, crc), (size + len(body)) & 0xFFFFFFFF)
    return gzip.compress(b"")[:10] + piece * (size // len(spaces)) + rest + ends


def test_what_is_packed_for_the_tests_is_gzip() -> None:
    assert gzip.decompress(spaces_before(b"x", LIMIT // 16)) == b" " * (LIMIT // 16) + b"x"


@pytest.mark.parametrize("size", [LIMIT, 20 * LIMIT])
def test_the_bound_of_a_body_is_that_of_what_comes_out(bed: Bed, size: int) -> None:
    model, body = written(bed)

    answer = send(bed, spaces_before(body, size), "gzip")

    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not bed.asked(model)


def test_forms_come_as_they_are(bed: Bed) -> None:
    assert send(bed, b"x", "gzip", "/v1/audio/transcriptions", kind="form").status == 415
