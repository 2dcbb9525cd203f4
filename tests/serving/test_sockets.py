"""What the sockets are set to: small pieces go out at once, and a crowd may come at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support import Gateway, ScriptedUpstream, WaitFor, freeze, sse, text_chunks

from .clients import ask, chat, connect, request, running

#: Streams after which a client's kernel delays acknowledgements, and in how many more one must be quick.
WARM_UP, STREAMS = 10, 100
#: How long an acknowledgement may be delayed, and with it a small piece that waits for it, in seconds.
DELAYED_ACK_S = 0.04
CROWD = 300


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["m", "slow"]) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    env = {"OPENAI_BASE_URL": upstream.base_url, "RATE_LIMIT_ENABLED": "false"}
    with running(Gateway(env=env)) as started:
        yield started


def test_an_event_does_not_wait_for_the_last_to_be_acknowledged(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """On a connection that has served before, a client's kernel delays acknowledgements; that must delay no event."""
    role, first, second, *others = text_chunks("Hel", "lo")
    gates = [threading.Event() for _ in range(WARM_UP + STREAMS)]
    upstream.on("slow", *(sse(role, first, WaitFor(gate), second, *others) for gate in gates))
    quickest = DELAYED_ACK_S
    with connect(gateway) as client:
        for number, gate in enumerate(gates):
            sent_at = time.monotonic()
            client.send(chat(gateway, "slow", stream=True))
            events = client.iter_events(client.read_head())
            for _ in (role, first):
                next(events)
            gate.set()
            next(events)
            took = time.monotonic() - sent_at
            assert list(events)[-1] == "data: [DONE]"
            # One that waits is late each time; a machine that is busy is not.
            if number >= WARM_UP and (quickest := min(quickest, took)) < DELAYED_ACK_S:
                break
    assert quickest < DELAYED_ACK_S


def test_a_crowd_waits_in_the_queue_and_is_answered(gateway: Gateway) -> None:
    """The worker is stopped meanwhile, so that every connection has to wait to be accepted."""
    (worker,) = gateway.worker_pids()
    with contextlib.ExitStack() as stack:
        freeze(worker)
        stack.callback(os.kill, worker, signal.SIGCONT)
        crowd = [stack.enter_context(connect(gateway)) for _ in range(CROWD)]
        for client in crowd:
            client.send(chat(gateway, "m", stream=True))
        os.kill(worker, signal.SIGCONT)
        assert {list(client.iter_events(client.read_head()))[-1] for client in crowd} == {"data: [DONE]"}


def test_a_crowd_comes_and_goes(gateway: Gateway) -> None:
    for _ in range(CROWD):
        connect(gateway).close()
    assert ask(gateway, request(gateway, "GET", "/health")).status == 200
    assert "Traceback" not in gateway.log
