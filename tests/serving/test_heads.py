"""The heads of requests: complete in time, within bounds, and never taken for the start of another protocol."""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from tests.support import Gateway, Hang, RawClient, Response, ScriptedUpstream, chunk, post_chat, sse, text_chunks

from .clients import chat, connect, get, request, resident_bytes, running

KEEP_ALIVE_S = 1
HEAD_TIMEOUT_S = 0.5
#: How much later than its deadline something may happen, in seconds.
LATE_S = 2.0
#: How much too early a timer may fire: the loop's clock is a little behind, in seconds.
EARLY_S = 0.05
#: What refusing a head may cost the worker's memory, whatever the client sends.
MOST_BYTES = 8_000_000
CROWD = 100

CONFIG = """
adapters:
  up: {{type: openai, base_url: "{url}", models: [m, hanging]}}
server: {{keep_alive_s: {keep_alive}, head_timeout_s: {head}}}
rate_limit: {{enabled: false}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        started.on("hanging", sse(text_chunks("Hel")[1], Hang()))
        yield started


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    config = CONFIG.format(url=upstream.base_url, keep_alive=KEEP_ALIVE_S, head=HEAD_TIMEOUT_S)
    with running(Gateway(config_yaml=config)) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connect(gateway) as connected:
        yield connected


def code(answer: Response) -> str | None:
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"] and str(error["code"])


# Too slow


def test_a_head_that_trickles_is_answered_with_408(gateway: Gateway, client: RawClient) -> None:
    begun, answer = time.monotonic(), None
    client.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ")
    client.timeout_s = 0.05
    while answer is None and time.monotonic() - begun < HEAD_TIMEOUT_S + LATE_S:
        client.send(b"x")
        with contextlib.suppress(TimeoutError):
            answer = client.read_response()
    assert answer is not None
    assert time.monotonic() - begun > HEAD_TIMEOUT_S - EARLY_S
    assert (answer.status, code(answer), answer.headers.first("connection")) == (408, "request_timeout", "close")
    client.timeout_s = 5
    assert client.wait_closed()


def test_a_later_head_on_the_connection_has_the_same_deadline(gateway: Gateway, client: RawClient) -> None:
    whole = request(gateway, "GET", "/health")
    client.send(whole + whole[:-5])
    assert [client.read_response().status for _ in range(2)] == [200, 408]


def test_heads_that_trickle_slow_nobody_down(gateway: Gateway) -> None:
    with contextlib.ExitStack() as clients:
        trickling = [clients.enter_context(connect(gateway)) for _ in range(CROWD)]
        for client in trickling:
            client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        assert get(gateway, "/health").status == 200
        assert {client.read_response().status for client in trickling} == {408}


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
def test_an_idle_connection_is_closed(gateway: Gateway, client: RawClient, kept: bool) -> None:
    if kept:
        client.send(request(gateway, "GET", "/health"))
        assert client.read_response().status == 200
    begun = time.monotonic()
    assert client.read_to_eof() == b""
    assert time.monotonic() - begun < KEEP_ALIVE_S + LATE_S


# Too large, or no head at all


@pytest.mark.parametrize(
    ("opening", "piece"),
    [
        (b"GET /", b"x" * 10_000),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"x" * 10_000),
        (b"GET / HTTP/1.1\r\n", b"X-Many: x\r\n" * 1000),
    ],
    ids=["target", "value", "fields"],
)
def test_a_head_without_end_is_refused_and_not_kept(
    gateway: Gateway, client: RawClient, opening: bytes, piece: bytes
) -> None:
    (pid,) = gateway.worker_pids()
    before = resident_bytes(pid)
    with contextlib.suppress(ConnectionError):
        client.send(opening)
        for _ in range(5000):
            client.send(piece)
    assert resident_bytes(pid) - before < MOST_BYTES
    answer = client.read_response()
    assert (answer.status, code(answer)) in [(431, None), (414, None)]


def test_a_large_head_is_served(gateway: Gateway, client: RawClient) -> None:
    client.send(request(gateway, "GET", "/health", {"X-Large": "x" * 30_000}))
    assert client.read_response().status == 200


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELLO\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n"],
)
def test_what_is_no_request_is_refused(gateway: Gateway, client: RawClient, junk: bytes) -> None:
    client.send(junk)
    answer = client.read_response()
    assert (answer.status, code(answer), answer.headers.first("connection")) == (400, None, "close")
    assert client.wait_closed()


def test_junk_behind_a_request_is_not_answered_amid_its_stream(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient
) -> None:
    count = len(upstream.requests)
    client.send(chat(gateway, "hanging", stream=True))
    head = client.read_head()
    client.send(b"\x00junk\r\n\r\n")
    with pytest.raises(EOFError):
        for event in client.iter_events(head):
            assert event.startswith("data: {")
    assert upstream.wait_for(count + 1).closed.wait(5)


# Offers of other protocols

OFFERS = {
    "h2c": {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"},
    "websocket": {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"},
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("pieces", [1, 2, 10], ids=lambda pieces: f"{pieces} packets")
def test_an_offer_to_upgrade_is_declined_and_the_request_answered(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, offer: dict[str, str], chunks: bool, pieces: int
) -> None:
    """Java's HttpClient offers HTTP/2 with every request to an http:// address."""
    count = len(upstream.requests)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    if chunks:
        headers = {**offer, "Transfer-Encoding": "chunked"}
        data = post_chat(
            gateway.host, gateway.port, chunk(body[:9]) + chunk(body[9:]) + chunk(b""), extra_headers=headers
        )
    else:
        data = post_chat(gateway.host, gateway.port, body, extra_headers=offer)
    for _ in range(2):
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
        assert client.read_response().status == 200
    assert [seen.json["messages"][0]["content"] for seen in upstream.requests[count:]] == ["Hi", "Hi"]


def test_pipelined_offers_are_answered_in_order(gateway: Gateway, client: RawClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    offer = post_chat(gateway.host, gateway.port, body, extra_headers=OFFERS["h2c"])
    client.send(offer + request(gateway, "GET", "/health") + offer)
    answers = [client.read_response() for _ in range(3)]
    assert ["choices" in answer.json for answer in answers] == [True, False, True]


def test_an_offer_may_ask_for_the_connections_end(gateway: Gateway, client: RawClient) -> None:
    headers = {"Connection": "Upgrade, close", "Upgrade": "h2c"}
    client.send(request(gateway, "GET", "/health", headers))
    assert client.read_response().headers.first("connection") == "close"
    assert client.read_to_eof() == b""
