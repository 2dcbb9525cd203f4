"""Two gateways on hosts of their own, with one Redis and one PostgreSQL, behind a real nginx."""

import contextlib
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.accounts.conftest import postgres_schema, server
from tests.limits.conftest import OwnRedis, redis_at
from tests.serving.clients import wait_until
from tests.support import (
    Gateway,
    RawClient,
    ScriptedUpstream,
    Wait,
    WaitFor,
    build_request,
    completion,
    free_port,
    freeze,
    json_reply,
    post_chat,
    sse,
    text_chunks,
)
from tests.support.running_time import RunningTime

from .network import Host, Network
from .proxies import CERTIFICATE, Proxy, nginx
from .tools import tool

__all__ = ["server"]

LIMIT, RACERS, REQUESTS = 50, 40, 200
STREAMS = 100
#: How long a request may take while Redis is frozen: the gateway waits 100 ms for its limits at most.
MAX_WAIT_S = 0.15
#: How long the first may take: the cache, which was not connected before, waits 250 ms at most.
MAX_FIRST_WAIT_S = 0.6
CHUNKS = text_chunks("a", "b", "c", "d", model="slow")
_ASK = """\
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
headers = {"Authorization": "Bearer admin-key", "Content-Type": "application/json"}
connection.request(sys.argv[2], sys.argv[3], sys.argv[4], headers)
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


@dataclass
class Cluster:
    """The two gateways, and what they share."""

    network: Network
    upstream: ScriptedUpstream
    redis: "subprocess.Popen[bytes]"
    settings: dict[str, Any]
    hosts: list[Host]
    gateways: list[Gateway] = field(default_factory=list)
    proxy: Proxy | None = None
    trust: ssl.SSLContext = field(
        default_factory=lambda: ssl.create_default_context(cafile=str(CERTIFICATE.with_name("ca.pem")))
    )

    def start(self, number: int, port: int) -> Gateway:
        """Start a gateway on one of the hosts."""
        host = self.hosts[number]
        gateway = Gateway(
            host=host.address,
            port=port,
            within=host.prefix,
            ready_path="/ready",
            env={"HOST": "0.0.0.0", "DATABASE_URL": self.settings["database"]},
            config_yaml=json.dumps(self.settings["config"]),
            start_timeout_s=60,
        )
        return gateway.__enter__()

    def stop(self) -> None:
        """Stop what is running of the gateways."""
        for gateway in self.gateways:
            gateway.__exit__(None, None, None)

    def administer(self, number: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Call the administration of one of the gateways, on its own host."""
        text = json.dumps(body) if body is not None else ""
        command = [*self.hosts[number].prefix, sys.executable, "-S", "-c", _ASK, str(self.gateways[number].port)]
        done = subprocess.run([*command, method, path, text], capture_output=True, text=True, timeout=20, check=True)
        status, _, answer = done.stdout.partition(" ")
        return int(status), json.loads(answer or "null") if answer.strip() else None

    def make_key(self, name: str, **fields: Any) -> str:
        """Make a key at the first gateway, and return it."""
        status, made = self.administer(0, "POST", "/admin/api/keys", {"name": name, **fields})
        assert status == 201, made
        return str(made["key"])

    def ask(self, number: int, key: str, content: str, model: str = "m", **fields: Any) -> int:
        """The status of a chat request to one of the gateways."""
        gateway = self.gateways[number]
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        with RawClient(gateway.host, gateway.port, timeout_s=20) as client:
            client.send(post_chat(gateway.host, gateway.port, body, key))
            return client.read_response().status

    def connect(self) -> HTTPSConnection:
        """A connection to nginx."""
        assert self.proxy is not None
        return HTTPSConnection("127.0.0.1", self.proxy.port, timeout=60, context=self.trust)

    def race(self, key: str, **fields: Any) -> Counter[int]:
        """Send requests through nginx, many at once, and count the answers by their status."""

        def client(racer: int) -> Counter[int]:
            found: Counter[int] = Counter()
            with contextlib.closing(self.connect()) as connection:
                for turn in range(REQUESTS // RACERS):
                    words = [{"role": "user", "content": f"{key} {racer} {turn}"}]
                    body = {"model": "m", "messages": words, **fields}
                    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers(key))
                    with connection.getresponse() as answer:
                        answer.read()
                        found[answer.status] += 1
            return found

        with ThreadPoolExecutor(RACERS) as clients:
            return sum(clients.map(client, range(RACERS)), Counter())

    def degraded(self, number: int) -> bool:
        """Whether the gateway keeps limits by itself."""
        gateway = self.gateways[number]
        with RawClient(gateway.host, gateway.port) as client:
            client.send(build_request("GET", "/ready", gateway.host, gateway.port))
            return "limits" in client.read_response().json


def headers(key: str) -> dict[str, str]:
    """Of a request with a key."""
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def cluster(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both gateways behind nginx."""
    tool("nginx")
    with contextlib.ExitStack() as held:
        network = held.enter_context(Network())
        upstream = held.enter_context(ScriptedUpstream(["m", "slow", "gated"]))
        spaced = [step for chunk in CHUNKS[1:] for step in (Wait(0.6), chunk)]
        upstream.on("slow", sse(CHUNKS[0], *spaced))
        redis: OwnRedis = held.enter_context(redis_at(free_port(), tmp_path_factory.mktemp("redis"), network.address))
        database = postgres_schema(server)
        for port in (upstream.port, urlsplit(database).port or 5432):
            network.relay(port)
        place = urlsplit(database)
        config = {
            "adapters": {
                "a": {"type": "openai", "base_url": f"http://{network.address}:{upstream.port}/v1", "api_key": "k"}
            },
            "rate_limit": {"requests_per_minute": 100_000, "storage": redis[0], "storage_timeout_s": 0.1},
            "cache": {"enabled": True, "storage": redis[0]},
            "prices": {"models": {"*": {"input": 0, "output": 1}}},
        }
        settings = {
            "config": config,
            "database": place._replace(netloc=f"postgres@{network.address}:{place.port or 5432}").geturl(),
        }
        cluster = Cluster(network, upstream, redis[1], settings, [network.add_host(), network.add_host()])
        cluster.gateways = [cluster.start(number, free_port()) for number in range(2)]
        held.callback(cluster.stop)
        one, two = (f"{gateway.host}:{gateway.port}" for gateway in cluster.gateways)
        cluster.proxy = held.enter_context(nginx(Proxy(tmp_path_factory.mktemp("nginx"), (one, two))))
        yield cluster


def test_a_limit_is_one_limit_for_both(cluster: Cluster) -> None:
    key = cluster.make_key("race", rpm=LIMIT)

    assert cluster.race(key) == {200: LIMIT, 429: REQUESTS - LIMIT}
    for gateway in cluster.gateways:
        assert any(record["caller"] == "race" for record in gateway.call_records(1))


def test_a_budget_is_one_budget_for_both(cluster: Cluster) -> None:
    key = cluster.make_key("spender")
    # An answer has two tokens, for a dollar a million.
    budget = {"limit_usd": f"{LIMIT * 2 / 1_000_000:.6f}"}
    status, made = cluster.administer(0, "PUT", "/admin/api/budgets/key:spender:month", budget)
    assert status in (200, 201), made

    found = cluster.race(key, max_tokens=2)
    for turn in range(2 * REQUESTS):
        if found[503]:  # on a busy machine a client may be told to try again
            found[503] -= 1
            found[cluster.ask(turn % 2, key, f"again {turn}", max_tokens=2)] += 1

    assert +found == {200: LIMIT, 429: REQUESTS - LIMIT}
    for gateway in cluster.gateways:
        assert any(record["caller"] == "spender" for record in gateway.call_records(1))


def test_a_key_that_is_revoked_at_one_is_refused_at_the_other(cluster: Cluster) -> None:
    key = cluster.make_key("leaver")
    assert cluster.ask(1, key, "before") == 200

    status, _ = cluster.administer(0, "DELETE", "/admin/api/keys/leaver")
    assert status in (200, 204)
    assert cluster.ask(1, key, "after") == 401
    assert cluster.ask(0, key, "after") == 401


def test_an_answer_is_asked_for_once_by_both(cluster: Cluster) -> None:
    gate, key = threading.Event(), "test-key"
    cluster.upstream.on("gated", [WaitFor(gate), *json_reply(completion("Hello", model="gated"))])
    before = len(cluster.upstream.requests)
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(cluster.ask, 0, key, "same", "gated")
        cluster.upstream.wait_for(before + 1)
        second = clients.submit(cluster.ask, 1, key, "same", "gated")
        gate.set()
        assert [first.result(20), second.result(20)] == [200, 200]

    assert cluster.ask(1, key, "same", "gated") == 200
    assert len(cluster.upstream.requests) == before + 1


def test_while_redis_is_frozen_nobody_waits_for_it(cluster: Cluster) -> None:
    key = cluster.make_key("frozen", rpm=LIMIT)
    took, statuses = [], []
    freeze(cluster.redis.pid)
    try:
        for turn in range(60):
            with RunningTime() as this:
                statuses.append(cluster.ask(turn % 2, key, f"frozen {turn}"))
            took.append(this.seconds)
    finally:
        cluster.redis.send_signal(signal.SIGCONT)

    assert set(statuses) <= {200, 429}
    assert statuses.count(200) <= 2 * LIMIT
    # Of each gateway the first request waits, once for its limits and once for the cache. After a failure nobody waits
    # for long, and one more may be slow on a busy machine.
    assert sorted(took)[-2 - 1 - 1] < MAX_WAIT_S, sorted(took)[-8:]
    assert max(took) < MAX_FIRST_WAIT_S, sorted(took)[-8:]
    for number in range(2):
        wait_until(lambda number=number: not cluster.degraded(number), f"gateway {number} to use Redis again", 30)  # type: ignore[misc]
    assert cluster.race(cluster.make_key("thawed", rpm=LIMIT)) == {200: LIMIT, 429: REQUESTS - LIMIT}


def test_a_host_that_is_cut_off_takes_nothing_along(cluster: Cluster) -> None:
    key = cluster.make_key("cut-off", rpm=LIMIT)
    cluster.network.unplug(cluster.hosts[0])
    try:
        assert [cluster.ask(1, key, f"cut off {turn}") for turn in range(10)] == [200] * 10
    finally:
        cluster.network.plug(cluster.hosts[0])

    wait_until(lambda: not cluster.degraded(0), "the host to be back", 30)
    statuses = Counter(cluster.ask(turn % 2, key, f"back {turn}") for turn in range(2 * LIMIT))
    assert statuses == {200: LIMIT - 10, 429: LIMIT + 10}


def test_both_are_restarted_under_streams_and_none_is_cut(cluster: Cluster) -> None:
    ended: Counter[str] = Counter()
    stopped = threading.Event()

    def one(content: str) -> str:
        body = {"model": "slow", "messages": [{"role": "user", "content": content}], "stream": True}
        with contextlib.closing(cluster.connect()) as connection:
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers("test-key"))
                answer = connection.getresponse()
                if answer.status != 200:
                    return f"refused {answer.status}"
                return "whole" if answer.read().endswith(b"data: [DONE]\n\n") else "cut"
            except (OSError, HTTPException) as error:
                return f"cut: {error!r}"

    def client(number: int) -> Counter[str]:
        found: Counter[str] = Counter()
        while not stopped.is_set():
            found[one(f"{number} {found.total()}")] += 1
        return found

    with ThreadPoolExecutor(STREAMS) as clients:
        running = [clients.submit(client, number) for number in range(STREAMS)]
        try:
            for number in range(2):
                old = cluster.gateways[number]
                wait_until(lambda old=old: len(old.call_records()) > 0, "streams")  # type: ignore[misc]
                old.terminate()
                assert old.wait(60) == 0
                old.__exit__(None, None, None)
                cluster.gateways[number] = cluster.start(number, old.port)
        finally:
            stopped.set()
        for each in running:
            ended += each.result(60)

    assert set(ended) == {"whole"}, ended
    assert ended.total() > STREAMS
