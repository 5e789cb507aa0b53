"""What watchers report, and what people ask of them from afar."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reports",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("report", sa.Text()),
        sa.Column("reported_at", sa.Text()),
        sa.Column("asked_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", name="pk_reports"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_reports_agent_id_agents"),
    )
    op.create_table(
        "remote_requests",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stopped_then", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Text(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("answered_at", sa.Text()),
        sa.Column("idempotency_key", sa.Text()),
        sa.PrimaryKeyConstraint("agent_id", "number", name="pk_remote_requests"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_remote_requests_agent_id_agents"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_remote_requests_user_id_users"),
        sa.UniqueConstraint("agent_id", "idempotency_key", name="uq_remote_requests_agent_id_idempotency_key"),
    )
    op.create_index("ix_remote_requests_agent_id_state", "remote_requests", ["agent_id", "state"])
