"""One-time links by which a person answers what an agent asks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approval_links",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("token_hash", name="pk_approval_links"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_approval_links_user_id_users"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_approval_links_agent_id_agents"),
    )
    op.create_index("ix_approval_links_agent_id", "approval_links", ["agent_id"])
    op.create_index("ix_approval_links_ends_ms", "approval_links", ["ends_ms"])
