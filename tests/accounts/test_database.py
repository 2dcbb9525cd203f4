"""One thread, one connection: nobody waits longer than a transaction may take, and a lost connection costs nothing."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from one_api.accounts.database import TRANSACTION_S, Database, DatabaseUnavailable, open_engine, transact
from tests.accounts.relay import Switch
from tests.support.running_time import RunningTime

#: How much longer a transaction may take on a machine that is busy, in seconds: less than another one.
SLACK_S = 1.5
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest_asyncio.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    """A thread for the database of the test."""
    opened = Database(engine, "test")
    yield opened
    await opened.aclose()


async def test_what_is_written_is_read(database: Database) -> None:
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER)")))
    await database.write(lambda c: c.execute(text("INSERT INTO t VALUES (7)")))

    assert await database.read(lambda c: c.scalar(text("SELECT n FROM t"))) == 7


async def test_a_transaction_that_fails_changes_nothing(database: Database, engine: Engine) -> None:
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER)")))
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        await database.write(
            lambda c: [c.execute(text("INSERT INTO t VALUES (7)")), c.execute(text("SELECT * FROM nowhere"))]
        )

    assert await database.read(lambda c: c.scalar(text("SELECT count(*) FROM t"))) == 0


async def test_a_waiter_may_leave_and_the_transaction_goes_on(database: Database) -> None:
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER)")))
    begun = threading.Event()

    def insert(connection: object) -> None:
        begun.set()
        connection.execute(text("INSERT INTO t VALUES (7)"))  # type: ignore[attr-defined]

    waiter = asyncio.ensure_future(database.write(insert))
    await asyncio.to_thread(begun.wait)
    waiter.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiter

    assert await database.read(lambda c: c.scalar(text("SELECT n FROM t"))) == 7


async def test_a_transaction_that_takes_too_long_is_cut(database: Database) -> None:
    with RunningTime() as took, pytest.raises(DatabaseUnavailable):
        await database.read(lambda c: c.scalar(text(ENDLESS)))

    assert took.seconds < TRANSACTION_S + 2
    assert await database.read(lambda c: c.scalar(text("SELECT 1"))) == 1


async def test_a_file_that_another_program_has_locked_is_waited_for_only_so_long(tmp_path: Path) -> None:
    database = Database(open_engine("sqlite", tmp_path), "test")
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER)")))
    other = sqlite3.connect(tmp_path / "one_api.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    for _ in range(2):  # within a connection, and with one that is opened anew
        with RunningTime() as took, pytest.raises(DatabaseUnavailable, match="locked"):
            await database.write(lambda c: c.execute(text("INSERT INTO t VALUES (7)")))
        assert took.seconds < TRANSACTION_S + SLACK_S

    other.rollback()
    other.close()
    await database.write(lambda c: c.execute(text("INSERT INTO t VALUES (7)")))
    await database.aclose()


# PostgreSQL alone


@pytest.fixture
def switch(server: str) -> Iterator[Switch]:
    """A relay in front of the server."""
    url = make_url(server)
    relay = Switch(url.host or "", url.port or 5432)
    yield relay
    relay.close()


@pytest_asyncio.fixture
async def relayed(switch: Switch, server: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A database behind the relay."""
    address = make_url(server).set(port=switch.port).render_as_string(hide_password=False)
    opened = Database(open_engine(address, tmp_path), "test")
    yield opened
    switch.thaw()
    await opened.aclose()


async def test_a_database_that_is_frozen_is_waited_for_only_so_long(relayed: Database, switch: Switch) -> None:
    assert await relayed.read(lambda c: c.scalar(text("SELECT 1"))) == 1
    switch.freeze()
    for _ in range(2):  # within a connection, and while a new one is opened
        with RunningTime() as took, pytest.raises(DatabaseUnavailable):
            await relayed.read(lambda c: c.scalar(text("SELECT 1")))
        assert took.seconds < TRANSACTION_S + SLACK_S

    switch.thaw()
    assert await relayed.read(lambda c: c.scalar(text("SELECT 1"))) == 1


async def test_a_connection_that_was_lost_meanwhile_is_replaced_unseen(server: str, tmp_path: Path) -> None:
    engine = open_engine(server, tmp_path)
    database = Database(engine, "test")
    pid = await database.read(lambda c: c.scalar(text("SELECT pg_backend_pid()")))

    assert transact(engine, lambda c: c.scalar(text(f"SELECT pg_terminate_backend({pid}, 30000)")))

    assert await database.read(lambda c: c.scalar(text("SELECT pg_backend_pid()"))) != pid
    await database.aclose()
