"""What an upstream may not do, and what it may (U26 to U30 of the fault matrix), where another deployment is at hand.

What each is with one deployment is in ``tests/edge/test_hostile_upstream.py`` and ``tests/api/test_upstream_http.py``.
"""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.test_upstream_http import raw_head
from tests.edge.test_hostile_upstream import bomb
from tests.support import (
    DONE,
    Close,
    Flood,
    Receive,
    Reset,
    Script,
    Send,
    completion,
    event,
    json_reply,
    post_chat,
    reply,
    sse,
    text_chunks,
)
from tests.support.examples import examples

from .bed import FaultBed
from .test_before_content import said

TYPES = {False: "application/json", True: "text/event-stream"}


def plain(stream: bool) -> bytes:
    """The body of an answer."""
    if not stream:
        return json.dumps(completion("from a")).encode()
    return b"".join(event(each) for each in text_chunks("from a")) + DONE


def head(stream: bool, *lines: str) -> bytes:
    """The head of an answer, with further lines."""
    return raw_head("HTTP/1.1 200 OK", f"Content-Type: {TYPES[stream]}", *lines)


def encoded(data: bytes, label: str, stream: bool) -> Script:
    """An answer whose body is said to be encoded so."""
    return reply(data, headers={"Content-Type": TYPES[stream], "Content-Encoding": label})


def resident_bytes(faults: FaultBed) -> int:
    """The memory of the worker."""
    (pid,) = faults.gateway.worker_pids()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


CODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("label", CODERS)
def test_u26_an_encoded_answer_is_read(faults: FaultBed, label: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, encoded(CODERS[label](plain(stream)), label, stream))

    assert said(faults.ask(model, stream=stream), stream) == "from a"
    assert faults.asked(model) == {"a": 1}


ATTACKS: dict[str, Callable[[bool], Script]] = {
    "U26 bomb": lambda stream: encoded(bomb(), "gzip", stream),
    "U26 not as labelled": lambda stream: encoded(plain(stream), "gzip", stream),
    "U26 not asked for": lambda stream: encoded(b"\x8b\x02\x80brotli\x03", "br", stream),
    "U27 body": lambda stream: [Send(head(stream, "Content-Length: 5000000000")), Flood(5_000_000_000)],
    "U27 white space": lambda stream: [Send(head(stream, "Connection: close")), Flood(5_000_000_000, b" " * 65536)],
    "U27 header": lambda stream: [Send(head(stream, "X-Long: ")[:-4]), Flood(1_000_000_000, b"x" * 65536)],
    "U27 headers": lambda stream: [Send(head(stream, *["X-Many: x"] * 10_000)), Send(plain(stream)), Close()],
    "U28 cookies": lambda stream: [
        Send(head(stream, *[f"Set-Cookie: c{number}=1" for number in range(10_000)])), Send(plain(stream)), Close()
    ],
    "U28 zero byte": lambda stream: [Send(head(stream, "X: a\0b", "Connection: close") + plain(stream)), Close()],
    "U28 two codings": lambda stream: [
        Send(head(stream, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + plain(stream)), Close()
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_u26_u27_u28_another_answers_and_who_attacks_is_left_alone(faults: FaultBed, name: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, ATTACKS[name](stream))
    before = resident_bytes(faults)

    answers = [faults.ask(model, stream=stream) for _ in range(4)]

    assert [said(answer, stream) for answer in answers] == ["Hello"] * 4
    assert faults.asked(model) == {"a": 3, "b": 4}
    assert resident_bytes(faults) - before < 64 * 1024 * 1024


HOSTILE = ("Set-Cookie: session=stolen", "X-Secret: 1", "Server: evil", "X-Request-Id: theirs", "Location: http://evil")


@pytest.mark.parametrize("also", ["Connection: close, x-secret", "Connection: close", "X-Secret: \x85\xa0"], ids=str)
def test_u28_no_header_of_an_upstream_is_passed_on_or_kept(faults: FaultBed, also: str, stream: bool) -> None:
    model = faults.model("twins")
    length = f"Content-Length: {len(plain(stream))}"
    faults.a.on(model, [Send(head(stream, *HOSTILE, also, length) + plain(stream)), Close()])

    answers = [faults.ask(model, stream=stream) for _ in range(4)]

    assert [said(answer, stream) for answer in answers] == ["from a"] * 4
    told = repr([answer.headers for answer in answers]).lower()
    assert not [name for name in ("cookie", "x-secret", "evil", "theirs", "stolen") if name in told]
    seen = [each for each in faults.a.requests if each.model == model]
    assert [each.headers.first("cookie") for each in seen] == [None] * 4, "all went to it, with no cookie of its own"


ODD = {
    "100": raw_head("HTTP/1.1 100 Continue") + raw_head("HTTP/1.1 200 OK", "Content-Type: {}"),
    "103": raw_head("HTTP/1.1 103 Early Hints", "Link: </x>") + raw_head("HTTP/1.1 200 OK", "Content-Type: {}"),
    "HTTP/1.0": raw_head("HTTP/1.0 200 OK", "Content-Type: {}"),
    "lower-case reason": raw_head("HTTP/1.1 200 ok", "Connection: close", "content-type: {}"),
    "no reason": raw_head("HTTP/1.1 200", "Connection: close", "Content-Type: {}"),
}


@pytest.mark.parametrize("odd", list(ODD.values()), ids=list(ODD))
def test_u29_an_odd_head_is_no_reason_to_ask_another(faults: FaultBed, odd: bytes, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, [Send(odd.replace(b"{}", TYPES[stream].encode()) + plain(stream)), Close()])

    for _ in range(4):
        assert said(faults.ask(model, stream=stream), stream) == "from a"

    assert faults.asked(model) == {"a": 4}


# A thousand of them in `make check-long`. A hundred are ten times what makes a circuit breaker open.
@pytest.mark.parametrize("ending", [[Close()], [Receive(1), Reset()]], ids=["closed", "reset as it is used"])
def test_u30_kept_connections_that_die_again_and_again(faults: FaultBed, ending: Script, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, [*(sse(*text_chunks("a")) if stream else json_reply(completion("a"))), *ending])
    faults.waived.add(model)  # the last exchange waits for a request that never comes

    request = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    with faults.connect() as client:
        attempts = set()
        for _ in range(examples(1000)):
            client.send(post_chat(faults.gateway.host, faults.gateway.port, request))
            answer = client.read_response()
            assert answer.status == 200
            attempts.add(answer.headers.first("x-gateway-attempts"))

    assert attempts == {"1"}
    assert faults.asked(model).keys() == {"a"}, "nothing was blamed, and nobody else asked"
