"""Budgets, their windows, and what processes have taken of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make them, and the columns of the ledger that say what a row was charged to."""
    op.add_column("ledger", sa.Column("estimated", sa.Boolean))
    op.add_column("ledger", sa.Column("reserve", sa.BigInteger))
    op.add_column("ledger", sa.Column("charged", sa.Text))
    op.create_table(
        "budgets",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("key", sa.String(256)),
        sa.Column("team", sa.String(256)),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("limit_nano", sa.BigInteger, nullable=False),
        sa.Column("alert_percent", sa.Integer, nullable=False),
    )
    op.create_table(
        "windows",
        sa.Column("budget", sa.String(300), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("alerted", sa.Integer, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("budget", sa.String(300), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("leases_holder", "leases", ["holder"])
