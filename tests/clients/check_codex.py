"""Codex CLI, headless, over an upstream that speaks Chat Completions only: it writes a file and says so."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.bed import adapter, yaml
from tests.support import (
    Close,
    Gateway,
    Script,
    ScriptedUpstream,
    Seen,
    error,
    reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .codex import run_codex

TEXT = "Hello from the model\n"
PATCH = f"*** Begin Patch\n*** Add File: hello.txt\n+{TEXT}*** End Patch\n"
SHELL = json.dumps({"cmd": f"printf '{TEXT.strip()}\\n' > hello.txt"})
#: A name that Codex does not know, and two that it does; each gets other tools from it.
PLAIN, EDITOR, NEWEST = "my-model", "gpt-5.5", "gpt-6.2-sol"
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def codex(npm_install: Callable[[str], Path]) -> Path:
    """The command."""
    return npm_install("@openai/codex") / "codex"


class Bench:
    """A gateway over a scripted upstream, and a folder for Codex to work in."""

    def __init__(self, command: Path, gateway: Gateway, upstream: ScriptedUpstream, home: Path) -> None:
        self.upstream = upstream
        self.work = home / "work"
        self._command = command
        self._gateway = gateway
        self._home = home

    def run(self, model: str, *more: str, provider: str = "") -> "subprocess.CompletedProcess[str]":
        """Have Codex write a file."""
        arguments = "--dangerously-bypass-approvals-and-sandbox", *more, "Write hello.txt"
        return run_codex(
            self._command, self._home, self._gateway, model, *arguments, provider=provider, timeout_s=TIMEOUT_S
        )

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Methods and paths that Codex asked for, with their statuses."""
        return [(str(each["method"]), str(each["status"])) for each in self._gateway.call_records()]


@pytest.fixture
def bench(codex: Path, tmp_path: Path) -> Iterator[Bench]:
    with ScriptedUpstream(default=write_a_file) as upstream:
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
        gateway.config_yaml = yaml(
            adapters={"a": adapter(upstream, [PLAIN, EDITOR, NEWEST])},
            server={"host": gateway.host, "port": gateway.port},
        )
        with gateway:
            yield Bench(codex, gateway, upstream, tmp_path)


def names_of(seen: Seen) -> list[str]:
    """The functions that the upstream was offered."""
    return [tool["function"]["name"] for tool in seen.json.get("tools", [])]


def write_a_file(seen: Seen) -> Script:
    """Answer with the call that writes the file, by whichever tool there is; then with a sentence."""
    names = names_of(seen)
    if seen.json["messages"][-1]["role"] == "tool":
        return sse(*text_chunks("I have ", "written it.", usage=tokens(100, 5)))
    if "apply_patch" in names:
        raw = json.dumps({"input": PATCH})
        return sse(*tool_chunks(("apply_patch", raw[:20], raw[20:])))
    if "functions__exec" in names:
        script = f"const r = await tools.exec_command({SHELL}); text(r.output ?? '');"
        return sse(*tool_chunks(("functions__exec", json.dumps({"input": script}))))
    return sse(*tool_chunks(("exec_command", SHELL)))


@pytest.mark.parametrize("model", [PLAIN, EDITOR, NEWEST])
def test_codex_writes_a_file_and_answers(bench: Bench, model: str) -> None:
    done = bench.run(model)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "I have written it."
    assert (bench.work / "hello.txt").read_text() == TEXT
    assert len(bench.upstream.requests) == 2


def test_a_patch_without_json_is_applied(bench: Bench) -> None:
    def answer(seen: Seen) -> Script:
        done = seen.json["messages"][-1]["role"] == "tool"
        return sse(*text_chunks("Done.")) if done else sse(*tool_chunks(("apply_patch", PATCH)))

    bench.upstream.on(EDITOR, answer)

    assert bench.run(EDITOR).returncode == 0
    assert (bench.work / "hello.txt").read_text() == TEXT


def test_a_schema_becomes_the_response_format(bench: Bench, tmp_path: Path) -> None:
    bench.upstream.on(PLAIN, sse(*text_chunks('{"a":1}')))
    schema: dict[str, Any] = {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False
    }  # fmt: skip
    (tmp_path / "schema.json").write_text(json.dumps(schema))

    done = bench.run(PLAIN, "--output-schema", str(tmp_path / "schema.json"))

    assert done.stdout.strip() == '{"a":1}'
    assert bench.upstream.requests[0].json["response_format"]["json_schema"]["schema"] == schema


def test_a_stream_that_is_cut_is_never_an_answer(bench: Bench) -> None:
    bench.upstream.on(PLAIN, sse(*text_chunks("Half an", finish=None), Close(), done=False))

    done = bench.run(PLAIN)

    assert done.returncode != 0
    assert len(bench.paths) == 3  # once, and as often again as `stream_max_retries` says


def test_a_refused_request_is_asked_once(bench: Bench) -> None:
    bench.upstream.on(PLAIN, error(400, {"error": {"message": "No such thing.", "type": "invalid_request_error"}}))

    done = bench.run(PLAIN)

    assert "No such thing." in done.stderr
    assert bench.paths == [("POST", "400")]


def test_a_websocket_is_given_up_after_one_try(bench: Bench) -> None:
    done = bench.run(PLAIN, provider="supports_websockets = true\n")

    assert done.stdout.strip() == "I have written it."
    assert bench.paths == [("GET", "426"), ("POST", "200"), ("POST", "200")]


def test_html_is_not_an_answer(bench: Bench) -> None:
    bench.upstream.on(PLAIN, reply(b"<html></html>", headers={"Content-Type": "text/html"}))

    assert bench.run(PLAIN).returncode != 0
