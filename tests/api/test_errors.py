"""Faults of an upstream before its first event: what the client sees, alone and with another deployment at hand.

The ids are those of the fault matrix: U for what happens before content.
"""

import email.utils
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import Action, Close, Reset, Script, Send, chunked, completion, error, json_reply, reply, sse

from .bed import Answer, Bed, Body, user

JSON = {"Content-Type": "application/json"}
AUTHENTICATION, INVALID = "upstream_authentication_error", "upstream_invalid_response"
TRUNCATED = "upstream_stream_truncated"
QUOTA = {"error": {"message": "pay", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}}
TOO_LONG = {
    "error": {
        "message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
    }
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What an upstream does, and the answer that a client gets when nobody else is there to ask."""

    id: str
    script: Script
    status: int
    code: str | None
    #: May another deployment be asked?
    another: bool = True
    retry_after: str | None = None
    should_retry: str | None = None
    #: What the upstream does instead when the request asks for a stream, and the code of that.
    streamed: Script = field(default=())
    streamed_code: str | None = None


def raw(body: bytes) -> list[Action]:
    """A body that claims to be JSON."""
    return reply(body, headers=JSON)


def refusal(id_: str, script: Script, status: int, code: str | None) -> Fault:
    """A fault that is the caller's own: nobody else is asked."""
    return Fault(id_, script, status, code, another=False)


def odd_payload(id_: str, payload: bytes) -> Fault:
    """A whole answer, or the first event of a stream, that is no answer."""
    streamed = sse(b"data: " + payload + b"\n\n")
    return Fault(f"U23 {id_}", raw(payload), 502, INVALID, streamed=streamed)


def reported(id_: str, payload: Body, status: int, code: str | None, **more: Any) -> Fault:
    """An error report with status 200, or as the first event of a stream."""
    return Fault(f"U24 U25 {id_}", json_reply(payload), status, code, streamed=sse(payload, done=False), **more)


def waits(id_: str, value: str | list[str], retry_after: str | None) -> Fault:
    """A rate limit with an odd Retry-After."""
    values = value if isinstance(value, list) else [value]
    script = error(429, headers=[("retry-after", each) for each in values])
    return Fault(f"U13 {id_}", script, 429, "rate_limit_exceeded", retry_after=retry_after)


FAULTS = [
    Fault("U05 reset", [Reset()], 502, "upstream_error"),
    Fault("U05 hang up", [Close()], 502, "upstream_error"),
    Fault("U05 hang up in the head", [Send(b"HTTP/1.1 200 OK\r\nConte"), Close()], 502, "upstream_error"),
    Fault("U09 json", error(500), 502, "upstream_error"),
    Fault("U09 html", error(500, "<html>scripted failure</html>"), 502, "upstream_error"),
    Fault("U09 empty", error(500, b""), 502, "upstream_error"),
    Fault("U09 501", error(501), 502, "upstream_error"),
    Fault("U09 bad gateway", error(502), 502, "upstream_error"),
    Fault("U09 gateway timeout", error(504), 504, "upstream_timeout"),
    Fault("U10 unavailable", error(503, headers={"retry-after": "2"}), 503, "overloaded", retry_after="2"),
    Fault("U11 limited", error(429, headers={"retry-after": "7"}), 429, "rate_limit_exceeded", retry_after="7"),
    Fault("U12 quota", error(429, QUOTA), 503, "upstream_quota_exhausted", retry_after="300", should_retry="false"),
    Fault("U12 payment", error(402), 503, "upstream_quota_exhausted", retry_after="300", should_retry="false"),
    waits("none", [], None),
    waits("word", "banana", None),
    waits("nan", "nan", None),
    waits("negative", "-1", "1"),
    waits("zero", "0", "1"),
    waits("fraction", "1.2", "2"),
    waits("huge", "1e9", "300"),
    waits("endless", "inf", "300"),
    waits("past", "Wed, 21 Oct 2015 07:28:00 GMT", "1"),
    waits("far", "Wed, 21 Oct 2122 07:28:00 GMT", "300"),
    waits("no date", "Wed, 99 Oct 2122 07:28:00 GMT", None),
    waits("two", ["7", "9"], "7"),
    Fault("U14 overloaded", error(529, headers={"retry-after": "3"}), 503, "overloaded", retry_after="3"),
    Fault("U15 401", error(401), 502, AUTHENTICATION, should_retry="false"),
    Fault("U15 403", error(403), 502, AUTHENTICATION, should_retry="false"),
    Fault("U16 404", error(404), 502, "upstream_error", should_retry="false"),
    refusal("U17 400", error(400), 400, None),
    refusal("U18 context", error(400, TOO_LONG), 400, "context_length_exceeded"),
    refusal("U19 413", error(413), 413, "request_too_large"),
    refusal("U19 422", error(422), 422, None),
    Fault("U21 html", reply(b"<html>sign in</html>", headers={"Content-Type": "text/html"}), 502, INVALID),
    Fault("U21 no type", reply(b"hello"), 502, INVALID),
    Fault("U21 204", reply(b"", 204), 502, "upstream_error"),
    Fault("U22 too short", [*reply(b'{"id":', headers={**JSON, "Content-Length": "900"}), Close()], 502, TRUNCATED,
          streamed=sse(b'data: {"id":', Close(), done=False)),
    Fault("U22 chunks cut", chunked(b'{"id":', Close(), headers=JSON), 502, TRUNCATED,
          streamed=sse(Close(), done=False)),
    Fault("U22 reset", chunked(b'{"id":', Reset(), headers=JSON), 502, TRUNCATED,
          streamed=sse(b": hello\n\n", Reset(), done=False)),
    Fault("U22 nothing", raw(b""), 502, INVALID, streamed=sse(done=False), streamed_code=TRUNCATED),
    Fault("U22 no event", raw(b" "), 502, INVALID, streamed=sse(b": hi\n\n", done=False), streamed_code=TRUNCATED),
    odd_payload("empty object", b"{}"),
    odd_payload("choices null", b'{"choices": null}'),
    odd_payload("choices text", b'{"choices": "text"}'),
    odd_payload("choice of another kind", b'{"choices": [1]}'),
    odd_payload("list", b"[]"),
    odd_payload("nan", b'{"choices": NaN}'),
    odd_payload("overflow", b'{"choices": [], "x": 1e999}'),
    odd_payload("deep", b'{"a":' * 5000 + b"1" + b"}" * 5000),
    odd_payload("brackets", b"[" * 1_000_000),
    odd_payload("not utf-8", b'{"choices": "\xff"}'),
    Fault("U23 no choices", raw(b'{"choices": []}'), 502, INVALID, streamed=sse("data: junk\n\n")),
    Fault("U23 no message", raw(b'{"choices": [{}]}'), 502, INVALID, streamed=sse("data: {\n\n")),
    reported("429", {"error": {"message": "slow down", "code": 429}}, 429, "rate_limit_exceeded"),
    reported("503", {"error": {"message": "busy", "code": "503"}}, 503, "overloaded"),
    reported("500", {"error": {"message": "no", "code": 500}}, 502, "upstream_error"),
    reported("401", {"error": {"message": "no", "code": 401}}, 502, AUTHENTICATION, should_retry="false"),
    reported("400", {"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, 400, "400",
             another=False),
    reported("context", TOO_LONG, 400, "context_length_exceeded", another=False),
    reported("overloaded", {"error": {"message": "no", "type": "overloaded_error"}}, 503, "overloaded"),
    reported("quota", QUOTA, 503, "upstream_quota_exhausted", retry_after="300", should_retry="false"),
    reported("text", {"error": "text"}, 502, "upstream_error"),
    reported("bare", {"error": {}}, 502, INVALID),
]  # fmt: skip


@pytest.fixture(params=FAULTS, ids=[fault.id for fault in FAULTS])
def fault(request: pytest.FixtureRequest) -> Fault:
    """Each fault of the table."""
    chosen: Fault = request.param
    return chosen


def script_of(fault: Fault, stream: bool) -> Script:
    """What the upstream does."""
    return fault.streamed if stream and fault.streamed else fault.script


def check_error(answer: Answer, fault: Fault, stream: bool) -> None:
    """The answer is the one that the table names."""
    assert answer.status == fault.status, answer.body
    assert answer.error["code"] == (fault.streamed_code if stream and fault.streamed_code else fault.code)
    assert answer.error["message"]
    assert answer.header("content-type") == "application/json"
    unnamed = "1" if fault.status in (429, 503) and fault.should_retry is None else None
    assert answer.header("retry-after") == (fault.retry_after or unnamed)
    assert answer.header("x-should-retry") == fault.should_retry
    assert (answer.header("x-gateway-attempts"), answer.header("x-gateway-deployment")) == ("1", None)


def test_a_fault_with_nobody_else_to_ask(bed: Bed, fault: Fault, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, script_of(fault, stream))

    answer = bed.ask(model, stream=stream)

    check_error(answer, fault, stream)
    assert bed.asked(model).keys() == {"a"}
    if fault.id in ("U09 json", "U09 html", "U09 501", "U09 bad gateway"):
        assert re.fullmatch(r"The upstream failed .*\. It said: scripted failure", answer.error["message"])


def test_a_fault_with_another_deployment(bed: Bed, fault: Fault, stream: bool) -> None:
    model = bed.model("pair")
    bed.a.on(model, script_of(fault, stream))

    answer = bed.ask(model, stream=stream)

    if not fault.another:
        check_error(answer, fault, stream)
        assert bed.asked(model) == {"a": 1}
        return
    assert answer.status == 200
    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "Hello"
    assert (answer.header("x-gateway-attempts"), answer.header("x-gateway-deployment")) == ("2", f"b/{model}")
    assert bed.asked(model)["b"] == 1


def test_a_request_reaches_the_second_deployment_unchanged(bed: Bed, stream: bool) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(500))

    bed.ask(model, stream=stream, top_k=1, messages=[*user(), {"role": "assistant", "content": "x", "tool_calls": []}])

    first, second = bed.last(model), next(seen for seen in reversed(bed.b.requests) if seen.model == model)
    assert first.body == second.body


# Several failures


def test_u11_of_several_rate_limits_the_one_that_ends_first_is_told(bed: Bed, stream: bool) -> None:
    model = bed.model("trio")
    for upstream, wait in zip(bed.upstreams.values(), ("7", "3", "9"), strict=True):
        upstream.on(model, error(429, headers={"retry-after": wait}))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.header("retry-after"), answer.header("x-gateway-attempts")) == (429, "3", "3")
    assert bed.asked(model) == {"a": 1, "b": 1, "c": 1}


def test_when_all_fail_the_last_failure_is_told(bed: Bed, stream: bool) -> None:
    model = bed.model("trio")
    for upstream, status in zip(bed.upstreams.values(), (500, 429, 503), strict=True):
        upstream.on(model, error(status))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"], answer.header("x-gateway-attempts")) == (503, "overloaded", "3")


def test_a_refusal_by_the_second_is_final(bed: Bed, stream: bool) -> None:
    model = bed.model("trio")
    bed.a.on(model, error(500))
    bed.b.on(model, error(400))

    assert bed.ask(model, stream=stream).status == 400
    assert bed.asked(model) == {"a": 1, "b": 1}


# What is remembered


@pytest.mark.parametrize("status", [429, 503, 529])
def test_u10_u11_an_upstream_that_asks_for_a_rest_gets_it(bed: Bed, status: int) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(status, headers={"retry-after": "60"}), json_reply(completion("too early")))

    answers = [bed.ask(model) for _ in range(3)]

    assert [answer.header("x-gateway-attempts") for answer in answers] == ["2", "1", "1"]
    assert bed.asked(model) == {"a": 1, "b": 3}


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_u15_u16_an_upstream_that_is_set_up_wrongly_is_left_alone(bed: Bed, status: int) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(status))

    for _ in range(3):
        assert bed.ask(model).status == 200

    assert bed.asked(model) == {"a": 1, "b": 3}


def test_u09_an_upstream_that_fails_three_times_in_a_row_rests(bed: Bed) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(500))

    for _ in range(6):
        assert bed.ask(model).status == 200

    assert bed.asked(model) == {"a": 3, "b": 6}


def test_a_success_between_failures_counts(bed: Bed) -> None:
    model = bed.model("pair")
    well = json_reply(completion("well"))
    bed.a.on(model, error(500), error(500), well, error(500), error(500), well)

    for _ in range(7):
        assert bed.ask(model).status == 200

    assert bed.asked(model) == {"a": 7, "b": 4}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_u17_refusals_do_not_count_against_an_upstream(bed: Bed, status: int) -> None:
    model = bed.model("pair")
    bed.a.on(model, *[error(status)] * 5, json_reply(completion("well")))

    statuses = [bed.ask(model).status for _ in range(6)]

    assert statuses == [status] * 5 + [200]
    assert bed.asked(model) == {"a": 6}


def test_the_only_deployment_is_never_taken_away(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, error(401), error(429, headers={"retry-after": "60"}), json_reply(completion("well")))

    assert [bed.ask(model).status for _ in range(3)] == [502, 429, 200]


@pytest.mark.parametrize("payload", [{"error": "no", "code": 400}, {"object": "error", "code": 503}], ids=str)
def test_u24_a_report_in_place_of_a_stream(bed: Bed, payload: Body) -> None:
    answer = bed.stream(json_reply(payload))

    assert answer.status == payload["code"] if "object" in payload else 502


def test_dates_are_understood(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, error(429, headers={"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)}))

    assert 27 <= int(bed.ask(model).header("retry-after") or 0) <= 30
