"""A client that reads slowly, or not at all, holds its upstream up; what waits for it is not kept in our memory."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.support import Action, Flood, Gateway, RawClient, ScriptedUpstream, Send, chunk, event, sse, text_chunks

from .clients import chat, connect, get, resident_bytes, running, wait_until

STREAM_BYTES = 100_000_000
#: How many streams pay for what all share, and how many are weighed after them.
FIRST, WEIGHED = 20, 60
#: What one stream may cost the worker's memory.
MOST_BYTES = 256 * 1024
#: What the kernel may hold of one stream between the upstream and the worker.
KERNEL_BYTES = 8_000_000
#: How often in a row, one look each 10 ms, the upstream must not have sent more to count as paused.
STILL = 20

TINY = text_chunks("y", finish=None)[1]
TEXT = "x" * 10_000
NUMBERS = range(STREAM_BYTES // len(TEXT))


def large() -> list[Action]:
    """A stream whose events carry a number and a long text each."""
    opening, finish = text_chunks("")[0], text_chunks("")[-1]
    body = Send(b"".join(chunk(event(text_chunks(f"{number} {TEXT}", finish=None)[1])) for number in NUMBERS))
    return [*sse(opening, done=False)[:-1], body, *sse(finish)[1:]]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["tiny", "large"], send_buffer_bytes=65536) as started:
        started.on("tiny", sse(Flood(STREAM_BYTES, chunk(event(TINY) * 100))))
        started.on("large", large())
        yield started


@pytest.fixture(scope="module", params=["one_api", "gthread"])
def gateway(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    env = {"OPENAI_BASE_URL": upstream.base_url, "RATE_LIMIT_ENABLED": "false"}
    with running(Gateway(worker=request.param, env=env)) as started:
        yield started


def open_stream(gateway: Gateway, model: str) -> RawClient:
    """A stream whose beginning was read, and nothing after."""
    client = connect(gateway, receive_buffer_bytes=4096)
    client.send(chat(gateway, model, stream=True))
    client.read(1000)
    return client


def wait_until_paused(upstream: ScriptedUpstream, first: int) -> None:
    """Return once the upstream has sent nothing more, for a while, to the requests from the given one on."""
    sent: list[int] = []

    def paused() -> bool:
        sent.append(sum(seen.sent_bytes for seen in upstream.requests[first:]))
        return len(sent) > STILL and len(set(sent[-STILL:])) == 1

    wait_until(paused, "the upstream to be held up", timeout_s=20)


EACH_MODEL = pytest.mark.parametrize("model", ["tiny", "large"])


@EACH_MODEL
def test_an_upstream_waits_for_a_client_that_does_not_read(
    gateway: Gateway, upstream: ScriptedUpstream, model: str
) -> None:
    count = len(upstream.requests)
    with contextlib.ExitStack() as clients:
        for _ in range(10):
            clients.enter_context(open_stream(gateway, model))
        wait_until_paused(upstream, count)
        assert max(seen.sent_bytes for seen in upstream.requests[count:]) < KERNEL_BYTES
        assert get(gateway, "/health").status == 200
    assert all(seen.closed.wait(5) for seen in upstream.requests[count:])


@EACH_MODEL
@pytest.mark.parametrize("gateway", ["one_api"], indirect=True)
def test_a_client_that_does_not_read_costs_little_memory(
    gateway: Gateway, upstream: ScriptedUpstream, model: str
) -> None:
    """The first streams pay for what all share; each after them costs its own buffers."""
    (pid,) = gateway.worker_pids()
    count = len(upstream.requests)
    with contextlib.ExitStack() as clients:
        resident = []
        for streams in (FIRST, WEIGHED):
            for _ in range(streams):
                clients.enter_context(open_stream(gateway, model))
            wait_until_paused(upstream, count)
            resident.append(resident_bytes(pid))
    assert resident[1] - resident[0] < WEIGHED * MOST_BYTES


def test_what_was_held_up_arrives_whole(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    count = len(upstream.requests)
    with connect(gateway) as client:
        client.send(chat(gateway, "large", stream=True))
        events = client.iter_events(client.read_head())
        assert json.loads(next(events).removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
        wait_until_paused(upstream, count)
        for number in NUMBERS:
            delta = json.loads(next(events).removeprefix("data: "))["choices"][0]["delta"]
            assert delta == {"content": f"{number} {TEXT}"}
        assert json.loads(next(events).removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"
        assert list(events) == ["data: [DONE]"]
    assert upstream.requests[count].sent_bytes > STREAM_BYTES
