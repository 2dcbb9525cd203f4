"""What the examination finds at the database: one line each, with the cure and without a secret."""

import contextlib
import os
import secrets
import socket
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from one_api.accounts.opening import open_database
from one_api.accounts.tables import REVISION
from one_api.config import Config
from one_api.doctor.finding import Finding
from one_api.doctor.machine import of_database
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.conftest import SERVER, address, postgres_schema, server
from tests.commands.test_cli import ROOT, config, run, run_in
from tests.support.gateway import free_port

__all__ = ["address", "server"]
PASSWORD = "sekret-of-the-database"


def look(address: str, instance: Path, *, migrate: bool = True) -> Finding:
    """The only finding."""
    (found,) = of_database(Config(database=DatabaseConfig(url=Storage(address), migrate=migrate)), instance)
    assert PASSWORD not in str(found)
    return found


def test_without_a_database_nothing_is_found(tmp_path: Path) -> None:
    assert list(of_database(Config(database=DatabaseConfig(url=Storage("none"))), tmp_path)) == []


@pytest.mark.parametrize("address", ["sqlite", "sqlite:///{}/a/b/own.db"])
def test_a_file_that_can_be_made_is_ok_and_is_not_made(tmp_path: Path, address: str) -> None:
    found = look(address.format(tmp_path), tmp_path / "instance")

    assert found.state == "ok"
    assert "can be made" in found.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("address", "state"), [("sqlite", "warning"), ("sqlite:///{}/one_api.db", "problem")])
def test_a_file_that_cannot_be_made_matters_where_it_was_asked_for(tmp_path: Path, address: str, state: str) -> None:
    folder = tmp_path / "instance"
    folder.write_text("in the way")

    found = look(address.format(folder), folder)

    assert (found.state, found.where) == (state, "database.url")
    assert "is no folder" in found.what
    assert found.fix


def test_tables_that_are_up_to_date(tmp_path: Path, address: str) -> None:
    open_database(DatabaseConfig(url=Storage(address)), tmp_path).dispose()

    assert str(look(address, tmp_path)) == "ok       database.url: it answers, and its tables are up to date"


def test_tables_that_the_next_start_makes(server: str, tmp_path: Path) -> None:
    found = look(postgres_schema(server), tmp_path)

    assert found.state == "ok"
    assert "no tables yet" in found.what


@pytest.mark.parametrize(
    ("revision", "migrate", "state", "says"),
    [
        ("0001", True, "ok", f"are behind (0001 of {REVISION})"),
        ("0001", False, "problem", "flask --app wsgi db upgrade"),
        ("9999", True, "problem", "of a newer one_api (9999)"),
        ("9999", False, "problem", "of a newer one_api (9999)"),
    ],
)
def test_tables_of_another_version(
    address: str, tmp_path: Path, revision: str, migrate: bool, state: str, says: str
) -> None:
    engine = open_database(DatabaseConfig(url=Storage(address)), tmp_path)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    engine.dispose()

    found = look(address, tmp_path, migrate=migrate)

    assert found.state == state
    assert says in str(found)


DAMAGED = {
    "of another program": (b"PK" + bytes(5000), "is damaged, or of another program"),
    "cut off": (b"SQLite format 3\0" + bytes(80), "is damaged, or of another program"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_kept_and_named(tmp_path: Path, name: str) -> None:
    content, says = DAMAGED[name]
    file = tmp_path / "own.db"
    file.write_bytes(content)

    found = look(f"sqlite:///{file}", tmp_path)

    assert found.state == "problem"
    assert says in found.what
    assert file.read_bytes() == content


def test_a_file_that_another_program_holds(tmp_path: Path) -> None:
    file = tmp_path / "own.db"
    open_database(DatabaseConfig(url=Storage(f"sqlite:///{file}")), tmp_path).dispose()
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        found = look(f"sqlite:///{file}", tmp_path)
    finally:
        holder.close()

    assert (found.state, found.what) == ("problem", "another program holds its lock")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a database, that this user cannot write to."""
    if os.geteuid() == 0:
        pytest.skip("root can write everywhere")
    open_database(DatabaseConfig(url=Storage(f"sqlite:///{tmp_path}/own.db")), tmp_path).dispose()
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written(read_only: Path) -> None:
    assert "cannot be written" in look(f"sqlite:///{read_only}/own.db", read_only).what


UNREACHABLE = {
    "refused": ("postgresql://me:{0}@127.0.0.1:{1}/accounts", "nothing listens"),
    "unknown host": ("postgresql://me:{0}@nowhere.invalid/accounts", "its host name is not known"),
    "unknown database": (f"{SERVER}/there_is_no_such", "there is no such database"),
    "unknown user": ("postgresql://nobody_of_that_name:{0}@{2}/postgres", "it does not know the user"),
    "no address": ("mysql://me:{0}@127.0.0.1/accounts", "begins with mysql"),
    "no TLS": ("postgresql://postgres:{0}@{2}/postgres?sslmode=require", "TLS"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_one_that_cannot_be_reached_is_one_line_with_its_cure(server: str, tmp_path: Path, name: str) -> None:
    address, says = UNREACHABLE[name]
    place = urlsplit(SERVER).netloc.rpartition("@")[2]

    found = look(address.format(PASSWORD, free_port(), place), tmp_path)

    assert found.state == "problem"
    assert says in found.what
    assert found.fix


REFUSALS = {
    'password authentication failed for user "me"': "it refuses the user or the password",
    'no pg_hba.conf entry for host "10.0.0.1", user "me"': "it does not let this user in from here",
    "sorry, too many clients already": "it has no connection left",
    "the database system is starting up": "it is starting or ending",
    "something that nobody has thought of": "it cannot be used (OperationalError)",
}


@contextlib.contextmanager
def refusing(message: str) -> Iterator[int]:
    """The port of a server that speaks PostgreSQL, and says only this; nothing if there is nothing to say."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(4096)
                    fields = b"SFATAL\0C28P01\0M" + message.encode() + b"\0\0"
                    client.sendall(b"E" + struct.pack(">i", len(fields) + 4) + fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        if message:
            threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("message", REFUSALS)
def test_one_that_refuses_is_one_line_with_its_cure(tmp_path: Path, message: str) -> None:
    with refusing(message) as port:
        found = look(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/accounts?sslmode=disable", tmp_path)

    assert (found.state, found.what) == ("problem", REFUSALS[message])
    assert found.fix


def test_one_that_is_silent_is_waited_for_with_a_limit(tmp_path: Path) -> None:
    with refusing("") as port:
        found = look(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/accounts", tmp_path)

    assert (found.state, found.what) == ("problem", "it does not answer in time")


def test_a_user_without_rights_is_told_what_to_grant(server: str, tmp_path: Path) -> None:
    host, role = urlsplit(server).netloc.rpartition("@")[2], f"reader_{secrets.token_hex(4)}"
    address = urlsplit(server)._replace(netloc=f"{role}@{host}").geturl()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            found = look(address, tmp_path)
        finally:
            connection.execute(f"DROP ROLE {role}")

    assert (found.state, found.what) == ("problem", "its user may not make tables")


def test_a_standby_is_no_place_to_write(server: str, tmp_path: Path) -> None:
    address = postgres_schema(server)
    open_database(DatabaseConfig(url=Storage(address)), tmp_path).dispose()

    found = look(address + "%20-cdefault_transaction_read_only%3Don", tmp_path)

    assert found.state == "problem"
    assert "takes no writes" in found.what


def test_the_command_says_it_and_keeps_the_password(tmp_path: Path) -> None:
    address = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/accounts"
    done = run("doctor", env={**config(tmp_path, "{}"), "API_KEYS": "sk-x-y-z", "DATABASE_URL": address})

    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "database.url" in line]
    assert line.startswith("problem  database.url: nothing listens at its address. Start it")
    assert PASSWORD not in done.stdout + done.stderr


def test_a_driver_that_is_not_installed_is_one_line_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "psycopg").mkdir()
    (tmp_path / "psycopg" / "__init__.py").write_text("raise ModuleNotFoundError('no psycopg', name='psycopg')")
    variables = {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "DATABASE_URL": f"postgresql://me:{PASSWORD}@127.0.0.1/x",
        "ONE_API_ENV_FILE": os.devnull,
    }  # fmt: skip
    done = run_in(tmp_path, "doctor", **config(tmp_path, "{}"), API_KEYS="sk-x-y-z", **variables)

    (line,) = [line for line in done.stdout.splitlines() if "database.url" in line]
    assert line.startswith("problem  database.url: the database needs the package psycopg. pip install")
    assert PASSWORD not in done.stdout + done.stderr
