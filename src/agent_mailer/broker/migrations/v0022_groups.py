"""Mail that one of a group takes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "group_messages",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("from_agent_id", sa.Text(), nullable=False),
        sa.Column("one_of", sa.Text(), nullable=False),
        sa.Column("taken", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_group_messages"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_group_messages_message_id_messages"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_group_messages_user_id_users"),
        sa.ForeignKeyConstraint(["from_agent_id"], ["agents.id"], name="fk_group_messages_from_agent_id_agents"),
    )
    op.create_index("ix_group_messages_from_agent_id_one_of", "group_messages", ["from_agent_id", "one_of"])
