"""Nothing that another user has prepared in the shared temporary folder is used, whichever part of us looks for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from one_api.engine.files import EngineFailed, slots_base
from one_api.engine.locks import FileLock
from one_api.engine.settings import EngineSettings
from one_api.limits.shared import SharedStore
from one_api.limits.window import Limits
from one_api.serving.siblings import Siblings
from one_api.settings.private_files import private_folder, user_folder

Trap = Callable[[Path, Path], None]


def a_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)
    if os.geteuid() == 0:
        os.chown(place, 65534, 65534, follow_symlinks=False)
    else:
        pytest.skip("only root can give a link away")


def open_to_others(place: Path, victim: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def another_users(place: Path, victim: Path) -> None:
    place.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(place, 65534, 65534)


def a_file(place: Path, victim: Path) -> None:
    place.write_bytes(b"")


def test_the_users_own_folder_needs_no_name_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    assert user_folder().name == f"one_api-{os.geteuid()}"


TRAPS = pytest.mark.parametrize("trap", [a_link, open_to_others, another_users, a_file], ids=lambda trap: trap.__name__)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir(mode=0o700)
    return folder


@TRAPS
def test_a_foreign_folder_is_refused(trap: Trap, tmp_path: Path, victim: Path) -> None:
    trap(tmp_path / "one_api-us", victim)
    with pytest.raises(OSError, match=r"one_api-us"):
        private_folder(tmp_path / "one_api-us")


@TRAPS
async def test_processes_do_not_meet_in_a_foreign_folder(
    trap: Trap, tmp_path: Path, victim: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trap(tmp_path / "one_api-us", victim)
    siblings = Siblings("8000", tmp_path / "one_api-us" / "processes")

    await siblings.start()

    assert "cannot be asked" in caplog.text
    assert (siblings.count(), await siblings.ask({})) == (1, [])
    assert list(victim.iterdir()) == []


async def test_sockets_that_somebody_else_has_put_there_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "processes"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / f"8000-{os.getppid()}-{os.getppid()}.sock").touch()
    siblings = Siblings("8000", folder)
    await siblings.start()
    assert siblings.count() == 1


@TRAPS
def test_engines_are_not_run_in_a_foreign_folder(trap: Trap, tmp_path: Path, victim: Path) -> None:
    trap(tmp_path / "one_api-us", victim)
    with pytest.raises((EngineFailed, FileExistsError)):
        slots_base(tmp_path / "one_api-us", EngineSettings(), tmp_path / "model.gguf")
    assert list(victim.iterdir()) == []


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="lock"):
        FileLock(tmp_path / "lock").try_acquire()
    assert not (tmp_path / "precious").exists()


@TRAPS
async def test_limits_are_not_kept_in_a_foreign_folder(trap: Trap, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "instance").write_bytes(b"no folder")
    trap(tmp_path / "one_api-us", victim)

    store = SharedStore(tmp_path / "instance", "8000", tmp_path / "one_api-us", lambda: 2)

    admitted = [(await store.take("k", Limits(10), 0, 1))[0].refused_by for _ in range(10)].count(None)
    assert (admitted, list(victim.iterdir())) == (5, [])
    assert store.degraded
    await store.aclose()
