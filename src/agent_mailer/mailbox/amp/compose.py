"""A draft in its final form. Pure: ids and bytes follow from the draft, its origin and the turn alone."""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

import msgspec

from agent_mailer.groups import taken_by_one
from agent_mailer.mailbox.port import (
    MOST_VISITED,
    Action,
    Draft,
    Message,
    Outgoing,
    Priority,
    Refused,
    kind_of,
    subject_of,
)
from agent_mailer.mailbox.server_drafts import beyond, recipients, storable
from agent_mailer.names import DEDUPE_KEY, printable

MAX_THREAD: Final = 128
MAX_LABELS: Final = 20
MAX_LABEL: Final = 100
MAX_HOPS: Final = 1000


class Request(msgspec.Struct, frozen=True):
    """The body of `POST /messages/send`."""

    agent_id: str
    from_agent: str
    to_agent: str
    action: str
    subject: str
    body: str
    attachments: tuple[str, ...] = ()
    parent_id: str | None = None
    forward_scope: str | None = None
    thread_id: str | None = None
    hops: int = 0
    automatic: str = "no"
    priority: str = "normal"
    kind: str | None = None
    labels: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()
    one_of: str | msgspec.UnsetType = msgspec.UNSET
    """The same in each copy of what one of a group takes."""


class Payload(msgspec.Struct, frozen=True):
    """What an item carries: the request's bytes, the key they go out under, and when the draft was written."""

    idempotency_key: str
    created: float
    request: msgspec.Raw

    def decoded(self) -> Request:
        return msgspec.json.decode(self.request, type=Request)


class Author(msgspec.Struct, frozen=True):
    """Who writes."""

    agent_id: str
    address: str

    @property
    def namespace(self) -> uuid.UUID:
        try:
            return uuid.UUID(self.agent_id)
        except ValueError:
            return uuid.uuid5(uuid.NAMESPACE_URL, self.agent_id)


def payload_of(item: Outgoing) -> Payload:
    """Raises msgspec.DecodeError for an item that another mailbox composed."""
    return msgspec.json.decode(item.payload, type=Payload)


def compose(author: Author, draft: Draft, origin: Message | None, turn_id: str) -> tuple[Outgoing, ...] | Refused:
    """One item a recipient, each with an id of its own; a fresh thread is shared by all of them."""
    if draft.action is not Action.SEND and origin is None:
        return Refused(f"there is no message to {draft.action.value}")
    group = taken_by_one(draft.labels)
    to = _recipients(author, draft, origin)
    if isinstance(to, Refused):
        return to
    if draft.refs or draft.context:
        return Refused("mail at a broker has no place for refs and context: put them into the text")
    body = storable(draft.body)
    if (too_large := beyond(body)) is not None:
        return too_large
    thread = _thread(author, draft, origin, turn_id)
    if isinstance(thread, Refused):
        return thread
    kind = kind_of(draft, origin)
    items = []
    for recipient in to:
        request = Request(
            agent_id=author.agent_id,
            from_agent=author.address,
            to_agent=recipient,
            action=draft.action.value,
            subject=storable(subject_of(draft, origin)),
            body=body,
            parent_id=None if draft.action is Action.SEND or origin is None else origin.envelope.id,
            forward_scope="message" if draft.action is Action.FORWARD else None,
            thread_id=thread if draft.action is Action.SEND else None,
            hops=min(MAX_HOPS, origin.envelope.hops + 1) if origin else 0,
            automatic=draft.automatic.value,
            priority=(draft.priority or Priority.NORMAL).value,
            kind=kind.value if kind else None,
            labels=_labels(draft),
            visited=(*origin.envelope.visited, origin.envelope.sender)[-MOST_VISITED:] if origin else (),
            one_of=_key(author, draft, turn_id, group) if group else msgspec.UNSET,
        )
        key = _key(author, draft, turn_id, recipient)
        payload = Payload(key, draft.created, msgspec.Raw(msgspec.json.encode(request)))
        identifier = str(uuid.uuid5(author.namespace, f"0:{key}"))
        items.append(Outgoing(identifier, recipient, thread, msgspec.json.encode(payload).decode()))
    return tuple(items)


def _key(author: Author, draft: Draft, turn_id: str, recipient: str) -> str:
    if draft.key.startswith(DEDUPE_KEY):
        return _digest("dedupe", author.address, draft.key.removeprefix(DEDUPE_KEY), recipient)
    return _digest("turn", author.address, turn_id, draft.key, recipient)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _recipients(author: Author, draft: Draft, origin: Message | None) -> tuple[str, ...] | Refused:
    named = recipients(author.address, draft, origin)
    if isinstance(named, Refused):
        return named
    # A bare name means a neighbour: same user, same domain.
    domain = author.address.partition("@")[2]
    return tuple(dict.fromkeys(name if "@" in name else f"{name}@{domain}" for name in named))


def _thread(author: Author, draft: Draft, origin: Message | None, turn_id: str) -> str | Refused:
    if draft.action is not Action.SEND and origin is not None:
        return origin.envelope.thread
    if draft.thread:
        name = draft.thread
        if name != name.strip() or not name.isprintable() or len(name) > MAX_THREAD:
            return Refused(f"{printable(name)!r} is no name of a thread: at most {MAX_THREAD} printable characters")
        return name
    return str(uuid.uuid5(author.namespace, f"thread:{_key(author, draft, turn_id, '')}"))


def _labels(draft: Draft) -> tuple[str, ...]:
    found = (" ".join(storable(label).split())[:MAX_LABEL] for label in draft.labels)
    return tuple(dict.fromkeys(label for label in found if label))[:MAX_LABELS]
