"""Sums of usage are kept by the quarter of an hour, so that days of every zone are exact. Those by the hour stay."""

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Change no table: a program of before would not see the new sums, and is not to start any more."""
