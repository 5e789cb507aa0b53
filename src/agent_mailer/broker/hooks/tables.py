"""The tables of hooks, beside those that all resources share."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from agent_mailer.broker.tables import metadata

# What lets programs of elsewhere write to agents. Its secret is not stored: it follows from the broker's own, the id
# and the version. `standing` is a value of `hooks.rows.Standing`, `kind` of `outside.event.Source`.
hooks = Table(
    "hooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("standing", Text, nullable=False),
    # Under whose name it writes, and who gets it: an agent, or all of a team.
    Column("sender_id", Text, ForeignKey("agents.id"), nullable=False),
    Column("agent_id", Text, ForeignKey("agents.id")),
    Column("team_id", Text, ForeignKey("teams.id", ondelete="SET NULL")),
    Column("rules", JSON, nullable=False),
    Column("created_at", Text, nullable=False),
    # Where answers are told back, NULL for nowhere; hosts that may be private ones; up to which number of its inbox.
    Column("callback", Text),
    Column("callback_hosts", JSON),
    Column("callback_seq", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("user_id", "name"),
)

# What came by a hook, once for each id; `outcome` is a value of `hooks.taking.Outcome`.
hook_deliveries = Table(
    "hook_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hook_id", Text, ForeignKey("hooks.id"), nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("at", Text, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("event", "origin", "item", "outcome", "reason")),
    Column("occurrences", Integer, nullable=False),
    Column("message_ids", JSON, nullable=False),
    # What failed, to be tried again; else NULL.
    Column("held", Text),
    Column("tries", Integer, nullable=False),
    # When what failed is to be tried again, milliseconds since 1970.
    Column("due_ms", BigInteger),
    UniqueConstraint("hook_id", "delivery_id"),
    Index("ix_hook_deliveries_hook_id_at", "hook_id", "at"),
    Index("ix_hook_deliveries_hook_id_digest", "hook_id", "digest"),
    Index("ix_hook_deliveries_due_ms", "due_ms"),
)

# What is told once until it is resolved.
hook_items = Table(
    "hook_items",
    metadata,
    Column("hook_id", Text, ForeignKey("hooks.id"), primary_key=True),
    Column("origin", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("occurrences", BigInteger, nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("first_at", Text, nullable=False),
    Column("last_at", Text, nullable=False),
    # By its sender's clock, milliseconds since 1970: what is older came late.
    Column("moment_ms", BigInteger),
)

# What is told back, once for each message; `state` is a value of `hooks.rows.State`.
hook_callbacks = Table(
    "hook_callbacks",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("hook_id", Text, ForeignKey("hooks.id"), nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("at", "body", "state", "why")),
    Column("tries", Integer, nullable=False),
    # When it is to be posted, milliseconds since 1970; NULL: it is over.
    Column("due_ms", BigInteger),
    Index("ix_hook_callbacks_due_ms", "due_ms"),
    Index("ix_hook_callbacks_hook_id_at", "hook_id", "at"),
)
