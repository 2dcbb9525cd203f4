"""Several processes behind one address, however gunicorn was started: limits they share, and what each knows."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.commands.test_cli import run
from tests.support import Gateway, ScriptedUpstream, free_port, freeze

from .bed import ADMIN_KEY, Bed, adapter, yaml

LIMIT = 6


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@contextlib.contextmanager
def workers(upstream: ScriptedUpstream, count: int, env: dict[str, str], **rate_limit: Any) -> Iterator[Bed]:
    """A gateway with so many processes, each of which is up."""
    limits = {"requests_per_minute": LIMIT, **rate_limit}
    config = yaml(adapters={"a": adapter(upstream, ["m"])}, rate_limit=limits)
    with Gateway(env=env, config_yaml=config) as gateway:
        bed = Bed(gateway, {"a": upstream})
        pids = gateway.worker_pids(at_least=count)
        assert len(pids) == count
        for pid in pids:
            with alone(bed, pid):
                bed.get("/health", key=None)
        yield bed


@contextlib.contextmanager
def alone(bed: Bed, pid: int) -> Iterator[None]:
    """Let one process serve everything, by holding the others."""
    others = [each for each in bed.gateway.worker_pids() if each != pid]
    for each in others:
        freeze(each)
    try:
        yield
    finally:
        for each in others:
            os.kill(each, signal.SIGCONT)


def admitted(bed: Bed, pid: int, questions: int = LIMIT + 1) -> int:
    """How many of some questions one process lets in."""
    with alone(bed, pid):
        return [bed.get("/v1/models").status for _ in range(questions)].count(200)


WAYS = {
    "argument": {"GUNICORN_CMD_ARGS": "-w 2"},
    "long argument": {"GUNICORN_CMD_ARGS": "--workers=2", "WEB_CONCURRENCY": "1"},
    "variable": {"WEB_CONCURRENCY": "2"},
    "more than planned": {"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "-w 3"},
    "another worker": {"GUNICORN_CMD_ARGS": "-w 2 -k gthread --threads 2"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_is_exact_whatever_way_the_processes_were_asked_for(upstream: ScriptedUpstream, way: str) -> None:
    with workers(upstream, 3 if way == "more than planned" else 2, WAYS[way]) as bed:
        first, *others = bed.gateway.worker_pids()

        assert admitted(bed, first, LIMIT - 2) == LIMIT - 2
        assert sum(admitted(bed, pid) for pid in others) == 2
        assert admitted(bed, first) == 0


def test_a_process_that_is_added_later_shares_the_limit(upstream: ScriptedUpstream) -> None:
    with workers(upstream, 1, {}) as bed:
        (first,) = bed.gateway.worker_pids()
        assert admitted(bed, first, 4) == 4

        os.kill(bed.gateway.pid, signal.SIGTTIN)
        (second,) = set(bed.gateway.worker_pids(at_least=2)) - {first}

        assert admitted(bed, second) == LIMIT - 4


def test_without_redis_each_process_has_its_share(upstream: ScriptedUpstream) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with workers(upstream, 2, {"GUNICORN_CMD_ARGS": "-w 2"}, storage=nowhere) as bed:
        first, second = bed.gateway.worker_pids()
        assert [admitted(bed, first), admitted(bed, second)] == [LIMIT // 2, LIMIT // 2]

        os.kill(bed.gateway.pid, signal.SIGTTIN)
        (third,) = set(bed.gateway.worker_pids(at_least=3)) - {first, second}

        assert admitted(bed, third) == LIMIT // 3


def test_a_route_is_explained_with_what_every_process_knows(upstream: ScriptedUpstream) -> None:
    with workers(upstream, 3, {"GUNICORN_CMD_ARGS": "-w 3"}, enabled=False) as bed:
        pids = bed.gateway.worker_pids()
        ids = []
        for pid in pids:
            with alone(bed, pid):
                ids.append(bed.ask("m").header("x-request-id"))

        told = bed.get("/admin/routes/m", key=ADMIN_KEY).json

        assert sorted([told["process"], *(each["process"] for each in told["others"])]) == sorted(pids)
        assert told["processes"] == 3
        assert [record["request_id"] for record in told["recent"]] == ids[::-1]


def test_the_command_shows_every_process_at_the_address_it_is_given(upstream: ScriptedUpstream) -> None:
    with workers(upstream, 2, {"WEB_CONCURRENCY": "2"}, enabled=False) as bed:
        pids = bed.gateway.worker_pids()
        for pid in pids:
            with alone(bed, pid):
                assert bed.ask("m").status == 200

        done = run("route", "explain", "m", "--url", bed.gateway.base_url, env={"ADMIN_KEY": ADMIN_KEY, "PORT": "1"})

        assert done.returncode == 0, done.stderr
        assert all(f"process {pid}, one of 2" in done.stdout for pid in pids)
        assert done.stdout.count("req_") == 2


@pytest.mark.parametrize("url", ["gateway:8000", "file:///etc/passwd", json.dumps("x")])
def test_the_command_refuses_what_is_no_address(url: str) -> None:
    done = run("route", "explain", "m", "--url", url, env={"ADMIN_KEY": "k"})

    assert done.returncode == 1
    assert "http://127.0.0.1:8000" in done.stderr
