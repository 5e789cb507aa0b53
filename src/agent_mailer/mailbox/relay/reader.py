"""What an Agent Relay server says, read tolerantly; and the bodies and words of the calls that its README leaves open.

All that was never seen of the real server is here: several spellings are read, and what is missing has a value. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent_mailer.mailbox.port import Automatic, Envelope, Kind, Message, Priority, Unreadable
from agent_mailer.names import printable, whole_digest

MARKS: Final = "agentMailer"
"""Under this name in a message's payload: what we say of it beside its text."""

STATUS_STARTED, STATUS_DONE, STATUS_FAILED = "in_progress", "done", "failed"
"""Of a task. The README names `resolved` for an event; a server that knows others refuses these, which is survived."""

MOST_HOPS: Final = 9999

KNOWN_VERSIONS: Final = ("0.4.",)

_NO_JSON = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
_SEVERITIES = {"critical": Priority.URGENT, "fatal": Priority.URGENT, "info": Priority.LOW, "debug": Priority.LOW}
_STALE = ("epoch", "instance", "stale", "superseded", "session")


class Strange(ValueError):
    """What was answered is nothing that we know."""


class Marks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ours. `thread` where it is not the number of its first message; `parent`: the id of the one it answers."""

    hops: int = 0
    automatic: Automatic = Automatic.NO
    kind: Kind | None = None
    priority: Priority = Priority.NORMAL
    thread: str = ""
    parent: str = ""


class Row(msgspec.Struct, frozen=True):
    """A message. `claimed_by` None: the server does not say; `lease`: seconds of its claim; `moment`: as it was told.

    `task`: the task it is about; `pair`: the session that it belongs to.
    """

    number: int
    sender: str
    to: str
    subject: str = ""
    body: str = ""
    reply_to: int | None = None
    thread: str = ""
    is_claimable: bool = False
    claimed_by: str | None = None
    read_by: tuple[str, ...] = ()
    lease: float | None = None
    key: str = ""
    marks: Marks = Marks()
    moment: str = ""
    created: float = 0.0
    task: str = ""
    pair: str = ""
    severity: str = ""
    dedupe_key: str = ""

    @property
    def id(self) -> str:
        """The server's number, and what tells it from that of a server that began anew."""
        return f"{self.number}-{hashlib.sha256(self.moment.encode()).hexdigest()[:6]}"

    @property
    def locator(self) -> str:
        return f"{self.number}{'!' if self.is_claimable else ''}{f':{self.task}' if self.task else ''}"


class Card(msgspec.Struct, frozen=True):
    """An agent. `epoch` None: the server tells none."""

    id: str
    label: str = ""
    name: str = ""
    status: str = ""
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    epoch: int | None = None


class Pair(msgspec.Struct, frozen=True):
    id: str
    asked_by: str


def number_of(name: str) -> int | None:
    """The server's number in an id or locator of ours; None where it is none."""
    digits = name.partition("-")[0].partition("!")[0].partition(":")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 15 else None


def is_claimable(locator: str) -> bool:
    """Whether it has to be claimed; the task's name behind it is its sender's, and may hold anything."""
    return locator.partition(":")[0].endswith("!")


def task_of(locator: str) -> str:
    return locator.partition(":")[2]


def rows_in(body: bytes) -> tuple[list[Row], list[Unreadable]]:
    """Each by itself, the oldest first: one that is none hides no other. Raises Strange for no list of any."""
    rows, odd = list[Row](), list[Unreadable]()
    for one in _listed(body, "messages"):
        try:
            rows.append(_row(one))
        except _NO_JSON as error:
            odd.append(_unreadable(one, str(error)))
    return sorted(rows, key=lambda row: row.number), odd


def row_in(body: bytes) -> Row:
    """One message, by itself or wrapped. Raises Strange."""
    return _row(_wrapped(_object(body), "message"))


def cards_in(body: bytes) -> list[Card]:
    """Raises Strange."""
    found = []
    for one in _listed(body, "agents"):
        with suppress(*_NO_JSON):
            found.append(_card(one))
    return found


def card_in(body: bytes) -> Card:
    """Raises Strange."""
    return _card(_wrapped(_object(body), "agent"))


def pairs_in(body: bytes, me: str) -> list[Pair]:
    """Those that others ask of `me`, and nobody has answered. Raises Strange."""
    found = []
    for one in _listed(body, "pairs"):
        table = one if isinstance(one, dict) else {}
        asked_by = _text(table, "from", "requester", "initiator", "fromAgent", "createdBy")
        if (name := _text(table, "id", "pairId")) and asked_by != me and _text(table, "status") in ("", "pending"):
            found.append(Pair(name, asked_by))
    return found


def number_in(body: bytes) -> int:
    """Of `/messages/cursor`. Raises Strange."""
    found = _decoded(body)
    value = _first(found, "id", "cursor", "latest", "messageId") if isinstance(found, dict) else found
    return _number(value)


def version_in(body: bytes) -> str:
    """Of `/stats`; empty where it tells none. Raises Strange for what is no object."""
    found = _object(body)
    server = found.get("server")
    return _text(found, "version", "serverVersion") or (_text(server, "version") if isinstance(server, dict) else "")


def is_stale(status: int, body: bytes) -> bool:
    """Whether a call was refused because somebody has registered under our name since."""
    said = body[:2000].decode("utf-8", "replace").lower()
    return status in (409, 410, 412) and any(word in said for word in _STALE)


def was_claimed(body: bytes) -> bool:
    """Whether an answer to a claim says that it is ours: one without a word against that does."""
    found: object = None
    with suppress(ValueError):
        found = _decoded(body)
    if isinstance(found, dict):
        return not any(found.get(name) is False for name in ("ok", "claimed", "success"))
    return found is not False and body.strip() != b"null"


def read_body(me: str) -> dict[str, object]:
    return {"readBy": me, "agentId": me, "read": True}


def payload_of(marks: Marks) -> dict[str, object]:
    return {MARKS: msgspec.to_builtins(marks)}


def envelope_of(row: Row, thread: str) -> Envelope:
    marks, by_severity = row.marks, _SEVERITIES.get(row.severity.lower(), Priority.NORMAL)
    return Envelope(
        id=row.id,
        thread=thread,
        sender=row.sender,
        created=row.created,
        order=f"{row.number:015d}",
        locator=row.locator,
        to=(row.to,),
        priority=marks.priority if marks.priority is not Priority.NORMAL else by_severity,
        kind=marks.kind or (Kind.TODO if row.task else None),
        automatic=marks.automatic,
        hops=marks.hops,
        answers=bool(marks.parent) or row.reply_to is not None,
    )


def message_of(row: Row, thread: str) -> Message:
    told = {"task": row.task, "severity": row.severity, "dedupe key": row.dedupe_key}
    return Message(
        envelope_of(row, thread),
        subject=row.subject,
        body=row.body,
        refs=(row.marks.parent,) if row.marks.parent else (),
        labels=tuple(f"{name} {printable(value, 100)}" for name, value in told.items() if value),
        reply_to=row.sender,
    )


def _row(one: object) -> Row:
    table = one if isinstance(one, dict) else {}
    number, payload, meta = _number(_first(table, "id")), _table(table, "payload"), _table(table, "meta")
    sender = _text(table, "from", "from_agent", "fromAgent", "sender")
    if number < 0 or not sender:
        raise Strange("it has no number, or no sender")
    body = _first(table, "body", "text", "content")
    if not isinstance(body, str):
        raise Strange("it has no text")
    moment = _first(table, "createdAt", "created_at")
    claimed = _first(table, "claimedBy", "claimed_by")
    says = any(name in table for name in ("claimedBy", "claimed_by"))
    begun, ends = (_moment(_first(table, *names)) for names in (_CLAIMED, _EXPIRES))
    reply = _first(table, "replyTo", "reply_to", "inReplyTo", "parentId")
    inner = payload.get("task")
    task = inner if isinstance(inner, dict) else payload
    kind = _text(table, "kind", "type")
    told_task = _text(task, "taskId", "task_id") or (_text(task, "id") if task is inner else "")
    told_task = told_task or _text(meta, "taskId", "task_id") or _text(table, "taskId")
    pair = _text(payload, "pairId", "pair_id") or _text(meta, "pairId", "pair_id") or _text(table, "pairId")
    return Row(
        number,
        sender,
        _text(table, "to", "to_target", "toTarget"),
        subject=_text(table, "subject", "title"),
        body=body,
        reply_to=_number(reply) if reply is not None else None,
        thread=_text(table, "threadId", "thread_id"),
        is_claimable=bool(_first(table, "claimable")),
        claimed_by=str(claimed or "") if says else None,
        read_by=_words(table, "readBy", "read_by"),
        lease=ends - begun if begun and ends and ends > begun else None,
        key=_text(table, "idempotencyKey", "idempotency_key"),
        marks=_marks(payload.get(MARKS) or meta.get(MARKS)),
        moment=str(moment if moment is not None else ""),
        created=_moment(moment) or 0.0,
        task=told_task[:100] if told_task not in _UPWARDS else "",
        pair=(pair if pair not in _UPWARDS else "?") or ("?" if kind.startswith("pair") else ""),
        severity=_text(task, "severity"),
        dedupe_key=_text(task, "dedupeKey", "dedupe_key"),
    )


_UPWARDS = (".", "..")
"""What their sender may not have a call of ours end in: in a URL they are no names."""

_CLAIMED = ("claimedAt", "claimed_at")
_EXPIRES = ("claimExpiresAt", "claim_expires_at")


def _card(one: object) -> Card:
    table = one if isinstance(one, dict) else {}
    name = _text(table, "id", "agentId")
    if not name:
        raise Strange("an agent without an id")
    epoch = _first(table, "epoch", "sessionEpoch")
    return Card(
        name,
        _text(table, "label"),
        _text(table, "name"),
        _text(table, "status"),
        _words(table, "tags"),
        _words(table, "capabilities", "caps"),
        _number(epoch) if epoch is not None else None,
    )


def _marks(found: object) -> Marks:
    try:
        marks = msgspec.convert(found, Marks)
    except msgspec.ValidationError:
        return Marks()
    return msgspec.structs.replace(marks, hops=min(MOST_HOPS, max(0, marks.hops)))


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Strange(str(error)) from None


def _object(body: bytes) -> dict[str, object]:
    found = _decoded(body)
    if not isinstance(found, dict):
        raise Strange("no object")
    return found


def _wrapped(table: dict[str, object], name: str) -> dict[str, object]:
    inner = table.get(name)
    return inner if isinstance(inner, dict) else table


def _listed(body: bytes, name: str) -> Iterable[object]:
    """A bare list, or one in an object."""
    found = _decoded(body)
    if isinstance(found, dict):
        found = next((found[key] for key in (name, "items", "data", "results") if key in found), None)
    if not isinstance(found, list):
        raise Strange("no list")
    return found


def _first(table: Mapping[str, object], *names: str) -> object:
    return next((table[name] for name in names if table.get(name) is not None), None)


def _text(table: Mapping[str, object], *names: str) -> str:
    value = _first(table, *names)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _number(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Strange(f"no number: {printable(repr(value), 40)}")
    return value


def _moment(value: object) -> float | None:
    """Seconds since the epoch: of milliseconds, of seconds, or of ISO 8601; None for anything else."""
    if isinstance(value, str):
        with suppress(*_NO_JSON):
            found = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        return None
    return value / 1000 if value > 1e11 else float(value)


def _table(table: Mapping[str, object], name: str) -> dict[str, object]:
    """An object, or the text of one, as it lies in a database."""
    value = table.get(name)
    if isinstance(value, str):
        with suppress(*_NO_JSON):
            value = _decoded(value.encode())
    return value if isinstance(value, dict) else {}


def _words(table: Mapping[str, object], *names: str) -> tuple[str, ...]:
    value = _first(table, *names)
    if isinstance(value, str):
        with suppress(*_NO_JSON):
            value = _decoded(value.encode())
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _unreadable(one: object, why: str) -> Unreadable:
    data = msgspec.json.encode(one).decode()
    digest, number = whole_digest(data), 0
    if isinstance(one, dict):
        with suppress(ValueError):
            number = _number(_first(one, "id"))
    return Unreadable(
        f"row-{number}-{digest[:12]}",
        f"a message that we cannot read: {printable(why, 120)}",
        digest=digest,
        sender=_text(one, "from", "from_agent") if isinstance(one, dict) else "",
    )
