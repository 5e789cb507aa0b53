"""The database of the protocol's public broker, as it lies there: which tables and columns it may have, and its rows.

The schema is that of its commit 46ca115, the same in SQLite and PostgreSQL: ids and times are text, flags 0 and 1, what
is JSON is text. Earlier ones lack tables and columns, which then hold what that broker puts there at its next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, RowMapping, bindparam, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agent_mailer.broker.data import driver_url
from agent_mailer.broker.engines import error_words, snapshot
from agent_mailer.broker.migrate import named
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable

T = TypeVar("T")
AT_ONCE = 500

Old = Mapping[str, Any]
"""A row by the names of its columns."""

SHAPE: Mapping[str, Sequence[str]] = {
    "users": ("id", "username", "password_hash", "is_superadmin", "created_at", "filter_tags"),
    "invite_codes": ("code", "created_by", "used_by", "used_at", "created_at"),
    "system_settings": ("key", "value", "updated_at"),
    "teams": ("id", "name", "description", "user_id", "created_at"),
    "team_memories": (*("id", "team_id", "title", "content", "user_id", "created_at", "updated_at", "updated_by"),),
    "agents": (
        *("id", "name", "address", "role", "description", "system_prompt", "created_at", "tags", "user_id"),
        *("last_seen", "status", "api_key_suffix", "team_id"),
    ),
    "api_keys": ("id", "user_id", "key_hash", "name", "created_at", "last_used_at", "is_active"),
    "messages": (
        *("id", "thread_id", "from_agent", "to_agent", "action", "subject", "body", "attachments", "is_read"),
        *("parent_id", "created_at"),
    ),
    "archived_threads": ("thread_id", "archived_at"),
    "trashed_threads": ("thread_id", "trashed_at"),
    "trashed_messages": ("message_id", "trashed_at"),
    "files": ("id", "filename", "mime_type", "size", "stored_path", "user_id", "created_at"),
    "channels": (
        *("id", "join_token", "creator_agent", "initial_prompt", "status", "max_turns", "turn_count"),
        *("ttl_expires_at", "created_at", "closed_at", "close_reason"),
    ),
    "channel_members": ("channel_id", "agent_id", "agent_address", "role", "joined_at"),
    "channel_messages": ("id", "channel_id", "seq", "from_agent", "body", "created_at"),
}
"""Its tables, each after those that it names, and their columns."""
KEYS: Mapping[str, Sequence[str]] = {
    "invite_codes": ("code",),
    "system_settings": ("key",),
    "archived_threads": ("thread_id",),
    "trashed_threads": ("thread_id",),
    "trashed_messages": ("message_id",),
    "channel_members": ("channel_id", "agent_id"),
}
"""By what a row is known, where that is not `id`."""
_GIVE = "give the public broker's agent_mailer.db, or postgresql://…"
_NEEDED = ("users", "agents", "messages")
_LATER: Mapping[tuple[str, str], str | None] = {
    ("users", "filter_tags"): "[]",
    ("agents", "tags"): "[]",
    ("agents", "last_seen"): None,
    ("agents", "status"): "active",
    ("agents", "api_key_suffix"): "",
    ("agents", "team_id"): None,
}
"""Columns that came later, and what rows of before have there."""
_ORDER = {"messages": ("created_at", "id"), "channel_messages": ("channel_id", "seq")}
_VISIBLE = text("""
SELECT to_agent, count(*) AS many, sum(CASE WHEN is_read = 0 THEN 1 ELSE 0 END) AS unread FROM messages
WHERE thread_id NOT IN (SELECT thread_id FROM archived_threads)
  AND thread_id NOT IN (SELECT thread_id FROM trashed_threads)
  AND id NOT IN (SELECT message_id FROM trashed_messages)
GROUP BY to_agent
""")


def portions(rows: Iterable[T]) -> Iterator[list[T]]:
    """So many as go into one statement."""
    those = iter(rows)
    while some := list(islice(those, AT_ONCE)):
        yield some


def key_of(name: str, row: Old) -> str:
    """A row in words: its id, or what stands for one."""
    return " ".join(str(row[part]) for part in KEYS.get(name, ("id",)))


class Source:
    """It as it is at one moment. `beyond`: tables and columns that nobody here knows."""

    def __init__(self, name: str, connection: Connection) -> None:
        """Raises ConfigFault where it is no such database, or one of too early a version."""
        self.name = name
        self._connection = connection
        look = inspect(connection)
        there = {one: [str(each["name"]) for each in look.get_columns(one)] for one in look.get_table_names()}
        if "alembic_version" in there:
            raise ConfigFault(
                "is_ours",
                f"{name} is a database of this program already",
                "copy it with agent-mailer broker backup, and restore",
            )
        lacking = [one for one in _NEEDED if one not in there]
        lacking += [
            f"{one}.{each}"
            for one, columns in there.items()
            for each in SHAPE.get(one, ())
            if each not in columns and (one, each) not in _LATER
        ]
        if lacking:
            raise ConfigFault(
                "not_that_broker",
                f"{name} is no database of the public broker, or one of before it had users: {', '.join(lacking[:8])}"
                f" {'is' if len(lacking) == 1 else 'are'} not there",
                "start that broker once in its newest version, which brings its database up to date",
            )
        self._there = {one: [each for each in SHAPE[one] if each in there[one]] for one in SHAPE if one in there}
        self.beyond = sorted(
            [one for one in there if one not in SHAPE]
            + [f"{one}.{each}" for one in self._there for each in there[one] if each not in SHAPE[one]]
        )

    def rows(self, name: str) -> Iterator[Old]:
        """Every row of a table, oldest first where that matters; none where the table is not there. Those of messages
        also have `parent_at`, when their parent was written: None where there is none.
        """
        if name not in self._there:
            return
        columns = self._there[name]
        added = {each: _LATER[name, each] for each in SHAPE[name] if each not in columns}
        own = table(name, *(column(each) for each in columns))
        wanted = select(*(own.c[each] for each in columns))
        if name == "messages":
            parent = table("messages", column("id"), column("created_at")).alias("parent")
            wanted = wanted.add_columns(parent.c.created_at.label("parent_at"))
            wanted = wanted.select_from(own.outerjoin(parent, parent.c.id == own.c.parent_id))
        order = _ORDER.get(name, KEYS.get(name, ("id",)))
        for row in self._read(wanted.order_by(*(own.c[each] for each in order))):
            yield {**row, **added}

    def some(self, name: str, keys: Sequence[str]) -> list[Old]:
        """Those with these ids, or what stands for one in a single column."""
        own = table(name, *(column(each) for each in self._there[name]))
        which = own.c[KEYS.get(name, ("id",))[0]].in_(bindparam("keys", expanding=True))
        return [dict(row) for row in self._read(select(own).where(which), {"keys": keys})]

    def inboxes(self) -> dict[str, tuple[int, int]]:
        """What that broker shows in the inbox of each address: all, and unread."""
        if not {"archived_threads", "trashed_threads", "trashed_messages"} <= set(self._there):
            return {}
        return {str(row["to_agent"]): (int(row["many"]), int(row["unread"])) for row in self._read(_VISIBLE)}

    def _read(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Iterator[RowMapping]:
        """What fails here is this database's fault, and none of ours. Raises ConfigFault."""
        try:
            yield from self._connection.execute(statement, values or {}).mappings()
        except SQLAlchemyError as error:
            raise _cannot_be_read(self.name, error) from None


@contextmanager
def opened(place: str) -> Iterator[Source]:
    """`place`: the path of an SQLite file, or the URL of a database. Nothing in it is changed. Raises ConfigFault."""
    url = url_of(place)
    with ExitStack() as stack:
        try:
            source = Source(named(url), stack.enter_context(snapshot(url)))
        except SQLAlchemyError as error:
            raise _cannot_be_read(named(url), error) from None
        yield source


def _cannot_be_read(name: str, error: SQLAlchemyError) -> ConfigFault:
    words = error_words(error) if isinstance(error, DBAPIError) else str(error).splitlines()[0]
    if "decode" in words:
        fix = "fix that row in it; nothing was taken over"
        return ConfigFault("not_text", f"{name} holds text that is not UTF-8: {words}", fix)
    return ConfigFault(
        "source_unreadable", f"what is to be taken over, {name}, cannot be read: {words}; nothing was changed", _GIVE
    )


def url_of(place: str) -> str:
    """Raises ConfigFault where there is no such file, or the URL cannot be read."""
    if "://" in place:
        return driver_url(place)
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        raise ConfigFault(
            "no_source",
            f"there is no file {printable(str(path))}",
            _GIVE,
        )
    return f"sqlite:///{path}"
