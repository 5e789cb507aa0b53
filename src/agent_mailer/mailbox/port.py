"""The mailbox port: the values that cross it and the protocol of an adapter. The engine knows nothing else of one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from itertools import chain, islice
from typing import Final, Protocol

import msgspec

from agent_mailer.errors import ExitCode, MailerError
from agent_mailer.names import whole_digest


class Priority(StrEnum):
    """The most urgent first."""

    URGENT = "urgent"
    NORMAL = "normal"
    LOW = "low"


class Kind(StrEnum):
    """What a message is for (AMQ's closed list)."""

    BRAINSTORM = "brainstorm"
    REVIEW_REQUEST = "review_request"
    REVIEW_RESPONSE = "review_response"
    QUESTION = "question"
    ANSWER = "answer"
    DECISION = "decision"
    STATUS = "status"
    TODO = "todo"


class Automatic(StrEnum):
    """A person's or agent's (`no`); or the watcher's: a `notice` starts no turn, an `auto-reply` gets none itself."""

    NO = "no"
    NOTICE = "notice"
    AUTO_REPLY = "auto-reply"


class Capabilities(msgspec.Struct, frozen=True):
    """What the engine may rely on."""

    name: str
    pushes: bool
    """`wait` returns on arrival; without it the engine polls."""
    recognises_delivery: bool
    """`look` can tell for certain whether an item has left."""
    carries_marks: bool
    """Hop count, kind, priority and automatic mark survive the transport."""
    max_message_bytes: int
    carries_context: bool = False
    """The refs and the context of a draft arrive; else a draft that has them is refused."""
    keeps_dates: bool = True
    """The moment at which a draft was written survives, and orders the listing; else that of its delivery does."""
    keeps_done: bool = True
    """What is done is listed again only where somebody has put it back; else our own record of it decides."""
    asks_again: bool = False
    """What was put away lies where only `ask_again` reaches; else `put_back` does."""
    vouches: bool = False
    """A message's sender is who it says: no other can have sent it."""
    keeps_claimed: bool = False
    """`settled` finds whatever was claimed: what is listed, and what it does not find, no turn can have had."""


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message without its content; all strings are untrusted. `order` sorts those of one thread; `locator` is the
    adapter's own handle, opaque to others; `created` is seconds since the epoch. `reply_to` is the way back that it
    names, as the mailbox writes it, empty = to its sender; `visited` who wrote those of which it came, the newest last;
    `answers`: it names another."""

    id: str
    thread: str
    sender: str
    created: float
    order: str
    locator: str
    to: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    kind: Kind | None = None
    automatic: Automatic = Automatic.NO
    hops: int = 0
    reply_to: str = ""
    visited: tuple[str, ...] = ()
    answers: bool = False


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message whole. `reply_to` is the address an answer goes to, in the mailbox's own notation; `named` what it says
    itself of the way back, field and value; `context` what programs say to each other, a JSON object's text or empty.
    """

    envelope: Envelope
    subject: str = ""
    body: str = ""
    refs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    reply_to: str = ""
    named: tuple[tuple[str, str], ...] = ()
    context: str = ""


class Unreadable(msgspec.Struct, frozen=True):
    """No message: `locator` for `reject`, why, what else can be made out; `digest` tells it from others of its name."""

    locator: str
    why: str
    too_large: bool = False
    id: str = ""
    thread: str = ""
    sender: str = ""
    digest: str = ""
    reply_to: str = ""


class Listing(msgspec.Struct, frozen=True):
    """What waits in the mailbox, oldest first, and what there cannot be read. `more`: others wait beside these."""

    envelopes: tuple[Envelope, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    more: bool = False


class Contact(msgspec.Struct, frozen=True, omit_defaults=True):
    address: str
    note: str = ""
    tags: tuple[str, ...] = ()


class Action(StrEnum):
    REPLY = "reply"
    FORWARD = "forward"
    SEND = "send"


class Draft(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to be sent, as staged: everything that decides its final bytes is fixed here.

    `key` names it within its turn and derives the final id; `created` is seconds since the epoch. An empty `to` of a
    reply means the sender of the original; an empty `thread` of a `send` means a new one. `context` is as a message's.
    `about`: which message of several that its turn was handed."""

    key: str
    action: Action
    created: float
    to: tuple[str, ...] = ()
    subject: str = ""
    body: str = ""
    thread: str = ""
    kind: Kind | None = None
    priority: Priority | None = None
    labels: tuple[str, ...] = ()
    automatic: Automatic = Automatic.NO
    at_once: bool = False
    refs: tuple[str, ...] = ()
    context: str = ""
    about: str = ""


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """The way to an address to which the mailbox does not deliver by itself, as it was found. `place` is where it leads
    (an absolute path), held against `device` and `inode` when something is delivered; `recipient` the name there,
    `back` our own address as it reads from there. `makes`: what is missing may be made."""

    address: str
    place: str
    device: int
    inode: int
    recipient: str
    back: str = ""
    makes: bool = False


class NoWay(msgspec.Struct, frozen=True):
    """No answer can be delivered."""

    why: str


class Outgoing(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message to one recipient as it goes out: final id and final bytes. Delivering it twice delivers it once."""

    id: str
    recipient: str
    thread: str
    payload: str
    route: Route | None = None


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """It is there, durably. `id`, `thread`: the names the mailbox gave it, where those are not the item's own."""

    id: str = ""
    thread: str = ""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It will never be taken: trying again is useless."""

    why: str


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """It may or may not have arrived: `look` before it is tried again."""

    why: str


Delivery = Delivered | Refused | Unknown


class Gone(msgspec.Struct, frozen=True):
    """It was taken or withdrawn. `elsewhere`: it is another's for good, though it was ours, too; `name_taken`: it is
    listed, and can never be claimed; `unreadable`: it is listed, and no message any more."""

    why: str
    elsewhere: bool = False
    name_taken: bool = False
    unreadable: Unreadable | None = None


class Stage(StrEnum):
    """How far a message is, as its sender may be told. ADOPTED: its turn goes on, under another watcher."""

    STARTED = "started"
    ADOPTED = "adopted"
    SETTLED = "settled"


class Presence(StrEnum):
    """Whether an agent takes mail, as others may be told."""

    ACTIVE = "active"
    PAUSED = "paused"
    OFFLINE = "offline"


class Progress(msgspec.Struct, frozen=True):
    """One step of a message's way. `outcome` and `detail` belong to SETTLED; `final`: no further turn will follow."""

    turn_id: str
    stage: Stage
    outcome: str = ""
    detail: str = ""
    final: bool = False


class MailboxUnavailable(MailerError):
    """The mailbox cannot be reached now; nothing is lost, try again later."""

    exit_code = ExitCode.UNAVAILABLE


class MailboxRefused(MailboxUnavailable):
    """The mailbox answers, but not to us: the key or the agent is refused. A person has to mend it."""

    exit_code = ExitCode.REFUSED


class Mailbox(Protocol):
    """One agent's mailbox.

    Every method may raise MailboxUnavailable, after which the same call may be made again. `open`, `wait` and `claim`
    may raise BusyFault where another watcher consumes this mailbox; `open` ConfigFault where it is not one.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def address(self) -> str:
        """The agent's own address."""

    async def open(self) -> None:
        """Become the mailbox's one watcher and start listening."""

    async def close(self) -> None: ...

    async def wait(self) -> None:
        """Return when there may be something new. A wake too many is harmless; after `open` none is missed."""

    async def pending(self, limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
        """At most `limit` of what waits but `beside`, by `oldest_of_each`; `woken`: `wait` tells of it. Only looks."""

    async def claim(
        self, envelope: Envelope, *, again: bool = False, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        """Take the message for this agent, durably, and read it; `turn_id`: for that turn, of whose start he may hear.

        `again` says that our own record is older than this call (a rerun, a crash, a claim that raised): then what is
        claimed already is taken for ours and read, otherwise it is Gone. `silent`: its sender does not hear of it.
        """

    async def read(self, envelope: Envelope) -> Message | Gone:
        """Read without claiming."""

    async def thread(self, thread_id: str) -> Sequence[Message]:
        """Every message of the thread that this agent may see, oldest first; once after a claim, as of that."""

    async def contacts(self) -> Sequence[Contact]: ...

    async def way_back(self, envelope: Envelope) -> Route | NoWay | None:
        """How an answer to the message leaves; None: to its sender, as any other mail. Writes nothing."""

    def compose(
        self, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
    ) -> Sequence[Outgoing] | Refused:
        """The final form of `draft`, one item a recipient. Pure: the same arguments give the same ids and bytes.
        `routes` are the ways that were found to addresses of other places; any other such address is Refused."""

    async def deliver(self, item: Outgoing) -> Delivery:
        """Deliver once: an item that is already there is Delivered."""

    async def look(self, item: Outgoing) -> bool:
        """Whether the item has arrived."""

    def report(self, envelope: Envelope, progress: Progress) -> None:
        """Tell the sender how far the message is, where the mailbox can hold that. Never waits, never raises."""

    def announce(self, presence: Presence, note: str = "") -> None:
        """Tell others whether this agent takes mail, where the mailbox can hold that. Never waits, never raises."""

    async def done(self, envelope: Envelope, progress: Progress | None = None) -> None:
        """Mark the message as finished, with how it ended where the mailbox can hold that; what is gone is done."""

    async def reject(self, item: Unreadable) -> None:
        """Put away what is no message, so that it is not listed again. Nothing is destroyed."""

    async def set_aside(self, envelope: Envelope, why: str = "") -> None:
        """Put away a message whose id is settled already; `why`: it is another than that. Nothing is destroyed."""

    async def settled(self, envelope: Envelope) -> Message | None:
        """The message of this id that was claimed before, where the mailbox still has it."""

    def put_back(self, locator: str, digest: str, new_id: str = "") -> Refused | None:
        """List again what `reject` or `set_aside` has put away, known by name and content; `new_id`: as that message.
        None where it is listed, or was again meanwhile; Refused says why nobody could work on it. Never waits long.
        """

    async def ask_again(self, locator: str) -> Refused | None:
        """Have listed anew, as it is by now, what `reject` has put away; twice is as once. None where it will be."""


MOST_VISITED: Final = 64
MAX_WAITING: Final = 100_000
"""An adapter looks through so many; what is beyond moves up as they are taken."""
URGENCY: Final = {priority: rank for rank, priority in enumerate(Priority)}


def oldest_of_each(waiting: Iterable[Envelope], limit: int, beside: Collection[str] = ()) -> tuple[Envelope, ...]:
    """At most `limit` of what waits, but for the ids `beside`, oldest first: no thread, however long, hides another.

    Of each thread its head (the oldest) and its most urgent message, the most urgent threads first, then those of the
    oldest heads; what room is left goes to the oldest of the rest.
    """
    ordered = sorted((one for one in waiting if one.id not in beside), key=lambda envelope: envelope.order)
    if len(ordered) <= limit:
        return tuple(ordered)
    heads, pressing = dict[str, int](), dict[str, int]()
    for place, envelope in enumerate(ordered):
        if (thread := envelope.thread) not in heads:
            heads[thread] = pressing[thread] = place
        elif envelope.priority is not (known := ordered[pressing[thread]].priority):
            pressing[thread] = place if URGENCY[envelope.priority] < URGENCY[known] else pressing[thread]
    ranked = (one for rank in Priority for one in heads if ordered[pressing[one]].priority is rank)
    first = islice(chain.from_iterable((heads[one], pressing[one]) for one in ranked), 2 * limit)
    return tuple(ordered[place] for place in sorted(islice(dict.fromkeys(chain(first, range(limit))), limit)))


_ANSWERS: Final = {Kind.REVIEW_REQUEST: Kind.REVIEW_RESPONSE, Kind.QUESTION: Kind.ANSWER}


def subject_of(draft: Draft, origin: Message | None) -> str:
    """One line: the draft's own, else that of the message it answers or passes on."""
    if draft.subject or draft.action is Action.SEND or origin is None:
        return " ".join(draft.subject.split())
    prefix = "Re:" if draft.action is Action.REPLY else "Fwd:"
    subject = " ".join(origin.subject.split())
    return subject if subject.lower().startswith(prefix.lower()) else f"{prefix} {subject or '(no subject)'}"


def kind_of(draft: Draft, origin: Message | None) -> Kind | None:
    """The draft's own, else the one that answers the origin's."""
    if draft.kind is not None or draft.action is not Action.REPLY or origin is None or origin.envelope.kind is None:
        return draft.kind
    return _ANSWERS.get(origin.envelope.kind, origin.envelope.kind)


def content_digest(message: Message) -> str:
    """Of all that makes it another message under its id: who says what, of what, where, and the way back. When, to whom
    and how urgently it was sent is not: sent once more, or put back by hand, it is the same message."""
    told = message.envelope
    said = (told.sender, message.subject, message.body.rstrip("\r\n"), message.context)
    about = (str(told.kind or ""), str(told.automatic), message.refs, message.labels)
    return whole_digest(ascii((*said, *about, told.thread, message.named)))
