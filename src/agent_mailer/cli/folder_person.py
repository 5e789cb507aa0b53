"""A person's side of a folder mailbox."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent_mailer.cli.choosing import pick
from agent_mailer.cli.person import LISTED, Person
from agent_mailer.cli.printing import note
from agent_mailer.cli.sending import require_sender, send
from agent_mailer.cli.sent import Sent, Tell, Waited
from agent_mailer.clock import Clock
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.consume import reporting
from agent_mailer.mailbox.maildir.listing import StatCache, list_folder
from agent_mailer.mailbox.port import Draft, Envelope, Gone, Message
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def folder_person(place: Workplace, handle: str | None) -> FolderPerson:
    """Raises UsageFault where nobody there is called so."""
    mailbox = place.mailbox(handle or layout.USER)
    require_sender(mailbox.root, mailbox.address)
    return FolderPerson(mailbox, place.clock)


class FolderPerson(Person):
    def __init__(self, mailbox: MaildirMailbox, clock: Clock) -> None:
        super().__init__(mailbox, clock)
        self._folder = mailbox

    def inbox(self, *, read_too: bool) -> list[tuple[Message, bool]]:
        found: list[tuple[Message, bool]] = []
        for envelope, new in self._envelopes():
            if new or read_too:
                message = asyncio.run(self._folder.read(envelope))
                if isinstance(message, Message):
                    found.append((message, new))
        return found

    def find(self, typed: str) -> tuple[Message, bool]:
        envelopes = {envelope.id: (envelope, new) for envelope, new in self._envelopes()}
        chosen = pick(typed, envelopes, "message", "agent-mailer mail inbox --all")
        envelope, new = envelopes[chosen]
        message = asyncio.run(self._folder.read(envelope))
        if isinstance(message, Gone):
            raise MailerError("gone", f"{printable(chosen)}: {message.why}", "agent-mailer mail inbox --all")
        return message, new

    def take(self, message: Message) -> None:
        """Out of `new`, which tells its sender that it was read."""
        root, handle = self._folder.root, self._folder.address
        if layout.Paths(root, handle).lock.exists():
            note(f"left unread: {handle} is an agent, and its mail is its watcher's to take")
            return
        if layout.missing_folders(root, handle):
            layout.make_mailbox(Disk(), root, handle)
        asyncio.run(self._folder.claim(message.envelope))

    async def send(self, draft: Draft, origin: Message | None = None) -> Sent:
        return await send(self._folder, draft, origin)

    async def wait_for_answer(self, sent: Sent, seconds: float, tell: Tell) -> Waited:
        from agent_mailer.cli.waiting import wait_for_answer

        return await wait_for_answer(self._folder, sent, seconds, tell)

    def _envelopes(self) -> list[tuple[Envelope, bool]]:
        paths = layout.Paths(self._folder.root, self._folder.address)
        found: list[tuple[Envelope, bool]] = []
        for folder, new in ((paths.new, True), (paths.cur, False)):
            with reporting(folder):
                try:
                    envelopes, _ = list_folder(folder, StatCache(LISTED))
                except FileNotFoundError:
                    continue  # a person who never got mail has no mailbox yet
            found += [(envelope, new) for envelope in envelopes]
        return sorted(found, key=lambda item: item[0].order)
