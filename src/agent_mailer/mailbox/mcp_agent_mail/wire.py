"""What the server's rows say, as values of the port; and the marks that a topic carries. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent_mailer.mailbox.port import Automatic, Envelope, Kind, Message, Priority, Unreadable
from agent_mailer.names import printable, whole_digest

MOST_HOPS: Final = 9999

_IMPORTANCE = {"urgent": Priority.URGENT, "high": Priority.URGENT, "low": Priority.LOW}
_AUTOMATIC = {"n": Automatic.NO, "t": Automatic.NOTICE, "r": Automatic.AUTO_REPLY}
_KINDS = dict(zip("abcdefgh", Kind, strict=True))
_TOPIC = re.compile(r"am1-[0-9a-f]{24}-([0-9]{1,4})([ntr])([a-hx])(?:-([0-9]{1,12}-[0-9a-f]{6}))?", re.IGNORECASE)


class Row(msgspec.Struct):
    """A message as the server tells of it."""

    id: int
    created_ts: str
    sender: str = msgspec.field(name="from")
    thread_id: str | None = None
    topic: str | None = None
    subject: str | None = None
    importance: str | None = None
    ack_required: bool | int = False
    body_md: str | None = None
    from_address: str | None = None


class Marks(msgspec.Struct, frozen=True):
    """What we say of a message beside its text. `parent`: the id of the one it answers or passes on."""

    hops: int = 0
    automatic: Automatic = Automatic.NO
    kind: Kind | None = None
    parent: str = ""


def topic_of(key: str, marks: Marks) -> str:
    """At most 64 characters of `[A-Za-z0-9_-]`: what the server's topic holds, and finds again. `key`: hex digits."""
    automatic = next(letter for letter, value in _AUTOMATIC.items() if value is marks.automatic)
    kind = next((letter for letter, value in _KINDS.items() if value is marks.kind), "x")
    parent = f"-{marks.parent}" if re.fullmatch(r"[0-9]{1,12}-[0-9a-f]{6}", marks.parent) else ""
    return f"am1-{key[:24]}-{min(marks.hops, MOST_HOPS)}{automatic}{kind}{parent}"


def marks_in(topic: str | None) -> Marks:
    found = _TOPIC.fullmatch(topic or "")
    if found is None:
        return Marks()
    hops, automatic, kind, parent = found.groups()
    return Marks(int(hops), _AUTOMATIC[automatic.lower()], _KINDS.get(kind.lower()), (parent or "").lower())


def identifier(row: Row) -> str:
    """The id by which we know it: the server's number, and what tells it from that of a server that began anew."""
    return f"{row.id}-{hashlib.sha256(row.created_ts.encode()).hexdigest()[:6]}"


def number_of(message_id: str) -> int | None:
    """The server's number in one of our ids; None where it is none."""
    number = message_id.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 12 else None


def moment_of(text: str) -> float:
    """Raises ValueError."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def since(moment: float) -> str:
    return datetime.fromtimestamp(max(0.0, moment), UTC).isoformat()


def envelope_of(row: Row, to: tuple[str, ...]) -> Envelope:
    """Raises ValueError for a moment that is none."""
    created, marks = moment_of(row.created_ts), marks_in(row.topic)
    if row.id < 0 or not row.sender:
        raise ValueError("no number, or no sender")
    return Envelope(
        id=identifier(row),
        thread=row.thread_id or str(row.id),
        sender=row.from_address or row.sender,
        created=created,
        order=f"{created:017.6f}-{row.id:012d}",
        locator=f"{row.id}{'!' if row.ack_required else ''}",
        to=to,
        priority=_IMPORTANCE.get(row.importance or "", Priority.NORMAL),
        kind=marks.kind,
        automatic=marks.automatic,
        hops=marks.hops,
        answers=bool(marks.parent),
    )


def message_of(row: Row, to: tuple[str, ...]) -> Message:
    """Raises ValueError."""
    envelope, parent = envelope_of(row, to), marks_in(row.topic).parent
    return Message(
        envelope,
        subject=row.subject or "",
        body=row.body_md or "",
        refs=(parent,) if parent else (),
        reply_to=envelope.sender,
    )


def is_contact_request(row: Row) -> bool:
    """The server's own words to a recipient whom somebody may not write to: no task for anybody."""
    asks = bool(row.ack_required) and row.thread_id is None and not row.topic
    return asks and (row.subject or "").startswith(f"Contact request from {row.sender}")


def rows_in(found: Iterable[msgspec.Raw]) -> tuple[list[Row], list[Unreadable]]:
    """Each row by itself: one that is none hides no other."""
    rows, odd = list[Row](), list[Unreadable]()
    for raw in found:
        try:
            row = msgspec.json.decode(raw, type=Row)
            envelope_of(row, ())
            rows.append(row)
        except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
            odd.append(_unreadable(bytes(raw), str(error)))
    return rows, odd


class _Names(msgspec.Struct):
    id: int = 0


def _unreadable(data: bytes, why: str) -> Unreadable:
    digest = whole_digest(data.decode("utf-8", "replace"))
    try:
        number = msgspec.json.decode(data, type=_Names).id
    except (msgspec.DecodeError, RecursionError):
        number = 0
    locator = f"row-{number}-{digest[:12]}"
    return Unreadable(locator, f"a row that we cannot read: {printable(why, 120)}", digest=digest)
