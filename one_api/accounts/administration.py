"""What an operator's commands do with the database, whether a gateway runs or not."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from one_api.accounts import changes, importing, reports
from one_api.accounts.copying import CopyRefused, copy
from one_api.accounts.database import DatabaseUnavailable, DatabaseUnusable, open_engine, transact
from one_api.accounts.journal import Journal, journals_of
from one_api.accounts.keys import ChangeRefused
from one_api.accounts.ledger import SPANS
from one_api.accounts.opening import open_database
from one_api.accounts.periods import start_of, zone_named
from one_api.accounts.prices import IMPORTED, Catalogue, InvalidCatalogue, Prices, open_catalogue
from one_api.accounts.tables import LEASES
from one_api.config import Config
from one_api.contract import JSONObject
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig, key_names

T = TypeVar("T")

#: No request is older, in UTC seconds; and every zone has a date for it.
_EARLIEST_S = 86400


class Refused(Exception):
    """It cannot be done; the message says why, and what to do."""


class Administration:
    """The database and the prices of one configuration; a context manager."""

    def __init__(self, config: Config, folder: Path) -> None:
        """``folder`` is the instance folder."""
        self._config = config
        self._folder = folder
        self._engine: Engine | None = None
        self._migrate = config.database.migrate

    def __enter__(self) -> "Administration":
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` reads, all of it as of one moment, however long that takes; raises Refused."""
        return self._run(work, reads=True)

    def _run(self, work: Callable[[Connection], T], *, reads: bool) -> T:
        def patiently(connection: Connection) -> T:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            return work(connection)

        try:
            return transact(self._opened(), patiently, reads=reads)
        except ChangeRefused as error:
            raise Refused(str(error)) from None
        except (DatabaseUnavailable, DatabaseUnusable) as error:
            raise Refused(f"the database cannot be used: {error}") from None

    def change(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Return what a function of ``changes`` returns, done by the person at the command line; raises Refused."""
        return self._run(lambda connection: work(connection, changes.person(), *arguments, **named), reads=False)

    def create_key(
        self, name: str, fields: Mapping[str, Any], key: str | None = None, budgets: Mapping[str, str] | None = None
    ) -> tuple[str, JSONObject]:
        """Make a key, or take over ``key``; returns its text and what is kept of it. Raises Refused.

        ``budgets`` are amounts in dollars by period; the key counts nowhere without them.
        """
        if name in key_names(self._config.api_keys):
            raise Refused(f"there is a key named {name!r} in the configuration already")

        def create(connection: Connection, actor: str) -> tuple[str, JSONObject]:
            made = changes.create_key(connection, actor, name, fields, key)
            for period, limit in (budgets or {}).items():
                changes.set_budget(connection, actor, f"key:{name}:{period}", {"limit_usd": limit})
            return made

        return self.change(create)

    def import_keys(self, table: Iterable[str], common: Mapping[str, Any]) -> int:
        """Take over all keys in a table, see ``importing.keys_in``, or none; returns how many. Raises Refused."""
        try:
            keys = importing.keys_in(table, common, key_names(self._config.api_keys))
        except ChangeRefused as error:
            raise Refused(str(error)) from None
        return self.change(importing.take_over, keys)

    def _opened(self) -> Engine:
        if self._config.database.url == "none":
            raise Refused("there is no database: set DATABASE_URL, or database.url, to sqlite or an address")
        if self._engine is None:
            self._engine = open_database(self._config.database, self._folder, migrate=self._migrate)
        return self._engine

    def upgrade(self) -> None:
        """Bring the tables up to date, also where the gateway may not; raises Refused."""
        self._migrate = True
        self.read(lambda _: None)

    def usage(self, by: Sequence[str], age_s: int, zone_name: str, key: str | None) -> list[JSONObject]:
        """Return what was used since so long ago, see ``reports.usage``; raises Refused."""
        if unknown := set(by) - {*reports.PLACES, *reports.TIMES}:
            known = ", ".join((*reports.PLACES, *reports.TIMES))
            raise Refused(f"usage is not kept by {', '.join(sorted(unknown))}: use some of {known}")
        zone, now = zone_named(zone_name), int(time.time())
        begin = max(_EARLIEST_S, now - age_s)
        # Sums are by the quarter of an hour, and a day is shown as a whole.
        begin = start_of("day", zone, begin) if "day" in by else begin - begin % SPANS["minute" not in by]
        return self.read(lambda c: reports.usage(c, by, begin, now + 1, zone, key)).with_total(by)

    def keys(self, tag: str | None, team: str | None) -> list[JSONObject]:
        """Return what is kept of all keys; raises Refused."""
        return self.read(lambda connection: changes.keys(connection, tag=tag, team=team)).rows

    def key(self, name: str) -> JSONObject:
        """Return what is kept of one; raises Refused."""
        return self.read(lambda connection: changes.key(connection, name))

    def update_key(self, name: str, fields: Mapping[str, Any]) -> JSONObject:
        """Change what a key may do; raises Refused."""
        return self.change(changes.update_key, name, fields)

    def rotate_key(self, name: str, grace_s: int) -> str:
        """Give a key another text, and return it; raises Refused."""
        return self.change(changes.rotate_key, name, grace_s)[0]

    def revoke_key(self, name: str) -> None:
        """End a key for ever; raises Refused."""
        self.change(changes.revoke_key, name)

    def teams(self) -> list[JSONObject]:
        """Return all teams; raises Refused."""
        return self.read(changes.teams)

    def create_team(self, name: str, fields: Mapping[str, Any]) -> None:
        """Make a team; raises Refused."""
        self.change(changes.create_team, name, fields)

    def update_team(self, name: str, fields: Mapping[str, Any], *, disabled: bool | None) -> None:
        """Change a team, and shut out its keys or let them in; raises Refused."""
        self.change(changes.update_team, name, fields)
        if disabled is not None:
            self.change(changes.disable_team, name, disabled=disabled)

    def budgets(self) -> list[JSONObject]:
        """Return all budgets, with what is spent of them; raises Refused."""
        return self.read(lambda connection: reports.budgets(connection, time.time()))

    def set_budget(self, name: str, fields: Mapping[str, Any]) -> None:
        """Make or change a budget; raises Refused."""
        self.change(changes.set_budget, name, fields)

    def credit_budget(self, name: str, usd: str, note: str | None) -> None:
        """Take something off what is spent of a budget; raises Refused."""
        self.change(changes.credit_budget, name, usd, note)

    def remove_budget(self, name: str) -> None:
        """End a budget; raises Refused."""
        self.change(changes.remove_budget, name)

    def wrong_windows(self) -> list[JSONObject]:
        """Return where what is spent is not the sum of the ledger's rows, as far as these are kept; raises Refused."""
        since_ms = int((time.time() - self._config.database.ledger_days * 86400) * 1000)
        return self.read(lambda connection: reports.wrong_windows(connection, since_ms))

    def wrong_sums(self) -> list[JSONObject]:
        """Return where the sums of usage are not those of the rows, as far as both are kept; raises Refused."""
        days = min(self._config.database.ledger_days, self._config.database.usage_days)
        since_ms = int((time.time() - days * 86400) * 1000)
        return self.read(lambda connection: reports.wrong_sums(connection, since_ms))

    def prices(self) -> Prices:
        """Return what models cost; raises Refused."""
        try:
            return Prices(self._config.prices, self._config.adapters, open_catalogue(self._folder))
        except InvalidCatalogue as error:
            raise Refused(str(error)) from None

    def import_catalogue(self, path: Path) -> str:
        """Use another catalogue from the next start on; returns its date. Raises Refused."""
        try:
            catalogue = Catalogue.read(path)
            self._folder.mkdir(parents=True, exist_ok=True)
            new = self._folder / f".{IMPORTED}.{os.getpid()}"
            new.write_bytes(path.read_bytes())
            new.replace(self._folder / IMPORTED)
        except (InvalidCatalogue, OSError) as error:
            raise Refused(str(error)) from None
        return catalogue.date

    def copy_from(self, address: str) -> dict[str, int]:
        """Copy all of another database into this one, which is empty; returns how many rows, by table. Raises Refused.

        No gateway may use the other one, and none this one.
        """
        try:
            source = open_engine(address, self._folder)
            if source.url == self._opened().url:
                raise Refused("this is the configured database itself: set DATABASE_URL to the new one")
            name = source.url.database
            if source.dialect.name == "sqlite" and not (name and Path(name).is_file()):
                raise Refused(f"there is no database {name}")
            if Journal.holders_in(journals_of(self._folder, source)):
                raise Refused(
                    "a gateway still uses the old database, or was killed: start it once with that, and stop it"
                )
            source = open_database(DatabaseConfig(url=Storage(address)), self._folder)
            try:
                return transact(source, lambda old: transact(self._opened(), lambda new: copy(old, new)), reads=True)
            finally:
                source.dispose()
        except CopyRefused as error:
            raise Refused(str(error)) from None
        except (DatabaseUnavailable, DatabaseUnusable) as error:
            raise Refused(f"the database cannot be used: {error}") from None

    def export(self, target: Path) -> None:
        """Copy SQLite's file as a whole, while a gateway may write to it; raises Refused.

        What processes hold of budgets is not in the copy.
        """
        engine = self._opened()
        if engine.dialect.name != "sqlite":
            raise Refused("this is PostgreSQL: use pg_dump")
        if target.exists():
            raise Refused(f"{target} is there already")
        try:
            os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(str(engine.url.database))) as source, closing(sqlite3.connect(target)) as copy:
                source.backup(copy)
                # Whoever held them does not live where the copy is used, and would give nothing back.
                copy.execute(f"DELETE FROM {LEASES.name}")  # noqa: S608 - our name
                copy.commit()
        except (OSError, sqlite3.Error) as error:
            raise Refused(str(error)) from None
