"""What the first user, and nobody else, may do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, StrictBool

from agent_mailer.broker.answers import refusals
from agent_mailer.broker.audit import STANDINGS, Act
from agent_mailer.broker.callers import AsSuperadmin, PersonCaller, directory_of, settings_of, store_of, write_noted
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import users
from agent_mailer.broker.users.login import issue_token
from agent_mailer.broker.users.routes import LoginAnswer, UserAnswer, user_answer
from agent_mailer.broker.users.rows import (
    Invite,
    Login,
    User,
    add_invite,
    all_invites,
    all_users,
    find_login,
    invite_required,
    set_invite_required,
)
from agent_mailer.broker.users.standing import Standing, set_standing

router = APIRouter(prefix="/superadmin", tags=["superadmin"], responses=refusals(401, 403))


class InviteAnswer(BaseModel):
    code: str
    created_by: str
    used_by: str | None
    used_at: str | None
    created_at: str


class StandingAnswer(UserAnswer):
    standing: Standing


class BrokerSettings(BaseModel):
    invite_required: StrictBool


def _invite_answer(invite: Invite) -> InviteAnswer:
    return InviteAnswer.model_validate(invite, from_attributes=True)


@router.post("/invite-codes", status_code=201)
async def make_invite(request: Request, person: AsSuperadmin) -> InviteAnswer:
    """A code that one new user can register with."""
    return _invite_answer(await write_noted(request, person, Act.INVITED, lambda c: add_invite(c, person.user_id), ""))


@router.get("/invite-codes")
async def invites(request: Request, _person: AsSuperadmin) -> list[InviteAnswer]:
    """Newest first."""
    return [_invite_answer(invite) for invite in await store_of(request).read(all_invites)]


@router.get("/settings")
async def settings(request: Request, _person: AsSuperadmin) -> BrokerSettings:
    return BrokerSettings(invite_required=await store_of(request).read(invite_required))


@router.put("/settings")
async def change_settings(request: Request, person: AsSuperadmin, form: BrokerSettings) -> BrokerSettings:
    await write_noted(
        request,
        person,
        Act.SETTINGS_CHANGED,
        lambda c: set_invite_required(c, required=form.invite_required),
        f"invite_required={form.invite_required}",
    )
    return form


def _answer(user: User) -> StandingAnswer:
    return StandingAnswer.model_validate(user, from_attributes=True)


@router.get("/users")
async def listed(request: Request, _person: AsSuperadmin) -> list[StandingAnswer]:
    """Oldest first."""
    return [_answer(user) for user in await store_of(request).read(all_users)]


async def _changed(request: Request, person: PersonCaller, user_id: str, standing: Standing) -> StandingAnswer:
    user = await write_noted(request, person, STANDINGS[standing], lambda c: set_standing(c, user_id, standing))
    directory_of(request).forget()
    return _answer(user)


@router.post("/users/{user_id}/disable", responses=refusals(404, 409))
async def disable(request: Request, person: AsSuperadmin, user_id: str) -> StandingAnswer:
    """Logins end; keys, agents and streams count no more until `enable`."""
    return await _changed(request, person, user_id, Standing.DISABLED)


@router.post("/users/{user_id}/enable", responses=refusals(404))
async def enable(request: Request, person: AsSuperadmin, user_id: str) -> StandingAnswer:
    """Keys count again, and who it is may log in."""
    return await _changed(request, person, user_id, Standing.ACTIVE)


@router.delete("/users/{user_id}", responses=refusals(404, 409))
async def delete(request: Request, person: AsSuperadmin, user_id: str) -> StandingAnswer:
    """For good, with all agents; mail and names stay."""
    return await _changed(request, person, user_id, Standing.DELETED)


async def acted_as(request: Request, person: PersonCaller, user_id: str) -> tuple[Login, tuple[str, int]]:
    """The login of the user as whom a superadmin wants to act, and who that is, at which version; it is written down.
    Raises Fault (401, 404, 409).
    """
    mine = await directory_of(request).user(person.user_id)
    if mine is None:
        raise Fault(401, "User not found")
    known = await store_of(request).read(lambda c: find_login(c, users.c.id == user_id))
    if known is None:
        raise Fault(404, "User not found")
    if known.user.standing != Standing.ACTIVE:
        raise Fault(409, "This account is disabled")
    await write_noted(request, person, Act.LOGGED_IN_AS, lambda _: None, user_id)
    return known, (mine.id, mine.token_version)


@router.post("/login-as/{user_id}", responses=refusals(404, 409))
async def login_as(request: Request, person: AsSuperadmin, user_id: str) -> LoginAnswer:
    """A token of that user; it says who asked for it."""
    known, by = await acted_as(request, person, user_id)
    mine = settings_of(request)
    token = issue_token(mine.secret, user_id, known.token_version, mine.token_seconds, impersonated_by=by)
    return LoginAnswer(token=token, user=user_answer(known.user))
