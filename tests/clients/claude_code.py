"""Claude Code, headless, with a home of its own and the gateway for its Anthropic."""

import os
import subprocess
from pathlib import Path

from tests.support import Gateway


def run_claude_code(
    command: Path, home: Path, gateway: Gateway, model: str, *arguments: str, timeout_s: float, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``claude -p`` in the new folder ``work`` of its home; it prints its result as JSON."""
    work = home / "work"
    work.mkdir()
    env = {
        "PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_AUTH_TOKEN": "test-key", "ANTHROPIC_MODEL": model, "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1",
        **environment,
    }  # fmt: skip
    return subprocess.run(
        [str(command), "-p", *arguments, "--output-format", "json"],
        cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
