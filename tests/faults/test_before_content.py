"""Faults before the first content (U of the fault matrix), where a group can make them invisible.

What each fault is to a client whose model has one deployment, or two equal ones, is in ``tests/api/test_errors.py``.
"""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.api.bed import Answer, adapter, user, yaml
from tests.api.test_errors import FAULTS, TOO_LONG, Fault, script_of
from tests.support import (
    Action,
    Close,
    Gateway,
    Hang,
    Reset,
    Script,
    Wait,
    completion,
    error,
    error_body,
    json_reply,
    sse,
    text_chunks,
    tokens,
)
from tests.support.running_time import RunningTime

from .bed import CERTIFICATES, FaultBed


def said(answer: Answer, stream: bool) -> str:
    """The text of an answer that is complete."""
    assert answer.status == 200, answer.body
    if not stream:
        return str(answer.json["choices"][0]["message"]["content"])
    assert answer.stream_error is None
    return answer.text


#: Not those that are waited for: there is a test of its own for that.
INVISIBLE = [fault for fault in FAULTS if fault.another and (fault.retry_after is None or int(fault.retry_after) > 5)]


@pytest.mark.parametrize("fault", INVISIBLE, ids=[fault.id for fault in INVISIBLE])
def test_a_fallback_answers_under_its_own_name(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.ask(model, stream=stream)

    assert said(answer, stream) == "Hello"
    assert (answer.chunks[0] if stream else answer.json)["model"] == model, "which is what it is called there"
    assert faults.record_of(answer)["deployment"] == f"b/{model}"


OWN = [fault for fault in FAULTS if not fault.another and fault.code != "context_length_exceeded"]


@pytest.mark.parametrize("fault", OWN, ids=[fault.id for fault in OWN])
def test_a_request_that_is_wrong_goes_to_no_fallback(faults: FaultBed, fault: Fault, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.ask(model, stream=stream)

    assert (answer.status, faults.asked(model)) == (fault.status, {"a": 1})


# Out of reach


@pytest.mark.parametrize("kind", ["refused", "unknown"])
def test_u01_u04_an_address_that_cannot_be_reached(faults: FaultBed, kind: str, stream: bool) -> None:
    with RunningTime() as took:
        for _ in range(5):
            assert said(faults.ask(faults.model(kind), stream=stream), stream) == "Hello"

    assert took.seconds < 5, "a name is looked up for at most two seconds"


@pytest.mark.parametrize("kind", ["hopeless", "nameless"])
def test_u01_u04_when_nobody_else_is_left(faults: FaultBed, kind: str, stream: bool) -> None:
    answer = faults.ask(faults.model(kind), stream=stream)

    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert "nowhere" not in answer.error["message"]


class Polite(BaseHTTPRequestHandler):
    """Answers every request, and remembers its headers."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Answer "Hello"."""
        self.seen.append(str(self.headers))
        self.rfile.read(int(self.headers["content-length"]))
        payload = yaml(**completion("Hello")).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class TLSServer(ThreadingHTTPServer):
    """A server with a certificate; it says nothing of clients that do not like it."""

    daemon_threads = True

    def __init__(self, certificate: str) -> None:
        super().__init__(("127.0.0.1", 0), Polite)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
        self.socket = self._context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: object) -> None:
        """The handshake was refused: that is what is tested."""


@contextlib.contextmanager
def serving(certificate: str) -> Iterator[str]:
    """The base URL of a server with a certificate."""
    with TLSServer(certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


BAD = ["expired", "other-name", "self-signed"]


@pytest.fixture(scope="module")
def over_tls() -> Iterator[FaultBed]:
    """A gateway that trusts the tests' authority, over servers with certificates, good and bad."""
    with contextlib.ExitStack() as held:
        urls = {name: held.enter_context(serving(name)) for name in (*BAD, "valid")}
        adapters = {
            name: adapter(url, [f"{each}-pair" for each in BAD] if name == "valid" else [f"{name}-pair", name],
                          weight=1 if name == "valid" else 10**9)
            for name, url in urls.items()
        }  # fmt: skip
        gateway = Gateway(
            config_yaml=yaml(adapters=adapters),
            env={"SSL_CERT_FILE": str(CERTIFICATES / "ca.pem")},
        )
        yield FaultBed(held.enter_context(gateway), {})


@pytest.mark.parametrize("certificate", BAD)
def test_u03_a_certificate_that_is_not_valid(over_tls: FaultBed, certificate: str) -> None:
    Polite.seen.clear()

    answer = over_tls.ask(certificate)

    assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
    assert not Polite.seen, "no key was sent"


@pytest.mark.parametrize("certificate", BAD)
def test_u03_another_deployment_answers_instead(over_tls: FaultBed, certificate: str) -> None:
    assert said(over_tls.ask(f"{certificate}-pair"), stream=False) == "Hello"


# Silence


@pytest.mark.parametrize("count", [0, 1], ids=["headers", "role"])
def test_u08_silence_after_the_head_is_filled_by_another_deployment(eager: FaultBed, count: int) -> None:
    model = eager.model("twins", silent=True)
    eager.a.on(model, sse(b": hello\n\n", *text_chunks(finish=None)[:count], Hang(), done=False))

    answer = eager.ask(model, stream=True)

    assert said(answer, stream=True) == "Hello"
    assert answer.events[0] == ": keep-alive", "the status line went out before there was content"
    assert sum("role" in delta for delta in answer.deltas) == 1, "nothing of the silent answer is seen"
    assert eager.asked(model) == {"a": 1, "b": 1}


@pytest.mark.parametrize("ending", [[Close()], [Reset()], [b"data: junk\n\n"], [error_body()]], ids=str)
def test_u08_a_role_and_then_a_failure_is_before_content(faults: FaultBed, ending: list[Action]) -> None:
    model = faults.model("twins")
    faults.a.on(model, sse(*text_chunks(finish=None), Wait(0.3), *ending, done=False))

    answer = faults.ask(model, stream=True)

    assert said(answer, stream=True) == "Hello"
    assert sum("role" in delta for delta in answer.deltas) == 1


def test_u07_when_all_are_silent_it_is_504_after_two(faults: FaultBed, stream: bool) -> None:
    model = faults.model("three", silent=True)
    for upstream in faults.upstreams.values():
        upstream.on(model, [Hang()])

    answer = faults.ask(model, stream=stream)

    failure = answer.stream_error if answer.status == 200 else answer.error
    assert failure is not None
    assert failure["code"] == "upstream_timeout"
    assert faults.asked(model) == {"a": 1, "b": 1}, "one takes over from a silent deployment, not two"


def test_u07_a_silent_deployment_is_not_asked_again_before_a_fallback(faults: FaultBed, stream: bool) -> None:
    model = faults.model("spare", silent=True)
    faults.a.on(model, [Hang()])

    assert said(faults.ask(model, stream=stream), stream) == "Hello"
    assert faults.asked(model) == {"a": 1, "b": 1}


# The only target, once more


@pytest.mark.parametrize("script", [error(500), error(502), [Reset()], [Close()]], ids=["500", "502", "reset", "close"])
def test_u05_u09_the_only_target_is_asked_once_more(faults: FaultBed, script: Script, stream: bool) -> None:
    model = faults.model("spare")
    well = sse(*text_chunks("again")) if stream else json_reply(completion("again"))
    faults.a.on(model, script, well)

    answer = faults.ask(model, stream=stream)

    assert said(answer, stream) == "again"
    assert faults.asked(model) == {"a": 2}


@pytest.mark.parametrize("status", [429, 503, 529])
def test_u10_u11_u14_it_is_asked_when_it_says_that_it_is_ready(faults: FaultBed, status: int) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(status, headers={"retry-after-ms": "300"}), json_reply(completion("again")))

    answer = faults.ask(model)

    assert said(answer, stream=False) == "again"
    first, second = [seen for seen in faults.a.requests if seen.model == model]
    assert second.arrived_at - first.arrived_at >= 0.3


@pytest.mark.parametrize("status", [429, 503])
def test_u10_u11_a_long_wait_is_not_waited_for(faults: FaultBed, status: int, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(status, headers={"retry-after": "6"}))

    assert said(faults.ask(model, stream=stream), stream) == "Hello"
    assert faults.asked(model) == {"a": 1, "b": 1}


def test_u09_two_fallbacks_are_asked_in_their_order(faults: FaultBed, stream: bool) -> None:
    model = faults.model("spares")
    faults.a.on(model, error(401))
    faults.b.on(model, error(500))

    answer = faults.ask(model, stream=stream)

    assert said(answer, stream) == "Hello"
    assert faults.record_of(answer)["deployment"] == f"c/{model}"


# The request, and the account


def test_u12_an_account_without_credit_is_left_alone(faults: FaultBed, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, error(429, error_body("pay", "insufficient_quota", "insufficient_quota")))

    for _ in range(3):
        assert said(faults.ask(model, stream=stream), stream) == "Hello"

    assert faults.asked(model) == {"a": 1, "b": 3}


def test_u18_a_context_that_is_too_small_leads_to_a_fallback_and_to_no_target(faults: FaultBed, stream: bool) -> None:
    spare, twins = faults.model("spare"), faults.model("twins")
    for model in (spare, twins):
        faults.a.on(model, error(400, TOO_LONG))

    answered, refused = (faults.ask(model, stream=stream) for model in (spare, twins))

    assert said(answered, stream) == "Hello"
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert (faults.asked(spare), faults.asked(twins)) == ({"a": 1, "b": 1}, {"a": 1})


def test_u17_a_refusal_of_content_goes_nowhere(faults: FaultBed, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(400, error_body("no", "invalid_request_error", "content_filter")))

    answer = faults.ask(model, stream=stream)

    assert (answer.status, answer.error["code"], faults.asked(model)) == (400, "content_filter", {"a": 1})


def test_u06_a_large_request_is_sent_again_whole(faults: FaultBed) -> None:
    model, messages = faults.model("spare"), user("x" * 5_000_000)
    faults.a.on(model, [Reset()])

    assert said(faults.ask(model, messages=messages), stream=False) == "Hello"
    assert faults.b.requests[-1].json["messages"] == messages


# Slow ones


def test_u31_one_that_is_ten_times_slower_gets_little(faults: FaultBed, stream: bool) -> None:
    model = faults.model("spread")
    for upstream, wait_s in zip(faults.upstreams.values(), (0.2, 0.02, 0.02), strict=True):
        answer = sse(*text_chunks("Hi")) if stream else json_reply(completion("Hi", usage=tokens(1, 2)))
        upstream.on(model, [Wait(wait_s), *answer])

    for _ in range(60):
        faults.ask(model, stream=stream)
    before = faults.asked(model).get("a", 0)
    for _ in range(100):
        faults.ask(model, stream=stream)

    assert faults.asked(model)["a"] - before < 10


def test_a_slow_first_is_overtaken_by_the_next(faults: FaultBed, stream: bool) -> None:
    model = faults.model("hedge")
    faults.a.on(model, [Hang()])

    answer = faults.ask(model, stream=stream)

    assert said(answer, stream) == "Hello"
    assert faults.last(model).closes_within(2), "the slow question is withdrawn"
    assert faults.record_of(answer)["failed"].startswith(f"a/{model}:hedge_lost:")
