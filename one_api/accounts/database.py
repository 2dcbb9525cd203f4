"""The database: SQLite or PostgreSQL, used synchronously in a thread of its own, with a limit for each transaction.

SQLAlchemy's asyncio does not work below the bridge of ``one_api.serving``: its greenlet would take ours as its parent.
"""

import asyncio
import errno
import os
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

T = TypeVar("T")

#: How long a transaction may take, and a connection to open, in seconds.
TRANSACTION_S = 2.0
#: How long a transaction waits for another one that holds what it needs, in seconds.
_LOCK_S = 1.0
#: How often a slow transaction is looked at, in seconds.
_LOOK_S = 0.25
#: More than so many transactions do not wait: the database is slower than what comes.
_MAX_WAITING = 256
#: The file of ``sqlite``, in the instance folder.
DEFAULT_FILE = "one_api.db"
#: What SQLite maps of the file ``-shm`` at first, in bytes.
_MAPPED_BYTES = 32 * 1024


class DatabaseUnavailable(Exception):
    """The database cannot be used now; the message says why, without its password."""

    @property
    def is_refusal(self) -> bool:
        """Return whether the database works, and will never take what it was given."""
        return isinstance(self.__cause__, (DataError, IntegrityError))


class DatabaseUnusable(Exception):
    """The database can never be used as it is configured; the message says what to do."""


class OtherTables(DatabaseUnusable):
    """The tables of the database are not those of this program: it cannot be used until somebody has changed that."""


def open_engine(address: str, folder: Path) -> Engine:
    """Return the engine for ``address``; ``sqlite`` is a file in ``folder``. Nothing is connected yet.

    Raises:
        DatabaseUnusable: when the address is none, or its driver is not installed.
    """
    url = _url(address, folder)
    is_sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"connect_timeout": int(TRANSACTION_S), "prepare_threshold": None}
    if is_sqlite:
        arguments = {"timeout": TRANSACTION_S, "isolation_level": None}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    except ModuleNotFoundError as error:
        what = "pip install --require-hashes -r requirements-postgres.txt, or one-api-gateway[postgres]"
        raise DatabaseUnusable(f"the database needs the package {error.name}: {what}") from None
    if is_sqlite:
        event.listen(engine, "connect", lambda raw, _: _prepare_sqlite(raw, url.database or ""))
    event.listen(engine, "begin", _begin_sqlite if is_sqlite else _begin_postgres)
    return engine


def _url(address: str, folder: Path) -> URL:
    if address == "sqlite":
        return URL.create("sqlite", database=str(folder / DEFAULT_FILE))
    try:
        url = make_url(address)
    except ArgumentError:
        raise DatabaseUnusable("database.url is no address: write postgresql://USER:PASSWORD@HOST/NAME") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite":
        return url
    raise DatabaseUnusable(f"database.url begins with {url.drivername}: use sqlite or postgresql")


def _prepare_sqlite(raw: Any, name: str) -> None:
    _check_room(name)
    # NORMAL loses nothing when the process is killed; a power cut may take the last transactions.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        raw.execute(f"PRAGMA {pragma}")


def _check_room(name: str) -> None:
    """Raise OSError when the disk has no room for the file ``-shm`` of SQLite's file ``name``.

    SQLite maps it, and on disks with blocks below 4 KiB takes most of its room only by writing there: where there is
    none, that kills the process (SIGBUS). A file that has all of its blocks already needs no more.
    """
    file = Path(name).resolve()
    with suppress(OSError):
        mapped = file.with_name(f"{file.name}-shm").stat()
        if mapped.st_size >= _MAPPED_BYTES and mapped.st_blocks * 512 >= mapped.st_size:
            return
    try:
        with tempfile.TemporaryFile(dir=file.parent) as trial:
            trial.write(bytes(_MAPPED_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # whatever else is wrong, SQLite says


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and then writes would fail at once when another one has written meanwhile.
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    # For each transaction, because PgBouncer may hand each one to another server process.
    statement_ms, lock_ms = int(TRANSACTION_S * 1000), int(_LOCK_S * 1000)
    settings = f"SET LOCAL statement_timeout = {statement_ms}; SET LOCAL lock_timeout = {lock_ms}"
    if connection.get_execution_options().get("reads", False):
        # All that one transaction reads is of one moment: else a key could be seen without its budget.
        settings += "; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    connection.exec_driver_sql(settings)


def reason(error: BaseException) -> str:
    """Return in one line why a transaction failed; never an address or a value of a row."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).splitlines()
    # What a database says of what it was given holds that.
    if isinstance(error, (DataError, IntegrityError)) or not isinstance(error, (DBAPIError, OSError)) or not lines:
        return type(cause).__name__
    return f"{type(cause).__name__}: {lines[0][:200]}"


class _Thread:
    """Runs one function after the other.

    An executor of ``concurrent.futures`` takes nothing any more while the interpreter ends, which is when plain WSGI
    servers have us close; and it would wait without limit for a thread that is held up.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        #: How many functions have not ended, also those whose callers have left.
        self.waiting = 0
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Return what waits for the result of ``function``, on the running loop; a waiter may cancel it, and leave."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        self._jobs.put((future, function))
        return future

    def end(self) -> None:
        """Let the thread end after what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            result, error = None, None
            try:
                result = function()
            except BaseException as caught:  # the waiting caller gets it
                error = caught
            with suppress(RuntimeError):  # the loop has been closed
                future.get_loop().call_soon_threadsafe(self._settle, future, result, error)
            del job, future, function, result, error  # an idle thread holds on to nothing

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self.waiting -= 1
        if future.done():
            return  # its waiter has left
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


class Database:
    """One thread with one connection: transactions run one after the other.

    A waiter may leave; its transaction goes on. One that takes longer than ``TRANSACTION_S`` has its connection cut,
    because against a peer that is frozen nothing else helps.
    """

    def __init__(self, engine: Engine, name: str, why_closed: Callable[[], str | None] = lambda: None) -> None:
        """``why_closed`` returns why nothing is to be asked of the database now; None where something may."""
        self._engine = engine
        self._why_closed = why_closed
        self._thread = _Thread(f"one_api-{name}")
        self._connection: Connection | None = None
        #: When the transaction under way began, on the monotonic clock.
        self._began: float | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns, in a transaction that only reads; raises DatabaseUnavailable."""
        return await self._run(work, reads=True)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns, in a transaction that is committed after it.

        Raises:
            DatabaseUnavailable: also when it is not known whether the transaction was committed.
        """
        return await self._run(work, reads=False)

    async def within(self, limit_s: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what ``ask`` does, which reads or writes here; its transaction may go on afterwards.

        Raises:
            DatabaseUnavailable: also when it takes longer than ``limit_s``, or when too many others wait.
        """
        if self._thread.waiting >= _MAX_WAITING:
            raise DatabaseUnavailable("too much waits for it")
        try:
            async with asyncio.timeout(limit_s):
                return await ask()
        except TimeoutError:
            raise DatabaseUnavailable(f"it has taken longer than {limit_s:g} s") from None

    async def _run(self, work: Callable[[Connection], T], *, reads: bool) -> T:
        if (why := self._why_closed()) is not None:
            raise DatabaseUnavailable(why)
        future = self._thread.run(partial(self._transact, work, reads))
        if self._watch is None:
            self._look_soon()
        try:
            return await future
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseUnavailable(reason(error)) from error
        finally:
            if self._watch is not None and not self._thread.waiting:
                self._watch.cancel()
                self._watch = None

    def _look_soon(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Cut the transaction under way if it takes too long; goes on as long as there are transactions."""
        self._watch = None
        began = self._began
        if began is not None and time.monotonic() - began > TRANSACTION_S:
            self._cut()
        if self._thread.waiting:
            self._look_soon()

    def _transact(self, work: Callable[[Connection], T], reads: bool) -> T:
        """Run one transaction, in the thread."""
        try:
            with self._begin(reads) as transaction:
                return work(transaction.connection)
        except BaseException:
            self._drop()
            raise
        finally:
            self._began = None

    def _begin(self, reads: bool) -> RootTransaction:
        self._began = time.monotonic()
        if self._connection is not None:
            try:
                return self._connection.execution_options(reads=reads).begin()
            except DBAPIError as error:
                # The server may have gone since the last transaction; nothing was asked yet, so another one is opened.
                # Not where it has not answered, or another program has the lock: then the time is over.
                if self._began is None or not error.connection_invalidated:
                    raise
            self._drop()
        self._connection = self._engine.connect()
        return self._connection.execution_options(reads=reads).begin()

    def _cut(self) -> None:
        """End the connection of a transaction that takes too long; called on the loop."""
        connection = self._connection
        if connection is None:
            return  # it is being opened, which has a limit of its own
        self._began = None
        with suppress(OSError, SQLAlchemyError, AttributeError):
            raw = connection.connection.driver_connection
            if self._engine.dialect.name == "sqlite":
                raw.interrupt()  # type: ignore[union-attr]
            else:
                with socket.socket(fileno=os.dup(raw.fileno())) as own:  # type: ignore[union-attr]
                    own.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError, OSError):
                connection.invalidate()
            with suppress(SQLAlchemyError, OSError):
                connection.close()

    async def aclose(self) -> None:
        """Finish what is under way, and close the connection."""
        await self._thread.run(self._drop)
        if self._watch is not None:
            self._watch.cancel()
        self._thread.end()


def transact(engine: Engine, work: Callable[[Connection], T], *, reads: bool = False) -> T:
    """Run ``work`` in one transaction, in this thread, for commands; raises DatabaseUnavailable.

    All that one that only ``reads`` sees is of one moment.
    """
    try:
        with engine.connect().execution_options(reads=reads) as connection, connection.begin():
            return work(connection)
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseUnavailable(reason(error)) from error
