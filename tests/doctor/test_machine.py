"""What the examination finds on this machine: folders, space, descriptors, models and Redis."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RLIM_INFINITY

import pytest
import redis

from one_api.config import Config
from one_api.doctor.finding import Finding, summary, without_secrets
from one_api.doctor.machine import (
    LOW_SPACE,
    NO_SPACE,
    descriptors,
    of_engine,
    of_folder,
    of_local,
    of_models,
    of_redis,
    of_space,
    space,
)
from one_api.settings.adapters import LocalConfig, OpenAIConfig
from one_api.settings.kinds import Storage
from one_api.settings.sections import CacheConfig, RateLimitConfig, ServerConfig
from tests.limits.conftest import OwnRedis, own_redis
from tests.support.gateway import free_port

__all__ = ["own_redis"]


@pytest.mark.parametrize(
    ("free", "state"), [(NO_SPACE - 1, "problem"), (NO_SPACE, "warning"), (LOW_SPACE - 1, "warning"), (LOW_SPACE, "ok")]
)
def test_free_space(free: int, state: str) -> None:
    assert space(Path("models"), free).state == state


@pytest.mark.parametrize(
    ("allowed", "state"), [(1024, "warning"), (20_099, "warning"), (20_100, "ok"), (RLIM_INFINITY, "ok")]
)
def test_descriptors_are_compared_with_the_connections(allowed: int, state: str) -> None:
    found = descriptors(ServerConfig(max_connections=10_000), allowed)

    assert found.state == state
    assert "20100" in found.what


def test_a_folder_that_can_be_made_is_ok(tmp_path: Path) -> None:
    assert of_folder(tmp_path / "a" / "b").state == "ok"


def test_a_file_in_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    assert of_folder(tmp_path / "a" / "b").state == "problem"


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "ok"), (0o777, "warning"), (0o1777, "ok")])
def test_a_folder_that_everybody_can_write_is_a_warning(tmp_path: Path, mode: int, state: str) -> None:
    tmp_path.chmod(mode)

    assert of_folder(tmp_path).state == state


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_of_another_user_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    assert of_folder(tmp_path).state == "warning"


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder on a file system of its own, mounted with the options that the test gives."""
    command = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("small_disk", ["size=10m,ro"], indirect=True)
def test_a_read_only_file_system_is_a_warning_with_its_own_cure(small_disk: Path) -> None:
    for folder in (small_disk, small_disk / "instance"):
        found = of_folder(folder)
        assert found.state == "warning"
        assert "read-only" in found.what
        assert "chown" not in found.fix


@pytest.mark.parametrize("small_disk", ["size=1m"], indirect=True)
def test_a_full_disk_is_a_problem(small_disk: Path) -> None:
    (small_disk / "all").write_bytes(b"x" * (1 << 20))
    found = of_space(small_disk)
    assert (found.state, found.what) == ("problem", "0 MiB are free on its disk")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_whoever_makes_a_folder_is_not_told_to_give_away_the_one_above() -> None:
    code = "from pathlib import Path; from one_api.doctor.machine import of_folder; print(of_folder(Path('/none/x')))"
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("warning")
    assert "`mkdir -p /none/x && chown 65534 /none/x`" in done.stdout


def test_the_engine_can_be_imported() -> None:
    assert of_engine().state == "ok"


def test_model_files_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"broken-{number}.gguf").write_bytes(b"no model")

    found = list(of_models("here", LocalConfig(models_dir=str(tmp_path))))

    assert {each.state for each in found} == {"warning"}
    assert "broken-0.gguf" in found[1].what
    assert "2 more files" in found[-1].what


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_local_adapter_without_models_is_a_warning(tmp_path: Path, folder: str) -> None:
    (found,) = of_models("here", LocalConfig(models_dir=str(tmp_path / folder)))

    assert (found.state, "python -m one_api models fetch" in found.fix) == ("warning", True)


@pytest.mark.parametrize(("others", "problems"), [({}, 1), ({"eu": OpenAIConfig()}, 0)])
def test_a_gateway_that_can_serve_nothing_has_a_problem(
    tmp_path: Path, others: dict[str, OpenAIConfig], problems: int
) -> None:
    config = Config(adapters={"here": LocalConfig(models_dir=str(tmp_path)), **others})

    assert sum(each.state == "problem" for each in of_local(config)) == problems


# Redis


def configured(url: str, timeout_s: float = 5.0) -> Config:
    """A configuration whose limits and cache are in a Redis."""
    limits = RateLimitConfig(storage=Storage(url), storage_timeout_s=timeout_s)
    return Config(rate_limit=limits, cache=CacheConfig(enabled=True, storage=Storage(url), storage_timeout_s=timeout_s))


def test_a_redis_that_answers_is_ok_with_its_latency(own_redis: OwnRedis) -> None:
    found = list(of_redis(configured(own_redis[0])))

    assert [(each.where, each.state) for each in found] == [("rate_limit.storage", "ok"), ("cache.storage", "ok")]
    assert all(" ms" in each.what for each in found)


def test_a_redis_that_is_slower_than_its_setting_is_a_warning(own_redis: OwnRedis) -> None:
    found = next(of_redis(configured(own_redis[0], timeout_s=1e-9)))

    assert (found.state, "rate_limit.storage_timeout_s" in found.fix) == ("warning", True)


@pytest.mark.parametrize(
    "url", ["redis://:pass-word@127.0.0.1:{port}/0", "unix:///nowhere/{port}", "redis://h:x/{port}"]
)
def test_a_redis_that_is_not_there_is_a_problem(url: str) -> None:
    found = next(of_redis(configured(url.format(port=free_port()))))

    assert found.state == "problem"
    assert "pass-word" not in str(found)


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (("redis://", "redis://:wrong-word@"), "Write it into the address"),
        (("/0", "/99"), "number of the database"),
        (("redis://", "rediss://"), "rediss:// only if it uses TLS"),
    ],
    ids=["password", "database", "TLS"],
)
def test_a_redis_that_refuses_has_its_own_cure(change: tuple[str, str], cure: str, own_redis: OwnRedis) -> None:
    url, _ = own_redis
    if "wrong-word" in change[1]:
        with redis.Redis.from_url(url) as operator:
            operator.config_set("requirepass", "right-word")
    found = next(of_redis(configured(url.replace(*change))))
    assert found.state == "problem"
    assert cure in found.fix
    assert "-word" not in str(found)


@pytest.mark.parametrize(
    ("commands", "cure"),
    [
        (["REPLICAOF 127.0.0.1 1"], "Name its primary"),
        (["CONFIG SET maxmemory 1"], "Raise its `maxmemory`"),
        (["ACL SETUSER default -@scripting"], "ACL SETUSER"),
        (["ACL SETUSER default resetkeys ~other:*"], "ACL SETUSER"),
    ],
    ids=["a replica", "without memory", "without scripts", "for other keys"],
)
def test_a_redis_that_answers_and_takes_no_counts_has_its_own_cure(
    commands: list[str], cure: str, own_redis: OwnRedis
) -> None:
    with redis.Redis.from_url(own_redis[0]) as operator:
        for command in commands:
            operator.execute_command(*command.split())

    found = list(of_redis(configured(own_redis[0])))

    assert [each.state for each in found] == ["problem", "problem"]
    assert all(cure in each.fix for each in found)


def test_a_redis_that_may_throw_counts_away_is_a_warning_for_limits_alone(own_redis: OwnRedis) -> None:
    with redis.Redis.from_url(own_redis[0]) as operator:
        operator.config_set("maxmemory", "100mb")
        assert {each.state for each in of_redis(configured(own_redis[0]))} == {"ok"}
        operator.config_set("maxmemory-policy", "allkeys-lru")

    limits, cache = of_redis(configured(own_redis[0]))

    assert (limits.state, cache.state) == ("warning", "ok")
    assert "noeviction" in limits.fix


def test_without_redis_nothing_is_asked() -> None:
    assert list(of_redis(Config())) == []


# Lines


def test_a_finding_is_one_printable_line_with_the_cure() -> None:
    found = Finding("warning", "a", "b\n\x1b[31mc", "Do d")

    assert str(found) == "warning  a: b [31mc. Do d"


def test_no_secret_is_in_a_line_wherever_it_came_from() -> None:
    (found,) = without_secrets(
        [Finding("ok", "sk-secret-1", "has sk-secret-12", "Use sk-secret-1")], ["sk-secret-1", "a"]
    )

    assert str(found) == "ok       ***: has ***2. Use ***"


def test_findings_are_counted() -> None:
    one, two = Finding("problem", "a", "b"), Finding("warning", "a", "b")

    assert summary([one, two, two]) == "1 problem, 2 warnings"
    assert summary([]) == "no problem was found"
