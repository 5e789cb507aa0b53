"""Wrong passwords are counted in the database, for all processes that serve it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "wrong_passwords",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name="pk_wrong_passwords"),
    )
    op.create_index("ix_wrong_passwords_ends_ms", "wrong_passwords", ["ends_ms"])
