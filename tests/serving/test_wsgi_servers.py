"""The same application answers under any WSGI server: Flask's own, gunicorn's threads and processes, wsgiref."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    Flood,
    Hang,
    RawClient,
    Reset,
    Response,
    ScriptedUpstream,
    WaitFor,
    build_request,
    chunk,
    completion,
    error,
    event,
    free_port,
    json_reply,
    post_chat,
    sse,
    text_chunks,
)
from tests.support.launcher import REPOSITORY

from .clients import COMPLAINTS, wait_until

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 10.0

#: How each server is started on a port, and the signal that ends it.
SERVERS: dict[str, tuple[list[str], signal.Signals]] = {
    "flask": (["-m", "flask", "--app", "wsgi", "run"], signal.SIGINT),
    "gthread": (["-m", "gunicorn", "-k", "gthread", "--threads", "4", "wsgi:app"], signal.SIGTERM),
    "sync": (["-m", "gunicorn", "-k", "sync", "wsgi:app"], signal.SIGTERM),
    "wsgiref": (["-m", "tests.serving.apps.wsgiref_server", "{port}"], signal.SIGINT),
}
#: Those that let the application see the connection that waits.
WATCHING = ["flask", "gthread", "sync"]


class Server:
    """One of the servers, running."""

    def __init__(self, name: str, upstream: ScriptedUpstream, directory: Path, *more: str, **variables: str) -> None:
        arguments, self._end = SERVERS[name]
        self.port = free_port()
        self._log = directory / "log"
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            # Werkzeug leaves its listening socket to the collector.
            "PYTHONWARNINGS": "default,ignore:unclosed <socket.socket:ResourceWarning",
            "FLASK_SKIP_DOTENV": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONUNBUFFERED": "1",
            "ONE_API_ENV_FILE": os.devnull,
            "API_KEYS": "test-key",
            "OPENAI_BASE_URL": upstream.base_url,
            "LOCAL_MODELS_ENABLED": "false",
            "RATE_LIMIT_ENABLED": "false",
            "PORT": str(self.port),
            **{name: value.format(port=self.port) for name, value in variables.items()},
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(argument.format(port=self.port) for argument in [*arguments, *more])],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def answers(self) -> bool:
        """Whether it does by now."""
        if self._process.poll() is not None:
            raise AssertionError(f"it ended with {self._process.returncode}:\n{self.log}")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def stop(self) -> int:
        """End it as a person would; returns its exit code."""
        self._process.send_signal(self._end)
        return self._process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["m"]) as started:
        yield started


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that must end clean."""
    started = Server(request.param, upstream, tmp_path_factory.mktemp(request.param))
    try:
        wait_until(started.answers, "an answer", timeout_s=20)
        yield started
        assert started.stop() == 0
        wrong = (*COMPLAINTS, "Traceback", "AssertionError")
        assert [line for line in started.log.splitlines() if any(text in line for text in wrong)] == []
    except AssertionError as failure:
        failure.add_note(f"Its log:\n{started.log}")
        raise
    finally:
        started.kill()


@pytest.fixture(autouse=True)
def hello_again(upstream: ScriptedUpstream) -> None:
    upstream.on("m", sse(*text_chunks("Hel", "lo")))


def open_chat(server: Server, *, stream: bool, key: str | None = "test-key") -> RawClient:
    client = RawClient(HOST, server.port, timeout_s=10)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    client.send(post_chat(HOST, server.port, body, key))
    return client


def get(server: Server, target: str, headers: dict[str, str]) -> Response:
    with RawClient(HOST, server.port, timeout_s=10) as client:
        client.send(build_request("GET", target, HOST, server.port, headers=headers))
        return client.read_response()


def test_a_whole_answer(server: Server, upstream: ScriptedUpstream) -> None:
    upstream.on("m", json_reply(completion("Hello")))
    with open_chat(server, stream=False) as client:
        answer = client.read_response()
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "Hello")


def test_a_stream(server: Server) -> None:
    with open_chat(server, stream=True) as client:
        events = list(client.iter_events(client.read_head()))
    assert len(events) == len(text_chunks("Hel", "lo")) + 1
    assert events[-1] == "data: [DONE]"


def test_events_are_sent_when_they_come(server: Server, upstream: ScriptedUpstream) -> None:
    gate = threading.Event()
    role, first, *others = text_chunks("Hel", "lo")
    upstream.on("m", sse(role, first, WaitFor(gate), *others))
    with open_chat(server, stream=True) as client:
        events = client.iter_events(client.read_head())
        for _ in (role, first):
            next(events)
        gate.set()
        assert list(events)[-1] == "data: [DONE]"


def test_a_broken_stream_ends_with_an_error_event(server: Server, upstream: ScriptedUpstream) -> None:
    upstream.on("m", sse(text_chunks("Hel")[1], Reset()))
    with open_chat(server, stream=True) as client:
        events = list(client.iter_events(client.read_head()))
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "upstream_stream_truncated"


def test_an_upstream_error_before_the_stream_is_a_status(server: Server, upstream: ScriptedUpstream) -> None:
    upstream.on("m", error(400))
    with open_chat(server, stream=True) as client:
        assert client.read_response().status == 400


def test_the_other_routes(server: Server) -> None:
    key = {"Authorization": "Bearer test-key"}
    assert [entry["id"] for entry in get(server, "/v1/models", key).json["data"]] == ["m"]
    assert [get(server, target, key).status for target in ("/health", "/ready", "/nowhere")] == [200, 200, 404]
    with open_chat(server, stream=False, key=None) as client:
        assert client.read_response().status == 401


@pytest.mark.parametrize("server", WATCHING, indirect=True)
@pytest.mark.parametrize("begun", [False, True], ids=["before the first event", "amid the stream"])
def test_a_client_that_leaves_lets_go_of_the_upstream(server: Server, upstream: ScriptedUpstream, begun: bool) -> None:
    upstream.on("m", sse(text_chunks("Hel")[1], Hang()) if begun else [Hang()])
    count = len(upstream.requests)
    with open_chat(server, stream=True) as client:
        seen = upstream.wait_for(count + 1)
        if begun:
            next(client.iter_events(client.read_head()))
    assert seen.closes_within(1.0)
    assert get(server, "/health", {}).status == 200


def test_a_client_that_leaves_a_flood_lets_go_of_the_upstream(server: Server, upstream: ScriptedUpstream) -> None:
    upstream.on("m", sse(Flood(10**12, chunk(event(text_chunks("Hel")[1]) * 100))))
    count = len(upstream.requests)
    with open_chat(server, stream=True) as client:
        next(client.iter_events(client.read_head()))
    assert upstream.wait_for(count + 1).closed.wait(5)
    assert get(server, "/health", {}).status == 200


@pytest.mark.parametrize("server", ["flask"], indirect=True)
def test_flask_logs_each_request_once(server: Server) -> None:
    assert get(server, "/v1/models/nobody-logs-this-twice", {"X-Api-Key": "test-key"}).status == 404

    wait_until(lambda: "nobody-logs-this-twice" in server.log, "the line of the request")
    get(server, "/health", {})
    assert server.log.count("nobody-logs-this-twice") == 1


def test_flask_reports_once_what_it_serves_and_what_is_doubtful(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    server = Server("flask", upstream, tmp_path, ONE_API_ENV_FILE=str(tmp_path / "absent"))
    try:
        wait_until(server.answers, "an answer", timeout_s=20)
        log = server.log
    finally:
        server.kill()

    assert log.count(f"is listening on http://{HOST}:{server.port}\n") == 1
    assert f"(openai, {upstream.base_url})" in log
    assert log.count("warning: ONE_API_ENV_FILE: there is no file") == 1


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["-p", "{port}"], {"PORT": "1"}),
        ([], {"PORT": "1", "FLASK_RUN_PORT": "{port}"}),
    ],
    ids=["option", "flask's variable"],
)
def test_what_flask_is_given_goes_before_the_configuration(
    upstream: ScriptedUpstream, tmp_path: Path, arguments: list[str], variables: dict[str, str]
) -> None:
    server = Server("flask", upstream, tmp_path, *arguments, **variables)
    try:
        wait_until(server.answers, "an answer", timeout_s=20)
    finally:
        server.kill()
