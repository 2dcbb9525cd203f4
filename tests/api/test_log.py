"""The log: one line for each request, with what is needed to understand it, and nothing that is anybody's business."""

import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import jsonschema_rs
import pytest

from tests.support import (
    Gateway,
    Hang,
    WaitFor,
    build_request,
    completion,
    error,
    error_body,
    json_reply,
    post_chat,
    sse,
    text_chunks,
    tokens,
)

from .bed import ADMIN_KEY, UPSTREAM_KEYS, Bed, Body, running_bed, user

FIELDS = {
    "v", "event", "time", "level", "request_id", "method", "path", "route", "status", "outcome", "caller", "model",
    "deployment", "stream", "attempts", "failed", "ms", "first_event_ms", "prompt_tokens", "completion_tokens",
    "cost_usd", "finish_reason", "bytes_in", "bytes_out", "cache", "error", "upstream_request_id", "worker", "config",
}  # fmt: skip
SCHEMA = jsonschema_rs.validator_for((Path(__file__).parents[2] / "docs/log.schema.json").read_text())


#: What upstreams call a request.
IDS = {"X-Request-Id": "req-7f310a22"}


def test_a_completion(bed: Bed) -> None:
    model = bed.model()

    record = bed.record_of(bed.ask(model))

    assert record.keys() == FIELDS
    assert (record["event"], record["method"], record["path"]) == ("call", "POST", "/v1/chat/completions")
    assert (record["status"], record["error"], record["stream"]) == (200, None, False)
    assert (record["model"], record["deployment"], record["attempts"]) == (model, f"a/{model}", 1)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 2)
    assert record["caller"].startswith("key-")
    assert record["ms"] > 0
    assert (record["v"], record["level"], record["outcome"], record["worker"]) == (1, "info", "ok", 0)
    assert (record["route"], record["finish_reason"]) == ("/v1/chat/completions", "stop")
    assert record["first_event_ms"] is None


def test_a_stream(bed: Bed) -> None:
    model = bed.model()

    record = bed.record_of(bed.ask(model, stream=True))

    assert record.keys() == FIELDS
    assert (record["status"], record["error"], record["stream"]) == (200, None, True)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 2)
    assert 0 < record["first_event_ms"] <= record["ms"]
    assert (record["outcome"], record["finish_reason"]) == ("ok", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_the_sizes_of_both_bodies_and_the_ids_of_both_sides(bed: Bed, stream: bool) -> None:
    model = bed.model()
    reply = sse(*text_chunks("a"), headers=IDS) if stream else json_reply(completion("a"), headers=IDS)
    bed.a.on(model, reply)

    answer = bed.ask(model, stream=stream, headers={"X-Client-Request-Id": "abc-1.2_3"})

    record = bed.record_of(answer)
    assert record["bytes_out"] == len(answer.body)
    body = {"model": model, "messages": user(), "stream": stream}
    assert record["bytes_in"] == int(post_chat("h", 1, body).decode().partition("ength: ")[2].split()[0])
    assert (record["client_request_id"], record["upstream_request_id"]) == ("abc-1.2_3", "req-7f310a22")


@pytest.mark.parametrize(
    ("header", "name"),
    [("session-id", "session_id"), ("x-claude-code-session-id", "session_id"), ("thread-id", "thread_id")],
)
def test_sessions_and_threads_of_clients_are_written_down(bed: Bed, header: str, name: str) -> None:
    own = "0199a213-81c0-7800-8aa1-bbab2a035a53"

    record = bed.record_of(bed.get("/v1/models", headers={header: own}))

    assert record[name] == own
    assert SCHEMA.is_valid(record)


@pytest.mark.parametrize("own", ["x" * 129, "a b", "a\u00e9", "", "a/b"])
def test_an_id_of_the_client_that_is_not_plain_is_left_out(bed: Bed, own: str) -> None:
    record = bed.record_of(bed.get("/v1/models", headers={"X-Client-Request-Id": own}))

    assert "client_request_id" not in record


def test_a_stream_is_written_down_when_it_has_ended(bed: Bed) -> None:
    gate, model = threading.Event(), bed.model()
    bed.a.on(model, sse(*text_chunks("a", finish=None), WaitFor(gate), *text_chunks("b", usage=tokens(1, 1))[1:]))

    with bed.begin(model) as begun:
        request_id = begun.head.headers.first("x-request-id")
        begun.next()
        bed.record_of(bed.ask(bed.model()))
        assert request_id not in [record["request_id"] for record in bed.gateway.call_records()]
        gate.set()
        begun.rest()

    assert request_id
    bed.gateway.wait_for_log(request_id)


def test_a_request_that_took_two_attempts(bed: Bed) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(500))

    record = bed.record_of(bed.ask(model))

    assert (record["attempts"], record["deployment"], record["status"]) == (2, f"b/{model}", 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure(bed: Bed, stream: bool) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(500))
    bed.b.on(model, error(500))

    record = bed.record_of(bed.ask(model, stream=stream))

    assert (record["status"], record["error"], record["attempts"]) == (502, "upstream_error", 2)
    assert (record["deployment"], record["stream"]) == (None, stream)


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/models", "GET", 200, None),
        ("/v1/models/nobody", "GET", 404, "model_not_found"),
        ("/nowhere", "GET", 404, "unknown_url"),
        ("/v1/models", "PUT", 405, "method_not_supported"),
        ("/v1/chat/completions", "POST", 400, "invalid_request_error"),
    ],
)
def test_other_requests(bed: Bed, path: str, method: str, status: int, code: str | None) -> None:
    record = bed.record_of(bed.get(path, method=method))

    assert record.keys() == FIELDS
    assert (record["path"], record["method"], record["status"], record["error"]) == (path, method, status, code)


def wait_for_model(bed: Bed, model: str) -> Body:
    """The log line of the only request for a model."""
    bed.gateway.wait_for_log(f'"model":"{model}"')
    (record,) = [each for each in bed.gateway.call_records() if each["model"] == model]
    return record


@pytest.mark.parametrize("begun", [True, False], ids=["amid a stream", "before the first event"])
def test_a_client_that_leaves(bed: Bed, begun: bool) -> None:
    model = bed.model()
    bed.a.on(model, sse(*(text_chunks("a", finish=None) if begun else []), Hang(), done=False))
    with bed.connect() as client:
        before = len(bed.a.requests)
        body = {"model": model, "messages": user(), "stream": True}
        client.send(post_chat(bed.gateway.host, bed.gateway.port, body))
        seen = bed.a.wait_for(before + 1)
        if begun:
            client.read_head()

    assert seen.closes_within(2)
    record = wait_for_model(bed, model)
    assert (record["status"], record["error"]) == (499, "cancelled")


def test_a_client_that_leaves_before_a_whole_answer(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, [Hang()])
    with bed.connect() as client:
        before = len(bed.a.requests)
        client.send(post_chat(bed.gateway.host, bed.gateway.port, {"model": model, "messages": user()}))
        seen = bed.a.wait_for(before + 1)

    assert seen.closes_within(2)
    record = wait_for_model(bed, model)
    assert (record["status"], record["error"], record["attempts"]) == (499, "cancelled", 1)


def test_each_request_has_one_line_and_an_id_of_its_own(bed: Bed) -> None:
    answers = [bed.ask(bed.model(), stream=stream) for stream in (False, True) * 5]

    request_ids = [answer.header("x-request-id") for answer in answers]
    assert len(set(request_ids)) == 10
    for answer in answers:
        bed.record_of(answer)


# What is nobody's business

CANARY = "canary7261"


def private_traffic(bed: Bed, *streams: bool) -> None:
    """Every kind of request, with a canary wherever a client or an upstream can put one that is not ours to keep."""
    headers = {
        "Cookie": f"a={CANARY}", "User-Agent": CANARY, "X-Request-Id": CANARY, "Referer": f"http://x/{CANARY}",
        "Idempotency-Key": CANARY, "Origin": f"http://{CANARY}", "OpenAI-Organization": CANARY,
    }  # fmt: skip
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": CANARY}}
    fields: Body = {
        "messages": [*user(CANARY), {"role": "assistant", "content": CANARY, "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": CANARY, "content": CANARY}],
        "user": CANARY, "metadata": {CANARY: CANARY}, CANARY: CANARY, "headers": headers,
        "tools": [{"type": "function", "function": {"name": CANARY}}],
    }  # fmt: skip
    noise = {"Set-Cookie": CANARY, "X-Request-Id": f"<{CANARY}>", "Server": CANARY}
    whole = json_reply(completion(CANARY, reasoning=CANARY) | {"id": CANARY, CANARY: CANARY}, headers=noise)
    streamed = sse(*text_chunks(CANARY, model=CANARY, usage=tokens(1, 1)), headers=noise)
    faults = [error(status, error_body(CANARY), noise) for status in (400, 401, 404, 429, 500, 503)]
    junk = [error(500, f"<html>{CANARY}</html>"), json_reply([CANARY]), sse(f"data: {CANARY}\n\n"), sse(CANARY)]
    for script in (whole, streamed, *faults, *junk, sse(error_body(CANARY))):
        for stream in streams or (False, True):
            model = bed.model()
            bed.a.on(model, script)
            bed.ask(model, stream=stream, **fields)
    bed.ask(bed.model(), key=CANARY, **fields)
    bed.get(f"/v1/models?{CANARY}={CANARY}", headers=headers)
    bed.get(f"/nowhere?key={CANARY}", key=CANARY)
    for body in (CANARY.encode(), f'{{"{CANARY}": "{CANARY}'.encode(), f'["{CANARY}"]'.encode()):
        bed.post(body, headers=headers)
    for wrong in ({"messages": CANARY}, {"messages": [{"role": CANARY}]}, {"stream": CANARY}, {"tools": {CANARY: 1}}):
        bed.post({"model": "solo-0", "messages": user(), **wrong})
    with bed.connect() as client:
        client.send(f"NONSENSE {CANARY}\r\n{CANARY}\r\n\r\n".encode())
        client.wait_closed()


@pytest.fixture(scope="module", params=["json", "text"])
def private(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A gateway that writes everything it would ever write, in each format."""
    with running_bed(env={"LOG_FORMAT": request.param, "LOG_LEVEL": "debug"}) as running:
        yield running


def test_no_prompt_answer_header_or_key_is_ever_written(private: Bed) -> None:
    private_traffic(private)
    last = private.ask(private.model()).header("x-request-id")
    assert last
    private.gateway.wait_for_log(last)

    log = private.gateway.log

    assert log.count("/v1/chat/completions") > 30
    assert CANARY not in log
    for secret in (*UPSTREAM_KEYS.values(), "test-key"):
        assert secret not in log


#: What ends a line, turns it round, or hides in it, for some reader or terminal.
UNSEEN = ["\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"]


def test_what_an_upstream_calls_its_error_is_written_down_if_it_is_a_name(bed: Bed) -> None:
    """Some put the words of the request there. The client reads them all the same."""
    written = []
    for code, kind in (("too_hot", "t"), (None, "bad_request"), (None, "you said Hi there")):
        model = bed.model()
        bed.a.on(model, error(400, error_body("No.", kind, code)))
        answer = bed.ask(model)
        assert answer.error["type"] == kind
        written.append(bed.record_of(answer)["error"])

    assert written == ["too_hot", "bad_request", "upstream_rejected"]


def test_what_a_client_names_cannot_make_a_line_of_its_own(private: Bed) -> None:
    for name in (
        'x\n{"request_id": "forged"}',
        "x\r\nforged=1 status=200",
        "x status=200",
        "\x1b[31m",
        'x" status=200',
        *UNSEEN,
    ):
        answer = private.ask(name)
        assert answer.status == 404

    private.get("/v1/models/x%0Aforged=1", headers=())
    private.get(f"/v1/models/{quote(''.join(UNSEEN))}")
    private.get(f"/{quote(''.join(UNSEEN))}", key=None)
    last = private.ask(private.model()).header("x-request-id")
    assert last
    private.gateway.wait_for_log(last)

    lines = private.gateway.log.split("\n")
    assert not [line for line in lines if line.startswith(("forged", '{"request_id": "f'))]
    assert not [character for character in UNSEEN if character in private.gateway.log]
    assert len(lines) == len(private.gateway.log.splitlines()) + 1


@pytest.mark.parametrize("model", ["plain", "x status=200", 'x" status=200 "', "x=y", "x'"])
def test_the_text_format_has_one_line_per_request_too(texts: Bed, model: str) -> None:
    request_id = texts.ask(model).header("x-request-id")
    assert request_id
    texts.gateway.wait_for_log(request_id)

    (line,) = [line for line in texts.gateway.log.split("\n") if request_id in line]
    pairs = [word.split("=", 1) for word in shlex.split(line) if "=" in word]
    assert len({name for name, _ in pairs}) == len(pairs)
    assert dict(pairs)["model"] == model
    assert (dict(pairs)["method"], dict(pairs)["status"]) == ("POST", "404")


@pytest.fixture(scope="module")
def texts() -> Iterator[Bed]:
    """A gateway without models that writes plain text."""
    with Gateway(env={"LOG_FORMAT": "text"}) as gateway:
        yield Bed(gateway, {})


def test_a_level_above_info_writes_no_line_per_request() -> None:
    with Gateway(env={"LOG_LEVEL": "warning"}) as gateway:
        bed = Bed(gateway, {})
        for _ in range(3):
            bed.get("/v1/models")
        gateway.terminate()
        gateway.wait()

        assert gateway.call_records() == []


@pytest.mark.parametrize("format", ["json", "text"])
def test_what_is_changed_is_a_line_whatever_the_level(format: str) -> None:
    with Gateway(env={"LOG_LEVEL": "error", "LOG_FORMAT": format}) as gateway:
        gateway.hang_up()

        gateway.wait_for_log("configuration reload by signal: nothing changed")


# Its schema


def request_with(method: str, path: str, bed: Bed, body: Body) -> bytes:
    """A request of the operator's with a body in JSON."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
    return build_request(
        method, path, bed.gateway.host, bed.gateway.port, headers=headers, body=json.dumps(body).encode()
    )


def check_schema(bed: Bed, events: set[str]) -> None:
    """Every line of the log is what the schema says, and these events are among them."""
    lines = [json.loads(line) for line in bed.gateway.log.splitlines()]
    assert [(line, str(error)) for line in lines for error in SCHEMA.iter_errors(line)] == []
    assert events <= {line["event"] for line in lines}


def test_every_line_is_what_the_schema_says(tmp_path: Path) -> None:
    server, database = {"commit_s": 0.2}, f"sqlite:///{tmp_path}/one_api.db"
    with running_bed(server, env={"DATABASE_URL": database}, cache={"enabled": True}) as bed:
        for stream in (False, True):
            private_traffic(bed, stream)
            bed.ask(bed.model(), stream=stream, headers={"X-Client-Request-Id": "mine"})
            failing = bed.model("pair")
            bed.a.on(failing, error(500))
            bed.ask(failing, stream=stream)
            bed.ask(kept := bed.model(), stream=stream)
            bed.ask(kept, stream=stream)
        with bed.connect() as client:
            client.send(request_with("POST", "/admin/api/keys", bed, {"name": "alice"}))
            assert client.read_response().status == 201
            client.send(request_with("POST", "/admin/api/teams", bed, {"name": "red"}))
            assert client.read_response().status == 201
        bed.gateway.config_path.write_text("{")
        bed.gateway.hang_up()
        bed.gateway.wait_for_log("was refused")

        check_schema(bed, {"call", "config", "key", "admin", "start"})
        lines = [json.loads(line) for line in bed.gateway.log.splitlines()]
        told = [(line["event"], line["by"], line["action"], line["target"]) for line in lines if "action" in line]
        assert told == [("key", "operator", "create key", "alice"), ("admin", "operator", "create team", "red")]


def test_of_what_goes_well_a_sample_is_enough() -> None:
    with running_bed(log={"sample": 0.0}) as bed:
        bed.ask(bed.model())
        failed = bed.ask("no-such-model")
        last = bed.record_of(failed)

        assert [record["request_id"] for record in bed.gateway.call_records()] == [last["request_id"]]
        assert "sample" not in last


def test_a_line_that_stands_for_others_says_so() -> None:
    with running_bed(log={"sample": 0.5}) as bed:
        for _ in range(40):
            bed.get("/v1/models")
        bed.record_of(bed.ask("no-such-model"))

        kept = [record for record in bed.gateway.call_records() if record["outcome"] == "ok"]
        assert 5 < len(kept) < 35
        assert {record["sample"] for record in kept} == {0.5}
