"""The health check of a container."""

import subprocess
import sys

from tests.support import Gateway, blackhole, free_port

from .tools import ROOT


def alive(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it, behind a proxy that the environment names and that must not be asked."""
    env = {"http_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-m", "one_api.alive", *arguments]
    return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=10)


def test_a_gateway_that_serves_is_alive() -> None:
    with Gateway() as gateway:
        for address in (f"{gateway.host}:{gateway.port}", gateway.url, f"{gateway.base_url}/"):
            done = alive(address)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_that_is_not_there_is_not() -> None:
    done = alive(f"127.0.0.1:{free_port()}")

    assert (done.returncode, "does not answer" in done.stderr) == (1, True)


def test_one_that_does_not_answer_is_not() -> None:
    with blackhole() as url:
        done = alive(url.removeprefix("http://").removesuffix("/v1"))

    assert (done.returncode, "does not answer" in done.stderr) == (1, True)


def test_a_wrong_call_is_told() -> None:
    assert alive("one", "two").returncode == 2
    assert alive("127.0.0.1:none").returncode == 1
