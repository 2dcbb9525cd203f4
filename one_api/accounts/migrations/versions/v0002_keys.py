"""Keys, teams, and the record of their changes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make them."""
    meta = op.create_table(
        "meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(meta, [{"name": "version", "value": 0}])
    op.create_table(
        "teams",
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("models", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("disabled_at", sa.BigInteger),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("old_digest", sa.LargeBinary(32), unique=True),
        sa.Column("old_until", sa.BigInteger),
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("team", sa.String(256)),
        sa.Column("owner", sa.String(256)),
        *(sa.Column(name, sa.Text) for name in ("models", "networks", "tags", "note")),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("disabled_at", sa.BigInteger),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.String(256), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
    )
