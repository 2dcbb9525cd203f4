"""How long answers and first contents took, counted in steps: percentiles are made of them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_FIRSTS = ("250", "500", "1000", "2000", "4000", "8000", "more")
_WHOLES = ("500", "1000", "2000", "4000", "8000", "16000", "32000", "64000", "more")


def upgrade() -> None:
    """Add the counts; for what was booked before they are 0, and no percentile is known."""
    for name in (*(f"first_{each}" for each in _FIRSTS), *(f"ms_{each}" for each in _WHOLES)):
        op.add_column("usage", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
