"""Servers that imitate Anthropic loosely, over the wire: wrong labels, errors in other words, ends without an end."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from one_api.contract import ChunkStream
from one_api.errors import UpstreamBroken, UpstreamFailed
from one_api.models.adapters.claude import ClaudeAdapter
from one_api.settings.adapters import ClaudeConfig
from tests.support import (
    Close,
    Hang,
    Reset,
    ScriptedUpstream,
    WaitFor,
    claude_bytes,
    claude_events,
    claude_upstream,
    reply,
    sse,
    text_block,
)

MODEL = "claude-opus-5"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
EVENTS = claude_events(text_block("Hel", "lo"))
MESSAGE = {
    "id": "msg_01", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hello"}], "usage": {"input_tokens": 9, "output_tokens": 2},
}  # fmt: skip
BODIES = {"events": claude_bytes(*EVENTS), "whole": json.dumps(MESSAGE, indent=1).encode()}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with claude_upstream(MODEL) as running:
        yield running


@pytest.fixture
async def adapter(upstream: ScriptedUpstream) -> AsyncIterator[ClaudeAdapter]:
    made = ClaudeAdapter("claude", ClaudeConfig(base_url=upstream.root_url, models=(MODEL,)))
    yield made
    await made.aclose()


async def read(adapter: ClaudeAdapter, *, stream: bool) -> tuple[str, list[str | None]]:
    """The words of an answer, and its finish reasons."""
    answer = await adapter.generate_completion(MODEL, MESSAGES, stream=stream)
    if isinstance(answer, dict):
        (choice,) = answer["choices"]
        return choice["message"]["content"], [choice["finish_reason"]]
    async with answer:
        choices = [choice async for chunk in answer for choice in chunk["choices"]]
    words = "".join(choice["delta"].get("content") or "" for choice in choices)
    return words, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


@pytest.mark.parametrize("label", ["text/event-stream", "application/json", "text/plain", None], ids=str)
@pytest.mark.parametrize("body", list(BODIES.values()), ids=list(BODIES))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_bytes_decide_and_not_the_label_or_the_kind_of_success(
    adapter: ClaudeAdapter, upstream: ScriptedUpstream, body: bytes, label: str | None, stream: bool
) -> None:
    upstream.on(MODEL, reply(body, 200 if label else 201, {"Content-Type": label} if label else {}))

    assert await read(adapter, stream=stream) == ("Hello", ["stop"])


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"hello", b"<html></html>", b'{"type":"message_stop"}'])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_is_no_answer_is_an_error(
    adapter: ClaudeAdapter, upstream: ScriptedUpstream, body: bytes, stream: bool
) -> None:
    upstream.on(MODEL, reply(body, 200, {"Content-Type": "application/json"}))

    with pytest.raises(UpstreamBroken):
        await read(adapter, stream=stream)


REPORTS = {
    "a field": b'error: {"code":500,"message":"out of memory"}\n\n',
    "a name": b"event: error\ndata: out of memory\n\n",
    "a detail": b'data: {"detail":"out of memory"}\n\n',
    "a text": b'event: error\ndata: {"type":"error","error":"out of memory"}\n\n',
    "no framing": b'{"type":"error","error":{"type":"api_error","message":"out of memory"}}\n',
    "a stop reason": b'data: {"type":"message_delta","delta":{"stop_reason":"abort"}}\n\n',
}


@pytest.mark.parametrize("report", list(REPORTS.values()), ids=list(REPORTS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_error_before_content_is_raised_at_once(
    adapter: ClaudeAdapter, upstream: ScriptedUpstream, report: bytes, stream: bool
) -> None:
    upstream.on(MODEL, reply(claude_bytes(*EVENTS[:2]) + report, 200, {"Content-Type": "text/event-stream"}))

    with pytest.raises(UpstreamFailed) as caught:
        await adapter.generate_completion(MODEL, MESSAGES, stream=stream)

    assert caught.value.status == 502


@pytest.mark.parametrize("report", list(REPORTS.values()), ids=list(REPORTS))
async def test_an_error_after_content_ends_the_stream_with_it(
    adapter: ClaudeAdapter, upstream: ScriptedUpstream, report: bytes
) -> None:
    is_read = threading.Event()
    upstream.on(MODEL, sse(claude_bytes(*EVENTS[:5]), WaitFor(is_read), report))
    answer = await adapter.generate_completion(MODEL, MESSAGES, stream=True)
    assert isinstance(answer, ChunkStream)

    async with answer:
        first = await answer.read()
        is_read.set()
        with pytest.raises(UpstreamFailed):
            while first and not answer.ended:
                await answer.read()


@pytest.mark.parametrize(
    "ending",
    [[Hang()], [Reset()], [Close()], [b"data: {junk\n\n", Hang()]],
    ids=["silence", "reset", "close", "junk"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_after_the_stop_reason_an_answer_is_complete(
    adapter: ClaudeAdapter, upstream: ScriptedUpstream, ending: list[Any], stream: bool
) -> None:
    upstream.on(MODEL, sse(claude_bytes(*EVENTS[:-1]), *ending, done=False))

    assert await read(adapter, stream=stream) == ("Hello", ["stop"])
