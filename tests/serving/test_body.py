"""Request bodies: read when somebody wants them, by a deadline, up to a limit; otherwise not at all."""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from tests.support import Gateway, RawClient, Response, ScriptedUpstream, chunk

from .clients import connect, get, request, resident_bytes, running, wait_until

BODY_TIMEOUT_S = 1.0
#: How much later than its deadline an answer may come, in seconds.
LATE_S = 2.0
#: How much too early a timer may fire: the loop's clock is a little behind, in seconds.
EARLY_S = 0.05
MAX_BODY_BYTES = 1_000_000
#: What refusing a body may cost the worker's memory, whatever the client sends.
MOST_BYTES = 8_000_000

PATH = "/v1/chat/completions"
KEY = {"Authorization": "Bearer test-key"}
CONFIG = """
adapters:
  up: {{type: openai, base_url: "{url}", models: [m]}}
server: {{port: {port}, body_timeout_s: {timeout}, max_body_bytes: {limit}}}
rate_limit: {{enabled: false}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    app = Gateway()
    app.config_yaml = CONFIG.format(url=upstream.base_url, port=app.port, timeout=BODY_TIMEOUT_S, limit=MAX_BODY_BYTES)
    with running(app) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connect(gateway) as connected:
        yield connected


@pytest.fixture(autouse=True)
def upstream_is_not_called(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[None]:
    """No request of this module reaches the upstream, but where a test says so."""
    count = len(upstream.requests)
    yield
    assert len(upstream.requests) - count == (1 if "accepted" in request.node.name else 0)


def post(gateway: Gateway, length: int | str | None, headers: dict[str, str] | None = None) -> bytes:
    """The head of a chat request; a length of None announces chunks."""
    framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    return request(gateway, "POST", PATH, {**(KEY if headers is None else headers), **framing})


def code(answer: Response) -> str:
    return str(answer.json["error"]["code"])


def records_so_far(gateway: Gateway) -> int:
    """How many records there are, all that were written by now included: they come in order."""
    mark = get(gateway, "/v1/models").headers.first("x-request-id")
    wait_until(lambda: mark in [record["request_id"] for record in gateway.call_records()], "a record")
    return len(gateway.call_records())


def padded(size: int) -> bytes:
    """A valid chat request of exactly that many bytes."""
    body = {"model": "m", "messages": [{"role": "user", "content": ""}]}
    body["messages"][0]["content"] = "x" * (size - len(json.dumps(body)))  # type: ignore[index]
    return json.dumps(body).encode()


# Too slow


@pytest.mark.parametrize("trickles", [True, False], ids=["trickled", "absent"])
def test_a_body_that_is_late_is_answered_with_408(gateway: Gateway, trickles: bool) -> None:
    with connect(gateway) as by_length, connect(gateway) as by_chunks:
        begun = time.monotonic()
        by_length.send(post(gateway, 100_000))
        by_chunks.send(post(gateway, None))
        waiting, answers = {by_length: b"x", by_chunks: chunk(b"x")}, []
        while waiting and time.monotonic() - begun < BODY_TIMEOUT_S + LATE_S:
            for client, piece in list(waiting.items()):
                if trickles:
                    client.send(piece)
                client.timeout_s = 0.05
                with contextlib.suppress(TimeoutError):
                    answers.append(client.read_response())
                    del waiting[client]
        assert time.monotonic() - begun > BODY_TIMEOUT_S - EARLY_S
        assert [(answer.status, code(answer)) for answer in answers] == [(408, "request_timeout")] * 2
        assert [answer.headers.first("connection") for answer in answers] == ["close"] * 2
        by_length.timeout_s = 5
        assert by_length.wait_closed()


def test_100_continue_and_then_nothing_is_answered_with_408(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, 10, {**KEY, "Expect": "100-continue"}))
    assert client.read_head().status == 100
    assert client.read_response().status == 408


def test_bodies_that_trickle_slow_nobody_down(gateway: Gateway) -> None:
    with contextlib.ExitStack() as clients:
        trickling = [clients.enter_context(connect(gateway)) for _ in range(100)]
        for client in trickling:
            client.send(post(gateway, 100_000) + b"x")
        assert get(gateway, "/health").status == 200
        trickling[0].timeout_s = 0.01
        with pytest.raises(TimeoutError):  # answered before the first of them
            trickling[0].read(1)
        trickling[0].timeout_s = 10
        assert {client.read_response().status for client in trickling} == {408}


# Cut off


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, RawClient.half_close], ids=["fin", "rst", "half"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_leaves_amid_its_body_calls_nobody(
    gateway: Gateway, client: RawClient, leave: object, framing: str
) -> None:
    count = records_so_far(gateway)
    body = padded(1000)
    client.send(post(gateway, 1000) + body[:999] if framing == "length" else post(gateway, None) + chunk(body))
    assert callable(leave)
    leave(client)
    (record,) = gateway.call_records(count + 1)[count:]
    assert (record["status"], record["error"], record["attempts"]) == (499, "cancelled", 0)


@pytest.mark.parametrize("junk", [b"zz\r\nx", b"5\r\nabcdefgh", b"-1\r\n", b"fffffffffffffffff\r\n"])
def test_a_chunk_that_is_none_is_refused(gateway: Gateway, client: RawClient, junk: bytes) -> None:
    client.send(post(gateway, None) + chunk(b"{") + junk + b"\r\n")
    assert client.read_response().status == 400
    assert client.wait_closed()
    assert get(gateway, "/health").status == 200


# Too large


def test_a_body_at_the_limit_is_accepted(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, MAX_BODY_BYTES) + padded(MAX_BODY_BYTES))
    assert client.read_response().status == 200


def test_chunks_up_to_the_limit_are_accepted(gateway: Gateway, client: RawClient) -> None:
    body = padded(MAX_BODY_BYTES)
    client.send(post(gateway, None) + chunk(body[:-1]) + chunk(body[-1:]) + chunk(b""))
    assert client.read_response().status == 200


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 10**10, 2**63 - 1])
def test_a_length_over_the_limit_is_refused_at_once(gateway: Gateway, client: RawClient, length: int) -> None:
    client.send(post(gateway, length))
    answer = client.read_response()
    assert (answer.status, code(answer)) == (413, "request_too_large")
    assert answer.headers.first("connection") == "close"


def test_chunks_over_the_limit_are_refused_and_not_kept(gateway: Gateway, client: RawClient) -> None:
    (pid,) = gateway.worker_pids()
    before = resident_bytes(pid)
    client.send(post(gateway, None))
    piece = chunk(b"x" * 65536)
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            client.send(piece)
    assert resident_bytes(pid) - before < MOST_BYTES
    answer = client.read_response()
    assert (answer.status, code(answer)) == (413, "request_too_large")


# Not wanted


@pytest.mark.parametrize("length", [100_000, None], ids=["length", "chunks"])
def test_without_a_key_the_body_is_not_read(gateway: Gateway, client: RawClient, length: int | None) -> None:
    client.send(post(gateway, length, {}))
    answer = client.read_response()
    assert (answer.status, code(answer)) == (401, "invalid_api_key")
    assert answer.headers.first("connection") == "close"
    assert client.read_to_eof() == b""


def test_without_a_key_nobody_is_asked_to_continue(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, 10, {"Expect": "100-continue"}))
    assert client.read_head().status == 401


@pytest.mark.parametrize("target", [PATH, "/v1/nothing", "/health"])
@pytest.mark.parametrize("size", [1, 65536])
def test_a_small_body_that_nobody_wants_leaves_the_connection(
    gateway: Gateway, client: RawClient, target: str, size: int
) -> None:
    for _ in range(3):
        client.send(request(gateway, "POST", target, {}, b"x" * size))
        answer = client.read_response()
        assert (answer.status, answer.headers.first("connection")) in [(status, None) for status in (401, 404, 405)]


def test_a_small_body_that_follows_its_head_is_waited_for(gateway: Gateway, client: RawClient) -> None:
    """Many clients write the two one after the other; without an end of the request nginx, for one, would close."""
    count = records_so_far(gateway)
    client.send(post(gateway, 10, {}))
    gateway.call_records(count + 1)  # it is refused already
    client.send(b"x" * 10)
    answer = client.read_response()
    assert (answer.status, answer.headers.first("connection")) == (401, None)
    client.send(request(gateway, "GET", "/v1/models", KEY))
    assert client.read_response().status == 200


def test_a_small_body_that_does_not_come_keeps_no_answer_back_for_long(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, 10, {}))
    answer = client.read_response()
    assert (answer.status, answer.headers.first("connection")) == (401, "close")


def test_the_refusal_can_be_read_by_a_client_that_is_still_sending(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, 50_000_000, {}))
    with contextlib.suppress(ConnectionError):
        for _ in range(50):
            client.send(b"x" * 1_000_000)
    assert client.read_response().status == 401


def test_a_large_body_for_nobody_ends_the_connection(gateway: Gateway, client: RawClient) -> None:
    client.send(post(gateway, 65537, {}) + b"x" * 65537)
    answer = client.read_response()
    assert (answer.status, answer.headers.first("connection")) == (401, "close")
    assert client.wait_closed()


@pytest.mark.parametrize("headers", [{}, KEY], ids=["401", "200"])
def test_without_a_body_the_connection_stays(gateway: Gateway, client: RawClient, headers: dict[str, str]) -> None:
    statuses = []
    for _ in range(3):
        client.send(request(gateway, "GET", "/v1/models", headers))
        statuses.append(client.read_response().status)
    assert statuses == [200 if headers else 401] * 3


def test_many_bodies_that_nobody_reads_cost_no_memory(gateway: Gateway) -> None:
    (pid,) = gateway.worker_pids()
    before = resident_bytes(pid)
    for _ in range(100):
        with connect(gateway) as client:
            client.send(post(gateway, 50_000_000, {}))
            with contextlib.suppress(ConnectionError):
                client.send(b"x" * 1_000_000)
    wait_until(lambda: get(gateway, "/health").status == 200, "an answer")
    assert resident_bytes(pid) - before < MOST_BYTES
