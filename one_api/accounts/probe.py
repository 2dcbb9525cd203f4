"""One look at a database, for examinations: whether it can be used, and whether its tables fit. It changes nothing."""

from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from one_api.accounts.database import DatabaseUnavailable, DatabaseUnusable, open_engine, transact
from one_api.accounts.migrate import known_revisions
from one_api.accounts.opening import revision_of
from one_api.accounts.tables import LEDGER, REVISION
from one_api.settings.sections import DatabaseConfig

#: What is found in the text of a failure -> what it means, and what to do.
_CAUSES = (
    # PostgreSQL
    (("password authentication failed", "no password supplied"), "it refuses the user or the password",
     "Correct USER:PASSWORD in the address"),
    (('role "',), "it does not know the user", "Correct USER in the address, or make it: `createuser USER`"),
    (('database "',), "there is no such database", "Make it: `createdb NAME`, or correct the name in the address"),
    (("no pg_hba.conf entry",), "it does not let this user in from here", "Allow it in the server's pg_hba.conf"),
    (("SSL", "certificate"), "TLS cannot be agreed upon", "Correct sslmode or sslrootcert in the address"),
    (("Connection refused", "No such file or directory"), "nothing listens at its address",
     "Start it, or correct the host and the port"),
    (("resolve host", "translate host name"), "its host name is not known", "Correct the host, or this machine's DNS"),
    (("timeout",), "it does not answer in time", "Check the address, the network and the firewall"),
    (("too many clients", "connection slots"), "it has no connection left",
     "Raise max_connections there, or put PgBouncer before it"),
    (("starting up", "shutting down", "recovery mode"), "it is starting or ending", "Try again in a minute"),
    # SQLite
    (("not a database", "malformed"), "the file is damaged, or of another program",
     "Move it away, and put the last backup (`flask --app wsgi db export`) in its place"),
    (("readonly", "unable to open"), "the file or its folder cannot be written by this user",
     "Give both to the gateway's user, on a file system that is mounted for writing"),
    (("is locked",), "another program holds its lock", "End that program"),
)  # fmt: skip


class ProbeFailed(Exception):
    """A database cannot be used: ``what`` is wrong, and ``fix`` says what to do. Neither holds its address."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


def file_of(settings: DatabaseConfig, folder: Path) -> Path | None:
    """Return the file of a database of SQLite; ``folder`` is where that of ``sqlite`` is. Raises ProbeFailed."""
    url = _engine(settings, folder).url
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def examine(settings: DatabaseConfig, folder: Path) -> str:
    """Return what there is to say of a database that can be used; blocks for some seconds at most.

    Raises:
        ProbeFailed: when it cannot be reached, or its tables cannot be used as they are.
    """
    engine = _engine(settings, folder)
    try:
        current = revision_of(engine)
        if current == REVISION:
            transact(engine, _check_rights)
            return "it answers, and its tables are up to date"
        return _outdated(engine, current, settings)
    except DatabaseUnavailable as error:
        raise _cause(error) from None
    finally:
        engine.dispose()


def _engine(settings: DatabaseConfig, folder: Path) -> Engine:
    try:
        return open_engine(settings.url, folder)
    except DatabaseUnusable as error:
        what, _, fix = str(error).partition(": ")
        raise ProbeFailed(what, fix) from None


def _outdated(engine: Engine, current: str | None, settings: DatabaseConfig) -> str:
    if current is not None and current not in known_revisions():
        fix = "Run that version, or put a backup of before the upgrade in its place"
        raise ProbeFailed(f"its tables are of a newer one_api ({current})", fix)
    what = "it has no tables yet" if current is None else f"its tables are behind ({current} of {REVISION})"
    if not settings.migrate:
        raise ProbeFailed(f"{what}, and database.migrate is false", "Run `flask --app wsgi db upgrade`")
    transact(engine, _check_rights_to_change)
    return f"it answers; {what}, and the next start brings them up to date"


def _check_rights_to_change(connection: Connection) -> None:
    _check_is_primary(connection)
    if connection.dialect.name == "postgresql" and not connection.scalar(
        text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
    ):
        raise ProbeFailed("its user may not make tables", "Run there: GRANT CREATE ON SCHEMA public TO the user")


def _check_rights(connection: Connection) -> None:
    _check_is_primary(connection)
    if connection.dialect.name == "postgresql" and not connection.scalar(
        text("SELECT has_table_privilege(:table, 'SELECT, INSERT, UPDATE, DELETE')"), {"table": LEDGER.name}
    ):
        raise ProbeFailed("its user may not write to the tables", "Use the user that made them")


def _check_is_primary(connection: Connection) -> None:
    if connection.dialect.name == "postgresql" and connection.scalar(text("SHOW transaction_read_only")) == "on":
        raise ProbeFailed("it takes no writes: it is a standby, or set to read only", "Name the primary in the address")


def _cause(error: DatabaseUnavailable) -> ProbeFailed:
    """Return in words what a failure means: the texts of foreign errors may hold an address, and are not used."""
    cause = error.__cause__
    text = str(cause.orig if isinstance(cause, DBAPIError) else cause)
    for signs, what, fix in _CAUSES:
        if any(sign in text for sign in signs):
            return ProbeFailed(what, fix)
    return ProbeFailed(f"it cannot be used ({type(cause).__name__})", "Look at its log, and at the address")
