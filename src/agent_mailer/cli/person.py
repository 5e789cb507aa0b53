"""A person's side of a mailbox, wherever it is: what has arrived, reading, answering, passing on, sending."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.cli.options import absolute, workplace
from agent_mailer.cli.sent import Sent, Tell, Waited, new_key
from agent_mailer.clock import Clock
from agent_mailer.mailbox.port import Action, Contact, Draft, Kind, Mailbox, Message

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

LISTED = 10_000


def person_at(whose: str | None, workdir: Path | None, maildir_root: str | None) -> Person:
    """Whoever `whose` names: by default `user` in a folder mailbox, the operator at a broker.

    The mailbox is the one that the flag, the workdir or its surroundings name.
    """
    flags = {"mailbox": "maildir", "maildir_root": absolute(maildir_root)} if maildir_root else {}
    place = workplace(workdir, flags)
    if _at_broker(place):
        from agent_mailer.cli.broker_person import broker_person

        return broker_person(place, whose)
    from agent_mailer.cli.folder_person import folder_person

    return folder_person(place, whose)


def agent_of(place: Workplace) -> Person:
    """Who looks into the mailbox of the workdir's own agent."""
    if _at_broker(place):
        from agent_mailer.cli.broker_person import broker_agent

        return broker_agent(place)
    from agent_mailer.cli.folder_person import FolderPerson

    return FolderPerson(place.mailbox(place.handle), place.clock)


def _at_broker(place: Workplace) -> bool:
    from agent_mailer.config import MailboxKind

    return place.config.mailbox_kind is MailboxKind.AMP


class Person(ABC):
    """Nobody else consumes this mailbox, or somebody does and both may: a message is taken once."""

    def __init__(self, mailbox: Mailbox, clock: Clock) -> None:
        self._mailbox = mailbox
        self._clock = clock

    @property
    def address(self) -> str:
        return self._mailbox.address

    @abstractmethod
    def inbox(self, *, read_too: bool) -> list[tuple[Message, bool]]:
        """What waits (True) and, if asked for, what was read (False), oldest first; bodies may be missing."""

    @abstractmethod
    def find(self, typed: str) -> tuple[Message, bool]:
        """The message whose id begins so, and whether it is unread. Raises MailerError, UsageFault."""

    @abstractmethod
    def take(self, message: Message) -> None:
        """Count an unread message as read, unless it is a watcher's to take."""

    @abstractmethod
    async def send(self, draft: Draft, origin: Message | None = None) -> Sent:
        """Deliver `draft` to every recipient. Raises UsageFault, MailerError or UnavailableFault.

        With a dedupe key: what was sent under it before is not sent again, and other content under it is an error.
        """

    @abstractmethod
    async def wait_for_answer(self, sent: Sent, seconds: float, tell: Tell) -> Waited:
        """Wait at most `seconds`; the answer counts as read. `tell` gets a line for each step on the way."""

    def read(self, typed: str) -> Message:
        """As `find`; an unread message counts as read then."""
        message, new = self.find(typed)
        if new:
            self.take(message)
        return message

    def thread(self, typed: str) -> Sequence[Message]:
        """A thread by its name, or by the id of a message in it. Raises MailerError where there is none."""
        messages = asyncio.run(self._mailbox.thread(typed))
        if messages:
            return messages
        message, _ = self.find(typed)
        return asyncio.run(self._mailbox.thread(message.envelope.thread))

    def contacts(self) -> Sequence[Contact]:
        return asyncio.run(self._mailbox.contacts())

    def reply(self, typed: str, body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        """Answer, and count the message as read; returns the answer's id."""
        draft = Draft(new_key(), Action.REPLY, self._clock.now(), subject=subject, body=body, kind=kind)
        return self._send_about(typed, draft)

    def forward(self, typed: str, to: Sequence[str], body: str, *, subject: str = "", kind: Kind | None = None) -> str:
        draft = Draft(new_key(), Action.FORWARD, self._clock.now(), to=tuple(to), subject=subject, body=body, kind=kind)
        return self._send_about(typed, draft)

    def _send_about(self, typed: str, draft: Draft) -> str:
        message, new = self.find(typed)
        sent: Sent = asyncio.run(self.send(draft, message))
        if new:
            self.take(message)
        return sent.id
