"""A database is brought to this version's tables before it is used, in one transaction, or left as it is."""

from __future__ import annotations

import logging
import re
import shlex
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agent_mailer.broker.database import Executor
from agent_mailer.broker.engines import Alone, Trouble, do_alone, error_words, is_file, trouble_of
from agent_mailer.broker.hooks import tables as _of_hooks  # noqa: F401 - among the tables of `metadata`
from agent_mailer.broker.leases import IS_SERVING
from agent_mailer.broker.tables import metadata
from agent_mailer.broker.watch_tables import processes
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, UnavailableFault
from agent_mailer.installed import newer_command

log = logging.getLogger("agent_mailer.broker")

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0024"
"""The newest of them."""
LOCK_SECONDS = 5
"""How long a lock of somebody else is waited for."""


async def bring_to_head(url: str) -> None:
    """Make or migrate the database at `url`; costs little where there is nothing to do.

    Raises ConfigFault (newer than this program, not ours, not a database, not writable, no room), BusyFault (locked),
    UnavailableFault (its server cannot be reached).
    """
    check_place(url)
    database = Executor(url, writes=True, stores=False)
    try:
        await database.run(lambda connection: _bring(connection, named(url)))
    except DBAPIError as error:
        fault = database_fault(url, error)
        if fault.code == "database_full" and await _is_at_head(url):
            # What is stored can be read: who waits for it need not wait for somebody to make room.
            log.warning("%s; mail can be read, and none is taken", fault.message)
            return
        raise fault from None
    finally:
        await database.close()


async def _is_at_head(url: str) -> bool:
    database = Executor(url, writes=False)
    try:
        version = text("SELECT version_num FROM alembic_version")
        return await database.run(lambda connection: connection.execute(version).scalar() == HEAD)
    except SQLAlchemyError:
        return False
    finally:
        await database.close()


def check_place(url: str) -> None:
    """Raises ConfigFault where a database file cannot be opened."""
    name = named(url)
    if not is_file(url) or name.startswith((":", "file:")):
        return
    try:
        sqlite3.connect(name).close()
    except sqlite3.Error:
        raise _unreadable(name) from None


def _unreadable(name: str) -> ConfigFault:
    return ConfigFault(
        "database_unreadable", f"{name} cannot be opened", f"ls -ld {shlex.quote(str(Path(name).parent))}"
    )


def _bring(connection: Connection, name: str) -> None:
    of_server = connection.dialect.name == "postgresql"
    do_alone(connection, Alone.MIGRATING)
    if of_server:
        _look_at_server(connection, name)
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables:
            raise ConfigFault(
                "not_our_database",
                f"{name} holds tables of another program ({', '.join(sorted(tables)[:5])})",
                "give another database: --data DIR, or --database URL",
            )
        return upgrade(connection, name)
    # A write: what cannot be written is said now, not at the first request.
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version == HEAD:
        return None
    if str(version or "") > HEAD:
        raise _newer(name)
    if "processes" in tables and of_server:
        require_nobody(connection, name, "is to be upgraded")
    return upgrade(connection, name)


def _look_at_server(connection: Connection, name: str) -> None:
    """Raises ConfigFault."""
    encoding = connection.execute(text("SHOW server_encoding")).scalar()
    if encoding != "UTF8":
        raise ConfigFault(
            "database_encoding",
            f"{name} has the encoding {encoding}, which cannot hold all text",
            "give another database: createdb --template=template0 --encoding=UTF8 NAME",
        )
    # Somebody else's lock is told of; a migration is waited for before, however long it takes.
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))


def require_nobody(connection: Connection, name: str, words: str) -> None:
    """A process that goes on would store mail by tables that are no more. Raises BusyFault."""
    if connection.execute(select(processes.c.id).where(IS_SERVING)).first() is not None:
        raise BusyFault(
            "older_processes",
            f"{name} {words}, and is served by processes of before",
            "stop all of them, then start the new ones; one that was killed counts for 15 seconds",
        )


def upgrade(connection: Connection, name: str, to: str = "head") -> None:
    """Make the tables of that version, or bring older ones there. Raises ConfigFault: the version is none of ours."""
    # Alembic costs some megabytes and a third of a second: only who needs it pays.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError

    scripts = ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS])

    def steps(current: str, _context: MigrationContext) -> list[RevisionStep]:
        newest_first = scripts.iterate_revisions(to, current, implicit_base=True)
        return [MigrationStep.upgrade_from_script(scripts.revision_map, one) for one in reversed([*newest_first])]

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=to) as environment:
        environment.configure(
            connection=connection,
            target_metadata=metadata,
            # SQLite can do it, and is then left whole by whatever stops a migration.
            transactional_ddl=True,
            # SQLite changes a column by making the table anew.
            render_as_batch=True,
        )
        try:
            with environment.begin_transaction():
                environment.run_migrations()
        except RevisionError:
            # The version that it has is none of ours.
            raise _newer(name) from None


def _newer(name: str) -> ConfigFault:
    words = f"{name} was made by a newer agent-mailer than this one; it was left as it is"
    return ConfigFault("database_newer", words, newer_command("broker"))


def require_head(connection: Connection, url: str) -> None:
    """For who looks into a database and must not change it. Raises ConfigFault: not ours, or of another version."""
    name = named(url)
    if "alembic_version" not in inspect(connection).get_table_names():
        raise ConfigFault("not_our_database", f"there is no broker's database in {name}", "--data DIR, --database URL")
    schema = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
    if schema > HEAD:
        raise _newer(name)
    if schema != HEAD:
        raise ConfigFault(
            "database_older",
            f"{name} is of an earlier version ({schema}; this one has {HEAD})",
            "start its broker, which brings it here: agent-mailer broker serve",
        )


def database_fault(url: str, error: SQLAlchemyError) -> MailerError:
    """What a failure of the database at `url` means for whoever started the program."""
    name = named(url)
    words = error_words(error) if isinstance(error, DBAPIError) else str(error).splitlines()[0]
    path = shlex.quote(name)
    if isinstance(error, DBAPIError) and not is_file(url):
        return _server_fault(name, error, words)
    if "locked" in words:
        return BusyFault("database_locked", f"{name} is locked by another program", f"look which one: fuser {path}")
    if "not a database" in words or "malformed" in words or "file is encrypted" in words:
        return ConfigFault(
            "database_damaged",
            f"{name} is no whole database ({words})",
            f"put a backup in its place, or move it away to begin anew: mv {path} {path}.damaged",
        )
    if "readonly" in words or "read-only" in words:
        return ConfigFault("database_read_only", f"{name} cannot be written", f"ls -l {path}; df {path}")
    if "full" in words or "No space" in words:
        return ConfigFault("database_full", f"there is no room for {name} to grow", f"make room: df -h {path}")
    if "unable to open" in words:
        return _unreadable(name)
    return ConfigFault("database_failed", f"{name}: {words}", _LOOK)


_LOOK = "look whether the database runs and the URL is right"
# What a server says to somebody whom it does not let in has no state, but always these words where it speaks English.
_NOT_LET_IN = re.compile(
    r"does not exist|authentication failed|pg_hba\.conf|not permitted to log in|permission denied for"
)
_OF_STATES = {
    "25006": ("database_read_only", "cannot be written", "is it a standby? psql -c 'SELECT pg_is_in_recovery()' URL"),
    "42501": ("database_refused", "gives its user too little", "GRANT ALL ON SCHEMA public TO that user"),
    "53100": ("database_full", "has no room to grow", "make room on the server's disk"),
}


def _server_fault(name: str, error: DBAPIError, words: str) -> MailerError:
    trouble = trouble_of(error)
    if trouble is Trouble.AWAY and _NOT_LET_IN.search(words):
        fix = "look at the name, the user and the password in the URL: agent-mailer broker serve --database URL"
        return ConfigFault("database_refused", f"{name} refuses: {words}", fix)
    if trouble is Trouble.AWAY:
        # Exit status 69: a service manager tries again.
        return UnavailableFault("database_unreachable", f"{name} cannot be reached: {words}", "look whether it runs")
    if trouble is Trouble.BUSY:
        fix = "look by whom: psql -c 'SELECT pid, application_name, query FROM pg_stat_activity' URL"
        return BusyFault("database_locked", f"{name} is locked by another session: {words}", fix)
    code, what, fix = _OF_STATES.get(getattr(error.orig, "sqlstate", ""), ("database_failed", "fails", _LOOK))
    return ConfigFault(code, f"{name} {what}: {words}", fix)


def named(url: str) -> str:
    """A database, for people: its file, or its URL without the password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return parsed.database or ":memory:"
    return parsed.render_as_string(hide_password=True)
