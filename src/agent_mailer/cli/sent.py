"""What sending came to, and what an answer means: the same for every kind of mailbox."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from enum import Enum

import msgspec

from agent_mailer.mailbox.port import Automatic, Kind, Message
from agent_mailer.mailbox.wording import DEDUPE_KEY
from agent_mailer.turn_tools.commands import PROGRESS

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
