"""What this broker can do beyond the protocol."""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response

from agent_mailer import __version__
from agent_mailer.broker.callers import settings_of
from agent_mailer.broker.messages.wire import answer, described

router = APIRouter(tags=["extensions"])

EXTENSIONS = (
    "inbox-cursor",
    "stream",
    "idempotency",
    "marks",
    "claims",
    "receipts",
    "message-get",
    "html-optional",
    "operator-by-key",
)


class Capabilities(msgspec.Struct, frozen=True):
    """What a client may rely on."""

    extensions: tuple[str, ...]
    max_body_bytes: int
    heartbeat_seconds: float
    version: str = __version__
    protocol: Literal["amp"] = "amp"
    broker: Literal["agent-mailer"] = "agent-mailer"


@router.get(
    "/.well-known/agent-mailer",
    summary="What this broker can do",
    responses={200: described(Capabilities)},
    response_class=Response,
)
async def capabilities(request: Request) -> Response:
    """Public: a client looks here before it has a key."""
    settings = settings_of(request)
    return answer(Capabilities(EXTENSIONS, settings.max_body_bytes, settings.heartbeat_seconds))
