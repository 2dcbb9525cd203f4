"""HTTP as odd upstreams speak it: redirects, unusual heads, kept connections: U20, U29, U30 of the fault matrix."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import (
    Close,
    Receive,
    Reset,
    Script,
    ScriptedUpstream,
    Send,
    WaitFor,
    completion,
    error,
    error_body,
    event,
    json_reply,
    post_chat,
    reply,
    sse,
    text_chunks,
)

from .bed import Bed, user

# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_u20_a_redirect_is_never_followed(bed: Bed, status: int, stream: bool) -> None:
    with ScriptedUpstream() as capture:
        model, location = bed.model(), f"{capture.base_url}/chat/completions"
        bed.a.on(model, error(status, "<html>moved</html>", {"Location": location}))

        answer = bed.ask(model, stream=stream)

        assert (answer.status, answer.error["code"]) == (502, "upstream_redirect")
        assert str(capture.port) not in answer.body.decode() + str(answer.headers)
        assert capture.connections == 0


def test_u20_another_deployment_answers_instead(bed: Bed, stream: bool) -> None:
    with ScriptedUpstream() as capture:
        model = bed.model("pair")
        bed.a.on(model, error(307, headers={"Location": f"{capture.base_url}/chat/completions"}))

        assert bed.ask(model, stream=stream).status == 200
        assert capture.connections == 0


# Odd, but legal


def raw_head(*lines: str) -> bytes:
    """A head of these lines."""
    return "\r\n".join([*lines, "", ""]).encode()


BODY = json.dumps(completion("Hello")).encode()
LENGTH = f"Content-Length: {len(BODY)}"
OK = raw_head("HTTP/1.1 200 OK", "Content-Type: application/json", LENGTH)
LEGAL = {
    "100": [Send(raw_head("HTTP/1.1 100 Continue") + OK + BODY)],
    "103": [Send(raw_head("HTTP/1.1 103 Early Hints", "Link: </x>; rel=preload") + OK + BODY)],
    "HTTP/1.0 until the end": [
        Send(raw_head("HTTP/1.0 200 OK", "Content-Type: application/json") + BODY), Close()
    ],
    "HTTP/1.1 until the end": [
        Send(raw_head("HTTP/1.1 200 OK", "Connection: close", "Content-Type: application/json") + BODY), Close()
    ],
    "lower-case reason": [Send(raw_head("HTTP/1.1 200 ok", "content-type: application/json", LENGTH) + BODY)],
    "no reason": [Send(raw_head("HTTP/1.1 200 ", "Content-Type: application/json", LENGTH) + BODY)],
    "no reason, no space": [Send(raw_head("HTTP/1.1 200", "Content-Type: application/json", LENGTH) + BODY)],
    "type with parameters": [Send(raw_head("HTTP/1.1 200 OK", "Content-Type: text/json;x=y", LENGTH) + BODY)],
}  # fmt: skip


@pytest.mark.parametrize("script", list(LEGAL.values()), ids=list(LEGAL))
def test_u29_an_unusual_answer_is_read(bed: Bed, script: Script) -> None:
    model = bed.model()
    bed.a.on(model, script)

    answer = bed.ask(model)

    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == "Hello"


def test_u29_a_stream_until_the_end_of_the_connection(bed: Bed) -> None:
    head = raw_head("HTTP/1.0 200 OK", "Content-Type: text/event-stream")
    events = b"".join(event(chunk) for chunk in text_chunks("Hi")) + b"data: [DONE]\n\n"

    answer = bed.stream([Send(head + events), Close()])

    assert (answer.text, answer.stream_error) == ("Hi", None)


# Connections that the upstream closes between two requests


def test_u30_a_connection_closed_after_each_answer(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, [*json_reply(completion("Hello")), Close()])

    with bed.connect() as client:
        request = post_chat(bed.gateway.host, bed.gateway.port, {"model": model, "messages": user()})
        statuses = []
        for _ in range(400):
            client.send(request)
            statuses.append(client.read_response().status)

    assert statuses.count(200) == 400


def test_u30_a_kept_connection_that_dies_as_it_is_used(bed: Bed, stream: bool) -> None:
    model = bed.model()
    script = sse(*text_chunks("Hello")) if stream else json_reply(completion("Hello"))
    bed.a.on(model, [*script, Receive(1), Reset()])
    bed.waived.add(model)  # the last exchange waits for a request that never comes

    answers = [bed.ask(model, stream=stream) for _ in range(20)]

    assert [answer.status for answer in answers] == [200] * 20
    assert {answer.header("x-gateway-attempts") for answer in answers} == {"1"}


def test_u30_an_upstream_whose_kept_connections_have_all_died(bed: Bed, stream: bool) -> None:
    """It was started anew, say: the first request after that finds one after the other dead."""
    model, gate, count = bed.model(), threading.Event(), 8
    script = sse(*text_chunks("Hello")) if stream else json_reply(completion("Hello"))
    bed.a.on(model, [WaitFor(gate), *script, Receive(1), Reset()])
    bed.waived.add(model)  # the last exchange waits for a request that never comes
    before = len(bed.a.requests)
    with ThreadPoolExecutor(count) as crowd:
        kept = [crowd.submit(bed.ask, model, stream=stream) for _ in range(count)]
        bed.a.wait_for(before + count)
        gate.set()
    assert [each.result().status for each in kept] == [200] * count

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.header("x-gateway-attempts")) == (200, "1")


# Encodings that were not asked for


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br"])
def test_an_answer_that_cannot_be_decoded_says_so(bed: Bed, stream: bool, coding: str) -> None:
    model = bed.model()
    bed.a.on(model, reply(b"\x0b\x02\x80{}\x03", headers={"Content-Encoding": coding}))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert f"`{coding}`" in answer.error["message"]
    assert "`Accept-Encoding: gzip, deflate`" in answer.error["message"]
    bed.record_of(answer)  # it is written after the line that is looked for
    assert f"adapter a: its upstream encodes answers with {coding}" in bed.gateway.log
    assert bed.last(model).headers.first("accept-encoding") == "gzip, deflate"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br"])
@pytest.mark.parametrize(("status", "code"), [(429, "rate_limit_exceeded"), (503, "overloaded"), (400, None)])
def test_an_error_that_cannot_be_decoded_keeps_its_status(
    bed: Bed, stream: bool, coding: str, status: int, code: str | None
) -> None:
    model = bed.model()
    bed.a.on(model, error(status, "\x0b\x02", headers={"Content-Encoding": coding, "Retry-After": "7"}))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"]) == (status, code)
    assert f"`{coding}`" in answer.error["message"]
    assert answer.header("retry-after") == ("7" if status != 400 else None)
    assert bed.record_of(answer)["status"] == status


def test_an_error_in_a_coding_that_was_asked_for_is_read(bed: Bed, stream: bool) -> None:
    model, said = bed.model(), json.dumps(error_body("Nothing left until noon.")).encode()
    bed.a.on(model, reply(gzip.compress(said), 429, headers={"Content-Encoding": "gzip"}))

    assert "Nothing left until noon." in bed.ask(model, stream=stream).error["message"]


@pytest.mark.parametrize("label", ["identity", "utf-8", ""])
def test_a_label_that_is_no_coding_says_nothing(bed: Bed, stream: bool, label: str) -> None:
    model, script = bed.model(), sse(*text_chunks("Hello")) if stream else json_reply(completion("Hello"))
    headed = [Send(each.data.replace(b"\r\n", f"\r\nContent-Encoding: {label}\r\n".encode(), 1))
              if each is script[0] and isinstance(each, Send) else each for each in script]  # fmt: skip
    bed.a.on(model, headed)

    assert bed.ask(model, stream=stream).status == 200
