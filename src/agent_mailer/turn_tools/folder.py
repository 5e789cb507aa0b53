"""The turn's folder as the agent's tools see it: the mail to read, the outbox to fill, the note that ends the turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path

import msgspec

from agent_mailer import beneath
from agent_mailer.approvals import APPROVALS
from agent_mailer.beneath import holding, is_folder, is_there, names_in
from agent_mailer.clock import iso
from agent_mailer.disk import Disk, Sync, of_the_moment, read_regular
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Contact, Draft, Envelope, Message
from agent_mailer.names import prompt_word, sha256, turn_began
from agent_mailer.turn_tools import ISOLATED

OUTBOX = "outbox"
SEALED = "outbox.sealed"
TURN_TMP = "tmp"
"""What a confined turn has for temporary files."""
MAIL = "mail.json"
MESSAGE_TEXT = "message.md"
URGENT = "urgent.json"
MOST_URGENT = 10
BETWEEN = f"\n\n{'-' * 72}\n"
"""Between two messages, for who reads."""
MAX_STAGED = 100
"""More than any honest turn sends; an agent in a loop stops here."""
MOST_STAGED_BYTES = 64 * 1024 * 1024
"""Of one turn: what lies beyond is read by nobody."""
MOST_NAMES = 4096
NOTE_COPY, TEAM = "note-{}.md", "team.md"
DOCUMENTS = "documents.json"
MAX_NOTE_BYTES = 256 * 1024
"""A note is read whole at the start of every turn."""
MOST_BYTES = 64 * 1024 * 1024
"""What is larger is no item: the largest message has far less, however it is escaped."""

_GARBLED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_YEAR_10000 = 253_402_300_800.0


class TurnOver(MailerError):
    """The turn has been judged: nothing more can be sent from it."""


class Facts(msgspec.Struct, frozen=True):
    """What the tools must know of the turn besides the mail."""

    turn_id: str
    address: str
    max_message_bytes: int
    memory_global: str
    memory_thread: str
    no_way: str = ""
    """Why no answer to the message can be delivered; empty where one can."""
    carries_context: bool = False
    carries_marks: bool = True
    global_note_fixed: bool = False


class TurnMail(msgspec.Struct, frozen=True):
    """`mail.json`: all that the tools read. `batch`: the further messages of a turn that was handed several."""

    facts: Facts
    message: Message
    thread: tuple[Message, ...]
    contacts: tuple[Contact, ...]
    batch: tuple[Message, ...] = ()


class UrgentMail(msgspec.Struct, frozen=True):
    """One line of `urgent.json`: words that no sender wrote."""

    message: str
    sender: str


class FinishKind(StrEnum):
    DONE = "done"
    BLOCKED = "blocked"


class FinishNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The agent's own word on the turn. `question` is for a human; `reply_wanted` false stops the auto-reply."""

    kind: FinishKind
    question: str = ""
    reply_wanted: bool = True


class NoteScope(StrEnum):
    """Which of the agent's notes: that of all threads, or that of the turn's thread."""

    GLOBAL = "global"
    THREAD = "thread"


class NoteWrite(msgspec.Struct, frozen=True):
    """The whole new text of a note. It takes effect when the turn has settled its message."""

    scope: NoteScope
    text: str


class Staged(msgspec.Struct, frozen=True):
    """`already`: the identical item was staged before in this turn; it is the same item."""

    key: str
    already: bool


class Sealed(msgspec.Struct, frozen=True):
    """What a turn left behind when its outbox was closed."""

    drafts: tuple[Draft, ...]
    finish: FinishNote | None
    damaged: int = 0
    notes: tuple[NoteWrite, ...] = ()


class TurnFolder(msgspec.Struct, frozen=True):
    """One turn's folder. The watcher prepares and seals it; the tools read and stage."""

    path: Path
    disk: Disk

    def server(self, workdir: Path) -> tuple[tuple[str, ...], dict[str, str]]:
        """How the mail tools over this folder are started: the MCP server's argv, and what its environment needs."""
        argv = (sys.executable, ISOLATED, "-m", "agent_mailer.turn_tools.mcp", str(self.path))
        return argv, {"AGENT_MAILER_TURN_DIR": str(self.path), "AGENT_MAILER_WORKDIR": str(workdir)}

    def prepare(
        self,
        message: Message,
        thread: Sequence[Message],
        contacts: Sequence[Contact],
        facts: Facts,
        notes: Mapping[NoteScope, bytes] | None = None,
        batch: Sequence[Message] = (),
    ) -> None:
        """Put the mail, and copies of the notes, where the agent's tools find them.

        Nothing here is needed after a crash: recovery writes it again.
        """
        mail = TurnMail(facts, message, tuple(thread), tuple(contacts), tuple(batch))
        text = BETWEEN.join(map(as_text, (message, *batch)))
        with holding(self.path):
            self.disk.make_directory(self.path / OUTBOX)
            self.disk.overwrite(self.path / MAIL, msgspec.json.encode(mail))
            self.disk.overwrite(self.path / MESSAGE_TEXT, text.encode("utf-8", "replace"))
            for scope, content in (notes or {}).items():
                self.disk.overwrite(self.note_copy(scope), content)

    def mail(self) -> TurnMail:
        """Raises TurnOver where the turn is settled, MailerError where the file cannot be read."""
        path = self.path / MAIL
        try:
            return msgspec.json.decode(read_regular(path), type=TurnMail)
        except FileNotFoundError:
            raise self._over() from None
        except _GARBLED as error:
            raise MailerError("damaged", f"{path} cannot be read: {error}", "") from error

    def message(self) -> Message:
        return self.mail().message

    def messages(self) -> tuple[Message, ...]:
        """All that the turn was handed, oldest first."""
        mail = self.mail()
        return (mail.message, *mail.batch)

    def thread(self) -> tuple[Message, ...]:
        return self.mail().thread

    def contacts(self) -> tuple[Contact, ...]:
        return self.mail().contacts

    def facts(self) -> Facts:
        return self.mail().facts

    def stage(self, draft: Draft) -> Staged:
        """Put `draft` into the outbox; durable when it returns. Raises TurnOver or UsageFault."""
        outbox = self.path / OUTBOX
        limit = self.facts().max_message_bytes
        if len(draft.body.encode("utf-8", "replace")) + len(draft.subject.encode("utf-8", "replace")) > limit - 65536:
            raise UsageFault("too_large", f"a message holds at most {limit} bytes", "put long output into a file")
        # The key is the content's hash: two tools staging the same item at once meet in one file.
        key = sha256(_content(draft)).hexdigest()[:16]
        same = _draft(outbox / f"{key}.json")
        if same is not None and _content(same) == _content(draft):
            return Staged(key, already=True)
        if len(_items(_names(outbox))) >= MAX_STAGED:
            raise UsageFault("too_many", f"this turn has staged {MAX_STAGED} messages already", "put the rest into one")
        item = msgspec.structs.replace(draft, key=key)
        try:
            self.disk.replace(outbox / f"{key}.json", msgspec.json.encode(item), sync=Sync.FULL)
        except FileNotFoundError:
            raise self._over() from None
        if not is_folder(outbox) and not is_there(self.path / SEALED / f"{key}.json"):
            raise self._over()
        return Staged(key, already=False)

    def finish(self, note: FinishNote) -> None:
        """Leave the agent's word on the turn; the last one counts. Raises TurnOver."""
        self._put("finish", msgspec.json.encode(note))

    def note_copy(self, scope: NoteScope) -> Path:
        """The note as it was when the turn began; longer than MAX_NOTE_BYTES where only its beginning was copied."""
        return self.path / NOTE_COPY.format(scope)

    def note(self, scope: NoteScope) -> bytes:
        """The note as this turn knows it: what it has written itself, else the copy; nothing where there is none."""
        for path in (self.path / OUTBOX / _note_name(scope), self.note_copy(scope)):
            with suppress(FileNotFoundError):
                return read_regular(path, MAX_NOTE_BYTES)
        self.mail()  # a turn that is over says so
        return b""

    def write_note(self, note: NoteWrite) -> None:
        """Stage a note's new text; durable when it returns, and the last one counts. Raises TurnOver or UsageFault."""
        content = note.text.encode("utf-8", "replace")
        if len(content) > MAX_NOTE_BYTES:
            raise UsageFault(
                "too_large",
                f"a note holds at most {MAX_NOTE_BYTES} bytes, and this one has {len(content)}",
                "keep what matters and leave out the rest",
            )
        self._put(_note_name(note.scope), content)

    def staged(self, *, sealed: bool = False) -> list[Draft]:
        """What lies in the outbox while it is open, or since it was `sealed`, in the order it was staged."""
        return list(_drafts(self.path / (SEALED if sealed else OUTBOX)))

    def seal(self) -> Sealed:
        """Close the outbox: from here on tools answer that the turn is over. Sealing twice seals once."""
        outbox, sealed = self.path / OUTBOX, self.path / SEALED
        with holding(self.path):
            with suppress(OSError):
                self.shrink(TURN_TMP)
            for path in (outbox, sealed):
                if is_there(path) and not is_folder(path):
                    self._put_away(path)
            if is_folder(outbox) and is_folder(sealed):
                # We made only one of them: the agent made the other in its place.
                self._put_away(sealed)
            if not is_folder(sealed):
                if not is_folder(outbox):
                    self.disk.make_directory(outbox)
                self.disk.move(outbox, sealed, sync=Sync.NONE)
        with holding(sealed):
            drafts, notes = tuple(_drafts(sealed)), tuple(_notes(sealed))
            names = _names(sealed)
            staged = len(_items(names)) + sum(_note_name(scope) in names for scope in NoteScope)
            damaged = staged - len(drafts) - len(notes)
            return Sealed(drafts, _finish_note(sealed), damaged, notes)

    def tell_urgent(self, waiting: Sequence[Envelope]) -> None:
        """A hint for the tools' next answer; never relied on."""
        urgent = waiting[:MOST_URGENT]
        rows = [UrgentMail(prompt_word(one.id, "message"), prompt_word(one.sender, "sender")) for one in urgent]
        self.disk.replace(self.path / URGENT, msgspec.json.encode(rows), sync=Sync.NONE)

    def urgent(self) -> tuple[UrgentMail, ...]:
        """The urgent mail that came into the thread meanwhile."""
        with suppress(OSError, *_GARBLED):
            return msgspec.json.decode(read_regular(self.path / URGENT, MOST_BYTES), type=tuple[UrgentMail, ...])
        return ()

    def strip(self) -> bool:
        """Remove what holds mail; the transcript stays. False where there was so much that some is left."""
        with holding(self.path):
            if not self.shrink(SEALED, OUTBOX, TURN_TMP):
                return False
            held = {MAIL, MESSAGE_TEXT, "prompt.md", URGENT, DOCUMENTS, APPROVALS, TEAM}
            held.update(self.note_copy(scope).name for scope in NoteScope)
            for name in sorted(held.intersection(names_in(self.path))):
                self.disk.remove(self.path / name)
        return True

    def shrink(self, *folders: str) -> bool:
        """Remove a part of what an agent may have filled without bounds; True once none of `folders` is left."""
        return all(self.disk.remove_some(self.path / name) for name in folders)

    def _put(self, name: str, content: bytes) -> None:
        try:
            self.disk.replace(self.path / OUTBOX / name, content, sync=Sync.FULL)
        except FileNotFoundError:
            raise self._over() from None

    def _put_away(self, path: Path) -> None:
        """Out of the way of the seal, whatever the agent put there."""
        self.disk.move(path, path.with_name(f"{path.name}.odd-{os.urandom(4).hex()}"), sync=Sync.NONE)

    def _over(self) -> TurnOver:
        message = f"this turn is over ({self.path.name}); nothing more leaves from it"
        return TurnOver("turn_over", message, "end your work")


def as_text(message: Message) -> str:
    """A message as a person reads it: a few header lines, a blank line, the body."""
    envelope = message.envelope
    rows = [
        ("From", envelope.sender),
        ("To", ", ".join(envelope.to)),
        ("Date", iso(envelope.created)),
        ("Subject", message.subject),
        *((name.replace("_", "-").title(), value) for name, value in message.named),
        ("Message", envelope.id),
        ("Thread", envelope.thread),
        ("Kind", envelope.kind or ""),
        ("Priority", envelope.priority),
    ]
    head = "\n".join(f"{name}: {' '.join(value.split())}" for name, value in rows if value)
    return f"{head}\n\n{message.body}"


def _content(draft: Draft) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(draft, key="", created=0.0))


def _names(folder: Path) -> list[str]:
    """Of very many only so many as no honest turn has: they are looked at again and again while a turn runs."""
    with suppress(FileNotFoundError, NotADirectoryError), beneath.opened(folder) as fd, os.scandir(fd) as entries:
        return sorted(entry.name for entry in islice(entries, MOST_NAMES))
    return []


def _items(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".json") and not name.startswith(".")]


def _drafts(folder: Path) -> Iterator[Draft]:
    """At most what the tools would have staged: an agent writes here as it likes, and we wait for nothing of it."""
    found: list[Draft] = []
    left = MOST_STAGED_BYTES
    for name in _items(_names(folder))[:MAX_STAGED]:
        with suppress(OSError):
            left -= beneath.status(folder / name).st_size
        draft = _draft(folder / name) if left >= 0 else None
        if draft is not None:
            found.append(draft)
    yield from sorted(found, key=lambda draft: (draft.created, draft.key))


def _draft(path: Path) -> Draft | None:
    """None where there is no item that can be read; OSError where it cannot be read just now."""
    with suppress(*_GARBLED):
        data = _content_of(path)
        if data is None:
            return None
        draft = msgspec.json.decode(data, type=Draft)
        # The key becomes part of an id, and two items must never share one.
        if draft.key == path.name.removesuffix(".json") and 0 <= draft.created < _YEAR_10000:
            # A date before its turn would make it mail that lay long, with which a chain begins anew.
            return msgspec.structs.replace(draft, created=max(draft.created, turn_began(path.parents[1].name)))
    return None


def _finish_note(folder: Path) -> FinishNote | None:
    with suppress(*_GARBLED):
        data = _content_of(folder / "finish")
        return None if data is None else msgspec.json.decode(data, type=FinishNote)
    return None


def _content_of(path: Path) -> bytes | None:
    try:
        return read_regular(path, MOST_BYTES)
    except OSError as error:
        if of_the_moment(error):
            # A reply that is there and cannot be read now must not be taken for none.
            raise
        return None


def _note_name(scope: NoteScope) -> str:
    return f"note-{scope}"


def _notes(folder: Path) -> Iterator[NoteWrite]:
    for scope in NoteScope:
        content = _content_of(folder / _note_name(scope))
        if content is None or len(content) > MAX_NOTE_BYTES:
            continue
        with suppress(UnicodeDecodeError):
            yield NoteWrite(scope, content.decode("utf-8"))
