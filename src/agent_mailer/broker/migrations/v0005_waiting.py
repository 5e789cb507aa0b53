"""Which threads of an inbox have something waiting, so that a look at them costs the same however much waits."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNREAD = {"sqlite": "is_read = 0", "postgresql": "is_read = false"}
"""As the statements say it: SQLite takes no index for `= 0` that was made for `= false`."""
# Of each thread of an inbox the oldest that waits, and the oldest of the most urgent ones.
FILL = """
INSERT INTO waiting_threads (agent_id, thread_id, urgency, head_seq, pressing_seq)
SELECT to_agent_id, thread_id, MIN(rank), MIN(seq), MIN(CASE WHEN rank = most THEN seq END)
FROM (
    SELECT to_agent_id, thread_id, seq, rank, MIN(rank) OVER (PARTITION BY to_agent_id, thread_id) AS most
    FROM (
        SELECT to_agent_id, thread_id, seq,
               CASE priority WHEN 'urgent' THEN 0 WHEN 'normal' THEN 1 ELSE 2 END AS rank
        FROM messages WHERE is_read = false AND claimed_at IS NULL
    ) AS ranked
) AS known
GROUP BY to_agent_id, thread_id
"""


def upgrade() -> None:
    """The table follows from the messages, which stay as they are."""
    for name, columns, claimed in (
        ("ix_messages_waiting_of_thread", ["to_agent_id", "thread_id", "priority", "seq"], "IS NULL"),
        ("ix_messages_waiting", ["to_agent_id", "is_read", "seq"], "IS NULL"),
        ("ix_messages_claimed", ["to_agent_id", "claimed_at"], "IS NOT NULL"),
    ):
        those: dict[str, Any] = {
            f"{one}_where": sa.text(f"{unread} AND claimed_at {claimed}") for one, unread in UNREAD.items()
        }
        op.create_index(name, "messages", columns, **those)
    op.create_table(
        "waiting_threads",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("urgency", sa.Integer(), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), nullable=False),
        sa.Column("pressing_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "thread_id", name="pk_waiting_threads"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_waiting_threads_agent_id_agents"),
    )
    op.create_index("ix_waiting_threads_in_order", "waiting_threads", ["agent_id", "urgency", "head_seq"])
    op.execute(FILL)
