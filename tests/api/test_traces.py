"""Traces of a real gateway, at a real collector: which are kept, what is in them, and what a dead collector costs."""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pytest

from tests.serving.clients import wait_until
from tests.support import Gateway, WaitFor, completion, error, json_reply, sse, text_chunks, tokens
from tests.support.collector import Collector, Exported, collecting, odd_collector, silent_collector
from tests.support.running_time import RunningTime

from .bed import Answer, Bed, running_bed, yaml

SERVER, CLIENT = 2, 3
PROMPT = "canary7261"


@dataclass(frozen=True)
class TraceBed:
    """A gateway that keeps traces only where it must, and its collector."""

    bed: Bed
    collector: Collector

    def trace(self, answer: Answer) -> tuple[Exported, list[Exported]]:
        """The span of a request and those of its attempts."""
        return self.collector.of_request(answer.header("x-request-id") or "")

    def wait_for_attempts(self, request_id: str, number: int) -> tuple[Exported, list[Exported]]:
        """The same, once there are so many attempts: some end later than their request."""
        self.collector.of_request(request_id)
        wait_until(lambda: len(self.collector.of_request(request_id)[1]) >= number, "the attempts")
        return self.collector.of_request(request_id)


@pytest.fixture(scope="module")
def traced() -> Iterator[TraceBed]:
    with collecting() as collector:
        telemetry = {"endpoint": collector.url, "ratio": 0.0}
        with running_bed({"commit_s": 0.1}, telemetry=telemetry, cache={"enabled": True}) as bed:
            yield TraceBed(bed, collector)


def new_ids() -> tuple[str, str]:
    """A trace and a span of a caller's."""
    return secrets.token_hex(16), secrets.token_hex(8)


def told(bed: Bed, upstream: str, model: str) -> str | None:
    """The header by which an upstream was told of a trace, at the last request for a model."""
    found = [seen for seen in bed.upstreams[upstream].requests if seen.model == model]
    return found[-1].headers.first("traceparent")


def test_a_failover_is_one_trace_with_a_span_for_each_attempt(traced: TraceBed) -> None:
    bed, model, (trace, parent) = traced.bed, traced.bed.model("pair"), new_ids()
    bed.a.on(model, error(500, headers={"x-request-id": "one"}))
    bed.b.on(model, json_reply(completion("a", usage=tokens(9, 2))))
    header = {"traceparent": f"00-{trace}-{parent}-01", "tracestate": "vendor=1", "baggage": f"secret={PROMPT}"}

    began = time.time()
    answer = bed.ask(
        model, headers=header, temperature=0.5, max_tokens=7, messages=[{"role": "user", "content": PROMPT}]
    )
    server, (first, second) = traced.trace(answer)

    assert (server.trace_id, server.parent_id, server.kind) == (trace, parent, SERVER)
    assert server.name == "POST /v1/chat/completions"
    assert server.attributes == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "one_api.request_id": answer.header("x-request-id"), "one_api.model": model, "one_api.outcome": "ok",
        "one_api.deployment": f"b/{model}", "one_api.attempts": 2, "one_api.cache": "miss",
    }  # fmt: skip
    assert [(span.kind, span.trace_id, span.name) for span in (first, second)] == [(CLIENT, trace, f"chat {model}")] * 2
    assert first.attributes["error.type"] == "upstream_failed"
    assert first.attributes["http.response.status_code"] == 500
    assert not [name for name in first.attributes if "usage" in name]
    assert second.attributes | {"gen_ai.response.id": "", "server.port": 0} == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": model,
        "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 7, "gen_ai.response.id": "",
        "gen_ai.response.model": "scripted", "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 2, "http.response.status_code": 200, "server.address": "127.0.0.1",
        "server.port": 0, "one_api.deployment": f"b/{model}", "one_api.outcome": "ok",
    }  # fmt: skip
    assert second.attributes["server.port"] == bed.b.port
    assert told(bed, "a", model) == f"00-{trace}-{first.span_id}-01"
    assert told(bed, "b", model) == f"00-{trace}-{second.span_id}-01"
    assert bed.last(model).headers.first("tracestate") == "vendor=1"
    assert bed.last(model).headers.first("baggage") is None
    assert began - 0.01 <= server.started <= first.started <= first.ended <= second.started <= second.ended
    assert second.ended <= server.ended + 0.005 <= time.time() + 0.01
    assert server.resource["service.name"] == "one_api"
    assert PROMPT not in str((server, first, second))
    record = bed.record_of(answer)
    assert (record["trace_id"], record["span_id"]) == (trace, server.span_id)


def test_without_a_key_that_is_known_a_trace_is_not_continued(traced: TraceBed) -> None:
    trace, parent = new_ids()

    answer = traced.bed.ask("m", key="wrong", headers={"traceparent": f"00-{trace}-{parent}-01"})
    server, attempts = traced.trace(answer)

    assert (server.trace_id != trace, server.parent_id, attempts) == (True, "", [])
    assert server.attributes["one_api.outcome"] == "client_auth"


@pytest.mark.parametrize("headers", [
    [("traceparent", "00-{t}-{p}-01"), ("traceparent", "00-{t}-{p}-01")], [("traceparent", "00-{t}-{p}-01-")],
    [("traceparent", "ff-{t}-{p}-01")], [("traceparent", "00-{t}-{p}-01" + "x" * 8192)],
])  # fmt: skip
def test_a_trace_that_is_named_wrongly_is_a_new_one(traced: TraceBed, headers: list[tuple[str, str]]) -> None:
    trace, parent = new_ids()
    given = [(name, value.format(t=trace, p=parent)) for name, value in headers]

    answer = traced.bed.ask("no-such-model", headers=given)
    server, _ = traced.trace(answer)

    assert answer.status == 404
    assert (server.trace_id != trace, server.parent_id) == (True, "")


def test_what_failed_is_kept_and_what_went_well_is_not(traced: TraceBed) -> None:
    bed = traced.bed
    broken, slow, gate = bed.model(), bed.model(), threading.Event()
    bed.a.on(broken, sse(*text_chunks("a", finish=None), done=False))
    good = [bed.ask(bed.model(), stream=stream) for stream in (False, True) * 10]
    failed = [bed.ask("no-such-model"), bed.ask(broken, stream=True)]
    bed.a.on(slow, sse(*text_chunks("a", finish=None), WaitFor(gate), *text_chunks("b", usage=tokens(3, 2))[1:]))
    trace, parent = new_ids()
    headers = {
        "traceparent": f"00-{trace}-{parent}-00"
    }  # the caller does not keep it, and an error is kept all the same

    failed.append(bed.ask("no-such-model", headers=headers))
    for answer in failed:
        traced.trace(answer)

    ids = {span.attributes.get("one_api.request_id") for span in traced.collector.spans}
    assert not ids & {answer.header("x-request-id") for answer in good}
    assert traced.trace(failed[-1])[0].trace_id == trace


def test_a_caller_keeps_so_many_of_its_traces_in_a_second(traced: TraceBed) -> None:
    bed, (trace, parent) = traced.bed, new_ids()
    model = bed.model()
    began = time.monotonic()
    for _ in range(60):
        bed.ask(model, headers={"traceparent": f"00-{trace}-{parent}-01", "Cache-Control": "no-store"})
    seconds = int(time.monotonic() - began) + 2  # as many as they can have touched
    last = bed.ask("no-such-model")  # those before it are sent before it
    traced.trace(last)

    kept = [span for span in traced.collector.spans if span.trace_id == trace and span.kind == SERVER]
    assert 10 <= len(kept) <= min(60, 10 * seconds)


def test_a_stream_and_a_kept_answer(traced: TraceBed) -> None:
    bed, model = traced.bed, traced.bed.model()
    bed.a.on(model, sse(*text_chunks("Hel", "lo", usage=tokens(9, 2))))
    answers = []
    for _ in range(2):
        trace, parent = new_ids()
        time.sleep(1.0)  # another second of the caller's
        answers.append(bed.ask(model, stream=True, headers={"traceparent": f"00-{trace}-{parent}-01"}))
    (asked, (attempt,)), (kept, none) = (traced.trace(answer) for answer in answers)

    assert attempt.attributes["gen_ai.request.stream"] is True
    assert attempt.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 2
    assert 0 < attempt.attributes["gen_ai.response.time_to_first_chunk"] <= attempt.ended - attempt.started
    assert (asked.attributes["one_api.cache"], kept.attributes["one_api.cache"], none) == ("miss", "hit", [])


def test_an_attempt_that_goes_on_for_others_has_its_true_end_and_its_usage(traced: TraceBed) -> None:
    bed, model, gate = traced.bed, traced.bed.model(), threading.Event()
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), WaitFor(gate), *text_chunks("lo", usage=tokens(9, 2))[1:]))
    with bed.begin(model) as leaves:
        leaves.next()
        with bed.begin(model) as stays:
            stays.next()
            leaves.client.close()
            left = bed.gateway.record_of(leaves.head.headers.first("x-request-id") or "")
            gate.set()
            assert stays.rest()[-1] == "data: [DONE]"
    bed.ask("no-such-model")  # when the next request ends, what has ended meanwhile is sent

    server, (attempt,) = traced.wait_for_attempts(str(left["request_id"]), 1)

    assert (left["outcome"], server.attributes["one_api.outcome"]) == ("client_gone", "client_gone")
    assert attempt.attributes["one_api.outcome"] == "ok"
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 2
    assert attempt.ended > server.ended


def test_a_trace_may_be_linked_to_and_not_be_told_to_the_upstream() -> None:
    with collecting() as collector:
        telemetry = {"endpoint": collector.url, "ratio": 1.0, "trust_trace": "link"}
        with running_bed(settings={"propagate_trace": False, "provider": "acme"}, telemetry=telemetry) as bed:
            model, (trace, parent) = bed.model(), new_ids()
            answer = bed.ask(model, headers={"traceparent": f"00-{trace}-{parent}-01"})
            server, (attempt,) = collector.of_request(answer.header("x-request-id") or "")

            assert (server.trace_id != trace, server.parent_id, server.links) == (True, "", [trace])
            assert attempt.attributes["gen_ai.provider.name"] == "acme"
            assert told(bed, "a", model) is None


def test_a_fallback_alone_is_a_failover_too() -> None:
    """No target could be asked, so there was one attempt."""
    group = {"targets": ["a/solo-0"], "fallbacks": ["a/solo-1"]}
    with collecting() as collector:
        telemetry = {"endpoint": collector.url, "ratio": 0.0}
        with running_bed(telemetry=telemetry, model_groups={"team": group}) as bed:
            bed.a.on("solo-0", error(401))
            bed.ask("team")  # its target rests now
            answer = bed.ask("team")

            assert answer.header("x-gateway-attempts") == "1"
            server, (attempt,) = collector.of_request(answer.header("x-request-id") or "")
            assert server.attributes["one_api.outcome"] == "ok"
            assert attempt.attributes["one_api.deployment"] == "a/solo-1"


def test_opentelemetrys_own_variables_count() -> None:
    with collecting() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_SERVICE_NAME": "mine",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.namespace=team",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with running_bed(env=env) as bed:
            answer = bed.ask(bed.model())
            server, _ = collector.of_request(answer.header("x-request-id") or "")

        assert server.attributes["one_api.outcome"] == "ok"
        told = {"service.name": "mine", "deployment.environment.name": "test", "service.namespace": "team"}
        assert told.items() <= server.resource.items()
        assert collector.headers[-1].get("x-tenant") == "a b"
        assert collector.headers[-1].get("content-encoding") == "gzip"


def test_with_the_sdk_disabled_nothing_is_sent() -> None:
    with collecting() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SDK_DISABLED": "true"}
        with running_bed(env=env) as bed:
            record = bed.record_of(bed.ask("no-such-model"))
            bed.gateway.terminate()
            bed.gateway.wait()

        assert "trace_id" not in record
        assert collector.spans == []


@pytest.mark.parametrize("worker", ["one_api", "gthread"])
def test_what_is_left_is_sent_at_the_end(worker: Literal["one_api", "gthread"]) -> None:
    with collecting() as collector:
        telemetry = yaml(telemetry={"endpoint": collector.url, "ratio": 1.0})
        with Gateway(worker=worker, config_yaml=telemetry) as gateway:
            ids = {Bed(gateway, {}).ask("no-such-model").header("x-request-id") for _ in range(5)}
            gateway.terminate()
            gateway.wait()

            assert ids <= {span.attributes.get("one_api.request_id") for span in collector.spans}
            assert "Traceback" not in gateway.log


def test_a_header_for_the_collector_that_is_written_wrongly_is_named_and_not_repeated() -> None:
    """With a colon, as headers are written elsewhere. What is in it is a secret."""
    with collecting() as collector:
        headers = {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization: Bearer {PROMPT}"}
        with Gateway(config_yaml=yaml(telemetry={"endpoint": collector.url, "ratio": 1.0}), env=headers) as gateway:
            answer = Bed(gateway, {}).ask("no-such-model")
            collector.of_request(answer.header("x-request-id") or "")

            gateway.wait_for_log("OTEL_EXPORTER_OTLP_HEADERS")
            assert PROMPT not in gateway.log


def spans_dropped(bed: Bed) -> float:
    """What the metrics say."""
    text = bed.get("/metrics", key=None).body.decode()
    (dropped,) = [line for line in text.splitlines() if line.startswith("one_api_spans_dropped_total")]
    return float(dropped.split()[-1])


def has_dropped(bed: Bed, spans: int) -> bool:
    """Whether so many spans are counted as not sent."""
    return spans_dropped(bed) >= spans


def test_an_answer_of_the_collector_without_end_is_not_read_to_its_end() -> None:
    endless = odd_collector(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536))
    with endless as (url, hung_up), running_bed(telemetry={"endpoint": url, "ratio": 1.0}) as bed:
        bed.ask(bed.model())

        assert hung_up.wait(15)


@pytest.mark.parametrize("status", [301, 307, 400, 413])
def test_spans_that_the_collector_does_not_take_are_counted(status: int) -> None:
    head = f"HTTP/1.1 {status} Odd\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n".encode()
    with odd_collector(head) as (url, _), running_bed(telemetry={"endpoint": url, "ratio": 1.0}) as bed:
        bed.ask(bed.model())
        wait_until(lambda: spans_dropped(bed) >= 2, "the spans to be counted")


def test_what_a_collector_refuses_is_one_line_of_the_log_a_minute() -> None:
    head = b"HTTP/1.1 400 Odd\r\nContent-Length: 0\r\n\r\n"
    with odd_collector(head) as (url, _), running_bed(telemetry={"endpoint": url, "ratio": 1.0}) as bed:
        for sent in (2, 4, 6):
            bed.ask(bed.model())
            wait_until(partial(has_dropped, bed, sent), "the spans to be counted")

        assert bed.gateway.log.count('"logger":"opentelemetry.exporter') == 1


def test_a_collector_that_never_answers_costs_nothing() -> None:
    with silent_collector() as url, running_bed(telemetry={"endpoint": url, "ratio": 1.0}) as bed:
        with bed.connect() as client:
            request = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
            for _ in range(220):
                client.send(request * 10)
                for _ in range(10):
                    assert client.read_response().status == 404
        assert spans_dropped(bed) >= 2200 - 2048
        with RunningTime() as took:
            bed.gateway.terminate()
            bed.gateway.wait()

        assert took.seconds < 5


def test_an_attempt_that_begins_for_others_when_their_leader_has_left_is_counted_and_has_its_span(
    traced: TraceBed,
) -> None:
    bed, model, gate = traced.bed, traced.bed.model("pair"), threading.Event()
    bed.a.on(model, [WaitFor(gate), *error(500)])
    bed.b.on(model, sse(*text_chunks("a")))
    with contextlib.ExitStack() as follower:
        with bed.begin(model) as leader:
            joined = follower.enter_context(bed.begin(model))
        leading = str(leader.head.headers.first("x-request-id"))
        bed.gateway.wait_for_log(leading)
        gate.set()
        whole = joined.answer(joined.rest())

    assert (whole.text, whole.stream_error) == ("a", None)
    _, attempts = traced.wait_for_attempts(leading, 2)
    assert [span.attributes["one_api.outcome"] for span in attempts] == ["UpstreamFailed", "ok"]
    counted = bed.get("/metrics", key=None).body.decode()
    assert f'one_api_attempts_total{{deployment="b/{model}",outcome="ok",worker="0"}} 1\n' in counted
    assert f'one_api_failovers_total{{model="{model}",kind="retry",worker="0"}} 1\n' in counted
