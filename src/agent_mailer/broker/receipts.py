"""Claims and receipts: who works on a message, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection, bindparam, insert, select, update

from agent_mailer.broker import inbox, marks
from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import AgentCaller, AsAgent, AsEither, settings_of, store_of
from agent_mailer.broker.faults import Fault
from agent_mailer.broker.streams import Lease, streams_of, watched, watcher_header, watcher_of
from agent_mailer.broker.tables import messages, receipts
from agent_mailer.broker.texts import NO_NUL
from agent_mailer.broker.times import now_text
from agent_mailer.broker.wire import Message, answer, described, rendered

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
        held = marks.hold(connection, caller, message_id)
        _check_free(held, streams.lease(held.agent_id), watcher, since)
        message = held.message
        before = held.claimed_by == watcher
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


def _check_free(held: marks.Held, lease: Lease | None, watcher: str, since: str) -> None:
    if lease is not None and lease.watcher != watcher:
        raise watched(held.message.to_agent, lease)
    if held.message.is_read:
        raise Fault(409, "This message is read already", extra={"reason": "read"})
    claimed_at = held.message.claimed_at
    if held.claimed_by not in (None, watcher) and claimed_at is not None and claimed_at >= since:
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
        held = marks.hold(connection, caller, message_id)
        receipt = Receipt(held.message.id, form.stage, form.turn_id, form.outcome, form.detail, form.final, now_text())
        if form.stage == "settled" and form.final:
            marks.mark_read(connection, held)
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
