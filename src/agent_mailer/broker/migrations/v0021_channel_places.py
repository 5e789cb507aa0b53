"""A person's channels in their order, without looking at others': whose a member is, and since when the channel is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

FILL = """
UPDATE channel_members SET
  user_id = (SELECT agents.user_id FROM agents WHERE agents.id = channel_members.agent_id),
  opened_at = (SELECT channels.created_at FROM channels WHERE channels.id = channel_members.channel_id)
"""


def upgrade() -> None:
    for name in ("user_id", "opened_at"):
        op.add_column("channel_members", sa.Column(name, sa.Text()))
    op.execute(FILL)
    op.create_index("ix_channel_members_place", "channel_members", ["user_id", "opened_at", "channel_id"])
