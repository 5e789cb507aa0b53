"""What is noted at a message after it was sent: read, claimed, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection, bindparam, false, insert, select, true, update

from agent_mailer.broker.callers import AsAgent, AsEither, settings_of, store_of
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.messages import inbox
from agent_mailer.broker.messages.wire import MESSAGE_COLUMNS, Message, answer, described, message_of, rendered
from agent_mailer.broker.protocol import NO_NUL, Fault, now_text
from agent_mailer.broker.refusals import refusals
from agent_mailer.broker.streams import Lease, streams_of, watched, watcher_header, watcher_of
from agent_mailer.broker.tables import agents, messages, receipts

router = APIRouter(prefix="/messages", tags=["extensions"])

_TurnId = Annotated[str, Field(max_length=64, pattern=NO_NUL)]


class ClaimForm(BaseModel):
    """`turn_id`: the watcher's name of the turn for which it claims the message."""

    turn_id: _TurnId = ""


class ReceiptForm(BaseModel):
    """`final`: nothing more will come of the message; it is marked read."""

    stage: Literal["started", "settled"]
    turn_id: Annotated[_TurnId, Field(min_length=1)]
    outcome: Annotated[str, Field(max_length=32, pattern=NO_NUL)] | None = None
    detail: Annotated[str, Field(max_length=600, pattern=NO_NUL)] = ""
    final: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """One step of a message's way through a turn."""

    message_id: str
    stage: str
    turn_id: str
    outcome: str | None
    detail: str
    final: bool
    created_at: str


class Claimed(msgspec.Struct, frozen=True):
    """`claimed` is `before` where this watcher had it already."""

    message: Message
    claimed: Literal["now", "before"]


_m = messages.c
_LOCKED = (
    select(_m.to_agent_id, _m.claimed_by, *MESSAGE_COLUMNS)
    .where(_m.id == bindparam("message"), _m.user_id == bindparam("user"))
    .with_for_update(key_share=True)
)
_READ = update(messages).where(_m.id == bindparam("message")).values(is_read=true())
_LOCKED_INBOX = select(agents.c.inbox_seq).where(agents.c.id == bindparam("agent")).with_for_update(key_share=True)
_COUNT_ON = update(agents).where(agents.c.id == bindparam("agent")).values(inbox_seq=bindparam("newest"))
_UNREAD = (
    update(messages)
    .where(_m.id == bindparam("message"))
    .values(is_read=false(), seq=bindparam("newest"), claimed_by=None, claimed_at=None)
)
_r = receipts.c
_COLUMNS = (_r.message_id, _r.stage, _r.turn_id, _r.outcome, _r.detail, _r.final, _r.created_at)
_OF_MESSAGE = select(*_COLUMNS).where(_r.message_id == bindparam("message")).order_by(_r.id)
_SAME = select(*_COLUMNS).where(
    _r.message_id == bindparam("message"), _r.turn_id == bindparam("turn"), _r.stage == bindparam("stage")
)
_NOTE = insert(receipts)
_CLAIM = (
    update(messages)
    .where(messages.c.id == bindparam("message"))
    .values(claimed_by=bindparam("watcher"), claimed_at=bindparam("moment"))
)
_TAKEN = "This message is claimed by another watcher"


class Locked(msgspec.Struct, frozen=True):
    """A message that nobody else changes until the transaction ends. `agent_id` is its recipient."""

    agent_id: str
    claimed_by: str | None
    message: Message


def lock_message(connection: Connection, caller: AgentCaller, message_id: str) -> Locked:
    """That message. Raises Fault 404 (unknown, or of another user), 403 (the caller is not its recipient)."""
    row = connection.execute(_LOCKED, {"message": message_id, "user": caller.user_id}).first()
    if row is None:
        raise Fault(404, "Message not found")
    if not caller.may_act_as(row[0]):
        raise Fault(403, "This API key acts for another agent only")
    return Locked(row[0], row[1], message_of(row[2:]))


def mark_read(connection: Connection, locked: Locked) -> Message:
    """The message as it is then."""
    if not locked.message.is_read:
        connection.execute(_READ, {"message": locked.message.id})
        locked.message.is_read = True
    return locked.message


def mark_unread(connection: Connection, locked: Locked) -> Message:
    """The message as it is then: unclaimed, and in a new place at the end of the inbox, so that it is found again."""
    newest = int(connection.execute(_LOCKED_INBOX, {"agent": locked.agent_id}).scalar_one()) + 1
    connection.execute(_COUNT_ON, {"agent": locked.agent_id, "newest": newest})
    connection.execute(_UNREAD, {"message": locked.message.id, "newest": newest})
    message = locked.message
    message.is_read, message.cursor, message.claimed_at = False, newest, None
    return message


def _check_free(locked: Locked, lease: Lease | None, watcher: str, since: str) -> None:
    if lease is not None and lease.watcher != watcher:
        raise watched(locked.message.to_agent, lease)
    if locked.message.is_read:
        raise Fault(409, "This message is read already", extra={"reason": "read"})
    claimed_at = locked.message.claimed_at
    if locked.claimed_by not in (None, watcher) and claimed_at is not None and claimed_at >= since:
        raise Fault(409, f"{_TAKEN} since {claimed_at}", extra={"reason": "claimed"})


def _note(connection: Connection, receipt: Receipt, watcher: str) -> tuple[Receipt, bool]:
    """The stored receipt, and whether it is new."""
    same = {"message": receipt.message_id, "turn": receipt.turn_id, "stage": receipt.stage}
    stored = connection.execute(_SAME, same).first()
    if stored is not None:
        return Receipt(*stored), False
    connection.execute(_NOTE, [{**msgspec.structs.asdict(receipt), "watcher": watcher}])
    return receipt, True


@router.post(
    "/{message_id}/claim",
    summary="Claim a message for a turn",
    openapi_extra={"parameters": [watcher_header("Who claims", required=True)]},
    responses={200: described(Claimed), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def claim(
    request: Request, message_id: str, caller: AsAgent, form: Annotated[ClaimForm | None, Body()] = None
) -> Response:
    """Nobody else gets it while the claim lasts. The header X-Agent-Mailer-Watcher says who claims."""
    watcher = watcher_of(request)
    if watcher is None:
        raise Fault(422, "X-Agent-Mailer-Watcher is missing")
    turn_id = "" if form is None else form.turn_id
    since = inbox.claims_since(settings_of(request).claim_seconds)
    streams = streams_of(request)

    def work(connection: Connection) -> Claimed:
        locked = lock_message(connection, caller, message_id)
        _check_free(locked, streams.lease(locked.agent_id), watcher, since)
        message = locked.message
        before = locked.claimed_by == watcher
        message.claimed_at = now_text()
        moment = {"message": message.id, "watcher": watcher, "moment": message.claimed_at}
        connection.execute(_CLAIM, moment)
        receipt = Receipt(message.id, "claimed", turn_id, None, "", final=False, created_at=message.claimed_at)
        if not before or turn_id:
            _note(connection, receipt, watcher)
        return Claimed(message, "before" if before else "now")

    claimed = await store_of(request).write(work)
    await rendered((claimed.message,))
    return answer(claimed)


@router.post(
    "/{message_id}/receipts",
    status_code=201,
    summary="Tell what becomes of a message",
    responses={
        200: described(Receipt, description="It was told before"),
        201: described(Receipt, description="Stored"),
        **refusals(401, 403, 404, 422, 503),
    },
    response_class=Response,
)
async def tell(request: Request, message_id: str, caller: AsAgent, form: ReceiptForm) -> Response:
    """Once for each turn and stage."""
    watcher = watcher_of(request) or ""

    def work(connection: Connection) -> tuple[Receipt, bool]:
        locked = lock_message(connection, caller, message_id)
        receipt = Receipt(
            locked.message.id, form.stage, form.turn_id, form.outcome, form.detail, form.final, now_text()
        )
        if form.stage == "settled" and form.final:
            mark_read(connection, locked)
        return _note(connection, receipt, watcher)

    receipt, new = await store_of(request).write(work)
    return answer(receipt, 201 if new else 200)


@router.get(
    "/{message_id}/receipts",
    summary="What became of a message",
    responses={200: described(list[Receipt]), **refusals(401, 404, 503)},
    response_class=Response,
)
async def told(request: Request, message_id: str, caller: AsEither) -> Response:
    """Oldest first; for the sender, the recipient and the person whose agents they are."""
    bound = caller.agent_id if isinstance(caller, AgentCaller) else None

    def work(connection: Connection) -> list[Receipt]:
        ends = inbox.ends(connection, caller.user_id, message_id)
        if ends is None or (bound is not None and bound not in ends):
            raise Fault(404, "Message not found")
        rows: Any = connection.execute(_OF_MESSAGE, {"message": message_id}).all()
        return [Receipt(*row) for row in rows]

    return answer(await store_of(request).read(work))
