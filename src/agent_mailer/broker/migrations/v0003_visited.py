"""Who wrote the messages of which one came: by this, agents that go round in a circle are noticed.

NULL, as in what was stored before: not known.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("visited", sa.JSON()))
