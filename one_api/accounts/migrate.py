"""The tables are brought up to date under a lock, by whichever process comes first."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from one_api.accounts.database import OtherTables

#: Our number among the advisory locks of a PostgreSQL server.
_LOCK = 0x6F6E655F617069


def upgrade(connection: Connection, *, allowed: bool = True) -> str | None:
    """Bring the tables up to date, in the caller's transaction; returns the revision, or None if it was that already.

    Where that is not ``allowed``, tables that are behind are an error.

    Raises:
        OtherTables: when the tables are newer than this program, or behind and not to be changed.
    """
    if connection.dialect.name == "postgresql":
        # SQLite's transaction holds the only lock there is; this one ends with the transaction, too. The others wait.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    config = _config()
    config.attributes["connection"] = connection
    head = ScriptDirectory.from_config(config).get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return None
    if current is not None and current not in known_revisions():
        raise OtherTables(f"the database has tables of a newer one_api ({current}): run that version")
    if not allowed:
        raise OtherTables("the tables of the database are behind: run `flask --app wsgi db upgrade`")
    command.upgrade(config, "head")
    return head


def known_revisions() -> set[str]:
    """Return the names of all states that this program's tables were ever in."""
    return {each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
