"""Every text that a key ever had: one that was rotated away is never taken over again."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make a table for them."""
    op.create_table(
        "former_keys",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("counts_until", sa.BigInteger, nullable=False),
    )
