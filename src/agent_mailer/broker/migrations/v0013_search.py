"""The words of messages, so that mail is found by them, and how much each agent has sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_mailer.broker.search.rows import note_words

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PORTION = 1000
SENT = """
INSERT INTO sent_counts (agent_id, action, many)
SELECT from_agent_id, action, COUNT(*) FROM messages GROUP BY from_agent_id, action
"""


def upgrade() -> None:
    """They follow from the messages, which stay as they are."""
    op.create_table(
        "sent_counts",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("many", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "action", name="pk_sent_counts"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_sent_counts_agent_id_agents"),
    )
    op.execute(SENT)
    connection = op.get_bind()
    in_file = connection.dialect.name == "sqlite"
    op.create_table(
        "searchable",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_searchable"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_searchable_message_id_messages"),
        sa.UniqueConstraint("message_id", name="uq_searchable_message_id"),
    )
    if in_file:
        # Only words, each once: no text, no places. They are made here, and only taken apart at their blanks.
        op.execute(
            "CREATE VIRTUAL TABLE message_words"
            " USING fts5(words, content='', detail=none, tokenize='unicode61 remove_diacritics 0')"
        )
    else:
        op.execute("ALTER TABLE searchable ADD COLUMN words tsvector NOT NULL")
        op.execute("CREATE INDEX ix_searchable_words ON searchable USING gin (words)")
    oldest_first = "rowid" if in_file else "created_at, id"
    wanted = f"SELECT id, user_id, subject, body FROM messages WHERE thread_id <> '' ORDER BY {oldest_first}"  # noqa: S608
    stored = connection.execute(sa.text(wanted), execution_options={"stream_results": True})
    for some in stored.mappings().partitions(PORTION):
        note_words(connection, [dict(row) for row in some])
