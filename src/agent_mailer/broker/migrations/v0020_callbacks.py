"""Callbacks: what an agent answers to a hook's mail is told back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hooks", sa.Column("callback", sa.Text()))
    op.add_column("hooks", sa.Column("callback_hosts", sa.JSON()))
    op.add_column("hooks", sa.Column("callback_seq", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "hook_callbacks",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("hook_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("message_id", name="pk_hook_callbacks"),
        sa.ForeignKeyConstraint(["hook_id"], ["hooks.id"], name="fk_hook_callbacks_hook_id_hooks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_hook_callbacks_user_id_users"),
    )
    op.create_index("ix_hook_callbacks_due_ms", "hook_callbacks", ["due_ms"])
    op.create_index("ix_hook_callbacks_hook_id_at", "hook_callbacks", ["hook_id", "at"])
