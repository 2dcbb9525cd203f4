"""The process and the system around it: a master that is killed, and file descriptors that run out."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import Config

from one_api.serving.worker import GatewayServer
from tests.support import Gateway, ScriptedUpstream, WaitFor, sse, text_chunks
from tests.support.loop_time import LoopTime

from .clients import ask, chat, connect, request, wait_until

FILES = 64


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["plain", "gated"]) as started:
        yield started


def refuses(gateway: Gateway) -> bool:
    """Return whether new connections are refused."""
    try:
        connect(gateway).close()
    except ConnectionError:
        return True
    return False


def test_a_worker_whose_master_was_killed_finishes_its_requests_and_ends(upstream: ScriptedUpstream) -> None:
    gate = threading.Event()
    upstream.on("gated", sse(*text_chunks("Hel"), WaitFor(gate)))
    with Gateway(env={"OPENAI_BASE_URL": upstream.base_url}) as gateway, connect(gateway) as client:
        (worker,) = gateway.worker_pids()
        client.send(chat(gateway, "gated", stream=True))
        events = client.iter_events(client.read_head())
        next(events)
        os.kill(gateway.pid, signal.SIGKILL)
        wait_until(lambda: refuses(gateway), "the port to be free")
        gate.set()
        assert list(events)[-1] == "data: [DONE]"
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker to end")


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that nobody asks."""


async def test_a_worker_that_has_nothing_under_way_ends_at_once() -> None:
    server = GatewayServer(Config(nothing, lifespan="off", log_config=None), drain_s=10.0)
    serving = asyncio.create_task(server.serve(sockets=[]))
    while not server.started:
        await asyncio.sleep(0)

    async with LoopTime() as clock:
        server.handle_exit(signal.SIGTERM, None)
        await serving

    assert clock.now_s < 0.05


def is_answered(gateway: Gateway, data: bytes) -> bool:
    """Return whether a request is answered with 200."""
    try:
        return ask(gateway, data).status == 200
    except (ConnectionError, EOFError):
        return False


@pytest.fixture(scope="module")
def poor(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    env = {"OPENAI_BASE_URL": upstream.base_url, "RATE_LIMIT_ENABLED": "false"}
    # By default as many connections are taken as there are files for, and this would not be seen.
    with Gateway(env=env, config_yaml="server: {max_connections: 10000}", max_files=FILES) as gateway:
        yield gateway


def open_files(gateway: Gateway) -> int:
    """How many files the worker has open."""
    (worker,) = gateway.worker_pids()
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))


def test_too_low_a_limit_is_logged_at_the_start(poor: Gateway) -> None:
    poor.wait_for_log(f"{FILES} open files are allowed")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_without_descriptors_the_gateway_itself_is_overloaded(
    poor: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    gate = threading.Event()
    upstream.on("gated", sse(*text_chunks("Hel"), WaitFor(gate)))
    with contextlib.ExitStack() as clients:
        opened = [clients.enter_context(connect(poor)) for _ in range(FILES // 2)]
        statuses = []
        for client in opened:
            client.send(chat(poor, "gated", stream=True))
            with contextlib.suppress(OSError, EOFError):
                head = client.read_head()
                statuses.append(head.status)
                if head.status == 503:
                    assert b"gateway_overloaded" in b"".join(client.iter_body(head))
        assert set(statuses) == {200, 503}
        gate.set()
    wait_until(lambda: is_answered(poor, chat(poor, "plain", stream=stream)), "an answer")
    poor.wait_for_log("no file descriptor is left for connections to upstreams")
    # Once a minute. New clients have a line of their own, which is counted below.
    assert poor.log.count("no file descriptor is left for connections to upstreams") <= 2
    assert 502 not in {record["status"] for record in poor.call_records()}


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/admin/config", "/ready", "/v1/models", "/docs"])
def test_without_descriptors_no_page_is_a_bug(poor: Gateway, path: str) -> None:
    wait_until(lambda: is_answered(poor, request(poor, "GET", "/health")), "an answer")
    before = open_files(poor)
    with contextlib.ExitStack() as clients:
        opened = [clients.enter_context(connect(poor)) for _ in range(FILES * 2)]
        assert opened[-1].read_response().status == 503  # all descriptors are taken
        key = "admin-key" if path.startswith("/admin") else "test-key"
        headers = {"Host": "127.0.0.1", "Authorization": f"Bearer {key}", "Accept": "text/html"}
        opened[0].send(request(poor, "GET", path, headers))
        answer = opened[0].read_response()

    assert answer.status in (200, 503)
    if answer.status == 503:
        assert (answer.json["error"]["code"], answer.headers.first("retry-after")) == ("gateway_overloaded", "1")
    wait_until(lambda: open_files(poor) <= before, "their connections to be closed")


def test_a_client_that_there_is_no_descriptor_for_is_told_so(poor: Gateway) -> None:
    with contextlib.ExitStack() as clients:
        opened = [clients.enter_context(connect(poor)) for _ in range(FILES * 2)]
        refused = 0
        for client in opened[FILES:]:
            answer = client.read_response()
            assert (answer.status, answer.headers.first("retry-after")) == (503, "1")
            assert answer.json["error"]["code"] == "gateway_overloaded"
            refused += 1
        assert refused == FILES
        opened[0].send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert opened[0].read_response().status == 200
    wait_until(lambda: is_answered(poor, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"), "an answer")
    poor.wait_for_log("no file descriptor is left for new clients")
    assert poor.log.count("no file descriptor is left for new clients") <= 2
