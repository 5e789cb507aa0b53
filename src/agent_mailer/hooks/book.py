"""What came by a folder's hook, and what of it is open: one small database, so that both change together or not at all.

A transaction is on the disk when it ends (`synchronous` FULL). Several processes may have it open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent_mailer.errors import ConfigFault, UnavailableFault, put_aside
from agent_mailer.outside.event import Event
from agent_mailer.outside.items import Item, Outcome

VERSION = 1
PATIENCE = 10.0
"""Seconds that one process waits for another's transaction."""
_TABLES = """
CREATE TABLE deliveries (
  digest TEXT PRIMARY KEY, delivery TEXT NOT NULL UNIQUE, at REAL NOT NULL,
  event TEXT NOT NULL, origin TEXT NOT NULL, item TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
  message_id TEXT NOT NULL, occurrences INTEGER NOT NULL, tries INTEGER NOT NULL, due_ms INTEGER, held TEXT
);
CREATE INDEX ix_deliveries_at ON deliveries (at);
CREATE INDEX ix_deliveries_due_ms ON deliveries (due_ms);
CREATE TABLE items (
  origin TEXT NOT NULL, item TEXT NOT NULL, is_open INTEGER NOT NULL, occurrences INTEGER NOT NULL,
  thread TEXT NOT NULL, moment_ms INTEGER, first_at REAL NOT NULL, last_at REAL NOT NULL,
  PRIMARY KEY (origin, item)
);
"""
_PUT = "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_ITEM = """
INSERT INTO items (origin, item, is_open, occurrences, thread, moment_ms, first_at, last_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (origin, item) DO UPDATE SET
  is_open = excluded.is_open, occurrences = excluded.occurrences, thread = excluded.thread,
  moment_ms = excluded.moment_ms, last_at = excluded.last_at,
  first_at = CASE WHEN ? THEN excluded.first_at ELSE items.first_at END
"""
_NEWEST = "SELECT * FROM deliveries ORDER BY at DESC, digest LIMIT ?"
_NEWEST_OF = "SELECT * FROM deliveries WHERE outcome = ? ORDER BY at DESC, digest LIMIT ?"


class Row(msgspec.Struct, frozen=True):
    """A delivery. `at`: when it came, seconds since 1970; `due_ms`: when what failed is tried again, milliseconds;
    `held`: the event of what failed, as JSON.
    """

    digest: str
    delivery: str
    at: float
    event: str
    origin: str
    item: str
    outcome: Outcome
    reason: str = ""
    message_id: str = ""
    occurrences: int = 0
    tries: int = 0
    due_ms: int | None = None
    held: str | None = None


class Told(msgspec.Struct, frozen=True):
    """An item as it is shown. `first_at`, `last_at`: when it was told, seconds since 1970."""

    origin: str
    item: str
    is_open: bool
    occurrences: int
    thread: str
    first_at: float
    last_at: float


class Book:
    """Raises ConfigFault for a file that is no such book, UnavailableFault where the disk or another process fails us;
    later that is sqlite3.Error.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Threads take turns, by a lock of their own.
            self._db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise _unavailable(path, error) from None
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            with self.change():
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _TABLES.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise _unavailable(path, error) from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigFault("bad_book", f"{path}: {error}", put_aside(path)) from None
        if version > VERSION:
            self._db.close()
            raise ConfigFault("newer_book", f"{path} was written by a newer agent-mailer", "install that one")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Everything within, or nothing; nobody else writes meanwhile."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def by_digest(self, digest: str) -> Row | None:
        return next(self._rows("SELECT * FROM deliveries WHERE digest = ?", digest), None)

    def by_id(self, delivery: str) -> Row | None:
        return next(self._rows("SELECT * FROM deliveries WHERE delivery = ?", delivery), None)

    def newest(self, outcome: Outcome | None, most: int) -> list[Row]:
        found = self._rows(_NEWEST, most) if outcome is None else self._rows(_NEWEST_OF, outcome, most)
        return list(found)

    def failed(self) -> list[str]:
        """The deliveries of all that failed, the newest first."""
        wanted = "SELECT delivery FROM deliveries WHERE outcome = ? ORDER BY at DESC, digest"
        return [delivery for (delivery,) in self._db.execute(wanted, (Outcome.FAILED,))]

    def due(self, now_ms: int, most: int) -> list[Row]:
        """What failed and is to be tried again by then, the longest first."""
        return list(self._rows("SELECT * FROM deliveries WHERE due_ms <= ? ORDER BY due_ms, at LIMIT ?", now_ms, most))

    def due_before(self, row: Row) -> int | None:
        """When what came earlier of the same item, and failed, is tried again; None where nothing of it waits."""
        wanted = "SELECT max(due_ms) FROM deliveries WHERE origin = ? AND item = ? AND at < ? AND due_ms IS NOT NULL"
        found = self._db.execute(wanted, (row.origin, row.item, row.at)).fetchone()[0]
        return None if found is None else int(found)

    def put(self, row: Row) -> None:
        self._db.execute(_PUT, msgspec.structs.astuple(row))

    def make_due(self, deliveries: Iterable[str]) -> None:
        """Have what failed tried again at the next look, as if for the first time."""
        again = "UPDATE deliveries SET due_ms = 0, tries = 0 WHERE delivery = ? AND held IS NOT NULL"
        self._db.executemany(again, [(one,) for one in deliveries])

    def item(self, event: Event) -> Item | None:
        wanted = "SELECT is_open, occurrences, thread, moment_ms FROM items WHERE origin = ? AND item = ?"
        row = self._db.execute(wanted, (event.origin, event.key)).fetchone()
        return None if row is None else Item(bool(row[0]), *row[1:])

    def put_item(self, event: Event, item: Item, now: float) -> None:
        values = (event.origin, event.key, *msgspec.structs.astuple(item), now, now, item.begins)
        self._db.execute(_PUT_ITEM, values)

    def told(self, most: int) -> list[Told]:
        """What was told last first."""
        wanted = "SELECT origin, item, is_open, occurrences, thread, first_at, last_at FROM items"
        found = self._db.execute(wanted + " ORDER BY last_at DESC, item LIMIT ?", (most,))
        return [
            Told(origin, item, bool(is_open), many, thread, first, last)
            for origin, item, is_open, many, thread, first, last in found
        ]

    def forget(self, before: float) -> None:
        """What came earlier and is over."""
        self._db.execute("DELETE FROM deliveries WHERE at < ? AND due_ms IS NULL", (before,))
        self._db.execute("DELETE FROM items WHERE last_at < ? AND NOT is_open", (before,))

    def _rows(self, wanted: str, *values: object) -> Iterator[Row]:
        for digest, delivery, at, event, origin, item, outcome, *rest in self._db.execute(wanted, values):
            yield Row(digest, delivery, at, event, origin, item, Outcome(outcome), *rest)


def _unavailable(path: Path, error: sqlite3.Error) -> UnavailableFault:
    """The book is sound: whoever moved it away would have all that it knows come a second time."""
    return UnavailableFault("book_busy", f"{path}: {error}", "try again; does its listener run? agent-mailer hook list")
