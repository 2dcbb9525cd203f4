"""Accounts: what the gateway keeps in a database, as one object that lives as long as the process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from one_api.accounts.books import Books
from one_api.accounts.budgets import Budget
from one_api.accounts.database import (
    TRANSACTION_S,
    Database,
    DatabaseUnavailable,
    DatabaseUnusable,
    OtherTables,
    open_engine,
)
from one_api.accounts.entries import entry_of
from one_api.accounts.journal import journals_of
from one_api.accounts.keyring import KeyCopy
from one_api.accounts.keys import VirtualKey, digest_of, is_ours
from one_api.accounts.leases import Leases
from one_api.accounts.ledger import LedgerRow, Refusal
from one_api.accounts.opening import bring_up_to_date
from one_api.accounts.prices import Prices
from one_api.accounts.rates import Rates
from one_api.accounts.reservations import Reservation, Settings
from one_api.accounts.responses import DatabaseResponses
from one_api.contract import Caller
from one_api.errors import AccountsUnavailable
from one_api.records import CallRecord, WithinBudgets
from one_api.serving.tasks import stop
from one_api.settings.sections import BudgetConfig, DatabaseConfig

T = TypeVar("T")

#: How long a report or a change may take, with those that it waits for, in seconds.
_REPORT_S = TRANSACTION_S + 1.0
#: Between two looks at a database that could not be used at the start, in seconds.
_OPEN_S = 1.0

logger = logging.getLogger(__name__)


class Accounts:
    """The keys and the ledger, as this process has them."""

    def __init__(
        self,
        settings: DatabaseConfig,
        folder: Path,
        on_keys: Callable[[], None] = lambda: None,
    ) -> None:
        """``folder`` is the instance folder; ``on_keys`` is called when keys have changed."""
        self._settings = settings
        self._folder = folder
        self._on_keys = on_keys
        self._engine: Engine | None = None
        self._books: Books | None = None
        self._keys: KeyCopy | None = None
        self._leases: Leases | None = None
        #: Of requests under way, by their ids.
        self._reservations: dict[str, Reservation] = {}
        self._reports: Database | None = None
        self._databases: list[Database] = []
        #: What ``/v1/responses`` keeps; None where the database can never be used.
        self.responses: DatabaseResponses | None = None
        #: Why there are no accounts; and why the database is not used yet.
        self._off: str | None = None
        self._closed: str | None = None
        self._opener: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> str | None:
        """Return what works less well than it should; None when all is well."""
        if self._off is not None:
            return self._off
        if self._closed is not None:
            return f"the database cannot be used: {self._closed}"
        return self._books.degraded if self._books is not None else None

    def book(self, record: CallRecord, prices: Prices | None) -> None:
        """Book a request that has ended, at the prices that it was served with."""
        if self._books is None:
            return
        reservation = self._reservations.pop(record.request_id, None) if self._reservations else None
        settlement = reservation.end() if reservation is not None else None
        entry = entry_of(record, prices.rates if prices is not None else _no_rates, settlement)
        if isinstance(entry, Refusal):
            self._books.refuse(entry)
        elif entry is not None:
            self._books.add(entry)
        if reservation is not None:
            reservation.settle((entry.cost or 0) if isinstance(entry, LedgerRow) else 0)

    def budgets_of(self, caller: Caller) -> tuple[Budget, ...]:
        """Return the budgets that bind a caller."""
        return self._keys.budgets_of(caller.name) if self._keys is not None else ()

    def within_budgets(
        self, caller: Caller, record: CallRecord, budget: BudgetConfig, prices: Prices | None
    ) -> WithinBudgets | None:
        """Return what has upstreams asked for a request only if its caller's budgets allow it; None without one.

        ``budget`` and ``prices`` are those that the request is served with.
        """
        budgets = self.budgets_of(caller)
        if not budgets or self._leases is None or self._books is None or prices is None:
            return None
        reservation = Reservation(self._leases, self._books, record, budgets, Settings(budget, prices))
        self._reservations[record.request_id] = reservation
        return reservation

    # Keys

    def find_key(self, key: str) -> VirtualKey | None:
        """Return the key of the database that has this text."""
        return self._keys.find(digest_of(key)) if self._keys is not None else None

    def has_key(self, caller: Caller) -> bool:
        """Return whether the key of the database that a caller had is still there, and not revoked."""
        key = self.key_of(caller)
        return key is not None and not key.is_disabled

    def key_of(self, caller: Caller) -> VirtualKey | None:
        """Return the key of the database that a caller has, as the text that it has sent; None for another key."""
        return self._keys.find(caller.secret) if self._keys is not None else None

    @property
    def knows_keys(self) -> bool:
        """Return whether the keys of the database have been read; they have not if it was never reached."""
        return self._keys is None or self._keys.is_loaded

    def may_be_new(self, key: str) -> bool:
        """Return whether a key that is not known may be one that was made just now."""
        return self._keys is not None and is_ours(key)

    async def look_again(self) -> None:
        """Read at once which keys there are, though not too often; raises AccountsUnavailable where that cannot be."""
        if self._keys is not None and not await self._keys.look_again():
            raise AccountsUnavailable("The gateway cannot look up its keys now: try again.", retry_after_s=1)

    # What reports and changes need

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` reads; raises AccountsUnavailable."""
        return await self._reported(lambda database: database.read(work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns, once it is committed; raises AccountsUnavailable."""
        return await self._reported(lambda database: database.write(work))

    async def _reported(self, run: Callable[[Database], Awaitable[T]]) -> T:
        database = self._reports
        if database is None:
            raise AccountsUnavailable("There are no accounts here now: see the gateway's log.")
        try:
            return await database.within(_REPORT_S, lambda: run(database))
        except DatabaseUnavailable:
            raise AccountsUnavailable("The database of the accounts cannot be used now.", retry_after_s=1) from None

    # Life

    async def start(self) -> None:
        """Open the database and begin to write; called on the loop. Without a database requests go on all the same.

        One that cannot be used now is opened later, and nothing is asked of it before its tables are up to date.
        """
        try:
            self._engine = engine = open_engine(self._settings.url, self._folder)
            await self._open(engine)
        except DatabaseUnusable as error:
            self._off = f"there are no accounts: {error}"
            logger.error("%s; requests go on", self._off)
            return
        if self._closed is not None:
            self._opener = asyncio.get_running_loop().create_task(self._keep_opening(engine))
        # One thread each, so that a look for keys never waits behind a batch, nor a batch behind a report.
        names = ("books", "keys", "reports", "responses")
        self._databases = [Database(engine, name, lambda: self._closed) for name in names]
        books, keys, self._reports, kept = self._databases
        journals = journals_of(self._folder, engine)
        self._keys = KeyCopy(keys, self._on_keys, journals)
        await self._keys.start()
        self._books = Books(
            books,
            journals,
            (self._settings.ledger_days, self._settings.usage_days, self._settings.audit_days),
        )
        await self._books.start()
        self._leases = Leases(books, self._books)
        self.responses = DatabaseResponses(kept)
        await self.responses.start()

    async def _open(self, engine: Engine) -> None:
        """Bring the tables up to date, or note why that cannot be done now; raises DatabaseUnusable."""
        try:
            await asyncio.to_thread(bring_up_to_date, engine, allowed=self._settings.migrate)
        except (DatabaseUnavailable, OtherTables) as error:
            why = str(error)
            if why != self._closed:
                logger.error("the database cannot be used: %s; requests go on", why)
            self._closed = why
            return
        if self._closed is not None:
            self._closed = None
            logger.warning("the database is used from now on: its tables are up to date")

    async def _keep_opening(self, engine: Engine) -> None:
        while self._closed is not None:
            await asyncio.sleep(_OPEN_S)
            with suppress(DatabaseUnusable):  # its file has gone meanwhile: it may come back
                await self._open(engine)

    async def aclose(self) -> None:
        """Write what is left, and close the database."""
        await stop(self._opener)
        if self._leases is not None:
            await self._leases.aclose()
        if self._books is not None:
            await self._books.aclose()
        if self._keys is not None:
            await self._keys.aclose()
        if self.responses is not None:
            await self.responses.aclose()
        self._books = self._keys = self._leases = self._reports = self.responses = None
        for database in self._databases:
            await database.aclose()
        self._databases = []
        if self._engine is not None:
            self._engine.dispose()


def _no_rates(_: str) -> Rates | None:
    return None
