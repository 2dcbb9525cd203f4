"""Codex CLI, headless, with a home of its own and the gateway for its provider."""

import os
import subprocess
from pathlib import Path

from tests.support import Gateway


def run_codex(
    command: Path, home: Path, gateway: Gateway, model: str, *arguments: str, provider: str = "", timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run ``codex exec`` in the new folder ``work`` of its home; ``provider`` are further settings of the provider."""
    work = home / "work"
    work.mkdir()
    (home / "config.toml").write_text(
        f'model = "{model}"\nmodel_provider = "gw"\ncheck_for_update_on_startup = false\n'
        "[analytics]\nenabled = false\n"
        f'[model_providers.gw]\nname = "gw"\nbase_url = "{gateway.base_url}"\nenv_key = "GW_KEY"\n'
        f'wire_api = "responses"\nrequest_max_retries = 1\nstream_max_retries = 2\n{provider}'
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "GW_KEY": "test-key"}
    return subprocess.run(
        [str(command), "exec", "--skip-git-repo-check", "-C", str(work), *arguments],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
