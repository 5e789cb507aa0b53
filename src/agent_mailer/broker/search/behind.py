"""A file's index of words runs a moment behind what is stored: what is put into it together costs a third of what it
costs one by one. Whoever searches waits until it has caught up.

Which messages it lacks follows from their order in the table, so nothing is written down for it. A server has an index
that gathers changes itself: there the words are stored with the message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.database import Store
from agent_mailer.broker.search.rows import note_words

log = logging.getLogger("agent_mailer.broker")

AT_ONCE = 500
"""Messages of one transaction: the others that are stored meanwhile wait some 10 ms for it."""
GATHERING = 1.0
"""Seconds from what is stored first until it is put into the index."""
AGAIN = 30.0
"""Seconds until what failed is tried again."""
# The newest that the index has is the mark. Where it has none of ours but words of some, it is damaged: not behind.
MARK = """COALESCE(
    (SELECT n.rowid FROM searchable AS s JOIN messages AS n ON n.id = s.message_id ORDER BY s.number DESC LIMIT 1),
    CASE WHEN EXISTS (SELECT 1 FROM message_words_docsize) THEN 9223372036854775807 ELSE 0 END
)"""
_MARK = text(f"SELECT {MARK}")
_BEHIND = text("""
SELECT m.id, m.user_id, m.subject, m.body FROM messages AS m
WHERE m.rowid > :mark AND m.thread_id <> '' AND NOT EXISTS (SELECT 1 FROM searchable AS s WHERE s.message_id = m.id)
ORDER BY m.rowid LIMIT :most
""")


def index_some(connection: Connection) -> int:
    """Puts the oldest that it lacks into the index, as many as `AT_ONCE`; how many they were."""
    found = _lacking(connection, AT_ONCE)
    if found:
        note_words(connection, found)
    return len(found)


def _is_behind(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite" and bool(_lacking(connection, 1))


def _lacking(connection: Connection, most: int) -> list[dict[str, Any]]:
    # Asked first: as a part of the other it would be found anew for each row.
    mark = connection.execute(_MARK).scalar_one()
    return [dict(row) for row in connection.execute(_BEHIND, {"mark": mark, "most": most}).mappings()]


async def catch_up(store: Store) -> None:
    """All that was stored before is found now. Raises as the database does."""
    if await store.read(_is_behind):
        while await store.write(index_some) == AT_ONCE:
            pass


class Gathering:
    """Keeps the index of an open store from falling far behind; while no mail comes it does nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._came = asyncio.Event()
        self._came.set()  # an earlier process may have left some

    def arrived(self, _arrivals: Iterable[tuple[str, int]]) -> None:
        self._came.set()

    def close(self) -> None:
        """What is not in the index yet will be the next time."""

    async def go_on(self) -> None:
        """For ever."""
        while True:
            await self._came.wait()
            await asyncio.sleep(GATHERING)
            self._came.clear()
            try:
                await catch_up(self._store)
            except SQLAlchemyError as error:
                log.warning("the words of new mail could not be stored: %s", str(error).splitlines()[0])
                await asyncio.sleep(AGAIN)
                self._came.set()
