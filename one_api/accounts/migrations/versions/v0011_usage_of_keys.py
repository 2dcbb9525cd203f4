"""The usage of one key is found by an index: without one each look at it read the sums of all keys."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the index, unless somebody has made it before, so that the start needs not wait for it."""
    op.create_index("usage_key", "usage", ["key", "span", "start"], if_not_exists=True)
