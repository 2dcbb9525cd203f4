"""A process that starts while its database is away: it serves, and brings the tables up to date once that is back."""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.engine import make_url

from one_api.accounts import changes
from one_api.accounts.database import open_engine, transact
from one_api.accounts.opening import open_database
from one_api.accounts.service import Accounts
from one_api.accounts.tables import LEDGER, REVISION
from one_api.errors import AccountsUnavailable
from one_api.records import AttemptRecord, CallRecord
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.conftest import postgres_schema
from tests.accounts.relay import Switch
from tests.accounts.test_budgets import gateway_on, until
from tests.api.bed import Bed


class Away:
    """A new database that is away at first. ``address`` is that of processes, ``engine`` is always there."""

    def __init__(self, address: str, engine: Engine, back: Callable[[], None]) -> None:
        self.address = address
        self.engine = engine
        self.back = back

    def count(self) -> int:
        """How many rows the ledger has."""
        return int(transact(self.engine, lambda c: c.scalar(select(func.count()).select_from(LEDGER))) or 0)

    def revision(self, value: str | None = None) -> Any:
        """Which state the tables are in, after it was set to ``value``."""
        if value is not None:
            change = text("UPDATE alembic_version SET version_num = :value")
            transact(self.engine, lambda c: c.execute(change, {"value": value}))
        return transact(self.engine, lambda c: c.scalar(text("SELECT version_num FROM alembic_version")))


@pytest.fixture(params=["sqlite", "postgresql"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str | None], Away]]:
    """Makes such a database: a new one, or one whose tables are of another version."""
    held: list[Any] = []
    if request.param == "sqlite":

        def make(revision: str | None) -> Away:
            address = f"sqlite:///{tmp_path}/away.db"
            found = prepared(address, revision)
            holder = sqlite3.connect(tmp_path / "away.db", isolation_level=None, check_same_thread=False)
            held.append(holder)
            holder.execute("PRAGMA locking_mode=EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            return Away(address, found, holder.close)

    else:
        server = request.getfixturevalue("server")
        url = make_url(server)

        def make(revision: str | None) -> Away:
            address = postgres_schema(server)
            switch = Switch(url.host or "", url.port or 5432)
            held.append(switch)
            switch.break_off()
            relayed = make_url(address).set(port=switch.port).render_as_string(hide_password=False)
            return Away(relayed, prepared(address, revision), switch.restore)

    def prepared(address: str, revision: str | None) -> Engine:
        """A new database with tables of ``revision``, or with none."""
        if revision is None:
            return open_engine(address, tmp_path)
        engine = open_database(DatabaseConfig(url=Storage(address)), tmp_path)
        Away(address, engine, lambda: None).revision(revision)
        if revision == "0008":
            transact(engine, lambda c: c.execute(text("DROP TABLE former_keys")))
        return engine

    yield make
    for each in held:
        each.close()


@pytest_asyncio.fixture
async def started(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts accounts, and closes them after the test."""
    begun: list[Accounts] = []

    async def start(address: str, **settings: Any) -> Accounts:
        accounts = Accounts(DatabaseConfig(url=Storage(address), **settings), tmp_path / "instance")
        begun.append(accounts)
        await accounts.start()
        return accounts

    yield start
    for each in begun:
        await each.aclose()


def book(accounts: Accounts, number: int) -> None:
    """Book a request that was served."""
    record = CallRecord(f"req_{time.time_ns() // 1_000_000:012x}{number:020x}", "POST", "/v1/chat/completions")
    record.caller, record.model, record.status, record.deployment = "alice", "m", 200, "a/m"
    record.attempts = [AttemptRecord("a/m", "ok", 0.1, 0.1, None)]
    record.end(cancelled=False)
    accounts.book(record, None)


async def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for what a thread of the loop's does."""
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("revision", [None, "0008"], ids=["new", "behind"])
async def test_the_tables_are_brought_up_to_date_when_it_is_back(
    away: Callable[[str | None], Away], started: Callable[..., Any], revision: str | None
) -> None:
    database = await asyncio.to_thread(away, revision)
    several = await asyncio.gather(*(started(database.address) for _ in range(3)))
    assert all(each.degraded for each in several)
    for number, each in enumerate(several):
        book(each, number)

    database.back()

    await wait_for(lambda: all(each.degraded is None and each.knows_keys for each in several))
    await wait_for(lambda: database.count() == 3)
    assert database.revision() == REVISION


async def test_tables_that_are_newer_are_not_touched_before_they_are_known(
    away: Callable[[str | None], Away], started: Callable[..., Any]
) -> None:
    database = await asyncio.to_thread(away, "9999")
    accounts = await started(database.address)
    book(accounts, 1)

    database.back()

    await wait_for(lambda: "tables of a newer one_api (9999): run that version" in (accounts.degraded or ""))
    with pytest.raises(AccountsUnavailable):
        await accounts.write(lambda c: changes.create_key(c, "tester", "alice", {}))
    assert not accounts.knows_keys, "it is not said of any key that nobody has it"
    assert (database.count(), database.revision()) == (0, "9999")
    await asyncio.to_thread(database.revision, REVISION)  # a backup was put back
    await wait_for(lambda: accounts.degraded is None and database.count() == 1)


async def test_tables_that_are_newer_at_the_start_are_not_touched_either(
    engine: Engine, address: str, started: Callable[..., Any]
) -> None:
    database = Away(address, engine, lambda: None)
    database.revision("9999")
    accounts = await started(address)
    book(accounts, 1)

    assert "tables of a newer one_api (9999)" in (accounts.degraded or "")
    assert not accounts.knows_keys
    await asyncio.to_thread(database.revision, REVISION)
    await wait_for(lambda: accounts.degraded is None and database.count() == 1)


async def test_without_migrations_it_waits_for_the_command(
    away: Callable[[str | None], Away], started: Callable[..., Any], tmp_path: Path
) -> None:
    database = await asyncio.to_thread(away, None)
    accounts = await started(database.address, migrate=False)
    book(accounts, 1)

    database.back()

    await wait_for(lambda: "run `flask --app wsgi db upgrade`" in (accounts.degraded or ""))
    assert not await asyncio.to_thread(lambda: inspect(database.engine).get_table_names())
    upgraded = await asyncio.to_thread(open_database, DatabaseConfig(url=Storage(database.address)), tmp_path)
    upgraded.dispose()
    await wait_for(lambda: accounts.degraded is None and database.count() == 1)


def test_a_worker_that_starts_while_the_server_is_away_uses_what_comes_back(server: str) -> None:
    """The master has looked at the tables; then its worker dies, and another database comes back, an empty one."""
    address = postgres_schema(server)
    url = make_url(server)
    switch = Switch(url.host or "", url.port or 5432)
    schema = address.rpartition("%3D")[0].rpartition("%3D")[2].removesuffix("%20-csynchronous_commit")
    try:
        relayed = make_url(address).set(port=switch.port).render_as_string(hide_password=False)
        with gateway_on(relayed, 1, kind=Bed) as bed:
            (worker,) = bed.gateway.worker_pids(1)
            switch.break_off()
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"DROP SCHEMA {schema} CASCADE")
                connection.execute(f"CREATE SCHEMA {schema}")
            os.kill(worker, signal.SIGKILL)
            until(lambda: [pid for pid in bed.gateway.worker_pids(0) if pid != worker], 30.0)
            assert bed.ask(bed.model()).status == 200
            assert "cannot be used" in until(lambda: bed.get("/ready").json.get("accounts"), 30.0)
            assert bed.get("/v1/usage").status == 503

            switch.restore()

            until(lambda: bed.get("/v1/usage").status == 200, 30.0)
            until(lambda: bed.get("/v1/usage").json["today"]["requests"] == 1, 30.0)
            until(lambda: "accounts" not in bed.get("/ready").json)
    finally:
        switch.close()
