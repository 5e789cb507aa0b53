"""The two databases, and all in which they differ: a file that one process holds, a server that several share."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, IntEnum, auto
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    create_engine,
    event,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool

log = logging.getLogger("agent_mailer.broker")

# FULL: a commit that was answered survives a power cut (with NORMAL it may not).
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")
_STORES_PRAGMAS = ("journal_mode=WAL", *_PRAGMAS)
# Ids are random, so a commit touches pages all over the indexes: they stay in memory (16 MB), and those that change
# again and again are written back once in a while (of the same size).
_WRITERS_PRAGMAS = ("cache_size=-16000", "wal_autocheckpoint=4000")
# Nobody waits longer for a lock than for a file's; and whoever is stopped in a transaction does not hold others up.
_STORES_SETTINGS = {
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}
_SETTINGS = {"synchronous_commit": "on", "timezone": "UTC"}
# Seconds for a new connection, milliseconds for what a server does not acknowledge.
_REACHING = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10, "keepalives_interval": 5}
_BEGIN = "BEGIN IMMEDIATE"
_FOREIGN_KEYS = text(
    "SELECT conrelid::regclass::text, conname FROM pg_constraint"
    " WHERE contype = 'f' AND connamespace = current_schema()::regnamespace"
)
_NUMBERED = text(
    "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND column_default LIKE 'nextval(%'"
)
IN_MEMORY = 500
"""Rows of a snapshot."""
_FULL = "53100"
_AGAIN = ("40001", "40P01")
_BUSY = ("55P03", "57014", "53300")


class Trouble(Enum):
    """Why a database did not do what it was asked for."""

    AGAIN = auto()
    """Two transactions stood in each other's way, and this one gave way: nothing of it happened."""
    CONFLICT = auto()
    """What is stored already, perhaps by another process just now, is in conflict with it."""
    BUSY = auto()
    """Somebody else holds it, and was waited for."""
    AWAY = auto()
    """It cannot be reached."""
    OTHER = auto()


class Alone(IntEnum):
    """What is done by one process at a time; the numbers are those of the locks."""

    MIGRATING = 0x616D7001
    BEGINNING = 0x616D7002
    """The first user, and the code to invite them."""


def is_file(url: str) -> bool:
    """Whether `url` names a database file. Raises sqlalchemy.exc.ArgumentError."""
    return make_url(url).get_backend_name() == "sqlite"


def engine_of(url: str, *, writes: bool, size: int, stores: bool) -> Engine:
    """At most `size` connections to the database at `url`. `stores`: for a Store; else a file stays as it is, to the
    last byte, when it is only looked into, and at a server there is no limit to what a statement may take.
    """
    if is_file(url):
        pragmas = _STORES_PRAGMAS if stores else _PRAGMAS
        return _of_file(url, (*pragmas, *_WRITERS_PRAGMAS) if writes else pragmas, writes=writes, size=size)
    return _of_server(url, _SETTINGS | _STORES_SETTINGS if stores else _SETTINGS, writes=writes, size=size)


@contextmanager
def snapshot(url: str) -> Iterator[Connection]:
    """A connection that sees the database as it is at its first statement, whatever is stored meanwhile; of what it
    finds little is in memory at a time.
    """
    engine = engine_of(url, writes=False, size=1, stores=False)
    server = {} if is_file(url) else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(yield_per=IN_MEMORY, **server)
            if not server:
                connection.exec_driver_sql("BEGIN")
            yield connection
    finally:
        engine.dispose()


@contextmanager
def unchecked(connection: Connection) -> Iterator[None]:
    """Rows may be written before those that they name; all must be there at the end of the block, in a transaction.

    Raises sqlalchemy.exc.IntegrityError.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        yield
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            words = f"a row of {broken[0]} names one of {broken[2]} that there is not"
            raise IntegrityError("", None, sqlite3.IntegrityError(words))
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=OFF")
        return
    found = connection.execute(_FOREIGN_KEYS).all()
    for table, name in found:
        connection.exec_driver_sql(f'ALTER TABLE "{table}" ALTER CONSTRAINT "{name}" DEFERRABLE INITIALLY DEFERRED')
    yield
    connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
    for table, name in found:
        connection.exec_driver_sql(f'ALTER TABLE "{table}" ALTER CONSTRAINT "{name}" NOT DEFERRABLE')
    for table, column in connection.execute(_NUMBERED).all():
        # The numbers that a server gives begin after those that were written.
        newest = f'SELECT COALESCE(MAX("{column}"), 0) + 1 FROM "{table}"'  # noqa: S608 - names of our own tables
        connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), ({newest}), false)")


def trouble_of(error: Exception) -> Trouble:
    """What kind of failure it was."""
    if not isinstance(error, DBAPIError):
        return Trouble.OTHER
    if isinstance(error, IntegrityError):
        return Trouble.CONFLICT
    state = getattr(error.orig, "sqlstate", "")  # a file's errors have none
    if state in _AGAIN:
        return Trouble.AGAIN
    if state in _BUSY or (state == "" and isinstance(error, OperationalError) and "locked" in error_words(error)):
        return Trouble.BUSY
    # Without a state it is the driver that tells: it found no server, or lost it.
    if error.connection_invalidated or (state is None and isinstance(error, OperationalError)):
        return Trouble.AWAY
    return Trouble.AWAY if str(state).startswith(("57P", "08")) else Trouble.OTHER


def error_words(error: DBAPIError) -> str:
    """What a failed database call means for whoever asked: locked, full, read-only … in a few words."""
    if getattr(error.orig, "sqlstate", "") == _FULL:
        return "the database has no room to grow"  # not in which of its files
    return (str(error.orig).splitlines() or [type(error.orig).__name__])[0][:200]


def do_alone(connection: Connection, what: Alone) -> None:
    """Until this transaction ends nobody else does it. What they have done is seen from the next statement on."""
    # A file is locked as a whole when a transaction begins to write.
    if connection.dialect.name != "postgresql":
        return
    number = {"number": int(what)}
    if not connection.execute(text("SELECT pg_try_advisory_xact_lock(:number)"), number).scalar():
        log.warning("another process is at it (%s): waiting", what.name.lower())
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), number)


NOW_MS: ColumnElement[int] = literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)", BigInteger)
"""A server's clock, as an expression: those of the processes may differ."""


def now_ms(connection: Connection) -> int:
    """Milliseconds since 1970, by a server's clock; a file has none of its own."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(select(NOW_MS)).scalar_one())
    return int(time.time() * 1000)


def listen(url: str, channels: Sequence[str]) -> Any:  # noqa: ANN401 - the driver's own connection
    """A connection of its own to a server, which is told what is said on those channels; close it.

    Raises sqlalchemy.exc.SQLAlchemyError.
    """
    engine = _of_server(url, _SETTINGS, writes=False, size=1)
    pooled = engine.raw_connection()
    own: Any = pooled.driver_connection
    pooled.detach()
    error_of = engine.dialect.loaded_dbapi.Error
    try:
        own.autocommit = True
        for channel in channels:
            own.execute(f'LISTEN "{channel}"')
    except error_of as error:
        own.close()
        raise DBAPIError.instance("LISTEN", None, error, error_of, dialect=engine.dialect) from error
    return own


def _of_server(url: str, settings: dict[str, str], *, writes: bool, size: int) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        connect_args={"application_name": "agent-mailer", **_REACHING},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
        # Not as options of the connection: what pools connections before a server refuses them.
        wanted = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        connection.execute(f"SELECT {wanted}")
        connection.commit()

    # Readers see with each statement what is committed then, as they do in a file.
    return engine if writes else engine.execution_options(isolation_level="AUTOCOMMIT")


def _of_file(url: str, pragmas: Sequence[str], *, writes: bool, size: int) -> Engine:
    engine = create_engine(
        make_url(url).set(drivername="sqlite"),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        connect_args={"isolation_level": None, "check_same_thread": False},
        # Readers begin nothing, so they have nothing to end.
        pool_reset_on_return="rollback" if writes else None,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if not writes:
        return engine.execution_options(isolation_level="AUTOCOMMIT")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail where another connection wrote in between.
        # By the driver: SQLAlchemy's own way costs more than to begin does.
        error_of = engine.dialect.loaded_dbapi.Error
        try:
            cast(Any, connection.connection.dbapi_connection).execute(_BEGIN)
        except error_of as error:
            raise DBAPIError.instance(_BEGIN, None, error, error_of, dialect=engine.dialect) from error

    return engine
