"""The processes under test: started, waited for, and stopped with everything that they have started themselves."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import ROOT
from bench.target import CLIENT_KEY, LOOPBACK, UPSTREAM_KEY, BenchError, Target

STOP_S = 10.0
"""How long a server may take to end on SIGTERM before it is killed."""

_READY_IN_A_ROW = 10
_POLL_S = 0.05
_UNLIMITED = 100_000_000


@dataclass(frozen=True)
class Command:
    """How to start one server; `ready_path` answers 200 as soon as it can be used."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    target: Target
    ready_path: str
    start_s: float = 30.0
    cwd: Path = ROOT


@dataclass(frozen=True)
class Server:
    """A running server; `pid` is the root of its process tree."""

    name: str
    pid: int
    target: Target


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def get(target: Target, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own; raises OSError or HTTPException when there is none."""
    connection = http.client.HTTPConnection(LOOPBACK, target.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {target.api_key}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def running(command: Command) -> Iterator[Server]:
    """Start a server in a session of its own, wait until it is ready, and leave none of its processes behind."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            try:
                _wait_ready(command, process)
            except BenchError as error:
                log.seek(0)
                raise BenchError(f"{error}\n{log.read()[-4000:].decode(errors='replace')}") from None
            yield Server(command.name, process.pid, command.target)
        finally:
            _stop(process)


def _wait_ready(command: Command, process: subprocess.Popen[bytes]) -> None:
    """Every worker has to be ready, and which one answers is chance: so it must answer well several times in a row."""
    deadline = time.monotonic() + command.start_s
    in_a_row = 0
    while in_a_row < _READY_IN_A_ROW:
        if process.poll() is not None:
            raise BenchError(f"{command.name} ended with {process.returncode} while starting; its last words:")
        if time.monotonic() > deadline:
            raise BenchError(f"{command.name} was not ready within {command.start_s:.0f} s; its last words:")
        status = 0
        with suppress(OSError, http.client.HTTPException):
            status, _ = get(command.target, command.ready_path)
        in_a_row = in_a_row + 1 if status == 200 else 0
        time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def clean_environment(**more: str) -> dict[str, str]:
    """An environment in which no developer's key, proxy or setting reaches a server under test."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # The default is a file of the developer's own.
    return kept | {"DATABASE_URL": "none"} | more


def upstream() -> Command:
    """The scripted upstream."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.upstream", "--port", str(port)]
    return Command("direct", argv, clean_environment(), Target(port, UPSTREAM_KEY), "/stats")


def gateway_environment(upstream_target: Target, port: int, workers: int) -> dict[str, str]:
    """one_api in front of the upstream with everything on: keys, rate limit, log line, validation."""
    return clean_environment(
        ONE_API_ENV_FILE=os.devnull,
        API_KEYS=CLIENT_KEY,
        OPENAI_API_KEY=UPSTREAM_KEY,
        OPENAI_BASE_URL=f"{upstream_target.url}/v1",
        CLAUDE_API_KEY=UPSTREAM_KEY,
        CLAUDE_BASE_URL=upstream_target.url,
        RATE_LIMIT_ENABLED="true",
        RATE_LIMIT_REQUESTS=str(_UNLIMITED),
        LOCAL_MODELS_ENABLED="false",
        HOST=LOOPBACK,
        PORT=str(port),
        WEB_CONCURRENCY=str(workers),
    )


def group(upstream_target: Target) -> Command:
    """One worker of one_api whose model is a group of three deployments, each of them the same upstream."""
    port = free_port()
    argv = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    env = gateway_environment(upstream_target, port, 1)
    env |= {"ONE_API_CONFIG": str(ROOT / "bench" / "group.yaml"), "BENCH_UPSTREAM": f"{upstream_target.url}/v1"}
    return Command("one_api, group of three", argv, env, Target(port), "/ready")


def gateway(upstream_target: Target, workers: int) -> Command:
    """one_api as it is deployed: gunicorn with the repository's gunicorn.conf.py."""
    port = free_port()
    argv = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    name = f"one_api, {workers} worker{'s' if workers > 1 else ''}"
    return Command(name, argv, gateway_environment(upstream_target, port, workers), Target(port), "/ready")


def ledger(upstream_target: Target, file: Path) -> Command:
    """One worker that books each request in a new file of SQLite."""
    command = gateway(upstream_target, 1)
    return replace(command, name="one_api, ledger", env={**command.env, "DATABASE_URL": f"sqlite:///{file}"})


def caching_gateway(upstream_target: Target, config: Path, *, hits: bool) -> Command:
    """One worker with its response cache on, whose configuration is written to `config`.

    Without `hits` every answer is too old at once, and none is shared: each request is looked up, asked, and kept.
    """
    cache = "{enabled: true}" if hits else "{enabled: true, ttl_s: 1.0e-6, single_flight: false}"
    config.write_text(f"cache: {cache}\n")
    command = gateway(upstream_target, 1)
    name = "one_api, cache hits" if hits else "one_api, cache misses"
    return replace(command, name=name, env={**command.env, "ONE_API_CONFIG": str(config)})
