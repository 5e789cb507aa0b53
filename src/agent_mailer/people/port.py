"""A person's mail: the values, the protocol of what differs between mailboxes, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Message
from agent_mailer.names import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Delivered, Delivery, Mailbox, Outgoing

Tell = Callable[[str], None]
"""Takes a line that a person should know besides the result."""

Look = Callable[["Sent", str], "Report | None"]
"""Where a message stands at a recipient, as his own workdir says; None where that cannot be seen."""

Rest = Callable[[float], "Awaitable[None]"]
"""Returns when there may be something new, after that many seconds at the latest."""


class Found(NamedTuple):
    """A message of a mailbox. `new`: it was not read yet."""

    message: Message
    new: bool


class Receipt(msgspec.Struct, frozen=True):
    """A recipient has taken a message, or could not read it."""

    recipient: str
    unreadable: bool = False


class Sent(msgspec.Struct, frozen=True):
    """`already`: it had been sent before, under the same dedupe key.

    From the moment `since` on, in seconds since the epoch, what comes in its thread is an answer.
    """

    id: str
    thread: str
    recipients: tuple[str, ...]
    since: float
    already: bool = False


class MessageState(StrEnum):
    """`BEGUN`: a turn was begun, and nobody here can see what became of it."""

    WAITING = "waiting"
    BEHIND = "behind"
    WORKING = "working"
    BEGUN = "begun"
    AGAIN = "again"
    PAUSED = "paused"
    STOPPED = "stopped"
    GIVEN_UP = "given_up"
    STUCK = "stuck"
    DONE = "done"


class Report(msgspec.Struct, frozen=True):
    """`text` says it for people, without its subject: the recipient. `final`: nothing more will come of the message.

    Who is done with it and has written to somebody may be waiting for an answer himself, and is not final.
    """

    state: MessageState
    text: str
    final: bool = False


class Ending(StrEnum):
    """How a wait ends."""

    ANSWERED = "answered"
    DEAD = "dead"
    BLOCKED = "blocked"
    TIMEOUT = "timeout"
    UNANSWERED = "unanswered"
    """It is done, and no answer will come."""

    @property
    def status(self) -> int:
        """Of the command."""
        return {Ending.ANSWERED: 0, Ending.DEAD: 1, Ending.BLOCKED: 3}.get(self, 4)


class Waited(msgspec.Struct, frozen=True):
    """`answer` is missing where none came. `taken`: who has taken the message; `reports`: what is known of it there."""

    ending: Ending
    answer: Message | None = None
    taken: frozenset[str] = frozenset()
    reports: Mapping[str, Report] = {}


class PersonalMail(Protocol):
    """One address's mail as whoever has that address uses it; others may consume it beside, a message is taken once.

    A call may raise what the mailbox port's calls do: nothing is lost, it may be made again. Within `faults` that
    becomes RefusedFault (a person has to mend it) or UnavailableFault (later). UsageFault is a wrong word of the
    caller's; any other MailerError says what is not there or was not done. After any of them nothing has changed that
    the same call would not find.
    """

    @property
    def mailbox(self) -> Mailbox:
        """The mailbox itself, never opened: it composes, looks for items, and reads threads."""

    def faults(self) -> AbstractContextManager[None]:
        """Around whatever is done: failures in a person's words."""

    async def listed(self, *, read_too: bool) -> Sequence[Found]:
        """What waits and, if asked for, what was read, oldest first; bodies may be missing."""

    async def find(self, typed: str) -> Found:
        """The one message whose id begins so, whole. Raises MailerError, UsageFault."""

    async def take(self, message: Message, *, awaited: bool = False) -> bool:
        """Count it as read; False where that is left to a watcher. `awaited`: it is an answer waited for."""

    async def require_known(self, recipients: Sequence[str]) -> None:
        """Raises UsageFault naming all who cannot be written to."""

    async def as_first_sent(self, items: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """One message's items with the bytes that went out first under their id, where the mailbox shows them.

        Raises MailerError where those say something else.
        """

    async def deliver(self, item: Outgoing) -> Delivery:
        """As the mailbox does; Unknown only where a look did not help. Raises MailerError as `as_first_sent` does."""

    async def moment_of(self, first: Delivered, recipients: Sequence[str], *, begins: bool) -> float:
        """When the message of that name was sent, by the clock that dates its answers; 0 where all that is in its
        thread came later. `begins`: no thread was named, and it was not sent before.
        """

    def listening(self, sent: Sent) -> AbstractContextManager[Rest]:
        """While a person waits for an answer to `sent`."""

    async def receipts(self, sent: Sent, taken: Set[str]) -> Sequence[Receipt]:
        """How far it is; nobody in `taken` needs to be asked whether they took it."""

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        """What the mailbox itself tells of it; None where it tells nothing more than receipts do."""

    def is_of(self, place: Workplace, recipient: str) -> bool:
        """Whether `recipient` is the agent of that workdir. Raises MailerError, OSError."""

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        """What may be an answer, without those whose ids are `seen`."""


def unknown_recipients(names: Iterable[str], where: str, known: Iterable[str]) -> UsageFault:
    return UsageFault(
        "unknown_recipient",
        f"nobody is called {', '.join(printable(name, 100) for name in names)} {where}",
        f"known are: {', '.join(printable(name, 100) for name in sorted(known))}",
    )


def dedupe_conflict(message_id: str, look: str) -> MailerError:
    """`look` is the command that shows what was sent first."""
    return MailerError(
        "dedupe_conflict",
        f"another message was sent under this dedupe key before: {message_id}",
        f"use another --dedupe-key, or look at it: {look}",
    )
