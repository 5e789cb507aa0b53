"""A person's mail: the values, the protocol of what differs between mailboxes, and how it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Kind, Message, Priority
from agent_mailer.names import did_you_mean, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Delivered, Delivery, Draft, Mailbox, Outgoing, Route, Unreadable

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


class Search(msgspec.Struct, frozen=True):
    """Which messages are wanted: all that have what is given here, `offset` of the newest left out, at most `limit`.

    `context` is the text of a JSON object that the message's must hold. A limit of 0 is none.
    """

    sender: str = ""
    kind: Kind | None = None
    priority: Priority | None = None
    labels: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    context: str = ""
    limit: int = 0
    offset: int = 0

    @property
    def chooses(self) -> bool:
        """Whether there are messages that are not wanted whatever the limit."""
        return msgspec.structs.replace(self, limit=0, offset=0) != Search()

    def takes(self, message: Message) -> bool:
        envelope = message.envelope
        return (
            self.sender in ("", envelope.sender)
            and self.kind in (None, envelope.kind)
            and self.priority in (None, envelope.priority)
            and set(self.labels) <= set(message.labels)
            and set(self.refs) <= set(message.refs)
            and (not self.context or _holds(message.context, self.context))
        )


EVERYTHING = Search()


def _holds(found: str, wanted: str) -> bool:
    return bool(found) and _within(msgspec.json.decode(wanted), msgspec.json.decode(found))


def _within(wanted: object, found: object) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _within(value, found[key]) for key, value in wanted.items())
    return wanted == found


class Receipt(msgspec.Struct, frozen=True):
    """A recipient has taken a message, or could not read it."""

    recipient: str
    unreadable: bool = False


class Told(msgspec.Struct, frozen=True):
    """How far a message is with one recipient, as a receipt tells it. `stage` is empty where there is none.

    `at` is in seconds since the epoch; None where the receipt does not say when.
    """

    message: str
    recipient: str
    stage: str = ""
    at: float | None = None
    detail: str = ""


class Standing(msgspec.Struct, frozen=True):
    """What is known of somebody: what he or she said last and when (seconds since the epoch), empty where nothing.

    `watched`: a watcher takes this mail now; None where that cannot be seen.
    """

    address: str
    status: str = ""
    at: float | None = None
    note: str = ""
    watched: bool | None = None


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
    ASKS = "asks"
    PAUSED = "paused"
    STOPPED = "stopped"
    GIVEN_UP = "given_up"
    STUCK = "stuck"
    HELD = "held"
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

    @property
    def answers_at_once(self) -> bool:
        """No call waits for anything but the rest of `listening`: the others are made without an event loop."""

    def faults(self) -> AbstractContextManager[None]:
        """Around whatever is done: failures in a person's words."""

    async def listed(self, search: Search = EVERYTHING, *, read_too: bool) -> Sequence[Found]:
        """What waits and, if asked for, what was read, oldest first; bodies may be missing.

        Raises UsageFault for a search that the mailbox cannot answer. Its cost follows what is found.
        """

    def no_messages(self) -> Sequence[str]:
        """What `listed` came upon last that waits and is no message, in a person's words."""

    async def find(self, typed: str) -> Found:
        """The one message whose id begins so, whole. Raises MailerError, UsageFault."""

    async def take(self, message: Message, *, awaited: bool = False) -> bool:
        """Count it as read; False where that is left to a watcher. `awaited`: it is an answer waited for."""

    async def routed(self, draft: Draft, origin: Message | None) -> tuple[Draft, Sequence[Route]]:
        """The draft with whole addresses, and the ways to those whom the mailbox does not reach by itself.

        Raises UsageFault where there is none.
        """

    async def not_carried(self, draft: Draft) -> Sequence[str]:
        """What of the draft would be dropped on the way without a word: names of its fields."""

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

    def listening(self, sent: Sent | None) -> AbstractAsyncContextManager[Rest]:
        """While a person waits for an answer to `sent`, or for any mail. It takes nothing from a watcher."""

    async def receipts(self, sent: Sent, taken: Set[str]) -> Sequence[Receipt]:
        """How far it is; nobody in `taken` needs to be asked whether they took it."""

    def require_unwatched(self) -> None:
        """Raises BusyFault where this mail is left to a watcher."""

    def drained(self, limit: int) -> AsyncIterator[Message | Unreadable]:
        """Take what waits, oldest first, each when it is asked for; what is no message is put away. 0 is no limit."""

    async def require_receipts(self, recipients: Sequence[str], *, dead_letters: bool) -> None:
        """Raises UsageFault where there are none that tell of all recipients, or (if asked) of dead letters."""

    async def who(self) -> Sequence[Standing]:
        """Everybody here, oneself too."""

    async def told(self, typed: str | None, newest: int) -> Sequence[Told]:
        """How far a message is with each recipient; without a name, how far the newest are that were sent.

        Raises MailerError, UsageFault.
        """

    async def sent(self, newest: int) -> Sequence[Message]:
        """The heads of the newest that this person has sent (0 = of all), the very newest last. Raises MailerError."""

    async def sent_copy(self, typed: str) -> Message | None:
        """A message whole that this person has sent, where `find` does not know it. Raises UsageFault, OSError."""

    async def standing(self, sent: Sent, recipient: str) -> Report | None:
        """What the mailbox itself tells of it; None where it tells nothing more than receipts do."""

    def is_of(self, place: Workplace, recipient: str) -> bool:
        """Whether `recipient` is the agent of that workdir. Raises MailerError, OSError."""

    async def arrived(self, sent: Sent, seen: Set[str]) -> Sequence[Message]:
        """What may be an answer, oldest first, without those whose ids are `seen`; of what was sent `already` also what
        was read meanwhile.
        """


def unknown_recipients(names: Iterable[str], where: str, known: Iterable[str]) -> UsageFault:
    from difflib import get_close_matches

    names, there = list(names), sorted(known)
    close = dict.fromkeys(one for name in names for one in get_close_matches(name, there, 1))
    meant = did_you_mean(printable(one, 100) for one in close)
    return UsageFault(
        "unknown_recipient",
        f"nobody is called {', '.join(printable(name, 100) for name in names)} {where}{meant}",
        f"known are: {', '.join(printable(name, 100) for name in there)}",
    )


def dedupe_conflict(message_id: str, look: str) -> MailerError:
    """`look` is the command that shows what was sent first."""
    return MailerError(
        "dedupe_conflict",
        f"another message was sent under this dedupe key before: {message_id}",
        f"use another --dedupe-key, or look at it: {look}",
    )
