"""What doors share: any writer of events gets the same beginning, heartbeats and true end."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, Response

from one_api.api.bodies import read_body
from one_api.api.request_log import call_context
from one_api.api.snapshot import snapshot
from one_api.api.streaming import stream_response
from one_api.app import create_app
from one_api.config import Config
from one_api.dialects.event_writer import EventWriter
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import GatewayError, UpstreamBroken, UpstreamFailed
from one_api.records import CallRecord
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig, RetryConfig, ServerConfig
from one_api.utils.auth import verify_api_key
from tests.utils.fake_adapter import END, ROLE, FakeAdapter, Scripted, say

Door = Callable[[Scripted], Flask]


class LetterWriter(EventWriter):
    """One letter for each thing that a writer is called for, and the text itself."""

    def begin(self) -> bytes:
        """See ``EventWriter``."""
        return b"<"

    def heartbeat(self) -> bytes:
        """See ``EventWriter``."""
        return b"~"

    def write(self, chunks: list[JSONObject]) -> bytes:
        """See ``EventWriter``: nothing where there is no text."""
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).encode()

    def end(self) -> bytes:
        """See ``EventWriter``."""
        return b">"

    def fail(self, error: GatewayError) -> bytes:
        """See ``EventWriter``."""
        return f"!{error.code}".encode()


@pytest.fixture
def door() -> Door:
    """An application with a door of another dialect, over an adapter that answers as a test says."""

    def build(answer: Scripted) -> Flask:
        server = ServerConfig(commit_s=0.02, heartbeat_s=0.02)
        keys = (KeyConfig(key=Secret("k"), name="alice"),)
        app = create_app(Config(api_keys=keys, server=server, retry=RetryConfig(max_attempts=1)))
        app.extensions["one_api"].registry.register_adapter("fake", FakeAdapter(answer))

        @app.post("/door")
        @verify_api_key
        async def door() -> Response:
            wanted = ChatRequest.of(await read_body())
            context = call_context(wanted.model, stream=True)
            return await stream_response(snapshot().registry.stream(wanted, context), LetterWriter())

        return app

    return build


def ask(app: Flask) -> tuple[int, Iterator[bytes]]:
    """The status of a request at the door, and the pieces of its answer."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    response = app.test_client().post("/door", json=body, headers={"x-api-key": "k"}, buffered=False)
    return response.status_code, iter(response.response)  # type: ignore[arg-type]  # bytes under this server


def record_of(app: Flask) -> CallRecord:
    """The record of the request that has ended."""
    (record,) = app.extensions["one_api"].recent.of("m", 2)
    assert isinstance(record, CallRecord)
    return record


def test_a_whole_answer(door: Door) -> None:
    app = door([ROLE, say("Hel"), say("lo"), END])

    status, pieces = ask(app)

    assert (status, b"".join(pieces)) == (200, b"<Hello>")


def test_an_error_before_the_first_content_has_a_status(door: Door) -> None:
    status, pieces = ask(door(UpstreamFailed("down")))

    assert status == 502
    assert b"upstream_error" in b"".join(pieces)


def test_an_error_after_it_is_the_dialects_own(door: Door) -> None:
    app = door([say("Hel"), UpstreamBroken("cut")])

    status, pieces = ask(app)

    assert (status, b"".join(pieces)) == (200, b"<Hel!upstream_invalid_response")


def test_an_answer_that_is_late_begins_before_its_content(door: Door) -> None:
    app = door(asyncio.Event())

    status, pieces = ask(app)

    assert (status, next(pieces), next(pieces), next(pieces)) == (200, b"<", b"~", b"~")
    pieces.close()  # type: ignore[attr-defined]


def test_a_silent_stream_is_kept_alive(door: Door) -> None:
    status, pieces = ask(door([say("Hel"), asyncio.Event()]))

    assert (status, next(pieces), next(pieces)) == (200, b"<Hel", b"~")
    pieces.close()  # type: ignore[attr-defined]


def test_a_request_ends_once_when_its_stream_has_been_read(door: Door) -> None:
    app = door([say("Hello"), END])

    _, pieces = ask(app)
    assert app.extensions["one_api"].snapshot.requests
    b"".join(pieces)
    pieces.close()  # type: ignore[attr-defined]

    record = record_of(app)
    assert (record.caller, record.status, record.stream, record.deployment) == ("alice", 200, True, "fake/m")
    assert record.usage is not None
    assert not app.extensions["one_api"].snapshot.requests


def test_a_client_that_leaves_ends_it_as_well(door: Door) -> None:
    app = door([say("Hel"), asyncio.Event()])

    _, pieces = ask(app)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]

    assert (record_of(app).status, record_of(app).error) == (499, "cancelled")
