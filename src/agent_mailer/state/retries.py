"""`retries.json`: messages that are ours and still to be done.

Another AMP client writes a number there, how often it has tried a message that its mailbox still lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent_mailer.disk import Sync
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.processed import Processed
from agent_mailer.state.records import RetryEntry, TurnRecord
from agent_mailer.state.turns import TurnStore, shares


class Retries:
    """Message id -> retry entry. Small: only what is under way."""

    def __init__(
        self,
        folder: StateFolder,
        remake: Callable[[], dict[str, RetryEntry]],
        close: Callable[[Iterable[str]], None],
    ) -> None:
        """`remake` gives the entries of a file that is damaged; `close` ends the questions of a message."""
        self._folder = folder
        self._close = close
        self._path = folder.path / "retries.json"
        self._remake = remake
        self._entries: dict[str, RetryEntry] | None = None
        self._counts: dict[str, int] = {}

    def get(self, message_id: str) -> RetryEntry | None:
        return self._load().get(message_id)

    def all(self) -> Iterator[RetryEntry]:
        yield from list(self._load().values())

    def __len__(self) -> int:
        return len(self._load())

    def adopt(self, envelope: Envelope) -> RetryEntry | None:
        """What another client had counted for a listed message, as an entry; None where it had counted nothing."""
        self._load()
        tries = self._counts.get(envelope.id, 0)
        return RetryEntry(envelope, attempts=tries, starts=tries) if tries > 0 else None

    def put(self, entry: RetryEntry, *, force: bool = False) -> None:
        """Durable when it returns. An older settlement that is applied again never takes a later one back."""
        self.put_all([entry], force=force)

    def put_all(self, new: Iterable[RetryEntry], *, force: bool = False) -> None:
        entries = self._load()
        changed = {
            entry.envelope.id: entry
            for entry in new
            if force or (known := entries.get(entry.envelope.id)) is None or known.revision < entry.revision
        }
        if changed:
            self._write(entries | changed)

    def remove(self, message_id: str) -> None:
        entries = self._load()
        if (known := entries.get(message_id)) is not None and known.asked:
            # While it is known which they are.
            self._close(known.asked)
        if message_id in entries or message_id in self._counts:
            self._write({k: v for k, v in entries.items() if k != message_id}, without=message_id)

    def _write(self, entries: dict[str, RetryEntry], without: str = "") -> None:
        counts = {k: v for k, v in self._counts.items() if k not in entries and k != without}
        data = msgspec.json.format(msgspec.json.encode({**counts, **entries}), indent=2) + b"\n"
        self._folder.disk.replace(self._path, data, sync=Sync.FULL)
        self._entries, self._counts = entries, counts

    def _load(self) -> dict[str, RetryEntry]:
        if self._entries is not None:
            return self._entries
        made: dict[str, RetryEntry] | None = None

        def remake() -> dict[str, RetryEntry | int]:
            nonlocal made
            made = self._remake()
            return dict(made)

        found = self._folder.read(self._path, dict[str, RetryEntry | int], {}, remake)
        entries = {entry.envelope.id: entry for entry in found.values() if isinstance(entry, RetryEntry)}
        self._counts = {key: entry for key, entry in found.items() if isinstance(entry, int)}
        if made is not None and self._folder.ours:
            self._write(entries)
        self._entries = entries
        return entries


def remake_retries(
    turns: TurnStore, processed: Processed, dead_letters: DeadLetters, released: Iterable[Envelope] = ()
) -> dict[str, RetryEntry]:
    """Every message whose newest turn left it to be done, as that turn left it; and what was `released`, and has none.

    The newest is the one of the latest revision: the clock, and with it the order of the turns' ids, may have jumped. A
    message that is given up, but neither settled nor among the dead letters, was asked to run again.
    """
    newest: dict[str, TurnRecord] = {}
    for turn_id in turns.ids():
        record = turns.load(turn_id)
        if record is None or record.settlement is None or record.resends:
            continue
        for one in shares(record):
            known = newest.get(one.envelope.id)
            if known is None or _revision(known) <= _revision(one):
                newest[one.envelope.id] = one
    found: dict[str, RetryEntry] = {}
    for message_id, record in newest.items():
        settlement = record.settlement
        if settlement is None or message_id in processed:
            continue
        if settlement.retry is not None:
            found[message_id] = settlement.retry
        elif settlement.dead is not None and turns.is_settled(record.turn_id) and not dead_letters.find(message_id):
            found[message_id] = RetryEntry(
                record.envelope, history=settlement.dead.history, revision=_revision(record) + 1
            )
    for envelope in released:
        if envelope.id not in newest and envelope.id not in processed and not dead_letters.find(envelope.id):
            found[envelope.id] = RetryEntry(envelope, released=True)
    return found


def _revision(record: TurnRecord) -> int:
    return record.rerun.revision if record.rerun is not None else 0
