"""What is kept beside the messages so that nobody has to count: what it has to be, and how it is made anew."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, text

from agent_mailer.broker.search.behind import MARK
from agent_mailer.broker.search.rows import note_words

_COUNTED = """
SELECT a.id AS agent_id, COALESCE(m.total, 0) AS total, COALESCE(m.unread, 0) AS unread, COALESCE(m.newest, 0) AS newest
FROM agents AS a LEFT JOIN (
    SELECT to_agent_id, sum(CASE WHEN seq > 0 THEN 1 ELSE 0 END) AS total,
           sum(CASE WHEN seq > 0 AND NOT is_read THEN 1 ELSE 0 END) AS unread, max(abs(seq)) AS newest
    FROM messages GROUP BY to_agent_id
) AS m ON m.to_agent_id = a.id
"""
_WAITING = """
SELECT to_agent_id AS agent_id, thread_id, MIN(rank) AS urgency, MIN(seq) AS head_seq,
       MIN(CASE WHEN rank = most THEN seq END) AS pressing_seq
FROM (
    SELECT to_agent_id, thread_id, seq, rank, MIN(rank) OVER (PARTITION BY to_agent_id, thread_id) AS most
    FROM (
        SELECT to_agent_id, thread_id, seq,
               CASE priority WHEN 'urgent' THEN 0 WHEN 'normal' THEN 1 ELSE 2 END AS rank
        FROM messages WHERE is_read = false AND claimed_at IS NULL AND seq > 0
    ) AS ranked
) AS known
GROUP BY to_agent_id, thread_id
"""
_STORED = "SELECT agent_id, thread_id, urgency, head_seq, pressing_seq FROM waiting_threads"
_WRONG_COUNTS = text(f"""
SELECT count(*) FROM agents JOIN ({_COUNTED}) AS c ON c.agent_id = agents.id
WHERE inbox_total <> c.total OR inbox_unread <> c.unread OR inbox_seq < c.newest
""")  # noqa: S608 - of the constants above
_WRONG_THREADS = text(f"""
SELECT (SELECT count(*) FROM (SELECT * FROM ({_WAITING}) AS w EXCEPT {_STORED}) AS lacking)
     + (SELECT count(*) FROM ({_STORED} EXCEPT SELECT * FROM ({_WAITING}) AS w) AS beyond)
""")  # noqa: S608
_COUNT = text(f"""
UPDATE agents SET inbox_total = c.total, inbox_unread = c.unread,
    inbox_seq = CASE WHEN inbox_seq < c.newest THEN c.newest ELSE inbox_seq END
FROM ({_COUNTED}) AS c WHERE c.agent_id = agents.id
""")  # noqa: S608
_LISTED = text("""
INSERT INTO threads (user_id, thread_id, last_activity, shelf)
SELECT user_id, thread_id, MAX(created_at), 'open' FROM messages WHERE thread_id <> '' GROUP BY user_id, thread_id
ON CONFLICT (user_id, thread_id) DO NOTHING
""")
_UNLISTED = text("""
SELECT count(*) FROM (
    SELECT user_id, thread_id FROM messages WHERE thread_id <> '' EXCEPT SELECT user_id, thread_id FROM threads
) AS lacking
""")
_FORGET = text("DELETE FROM waiting_threads")
_FILL = text(f"INSERT INTO waiting_threads (agent_id, thread_id, urgency, head_seq, pressing_seq) {_WAITING}")


WORDS = ("searchable", "message_words")
"""By what mail is found: of the database's own kind, and made anew from the messages."""
_WITHOUT_WORDS = text(
    "SELECT id, user_id, subject, body FROM messages WHERE thread_id <> ''"
    " AND id NOT IN (SELECT message_id FROM searchable) ORDER BY created_at, id LIMIT 1000"
)
_LEFT_OUT_OF_FILE = text(
    f"SELECT id FROM messages WHERE thread_id <> '' AND rowid < {MARK}"  # noqa: S608 - of a constant
    " AND id NOT IN (SELECT message_id FROM searchable) LIMIT 1"
)


def reflected(connection: Connection) -> MetaData:
    """The tables that there are, without what follows from others in a way of the database's own."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: not name.startswith(WORDS))
    return found


def note_missing_words(connection: Connection) -> None:
    """So that all mail is found."""
    while some := connection.execute(_WITHOUT_WORDS).mappings().all():
        note_words(connection, [dict(row) for row in some])


def wrong_counts(connection: Connection) -> int:
    """Inboxes whose totals are not what their messages say."""
    return int(connection.execute(_WRONG_COUNTS).scalar_one())


def wrong_threads(connection: Connection) -> int:
    """Threads of inboxes of which is not known what waits in them, or something that does not."""
    return int(connection.execute(_WRONG_THREADS).scalar_one())


def unlisted(connection: Connection) -> int:
    """Threads of which no list knows."""
    return int(connection.execute(_UNLISTED).scalar_one())


def unfound(connection: Connection) -> bool:
    """Whether there is mail that no search finds, nor the next one."""
    lacking = _LEFT_OUT_OF_FILE if connection.dialect.name == "sqlite" else _WITHOUT_WORDS
    return connection.execute(lacking).first() is not None


def derive(connection: Connection) -> None:
    """Make all of it anew; nobody else writes meanwhile."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE agents, messages, threads, waiting_threads IN SHARE ROW EXCLUSIVE MODE"))
    connection.execute(_COUNT)
    connection.execute(_FORGET)
    connection.execute(_FILL)
    connection.execute(_LISTED)
    note_missing_words(connection)
