"""Files that an agent, or a person, has to itself for a while."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_reservations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("turn", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_file_reservations"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_file_reservations_user_id_users"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_file_reservations_agent_id_agents"),
    )
    op.create_index("ix_file_reservations_user_id", "file_reservations", ["user_id"])
