"""A hook is called: who calls is known by a signature, and what comes is answered once it is durable."""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import APIRouter, Request, Response

from agent_mailer.broker.answers import answer, described, header, refusals
from agent_mailer.broker.callers import settings_of, store_of
from agent_mailer.broker.hooks.rows import Called, called, secret_of
from agent_mailer.broker.hooks.taking import Delivery, Limits, take_all
from agent_mailer.broker.messages.forms import idempotency_key, is_json
from agent_mailer.broker.protocol import CLOCK, Fault
from agent_mailer.broker.streams import streams_of
from agent_mailer.broker.users.throttle import Throttle
from agent_mailer.outside import github
from agent_mailer.outside.calls import NOT_JSON, STALE, WRONG, Header, read_call, verdict_of
from agent_mailer.outside.event import BadEvent, Source
from agent_mailer.outside.items import Taken
from agent_mailer.outside.rules import Rules
from agent_mailer.outside.signature import GITHUB_HEADER, HEADER, LARGEST, Verdict

router = APIRouter(prefix="/hooks", tags=["hooks"])

_NOBODYS = Called("00000000-0000-0000-0000-000000000000", 0, Source.GENERIC, Rules(), "")
_HEADERS = (
    header(HEADER, "Of a generic hook: t=SECONDS,v1=HMAC-SHA256 over SECONDS.BODY", r"^t=[0-9]+,v1=[0-9a-f]{64}$"),
    header(GITHUB_HEADER, "Of a GitHub hook: sha256=HMAC-SHA256 over the body", r"^sha256=[0-9a-f]{64}$"),
    header("Idempotency-Key", "Of a generic hook: the delivery's id", r"^[\x20-\x7e]{1,200}$"),
    header(github.DELIVERY_HEADER, "Of a GitHub hook: the delivery's id", r"^[\x20-\x7e]{1,200}$"),
    header(github.EVENT_HEADER, "Of a GitHub hook: what happened", r"^[a-z_]{1,100}$"),
)
_DOCUMENTED = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    "parameters": list(_HEADERS),
}


@router.post(
    "/{hook_name}",
    summary="Tell agents what happened elsewhere",
    openapi_extra=_DOCUMENTED,
    responses={200: described(Taken), **refusals(400, 401, 409, 413, 415, 422, 429, 503)},
    response_class=Response,
)
async def call(request: Request, hook_name: str) -> Response:
    """Signed with the hook's secret; at most 262,144 bytes of JSON. What becomes no mail is answered with its reason.

    The same delivery id is the same delivery: it is answered as the first time.
    """
    body = await request.body()
    if len(body) > LARGEST:
        raise Fault(413, f"The request is larger than {LARGEST} bytes")
    hook = await _known(request, hook_name, body)
    if not is_json(request):
        raise Fault(415, NOT_JSON)
    try:
        delivery = _delivery(request, hook, body)
    except BadEvent as error:
        raise Fault(400, str(error).encode("utf-8", "replace").decode()[:300]) from None
    # One after the other: in a transaction of several they would stand in each other's way at a server.
    async with cast(asyncio.Lock, request.app.state.hooks_lock):
        result = await store_of(request).write_each(take_all, delivery)
    streams_of(request).arrived(result.arrivals)
    return answer(result.taken)


def limits_of(request: Request) -> Limits:
    settings = settings_of(request)
    return Limits(settings.max_body_bytes, settings.quota)


async def _known(request: Request, name: str, body: bytes) -> Called:
    """The hook, if the caller has its secret. Raises Fault 401, 429: the same for one that there is not.

    What is right is never kept waiting by what others get wrong.
    """
    found = await store_of(request).read(lambda c: called(c, name))
    hook = found or _NOBODYS
    secret = secret_of(settings_of(request).secret, hook.id, hook.version)
    verdict = verdict_of(hook.kind, secret, _header(request), body, CLOCK.now().timestamp())
    if found is not None and verdict is Verdict.GOOD:
        return found
    if found is not None and verdict is Verdict.STALE:
        raise Fault(401, STALE)
    throttle = cast(Throttle, request.app.state.throttle)
    who = (f"hook {name}", f"hook {request.client.host if request.client else ''}")
    await throttle.check(*who, known=True, what="signatures")
    await throttle.failed(*who, known=True)
    raise Fault(401, WRONG)


def _delivery(request: Request, hook: Called, body: bytes) -> Delivery:
    """Raises BadEvent, RequestValidationError."""
    key = None if hook.kind is Source.GITHUB else idempotency_key(request)
    call = read_call(hook.kind, _header(request), body, hook.path, hook.rules, key)
    return Delivery(hook.id, hook.path, call.id, call.digest, call.once, call.event, limits_of(request))


def _header(request: Request) -> Header:
    return lambda name: request.headers.get(name, "")
