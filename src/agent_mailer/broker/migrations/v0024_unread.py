"""One index of what is unread, in the place of two."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from agent_mailer.broker.migrations.v0005_waiting import UNREAD

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    those: dict[str, Any] = {f"{one}_where": sa.text(unread) for one, unread in UNREAD.items()}
    op.create_index("ix_messages_unread", "messages", ["to_agent_id", "is_read", "seq", "claimed_at"], **those)
    op.drop_index("ix_messages_waiting", "messages")
    op.drop_index("ix_messages_to_agent_id_messages_is_read_messages_seq", "messages")
