"""Streams through the real nginx, Caddy and HAProxy, as the files in ``deploy`` set them up."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.serving.clients import wait_until
from tests.support import Gateway, ScriptedUpstream, Wait, WaitFor, sse, text_chunks

from .proxies import CERTIFICATE, PROXIES, Proxy

#: Between two events of a stream.
INTERVAL_S = 1.0
#: How long after it was sent an event may arrive.
MAX_LATE_S = 0.05
_CHUNKS = text_chunks("a", "b", "c", "d")
#: The gateway waits for content; then each event is on its own.
FIRST, LATER = _CHUNKS[:2], _CHUNKS[2:]
STREAMS = 8
KEY = {"Authorization": "Bearer test-key", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """Has a model for each stream."""
    with ScriptedUpstream(["m", *(f"ticking-{number}" for number in range(STREAMS))]) as running:
        yield running


@pytest.fixture(scope="module")
def gateways(upstream: ScriptedUpstream) -> Iterator[tuple[Gateway, Gateway]]:
    """Two that are served below /llm, as a proxy or their own environment says."""
    with contextlib.ExitStack() as held:
        env = {"OPENAI_BASE_URL": upstream.base_url, "SCRIPT_NAME": "/llm", "TRUSTED_PROXIES": "127.0.0.1"}
        one, two = (held.enter_context(Gateway(env=env, ready_path="/ready")) for _ in range(2))
        yield one, two


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, gateways: tuple[Gateway, Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """Each of them."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    addresses = [f"{each.host}:{each.port}" for each in gateways]
    with PROXIES[request.param](Proxy(folder, (addresses[0], addresses[1]))) as running:
        yield running


def connect(proxy: Proxy) -> HTTPSConnection:
    """A connection that trusts the tests' authority."""
    trust = ssl.create_default_context(cafile=str(CERTIFICATE.with_name("ca.pem")))
    return HTTPSConnection("127.0.0.1", proxy.port, timeout=20, context=trust)


def lateness(proxy: Proxy, upstream: ScriptedUpstream, path: str, number: int) -> list[float]:
    """How long after it was sent each later event of a stream came, in seconds."""
    model, gates = f"ticking-{number}", [threading.Event() for _ in LATER]
    steps = [step for gate, chunk in zip(gates, LATER, strict=True) for step in (WaitFor(gate), chunk)]
    # Caddy 2.6 may cut a stream that begins before it has seen the request end ("use of closed network connection").
    upstream.on(model, sse(FIRST[0], Wait(INTERVAL_S), FIRST[1], *steps))
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True}
    time.sleep(number * INTERVAL_S / STREAMS)  # so that no event is sent when another one is
    with contextlib.closing(connect(proxy)) as connection:
        connection.request("POST", f"{path}/v1/chat/completions", json.dumps(body), KEY)
        answer = connection.getresponse()
        assert answer.status == 200
        events = (line for line in iter(answer.readline, b"") if line.startswith(b"data: "))

        def receive() -> None:
            line = next(events, b"the end")
            assert b'"choices"' in line, line

        for _ in FIRST:
            receive()
        late = []
        for gate in gates:
            time.sleep(INTERVAL_S)
            sent = time.monotonic()
            gate.set()
            receive()
            late.append(time.monotonic() - sent)
        assert list(events) == [b"data: [DONE]\n"]
    return late


def test_an_event_a_second_comes_each_second(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    # What a proxy holds back is late in every stream; what a busy machine delays is late in one.
    with ThreadPoolExecutor(STREAMS) as clients:
        asked = clients.map(lambda n: lateness(proxy, upstream, "/llm" if n % 2 else "", n), range(STREAMS))
        streams = list(asked)

    for path in (streams[::2], streams[1::2]):
        late = [min(times) for times in zip(*path, strict=True)]
        assert max(late) < MAX_LATE_S, late


@pytest.mark.parametrize("path", ["", "/llm"])
def test_a_page_knows_where_it_is(proxy: Proxy, path: str) -> None:
    with contextlib.closing(connect(proxy)) as connection:
        connection.request("GET", f"{path}/docs", headers={"Accept": "text/html"})
        page = connection.getresponse().read().decode()

    assert f"https://127.0.0.1:{proxy.port}" in page


def test_a_refused_request_leaves_the_connection(proxy: Proxy, gateways: tuple[Gateway, Gateway]) -> None:
    """Its body comes after the refusal: a proxy that had the answer without it would end the connection, silently."""

    def refused() -> int:
        return sum(record["status"] == 401 for gateway in gateways for record in gateway.call_records())

    with contextlib.closing(connect(proxy)) as connection:
        for _ in range(3):
            before = refused()
            connection.putrequest("POST", "/v1/chat/completions")
            connection.putheader("Content-Length", "2")
            connection.endheaders()
            wait_until(lambda before=before: refused() > before, "the refusal")  # type: ignore[misc]
            connection.send(b"{}")
            with connection.getresponse() as answer:
                answer.read()
                assert (answer.status, answer.headers.get("connection", "")) in [(401, "keep-alive"), (401, "")]
            assert connection.sock is not None


def test_administration_is_not_reached_through_it(proxy: Proxy) -> None:
    with contextlib.closing(connect(proxy)) as connection:
        connection.request("GET", "/admin/config", headers={"Authorization": "Bearer admin-key"})

        assert connection.getresponse().status == 403
