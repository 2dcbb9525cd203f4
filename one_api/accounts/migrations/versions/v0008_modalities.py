"""What of the tokens was audio or images, which have prices of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Give the ledger a column for it."""
    op.add_column("ledger", sa.Column("modalities", sa.Text))
