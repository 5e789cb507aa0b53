"""How many messages an inbox has, and how many of them are unread: so that nobody has to count them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COUNTED = """
SELECT a.id,
       (SELECT count(*) FROM messages AS m WHERE m.to_agent_id = a.id) AS inbox_total,
       (SELECT count(*) FROM messages AS m WHERE m.to_agent_id = a.id AND m.is_read = false) AS inbox_unread
FROM agents AS a
"""
FILL = f"""
UPDATE agents SET inbox_total = counted.inbox_total, inbox_unread = counted.inbox_unread
FROM ({COUNTED}) AS counted WHERE counted.id = agents.id
"""  # noqa: S608 - of the constant above


def upgrade() -> None:
    """They follow from the messages, which stay as they are."""
    for name in ("inbox_total", "inbox_unread"):
        op.add_column("agents", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(FILL)
