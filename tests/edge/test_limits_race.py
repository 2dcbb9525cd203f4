"""Two hundred requests at once against a limit of fifty: exactly fifty are let in, wherever the counts are kept."""

import collections
import fcntl
import json
import os
import select
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.limits.conftest import redis_at
from tests.serving.clients import wait_until
from tests.support import Gateway, Hang, RawClient, ScriptedUpstream, freeze, post_chat, sse, text_chunks
from tests.support.gateway import free_port

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


def limit_files(worker: int) -> set[Path]:
    """Return the file that a worker shares with others, if it has one open by now that has not been deleted."""
    links: set[Path] = set()
    with suppress(FileNotFoundError):  # it closes one meanwhile, or has ended
        for each in Path(f"/proc/{worker}/fd").iterdir():
            links.add(each.readlink())
    return {link for link in links if link.name.startswith("limits-") and link.suffix == ".bin"}


def limit_file(gateway: Gateway, workers: int = 2) -> Path:
    """Return the file that the workers share, once each of them has it."""
    pids = gateway.worker_pids(workers)
    wait_until(lambda: all(limit_files(pid) for pid in pids), "every worker to have the file")
    (file,) = set.union(*map(limit_files, pids))
    return file


def is_told_by_ready(gateway: Gateway) -> bool:
    """Whether the worker that happens to answer says that it keeps limits by itself."""
    return "per process" in str(ready(gateway).get("limits"))


def ready(gateway: Gateway) -> dict[str, object]:
    """Return what `/ready` says."""
    with RawClient(gateway.host, gateway.port) as client:
        client.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        found: dict[str, object] = client.read_response().json
    return found


@pytest.mark.parametrize("workers", [2, 4])
def test_a_frozen_and_restarted_redis_lets_in_one_share_more_at_most(workers: int, tmp_path: Path) -> None:
    port = free_port()
    limits = f"{{requests_per_minute: 40, storage: 'redis://127.0.0.1:{port}/0', storage_timeout_s: 0.5}}"
    with ExitStack() as stack:
        _, process = stack.enter_context(redis_at(port, tmp_path))
        (gateway,), _ = stack.enter_context(gateways(limits, 1, workers))
        gateway.worker_pids(workers)
        # One that has never heard of Redis adds a share of its own, see docs/reliability.md.
        with redis.Redis(port=port) as client:
            wait_until(lambda: client.zcard("one_api:processes") == workers, "every process to tell Redis of itself")
        statuses = [ask(gateway)[0] for _ in range(60)]
        freeze(process.pid)
        statuses += [ask(gateway)[0] for _ in range(20 * workers)]
        wait_until(lambda: is_told_by_ready(gateway), "a worker that was asked to tell of it")
        process.kill()
        process.wait(5)
        stack.enter_context(redis_at(port, tmp_path))
        statuses += [ask(gateway)[0] for _ in range(20 * workers)]
    # A process's share: what one may let in that does not know of the others' requests.
    assert 40 <= statuses.count(200) <= 40 + 40 // workers
    assert set(statuses) == {200, 429}


def kill(worker: int) -> None:
    """Kill a worker, and wait until it has ended."""
    watched = os.pidfd_open(worker)
    try:
        os.kill(worker, signal.SIGKILL)
        ended, _, _ = select.select([watched], [], [], 10)
        assert ended, "the worker is still there"
    finally:
        os.close(watched)


def test_a_deleted_file_and_a_replaced_worker_let_in_no_second_limit() -> None:
    with gateways("{requests_per_minute: 30}", 1, 2) as ((gateway,), _):
        file = limit_file(gateway)
        asked, idle = gateway.worker_pids(2)
        freeze(idle)  # so it knows of none of the requests but by the file
        statuses = [ask(gateway)[0] for _ in range(40)]
        assert statuses.count(200) == 30
        file.unlink()
        kill(asked)
        os.kill(idle, signal.SIGCONT)
        statuses += [ask(gateway)[0] for _ in range(60)]
        # A process's share is what a worker may let in that asks before any other has noticed.
        assert statuses.count(200) <= 30 + 15
        assert file.exists()
        assert "limits" not in ready(gateway)


def test_a_worker_that_starts_while_the_file_is_locked_knows_what_was_used() -> None:
    with gateways("{requests_per_minute: 30}", 1, 2) as ((gateway,), _):
        file, workers = limit_file(gateway), gateway.worker_pids(2)
        statuses = [ask(gateway)[0] for _ in range(20)]
        holder = os.open(file, os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        try:
            for worker in workers:
                kill(worker)
            statuses += [ask(gateway)[0] for _ in range(60)]
        finally:
            os.close(holder)
    assert statuses.count(200) <= 30
    assert statuses.count(429) >= 20


def test_a_locked_file_is_on_ready_and_each_worker_keeps_its_part() -> None:
    with gateways("{requests_per_minute: 30}", 1, 2) as ((gateway,), _):
        holder = os.open(limit_file(gateway), os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        try:
            statuses = [ask(gateway)[0] for _ in range(60)]
            assert statuses.count(200) <= 30
            assert set(statuses) == {200, 429}
            wait_until(lambda: is_told_by_ready(gateway), "a worker that was asked to tell of it")
        finally:
            os.close(holder)
