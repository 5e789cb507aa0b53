"""A person's side of a folder mailbox: what has arrived, reading, answering, passing on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.options import absolute, workplace
from agent_mailer.cli.printing import note
from agent_mailer.cli.sending import Sent, new_key, require_sender, send
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.consume import reporting
from agent_mailer.mailbox.maildir.listing import StatCache, list_folder
from agent_mailer.mailbox.port import Action, Contact, Draft, Envelope, Gone, Kind, Message
from agent_mailer.names import printable

LISTED = 10_000


def person_at(handle: str | None, workdir: Path | None, maildir_root: str | None) -> Person:
    """Whoever `handle` names (default `user`) in the root that the flag, the workdir or its surroundings name."""
    flags = {"mailbox": "maildir", "maildir_root": absolute(maildir_root)} if maildir_root else {}
    place = workplace(workdir, flags)
    mailbox = place.mailbox(handle or layout.USER)
    require_sender(mailbox.root, mailbox.address)
    return Person(mailbox, place.clock)


class Person:
    """Nobody else consumes this mailbox, or somebody does and both may: a message is taken once."""

    def __init__(self, mailbox: MaildirMailbox, clock: Clock) -> None:
        self.mailbox = mailbox
        self._clock = clock

    def inbox(self, *, read_too: bool) -> list[tuple[Message, bool]]:
        """What waits (True) and, if asked for, what was read (False), oldest first."""
        found: list[tuple[Message, bool]] = []
        for envelope, new in self._envelopes():
            if new or read_too:
                message = asyncio.run(self.mailbox.read(envelope))
                if isinstance(message, Message):
                    found.append((message, new))
        return found

    def find(self, typed: str) -> tuple[Message, bool]:
        """The message whose id begins so, and whether it is unread. Raises MailerError, UsageFault."""
        envelopes = {envelope.id: (envelope, new) for envelope, new in self._envelopes()}
        chosen = pick(typed, envelopes, "message", "agent-mailer mail inbox --all")
        envelope, new = envelopes[chosen]
        message = asyncio.run(self.mailbox.read(envelope))
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(chosen)}: {message.why}", "agent-mailer mail inbox --all")
        return message, new

    def read(self, typed: str) -> Message:
        """As `find`; an unread message is taken out of `new`, which tells its sender that it was read."""
        message, new = self.find(typed)
        if new:
            self._take(message)
        return message

    def thread(self, typed: str) -> Sequence[Message]:
        """A thread by its name, or by the id of a message in it. Raises MailerError where there is none."""
        messages = asyncio.run(self.mailbox.thread(typed))
        if messages:
            return messages
        message, _ = self.find(typed)
        return asyncio.run(self.mailbox.thread(message.envelope.thread))

    def contacts(self) -> Sequence[Contact]:
        return asyncio.run(self.mailbox.contacts())

    def reply(self, typed: str, body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        """Answer, and count the message as read; returns the answer's id."""
        draft = Draft(new_key(), Action.REPLY, self._clock.now(), subject=subject, body=body, kind=kind)
        return self._send_about(typed, draft)

    def forward(self, typed: str, to: Sequence[str], body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        draft = Draft(new_key(), Action.FORWARD, self._clock.now(), to=tuple(to), subject=subject, body=body, kind=kind)
        return self._send_about(typed, draft)

    def _send_about(self, typed: str, draft: Draft) -> str:
        message, new = self.find(typed)
        sent: Sent = asyncio.run(send(self.mailbox, draft, message))
        if new:
            self._take(message)
        return sent.id

    def _take(self, message: Message) -> None:
        root, handle = self.mailbox.root, self.mailbox.address
        if layout.Paths(root, handle).lock.exists():
            note(f"left unread: {handle} is an agent, and its mail is its watcher's to take")
            return
        if layout.missing_folders(root, handle):
            layout.make_mailbox(Disk(), root, handle)
        asyncio.run(self.mailbox.claim(message.envelope))

    def _envelopes(self) -> list[tuple[Envelope, bool]]:
        paths = layout.Paths(self.mailbox.root, self.mailbox.address)
        found: list[tuple[Envelope, bool]] = []
        for folder, new in ((paths.new, True), (paths.cur, False)):
            with reporting(folder):
                try:
                    envelopes, _ = list_folder(folder, StatCache(LISTED))
                except FileNotFoundError:
                    continue  # a person who never got mail has no mailbox yet
            found += [(envelope, new) for envelope in envelopes]
        return sorted(found, key=lambda item: item[0].order)
