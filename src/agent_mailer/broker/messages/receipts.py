"""What a watcher tells of a message after it was sent: claimed, started, settled."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsAgent, AsEither, settings_of, store_of
from agent_mailer.broker.directory import AgentCaller
from agent_mailer.broker.messages.changing import Changes, Locked, changed
from agent_mailer.broker.messages.inbox import claims_since, short_thread
from agent_mailer.broker.messages.rows import (
    Claimed,
    Receipt,
    add_receipt,
    claim_message,
    mark_read,
    receipts_of,
    require_free,
)
from agent_mailer.broker.messages.wire import rendered
from agent_mailer.broker.protocol import NO_NUL, Fault, now_text
from agent_mailer.broker.streams import fence_of, streams_of
from agent_mailer.broker.watchers import EPOCH_HEADER, watched, watcher_header, watcher_of

router = APIRouter(prefix="/messages", tags=["extensions"])

_TurnId = Annotated[str, Field(max_length=64, pattern=NO_NUL)]


class ClaimForm(BaseModel):
    """`turn_id`: the watcher's name of the turn for which it claims the message; `silent`: no receipt tells of it.

    `started`: the turn begins with it, and a receipt says so; `thread`: the answer is to hold the message's thread.
    """

    turn_id: _TurnId = ""
    silent: bool = False
    started: bool = False
    thread: bool = False


class ReceiptForm(BaseModel):
    """`final`: nothing more will come of the message; it is marked read."""

    stage: Literal["started", "settled"]
    turn_id: Annotated[_TurnId, Field(min_length=1)]
    outcome: Annotated[str, Field(max_length=32, pattern=NO_NUL)] | None = None
    detail: Annotated[str, Field(max_length=600, pattern=NO_NUL)] = ""
    final: bool = False


def _require_alive(locked: Locked) -> None:
    """Raises Fault 403: also a key that acts for every agent of its user works for none that is deleted."""
    if locked.is_deleted:
        raise Fault(403, f"Agent '{locked.agent_id}' is deleted: it works on no mail any more")


@router.post(
    "/{message_id}/claim",
    summary="Claim a message for a turn",
    openapi_extra={"parameters": [watcher_header("Who claims", required=True), EPOCH_HEADER]},
    responses={200: described(Claimed), **refusals(401, 403, 404, 409, 422, 503)},
    response_class=Response,
)
async def claim(
    request: Request, message_id: str, caller: AsAgent, form: Annotated[ClaimForm | None, Body()] = None
) -> Response:
    """Nobody else gets it while the claim lasts. The header X-Agent-Mailer-Watcher says who claims.

    X-Agent-Mailer-Epoch says by which stream they hold the agent: one that another has followed claims nothing more.
    Of the copies of mail that one of a group takes (`one_of`) the first that is claimed is worked on; of the others a
    claim is refused (409, `reason` `taken`), and they are read then.
    """
    watcher = watcher_of(request)
    if watcher is None:
        raise Fault(422, "X-Agent-Mailer-Watcher is missing")
    fence = fence_of(request)
    form = form or ClaimForm()
    since = claims_since(settings_of(request).claim_seconds)
    streams = streams_of(request)

    def make(changes: Changes, locked: Locked) -> Claimed | str:
        _require_alive(locked)
        lease = streams.holder(changes.connection, locked.agent_id)
        if lease is not None and lease.watcher != watcher:
            raise watched(locked.message.to_agent, lease)
        changes.require_last(locked, fence)
        if owner := changes.taken.by_another(locked.message.id):
            # It is nobody's work here any more: no look lists it again.
            mark_read(changes, locked)
            return owner
        require_free(locked, watcher, since)
        return claim_message(changes, locked, watcher, form.turn_id, silent=form.silent, started=form.started)

    store = store_of(request)
    claimed = await changed(store, caller, message_id, make, fence)
    if isinstance(claimed, str):
        raise Fault(409, f"{claimed} has taken this message of a group", extra={"reason": "taken"})
    if form.thread:
        claimed.thread = await short_thread(store, caller.user_id, claimed.message, caller.agent_id)
    await rendered((claimed.message,))
    return answer(claimed)


@router.post(
    "/{message_id}/receipts",
    status_code=201,
    summary="Tell what becomes of a message",
    openapi_extra={"parameters": [watcher_header("Who tells", required=False), EPOCH_HEADER]},
    responses={
        200: described(Receipt, description="It was told before"),
        201: described(Receipt, description="Stored"),
        **refusals(401, 403, 404, 409, 422, 503),
    },
    response_class=Response,
)
async def tell(request: Request, message_id: str, caller: AsAgent, form: ReceiptForm) -> Response:
    """Once for each turn and stage. X-Agent-Mailer-Epoch: as for a claim."""
    watcher, fence = watcher_of(request) or "", fence_of(request)

    def make(changes: Changes, locked: Locked) -> tuple[Receipt, bool]:
        _require_alive(locked)
        changes.require_last(locked, fence)
        receipt = Receipt(
            locked.message.id, form.stage, form.turn_id, form.outcome, form.detail, form.final, now_text()
        )
        if form.stage == "settled" and form.final:
            mark_read(changes, locked)
        return add_receipt(changes.connection, receipt, watcher)

    receipt, new = await changed(store_of(request), caller, message_id, make, fence)
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
    return answer(await store_of(request).read(lambda c: receipts_of(c, caller.user_id, message_id, bound)))
