"""What an upstream sends is not to be trusted either: it is bounded, and little of it is passed on."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import (
    Gateway,
    Headers,
    RawClient,
    ScriptedUpstream,
    completion,
    json_reply,
    post_chat,
    reply,
    sse,
    text_chunks,
)
from tests.support.actions import Action, Flood, Send

CONFIG = "adapters: {{a: {{type: openai, base_url: '{url}', api_key: k, models: [m, good]}}}}\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """Return the hostile server."""
    with ScriptedUpstream(models=["m"]) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Return the gateway in front of it."""
    with Gateway(config_yaml=CONFIG.format(url=upstream.base_url)) as running:
        yield running


def ask(gateway: Gateway, model: str = "m", *, stream: bool = False) -> tuple[int, str | None, Headers]:
    """Return status, error code and all header fields of one request."""
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    with RawClient(gateway.host, gateway.port, timeout_s=30) as client:
        client.send(post_chat(gateway.host, gateway.port, body))
        response = client.read_response()
    code = None if response.status == 200 else response.json["error"]["code"]
    return response.status, code, response.headers


def resident_bytes(gateway: Gateway) -> int:
    """Return the memory of the worker."""
    (pid,) = gateway.worker_pids()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def bomb() -> bytes:
    """Return a megabyte that unpacks to a gigabyte."""
    packed = gzip.compress(b" " * 10_000_000, compresslevel=9)
    return packed * 100  # members of one gzip file


GZIPPED = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Long: "
ATTACKS: dict[str, Callable[[], list[Action]]] = {
    "a gzip bomb": lambda: reply(bomb(), headers=GZIPPED),
    "an answer without end": lambda: [
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000000000\r\n\r\n"),
        Flood(5_000_000_000),
    ],
    "white space without end": lambda: [
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"),
        Flood(5_000_000_000, b" " * 65536),
    ],
    "a header without end": lambda: [Send(ENDLESS), Flood(1_000_000_000, b"x" * 65536)],
    "empty arrays in a gzip": lambda: reply(gzip.compress(b"[" + b"[]," * 11_000_000 + b"[]]"), headers=GZIPPED),
    "empty objects": lambda: reply(b'{"choices": [' + b"{}," * 10_000_000 + b"{}]}"),
    "100 Continue without end": lambda: [Flood(1_000_000_000, GO_ON * 1000)],
    "early hints without end": lambda: [Flood(1_000_000_000, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000)],
    "headers without end": lambda: [Send(b"HTTP/1.1 200 OK\r\n"), Flood(1_000_000_000, b"X-Many: x\r\n" * 1000)],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_too_much_is_cut_off(name: str, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.on("m", ATTACKS[name]())
    before = resident_bytes(gateway)
    status, code, _ = ask(gateway)
    assert (status, code) == (502, "upstream_invalid_response")
    assert resident_bytes(gateway) - before < 64 * 1024 * 1024
    assert ask(gateway, "good")[0] == 200


def test_what_is_not_encoded_as_it_says_is_502(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.on("m", reply(b'{"choices": []}', headers=GZIPPED))
    assert ask(gateway)[0] == 502


def test_only_our_own_headers_reach_the_client(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    hostile = {
        "Set-Cookie": "session=stolen",
        "Connection": "keep-alive, x-secret",
        "X-Secret": "1",
        "Server": "evil",
        "Location": "http://evil",
        "X-Request-Id": "theirs",
    }
    upstream.on("m", json_reply(completion("x"), headers=hostile))
    status, _, headers = ask(gateway)
    assert status == 200
    told = repr(headers).lower()
    assert not [name for name in ("set-cookie", "x-secret", "evil", "theirs", "stolen") if name in told]
    ask(gateway)
    assert upstream.requests[-1].headers.first("cookie") is None


@pytest.mark.parametrize(
    ("count", "read"), [(-5, 0), (1e308, 10**9), ("12", 12), (None, None), (True, None), ([1], None)]
)
def test_absurd_usage_is_not_counted(
    count: object, read: int | None, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}
    upstream.on("m", json_reply({**completion("x"), "usage": usage}))
    status, _, headers = ask(gateway)
    assert status == 200
    record = gateway.record_of(str(headers.first("x-request-id")))
    assert (record["prompt_tokens"], record["completion_tokens"]) == (read, read)


@pytest.mark.parametrize(("count", "status"), [(1, 200), (10, 200), (11, 502)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_may_say_go_on_ten_times(
    gateway: Gateway, upstream: ScriptedUpstream, count: int, status: int, stream: bool
) -> None:
    answer = sse(*text_chunks("Hello")) if stream else json_reply(completion("Hello"))
    upstream.on("m", [Send(GO_ON * count), *answer])

    assert ask(gateway, stream=stream)[0] == status
