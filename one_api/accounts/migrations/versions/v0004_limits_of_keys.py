"""Limits of a key's own."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add them; without a value a key has those that are configured."""
    for name in ("rpm", "tpm", "concurrent"):
        op.add_column("keys", sa.Column(name, sa.Integer))
