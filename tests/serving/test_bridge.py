"""Ordinary Flask, under our worker and under plain threads: what holds there must hold here."""

import json
from collections.abc import Iterator

import pytest

from tests.support import Gateway, RawClient, chunk

from .apps.bridge import LARGE_BYTES, MANY_PIECES
from .clients import ask, connect, get, request, running


@pytest.fixture(scope="module", params=["one_api", "gthread"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    app = Gateway(worker=request.param, wsgi_app="tests.serving.apps.bridge:app", ready_path="/sync")
    with running(app) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connect(gateway) as connected:
        yield connected


def text(gateway: Gateway, target: str) -> tuple[int, str]:
    answer = get(gateway, target)
    return answer.status, answer.body.decode()


# Views and hooks


def test_a_sync_view_answers(gateway: Gateway) -> None:
    assert text(gateway, "/sync?name=ann") == (200, "sync ann")


def test_an_async_view_sees_request_g_and_context_variables(gateway: Gateway) -> None:
    assert text(gateway, "/async?name=bob") == (200, "async bob bob")


@pytest.mark.parametrize(("target", "view"), [("/sync", "view"), ("/async", "view, awaited")])
def test_hooks_of_both_kinds_run_in_order(gateway: Gateway, target: str, view: str) -> None:
    answer = get(gateway, target)
    assert answer.headers.first("x-trail") == f"before; before, awaited; {view}"
    assert answer.headers.first("x-path") == target


@pytest.mark.parametrize("target", ["/sync?refuse", "/async?refuse"])
def test_an_async_before_request_may_answer_itself(gateway: Gateway, target: str) -> None:
    assert text(gateway, target) == (403, "refused")


@pytest.mark.parametrize("path", ["/raise", "/raise-async"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("odd", (418, "odd: one")), ("even", (421, "even: two")), ("http", (409, "http: Conflict"))],
)
def test_error_handlers_answer(gateway: Gateway, path: str, kind: str, expected: tuple[int, str]) -> None:
    assert text(gateway, f"{path}/{kind}") == expected


@pytest.mark.parametrize("path", ["/raise", "/raise-async"])
def test_a_bug_is_answered_by_the_last_handler(gateway: Gateway, path: str) -> None:
    assert text(gateway, f"{path}/bug") == (500, "bug: ZeroDivisionError")
    assert text(gateway, "/nowhere") == (404, "http: Not Found")


@pytest.mark.parametrize("target", ["/sync?name=torn-s", "/async?name=torn-a", "/raise-async/odd?name=torn-e"])
def test_teardown_runs(gateway: Gateway, target: str) -> None:
    get(gateway, target)
    gateway.wait_for_log(f"teardown {target.split('=')[1]} after NoneType")


def test_requests_that_wait_at_once_do_not_mix(gateway: Gateway) -> None:
    names = [f"{place}-{n}" for place in range(10) for n in "ab"]
    clients = [connect(gateway) for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.send(request(gateway, "GET", f"/meet/{name.split('-')[0]}?name={name}"))
    answers = [client.read_response().body.decode() for client in clients]
    assert answers == [f"{name} {name} {name}" for name in names]
    for client in clients:
        client.close()


# The bridge itself


def test_sync_code_awaits(gateway: Gateway) -> None:
    assert text(gateway, "/await-in-sync?number=3") == (200, "12")


def test_what_is_awaited_raises_where_it_is_awaited(gateway: Gateway) -> None:
    assert text(gateway, "/await-raises") == (200, "caught awaited")


def test_await_inside_a_coroutine_says_what_to_do(gateway: Gateway) -> None:
    status, advice = text(gateway, "/await-in-async")
    assert (status, "use `await` there" in advice) == (200, True)


def test_a_waiting_view_is_let_go_when_its_client_leaves(gateway: Gateway, client: RawClient) -> None:
    client.send(request(gateway, "GET", "/wait/leaver?name=leaver"))
    gateway.wait_for_log("waiting leaver")
    client.close()
    gateway.wait_for_log("let go leaver")
    gateway.wait_for_log("teardown leaver after CancelledError")
    assert text(gateway, "/sync?name=next") == (200, "sync next")


# Streams


def test_a_generator_streams_with_its_context(gateway: Gateway) -> None:
    lines = get(gateway, "/stream?name=cat").body.decode().splitlines()
    assert lines == [f"cat {number} before" for number in range(MANY_PIECES)]


def test_an_async_view_may_return_a_generator_that_awaits(gateway: Gateway) -> None:
    assert text(gateway, "/stream-from-async?name=dog") == (200, "dog 0\ndog 1\ndog 2\n")


@pytest.mark.parametrize("kind", ["", "&paced"])
def test_a_generator_is_closed_when_its_client_leaves(gateway: Gateway, client: RawClient, kind: str) -> None:
    name = f"endless{kind.replace('&', '-')}"
    client.send(request(gateway, "GET", f"/endless?name={name}{kind}"))
    next(client.iter_body(client.read_head()))
    client.close()
    gateway.wait_for_log(f"closed {name}")
    gateway.wait_for_log(f"teardown {name}")
    assert text(gateway, "/sync?name=next") == (200, "sync next")


def test_a_body_is_closed_at_its_end(gateway: Gateway) -> None:
    assert text(gateway, "/closing?name=eel") == (200, "firstsecond")
    gateway.wait_for_log("closed eel")
    gateway.wait_for_log("called on close eel")


def test_a_generator_that_raises_leaves_a_body_without_end(gateway: Gateway, client: RawClient) -> None:
    client.send(request(gateway, "GET", "/breaks"))
    pieces = client.iter_body(client.read_head())
    with pytest.raises(EOFError):
        while True:
            next(pieces)


# Requests


@pytest.mark.parametrize("target", ["/echo", "/echo-async"])
@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_body_is_read_whole(gateway: Gateway, target: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert ask(gateway, request(gateway, "POST", target, {"Content-Length": str(size)}, body)).body == body


@pytest.mark.parametrize("target", ["/echo", "/echo-async"])
def test_a_chunked_body_is_read_whole(gateway: Gateway, client: RawClient, target: str) -> None:
    pieces = [b"a" * size for size in (1, 70_000, 3, 200_000)]
    client.send(request(gateway, "POST", target, {"Transfer-Encoding": "chunked"}))
    for piece in [*pieces, b""]:
        client.send(chunk(piece))
    assert client.read_response().body == b"".join(pieces)


def test_a_body_may_be_read_piece_by_piece(gateway: Gateway) -> None:
    assert ask(gateway, request(gateway, "POST", "/count", body=b"x" * 3_000_000)).body == b"3000000"


def test_json_is_read_inside_an_async_view(gateway: Gateway) -> None:
    body = json.dumps({"text": "día", "number": 7}).encode()
    answer = ask(gateway, request(gateway, "POST", "/json", {"Content-Type": "application/json"}, body))
    assert answer.json == {"got": {"text": "día", "number": 7}}


def test_a_form_with_a_file_is_read_inside_an_async_view(gateway: Gateway) -> None:
    parts = [
        b'Content-Disposition: form-data; name="field"\r\n\r\nvalue\r\n',
        b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\ncontents\r\n',
    ]
    body = b"".join(b"--cut\r\n" + part for part in parts) + b"--cut--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    answer = ask(gateway, request(gateway, "POST", "/form", headers, body))
    assert answer.json == {"form": {"field": "value"}, "file": "contents"}


def test_the_environ_is_that_of_a_wsgi_server(gateway: Gateway, client: RawClient) -> None:
    headers = [("X-Twice", "a"), ("X-Twice", "b"), ("X_Twice", "forged"), ("X-Odd", "é")]
    client.send(request(gateway, "GET", "/environ/a%2Fb/%C3%A9%20%FF?q=1&q=%C3%BC+2", headers))
    assert client.read_response().json == {
        "path": "/environ/a/b/é �",
        "rest": "a/b/é �",
        "query": {"q": ["1", "ü 2"]},
        "odd": {"X-Twice": "a,b", "X-Odd": "é"},
        "host": f"{gateway.host}:{gateway.port}",
        "scheme": "http",
        "remote": "127.0.0.1",
    }


@pytest.mark.parametrize("target", ["/echo", "/echo-async"])
def test_expect_100_continue_is_answered_before_the_body(gateway: Gateway, client: RawClient, target: str) -> None:
    client.send(request(gateway, "POST", target, {"Expect": "100-continue", "Content-Length": "4"}))
    assert client.read_head().status == 100
    client.send(b"body")
    assert client.read_response().body == b"body"


# Answers


@pytest.mark.parametrize("target", ["/sync", "/async", "/large"])
def test_head_has_no_body(gateway: Gateway, client: RawClient, target: str) -> None:
    client.send(request(gateway, "HEAD", target))
    head = client.read_head()
    length = head.headers.first("content-length")
    assert (head.status, length) == (200, str(len(get(gateway, target).body)))
    client.send(request(gateway, "GET", "/sync"))
    assert client.read_response().status == 200


def test_204_has_no_body(gateway: Gateway, client: RawClient) -> None:
    client.send(request(gateway, "GET", "/empty"))
    head = client.read_head()
    assert (head.status, head.headers.all("transfer-encoding")) == (204, [])
    client.send(request(gateway, "GET", "/sync"))
    assert client.read_response().status == 200


def test_a_large_answer_comes_whole_to_a_slow_reader(gateway: Gateway) -> None:
    with connect(gateway, receive_buffer_bytes=4096) as client:
        client.send(request(gateway, "GET", "/large"))
        assert client.read_response().body == bytes(range(256)) * (LARGE_BYTES // 256)


def test_a_header_may_be_given_twice(gateway: Gateway) -> None:
    cookies = get(gateway, "/cookies").headers.all("set-cookie")
    assert [cookie.split(";")[0] for cookie in cookies] == ["one=1", "two=2"]


# Connections


@pytest.mark.parametrize("target", ["/sync", "/async", "/nowhere", "/stream", "/empty", "/raise-async/odd"])
def test_a_connection_serves_several_requests(gateway: Gateway, client: RawClient, target: str) -> None:
    bodies = []
    for _ in range(3):
        client.send(request(gateway, "GET", f"{target}?name=x"))
        bodies.append(client.read_response().body)
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize("target", ["/echo", "/echo-async"])
def test_a_connection_serves_several_bodies(gateway: Gateway, client: RawClient, target: str) -> None:
    for body in (b"one", b"x" * 300_000, b"three"):
        client.send(request(gateway, "POST", target, body=body))
        assert client.read_response().body == body


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, client: RawClient) -> None:
    targets = ["/async?name=1", "/stream?name=2", "/sync?name=3", "/stream-from-async?name=4", "/async?name=5"]
    client.send(b"".join(request(gateway, "GET", target) for target in targets))
    answers = [client.read_response().body.decode().splitlines()[-1] for _ in targets]
    assert answers == ["async 1 1", f"2 {MANY_PIECES - 1} before", "sync 3", "4 2", "async 5 5"]


def test_pipelined_bodies_are_kept_apart(gateway: Gateway, client: RawClient) -> None:
    bodies = [b"first", b"second" * 20_000, b"third"]
    client.send(b"".join(request(gateway, "POST", "/echo-async", body=body) for body in bodies))
    assert [client.read_response().body for _ in bodies] == bodies


def test_connection_close_is_honoured(gateway: Gateway, client: RawClient) -> None:
    client.send(request(gateway, "GET", "/async", {"Connection": "close"}))
    assert client.read_response().headers.first("connection") == "close"
    assert client.read_to_eof() == b""
