"""A draft in its final form. Pure: ids and bytes follow from the draft, its origin and the turn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent_mailer.clock import in_utc
from agent_mailer.mailbox.maildir.format import (
    CLOSE,
    CONTEXT_KEY,
    MAX_MESSAGE_BYTES,
    PROJECT_MARK,
    START,
    clean,
    go_json,
    is_message_id,
    parse_context,
    rfc3339,
)
from agent_mailer.mailbox.maildir.layout import LAYER, is_handle
from agent_mailer.mailbox.maildir.routes import parse_address
from agent_mailer.mailbox.port import (
    MOST_VISITED,
    Action,
    Automatic,
    Draft,
    Kind,
    Message,
    Outgoing,
    Priority,
    Refused,
    Route,
    kind_of,
    subject_of,
)
from agent_mailer.names import DEDUPE_KEY, printable, sha256

DEDUPE_ID: Final = "dedupe-"

MAX_REFS: Final = 20
"""Of a thread's earlier messages, the first and the newest."""

MAX_FORWARDED: Final = 1_048_576
"""Bytes of a message that are passed on."""

_MAX_PID: Final = 4_194_303


class Header(msgspec.Struct, frozen=True):
    """The fields of a message to be written. Empty ones are left out; `created` is seconds since the epoch."""

    id: str
    sender: str
    to: tuple[str, ...]
    thread: str
    created: float
    subject: str = ""
    refs: tuple[str, ...] = ()
    priority: Priority | None = None
    kind: Kind | None = None
    labels: tuple[str, ...] = ()
    hops: int = 0
    visited: tuple[str, ...] = ()
    automatic: Automatic = Automatic.NO
    turn: str = ""
    reply_to: str = ""
    project: str = ""
    """Ours, on mail to another project: it stands in `reply_project` and in `from_project`."""
    context: str = ""


def message_id_for(handle: str, turn_id: str, key: str, created: float) -> str:
    """The id of the message `key` of a turn, in AMQ's form. `created` is seconds since the epoch."""
    digest = sha256("\0".join((handle, turn_id, key)).encode("utf-8", "surrogatepass")).digest()
    moment = in_utc(created)
    stamp = moment.strftime("%Y-%m-%dT%H-%M-%S") + f".{moment.microsecond // 1000:03d}Z"
    return f"{stamp}_pid{int.from_bytes(digest[:4], 'big') % _MAX_PID + 1}_{digest[4:8].hex()}"


def dedupe_id_for(handle: str, key: str) -> str:
    """The id that every message of this sender with this dedupe key has, whenever it is sent."""
    return DEDUPE_ID + sha256("\0".join((handle, key)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class _Recipient(msgspec.Struct, frozen=True):
    handle: str
    route: Route | None = None


def compose(
    handle: str, session: str, draft: Draft, origin: Message | None, turn_id: str, routes: Sequence[Route] = ()
) -> tuple[Outgoing, ...] | Refused:
    """One item a recipient, all with the same id, as AMQ does; the bytes of what leaves our root name the way back.

    `session` is the name of our own root.
    """
    if draft.action is not Action.SEND and origin is None:
        return Refused(f"there is no message to {draft.action.value}")
    to = _recipients(handle, session, draft, origin, {route.address: route for route in routes})
    if isinstance(to, Refused):
        return to
    identifier = _identifier(handle, draft, turn_id)
    thread = _thread(handle, draft, origin, to, identifier)
    if not thread:
        return Refused("a thread's name is not empty and has no blanks around it")
    if wrong := next((ref for ref in draft.refs if not is_message_id(ref)), None):
        return Refused(f"{printable(wrong)!r} is no message id, so nothing can refer to it")
    if draft.context and parse_context(draft.context) is None:
        return Refused("a context is a JSON object")
    kind = kind_of(draft, origin)
    header = Header(
        id=identifier,
        sender=handle,
        to=tuple(dict.fromkeys(one.handle for one in to)),
        thread=thread,
        created=draft.created,
        subject=subject_of(draft, origin),
        refs=_refs(draft, origin),
        priority=draft.priority or (Priority.NORMAL if kind else None),
        kind=kind,
        labels=_labels(draft),
        hops=origin.envelope.hops + 1 if origin else 0,
        visited=(*origin.envelope.visited, origin.envelope.sender)[-MOST_VISITED:] if origin else (),
        automatic=draft.automatic,
        turn=turn_id,
        context=draft.context,
    )
    body = _body(draft, origin)
    items = []
    for one in to:
        payload = write_message(_with_way_back(header, one.route), body)
        if len(payload) > MAX_MESSAGE_BYTES:
            return Refused(
                f"the message has {len(payload)} bytes; at most {MAX_MESSAGE_BYTES} can be sent: send a file name"
            )
        recipient = one.route.address if one.route else one.handle
        items.append(Outgoing(identifier, recipient, thread, payload.decode(), one.route))
    return tuple(items)


def _with_way_back(header: Header, route: Route | None) -> Header:
    back = parse_address(route.back) if route is not None and route.back else None
    if back is None:
        return header
    reply_to = f"{back.handle}@{back.session}" if back.session else back.handle
    return msgspec.structs.replace(header, reply_to=reply_to, project=back.project)


def _identifier(handle: str, draft: Draft, turn_id: str) -> str:
    if draft.key.startswith(DEDUPE_KEY):
        return dedupe_id_for(handle, draft.key.removeprefix(DEDUPE_KEY))
    return message_id_for(handle, turn_id, draft.key, draft.created)


def _recipients(
    handle: str, session: str, draft: Draft, origin: Message | None, routes: Mapping[str, Route]
) -> tuple[_Recipient, ...] | Refused:
    wanted: Sequence[str] = draft.to
    if not wanted and draft.action is Action.REPLY and origin is not None:
        wanted = (_answer_address(handle, origin),)
    if not wanted:
        return Refused("there is no recipient")
    found: dict[_Recipient, None] = {}
    for text in wanted:
        name = text.strip()
        if name in routes:
            found[_Recipient(routes[name].recipient, routes[name])] = None
            continue
        if is_handle(name):
            found[_Recipient(name)] = None
            continue
        address = parse_address(name)
        if address is None:
            return Refused(f"{printable(text)!r} is no handle: use a-z, 0-9, _ and -")
        if address.project:
            return Refused(
                f"{printable(name)!r} is in the project {printable(address.project)!r}, and no way there is known"
            )
        if address.session not in ("", session):
            return Refused(f"{printable(name)!r} is in the session {address.session!r}, and no way there is known")
        found[_Recipient(address.handle)] = None
    return tuple(found)


def _answer_address(handle: str, origin: Message) -> str:
    envelope = origin.envelope
    if envelope.sender == handle and origin.reply_to in ("", handle) and envelope.to:
        return envelope.to[0]
    return origin.reply_to or envelope.sender


def _thread(handle: str, draft: Draft, origin: Message | None, to: tuple[_Recipient, ...], identifier: str) -> str:
    if draft.thread:
        return clean(draft.thread) if draft.thread == draft.thread.strip() else ""
    if draft.action is not Action.SEND and origin is not None:
        return origin.envelope.thread
    if len(to) > 1:
        return f"t-{identifier}"
    route = to[0].route
    if route is not None and route.back:
        return f"p2p/{_qualified(route.back)}__{_qualified(route.address)}"
    lower, higher = sorted((handle, to[0].handle))
    return f"p2p/{lower}__{higher}"


def _qualified(text: str) -> str:
    """An address as AMQ's threads between sessions and projects name it."""
    address = parse_address(text)
    if address is None:
        return text
    return PROJECT_MARK.join(filter(None, (address.project, address.session, address.handle)))


def _refs(draft: Draft, origin: Message | None) -> tuple[str, ...]:
    if draft.action is Action.SEND or origin is None:
        return tuple(dict.fromkeys(draft.refs))
    refs = tuple(dict.fromkeys((*origin.refs, origin.envelope.id, *draft.refs)))
    return refs if len(refs) <= MAX_REFS else (refs[0], *refs[1 - MAX_REFS :])


def _labels(draft: Draft) -> tuple[str, ...]:
    own = () if draft.automatic is Automatic.NO else (f"{LAYER}:{draft.automatic.value}",)
    return tuple(dict.fromkeys((*draft.labels, *own)))


def _body(draft: Draft, origin: Message | None) -> str:
    if draft.action is not Action.FORWARD or origin is None:
        return draft.body
    envelope = origin.envelope
    quoted = (
        f"> From: {envelope.sender}\n"
        f"> To: {', '.join(envelope.to)}\n"
        f"> Date: {rfc3339(envelope.created)}\n"
        f"> Subject: {' '.join(origin.subject.split())}\n"
    )
    note = f"{draft.body.rstrip()}\n\n" if draft.body.strip() else ""
    body = origin.body.encode("utf-8", "surrogatepass")
    passed = origin.body
    if len(body) > MAX_FORWARDED:
        passed = body[:MAX_FORWARDED].decode("utf-8", "ignore")
        passed += f"\n\n[cut here, after {MAX_FORWARDED} of {len(body)} bytes; the whole is message {envelope.id}]\n"
    return f"{note}{quoted}\n{passed}"


def write_message(header: Header, body: str) -> bytes:
    """The file's bytes. The caller has checked the values; the body gets a line end if it has none."""
    fields: dict[str, object] = {
        "schema": 1,
        "id": header.id,
        "from": header.sender,
        "to": list(header.to),
        "thread": header.thread,
        "subject": header.subject.strip(),
        "created": rfc3339(header.created),
        "refs": list(header.refs),
        "priority": header.priority.value if header.priority else "",
        "kind": header.kind.value if header.kind else "",
        "labels": list(header.labels),
        "context": _context(header),
        "reply_to": header.reply_to,
        "reply_project": header.project,
        "from_project": header.project,
    }
    text = START + go_json({k: v for k, v in fields.items() if v or k == "schema"}) + "\n" + CLOSE + body
    if body and not body.endswith("\n"):
        text += "\n"
    return clean(text).encode()


def _context(header: Header) -> dict[str, object]:
    marks: dict[str, object] = {}
    if header.automatic is not Automatic.NO:
        marks["automatic"] = header.automatic.value
    if header.hops:
        marks["hops"] = header.hops
    if header.visited:
        marks["visited"] = list(header.visited)
    if header.turn:
        marks["turn"] = header.turn
    theirs = (parse_context(header.context) if header.context else None) or {}
    return {k: v for k, v in theirs.items() if k != CONTEXT_KEY} | ({CONTEXT_KEY: marks} if marks else {})
