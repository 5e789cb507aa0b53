"""Messages on the wire, one by one: what is malformed hides no neighbour. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.mailbox.amp.answers import Answer, decode, not_the_protocol
from agent_mailer.mailbox.port import MOST_VISITED, Automatic, Envelope, Kind, Message, Priority, Unreadable
from agent_mailer.names import printable

MAX_HOPS: Final = 1_000_000
MAX_NAME: Final = 1000
"""Characters of an id or an address; longer ones are none."""

BY_ID: Final = "id:"
BY_HASH: Final = "hash:"

_BROKEN = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
_STRING_OR_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)

_PIECE = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+)', re.DOTALL)

E = TypeVar("E", Automatic, Kind, Priority)


class Heard(msgspec.Struct, frozen=True):
    """A message as it came, whole or without content. `cursor` is 0 where the broker has none."""

    message: Message
    is_read: bool
    cursor: int
    action: str
    parent_id: str


class Page(msgspec.Struct, frozen=True):
    """One page of the paged listing: `items` as they came, of `total` in all."""

    messages: msgspec.Raw
    total: int


class Stretch(msgspec.Struct, frozen=True):
    """One answer of the listing by cursor."""

    messages: msgspec.Raw
    cursor: int
    more: bool


class Claimed(msgspec.Struct, frozen=True):
    message: msgspec.Raw
    claimed: str
    thread: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct):
    id: str
    thread_id: str
    from_agent: str
    created_at: str
    to_agent: str | tuple[str, ...] = ()
    action: str = ""
    subject: str | None = None
    body: str | None = None
    attachments: msgspec.Raw = msgspec.Raw(b"[]")
    is_read: bool = False
    parent_id: str | None = None
    cursor: int = 0
    hops: int = 0
    automatic: str | None = None
    priority: str | None = None
    kind: str | None = None
    labels: tuple[str, ...] | None = None
    visited: tuple[str, ...] | None = None


def parse_message(raw: bytes) -> Heard | Unreadable:
    """One item of a listing."""
    try:
        item = msgspec.json.decode(raw, type=_Item)
        created = from_iso(item.created_at)
        for what, name in (("id", item.id), ("thread_id", item.thread_id), ("from_agent", item.from_agent)):
            if not name or len(name) > MAX_NAME:
                raise ValueError(f"{what} is {'empty' if not name else 'too long'}")
        if not 0 <= item.hops <= MAX_HOPS or item.cursor < 0:
            raise ValueError("a number is out of range")
    except _BROKEN as error:
        return _unreadable(raw, f"it is no message: {str(error) or type(error).__name__}")
    order = f"{item.cursor:020d}" if item.cursor else f"{max(0.0, created):020.6f}:{item.id}"
    envelope = Envelope(
        id=item.id,
        thread=item.thread_id,
        sender=item.from_agent,
        created=created,
        order=order,
        locator=item.id,
        to=(item.to_agent,) if isinstance(item.to_agent, str) else item.to_agent,
        priority=_one_of(Priority, item.priority) or Priority.NORMAL,
        kind=_one_of(Kind, item.kind),
        automatic=_one_of(Automatic, item.automatic) or Automatic.NO,
        hops=item.hops,
        visited=tuple(name for name in item.visited or () if len(name) <= MAX_NAME)[-MOST_VISITED:],
        answers=bool(item.parent_id),
    )
    message = Message(
        envelope,
        subject=item.subject or "",
        body=(item.body or "") + _attachments(item.attachments),
        refs=(item.parent_id,) if item.parent_id else (),
        labels=item.labels or (),
        reply_to=item.from_agent,
    )
    return Heard(message, item.is_read, item.cursor, item.action, item.parent_id or "")


def parse_whole(answer: Answer) -> Heard:
    """An answer that is one message. Raises MailboxUnavailable where it is none."""
    heard = parse_message(answer.body)
    if isinstance(heard, Unreadable):
        raise not_the_protocol(answer)
    return heard


def parse_list(answer: Answer, raw: bytes | None = None) -> list[Heard | Unreadable]:
    """A JSON list of messages, item by item. Raises MailboxUnavailable where it is no list."""
    data = answer.body if raw is None else raw
    try:
        items = [bytes(item) for item in msgspec.json.decode(data, type=list[msgspec.Raw])]
    except RecursionError:
        # One item is nested too deeply: cut the list without looking into its items.
        try:
            items = list(_cut(data))
        except ValueError:
            raise not_the_protocol(answer) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise not_the_protocol(answer) from None
    return [parse_message(item) for item in items]


def heard_in(answer: Answer, raw: bytes | None = None) -> list[Heard]:
    """The same without what is no message."""
    return [one for one in parse_list(answer, raw) if isinstance(one, Heard)]


S = TypeVar("S", Page, Stretch)


def parse_object(answer: Answer, shape: type[S]) -> S:
    """An answer that holds a list of messages. Raises MailboxUnavailable where it is none."""
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except RecursionError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise not_the_protocol(answer) from None
    try:
        start, end = _list_within(answer.body)
    except ValueError:
        raise not_the_protocol(answer) from None
    found = decode(msgspec.structs.replace(answer, body=answer.body[:start] + b"[]" + answer.body[end:]), shape)
    return msgspec.structs.replace(found, messages=msgspec.Raw(answer.body[start:end]))


def names_within(start: bytes) -> dict[str, str]:
    """What the first message of an answer, of which there is only the beginning, says of itself in texts, as far as
    that goes; no more than names can be is read.
    """
    place = start.find(b"{", start.find(b"[", max(0, start.find(b'"messages"'))) + 1)
    found: dict[str, str] = {}
    before = key = b""
    depth = 0
    while place >= 0 and (piece := _PIECE.match(start, place)) is not None:
        text, place = piece.group(1), piece.end()
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(text, 0)
        if depth == 0:
            break
        if depth == 1 and before == b":" and text.startswith(b'"') and (value := _name_in(msgspec.Raw(text))):
            found.setdefault(_name_in(msgspec.Raw(key)), value)
        if text == b":":
            key = before
        before = text
    return found


def _unreadable(raw: bytes, why: str) -> Unreadable:
    """Whose it is, as far as that can be made out: each name by itself."""
    fields: dict[str, msgspec.Raw] = {}
    with suppress(*_BROKEN):
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    identifier, thread, sender = (_name_in(fields.get(name)) for name in ("id", "thread_id", "from_agent"))
    locator = BY_ID + identifier if identifier else by_hash(raw)
    return Unreadable(locator, printable(why, 200), id=identifier, thread=thread, sender=sender)


def _name_in(raw: msgspec.Raw | None) -> str:
    with suppress(*_BROKEN):
        found = msgspec.json.decode(raw, type=str) if raw is not None else ""
        return found if len(found) <= MAX_NAME else ""
    return ""


def by_hash(data: bytes) -> str:
    """The locator of what has no id."""
    return BY_HASH + hashlib.sha256(data).hexdigest()[:32]


def _one_of(kind: type[E], text: str | None) -> E | None:
    try:
        return kind(text) if text else None
    except ValueError:
        return None


def _attachments(raw: msgspec.Raw) -> str:
    """What came with the text, named at its end: paths, or what an object says of itself."""
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except _BROKEN:
        return ""
    if not items:
        return ""
    lines = "".join(f"- {_in_a_line(bytes(item))}\n" for item in items[:100])
    return f"\n\nAttachments:\n{lines}"


def _in_a_line(raw: bytes) -> str:
    try:
        return printable(msgspec.json.decode(raw, type=str), 500)
    except _BROKEN:
        return printable(raw.decode("utf-8", "replace"), 500)


def _list_within(data: bytes) -> tuple[int, int]:
    """Where the list `messages` of an object begins and ends. Raises ValueError."""
    start = data.index(b"[", data.index(b'"messages"'))
    for mark, place, depth in _marks(data, start):
        if mark == b"]" and depth == 0:
            return start, place + 1
    raise ValueError("the list does not end")


def _cut(data: bytes) -> Iterator[bytes]:
    """The items of a JSON list. Raises ValueError."""
    start = data.index(b"[")
    begin = start + 1
    for mark, place, depth in _marks(data, start):
        if depth == 0 or (depth == 1 and mark == b","):
            item = data[begin:place].strip()
            if item:
                yield item
            begin = place + 1
        if depth == 0:
            return
    raise ValueError("the list does not end")


def _marks(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Every bracket, brace and comma outside strings from `start` on: which, where, and the depth after it."""
    depth = 0
    for match in _STRING_OR_MARK.finditer(data, start):
        mark = match.group()
        if mark.startswith(b'"'):
            continue
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark, 0)
        yield mark, match.start(), depth


class TeamMemory(msgspec.Struct, frozen=True):
    """One of the texts that an agent's team has."""

    title: str
    content: str


MOST_REMEMBERED = 262_144
"""Characters of them that a turn is told."""


def as_one(memories: Sequence[TeamMemory]) -> str:
    """One text, each below its title; what is too much is left out, and that is said."""
    whole = "\n\n".join(f"# {' '.join(one.title.split())}\n\n{one.content.strip()}" for one in memories)
    if len(whole) <= MOST_REMEMBERED:
        return whole
    return f"{whole[:MOST_REMEMBERED]}\n\n[{len(whole) - MOST_REMEMBERED} characters more are left out]"
