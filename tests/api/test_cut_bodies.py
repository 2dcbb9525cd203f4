"""Bodies of upstreams that stop before their end, however it is said where that is."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import (
    DONE,
    Action,
    Close,
    Reset,
    Wait,
    chunked,
    completion,
    event,
    json_reply,
    reply,
    sse,
    text_chunks,
)

from .bed import Bed

BODY = json.dumps(completion("Hello")).encode()
EVENTS = b"".join(map(event, text_chunks("Hel", "lo"))) + DONE
#: The codings that we ask for, by their names.
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}
CODED = pytest.mark.parametrize("coding", CODINGS)
BODIES = pytest.mark.parametrize("body", [BODY, EVENTS], ids=["json", "events"])


def asked_and_answer(bed: Bed, script: list[Action], *, stream: bool) -> tuple[int, str]:
    """How many are asked when upstream a does as the script says, and the answer."""
    model = bed.model("pair")
    bed.a.on(model, script)
    bed.b.on(model, json_reply(completion("from b")))
    answer = bed.ask(model, stream=stream)
    assert answer.status == 200
    text = answer.text if stream else answer.json["choices"][0]["message"]["content"]
    return sum(bed.asked(model).values()), text


def coded(body: bytes, coding: str, cut: int = 0) -> bytes:
    """A body in a coding, without its last bytes."""
    whole = CODINGS[coding](body)
    return whole[: len(whole) - cut]


@CODED
@BODIES
def test_a_compressed_body_is_read(bed: Bed, body: bytes, coding: str, stream: bool) -> None:
    script = reply(coded(body, coding), headers={"Content-Encoding": coding})

    assert asked_and_answer(bed, script, stream=stream) == (1, "Hello")


@BODIES
def test_what_is_behind_the_compressed_data_belongs_to_it_or_is_nothing(bed: Bed, body: bytes, stream: bool) -> None:
    members = gzip.compress(body[:100]) + gzip.compress(body[100:]) + b"\0" * 20
    without_header = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    raw = without_header.compress(body) + without_header.flush()

    for sent, coding in ((members, "gzip"), (raw, "deflate"), (zlib.compress(body) + b"\0", "deflate")):
        script = reply(sent, headers={"Content-Encoding": coding})
        assert asked_and_answer(bed, script, stream=stream) == (1, "Hello")


def test_a_long_compressed_answer_is_whole(bed: Bed, stream: bool) -> None:
    text = "".join(f"{number} " for number in range(40_000)) + "\x01" * 300_000
    body = json.dumps(completion(text)).encode()

    script = reply(gzip.compress(body), headers={"Content-Encoding": "gzip"})

    assert asked_and_answer(bed, script, stream=stream) == (1, text)


@CODED
@BODIES
@pytest.mark.parametrize("cut", [1, 4, 8, 20])
def test_a_compressed_body_that_stops_before_its_end_is_none(bed: Bed, body: bytes, coding: str, cut: int) -> None:
    script = reply(coded(body, coding, cut), headers={"Content-Encoding": coding})

    assert asked_and_answer(bed, script, stream=False) == (2, "from b")


@CODED
@pytest.mark.parametrize("pause_s", [0, 0.05])
def test_a_compressed_body_that_is_cut_is_not_waited_for(bed: Bed, coding: str, pause_s: float, stream: bool) -> None:
    pieces: list[Any] = [coded(BODY, coding, 4), Wait(pause_s)]

    assert asked_and_answer(bed, chunked(*pieces, headers={"Content-Encoding": coding}), stream=stream) == (2, "from b")


def test_chunks_without_a_size_are_not_waited_for(bed: Bed, stream: bool) -> None:
    head, piece, *_ = chunked(BODY[:40])
    junk, *_ = reply(b"")
    script = [head, piece, Wait(0.05), junk, Wait(0.05)]

    assert asked_and_answer(bed, script, stream=stream) == (2, "from b")


ENDS = pytest.mark.parametrize("end", [Close(), Reset()], ids=["fin", "rst"])


@ENDS
@BODIES
def test_a_whole_answer_that_is_shorter_than_it_says_was_interrupted(bed: Bed, body: bytes, end: Action) -> None:
    longer = {"Content-Length": str(len(body) + 50)}

    assert asked_and_answer(bed, [*reply(body, headers=longer), end], stream=False) == (2, "from b")


@ENDS
def test_a_stream_with_its_end_mark_is_whole_whatever_its_length_was_to_be(bed: Bed, end: Action) -> None:
    longer = {"Content-Length": str(len(EVENTS) + 50)}

    assert asked_and_answer(bed, [*reply(EVENTS, headers=longer), end], stream=True) == (1, "Hello")


@ENDS
def test_a_stream_without_an_end_mark_is_not(bed: Bed, end: Action) -> None:
    answer = bed.stream(sse(*text_chunks("Hel", "lo", finish=None), end, done=False))

    assert (answer.text, answer.stream_error and answer.stream_error["code"]) == ("Hello", "upstream_stream_truncated")
