"""Streams through the real nginx, Caddy and HAProxy, as the files in ``deploy`` set them up."""

import contextlib
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.serving.clients import wait_until
from tests.support import Gateway, ScriptedUpstream, Wait, sse, text_chunks

from .proxies import CERTIFICATE, PROXIES, Proxy

#: Between two events of the stream.
INTERVAL_S = 1.0
#: How much later than its interval an event may arrive.
MAX_LATE_S = 0.05
CHUNKS = text_chunks("a", "b", "c", "d", model="ticking")
KEY = {"Authorization": "Bearer test-key", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def gateways() -> Iterator[tuple[Gateway, Gateway]]:
    """Two that are served below /llm, as a proxy or their own environment says."""
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(ScriptedUpstream(["m", "ticking"]))
        spaced = [step for chunk in CHUNKS[1:] for step in (Wait(INTERVAL_S), chunk)]
        upstream.on("ticking", sse(CHUNKS[0], *spaced))
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


def arrivals(proxy: Proxy, path: str) -> list[float]:
    """When each event of a stream came, in seconds after the first."""
    body = {"model": "ticking", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with contextlib.closing(connect(proxy)) as connection:
        connection.request("POST", f"{path}/v1/chat/completions", json.dumps(body), KEY)
        answer = connection.getresponse()
        assert answer.status == 200
        found = []
        while line := answer.readline():
            if line.startswith(b"data: "):
                found.append((time.monotonic(), line))
    assert found[-1][1] == b"data: [DONE]\n"
    return [at - found[0][0] for at, _ in found[:-1]]


def test_an_event_a_second_comes_each_second(proxy: Proxy) -> None:
    # What a proxy holds back is late in every stream; what a busy machine delays is late in one.
    with ThreadPoolExecutor(8) as clients:
        streams = list(clients.map(lambda number: arrivals(proxy, "/llm" if number % 2 else ""), range(8)))

    for path in (streams[::2], streams[1::2]):
        fastest = [min(times) for times in zip(*path, strict=True)]
        assert len(fastest) == len(CHUNKS)
        late = [at - INTERVAL_S * number for number, at in enumerate(fastest)]
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
