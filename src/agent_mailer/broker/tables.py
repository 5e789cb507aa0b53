"""The broker's tables, as the code of this version expects them; `migrations/` brings a database there.

Ids and times are text: UUIDs and ISO 8601 in UTC, as the protocol shows them. Every row that belongs to a user carries
the user's id, and every query names it: that is the tenant boundary.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    and_,
    exists,
    false,
)

from agent_mailer.broker.watch_tables import metadata as metadata  # noqa: PLC0414 - that of all tables

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("is_superadmin", Boolean, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("filter_tags", JSON, nullable=False),
    # Grows when the password changes: a token of an earlier version is refused.
    Column("token_version", Integer, nullable=False),
    # A value of `users.standing.Standing`.
    Column("standing", Text, nullable=False, server_default="active"),
)

invite_codes = Table(
    "invite_codes",
    metadata,
    Column("code", Text, primary_key=True),
    Column("created_by", Text, nullable=False),
    *(Column(name, Text) for name in ("used_by", "used_at")),
    Column("created_at", Text, nullable=False),
)

teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("name", "description")),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("created_at", Text, nullable=False),
    UniqueConstraint("name", "user_id"),
)

# What a team remembers. They end with it.
team_memories = Table(
    "team_memories",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id", ondelete="CASCADE"), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("title", "content")),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("created_at", "updated_at", "updated_by")),
    UniqueConstraint("team_id", "title"),
)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("address", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("last_seen", Text),
    Column("status", Text, CheckConstraint("status IN ('active', 'deleted')", name="status"), nullable=False),
    Column("api_key_suffix", Text),
    Column("team_id", Text, ForeignKey("teams.id", ondelete="SET NULL"), index=True),
    # The last number given to a message of this inbox.
    Column("inbox_seq", BigInteger, nullable=False),
    # What the inbox has, and what of it is unread: kept by whoever changes it, so that nobody counts.
    Column("inbox_total", BigInteger, nullable=False, server_default="0"),
    Column("inbox_unread", BigInteger, nullable=False, server_default="0"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("key_hash", Text, nullable=False, unique=True),
    *(Column(name, Text, nullable=False) for name in ("name", "created_at")),
    Column("last_used_at", Text),
    Column("is_active", Boolean, nullable=False),
    # A key with an agent acts for that agent only; without one for every agent of the user.
    Column("agent_id", Text, ForeignKey("agents.id"), index=True),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("thread_id", Text, nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("from_agent_id", Text, ForeignKey("agents.id"), nullable=False),
    Column("from_agent", Text, nullable=False),
    Column("to_agent_id", Text, ForeignKey("agents.id"), nullable=False),
    Column("to_agent", Text, nullable=False),
    Column("action", Text, CheckConstraint("action IN ('send', 'reply', 'forward')", name="action"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("attachments", JSON, nullable=False),
    Column("is_read", Boolean, nullable=False),
    Column("parent_id", Text, ForeignKey("messages.id")),
    Column("created_at", Text, nullable=False),
    # The place in the recipient's inbox: given inside the transaction that commits the message, so that the order of
    # commits is the order of these numbers. A message marked unread gets a new one.
    Column("seq", BigInteger, nullable=False),
    Column("hops", Integer, nullable=False),
    Column("automatic", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("kind", Text),
    Column("labels", JSON, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_at", Text),
    Column("idempotency_key", Text),
    Column("request_hash", Text),
    # The recipient's place in a call with several.
    Column("ordinal", Integer, nullable=False),
    # Who wrote those of which it came, the newest last; NULL: not known.
    Column("visited", JSON),
    UniqueConstraint("to_agent_id", "seq"),
    UniqueConstraint("from_agent_id", "idempotency_key", "ordinal"),
    Index(None, "user_id", "thread_id"),
)
UNREAD = messages.c.is_read == false()
WAITING = and_(UNREAD, messages.c.claimed_at.is_(None))
"""What a watcher could claim now."""
CLAIMED = and_(UNREAD, messages.c.claimed_at.is_not(None))
"""What one has claimed: it waits again once the claim is old."""
for _name, _columns, _those in (
    ("ix_messages_waiting_of_thread", ("to_agent_id", "thread_id", "priority", "seq"), WAITING),
    # Each that a send writes costs it some pages: what waits is found in this one, too.
    ("ix_messages_unread", ("to_agent_id", "is_read", "seq", "claimed_at"), UNREAD),
    ("ix_messages_claimed", ("to_agent_id", "claimed_at"), CLAIMED),
):
    Index(_name, *(messages.c[column] for column in _columns), sqlite_where=_those, postgresql_where=_those)

# The threads of an inbox in which something waits: kept beside the messages, so that finding each thread's next ones
# does not cost the more, the more there is.
waiting_threads = Table(
    "waiting_threads",
    metadata,
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True),
    Column("thread_id", Text, primary_key=True),
    # 0: something urgent waits, 1: something normal, 2: only what is low.
    Column("urgency", Integer, nullable=False),
    # The oldest that waits, and the oldest of the most urgent.
    Column("head_seq", BigInteger, nullable=False),
    Column("pressing_seq", BigInteger, nullable=False),
    Index("ix_waiting_threads_in_order", "agent_id", "urgency", "head_seq"),
)

IN_INBOX = messages.c.seq > 0
"""Neither archived nor in the trash: those keep their place as a negative number."""
NOT_ERASED = messages.c.thread_id != ""
"""Not deleted for good. Of what was, the row stays without its content: its id and its key are never used again."""

# The threads of a user, as a person lists them.
threads = Table(
    "threads",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("thread_id", Text, primary_key=True),
    Column("last_activity", Text, nullable=False),
    # A value of `threads.rows.Shelf`, and since when where it is put away.
    Column("shelf", Text, nullable=False),
    Column("shelved_at", Text),
    Index("ix_threads_in_order", "user_id", "shelf", "last_activity", "thread_id"),
)

# Messages that are in the trash one by one.
trashed_messages = Table(
    "trashed_messages",
    metadata,
    Column("message_id", Text, ForeignKey("messages.id"), primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("trashed_at", Text, nullable=False),
    Index("ix_trashed_messages_in_order", "user_id", "trashed_at", "message_id"),
)
NOT_TRASHED = ~exists().where(trashed_messages.c.message_id == messages.c.id).correlate(messages)
"""Not in the trash by itself."""

# Copies of what one of a group takes: those with the same `one_of` of one sender are one message. They stay as ids do.
group_messages = Table(
    "group_messages",
    metadata,
    Column("message_id", Text, ForeignKey("messages.id"), primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("from_agent_id", Text, ForeignKey("agents.id"), nullable=False),
    Column("one_of", Text, nullable=False),
    Column("taken", Boolean, nullable=False),
    Index("ix_group_messages_from_agent_id_one_of", "from_agent_id", "one_of"),
)

# How much an agent has sent, by what a message was; kept by whoever sends.
sent_counts = Table(
    "sent_counts",
    metadata,
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True),
    Column("action", Text, primary_key=True),
    Column("many", BigInteger, nullable=False),
)

# Messages in the order in which they came. Their words are in the database's own index: `search.rows`.
searchable = Table(
    "searchable",
    metadata,
    Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("message_id", Text, ForeignKey("messages.id"), nullable=False, unique=True),
)

receipts = Table(
    "receipts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("message_id", Text, ForeignKey("messages.id"), nullable=False),
    Column("stage", Text, CheckConstraint("stage IN ('claimed', 'started', 'settled')", name="stage"), nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("outcome", Text),
    Column("detail", Text, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("watcher", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    UniqueConstraint("message_id", "turn_id", "stage"),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("filename", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("stored_path", Text, nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Text, nullable=False),
)

# Who did what, `audit.Act`: written in the transaction of what was done, and never changed.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Text, nullable=False, index=True),
    Column("user_id", Text, ForeignKey("users.id"), index=True),
    Column("act", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("via", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("request_id", Text, nullable=False),
)

# What a user has sent on a day (UTC), where that has a limit.
usage = Table(
    "usage",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("day", Text, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

system_settings = Table(
    "system_settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
)

# Tokens that were logged out before they expired (seconds since 1970).
ended_tokens = Table(
    "ended_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires", BigInteger, nullable=False),
)

# Where a person has logged in: wrong passwords from elsewhere do not lock them out there.
known_hosts = Table(
    "known_hosts",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("host", Text, primary_key=True),
    Column("last_login_at", Text, nullable=False),
)

# Wrong passwords of a user, or from an address, until a moment (milliseconds since 1970).
wrong_passwords = Table(
    "wrong_passwords",
    metadata,
    Column("bucket", Text, primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("ends_ms", BigInteger, nullable=False, index=True),
)

# An address that an agent had still leads to it, and is nobody else's.
former_addresses = Table(
    "former_addresses",
    metadata,
    Column("address", Text, primary_key=True),
    Column("agent_id", Text, ForeignKey("agents.id"), nullable=False, index=True),
    Column("left_at", Text, nullable=False),
)

# Files that an agent, or a person, has to itself, until when by the database's clock (milliseconds since 1970).
file_reservations = Table(
    "file_reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("agent_id", Text, ForeignKey("agents.id"), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("holder", "turn", "project", "pattern")),
    Column("ends_ms", BigInteger, nullable=False),
)

# Two agents that talk in turns; `status` is a value of `channels.rows.Status`.
channels = Table(
    "channels",
    metadata,
    Column("id", Text, primary_key=True),
    Column("join_token", Text, nullable=False, unique=True),
    *(Column(name, Text, nullable=False) for name in ("creator_agent", "initial_prompt", "status")),
    *(Column(name, Integer, nullable=False) for name in ("max_turns", "turn_count")),
    *(Column(name, Text, nullable=False) for name in ("ttl_expires_at", "created_at")),
    *(Column(name, Text) for name in ("closed_at", "close_reason")),
)
channel_members = Table(
    "channel_members",
    metadata,
    Column("channel_id", Text, ForeignKey("channels.id"), primary_key=True),
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True, index=True),
    *(Column(name, Text, nullable=False) for name in ("agent_address", "role", "joined_at")),
    # Whose the agent is, and when the channel was opened: a person's channels are found in their order.
    *(Column(name, Text) for name in ("user_id", "opened_at")),
    Index("ix_channel_members_place", "user_id", "opened_at", "channel_id"),
)
channel_messages = Table(
    "channel_messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("channel_id", Text, ForeignKey("channels.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("from_agent", "body", "created_at")),
    UniqueConstraint("channel_id", "seq"),
)
