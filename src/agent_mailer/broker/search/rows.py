"""The words of messages as rows: kept in the transaction that stores a message, asked for, and gone with it.

In a file the words are in an index of FTS5 that keeps no text, in PostgreSQL in a tsvector under a GIN index. Both hold
the same words, and one more that names the user: so what others have costs a search nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, TextClause, func, insert, select, text

from agent_mailer.broker.fixed import rows_of, write_each
from agent_mailer.broker.search.words import Wanted, snippet, words_of
from agent_mailer.broker.tables import messages, searchable

MOST_FOUND = 10_000
"""Of more nobody counts how many there are."""


class Found(msgspec.Struct, frozen=True):
    """A message in the answer; `body_snippet` is what stands around the first word."""

    message_id: str
    thread_id: str
    subject: str
    body_snippet: str
    from_agent: str
    to_agent: str
    created_at: str


_m, _s = messages.c, searchable.c
_NEWEST = select(func.coalesce(func.max(_s.number), 0))
_NUMBER = insert(searchable)
_IN_FILE = text("INSERT INTO message_words (rowid, words) VALUES (:number, :words)")
_AT_SERVER = text(
    "INSERT INTO searchable (message_id, words) VALUES (:message_id, array_to_tsvector(CAST(:words AS text[])))"
)
_OUT_OF_FILE = text("INSERT INTO message_words (message_words, rowid, words) VALUES ('delete', :number, :words)")
_SHOWN = "m.id, m.thread_id, m.subject, m.body, m.from_agent, m.to_agent, m.created_at"
_MATCHING = {
    "sqlite": "SELECT rowid AS number FROM message_words WHERE message_words MATCH :asked",
    "postgresql": "SELECT number FROM searchable WHERE words @@ CAST(:asked AS tsquery)",
}


# To find what has a beginning that many words have costs the same for one as for all: it is asked once.
_IN_FILE_ONCE = text(f"""
WITH found AS MATERIALIZED ({_MATCHING["sqlite"]} ORDER BY rowid DESC LIMIT {MOST_FOUND})
SELECT count(*), (
    SELECT json_group_array(number) FROM (SELECT number FROM found ORDER BY number DESC LIMIT :most OFFSET :skip)
) FROM found
""")  # noqa: S608 - of constants
_OF_FILE = text(
    f"SELECT {_SHOWN} FROM json_each(:numbers) AS found JOIN searchable AS s ON s.number = found.value"  # noqa: S608
    " JOIN messages AS m ON m.id = s.message_id WHERE m.user_id = :user ORDER BY s.number DESC"
)


def _page(matching: str) -> TextClause:
    """The page is chosen before a message is read."""
    return text(
        f"SELECT {_SHOWN} FROM ({matching} ORDER BY number DESC LIMIT :most OFFSET :skip) AS found"  # noqa: S608 - constants
        " JOIN searchable AS s ON s.number = found.number"
        " JOIN messages AS m ON m.id = s.message_id WHERE m.user_id = :user ORDER BY s.number DESC"
    )


_TOTAL = text(f"SELECT count(*) FROM ({_MATCHING['postgresql']} LIMIT {MOST_FOUND}) AS found")  # noqa: S608 - of constants
_MANY = _page(_MATCHING["postgresql"])
# A server does not know how rare a word is, and would go through its mail from the newest on to find one: where those
# that hold it are few they are taken from the index first.
_FEW = _page(f"WITH few AS MATERIALIZED ({_MATCHING['postgresql']}) SELECT number FROM few")  # noqa: S608 - constants


def note_words(connection: Connection, stored: Sequence[Mapping[str, Any]]) -> None:
    """`stored`: rows of messages, which are new."""
    words = [[_owner(row["user_id"]), *words_of(row["subject"], row["body"])] for row in stored]
    if connection.dialect.name == "postgresql":
        connection.execute(
            _AT_SERVER,
            [{"message_id": row["id"], "words": one} for row, one in zip(stored, words, strict=True)],
        )
        return
    first = rows_of(connection, _NEWEST, {})[0][0] + 1
    write_each(
        connection, _NUMBER, [{"number": number, "message_id": row["id"]} for number, row in enumerate(stored, first)]
    )
    write_each(
        connection, _IN_FILE, [{"number": number, "words": " ".join(one)} for number, one in enumerate(words, first)]
    )


def forget_words(connection: Connection, those: Sequence[ColumnElement[bool]], names: Mapping[str, object]) -> None:
    """Of these messages, whose text is there still."""
    if connection.dialect.name != "postgresql":
        wanted = select(_s.number, _m.user_id, _m.subject, _m.body).join(messages, _m.id == _s.message_id).where(*those)
        gone = [
            {"number": number, "words": " ".join([_owner(user), *words_of(subject, body)])}
            for number, user, subject, body in connection.execute(wanted, names)
        ]
        if gone:
            connection.execute(_OUT_OF_FILE, gone)
    connection.execute(searchable.delete().where(_s.message_id.in_(select(_m.id).where(*those))), names)


def find(connection: Connection, user_id: str, wanted: Wanted, skip: int, most: int) -> tuple[list[Found], int]:
    """At most `most` messages, the newest first, and how many there are (not more than `MOST_FOUND`)."""
    if not wanted:
        return [], 0
    names = {
        "asked": asked_of(connection, user_id, wanted)[1],
        "user": user_id,
        "most": min(most, max(0, MOST_FOUND - skip)),
        "skip": skip,
    }
    total, rows = (_in_file if connection.dialect.name == "sqlite" else _at_server)(connection, names)
    found = [
        Found(name, thread, subject, snippet(body, wanted), sender, to, moment)
        for name, thread, subject, body, sender, to, moment in rows
    ]
    return found, total


def _in_file(connection: Connection, names: Mapping[str, Any]) -> tuple[int, Sequence[Sequence[Any]]]:
    total, numbers = connection.execute(_IN_FILE_ONCE, names).one()
    return total, connection.execute(_OF_FILE, {**names, "numbers": numbers}).all()


def _at_server(connection: Connection, names: Mapping[str, Any]) -> tuple[int, Sequence[Sequence[Any]]]:
    total = connection.execute(_TOTAL, names).scalar_one()
    if names["skip"] >= total:
        return total, ()
    return total, connection.execute(_FEW if total < MOST_FOUND else _MANY, names).all()


def asked_of(connection: Connection, user_id: str, wanted: Wanted) -> tuple[str, str]:
    """The statement that gives the numbers of the messages that hold these words, and its parameter `asked`."""
    dialect = connection.dialect.name
    words = [_owner(user_id), *wanted.words]
    if dialect == "postgresql":
        asked = " & ".join([*(f"'{word}'" for word in words), *(f"'{word}':*" for word in wanted.beginnings)])
    else:
        asked = " AND ".join([*(f'"{word}"' for word in words), *(f'"{word}"*' for word in wanted.beginnings)])
    return _MATCHING[dialect], asked


def _owner(user_id: str) -> str:
    """One word, which no other user's mail has but by design, and then it is left out."""
    return f"u{''.join(sign for sign in user_id if sign.isalnum())}"
