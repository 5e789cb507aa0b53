"""Channels: two agents that talk in turns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "channels",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("join_token", sa.Text(), nullable=False),
        sa.Column("creator_agent", sa.Text(), nullable=False),
        sa.Column("initial_prompt", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("max_turns", sa.Integer(), nullable=False),
        sa.Column("turn_count", sa.Integer(), nullable=False),
        sa.Column("ttl_expires_at", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.Text()),
        sa.Column("close_reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_channels"),
        sa.UniqueConstraint("join_token", name="uq_channels_join_token"),
    )
    op.create_table(
        "channel_members",
        sa.Column("channel_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("agent_address", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("joined_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "agent_id", name="pk_channel_members"),
        sa.ForeignKeyConstraint(["channel_id"], ["channels.id"], name="fk_channel_members_channel_id_channels"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_channel_members_agent_id_agents"),
    )
    op.create_index("ix_channel_members_agent_id", "channel_members", ["agent_id"])
    op.create_table(
        "channel_messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("channel_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("from_agent", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_channel_messages"),
        sa.ForeignKeyConstraint(["channel_id"], ["channels.id"], name="fk_channel_messages_channel_id_channels"),
        sa.UniqueConstraint("channel_id", "seq", name="uq_channel_messages_channel_id_seq"),
    )
