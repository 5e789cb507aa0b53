"""A person keeps hooks: made, listed, disabled, deleted, with another secret; and what came by them."""

from __future__ import annotations

import asyncio
from typing import Annotated, cast

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import AsPerson, directory_of, settings_of, store_of, write_noted
from agent_mailer.broker.hooks import rows
from agent_mailer.broker.hooks.callbacks import Callback, callbacks_of
from agent_mailer.broker.hooks.history import Came, Item, deliveries_of, failed_delivery, items_of
from agent_mailer.broker.hooks.routes import limits_of
from agent_mailer.broker.hooks.rows import Hook, NewHook, Standing
from agent_mailer.broker.hooks.taking import retry
from agent_mailer.broker.protocol import ONE_LINE, Fault, Reference
from agent_mailer.broker.streams import streams_of
from agent_mailer.outside.callbacks import LONGEST_URL
from agent_mailer.outside.event import Source
from agent_mailer.outside.items import Outcome, Taken
from agent_mailer.outside.rules import LONGEST, MOST, Rules

router = APIRouter(prefix="/admin/hooks", tags=["hooks"])

Patterns = Annotated[list[Annotated[str, Field(min_length=1, max_length=LONGEST)]], Field(max_length=MOST)]


class HookForm(BaseModel):
    """`to`: an agent's address; or else `team_id`. Patterns are as in a shell; an empty list wants all. `callback`: an
    https URL to which answers are told back.
    """

    name: Annotated[str, Field(max_length=40, pattern=ONE_LINE)]
    kind: Source = Source.GENERIC
    to: Reference = ""
    team_id: Reference | None = None
    events: Patterns = []
    actions: Patterns = []
    branches: Patterns = []
    labels: Patterns = []
    callback: Annotated[str, Field(max_length=LONGEST_URL, pattern=ONE_LINE)] = ""


class WithSecret(msgspec.Struct, frozen=True):
    """`secret`: what its caller signs with."""

    hook: Hook
    secret: str


@router.post(
    "",
    status_code=201,
    summary="Make a hook",
    responses={201: described(WithSecret), **refusals(400, 401, 404, 409, 422, 503)},
    response_class=Response,
)
async def make(request: Request, person: AsPerson, form: HookForm) -> Response:
    """Its secret is shown here, and when it gets another."""
    rules = Rules(tuple(form.events), tuple(form.actions), tuple(form.branches), tuple(form.labels))
    new = NewHook(form.name, form.kind, form.to, form.team_id, rules, form.callback)
    settings = settings_of(request)
    made = await write_noted(
        request,
        person,
        Act.HOOK_ADDED,
        lambda c: rows.add_hook(c, person.user_id, person.username, settings.domain, new),
    )
    directory_of(request).forget()
    return answer(_with_secret(request, made), 201)


@router.get(
    "",
    summary="A person's hooks",
    responses={200: described(list[Hook]), **refusals(401, 503)},
    response_class=Response,
)
async def listed(request: Request, person: AsPerson) -> Response:
    """Oldest first, without secrets."""
    return answer(await store_of(request).read(lambda c: rows.hooks_of(c, person.user_id)))


@router.get(
    "/{hook_id}",
    summary="A hook",
    responses={200: described(Hook), **refusals(401, 404, 503)},
    response_class=Response,
)
async def one(request: Request, person: AsPerson, hook_id: str) -> Response:
    """Without its secret."""
    return answer(await store_of(request).read(lambda c: rows.find_hook(c, person.user_id, hook_id)))


@router.post(
    "/{hook_id}/disable",
    summary="Let nothing more come by a hook",
    responses={200: described(Hook), **refusals(401, 404, 503)},
    response_class=Response,
)
async def disable(request: Request, person: AsPerson, hook_id: str) -> Response:
    """Its calls are answered, and ignored."""
    return await _given(request, person, hook_id, Standing.DISABLED)


@router.post(
    "/{hook_id}/enable",
    summary="Let a hook's calls become mail again",
    responses={200: described(Hook), **refusals(401, 404, 503)},
    response_class=Response,
)
async def enable(request: Request, person: AsPerson, hook_id: str) -> Response:
    """With the secret that it had."""
    return await _given(request, person, hook_id, Standing.ACTIVE)


@router.delete(
    "/{hook_id}",
    summary="Delete a hook",
    responses={200: described(Hook), **refusals(401, 404, 503)},
    response_class=Response,
)
async def delete(request: Request, person: AsPerson, hook_id: str) -> Response:
    """What came by it stays; its name may be given again, and has another secret then."""
    return await _given(request, person, hook_id, Standing.DELETED)


@router.post(
    "/{hook_id}/roll",
    summary="Give a hook another secret",
    responses={200: described(WithSecret), **refusals(401, 404, 503)},
    response_class=Response,
)
async def roll(request: Request, person: AsPerson, hook_id: str) -> Response:
    """The one before counts no more, at once."""
    work = write_noted(request, person, Act.HOOK_CHANGED, lambda c: rows.roll(c, person.user_id, hook_id), hook_id)
    return answer(_with_secret(request, await work))


@router.get(
    "/{hook_id}/deliveries",
    summary="What came by a hook",
    responses={200: described(list[Came]), **refusals(401, 404, 422, 503)},
    response_class=Response,
)
async def deliveries(
    request: Request,
    person: AsPerson,
    hook_id: str,
    outcome: Outcome | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """The newest first."""
    return answer(await store_of(request).read(lambda c: deliveries_of(c, person.user_id, hook_id, outcome, limit)))


@router.get(
    "/{hook_id}/items",
    summary="What is open, as a hook told it",
    responses={200: described(list[Item]), **refusals(401, 404, 422, 503)},
    response_class=Response,
)
async def items(
    request: Request, person: AsPerson, hook_id: str, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> Response:
    """What was told last first."""
    return answer(await store_of(request).read(lambda c: items_of(c, person.user_id, hook_id, limit)))


@router.get(
    "/{hook_id}/callbacks",
    summary="What was told back by a hook",
    responses={200: described(list[Callback]), **refusals(401, 404, 422, 503)},
    response_class=Response,
)
async def callbacks(
    request: Request, person: AsPerson, hook_id: str, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> Response:
    """The newest first."""
    return answer(await store_of(request).read(lambda c: callbacks_of(c, person.user_id, hook_id, limit)))


@router.post(
    "/{hook_id}/deliveries/{delivery}/retry",
    summary="Try what failed once more",
    responses={200: described(Taken), **refusals(401, 404, 409, 503)},
    response_class=Response,
)
async def again(request: Request, person: AsPerson, hook_id: str, delivery: str) -> Response:
    """Now; the broker does so by itself, too. `delivery`: its `id` in the list."""
    await store_of(request).read(lambda c: failed_delivery(c, person.user_id, hook_id, delivery))
    limits = limits_of(request)
    async with cast(asyncio.Lock, request.app.state.hooks_lock):
        result = await store_of(request).write(lambda c: retry(c, delivery, limits))
    if result is None:
        raise Fault(409, "It has come to its end meanwhile")
    streams_of(request).arrived(result.arrivals)
    return answer(result.taken)


async def _given(request: Request, person: AsPerson, hook_id: str, standing: Standing) -> Response:
    act = Act.HOOK_DELETED if standing is Standing.DELETED else Act.HOOK_CHANGED
    changed = await write_noted(
        request, person, act, lambda c: rows.set_standing(c, person.user_id, hook_id, standing), hook_id
    )
    directory_of(request).forget()
    return answer(changed)


def _with_secret(request: Request, hook: Hook) -> WithSecret:
    return WithSecret(hook, rows.secret_of(settings_of(request).secret, hook.id, hook.version))
