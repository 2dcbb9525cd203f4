"""What a request held is free when it has ended, also when it failed.

An error holds the frames that it came through, and those hold what was sent and read: tens of megabytes, maybe. Where
one of them leads back to the error, all of it stays until Python's collector comes by, and in a gateway that has
nothing to do it does not.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.bed import KEY, Bed, adapter, user, yaml
from tests.serving.clients import wait_until
from tests.support import (
    Action,
    Close,
    Gateway,
    Hang,
    Reset,
    Script,
    ScriptedUpstream,
    WaitFor,
    build_request,
    error,
    error_body,
    event,
    post_chat,
    reply,
    sse,
    text_chunks,
)
from tests.support.actions import Flood, Send

TIMEOUTS = {"first_event_s": 0.3, "total_s": 0.3, "idle_s": 0.3}
#: By kind of group, its settings.
KINDS: dict[str, dict[str, Any]] = {
    "only": {"targets": ["a"]},
    "both": {"targets": ["a", "b"]},
    "hedge": {"targets": ["a", "b"], "hedge": {"after": 0.1, "budget": 1.0}},
    "resume": {"targets": ["a", "b"], "on_stream_failure": "resume"},
    "alone": {"targets": ["a"], "on_stream_failure": "resume"},
}
COUNT = 100
#: More than the greenlets that are kept.
CROWD = 100
LARGE = user("x" * 2_000_000)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """A gateway that collects nothing, over two upstreams."""
    with ScriptedUpstream() as a, ScriptedUpstream() as b:
        models = [f"{kind}-{number}" for kind in KINDS for number in range(COUNT)]
        groups = {
            model: settings | {"strategy": "ordered", "targets": [f"{name}/{model}" for name in settings["targets"]]}
            for kind, settings in KINDS.items()
            for model in models
            if model.startswith(kind)
        }
        config = yaml(
            adapters={name: adapter(each, models, timeouts=TIMEOUTS) for name, each in {"a": a, "b": b}.items()},
            model_groups=groups,
            rate_limit={"enabled": False},
        )
        app = "tests.serving.apps.uncollected:app"
        with Gateway(config_yaml=config, wsgi_app=app, pythonpath=[Path(__file__).parents[2]]) as gateway:
            yield Bed(gateway, {"a": a, "b": b})


_numbers = {kind: itertools.count() for kind in KINDS}


def group(kind: str) -> str:
    """A group that no other test has used."""
    return f"{kind}-{next(_numbers[kind])}"


def left(bed: Bed) -> list[str]:
    """What only the collector would free."""
    found: list[str] = bed.get("/left", key=None).json["left"]
    return found


def held(bed: Bed) -> int:
    """How many requests the gateway has in memory, with the one that asks."""
    found: int = bed.get("/left", key=None).json["requests"]
    return found


def send(bed: Bed, path: str, body: dict[str, Any]) -> int | None:
    """The status of an answer at any door; None for one that breaks."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    data = json.dumps(body).encode()
    try:
        return bed.send(
            build_request("POST", path, bed.gateway.host, bed.gateway.port, headers=headers, body=data)
        ).status
    except EOFError:
        return None


DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": LARGE}),
    "chat, streamed": ("/v1/chat/completions", {"messages": LARGE, "stream": True}),
    "chat, n=2": ("/v1/chat/completions", {"messages": LARGE, "n": 2}),
    "messages": ("/v1/messages", {"messages": LARGE, "max_tokens": 5}),
    "messages, streamed": ("/v1/messages", {"messages": LARGE, "max_tokens": 5, "stream": True}),
    "responses": ("/v1/responses", {"input": LARGE}),
    "responses, streamed": ("/v1/responses", {"input": LARGE, "stream": True}),
    "completions": ("/v1/completions", {"prompt": "Hi"}),
    "embeddings": ("/v1/embeddings", {"input": "Hi"}),
    "images": ("/v1/images/generations", {"prompt": "Hi"}),
    "rerank": ("/v1/rerank", {"query": "Hi", "documents": ["a"]}),
}
FAULTS: dict[str, Script] = {
    "hang": [Hang()],
    "500": error(500, "failed"),
    "429": error(429, "slow down"),
    "400": error(400, "bad"),
    "reset": [Reset()],
    "close": [Close()],
    "much": [
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n\r\n"),
        Flood(8_000_000),
        Hang(),
    ],
    "no JSON": reply(b"<html>", headers={"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_left_of_a_request_that_fails(bed: Bed, door: str, fault: str) -> None:
    (path, body), model = DOORS[door], group("only")
    bed.a.on(model, FAULTS[fault])

    assert send(bed, path, {"model": model, **body}) != 200
    assert left(bed) == []


@pytest.mark.parametrize("kind", ["both", "hedge"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left_of_attempts_before_the_one_that_answers(bed: Bed, kind: str, stream: bool, fault: str) -> None:
    model = group(kind)
    bed.a.on(model, FAULTS[fault])

    status = send(bed, "/v1/chat/completions", {"model": model, "messages": LARGE, "stream": stream})

    assert status == (400 if fault == "400" else 200)
    assert left(bed) == []


BREAKS: dict[str, list[bytes | Action]] = {
    "end": [Close()],
    "reset": [Reset()],
    "silence": [Hang()],
    "no JSON": [b"data: junk\n\n"],
    "error": [event(error_body("busy", "overloaded_error"))],
    "too large": [b"data: " + b"x" * (9 * 1024 * 1024)],
}


@pytest.mark.parametrize("kind", ["only", "resume", "alone"])
@pytest.mark.parametrize("ending", BREAKS)
def test_nothing_is_left_of_a_stream_that_breaks(bed: Bed, kind: str, ending: str) -> None:
    model, gate = group(kind), threading.Event()
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), WaitFor(gate), *BREAKS[ending], done=False))
    bed.b.on(model, sse(*text_chunks("Hel", "lo")))

    with bed.begin(model, messages=LARGE) as begun:
        first = begun.next()
        gate.set()
        answer = begun.answer([first, *begun.rest()])

    assert (answer.stream_error is None) == (kind == "resume")
    assert left(bed) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_nothing_is_left_when_the_client_leaves(bed: Bed, stream: bool) -> None:
    model = group("only")
    bed.a.on(model, [Hang()])
    body = {"model": model, "messages": LARGE, "stream": stream}
    asked = len(bed.a.requests)

    with bed.connect() as client:
        client.send(post_chat(bed.gateway.host, bed.gateway.port, body))
        bed.a.wait_for(asked + 1)
    assert bed.last(model).ended.wait(10)

    assert left(bed) == []


REFUSED: dict[str, bytes | dict[str, Any]] = {
    "cut": b'{"model": "only-0", "messages": "' + b"x" * 2_000_000,
    "no JSON": b'{"model": [' + b"{}," * 100_000 + b"x",
    "short": b"{",
    "unknown model": {"model": "nobody", "messages": LARGE},
    "wrong": {"model": "only-0", "messages": [*LARGE, 7]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_left_of_a_request_that_is_refused(bed: Bed, name: str) -> None:
    assert bed.post(REFUSED[name]).status in (400, 404)
    assert left(bed) == []


def test_nothing_is_left_of_a_crowd(bed: Bed) -> None:
    head, _, body = post_chat(bed.gateway.host, bed.gateway.port, {"model": "only-0"}).partition(b"\r\n\r\n")

    with ExitStack() as crowd:
        for _ in range(CROWD):
            crowd.enter_context(bed.connect()).send(head + b"\r\n\r\n" + body[:5])
        wait_until(lambda: held(bed) > CROWD, "all of the crowd to be there")

    wait_until(lambda: held(bed) == 1, "the requests of the crowd to be free")
    assert left(bed) == []


def test_nothing_is_left_of_requests_that_were_not_started_when_the_client_left(bed: Bed) -> None:
    model = group("only")
    bed.a.on(model, [Hang()])
    request = post_chat(bed.gateway.host, bed.gateway.port, {"model": model, "messages": user()})
    asked = len(bed.a.requests)

    with bed.connect() as client:
        client.send(request * 3)
        bed.a.wait_for(asked + 1)
    assert bed.last(model).ended.wait(10)

    assert left(bed) == []
    assert held(bed) == 1
