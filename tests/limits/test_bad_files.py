"""Limits hold, and nobody dies, when the shared file is deleted, cut short, locked, foreign or without room."""

import contextlib
import fcntl
import itertools
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_api.breaker import OPEN_S, Breaker
from one_api.limits.shared import SharedStore
from one_api.limits.stores import LimitStore
from one_api.limits.window import Limits
from tests.support.clock import Clock
from tests.support.loop_time import LoopTime, passes_beside

LIMITS = Limits(30, tokens_per_minute=3000)
_LEASES = itertools.count(1)


def shared(folder: Path, spare: Path | None = None, processes: int = 2, breaker: Breaker | None = None) -> SharedStore:
    return SharedStore(folder, "test", spare, lambda: processes, breaker)


async def let_in(store: LimitStore, count: int, limits: Limits = LIMITS) -> int:
    """Ask so often; returns how often it was let in."""
    verdicts = [(await store.take("k", limits, 10, next(_LEASES)))[0] for _ in range(count)]
    return sum(verdict.refused_by is None for verdict in verdicts)


def the_file(folder: Path) -> Path:
    (file,) = folder.glob("limits-*.bin")
    return file


def cut_short(file: Path) -> None:
    os.truncate(file, 0)


def cut_in_the_middle(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 + 9)


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def replaced(file: Path) -> None:
    file.rename(file.with_suffix(".old"))
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def folder_deleted(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, cut_short, cut_in_the_middle, zeroed, replaced, folder_deleted],
    ids=lambda each: each.__name__,
)
async def test_a_file_that_is_damaged_is_exact_again(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    old, other = shared(tmp_path / "x"), shared(tmp_path / "x")
    admitted = await let_in(old, 10) + await let_in(other, 10)

    damage(the_file(tmp_path / "x"))
    new = shared(tmp_path / "x")
    for store in (other, old, new) * 20:
        admitted += await let_in(store, 1)

    assert admitted == 30
    assert [store.degraded for store in (old, other, new)] == [None] * 3
    for store in (old, other, new):
        await store.aclose()


async def test_a_new_process_that_comes_first_lets_in_no_more_than_it_must(tmp_path: Path) -> None:
    old = shared(tmp_path)
    assert await let_in(old, 40) == 30
    the_file(tmp_path).unlink()
    new = shared(tmp_path)
    assert await let_in(new, 2) == 2  # it cannot know
    assert await let_in(old, 10) == 0
    assert await let_in(new, 10) == 0
    await old.aclose()
    await new.aclose()


async def test_a_process_that_nobody_has_asked_carries_over_what_the_deleted_file_holds(tmp_path: Path) -> None:
    busy, idle = shared(tmp_path), shared(tmp_path)
    assert await let_in(busy, 40) == 30
    the_file(tmp_path).unlink()
    await busy.aclose()  # as if killed: it writes nothing back

    assert await let_in(idle, 40) == 0
    await idle.aclose()


@pytest.mark.parametrize("asked_for", ["nothing", "another key"])
async def test_a_new_process_finds_in_a_new_file_what_the_old_one_held(asked_for: str, tmp_path: Path) -> None:
    busy, idle = shared(tmp_path), shared(tmp_path)
    leased = Limits(30, concurrent=30)
    assert await let_in(busy, 20, leased) == 20
    the_file(tmp_path).unlink()
    await busy.aclose()
    if asked_for == "another key":
        await idle.take("other", LIMITS, 10, 1)
    await idle.look_after()
    await idle.aclose()

    new = shared(tmp_path)
    assert await let_in(new, 40, leased) == 10
    assert (await new.take("k", Limits(100, concurrent=30), 0, next(_LEASES)))[0].refused_by == "concurrent"
    await new.aclose()


@contextlib.contextmanager
def full_file_system(folder: Path) -> Iterator[Path]:
    """A file system without room, mounted at ``folder``."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    try:
        folder.chmod(0o700)
        (folder / "full").write_bytes(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_file_system_means_the_spare_folder_or_the_process(tmp_path: Path) -> None:
    with full_file_system(tmp_path / "full") as full:
        one, two = shared(full, tmp_path / "spare"), shared(full, tmp_path / "spare")
        assert await let_in(one, 20) + await let_in(two, 20) == 30
        assert one.degraded is None

        alone = shared(full)
        assert await let_in(alone, 40) == 15
        assert "No space left" in str(alone.degraded)
        assert not list(full.glob("limits-*"))
        for store in (one, two, alone):
            await store.aclose()


async def test_a_file_system_that_becomes_full_after_a_truncation_stops_nobody(tmp_path: Path) -> None:
    clock = Clock()
    store = shared(tmp_path, breaker=Breaker(clock))
    assert await let_in(store, 10) == 10
    os.truncate(the_file(tmp_path), 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        admitted = await let_in(store, 40)
        assert admitted == 10  # half of what was left
        assert store.degraded
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    clock.now += OPEN_S
    admitted += await let_in(store, 40)
    assert admitted == 20
    assert not store.degraded
    await store.aclose()


async def test_a_held_lock_is_waited_for_with_a_deadline_and_off_the_loop(tmp_path: Path) -> None:
    clock = Clock()
    store = shared(tmp_path, breaker=Breaker(clock))
    holder = os.open(the_file(tmp_path), os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    async with LoopTime() as took:
        admitted, passes = await passes_beside(lambda: let_in(store, 40))
        assert admitted == 15
        assert took.now_s < 5
    assert passes > 40
    assert "lock" in str(store.degraded)
    os.close(holder)
    clock.now += OPEN_S
    assert await let_in(store, 40) == 15
    assert store.degraded is None
    await store.aclose()


def link_to_a_victim(file: Path, victim: Path) -> None:
    file.symlink_to(victim)


def hard_link_to_a_victim(file: Path, victim: Path) -> None:
    file.hardlink_to(victim)


def readable_for_others(file: Path, victim: Path) -> None:
    file.touch()
    file.chmod(0o666)


def another_users(file: Path, victim: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file.touch(0o600)
    os.chown(file, 65534, 65534)


def a_pipe(file: Path, victim: Path) -> None:
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    "trap",
    [link_to_a_victim, hard_link_to_a_victim, readable_for_others, another_users, a_pipe],
    ids=lambda f: f.__name__,
)
async def test_a_file_that_somebody_else_has_put_there_is_not_used(trap: object, tmp_path: Path) -> None:
    assert callable(trap)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    probe = shared(tmp_path / "x")
    file = the_file(tmp_path / "x")
    await probe.aclose()
    file.unlink()
    trap(file, victim)

    store = shared(tmp_path / "x")

    assert await let_in(store, 40) == 15
    assert "remove it" in str(store.degraded) or "symbolic" in str(store.degraded)
    assert victim.read_bytes() == b"precious"
    await store.aclose()
