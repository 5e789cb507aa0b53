"""Threads as a person lists them, and what of them is archived or in the trash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

FILL = """
INSERT INTO threads (user_id, thread_id, last_activity, shelf)
SELECT user_id, thread_id, MAX(created_at), 'open' FROM messages GROUP BY user_id, thread_id
"""


def upgrade() -> None:
    """The threads follow from the messages, which stay as they are."""
    op.create_table(
        "threads",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("last_activity", sa.Text(), nullable=False),
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("shelved_at", sa.Text()),
        sa.PrimaryKeyConstraint("user_id", "thread_id", name="pk_threads"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_threads_user_id_users"),
    )
    op.create_index("ix_threads_in_order", "threads", ["user_id", "shelf", "last_activity", "thread_id"])
    op.create_table(
        "trashed_messages",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("trashed_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_trashed_messages"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_trashed_messages_message_id_messages"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_trashed_messages_user_id_users"),
    )
    op.create_index("ix_trashed_messages_in_order", "trashed_messages", ["user_id", "trashed_at", "message_id"])
    op.execute(FILL)
