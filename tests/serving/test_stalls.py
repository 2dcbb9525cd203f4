"""A process, or a whole container, stands still for longer than its deadlines: nobody is blamed for it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import (
    Gateway,
    RawClient,
    Response,
    ScriptedUpstream,
    WaitFor,
    completion,
    freeze,
    json_reply,
    post_chat,
    sse,
    text_chunks,
)
from tests.support.processes import group_of

from .clients import chat, connect, wait_until

#: Every deadline, and for how much longer the worker stands still, in seconds.
LIMIT_S, LONGER_S = 3.0, 2.0
CONFIG = """
adapters:
  up:
    type: openai
    base_url: "{url}"
    models: [m, long, late, next, whole]
    timeouts: {{first_event_s: {limit}, idle_s: {limit}, total_s: {limit}}}
server: {{head_timeout_s: {limit}, body_timeout_s: {limit}, write_timeout_s: {limit}, keep_alive_s: {limit}}}
rate_limit: {{enabled: false}}
"""
MESSAGES = [{"role": "user", "content": "Hi"}]
#: How bodies end; of the longest only a part fits into the buffers of the kernel.
BODIES = {
    name: ',"user":"%s"}' % ("x" * size) for name, size in (("short", 100), ("long", 30_000), ("longest", 8_000_000))
}


Read = Callable[[], Response]


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Read]]:
    """What comes of exchanges that each wait for something which came while the worker stood still."""
    gate = threading.Event()
    with ScriptedUpstream() as upstream:
        head, role, *rest = sse(*text_chunks("Hel", "lo"))
        upstream.on("late", [WaitFor(gate), head, role, *rest])
        upstream.on("next", [head, role, WaitFor(gate), *rest])
        upstream.on("whole", [WaitFor(gate), *json_reply(completion("Hello"))])
        upstream.on("long", sse(*text_chunks(*["x" * 20_000] * 200)))
        config = CONFIG.format(url=upstream.base_url, limit=LIMIT_S)
        with Gateway(config_yaml=config) as gateway, contextlib.ExitStack() as opened:
            yield _stand_still(gateway, gate, opened)


def _stand_still(gateway: Gateway, gate: threading.Event, opened: contextlib.ExitStack) -> dict[str, Read]:
    """Stop the worker amid exchanges, send what is missing of them, and let it go on after their deadlines."""
    (worker,) = gateway.worker_pids()
    threads = opened.enter_context(ThreadPoolExecutor())

    def client(first: bytes, receive_buffer_bytes: int | None = None) -> RawClient:
        made = opened.enter_context(connect(gateway, timeout_s=30.0, receive_buffer_bytes=receive_buffer_bytes))
        made.send(first)
        return made

    kept = client(chat(gateway, "m"))
    assert kept.read_response().status == 200
    wholes = {name: _request(gateway, text) for name, text in {"head": "", **BODIES}.items()}
    begun = {name: client(whole[: len(whole) - len(BODIES[name])]) for name, whole in wholes.items() if name in BODIES}
    begun["head"] = client(wholes["head"][:40])
    asked = {name: client(chat(gateway, name, stream=name != "whole")) for name in ("late", "next", "whole")}
    slow = client(chat(gateway, "long", stream=True), 4096)
    slow_head = slow.read_head()
    time.sleep(0.3)

    freeze(worker)
    until = time.monotonic() + LIMIT_S + LONGER_S
    gate.set()
    kept.send(chat(gateway, "m"))
    for name, started in begun.items():
        rest = wholes[name][40:] if name == "head" else wholes[name][-len(BODIES[name]) :]
        threads.submit(started.send, rest)
    slow_body = threads.submit(b"".join, slow.iter_body(slow_head))
    time.sleep(max(0.0, until - time.monotonic()))
    os.kill(worker, signal.SIGCONT)

    def read_slow() -> Response:
        return Response(slow_head.status, slow_head.headers, slow_body.result())

    clients = {"kept": kept, **begun, **asked}
    return {"slow": read_slow, **{name: each.read_response for name, each in clients.items()}}


def _request(gateway: Gateway, text: str) -> bytes:
    """A request that ends with this part of it."""
    body = b'{"messages":[{"role":"user","content":"x"}],"model":"m"%b' % text.encode()
    return post_chat(gateway.host, gateway.port, body if text else {"model": "m", "messages": MESSAGES})


@pytest.mark.parametrize("name", ["head", "kept", *BODIES, "whole"])
def test_what_came_while_the_worker_stood_still_came_in_time(name: str, answers: dict[str, Read]) -> None:
    answer = answers[name]()

    assert answer.status == 200, answer.body[:300]


@pytest.mark.parametrize("name", ["late", "next", "slow"])
def test_a_stream_goes_on_after_its_worker_stood_still(name: str, answers: dict[str, Read]) -> None:
    answer = answers[name]()

    assert (answer.status, answer.body[-14:]) == (200, b"data: [DONE]\n\n"), answer.body[-300:]


def test_a_gateway_that_was_paused_as_a_whole_keeps_its_workers() -> None:
    with Gateway(env={"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "--timeout 2"}) as gateway:
        workers = gateway.worker_pids(2)
        for _ in range(3):
            for pid in group_of(gateway.pid):
                freeze(pid)
            time.sleep(4.0)
            os.killpg(gateway.pid, signal.SIGCONT)
            time.sleep(1.5)
        assert gateway.worker_pids(2) == workers
        assert "WORKER TIMEOUT" not in gateway.log


@pytest.mark.parametrize("when", ["while it serves", "while it starts"])
def test_a_worker_that_alone_stands_still_is_replaced(when: str) -> None:
    with Gateway(env={"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "--timeout 2"}) as gateway:
        frozen, other = gateway.worker_pids(2)
        if when == "while it starts":
            os.kill(frozen, signal.SIGKILL)
            wait_until(lambda: {frozen, other} < {*gateway.worker_pids(), frozen}, "another one", 20)
            (frozen,) = {*gateway.worker_pids()} - {frozen, other}
        freeze(frozen)
        wait_until(lambda: frozen not in gateway.worker_pids(), "it to be ended", 40)
        assert other in gateway.worker_pids(2)
