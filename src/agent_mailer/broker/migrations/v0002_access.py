"""Tokens that were logged out, where people have logged in, and the addresses that agents had before.

An earlier program does not know these tables, and refuses the database (SPEC: a newer one is left as it is).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tables only: nothing that is stored changes, and all may be empty."""
    op.create_table(
        "ended_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ended_tokens"),
    )
    op.create_table(
        "known_hosts",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("last_login_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "host", name="pk_known_hosts"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_known_hosts_user_id_users"),
    )
    op.create_table(
        "former_addresses",
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("left_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_former_addresses"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_former_addresses_agent_id_agents"),
    )
    op.create_index("ix_former_addresses_agent_id", "former_addresses", ["agent_id"])
