"""How the gateway ends: what is under way is finished, or told why not; it is never cut as if it were complete."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support import (
    Flood,
    Gateway,
    Hang,
    RawClient,
    Response,
    ScriptedUpstream,
    WaitFor,
    chunk,
    completion,
    event,
    freeze,
    json_reply,
    sse,
    text_chunks,
)
from tests.support.gateway import Record

from .clients import ask, chat, connect, request, wait_until

STREAMS = 10
#: How long an end may take that waits for nobody, in seconds.
SOON_S = 6.0
#: How long a slow reader pauses: longer than an end that waits for nobody takes, in seconds.
UNHURRIED_S = 2.0

WHOLE = text_chunks("Hel", "lo")
DONE = "data: [DONE]"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["plain", "gated", "gated-whole", "hanging", "silent", "flood", "long"]) as started:
        started.on("hanging", sse(*WHOLE[:2], Hang()))
        started.on("silent", [Hang()])
        yield started


@pytest.fixture
def gate(upstream: ScriptedUpstream) -> Iterator[threading.Event]:
    """Set, it lets the model "gated" go on after its first events, and "gated-whole" answer."""
    opened = threading.Event()
    upstream.on("gated", sse(*WHOLE[:2], WaitFor(opened), *WHOLE[2:]))
    upstream.on("gated-whole", [WaitFor(opened), *json_reply(completion("Hello"))])
    yield opened
    opened.set()


@contextlib.contextmanager
def started(
    upstream: ScriptedUpstream, worker: Literal["one_api", "gthread"] = "one_api", **env: str
) -> Iterator[Gateway]:
    """A gateway of the test's own."""
    settings = {"OPENAI_BASE_URL": upstream.base_url, "RATE_LIMIT_ENABLED": "false", **env}
    # So few that any machine allows the files: else a warning of the worker would be in the log.
    few = "server: {max_connections: 100}"
    with Gateway(worker=worker, env=settings, config_yaml=few, ready_path="/ready") as gateway:
        yield gateway


class Clients(contextlib.ExitStack):
    """Open requests, whose connections are closed at the end."""

    def open(self, gateway: Gateway) -> RawClient:
        """Connect."""
        return self.enter_context(connect(gateway))

    def send(self, gateway: Gateway, model: str, *, stream: bool = False) -> RawClient:
        """Send a chat request."""
        client = self.open(gateway)
        client.send(chat(gateway, model, stream=stream))
        return client

    def stream(self, gateway: Gateway, model: str) -> Iterator[str]:
        """Send a chat request, read the first event of its stream, and return the others."""
        client = self.send(gateway, model, stream=True)
        events = client.iter_events(client.read_head())
        next(events)
        return events


@pytest.fixture
def clients() -> Iterator[Clients]:
    with Clients() as opened:
        yield opened


def refuses(gateway: Gateway) -> bool:
    """Whether new connections are refused."""
    try:
        connect(gateway).close()
    except ConnectionError:
        return True
    return False


def error_of(event: str) -> str:
    """The code of an error event."""
    return str(json.loads(event.removeprefix("data: "))["error"]["code"])


# Within the drain time


@pytest.mark.parametrize("worker", ["one_api", "gthread"])
def test_what_is_under_way_is_finished(
    upstream: ScriptedUpstream, gate: threading.Event, clients: Clients, worker: Literal["one_api", "gthread"]
) -> None:
    with started(upstream, worker, WEB_CONCURRENCY="2") as gateway:
        count = len(upstream.requests)
        streams = [clients.stream(gateway, "gated") for _ in range(STREAMS)]
        wholes = [clients.send(gateway, "gated-whole") for _ in range(STREAMS)]
        upstream.wait_for(count + 2 * STREAMS)
        gateway.terminate()
        if worker == "one_api":
            wait_until(lambda: refuses(gateway), "new connections to be refused")
        gate.set()
        assert [list(events)[-1] for events in streams] == [DONE] * STREAMS
        assert [client.read_response().status for client in wholes] == [200] * STREAMS
        assert gateway.wait() == 0
        ends = [(record["status"], record["error"]) for record in gateway.call_records()]
        assert ends == [(200, None)] * 2 * STREAMS


def test_who_connected_before_the_end_began_is_answered(upstream: ScriptedUpstream, clients: Clients) -> None:
    with started(upstream) as gateway:
        (worker,) = gateway.worker_pids()
        freeze(worker)
        waiting = [clients.send(gateway, "plain") for _ in range(2 * STREAMS)]
        gateway.terminate()
        wait_until(lambda: is_pending(worker, signal.SIGTERM), "the master to end its worker")
        os.kill(worker, signal.SIGCONT)
        assert [client.read_response().status for client in waiting] == [200] * 2 * STREAMS
        assert gateway.wait() == 0


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) >> (number - 1) & 1)


def test_kept_connections_are_answered_once_more(
    upstream: ScriptedUpstream, gate: threading.Event, clients: Clients
) -> None:
    with started(upstream) as gateway:
        prober, caller = clients.open(gateway), clients.open(gateway)
        for kept in (prober, caller):
            kept.send(request(gateway, "GET", "/ready"))
            assert kept.read_response().status == 200
        stream = clients.stream(gateway, "gated")
        gateway.terminate()
        wait_until(lambda: refuses(gateway), "new connections to be refused")
        prober.send(request(gateway, "GET", "/ready"))
        unready = prober.read_response()
        assert (unready.status, unready.headers.first("connection")) == (503, "close")
        assert "draining" in unready.json["reason"]
        assert prober.read_to_eof() == b""
        caller.send(chat(gateway, "plain"))
        gate.set()
        answer = caller.read_response()
        assert (answer.status, answer.headers.first("connection")) == (200, "close")
        assert list(stream)[-1] == DONE
        assert gateway.wait() == 0


def test_a_slow_reader_gets_all_of_an_answer(upstream: ScriptedUpstream) -> None:
    text = "x" * 2_000_000
    upstream.on("long", json_reply(completion(text)))
    with started(upstream) as gateway, connect(gateway, receive_buffer_bytes=4096) as client:
        client.send(chat(gateway, "long"))
        head = client.read_head()
        gateway.terminate()
        time.sleep(UNHURRIED_S)
        body = b"".join(client.iter_body(head))
        assert json.loads(body)["choices"][0]["message"]["content"] == text
        assert gateway.wait() == 0


def test_idle_connections_do_not_hold_up_the_end(upstream: ScriptedUpstream, clients: Clients) -> None:
    with started(upstream) as gateway:
        kept, fresh, amid_head = (clients.open(gateway) for _ in range(3))
        kept.send(request(gateway, "GET", "/health"))
        assert kept.read_response().headers.first("connection") != "close"
        amid_head.send(request(gateway, "GET", "/health")[:20])
        begun = time.monotonic()
        gateway.terminate()
        assert gateway.wait() == 0
        assert time.monotonic() - begun < SOON_S
        assert all(client.wait_closed() for client in (kept, fresh, amid_head))


# Beyond the drain time


@dataclass
class Cut:
    """What became of requests that were still open at the end of the drain time."""

    exit_code: int
    seconds: float
    stream: list[str]
    whole: Response
    silent: Response
    records: list[Record]
    closed: list[bool]
    log: str


def cut_short(gateway: Gateway, upstream: ScriptedUpstream, end: Callable[[], None]) -> Cut:
    """Open requests that would never end, end the gateway, and return what became of them."""
    with Clients() as clients:
        count = len(upstream.requests)
        stream = clients.stream(gateway, "hanging")
        whole = clients.send(gateway, "silent")
        silent = clients.send(gateway, "silent", stream=True)
        upstream.wait_for(count + 3)
        begun = time.monotonic()
        end()
        events, whole_answer, silent_answer = list(stream), whole.read_response(), silent.read_response()
        exit_code = gateway.wait()
        seconds = time.monotonic() - begun
        closed = [seen.closed.wait(5) for seen in upstream.requests[count:]]
        return Cut(exit_code, seconds, events, whole_answer, silent_answer, gateway.call_records(), closed, gateway.log)


def interrupt(gateway: Gateway) -> None:
    """What a terminal does at Ctrl-C."""
    os.killpg(gateway.pid, signal.SIGINT)


def interrupt_a_drain(gateway: Gateway) -> None:
    """What somebody does who has no patience."""
    gateway.terminate()
    wait_until(lambda: refuses(gateway), "new connections to be refused")
    interrupt(gateway)


@pytest.fixture(
    scope="module",
    params=[("3", Gateway.terminate), ("1", Gateway.terminate), ("600", interrupt), ("600", interrupt_a_drain)],
    ids=["drain over", "short drain over", "interrupted", "drain interrupted"],
)
def cut(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Cut]:
    drain_s, end = request.param
    with started(upstream, DRAIN_SECONDS=drain_s) as gateway:
        yield cut_short(gateway, upstream, lambda: end(gateway))


def test_it_ends_soon(cut: Cut) -> None:
    assert cut.exit_code == 0
    assert cut.seconds < SOON_S


def test_a_stream_ends_with_an_error_event(cut: Cut) -> None:
    assert error_of(cut.stream[-1]) == "server_shutdown"
    assert DONE not in cut.stream


def test_an_answer_that_has_not_begun_becomes_503(cut: Cut) -> None:
    for answer in (cut.whole, cut.silent):
        assert (answer.status, answer.json["error"]["code"]) == (503, "server_shutdown")
        assert answer.headers.first("retry-after") is not None
        assert answer.headers.first("x-request-id") is not None
        assert answer.headers.first("connection") == "close"


def test_the_log_has_one_line_of_ours_about_it(cut: Cut) -> None:
    levels = ('"level":"warning"', '"level":"error"', "[WARNING]", "[ERROR]", "Traceback")
    since_start = cut.log.partition('"event":"start"')[2].splitlines()
    (line,) = [line for line in since_start if any(level in line for level in levels)]

    assert "3 open request(s) were cut" in json.loads(line)["message"]


def test_its_upstream_calls_are_closed(cut: Cut) -> None:
    assert cut.closed == [True, True, True]


def test_its_records_tell(cut: Cut) -> None:
    ends = sorted((record["status"], record["error"], record["stream"]) for record in cut.records)
    assert ends == [(200, "server_shutdown", True), (503, "server_shutdown", False), (503, "server_shutdown", True)]


def test_a_client_that_does_not_read_cannot_take_the_cut_for_the_end(upstream: ScriptedUpstream) -> None:
    upstream.on("flood", sse(Flood(10**9, chunk(event(WHOLE[1]) * 100))))
    with started(upstream, DRAIN_SECONDS="1") as gateway, connect(gateway, receive_buffer_bytes=4096) as client:
        client.send(chat(gateway, "flood", stream=True))
        head = client.read_head()
        gateway.terminate()
        assert gateway.wait() == 0
        with contextlib.suppress(EOFError, ConnectionError):
            last = list(client.iter_events(head))[-1]
            assert error_of(last) == "server_shutdown"


# Loss


def test_a_lost_worker_is_replaced(upstream: ScriptedUpstream, clients: Clients) -> None:
    with started(upstream) as gateway:
        (old,) = gateway.worker_pids()
        stream = clients.stream(gateway, "hanging")
        os.kill(old, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionError)):
            list(stream)
        wait_until(lambda: gateway.worker_pids() not in ([], [old]), "another worker")
        assert ask(gateway, chat(gateway, "plain")).status == 200
