"""Alembic's entry: it runs over the connection, and in the transaction, that `migrate` opened."""

from __future__ import annotations

from alembic import context

from agent_mailer.broker.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can do it, and is then left whole by whatever stops a migration.
    transactional_ddl=True,
    # SQLite changes a column by making the table anew.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
