"""Whether a user may use the broker: active, disabled for a while, or deleted for good. Those that there are, may."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("standing", sa.Text(), nullable=False, server_default="active"))
