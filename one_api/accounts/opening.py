"""A database is got ready: its address is checked, its file made, its tables brought up to date."""

import os
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from one_api.accounts.database import DatabaseUnavailable, DatabaseUnusable, open_engine, transact
from one_api.accounts.tables import REVISION
from one_api.settings.sections import DatabaseConfig

#: How long others may hold SQLite's file while they bring its tables up to date, in seconds.
_PATIENCE_S = 30.0
_RETRY_S = 0.1


def open_database(settings: DatabaseConfig, folder: Path, *, migrate: bool | None = None) -> Engine:
    """Return the engine of a database whose tables are up to date; ``folder`` is for the file of ``sqlite``.

    Whether tables that are behind are brought up to date is ``migrate``, by default as in the settings.

    Blocks. Any number of processes may do so at once: one changes the tables, the others wait.

    Raises:
        DatabaseUnavailable: when it cannot be reached now.
        DatabaseUnusable: when it can never be used as it is configured; OtherTables, when that is for its tables.
    """
    engine = open_engine(settings.url, folder)
    bring_up_to_date(engine, allowed=settings.migrate if migrate is None else migrate)
    return engine


def bring_up_to_date(engine: Engine, *, allowed: bool) -> None:
    """Bring the tables of a database up to date, if that is ``allowed``; raises the same. Blocks."""
    _make_file(engine)
    if revision_of(engine) != REVISION:
        # Only here, so that a process that finds the tables up to date imports nothing of Alembic.
        from one_api.accounts.migrate import upgrade

        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                transact(engine, lambda connection: upgrade(connection, allowed=allowed))
                break
            except DatabaseUnavailable:
                if engine.dialect.name != "sqlite" or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)


def prepare(settings: DatabaseConfig, folder: Path) -> str | None:
    """Bring the tables up to date before any process serves; returns why the gateway must not start, or None.

    An address that was given must work. Where the file of ``sqlite``, which is only the default, cannot be made, the
    gateway serves without accounts.
    """
    try:
        _upgrade_apart(settings, folder)
        open_database(settings, folder).dispose()
    except (DatabaseUnavailable, DatabaseUnusable) as error:
        if settings.url != "sqlite":
            return f"the database cannot be used: {error}"
    return None


def _upgrade_apart(settings: DatabaseConfig, folder: Path) -> None:
    """Bring the tables up to date in a process of its own: what is imported for it takes no memory of those that serve.

    Where that does not work, nothing is raised here: the tables are behind as before.
    """
    engine = open_engine(settings.url, folder)
    _make_file(engine)
    if revision_of(engine) == REVISION:
        return
    engine.dispose()
    pid = os.fork()
    if not pid:
        try:
            with suppress(DatabaseUnavailable, DatabaseUnusable):
                open_database(settings, folder).dispose()
        finally:
            os._exit(0)
    with suppress(ChildProcessError):  # somebody else has waited for it
        os.waitpid(pid, 0)


def _make_file(engine: Engine) -> None:
    """Make SQLite's file, for its owner alone. One that is there and cannot be written now is only unavailable."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:":
        return
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        why = DatabaseUnavailable if os.path.isfile(name) else DatabaseUnusable  # noqa: PTH113 - raises nothing
        raise why(f"the database {name} cannot be opened: {error.strerror}") from None


def revision_of(engine: Engine) -> str | None:
    """Return what the last change of the tables was; None for a new database. Raises DatabaseUnavailable."""
    try:
        found = transact(engine, lambda connection: connection.scalar(text("SELECT version_num FROM alembic_version")))
        return None if found is None else str(found)
    except DatabaseUnavailable as error:
        if isinstance(error.__cause__, DBAPIError) and "alembic_version" in str(error.__cause__.orig):
            return None
        raise
