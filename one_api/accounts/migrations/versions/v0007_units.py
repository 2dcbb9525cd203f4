"""What answers take beside tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Give the ledger columns for it."""
    op.add_column("ledger", sa.Column("units", sa.Float))
    op.add_column("ledger", sa.Column("unit", sa.String(16)))
