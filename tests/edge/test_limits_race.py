"""Two hundred requests at once against a limit of fifty: exactly fifty are let in, wherever the counts are kept."""

import collections
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.support import Gateway, Hang, RawClient, ScriptedUpstream, post_chat, sse, text_chunks

REDIS = "redis://127.0.0.1:6379/0"
BODY = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}]}


@contextmanager
def gateways(limits: str, count: int, workers: int) -> Iterator[tuple[list[Gateway], ScriptedUpstream]]:
    """Start gateways that have a key of one name in common."""
    key = f"race-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream(models=["m"]))
        config = (
            f"adapters: {{a: {{type: openai, base_url: '{upstream.base_url}', api_key: k, models: [m]}}}}\n"
            f"api_keys: [{{name: {key}, key: test-key}}]\nrate_limit: {limits}\n"
        )
        env = {"WEB_CONCURRENCY": str(workers)}
        yield [stack.enter_context(Gateway(config_yaml=config, env=env)) for _ in range(count)], upstream


def ask(gateway: Gateway) -> tuple[int, str | None, str]:
    """Return status, `retry-after` and type of error of one request."""
    with RawClient(gateway.host, gateway.port, timeout_s=30) as client:
        client.send(post_chat(gateway.host, gateway.port, BODY))
        response = client.read_response()
    error = {} if response.status == 200 else json.loads(response.body)["error"]
    return response.status, response.headers.first("retry-after"), str(error.get("type"))


@pytest.mark.parametrize(
    ("storage", "count", "workers"),
    [("auto", 1, 4), (REDIS, 1, 4), (REDIS, 2, 2)],
    ids=["file", "redis", "two gateways"],
)
def test_exactly_the_limit_is_let_in(storage: str, count: int, workers: int) -> None:
    # Time enough for a machine that is busy with the race itself; what a slow Redis costs is in tests/limits.
    limits = f"{{requests_per_minute: 50, storage: '{storage}', storage_timeout_s: 5}}"
    with gateways(limits, count, workers) as (racing, upstream):
        with ThreadPoolExecutor(50) as clients:
            answers = list(clients.map(lambda i: ask(racing[i % count]), range(200)))
        assert collections.Counter(status for status, _, _ in answers) == {200: 50, 429: 150}
        assert len(upstream.requests) == 50
        refused = [answer for answer in answers if answer[0] == 429]
        assert all(kind == "requests" and 1 <= int(wait or 0) <= 61 for _, wait, kind in refused)


def test_tokens_are_estimated_before_and_settled_after() -> None:
    with gateways("{requests_per_minute: 1000, tokens_per_minute: 250}", 1, 2) as ((gateway,), _):
        statuses = [ask(gateway)[0] for _ in range(12)]
        # Each request is estimated at over 100 tokens and uses 11, as its usage says: the estimates alone would let
        # in two, the usage twelve.
        assert statuses == [200] * 12
        with RawClient(gateway.host, gateway.port) as client:
            client.send(post_chat(gateway.host, gateway.port, {**BODY, "metadata": {"x": "y" * 2000}}))
            response = client.read_response()
    assert (response.status, response.json["error"]["type"]) == (429, "tokens")
    assert response.headers.first("x-ratelimit-limit-tokens") == "250"


def test_requests_at_a_time_are_leases_that_end_with_the_request() -> None:
    with gateways("{requests_per_minute: 1000, concurrent: 2}", 1, 2) as ((gateway,), upstream):
        upstream.on("m", sse(*text_chunks("Hel", finish=None), Hang()))
        streams = []
        for i in range(2):
            client = RawClient(gateway.host, gateway.port)
            client.send(post_chat(gateway.host, gateway.port, {**BODY, "stream": True}))
            upstream.wait_for(i + 1)
            streams.append(client)
        status, wait, kind = ask(gateway)
        assert (status, kind) == (429, "requests")
        assert wait is not None
        for client in streams:
            client.close()
        gateway.call_records(3)
        upstream.on("m", sse(*text_chunks("Hel")))
        with RawClient(gateway.host, gateway.port) as client:
            client.send(post_chat(gateway.host, gateway.port, {**BODY, "stream": True}))
            assert client.read_response().status == 200
