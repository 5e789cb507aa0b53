"""Hooks: programs of elsewhere write to agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text()),
        sa.Column("team_id", sa.Text()),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hooks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_hooks_user_id_users"),
        sa.ForeignKeyConstraint(["sender_id"], ["agents.id"], name="fk_hooks_sender_id_agents"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_hooks_agent_id_agents"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_hooks_team_id_teams", ondelete="SET NULL"),
        sa.UniqueConstraint("user_id", "name", name="uq_hooks_user_id_name"),
    )
    op.create_table(
        "hook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hook_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("occurrences", sa.Integer(), nullable=False),
        sa.Column("message_ids", sa.JSON(), nullable=False),
        sa.Column("held", sa.Text()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_hook_deliveries"),
        sa.ForeignKeyConstraint(["hook_id"], ["hooks.id"], name="fk_hook_deliveries_hook_id_hooks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_hook_deliveries_user_id_users"),
        sa.UniqueConstraint("hook_id", "delivery_id", name="uq_hook_deliveries_hook_id_delivery_id"),
    )
    op.create_index("ix_hook_deliveries_hook_id_at", "hook_deliveries", ["hook_id", "at"])
    op.create_index("ix_hook_deliveries_hook_id_digest", "hook_deliveries", ["hook_id", "digest"])
    op.create_index("ix_hook_deliveries_due_ms", "hook_deliveries", ["due_ms"])
    op.create_table(
        "hook_items",
        sa.Column("hook_id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("occurrences", sa.BigInteger(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("first_at", sa.Text(), nullable=False),
        sa.Column("last_at", sa.Text(), nullable=False),
        sa.Column("moment_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("hook_id", "origin", "item", name="pk_hook_items"),
        sa.ForeignKeyConstraint(["hook_id"], ["hooks.id"], name="fk_hook_items_hook_id_hooks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_hook_items_user_id_users"),
    )
