"""Databases of their own for the tests: a file of SQLite, and a schema on a PostgreSQL server if one is there."""

import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from one_api.accounts.database import open_engine
from one_api.accounts.opening import bring_up_to_date, open_database
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig

#: A server on which databases may be made and dropped.
SERVER = os.environ.get("ONE_API_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a new database on the PostgreSQL server."""
    name = f"one_api_test_{secrets.token_hex(4)}"
    try:
        connection = psycopg.connect(f"{SERVER}/postgres", autocommit=True, connect_timeout=30)
    except psycopg.OperationalError:
        pytest.skip(f"there is no PostgreSQL at {SERVER}: set ONE_API_TEST_POSTGRES")
    with connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"{SERVER}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return postgres_schema(request.getfixturevalue("server"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the empty database that the gateways of a module share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('database')}/one_api.db"
    return postgres_schema(request.getfixturevalue("server"))


def postgres_schema(server: str) -> str:
    """The address of a new schema in a database: as empty as a database, and made in no time."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server}?options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"


@pytest.fixture(scope="session")
def with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite whose tables are up to date, to be copied: to make them takes ten times as long."""
    folder = tmp_path_factory.mktemp("tables")
    open_database(DatabaseConfig(url=Storage("sqlite")), folder).dispose()
    return folder / "one_api.db"


@pytest.fixture(scope="session")
def making_tables(server: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    """The statements that make the tables on PostgreSQL, to be repeated: to find them takes five times as long."""
    made: list[tuple[str, Any]] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        if statement.lstrip().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE")):
            made.append((statement, parameters))

    opened = open_engine(Storage(postgres_schema(server)), tmp_path_factory.mktemp("none"))
    event.listen(opened, "before_cursor_execute", note)
    bring_up_to_date(opened, allowed=True)
    opened.dispose()
    return made


@pytest.fixture
def engine(request: pytest.FixtureRequest, address: str, tmp_path: Path, with_tables: Path) -> Iterator[Engine]:
    """A database with its tables."""
    if address.startswith("postgresql"):
        with psycopg.connect(address) as connection:
            for statement, parameters in request.getfixturevalue("making_tables"):
                connection.execute(statement, parameters)
    elif not Path(file := address.removeprefix("sqlite:///")).exists():
        shutil.copy(with_tables, file)
    opened = open_database(DatabaseConfig(url=Storage(address)), tmp_path)
    yield opened
    opened.dispose()
