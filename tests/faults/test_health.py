"""Which faults move a deployment's health, and which must not, told by who is asked next."""

import json
import threading
from typing import Any

import pytest

from tests.api.bed import KEY, Body
from tests.api.test_errors import AUTHENTICATION, FAULTS, Fault, script_of
from tests.api.test_stream_errors import USAGES
from tests.support import (
    Chop,
    Hang,
    Script,
    build_request,
    completion,
    error,
    error_body,
    event,
    joined,
    json_reply,
    post_chat,
    sse,
    text_chunks,
)

from .bed import FaultBed
from .test_after_content import BROKEN, breaking, read
from .test_before_content import said

#: Codes of faults after which a deployment cools down at once, without blame.
COOL_AT_ONCE = {"rate_limit_exceeded", "upstream_quota_exhausted", AUTHENTICATION}


def failures_before_cooldown(fault: Fault) -> int:
    """How often a deployment is met with the fault before it is left alone."""
    return 1 if fault.code in COOL_AT_ONCE or fault.retry_after or fault.id == "U16 404" else 3


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_a_fault_before_content_is_blamed_rests_or_says_nothing(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, script_of(fault, stream))

    attempts = [faults.record_of(faults.ask(model, stream=stream))["attempts"] for _ in range(4)]

    if fault.another:
        assert attempts.count(2) == failures_before_cooldown(fault)
    else:
        assert faults.asked(model) == {"a": 4}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"}),
     ("/v1/audio/speech", {"input": "x", "voice": "v"})],
    ids=["embeddings", "completions", "speech"],
)  # fmt: skip
@pytest.mark.parametrize("status", [403, 404, 405])
def test_who_does_not_serve_one_kind_of_request_still_serves_the_others(
    faults: FaultBed, path: str, body: Body, status: int
) -> None:
    model = faults.model("three")
    faults.a.on(model, error(status, {"detail": "Not Found"}), json_reply(completion("still here")))
    given = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    raw = json.dumps({"model": model, **body}).encode()
    request = build_request("POST", path, faults.gateway.host, faults.gateway.port, headers=given, body=raw)

    faults.send(request)
    chat = faults.ask(model)
    faults.send(request)

    assert said(chat, stream=False) == "still here"
    assert faults.asked(model)["a"] == 2


@pytest.mark.parametrize("kind", ["refused", "unknown"])
def test_u01_u04_who_cannot_be_reached_three_times_is_left_alone(faults: FaultBed, kind: str, stream: bool) -> None:
    model = faults.model(kind)

    answers = [faults.ask(model, stream=stream) for _ in range(4)]

    assert [said(answer, stream) for answer in answers] == ["Hello"] * 4
    assert [faults.record_of(answer)["attempts"] for answer in answers] == [2, 2, 2, 1]


def test_u07_who_is_silent_three_times_is_left_alone(faults: FaultBed, stream: bool) -> None:
    model = faults.model("twins", silent=True)
    faults.a.on(model, [Hang()])

    assert [said(faults.ask(model, stream=stream), stream) for _ in range(4)] == ["Hello"] * 4
    assert faults.asked(model) == {"a": 3, "b": 4}


@BROKEN
def test_m01_m03_m06_m08_who_breaks_its_streams_is_left_alone(faults: FaultBed, ending: list[Any], code: str) -> None:
    model, times = faults.model("twins", silent=code == "upstream_timeout"), 1 if code in COOL_AT_ONCE else 3
    for _ in range(times):
        gate = threading.Event()
        faults.a.on(model, breaking(gate, ending))
        assert (read(faults, model, gate).stream_error or {})["code"] == code

    assert said(faults.ask(model, stream=True), stream=True) == "Hello"
    assert faults.asked(model) == {"a": times, "b": 1}


def test_m06_a_refusal_within_a_stream_is_not_blamed(faults: FaultBed) -> None:
    model, refusal = faults.model("twins"), event(error_body("no", "invalid_request_error", "content_filter"))
    for _ in range(4):
        gate = threading.Event()
        faults.a.on(model, breaking(gate, [refusal]))
        assert (read(faults, model, gate).stream_error or {})["code"] == "content_filter"

    assert faults.asked(model) == {"a": 4}


LEGAL: dict[str, tuple[Script, str]] = {
    "M05 nothing": (sse(*text_chunks("a", "b")[:2], b"data: {}\n\n", *text_chunks("a", "b")[2:]), "ab"),
    "M07 bytes": ([Chop(joined(sse(*text_chunks("ä"))), 1)], "ä"),
    "M08 8 MiB": (sse(*text_chunks("x" * (8 * 1024 * 1024 - 1000))), "x" * (8 * 1024 * 1024 - 1000)),
    "M10 no done": (sse(*text_chunks("a"), done=False), "a"),
    "M10 more": (sse(*text_chunks("a"), b"data: [DONE]\n\n", *text_chunks("never")), "a"),
}


@pytest.mark.parametrize(("script", "text"), list(LEGAL.values()), ids=list(LEGAL))
def test_m05_m07_m08_m10_what_can_be_read_is_not_blamed(faults: FaultBed, script: Script, text: str) -> None:
    model = faults.model("twins")
    faults.a.on(model, script)

    assert [said(faults.ask(model, stream=True), stream=True) == text for _ in range(4)] == [True] * 4
    assert faults.asked(model) == {"a": 4}


@pytest.mark.parametrize("said_usage", [usage for reports, *_ in USAGES for usage in reports[:1]], ids=str)
def test_m09_odd_usage_is_not_blamed(faults: FaultBed, said_usage: Any, stream: bool) -> None:
    model, chunks = faults.model("twins"), text_chunks("Hi")
    report = {**chunks[0], "choices": [], "usage": said_usage}
    whole = json_reply(completion("Hi") | {"usage": said_usage})
    faults.a.on(model, sse(*chunks, report) if stream else whole)

    assert [said(faults.ask(model, stream=stream), stream) for _ in range(4)] == ["Hi"] * 4
    assert faults.asked(model) == {"a": 4}


@pytest.mark.parametrize("begun", [False, True], ids=["C02 before", "C03 amid"])
def test_clients_that_leave_are_not_blamed_on_anybody(faults: FaultBed, begun: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, sse(*text_chunks("a", finish=None), Hang()) if begun else sse(Hang()))
    request = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    for _ in range(4):
        before = len(faults.a.requests)
        with faults.connect() as client:
            client.send(post_chat(faults.gateway.host, faults.gateway.port, request))
            seen = faults.a.wait_for(before + 1)
            if begun:
                next(client.iter_events(client.read_head()))
        assert seen.closes_within(1)

    assert faults.asked(model) == {"a": 4}
