"""The tables of what the broker keeps of watchers, and the metadata that all tables have; they are read by `tables`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Who serves this database, where it is a server's. Whose row has not been touched for a while is gone.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_digest", Text, nullable=False),
    # Milliseconds since 1970, by the database's clock.
    Column("seen_ms", BigInteger, nullable=False),
)

# Which watcher holds an agent, and by which process; it counts while that process is there.
leases = Table(
    "leases",
    metadata,
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True),
    Column("watcher", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("since", Text, nullable=False),
    Column("process_id", Text, nullable=False, index=True),
    # Grows with each stream that holds the agent: whoever ends an older one ends nothing of a newer one.
    Column("epoch", BigInteger, nullable=False),
)

# Links by which a person answers what an agent asks, once. The broker sees a token when somebody uses it.
approval_links = Table(
    "approval_links",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("agent_id", Text, ForeignKey("agents.id"), nullable=False, index=True),
    # What the page says, `approvals.rows.Shown`.
    Column("shown", JSON, nullable=False),
    # Milliseconds since 1970.
    Column("ends_ms", BigInteger, nullable=False, index=True),
    # allow or deny, once it was used.
    Column("verdict", Text),
)

# What a watcher has reported last (JSON, `remote.port.Report`), and the number of the last request to it: a row for
# each agent that was ever reported of, or asked something.
reports = Table(
    "reports",
    metadata,
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True),
    Column("report", Text),
    Column("reported_at", Text),
    Column("asked_seq", BigInteger, nullable=False),
    # Since when its reports ask for nobody; none while they do.
    Column("well_since", Text),
    # What of it is looked at over all agents at once: `remote.rows.beside`.
    Column("ended", Boolean),
    *(Column(name, BigInteger) for name in ("working", "waiting", "schedules", "turns")),
    Column("day", Text),
    Column("cost_usd", Float),
)

# What people have asked of an agent's watcher, in order; `state` is a value of `remote.rows.RequestState`.
remote_requests = Table(
    "remote_requests",
    metadata,
    Column("agent_id", Text, ForeignKey("agents.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    # Who asked, as people read it.
    *(Column(name, Text, nullable=False) for name in ("person", "verb")),
    Column("targets", JSON, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("reason", "stopped_then", "asked_at")),
    # Milliseconds since 1970.
    Column("ends_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("lines", JSON, nullable=False),
    Column("answered_at", Text),
    Column("idempotency_key", Text),
    UniqueConstraint("agent_id", "idempotency_key"),
    Index("ix_remote_requests_agent_id_state", "agent_id", "state"),
)
