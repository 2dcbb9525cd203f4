"""A database is got ready: by many at once, never by an older program, never with a half-made table."""

import multiprocessing
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, text

from one_api.accounts import tables
from one_api.accounts.database import DatabaseUnavailable, DatabaseUnusable, open_engine, transact
from one_api.accounts.opening import open_database, prepare
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.own_disk import nearly_full, own_disk


def settings(address: str, *, migrate: bool = True) -> DatabaseConfig:
    """The settings for an address."""
    return DatabaseConfig(url=Storage(address), migrate=migrate)


def open_and_close(address: str, folder: str) -> None:
    """What each process does at its start."""
    open_database(settings(address), Path(folder)).dispose()


def test_the_changes_make_the_tables_that_the_statements_expect(engine: Engine) -> None:
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), tables.METADATA)

    assert differences == []


def test_six_processes_at_once_make_the_tables_once(address: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_and_close, args=(address, str(tmp_path))) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)

    assert [process.exitcode for process in processes] == [0] * 6
    engine = open_engine(address, tmp_path)
    assert transact(engine, lambda c: c.scalars(text("SELECT version_num FROM alembic_version")).all()) == [
        tables.REVISION
    ]


@pytest.mark.parametrize("is_there", [False, True], ids=["", "made before"])
def test_the_usage_of_a_key_gets_its_index(engine: Engine, address: str, tmp_path: Path, is_there: bool) -> None:
    changes = ["UPDATE alembic_version SET version_num = '0010'", *([] if is_there else ["DROP INDEX usage_key"])]
    for change in changes:
        transact(engine, partial(Connection.execute, statement=text(change)))

    open_and_close(address, str(tmp_path))

    indexes = {each["name"]: each["column_names"] for each in inspect(engine).get_indexes("usage")}
    assert indexes == {"usage_key": ["key", "span", "start"]}


def test_tables_of_a_newer_program_are_refused(engine: Engine, address: str, tmp_path: Path) -> None:
    transact(engine, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))

    with pytest.raises(DatabaseUnusable, match="newer"):
        open_database(settings(address), tmp_path)
    assert "9999" in (prepare(settings(address), tmp_path) or "")


def test_tables_are_left_alone_where_that_is_configured(address: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="flask --app wsgi db upgrade"):
        open_database(settings(address, migrate=False), tmp_path)

    assert inspect(open_engine(address, tmp_path)).get_table_names() == []


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_database(settings("sqlite"), tmp_path / "instance").dispose()

    assert (tmp_path / "instance/one_api.db").stat().st_mode & 0o777 == 0o600


def test_a_gateway_without_a_place_for_its_own_file_starts(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("a file where the folder should be")

    assert prepare(settings("sqlite"), tmp_path / "instance") is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:////nowhere/at/all.db", "Read-only|No such|Permission|cannot be opened"),
        ("postgresql://alice:secret@127.0.0.1:1/none", "cannot be used"),
        ("mysql://127.0.0.1/none", "mysql"),
    ],
)
def test_an_address_that_was_given_and_is_wrong_is_told_without_its_password(
    address: str, said: str, tmp_path: Path
) -> None:
    if address.startswith("sqlite"):
        (tmp_path / "file").touch()
        address = f"sqlite:///{tmp_path}/file/at/all.db"
    problem = prepare(settings(address), tmp_path)

    assert problem is not None
    assert re.search(said, problem)
    assert "secret" not in problem


def test_a_file_that_is_there_and_cannot_be_written_now_is_unavailable_and_not_given_up(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/one_api.db"
    open_and_close(address, str(tmp_path))
    file = tmp_path / "one_api.db"
    if subprocess.run(["chattr", "+i", file], check=False, capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here: run the tests as root")
    try:
        with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
            open_database(settings(address), tmp_path)
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


@pytest.mark.parametrize("left_kib", [0, 9])
def test_a_disk_that_is_nearly_full_makes_a_file_unavailable_and_kills_no_process(left_kib: int) -> None:
    with own_disk() as disk:
        address = f"sqlite:///{disk}/one_api.db"
        open_and_close(address, str(disk))

        with nearly_full(disk, left_kib), ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as apart:
            opened = apart.submit(open_and_close, address, str(disk))
            assert isinstance(opened.exception(), DatabaseUnavailable)

        open_and_close(address, str(disk))


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary, " * 1000)

    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        open_database(settings(f"sqlite:///{tmp_path}/notes.txt"), tmp_path)
