"""Claude Code, headless, over an upstream that knows chat only and over Claude: it writes a file and says so."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.messages_bed import MessagesBed, running_messages_bed
from tests.support import (
    Close,
    Script,
    Seen,
    claude_error,
    claude_events,
    claude_sse,
    completion,
    error,
    error_body,
    json_reply,
    sse,
    text_block,
    text_chunks,
    thinking_block,
    tokens,
    tool_block,
    tool_chunks,
)

from .claude_code import run_claude_code

TEXT = "Hello from the model\n"
SAID = "I have written it."
TIMEOUT_S = 240.0


@pytest.fixture(scope="module")
def claude_code(npm_install: Callable[[str], Path]) -> Path:
    """The command."""
    return npm_install("@anthropic-ai/claude-code") / "claude"


class Bench:
    """A gateway over scripted upstreams, and a folder for Claude Code to work in."""

    def __init__(self, command: Path, doors: MessagesBed, home: Path) -> None:
        self.doors = doors
        self.work = home / "work"
        self._command = command
        self._home = home

    @property
    def file(self) -> Path:
        """What it is to write."""
        return self.work / "hello.txt"

    def run(self, model: str) -> "subprocess.CompletedProcess[str]":
        """Have Claude Code write a file."""
        asked = f"Write {self.file}", "--allowedTools", "Write"
        return run_claude_code(self._command, self._home, self.doors.gateway, model, *asked, timeout_s=TIMEOUT_S)

    def write(self) -> str:
        """The input of the call that writes the file."""
        return json.dumps({"file_path": str(self.file), "content": TEXT})

    @property
    def statuses(self) -> list[Any]:
        """The statuses of the messages that it asked for."""
        records = self.doors.gateway.call_records()
        return [each["status"] for each in records if each["path"] == "/v1/messages"]


@pytest.fixture
def bench(claude_code: Path, tmp_path: Path) -> Iterator[Bench]:
    with running_messages_bed() as doors:
        yield Bench(claude_code, doors, tmp_path)


def result(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """What Claude Code printed."""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_done(messages: list[Any]) -> bool:
    """Whether a history holds the result of the call, in either dialect."""
    return '"tool_result"' in json.dumps(messages) or any(message["role"] == "tool" for message in messages)


def test_it_writes_a_file_with_a_model_that_knows_chat_only(bench: Bench) -> None:
    def answer(seen: Seen) -> Script:
        usage = tokens(100, 5)
        if is_done(seen.json["messages"]):
            return sse(*text_chunks("I have ", "written it.", usage=usage))
        raw = bench.write()
        thinking = {**text_chunks()[0], "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]}
        return sse(thinking, *tool_chunks(("Write", raw[:9], raw[9:]), usage=usage))

    model = bench.doors.model()
    bench.doors.o.on(model, answer)

    done = bench.run(model)

    assert done.returncode == 0, done.stdout + done.stderr
    assert result(done)["result"] == SAID
    assert bench.file.read_text() == TEXT
    assert set(bench.statuses) == {200}
    sent = bench.doors.sent_to("o", model)
    assert not sent.keys() & {"context_management", "thinking", "output_config", "system", "metadata"}
    assert "DeferredToolPlaceholder" not in json.dumps(sent.get("tools"))
    assert "x-anthropic-billing-header" not in json.dumps(sent)


def test_it_writes_a_file_with_claude(bench: Bench) -> None:
    def answer(seen: Seen) -> Script:
        model = seen.model
        if is_done(seen.json["messages"]):
            return claude_sse(*claude_events(text_block("I have ", "written it."), model=model))
        raw = bench.write()
        blocks = thinking_block("Hm."), tool_block("toolu_1", "Write", raw[:9], raw[9:])
        return claude_sse(*claude_events(*blocks, stop="tool_use", model=model))

    model = bench.doors.model("claude")
    bench.doors.a.on(model, answer)

    done = bench.run(model)

    assert done.returncode == 0, done.stdout + done.stderr
    assert result(done)["result"] == SAID
    assert bench.file.read_text() == TEXT
    seen = bench.doors.last(model)
    assert "claude-code-" in (seen.headers.first("anthropic-beta") or "")
    assert "context_management" in seen.json


def test_a_stream_that_is_cut_is_asked_again_without_one(bench: Bench) -> None:
    def answer(seen: Seen) -> Script:
        if seen.json.get("stream"):
            return sse(*text_chunks("Half an", finish=None), Close(), done=False)
        return json_reply(completion(SAID, model=seen.model))

    model = bench.doors.model()
    bench.doors.o.on(model, answer)

    done = bench.run(model)

    assert result(done)["result"] == SAID


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            error_body("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 "
                       "tokens.", "invalid_request_error", "context_length_exceeded"),
            "rompt is too long",
        ),
        (500, None, "The upstream failed"),
    ],
)  # fmt: skip
def test_what_cannot_be_mended_is_asked_once(bench: Bench, status: int, body: Any, words: str) -> None:
    model = bench.doors.model()
    bench.doors.o.on(model, error(status, body))

    done = bench.run(model)

    assert words in done.stdout + done.stderr
    assert len(bench.statuses) <= 2


def test_a_refusal_of_claude_reaches_it(bench: Bench) -> None:
    model = bench.doors.model("claude")
    said = "messages.0.content.0: text content blocks must be non-empty"
    bench.doors.a.on(model, claude_error(400, "invalid_request_error", said))

    assert said in bench.run(model).stdout
