"""The exit codes in ``docs/serving.md`` are those that the programs end with, each by a cause of its own."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.bed import ADMIN_KEY, running_bed, yaml
from tests.serving.clients import wait_until
from tests.support import free_port, freeze
from tests.support.launcher import REPOSITORY, run_program

SERVER = ("gunicorn", "-c", "gunicorn.conf.py")


def documented() -> set[tuple[str, int]]:
    """The codes in the table, by what ends with them; of several programs the first is named."""
    page = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
    table = page.partition("### Exit codes")[2].partition("\n## ")[0]
    found, of = set(), ""
    for row in re.findall(r"^\| (.*?)\| ([\d, ]+) \|", table, re.MULTILINE):
        of = row[0].strip().partition("`, ")[0].strip("`") or of
        found |= {(of, int(code)) for code in row[1].split(",")}
    return found


def ended(*command: str, **env: str) -> int:
    """The code that a program ends with, in an environment made from scratch."""
    clean = {
        "PATH": os.environ.get("PATH", os.defpath),
        "ONE_API_ENV_FILE": os.devnull,
        "LOCAL_MODELS_ENABLED": "false",
    }
    return run_program(*command, env=clean | {"DATABASE_URL": "none", **env}).returncode


def reloaded(**settings: object) -> int:
    """What ``config reload`` ends with at a gateway of two processes, after a change of the listening side."""
    frozen = settings.pop("frozen", False)
    with running_bed({"workers": 2}) as bed:
        pids = bed.gateway.worker_pids(at_least=2)
        # One that is stopped before it can be asked does not count.
        wait_until(lambda: len(bed.get("/admin/config", key=ADMIN_KEY).json["processes"]) == 2, "both to answer")
        text = bed.gateway.config_path.read_text()
        bed.gateway.config_path.write_text(text.replace('"workers": 2', yaml(workers=2, **settings)[1:-1]))
        if frozen:
            freeze(pids[0])
        try:
            command = ("one_api", "config", "reload", "--timeout", "2" if frozen else "30")
            done = run_program(*command, env=bed.gateway.environment)
        finally:
            os.kill(pids[0], signal.SIGCONT)
        return done.returncode


def served(tmp_path: Path) -> int:
    """What the server ends with when it is asked to end."""
    with running_bed() as bed:
        bed.gateway.terminate()
        return bed.gateway.wait()


CAUSES: dict[tuple[str, int], Callable[[Path], int]] = {
    ("every command", 0): lambda _: ended("one_api", "check"),
    ("every command", 1): lambda _: ended("one_api", "check", PORT="many"),
    ("every command", 2): lambda _: ended("one_api", "check", "--no-such-option"),
    ("config reload", 3): lambda _: reloaded(backlog=5),
    ("config reload", 4): lambda _: reloaded(heartbeat_s=7, frozen=True),
    ("gunicorn wsgi:app", 0): served,
    ("gunicorn wsgi:app", 1): lambda _: ended(*SERVER, "wsgi:app", PORT="many"),
    ("gunicorn wsgi:app", 3): lambda _: ended(*SERVER, "no_such_module:app", PORT=str(free_port())),
    ("python -m one_api.alive", 0): lambda _: alive(),
    ("python -m one_api.alive", 1): lambda _: ended("one_api.alive", f"127.0.0.1:{free_port()}"),
    ("python -m one_api.alive", 2): lambda _: ended("one_api.alive", "one", "two"),
}


def alive() -> int:
    """What the health check ends with at a gateway that is alive."""
    with running_bed() as bed:
        return ended("one_api.alive", f"{bed.gateway.host}:{bed.gateway.port}")


def test_every_code_in_the_table_is_tried() -> None:
    assert documented() == set(CAUSES)


@pytest.mark.parametrize(("of", "code"), CAUSES)
def test_a_program_ends_with_its_code(of: str, code: int, tmp_path: Path) -> None:
    assert CAUSES[of, code](tmp_path) == code


@pytest.mark.parametrize(
    "command",
    [["doctor"], ["check", "--strict"], ["config", "reload"], ["chat", "Hi"], ["route", "explain", "m"]],
    ids=" ".join,
)
def test_what_cannot_be_done_is_1(command: list[str]) -> None:
    nowhere = str(free_port())
    env = {"PORT": nowhere, "ADMIN_KEY": ADMIN_KEY, "OPENAI_BASE_URL": f"http://127.0.0.1:{nowhere}/v1"}
    slip = {"OPENAI_KEY": "k"} if "--strict" in command else {}

    assert ended("one_api", *command, API_KEYS="sk-0123456789abcdef", **env, **slip) == 1
