"""The ledger, and its sums by minute and hour."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SUMS = (
    "requests",
    "errors",
    "refused",
    "cancelled",
    "cached_answers",
    "unpriced",
    "prompt",
    "cached",
    "completion",
    "cost",
    "upstream_cost",
    "ms",
    "first_ms",
    "firsts",
)


def upgrade() -> None:
    """Make both."""
    op.create_table(
        "ledger",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("deployment", sa.String(512)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("error", sa.String(128)),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("cache", sa.String(16)),
        *(sa.Column(name, sa.BigInteger) for name in ("prompt", "cached", "cache_write", "completion", "reasoning")),
        sa.Column("cost", sa.BigInteger),
        sa.Column("upstream_cost", sa.BigInteger),
        sa.Column("rates", sa.String(256)),
        sa.Column("ms", sa.Integer, nullable=False),
        sa.Column("first_ms", sa.Integer),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("tries", sa.Text),
    )
    op.create_index("ledger_key_id", "ledger", ["key", "id"])
    op.create_table(
        "usage",
        sa.Column("span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(256), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("deployment", sa.String(512), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
    )
