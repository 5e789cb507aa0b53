"""People: registration, login, their own settings and API keys."""

from __future__ import annotations

import logging
from typing import Annotated, cast

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from agent_mailer.broker.answers import refusals
from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import (
    AsPerson,
    claims_of,
    cookie_name,
    directory_of,
    settings_of,
    store_of,
    write_noted,
)
from agent_mailer.broker.documents import is_https
from agent_mailer.broker.engines import error_words
from agent_mailer.broker.protocol import NO_NUL, ONE_LINE, Fault, Label, Password, Reference, Tags
from agent_mailer.broker.tables import users
from agent_mailer.broker.users.login import Passwords, Use, is_old, issue_token
from agent_mailer.broker.users.quotas import Spent, file_bytes_of, spent_by, today
from agent_mailer.broker.users.rows import (
    SHORTEST_PASSWORD,
    USERNAME,
    Key,
    Login,
    User,
    add_key,
    add_known_host,
    add_user,
    check_password,
    check_username,
    delete_key,
    end_token,
    find_login,
    invite_required,
    is_known_host,
    keys_of,
    new_raw_key,
    replace_hash,
    require_free_name,
    require_invite,
    set_filter_tags,
    set_key_active,
    set_password,
    user_of,
)
from agent_mailer.broker.users.standing import Standing
from agent_mailer.broker.users.throttle import Throttle

log = logging.getLogger("agent_mailer.broker")
router = APIRouter(prefix="/users", tags=["users"])
keys_router = APIRouter(prefix="/users/api-keys", tags=["keys"], responses=refusals(401))

Username = Annotated[
    str,
    Field(
        max_length=200,
        pattern=NO_NUL,
        json_schema_extra={"pattern": USERNAME, "minLength": 3, "maxLength": 30},
    ),
]
NewPassword = Annotated[Password, Field(json_schema_extra={"minLength": SHORTEST_PASSWORD})]


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


class Usage(BaseModel):
    day: str
    messages: int
    bytes: int
    file_bytes: int


class UserAnswer(BaseModel):
    id: str
    username: str
    is_superadmin: bool
    created_at: str
    filter_tags: list[str]


class LoginAnswer(BaseModel):
    token: str
    user: UserAnswer


class KeyForm(BaseModel):
    name: Label = ""
    agent_id: Annotated[
        Reference | None, Field(description="The key acts for this agent only; without it for all of the user's.")
    ] = None


class KeyAnswer(BaseModel):
    id: str
    name: str
    key_prefix: str
    created_at: str
    last_used_at: str | None
    is_active: bool
    agent_id: str | None


class NewKeyAnswer(KeyAnswer):
    raw_key: Annotated[str, Field(description="The key itself, shown this once.")]


class KeyInUse(BaseModel):
    detail: str
    error: str
    message: str
    agents: list[dict[str, str]]


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
    return RegistrationConfig(invite_required=await store_of(request).read(invite_required))


@router.post("/register", status_code=201, responses=refusals(400, 409))
async def register(request: Request, form: Registration) -> UserAnswer:
    """Become a user; the first one becomes superadmin."""
    check_username(form.username)
    check_password(form.password)
    store = store_of(request)
    # Before the password is hashed: that is dear, and not for everybody who asks.
    await store.read(lambda c: require_invite(c, form.invite_code))
    await store.read(lambda c: require_free_name(c, form.username))
    hashed = await _passwords(request).hashed(form.password)
    user = await write_noted(
        request, "", Act.REGISTERED, lambda c: add_user(c, form.username, hashed, form.invite_code, invited=True)
    )
    return user_answer(user)


async def _fits(request: Request, username: str, password: str, found: Login | None, *, known: bool) -> bool:
    """Whether it is the password of `found`; a wrong one is counted. `known` as in the throttle. Raises Fault 429."""
    throttle, passwords = cast(Throttle, request.app.state.throttle), _passwords(request)
    host = request.client.host if request.client else ""
    await throttle.check(username, host, known=known)

    async def right() -> bool:
        # Again, with those before in the queue counted: a hundred tries at once are not a hundred tries.
        await throttle.check(username, host, known=known)
        fits = await passwords.verify(None if found is None else found.password_hash, password)
        if not fits:
            await throttle.failed(username, host, known=known)
        return fits

    return await passwords.in_slot(right)


async def signed_in(request: Request, form: Credentials) -> Login:
    """Whose name and password these are; that they came is noted. Raises Fault 401, 403, 429."""
    throttle = cast(Throttle, request.app.state.throttle)
    store = store_of(request)
    host = request.client.host if request.client else ""
    found = await store.read(lambda c: find_login(c, users.c.username == form.username))
    known = found is not None and await store.read(lambda c: is_known_host(c, found.user.id, host))
    if not await _fits(request, form.username, form.password, found, known=known) or found is None:
        await _refused(request, found)
        raise Fault(401, "Invalid username or password")
    await throttle.succeeded(form.username, host, known=known)
    if found.user.standing != Standing.ACTIVE:
        await _refused(request, found)
        raise Fault(403, "This account is disabled")

    renewed = await _passwords(request).hashed(form.password) if is_old(found.password_hash) else None

    def came(connection: Connection) -> None:
        add_known_host(connection, found.user.id, host)
        if renewed is not None:
            replace_hash(connection, found.user.id, found.password_hash, renewed)

    try:
        await write_noted(request, found.user.id, Act.LOGGED_IN, came, found.user.id)
    except DBAPIError as error:
        # Who is known here comes in while the database takes nothing; the log says it in the audit's place.
        if not known:
            raise
        log.warning("a login of user %s from %s is not in the audit: %s", found.user.id, host, error_words(error))
    return found


@router.post("/login", responses=refusals(401, 403, 429))
async def login(request: Request, response: Response, form: Credentials) -> LoginAnswer:
    """A token for people's calls, also set as a cookie."""
    found, settings = await signed_in(request, form), settings_of(request)
    who, seconds = (settings.secret, found.user.id, found.token_version), settings.token_seconds
    for_pages = min(settings.cookie_seconds, seconds)
    secure = is_https(request)
    response.set_cookie(
        cookie_name(secure=secure),
        issue_token(*who, for_pages, use=Use.COOKIE),
        max_age=for_pages,
        httponly=True,
        samesite="lax",
        secure=secure,
    )
    return LoginAnswer(token=issue_token(*who, seconds), user=user_answer(found.user))


async def _refused(request: Request, found: Login | None) -> None:
    """What a stranger typed for a name is kept nowhere: it may be a password."""
    if found is not None:
        who = found.user.id
        await write_noted(request, "", Act.LOGIN_REFUSED, lambda _: None, who)


@router.post("/logout")
async def logout(request: Request, response: Response) -> Told:
    """The token that it came with, in a header or as a cookie, counts no more; the cookie is taken back."""
    claims = claims_of(request)
    if claims is not None and claims.token_id:
        who = claims.user_id
        await write_noted(request, who, Act.LOGGED_OUT, lambda c: end_token(c, claims.token_id, claims.expires), who)
        directory_of(request).forget()
    secure = is_https(request)
    response.delete_cookie(cookie_name(secure=secure), httponly=True, samesite="lax", secure=secure)
    return Told(detail="Logged out")


@router.get("/me", responses=refusals(401))
async def me(request: Request, person: AsPerson) -> UserAnswer:
    return user_answer(await store_of(request).read(lambda c: user_of(c, person.user_id)))


@router.put("/me/password", responses=refusals(400, 401, 429))
async def change_password(request: Request, person: AsPerson, form: PasswordChange) -> Told:
    """All tokens given out before are void; log in again."""
    check_password(form.new_password)
    found = await store_of(request).read(lambda c: find_login(c, users.c.id == person.user_id))
    # Who has a token of theirs is no stranger.
    if not await _fits(request, person.username, form.current_password, found, known=True):
        raise Fault(400, "Current password is incorrect")
    hashed = await _passwords(request).hashed(form.new_password)
    await write_noted(
        request, person, Act.PASSWORD_CHANGED, lambda c: set_password(c, person.user_id, hashed), person.user_id
    )
    directory_of(request).forget()
    return Told(detail="Password updated")


@router.get("/me/usage", responses=refusals(401))
async def used(request: Request, person: AsPerson) -> Usage:
    """What was sent today (UTC), where that has a limit, and what the stored files come to."""

    def work(connection: Connection) -> Usage:
        spent = spent_by(connection, [person.user_id]).get(person.user_id, Spent())
        size = file_bytes_of(connection, person.user_id)
        return Usage(day=today(), messages=spent.messages, bytes=spent.bytes, file_bytes=size)

    return await store_of(request).read(work)


@router.put("/me/filter-tags", responses=refusals(401))
async def filter_tags(request: Request, person: AsPerson, form: FilterTags) -> UserAnswer:
    """Tags that the person's views show."""
    user = await store_of(request).write(lambda c: set_filter_tags(c, person.user_id, form.filter_tags))
    return user_answer(user)


def _key_fields(key: Key, prefix: str = "amk_****...****", **more: str | None) -> dict[str, object]:
    return {**msgspec.structs.asdict(key), "key_prefix": prefix, **more}


@keys_router.post("", status_code=201, responses=refusals(404))
async def make(request: Request, person: AsPerson, form: KeyForm) -> NewKeyAnswer:
    raw_key = new_raw_key()
    key = await write_noted(
        request, person, Act.KEY_ADDED, lambda c: add_key(c, person.user_id, form.name, raw_key, form.agent_id)
    )
    return NewKeyAnswer.model_validate(_key_fields(key, f"{raw_key[:8]}...{raw_key[-4:]}", raw_key=raw_key))


@keys_router.get("")
async def listed(request: Request, person: AsPerson) -> list[KeyAnswer]:
    """Newest first."""
    used = directory_of(request).last_used
    keys = await store_of(request).read(lambda c: keys_of(c, person.user_id))
    return [KeyAnswer.model_validate(_key_fields(key, last_used_at=used(key.id, key.last_used_at))) for key in keys]


@keys_router.post("/{key_id}/deactivate", responses=refusals(404))
async def deactivate(request: Request, person: AsPerson, key_id: str) -> Told:
    await write_noted(
        request, person, Act.KEY_STOPPED, lambda c: set_key_active(c, person.user_id, key_id, active=False), key_id
    )
    directory_of(request).forget()
    return Told(detail="API key deactivated")


@keys_router.post("/{key_id}/reactivate", responses=refusals(404, 409))
async def reactivate(request: Request, person: AsPerson, key_id: str) -> Told:
    await write_noted(
        request, person, Act.KEY_STARTED, lambda c: set_key_active(c, person.user_id, key_id, active=True), key_id
    )
    directory_of(request).forget()
    return Told(detail="API key reactivated")


@keys_router.delete(
    "/{key_id}", status_code=204, responses={**refusals(404), 409: {"model": KeyInUse, "description": "In use"}}
)
async def delete(request: Request, person: AsPerson, key_id: str) -> None:
    """Not the key that a living agent was made with."""
    await write_noted(request, person, Act.KEY_DELETED, lambda c: delete_key(c, person.user_id, key_id), key_id)
    directory_of(request).forget()
