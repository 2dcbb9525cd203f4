"""A client that leaves: its upstream call is closed at once, also when the upstream is silent, and logged as 499."""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support import (
    Flood,
    Gateway,
    Hang,
    RawClient,
    ScriptedUpstream,
    WaitFor,
    chunk,
    error,
    event,
    sse,
    text_chunks,
)
from tests.support.gateway import Record

from .clients import chat, connect, get, running, wait_until

#: How long an upstream may go on working for nobody, in seconds.
LATEST_S = 1.0
#: How long a stream is silent before its status line is sent, in seconds.
COMMIT_S = 0.3

#: Two adapters lead to the same server, so that a failed attempt has another to go to. Each test has its own model.
CONFIG = """
adapters:
  one: {{type: openai, base_url: "{url}", models: [{models}]}}
  two: {{type: openai, base_url: "{url}", models: [{models}]}}
server: {{port: {port}, commit_s: {commit}}}
rate_limit: {{enabled: false}}
"""
MODELS = [f"m{number}" for number in range(100)]
unused = iter(itertools.cycle(MODELS))

FIRST = text_chunks("Hel", finish=None)
LEAVING = pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        yield started


@pytest.fixture(scope="module", params=["one_api", "gthread"])
def gateway(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    app = Gateway(worker=request.param)
    app.config_yaml = CONFIG.format(url=upstream.base_url, models=", ".join(MODELS), port=app.port, commit=COMMIT_S)
    with running(app) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connect(gateway) as connected:
        yield connected


@pytest.fixture
def model() -> str:
    return next(unused)


def records_of(gateway: Gateway, model: str, count: int = 1) -> list[Record]:
    """The records of the requests for the model, once there are so many."""

    def found() -> list[Record]:
        return [record for record in gateway.call_records() if record["model"] == model]

    wait_until(lambda: len(found()) >= count, f"{count} records of {model}")
    return found()


@LEAVING
@STREAMED
@pytest.mark.parametrize("head", [False, True], ids=["silent", "head only"])
def test_before_the_first_event(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    client: RawClient,
    model: str,
    leave: Callable[[RawClient], None],
    stream: bool,
    head: bool,
) -> None:
    upstream.on(model, sse(Hang()) if head else [Hang()])
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=stream))
    seen = upstream.wait_for(count + 1)
    leave(client)
    assert seen.closes_within(LATEST_S)
    (record,) = records_of(gateway, model)
    assert (record["status"], record["error"], record["stream"]) == (499, "cancelled", stream)
    assert (record["attempts"], record["first_event_ms"]) == (1, None)


@LEAVING
def test_between_the_status_line_and_the_first_event(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str, leave: Callable[[RawClient], None]
) -> None:
    upstream.on(model, [Hang()])
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=True))
    assert next(client.iter_events(client.read_head())) == ": keep-alive"
    leave(client)
    assert upstream.wait_for(count + 1).closes_within(LATEST_S)
    (record,) = records_of(gateway, model)
    assert (record["status"], record["error"], record["attempts"]) == (499, "cancelled", 1)


@LEAVING
def test_amid_a_stream_that_is_silent(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str, leave: Callable[[RawClient], None]
) -> None:
    upstream.on(model, sse(*FIRST, Hang()))
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=True))
    next(client.iter_events(client.read_head()))
    leave(client)
    assert upstream.wait_for(count + 1).closes_within(LATEST_S)
    (record,) = records_of(gateway, model)
    assert (record["status"], record["error"], record["attempts"]) == (499, "cancelled", 1)
    assert isinstance(record["first_event_ms"], float)


@LEAVING
def test_amid_a_stream_that_floods(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str, leave: Callable[[RawClient], None]
) -> None:
    upstream.on(model, sse(Flood(10**12, chunk(event(FIRST[-1]) * 100))))
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=True))
    next(client.iter_events(client.read_head()))
    leave(client)
    assert upstream.wait_for(count + 1).closes_within(LATEST_S)
    assert [record["status"] for record in records_of(gateway, model)] == [499]


@STREAMED
def test_during_a_second_attempt(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str, stream: bool
) -> None:
    upstream.on(model, error(500), [Hang()])
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=stream))
    seen = upstream.wait_for(count + 2)
    client.close()
    assert seen.closes_within(LATEST_S)
    (record,) = records_of(gateway, model)
    assert (record["status"], record["error"], record["attempts"]) == (499, "cancelled", 2)
    assert len(upstream.requests) == count + 2


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "amid the stream"])
def test_with_another_request_already_sent(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str, begun: bool
) -> None:
    upstream.on(model, sse(*FIRST, Hang()) if begun else [Hang()])
    count = len(upstream.requests)
    client.send(chat(gateway, model, stream=True) * 2)
    seen = upstream.wait_for(count + 1)
    if begun:
        next(client.iter_events(client.read_head()))
    client.close()
    assert seen.closes_within(LATEST_S)
    assert records_of(gateway, model)[0]["status"] == 499


def test_after_the_end_nothing_is_cancelled(
    gateway: Gateway, upstream: ScriptedUpstream, client: RawClient, model: str
) -> None:
    upstream.on(model, sse(*text_chunks("Hello")))
    client.send(chat(gateway, model, stream=True))
    assert list(client.iter_events(client.read_head()))[-1] == "data: [DONE]"
    client.close()
    (record,) = records_of(gateway, model)
    assert (record["status"], record["error"]) == (200, None)


def test_many_at_once(gateway: Gateway, upstream: ScriptedUpstream, model: str) -> None:
    upstream.on(model, sse(*FIRST, Hang()))
    count = len(upstream.requests)
    clients = [connect(gateway) for _ in range(30)]
    for client in clients:
        client.send(chat(gateway, model, stream=True))
    for client in clients:
        next(client.iter_events(client.read_head()))
    for client in clients:
        client.close()
    for seen in upstream.requests[count:]:
        assert seen.closes_within(LATEST_S)
    assert [record["status"] for record in records_of(gateway, model, len(clients))] == [499] * len(clients)
    assert get(gateway, "/health").status == 200


def test_just_as_the_first_event_comes(gateway: Gateway, upstream: ScriptedUpstream, model: str) -> None:
    """Whichever is noticed first, nothing stays open."""
    gates = [threading.Event() for _ in range(30)]
    upstream.on(model, *(sse(WaitFor(gate), *FIRST, Hang()) for gate in gates))
    count = len(upstream.requests)
    clients = [connect(gateway) for _ in gates]
    for client in clients:
        client.send(chat(gateway, model, stream=True))
    upstream.wait_for(count + len(gates))
    for client, gate in zip(clients, gates, strict=True):
        gate.set()
        client.close()
    for seen in upstream.requests[count:]:
        assert seen.closes_within(LATEST_S)
    assert [record["status"] for record in records_of(gateway, model, len(gates))] == [499] * len(gates)
