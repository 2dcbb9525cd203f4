"""LiteLLM's proxy beside ours, in a virtual environment of its own and with the settings that make it fastest.

Its documentation's advice for production: errors only in the log, no debugging, the bundled price map instead of a
download at start, no database. Of its three servers (uvicorn, gunicorn, granian) gunicorn was the quickest here.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

from bench.load import ROOT
from bench.servers import Command, clean_environment, free_port
from bench.target import CLIENT_KEY, FAST_MODEL, LOOPBACK, SLOW_MODEL, UPSTREAM_KEY, BenchError, Target

_CACHE = ROOT / "bench" / ".cache"
_VENV = _CACHE / "litellm"
_INSTALL_S = 900.0
_START_S = 180.0
_MASTER_KEY = f"sk-{CLIENT_KEY}"


def install() -> str:
    """Install the newest release unless the cache has one already; returns its version."""
    binaries = _VENV / "bin"
    if not (binaries / "litellm").exists():
        print("installing litellm[proxy] (once) ...", file=sys.stderr, flush=True)
        venv.create(_VENV, with_pip=True, clear=True)
        _output([str(binaries / "pip"), "install", "--quiet", "litellm[proxy]"])
    script = "from importlib.metadata import version; print(version('litellm'))"
    return _output([str(binaries / "python"), "-c", script])


def proxy(upstream_target: Target, workers: int, version: str) -> Command:
    """The proxy in front of the upstream; call `install` first."""
    port = free_port()
    binaries = _VENV / "bin"
    config = _CACHE / "config.yaml"
    config.write_text(json.dumps(_configuration(upstream_target), indent=2))  # JSON is YAML too
    argv = [str(binaries / "litellm"), "--config", str(config), "--host", LOOPBACK, "--port", str(port)]
    argv += ["--num_workers", str(workers), "--run_gunicorn"]
    env = clean_environment(LITELLM_LOG="ERROR", LITELLM_MODE="PRODUCTION", LITELLM_LOCAL_MODEL_COST_MAP="True")
    env["PATH"] = f"{binaries}:{env['PATH']}"
    name = f"LiteLLM {version}, {workers} workers"
    return Command(name, argv, env, Target(port, _MASTER_KEY), "/health/readiness", _START_S)


def _configuration(upstream_target: Target) -> dict[str, object]:
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"{upstream_target.url}/v1",
                "api_key": UPSTREAM_KEY,
            },
        }
        for model in (FAST_MODEL, SLOW_MODEL)
    ]
    return {
        "model_list": models,
        "general_settings": {"master_key": _MASTER_KEY},
        "litellm_settings": {"set_verbose": False, "telemetry": False},
    }


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    if done.returncode:
        raise BenchError(f"{Path(argv[0]).name} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()
