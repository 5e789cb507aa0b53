"""What is kept beside messages as they are stored, in one transaction with them.

When their threads were active, by which words they are found, how much each agent has sent: so nobody counts or looks
for it later. Each table is written in the order of its keys, as everybody locks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from agent_mailer.broker.fixed import write_each
from agent_mailer.broker.search.rows import note_words

_ACTIVE = text("""\
INSERT INTO threads (user_id, thread_id, last_activity, shelf) VALUES (:user, :thread, :moment, 'open')
ON CONFLICT (user_id, thread_id)
DO UPDATE SET last_activity = excluded.last_activity, shelf = 'open', shelved_at = NULL""")
_SENT = text("""\
INSERT INTO sent_counts (agent_id, action, many) VALUES (:agent, :action, :many)
ON CONFLICT (agent_id, action) DO UPDATE SET many = sent_counts.many + excluded.many""")


def note_stored(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """`rows`: of messages, new, the oldest first.

    A thread that was put away is open again.
    """
    moments = {(row["user_id"], row["thread_id"]): row["created_at"] for row in rows}
    write_each(
        connection,
        _ACTIVE,
        [{"user": user, "thread": thread, "moment": moment} for (user, thread), moment in sorted(moments.items())],
    )
    counts = Counter((row["from_agent_id"], row["action"]) for row in rows)
    write_each(
        connection,
        _SENT,
        [{"agent": agent_id, "action": action, "many": many} for (agent_id, action), many in sorted(counts.items())],
    )
    if connection.dialect.name != "sqlite":
        note_words(connection, rows)  # in a file: `search.behind`
