"""Clients that leave, and clients that try again (C of the fault matrix), where several deployments are behind it.

C02 to C04 with one deployment are in ``tests/serving/test_client_gone.py``.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.support import Hang, Script, WaitFor, error, post_chat, sse, text_chunks

from .bed import FEW, FaultBed, running_faults


def test_c01_a_client_that_leaves_while_it_waits_for_a_retry(faults: FaultBed, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(503, headers={"retry-after-ms": "1500"}))
    before = len(faults.a.requests)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with faults.connect() as client:
        client.send(post_chat(faults.gateway.host, faults.gateway.port, body))
        faults.a.wait_for(before + 1)

    (record,) = _records(faults, model)

    assert (record["status"], record["attempts"]) == (499, 1)
    assert faults.asked(model) == {"a": 1}, "nobody is asked for a client that has left"


def _records(faults: FaultBed, model: str) -> list[dict[str, object]]:
    """The log lines of a model, once there is one."""
    faults.gateway.wait_for_log(f'"model":"{model}"')
    return [record for record in faults.gateway.call_records() if record["model"] == model]


def test_c02_a_client_that_leaves_ends_both_questions_of_a_hedge(faults: FaultBed, stream: bool) -> None:
    model = faults.model("hedge")
    faults.a.on(model, [Hang()])
    faults.b.on(model, [Hang()])
    before = len(faults.b.requests)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with faults.connect() as client:
        client.send(post_chat(faults.gateway.host, faults.gateway.port, body))
        second = faults.b.wait_for(before + 1)

    assert second.closes_within(1)
    assert faults.last(model).closes_within(1)


@pytest.mark.parametrize("kind", ["resume", "hold"])
def test_c03_a_client_that_leaves_amid_a_silent_stream(faults: FaultBed, kind: str) -> None:
    model, gate = faults.model(kind), threading.Event()
    faults.a.on(model, sse(*text_chunks("a ", "b ", "c ", finish=None), WaitFor(gate), done=False))
    with faults.begin(model) as begun:
        begun.next()

    assert faults.last(model).closes_within(1)
    (record,) = _records(faults, model)
    assert (record["status"], record["error"]) == (499, "cancelled")


def test_c04_a_client_that_leaves_after_the_last_token_is_settled_in_full(faults: FaultBed) -> None:
    model = faults.model("resume")

    record = faults.record_of(faults.ask(model, stream=True))

    assert (record["status"], record["completion_tokens"]) == (200, 2)


@pytest.mark.parametrize("script", [error(500), error(503), error(429)], ids=["500", "503", "429"])
def test_c16_clients_that_retry_do_not_multiply_with_ours(script: Script) -> None:
    with running_faults(FEW) as bed:
        model, clients = bed.model("three", silent=True), 30
        for upstream in bed.upstreams.values():
            upstream.on(model, script)
        with bed.sdk(max_retries=2) as client, ThreadPoolExecutor(10) as crowd:

            def ask(_: int) -> int:
                with pytest.raises(openai.APIStatusError) as caught:
                    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
                return caught.value.status_code

            statuses = set(crowd.map(ask, range(clients)))

        assert len(statuses) == 1
        calls = len(bed.gateway.call_records(3 * clients))
        asked = sum(len(upstream.requests) for upstream in bed.upstreams.values())
        assert calls == 3 * clients
        assert asked <= calls * 1.2
