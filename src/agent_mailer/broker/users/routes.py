"""People: registration, login, their own settings."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection, select, update

from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import COOKIE, AsPerson, directory_of, settings_of, store_of
from agent_mailer.broker.database import Store
from agent_mailer.broker.documents import is_https
from agent_mailer.broker.protocol import NO_NUL, ONE_LINE, Fault, Password, Tags
from agent_mailer.broker.tables import users
from agent_mailer.broker.users import login as tokens
from agent_mailer.broker.users import rows as accounts
from agent_mailer.broker.users.login import Passwords, Throttle
from agent_mailer.broker.users.rows import User, check_password, check_username

router = APIRouter(prefix="/users", tags=["users"])

Username = Annotated[
    str,
    Field(
        max_length=200,
        pattern=NO_NUL,
        json_schema_extra={"pattern": accounts.USERNAME, "minLength": 3, "maxLength": 30},
    ),
]
NewPassword = Annotated[Password, Field(json_schema_extra={"minLength": accounts.SHORTEST_PASSWORD})]


class Registration(BaseModel):
    username: Username
    password: NewPassword
    invite_code: Annotated[str, Field(max_length=64, pattern=ONE_LINE)] | None = None


class Credentials(BaseModel):
    username: Username
    password: Password


class PasswordChange(BaseModel):
    current_password: Password
    new_password: NewPassword


class FilterTags(BaseModel):
    filter_tags: Tags


class UserAnswer(BaseModel):
    id: str
    username: str
    is_superadmin: bool
    created_at: str
    filter_tags: list[str]


class LoginAnswer(BaseModel):
    token: str
    user: UserAnswer


class Told(BaseModel):
    """What was done."""

    detail: str


class RegistrationConfig(BaseModel):
    invite_required: bool


def user_answer(user: User) -> UserAnswer:
    return UserAnswer.model_validate(user, from_attributes=True)


def _passwords(request: Request) -> Passwords:
    return cast(Passwords, request.app.state.passwords)


@router.get("/registration-config")
async def registration_config(request: Request) -> RegistrationConfig:
    """Whether one needs an invite code to register."""
    return RegistrationConfig(invite_required=await store_of(request).read(accounts.invite_required))


@router.post("/register", status_code=201, responses=refusals(400, 409))
async def register(request: Request, form: Registration) -> UserAnswer:
    """Become a user; the first one becomes superadmin."""
    check_username(form.username)
    check_password(form.password)
    store = store_of(request)
    # Before the password is hashed: that is dear, and not for everybody who asks.
    await store.read(lambda c: accounts.require_invite(c, form.invite_code))
    await store.read(lambda c: accounts.require_free_name(c, form.username))
    hashed = await _passwords(request).hashed(form.password)
    user = await store.write(
        lambda c: accounts.add_user(c, form.username, hashed, form.invite_code, invited=True),
    )
    return user_answer(user)


@router.post("/login", responses=refusals(401, 429))
async def login(request: Request, response: Response, form: Credentials) -> LoginAnswer:
    """A token for people's calls, also set as a cookie."""
    throttle = cast(Throttle, request.app.state.throttle)
    host = request.client.host if request.client else ""
    await throttle.check(form.username, host)
    store, settings = store_of(request), settings_of(request)
    wanted = accounts.USER.add_columns(users.c.password_hash, users.c.token_version)
    row = await store.read(lambda c: c.execute(wanted.where(users.c.username == form.username)).first())

    async def right() -> bool:
        # Again, with those before in the queue counted: a hundred tries at once are not a hundred tries.
        await throttle.check(form.username, host)
        fits = await _passwords(request).verify(None if row is None else row.password_hash, form.password)
        if not fits:
            await throttle.failed(form.username, host)
        return fits

    if not await _passwords(request).in_turn(right) or row is None:
        raise Fault(401, "Invalid username or password")
    await throttle.succeeded(form.username)
    token = tokens.issue(settings.secret, row.id, row.token_version, settings.token_seconds)
    response.set_cookie(
        COOKIE,
        token,
        max_age=min(settings.cookie_seconds, settings.token_seconds),
        httponly=True,
        samesite="lax",
        secure=is_https(request),
    )
    return LoginAnswer(token=token, user=user_answer(User(*row[:5])))


@router.post("/logout")
async def logout(response: Response) -> Told:
    """Takes the cookie back. A token in a header ends by its time, or with the password."""
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return Told(detail="Logged out")


@router.get("/me", responses=refusals(401))
async def me(request: Request, person: AsPerson) -> UserAnswer:
    return await _user(store_of(request), person.user_id)


@router.put("/me/password", responses=refusals(400, 401, 429))
async def change_password(request: Request, person: AsPerson, form: PasswordChange) -> Told:
    """All tokens given out before are void; log in again."""
    throttle = cast(Throttle, request.app.state.throttle)
    host = request.client.host if request.client else ""
    check_password(form.new_password)
    await throttle.check(person.username, host)
    store, passwords = store_of(request), _passwords(request)
    stored = await store.read(
        lambda c: c.execute(select(users.c.password_hash).where(users.c.id == person.user_id)).scalar()
    )
    if not await passwords.fits(stored, form.current_password):
        await throttle.failed(person.username, host)
        raise Fault(400, "Current password is incorrect")
    hashed = await passwords.hashed(form.new_password)
    await store.write(lambda c: accounts.set_password(c, person.user_id, hashed))
    directory_of(request).forget()
    return Told(detail="Password updated")


@router.put("/me/filter-tags", responses=refusals(401))
async def filter_tags(request: Request, person: AsPerson, form: FilterTags) -> UserAnswer:
    """Tags that the person's views show."""
    change = update(users).where(users.c.id == person.user_id).values(filter_tags=form.filter_tags)

    def work(connection: Connection) -> None:
        connection.execute(change)

    await store_of(request).write(work)
    return await _user(store_of(request), person.user_id)


async def _user(store: Store, user_id: str) -> UserAnswer:
    row = await store.read(lambda c: c.execute(accounts.USER.where(users.c.id == user_id)).first())
    if row is None:
        raise Fault(401, "User not found")
    return user_answer(User(*row))
