"""The scripted upstream and the raw client do what the other tests believe of them."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import LONGEST, TESTS
from tests.support import (
    Action,
    Chop,
    Close,
    Flood,
    Gateway,
    Hang,
    Headers,
    RawClient,
    Receive,
    Reset,
    ScriptedUpstream,
    Seen,
    Send,
    Wait,
    WaitFor,
    blackhole,
    build_request,
    chunk,
    chunked,
    completion,
    error,
    event,
    free_port,
    joined,
    json_reply,
    post_chat,
    reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

TINY_BUFFER_BYTES = 4096


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["model-x"]) as running:
        yield running


@pytest.fixture
def client(upstream: ScriptedUpstream) -> Iterator[RawClient]:
    with RawClient(upstream.host, upstream.port) as connected:
        yield connected


def chat(upstream: ScriptedUpstream, model: str = "m", **fields: object) -> bytes:
    return post_chat(upstream.host, upstream.port, {"model": model, "messages": [], **fields})


# What an upstream says by itself


def test_unknown_model_is_answered_with_hello(upstream: ScriptedUpstream, client: RawClient) -> None:
    client.send(chat(upstream, "nobody"))
    answer = client.read_response()
    assert (answer.status, answer.headers.first("content-type")) == (200, "application/json")
    assert answer.json == completion("Hello", model="nobody")


def test_unknown_model_is_streamed_when_asked_so(upstream: ScriptedUpstream, client: RawClient) -> None:
    client.send(chat(upstream, "nobody", stream=True, stream_options={"include_usage": True}))
    events = list(client.iter_events(client.read_head()))
    expected = text_chunks("Hel", "lo", model="nobody", usage=tokens(9, 2))
    assert events == [event(payload).decode().strip() for payload in expected] + ["data: [DONE]"]


def test_models_are_listed_apart_from_the_requests(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.models.append("model-y")
    client.send(build_request("GET", "/v1/models", upstream.host, upstream.port))
    assert [model["id"] for model in client.read_response().json["data"]] == ["model-x", "model-y"]
    assert (len(upstream.model_requests), upstream.requests) == (1, [])


def test_models_fail_when_told_so(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.models_status = 503
    client.send(build_request("GET", "/v1/models", upstream.host, upstream.port))
    assert client.read_response().status == 503


def test_a_standard_client_understands_it(upstream: ScriptedUpstream) -> None:
    upstream.on("m", sse({"n": 1}, done=False))
    connection = http.client.HTTPConnection(upstream.host, upstream.port, timeout=5)
    connection.request("POST", "/v1/chat/completions", b'{"model": "m"}')
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'data: {"n": 1}\n\n')
    connection.close()


# What it records


def test_a_request_is_recorded_as_it_came(upstream: ScriptedUpstream, client: RawClient) -> None:
    before = time.monotonic()
    client.send(post_chat(upstream.host, upstream.port, {"model": "m"}, key="k", extra_headers={"X-Odd": "é"}))
    seen = upstream.wait_for(1)
    assert (seen.method, seen.path, seen.json, seen.model) == ("POST", "/v1/chat/completions", {"model": "m"}, "m")
    assert (seen.headers.first("authorization"), seen.headers.all("x-odd")) == ("Bearer k", ["é"])
    assert ("X-Odd", "é") in seen.headers
    assert before <= seen.arrived_at <= time.monotonic()


def test_a_chunked_request_body_is_joined(upstream: ScriptedUpstream, client: RawClient) -> None:
    body = b"".join(chunk(piece) for piece in (b'{"model"', b': "m"}', b""))
    client.send(post_chat(upstream.host, upstream.port, body, extra_headers={"Transfer-Encoding": "chunked"}))
    assert upstream.wait_for(1).body == b'{"model": "m"}'


def test_a_connection_is_kept_and_counted_once(upstream: ScriptedUpstream, client: RawClient) -> None:
    for _ in range(2):
        client.send(chat(upstream))
        client.read_response()
    assert [seen.connection for seen in upstream.requests] == [1, 1]
    assert (upstream.connections, upstream.open_connections) == (1, 1)


def test_pipelined_requests_are_answered_in_order(upstream: ScriptedUpstream, client: RawClient) -> None:
    client.send(chat(upstream, "a") + chat(upstream, "b"))
    assert [client.read_response().json["model"] for _ in range(2)] == ["a", "b"]


def test_connection_close_is_honoured(upstream: ScriptedUpstream, client: RawClient) -> None:
    client.send(post_chat(upstream.host, upstream.port, {}, extra_headers={"Connection": "close"}))
    client.read_response()
    assert client.read_to_eof() == b""


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset])
def test_a_peer_that_leaves_is_noticed(upstream: ScriptedUpstream, client: RawClient, leave: object) -> None:
    upstream.on("m", [Hang()])
    client.send(chat(upstream))
    seen = upstream.wait_for(1)
    assert callable(leave)
    leave(client)
    assert seen.closed.wait(5)
    assert seen.ended.wait(5)


def test_a_peer_that_leaves_after_the_answer_did_not_leave_early(upstream: ScriptedUpstream) -> None:
    for n in range(1, 51):
        with RawClient(upstream.host, upstream.port) as client:
            client.send(chat(upstream))
            client.read_response()
        assert upstream.wait_for(n).ended.wait(5)
    assert not any(seen.closed.is_set() for seen in upstream.requests)


def test_waiting_for_a_request_that_never_comes_fails(upstream: ScriptedUpstream) -> None:
    with pytest.raises(AssertionError, match="0 of 1 requests"):
        upstream.wait_for(1, timeout_s=0.01)


# What it can be told to do


def test_answers_come_in_order_and_the_last_repeats(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", error(500), error(429, headers={"Retry-After": "7"}), json_reply({}))
    statuses = []
    for _ in range(4):
        client.send(chat(upstream))
        statuses.append(client.read_response().status)
    assert statuses == [500, 429, 200, 200]


def test_an_answer_may_depend_on_the_request(upstream: ScriptedUpstream, client: RawClient) -> None:
    def echo(seen: Seen) -> list[Action]:
        return reply(seen.body)

    upstream.on("m", echo)
    client.send(chat(upstream, temperature=0.5))
    assert client.read_response().json["temperature"] == 0.5


def test_an_event_of_the_test_releases_the_script(upstream: ScriptedUpstream, client: RawClient) -> None:
    gate = threading.Event()
    upstream.on("m", sse({"n": 1}, WaitFor(gate), Wait(0), {"n": 2}))
    client.send(chat(upstream))
    events = client.iter_events(client.read_head())
    assert next(events) == 'data: {"n": 1}'
    assert not upstream.requests[0].ended.is_set()
    gate.set()
    assert list(events) == ['data: {"n": 2}', "data: [DONE]"]


def test_close_ends_a_stream_before_its_end(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", sse({"n": 1}, Close()))
    client.send(chat(upstream))
    events = client.iter_events(client.read_head())
    assert next(events) == 'data: {"n": 1}'
    with pytest.raises(EOFError):
        next(events)


def test_reset_is_a_reset(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [Reset()])
    client.send(chat(upstream))
    with pytest.raises(ConnectionResetError):
        client.read_to_eof()


def test_reset_on_connect(upstream: ScriptedUpstream) -> None:
    upstream.on_connect([Reset()])
    with contextlib.suppress(ConnectionResetError), RawClient(upstream.host, upstream.port) as client:
        assert client.wait_closed()  # the reset may also come before connect has returned
    with RawClient(upstream.host, upstream.port) as client:
        client.send(chat(upstream))
        assert client.read_response().status == 200


def test_reset_inside_a_request(upstream: ScriptedUpstream) -> None:
    upstream.on_connect([Receive(1000), Reset()])
    with RawClient(upstream.host, upstream.port) as client, pytest.raises(ConnectionError):
        client.send(chat(upstream, padding="x" * 50_000_000))
    assert upstream.requests == []


def test_chopped_data_arrives_whole(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [Chop(joined(sse({"text": "día"}, ": ping\r\r", b"data:x\n\n")), 1)])
    client.send(chat(upstream))
    assert b"".join(client.iter_body(client.read_head())) == (
        'data: {"text": "día"}\n\n: ping\r\rdata:x\n\ndata: [DONE]\n\n'.encode()
    )


def test_chopping_waits_between_the_pieces(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [Chop(b"ab", 1, pause_s=0.05)])
    start = time.monotonic()
    client.send(chat(upstream))
    assert client.read(2) == b"ab"
    assert time.monotonic() - start > 0.04


def test_a_flood_stops_where_the_peer_does_not_read() -> None:
    with ScriptedUpstream(send_buffer_bytes=TINY_BUFFER_BYTES) as upstream:
        upstream.on("m", chunked(Flood(10_000_000, chunk(b"x" * 10_000))))
        with RawClient(upstream.host, upstream.port, receive_buffer_bytes=TINY_BUFFER_BYTES) as client:
            client.send(chat(upstream))
            seen = upstream.wait_for(1)
            assert not seen.ended.wait(0.2)
            assert seen.sent_bytes < 200_000
            body = sum(len(piece) for piece in client.iter_body(client.read_head()))
        assert body == 9_990_000 + 10_000
        assert seen.ended.wait(5)


def test_a_false_length_is_sent_as_given(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [*reply(b"half", headers={"content-length": "8"}), Close()])
    client.send(chat(upstream))
    with pytest.raises(EOFError):
        client.read_response()


def test_interim_answers_are_skipped(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [Send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), *json_reply({})])
    client.send(chat(upstream))
    assert client.read_response().status == 200


def test_a_body_without_framing_ends_with_the_connection(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", [Send(b"HTTP/1.0 200\r\n\r\nab"), Close()])
    client.send(chat(upstream))
    answer = client.read_response()
    assert (answer.status, answer.headers, answer.body) == (200, Headers(), b"ab")


# What OpenAI's dialect looks like


def test_text_chunks_come_in_the_order_of_the_real_service() -> None:
    role, piece, finish, usage = text_chunks("Hi", usage=tokens(3, 1))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert (piece["choices"][0]["delta"], piece["choices"][0]["finish_reason"]) == ({"content": "Hi"}, None)
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["total_tokens"], role["usage"]) == ([], 4, None)


def test_text_chunks_say_nothing_of_usage_unless_given() -> None:
    assert not any("usage" in payload for payload in text_chunks("Hi"))


def test_tool_chunks_open_each_call_and_then_send_its_arguments() -> None:
    chunks = tool_chunks(("f", '{"a"', ":1}"), ("g", "{}"))
    role, *deltas, finish = [payload["choices"][0]["delta"] for payload in chunks]
    calls = [delta["tool_calls"][0] for delta in deltas]
    assert (role["content"], finish) == (None, {})
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert calls[0] == {
        "index": 0,
        "id": "call_0",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert calls[2] == {"index": 0, "function": {"arguments": ":1}"}}


# What fails the test


def test_a_malformed_request_is_raised_at_the_end() -> None:
    with pytest.raises(ExceptionGroup, match="scripted upstream"), ScriptedUpstream() as upstream:
        client = RawClient(upstream.host, upstream.port)
        client.send(b"nonsense\r\n\r\n")
        assert client.wait_closed()
        client.close()


def test_a_script_that_raises_is_raised_at_the_end() -> None:
    with pytest.raises(ExceptionGroup), ScriptedUpstream() as upstream:
        upstream.on("m", lambda seen: reply(seen.json["absent"]))
        with RawClient(upstream.host, upstream.port) as client:
            client.send(chat(upstream))
            assert client.wait_closed()


def test_leaving_closes_open_connections_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    with ScriptedUpstream() as upstream:
        upstream.on("m", [WaitFor(threading.Event())])
        client = RawClient(upstream.host, upstream.port)
        client.send(chat(upstream))
        upstream.wait_for(1)
    assert client.wait_closed()
    client.close()
    assert set(threading.enumerate()) <= before


# Dead ends


def test_a_free_port_refuses() -> None:
    with pytest.raises(ConnectionRefusedError):
        RawClient("127.0.0.1", free_port())


def test_a_free_port_is_given_once() -> None:
    assert len({free_port() for _ in range(500)}) == 500


def test_a_blackhole_never_answers_a_connect() -> None:
    with blackhole() as base_url, pytest.raises(TimeoutError):
        RawClient("127.0.0.1", int(base_url.split(":")[2].split("/")[0]), timeout_s=0.2)


# The raw client against a peer that is only a socket


def test_a_read_ends_at_its_deadline() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        RawClient(*silent.getsockname(), timeout_s=0.05) as client,
    ):
        with pytest.raises(TimeoutError):
            client.read_head()
        assert not client.wait_closed()


def test_an_event_that_is_cut_is_not_an_event(upstream: ScriptedUpstream, client: RawClient) -> None:
    upstream.on("m", sse("data: 1\n\ndata: 2", done=False))
    client.send(chat(upstream))
    events = client.iter_events(client.read_head())
    assert next(events) == "data: 1"
    with pytest.raises(EOFError, match="data: 2"):
        next(events)


# The order of the files


def test_the_files_that_come_first_are_there() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []


# The gateway


def test_a_gateway_that_cannot_start_shows_its_log() -> None:
    with pytest.raises(AssertionError, match="no_such_module"):
        Gateway(wsgi_app="no_such_module:app").__enter__()
