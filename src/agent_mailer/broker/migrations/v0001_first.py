"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_superadmin", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("filter_tags", sa.JSON(), nullable=False),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("username", name="uq_users_username"),
    )
    op.create_table(
        "invite_codes",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("used_by", sa.Text()),
        sa.Column("used_at", sa.Text()),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("code", name="pk_invite_codes"),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_teams"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_teams_user_id_users"),
        sa.UniqueConstraint("name", "user_id", name="uq_teams_name_user_id"),
    )
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("last_seen", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("api_key_suffix", sa.Text()),
        sa.Column("team_id", sa.Text()),
        sa.Column("inbox_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_agents_user_id_users"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_agents_team_id_teams", ondelete="SET NULL"),
        sa.UniqueConstraint("address", name="uq_agents_address"),
        sa.CheckConstraint("status IN ('active', 'deleted')", name=op.f("ck_agents_status")),
    )
    op.create_index("ix_agents_user_id", "agents", ["user_id"])
    op.create_index("ix_agents_team_id", "agents", ["team_id"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.Text()),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("agent_id", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id_users"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_api_keys_agent_id_agents"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_index("ix_api_keys_agent_id", "api_keys", ["agent_id"])
    op.create_table(
        "messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("from_agent_id", sa.Text(), nullable=False),
        sa.Column("from_agent", sa.Text(), nullable=False),
        sa.Column("to_agent_id", sa.Text(), nullable=False),
        sa.Column("to_agent", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attachments", sa.JSON(), nullable=False),
        sa.Column("is_read", sa.Boolean(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hops", sa.Integer(), nullable=False),
        sa.Column("automatic", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text()),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_at", sa.Text()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("request_hash", sa.Text()),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_messages_user_id_users"),
        sa.ForeignKeyConstraint(["from_agent_id"], ["agents.id"], name="fk_messages_from_agent_id_agents"),
        sa.ForeignKeyConstraint(["to_agent_id"], ["agents.id"], name="fk_messages_to_agent_id_agents"),
        sa.ForeignKeyConstraint(["parent_id"], ["messages.id"], name="fk_messages_parent_id_messages"),
        sa.UniqueConstraint("to_agent_id", "seq", name="uq_messages_to_agent_id_seq"),
        sa.UniqueConstraint(
            "from_agent_id",
            "idempotency_key",
            "ordinal",
            name="uq_messages_from_agent_id_idempotency_key_ordinal",
        ),
        sa.CheckConstraint("action IN ('send', 'reply', 'forward')", name=op.f("ck_messages_action")),
    )
    op.create_index(
        "ix_messages_to_agent_id_messages_is_read_messages_seq", "messages", ["to_agent_id", "is_read", "seq"]
    )
    op.create_index("ix_messages_user_id_messages_thread_id", "messages", ["user_id", "thread_id"])
    op.create_table(
        "receipts",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("watcher", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_receipts_message_id_messages"),
        sa.UniqueConstraint("message_id", "turn_id", "stage", name="uq_receipts_message_id_turn_id_stage"),
        sa.CheckConstraint("stage IN ('claimed', 'started', 'settled')", name=op.f("ck_receipts_stage")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("stored_path", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_files_user_id_users"),
    )
    op.create_table(
        "system_settings",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_system_settings"),
    )
