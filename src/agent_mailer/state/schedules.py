"""`schedules.json`: what was sent by the clock, and what is being sent."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.schedules.due import Known
from agent_mailer.state.folder import StateFolder

MOST_SENT = 32
"""Of each schedule so many messages are known to be a person's, however long they wait."""


class _Book(msgspec.Struct, frozen=True, omit_defaults=True):
    schedules: dict[str, Known] = {}


class Schedules:
    """By name. Made anew after damage it is empty: everything is due from then on."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._path = folder.schedules
        self._book: _Book | None = None
        self._sent: frozenset[str] | None = None

    @property
    def all(self) -> dict[str, Known]:
        """Not to be changed. Raises OSError where the file cannot be read now."""
        if self._book is None:
            self._book = self._folder.read(self._path, _Book, _Book())
        return self._book.schedules

    @property
    def sent(self) -> frozenset[str]:
        """Ids of messages that a schedule has sent. Raises as `all`."""
        if self._sent is None:
            self._sent = frozenset(message_id for known in self.all.values() for message_id in known.sent)
        return self._sent

    def put(self, name: str, known: Known) -> None:
        """Durable when it returns. Raises OSError, and nothing is changed."""
        known = msgspec.structs.replace(known, sent=known.sent[-MOST_SENT:])
        self._write({**self.all, name: known})

    def keep(self, names: Collection[str]) -> None:
        """Forget all others: what comes back under such a name is new. Raises OSError."""
        if not names:
            self._folder.disk.remove(self._path)
            self._book = self._sent = None
        elif not self.all.keys() <= set(names):
            self._write({name: known for name, known in self.all.items() if name in names})

    def _write(self, schedules: dict[str, Known]) -> None:
        book = _Book(schedules)
        self._folder.clear_way(self._path)
        data = msgspec.json.format(msgspec.json.encode(book), indent=2) + b"\n"
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        self._book, self._sent = book, None
