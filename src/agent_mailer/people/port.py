"""A person's side of a mailbox, wherever it is; what sending came to, and what an answer means."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.port import DEDUPE_KEY, Action, Automatic, Contact, Draft, Kind, Mailbox, Message
from agent_mailer.turn_tools.commands import PROGRESS

if TYPE_CHECKING:
    pass


LISTED = 10_000


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


Tell = Callable[[str], None]


class Sent(msgspec.Struct, frozen=True):
    """`already`: it had been sent before, under the same dedupe key. `created` is seconds since the epoch."""

    id: str
    thread: str
    recipients: tuple[str, ...]
    created: float
    already: bool = False


class Ending(Enum):
    """How a wait ends; the value is the exit status."""

    ANSWERED = 0
    DEAD = 1
    BLOCKED = 3
    TIMEOUT = 4


class Waited(msgspec.Struct, frozen=True):
    """`answer` is missing after a timeout, and where the message could not even be read."""

    ending: Ending
    answer: Message | None = None
    taken: bool = False


def new_key(dedupe: str | None = None) -> str:
    """The key of a person's draft: its own each time, unless a dedupe key names it."""
    return f"{DEDUPE_KEY}{dedupe}" if dedupe is not None else secrets.token_hex(8)


def ending_of(message: Message, sent: Sent, tell: Tell) -> Ending | None:
    """What `message` means for the one that was sent; None if it is no answer to it."""
    envelope = message.envelope
    in_thread = (
        envelope.thread == sent.thread and envelope.sender in sent.recipients and envelope.created >= sent.created
    )
    if sent.id not in message.refs and not in_thread:
        return None
    if envelope.automatic is Automatic.NOTICE:
        return Ending.DEAD
    if PROGRESS in message.labels:
        tell(f"{envelope.sender} reports progress: agent-mailer mail read {envelope.id}")
        return None
    return Ending.BLOCKED if envelope.kind is Kind.QUESTION else Ending.ANSWERED
