"""What the first user, and nobody else, may do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, StrictBool
from sqlalchemy import Connection, insert, select, update

from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import AsSuperadmin, settings_of, store_of
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import system_settings, users
from agent_mailer.broker.users import login as tokens
from agent_mailer.broker.users import rows as accounts
from agent_mailer.broker.users.routes import LoginAnswer, UserAnswer, user_answer
from agent_mailer.broker.users.rows import Invite, User

router = APIRouter(prefix="/superadmin", tags=["superadmin"], responses=refusals(401, 403))


class InviteAnswer(BaseModel):
    code: str
    created_by: str
    used_by: str | None
    used_at: str | None
    created_at: str


class BrokerSettings(BaseModel):
    invite_required: StrictBool


def _invite_answer(invite: Invite) -> InviteAnswer:
    return InviteAnswer.model_validate(invite, from_attributes=True)


@router.post("/invite-codes", status_code=201)
async def make_invite(request: Request, person: AsSuperadmin) -> InviteAnswer:
    """A code that one new user can register with."""
    return _invite_answer(await store_of(request).write(lambda c: accounts.add_invite(c, person.user_id)))


@router.get("/invite-codes")
async def invites(request: Request, _person: AsSuperadmin) -> list[InviteAnswer]:
    """Newest first."""
    return [_invite_answer(invite) for invite in await store_of(request).read(accounts.all_invites)]


@router.get("/settings")
async def settings(request: Request, _person: AsSuperadmin) -> BrokerSettings:
    return BrokerSettings(invite_required=await store_of(request).read(accounts.invite_required))


@router.put("/settings")
async def change_settings(request: Request, _person: AsSuperadmin, form: BrokerSettings) -> BrokerSettings:
    values = {"value": "1" if form.invite_required else "0", "updated_at": now_text()}
    key = system_settings.c.key == "invite_required"

    def work(connection: Connection) -> None:
        if connection.execute(select(system_settings.c.key).where(key)).first() is None:
            connection.execute(insert(system_settings).values(key="invite_required", **values))
        else:
            connection.execute(update(system_settings).where(key).values(**values))

    await store_of(request).write(work)
    return form


@router.get("/users")
async def listed(request: Request, _person: AsSuperadmin) -> list[UserAnswer]:
    """Oldest first."""
    return [user_answer(user) for user in await store_of(request).read(accounts.all_users)]


@router.post("/login-as/{user_id}", responses=refusals(404))
async def login_as(request: Request, person: AsSuperadmin, user_id: str) -> LoginAnswer:
    """A token of that user; it says who asked for it."""
    wanted = accounts.USER.add_columns(users.c.token_version).where(users.c.id == user_id)
    row = await store_of(request).read(lambda c: c.execute(wanted).first())
    if row is None:
        raise Fault(404, "User not found")
    mine = settings_of(request)
    token = tokens.issue(mine.secret, row.id, row.token_version, mine.token_seconds, impersonated_by=person.user_id)
    return LoginAnswer(token=token, user=user_answer(User(*row[:5])))
