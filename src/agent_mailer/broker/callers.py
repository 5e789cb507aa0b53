"""Who asks: an agent with its key, or a person with a login token; and whether it may act as the agent it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar, cast

import msgspec
from fastapi import Depends, Request, Security
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.base import SecurityBase
from sqlalchemy import Connection

from agent_mailer.broker.audit import Act, Who, noting
from agent_mailer.broker.data import Settings
from agent_mailer.broker.database import Store
from agent_mailer.broker.directory import AgentCaller, AgentRow, Directory
from agent_mailer.broker.documents import is_https
from agent_mailer.broker.logs import REQUEST
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.users.login import Claims, Use, read_token

T = TypeVar("T")
COOKIE = "session_token"
PAGES = "/console"
"""Below it pages are served, in which only their own cookies count; these count nowhere else."""
PAGES_COOKIE = "agent_mailer_console"
ACTING_COOKIE = "agent_mailer_acting"
"""For as long as a superadmin acts as another user; it counts before the superadmin's own."""
ASKED_BY = "agent_mailer.asked_by"
"""In the scope of a request: the id of the user whose key or login it came with."""
_UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))


class PersonCaller(msgspec.Struct, frozen=True):
    """A person, or a launcher that logged in as one; `impersonated_by`: the user who logged in as this one."""

    user_id: str
    username: str
    is_superadmin: bool
    impersonated_by: str = ""


def store_of(request: Request) -> Store:
    return cast(Store, request.app.state.store)


def directory_of(request: Request) -> Directory:
    return cast(Directory, request.app.state.directory)


async def write_noted(
    request: Request,
    caller: AgentCaller | PersonCaller | str,
    act: Act,
    work: Callable[[Connection], T],
    about: str | None = None,
) -> T:
    """As the store's `write`; that it was done is written down with it. `caller`: or the user's id, empty for a
    stranger; `about`: else the id of the result.
    """
    who = who_asks(request, caller)
    return await store_of(request).write(noting(who, act, work, about))


def who_asks(request: Request, caller: AgentCaller | PersonCaller | str) -> Who:
    host = request.client.host if request.client else ""
    if isinstance(caller, str):
        return Who(caller, "", host, REQUEST.get())
    if isinstance(caller, AgentCaller):
        return Who(caller.user_id, f"key {caller.key_id}", host, REQUEST.get())
    via = f"login of {caller.impersonated_by}" if caller.impersonated_by else "login"
    return Who(caller.user_id, via, host, REQUEST.get())


def settings_of(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


class _KeyHeader(SecurityBase):
    """The header X-API-Key. As a security scheme of its own it costs a request one dependency, not two."""

    def __init__(self) -> None:
        self.model = APIKey.model_validate({"in": APIKeyIn.header, "name": "X-API-Key"})
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request) -> AgentCaller:
        """Raises Fault 401."""
        raw_key = request.headers.get("x-api-key")
        if not raw_key:
            raise Fault(401, "API key required")
        caller = await directory_of(request).key(raw_key)
        if caller is None:
            raise Fault(401, "Invalid API key")
        request.scope[ASKED_BY] = caller.user_id
        return caller


agent_caller = _KeyHeader()
_bearer = HTTPBearer(auto_error=False, scheme_name="Login")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="LoginCookie")


def cookie_name(*, secure: bool, name: str = COOKIE) -> str:
    """Over HTTPS a name that no other host, and no page without HTTPS, can give a value."""
    return f"__Host-{name}" if secure else name


def is_page(request: Request) -> bool:
    path = request.url.path
    return path == PAGES or path.startswith(f"{PAGES}/")


def _tokens(request: Request) -> tuple[str, str]:
    """What came in the header and, only where nothing did, as a cookie."""
    secure, cookies = is_https(request), request.cookies
    if is_page(request):
        acting = cookies.get(cookie_name(secure=secure, name=ACTING_COOKIE), "").strip()
        return "", acting or cookies.get(cookie_name(secure=secure, name=PAGES_COOKIE), "").strip()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), ""
    return "", cookies.get(cookie_name(secure=secure), "").strip()


def claims_of(request: Request) -> Claims | None:
    """What the token of a request says, wherever it came; None where it counts no more. Raises Fault 403."""
    header, cookie = _tokens(request)
    secret = settings_of(request).secret
    if cookie:
        own_page(request)
        return read_token(secret, cookie, Use.PAGES if is_page(request) else Use.COOKIE)
    return read_token(secret, header)


def own_page(request: Request) -> None:
    """A browser sends the cookie along whatever page asks it to, one of another port of this host, too: what changes
    something must come from a page of ours. Raises Fault 403.
    """
    if request.method not in _UNSAFE:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"{'https' if is_https(request) else 'http'}://{request.headers.get('host', '')}"
    if site == "same-origin" or (site is None and origin is not None and origin == ours):
        return
    if is_page(request) and site is None and origin is None:
        return  # a browser of text: it runs no page's script, and follows no form that its person has not sent
    raise Fault(403, "With the login cookie only a page of this broker may do that; a program sends a Bearer token")


async def _person(request: Request) -> PersonCaller:
    if not any(_tokens(request)):
        raise Fault(401, "Not authenticated")
    claims = claims_of(request)
    directory = directory_of(request)
    if claims is None or (claims.token_id and await directory.has_ended(claims.token_id)):
        raise Fault(401, "Invalid or expired token")
    user = await directory.user(claims.user_id)
    if user is None:
        raise Fault(401, "User not found")
    if user.token_version != claims.version:
        raise Fault(401, "Invalid or expired token")
    if claims.impersonated_by:
        # It ends with the superadmin's own logins: a new password, an account that is disabled, a right that is gone.
        by = await directory.user(claims.impersonated_by)
        if by is None or not by.is_superadmin or by.token_version != claims.their_version:
            raise Fault(401, "Invalid or expired token")
    request.scope[ASKED_BY] = user.id
    return PersonCaller(user.id, user.username, user.is_superadmin, claims.impersonated_by)


async def person_caller(
    request: Request,
    _bearer: Annotated[object, Security(_bearer)] = None,
    _cookie: Annotated[object, Security(_cookie)] = None,
) -> PersonCaller:
    """Raises Fault 401."""
    return await _person(request)


async def superadmin_caller(person: Annotated[PersonCaller, Depends(person_caller)]) -> PersonCaller:
    """Raises Fault 401, 403."""
    if not person.is_superadmin:
        raise Fault(403, "Superadmin required")
    return person


async def either_caller(
    request: Request,
    _bearer: Annotated[object, Security(_bearer)] = None,
    _cookie: Annotated[object, Security(_cookie)] = None,
) -> AgentCaller | PersonCaller:
    """The key where there is one, else the login. Raises Fault 401."""
    if request.headers.get("x-api-key") and not is_page(request):
        return await agent_caller(request)
    return await _person(request)


AsAgent = Annotated[AgentCaller, Security(agent_caller)]
AsPerson = Annotated[PersonCaller, Depends(person_caller)]
AsSuperadmin = Annotated[PersonCaller, Depends(superadmin_caller)]
AsEither = Annotated[AgentCaller | PersonCaller, Depends(either_caller)]


async def own_agent(request: Request, caller: AgentCaller, agent_id: str) -> AgentRow:
    """The agent, if the caller may act as it. Raises Fault 404 (unknown, of another user), 403 (key scope)."""
    agent = await directory_of(request).agent(agent_id)
    if agent is None or agent.user_id != caller.user_id:
        raise Fault(404, "Agent not found")
    if not caller.may_act_as(agent_id):
        raise Fault(403, "This API key acts for another agent only")
    return agent


async def owned_inbox(request: Request, caller: AgentCaller, agent_id: str, address: str) -> AgentRow:
    """The agent `agent_id`, which has that address. Raises Fault 404 (unknown, or of another user), 403."""
    return require_owned(caller, await directory_of(request).agent(agent_id), agent_id, address)


def require_owned(caller: AgentCaller, agent: AgentRow | None, agent_id: str, address: str) -> AgentRow:
    """`agent`, which has that id, where the caller may act as it. Raises Fault 404, 403."""
    if agent is None or agent.user_id != caller.user_id:
        raise Fault(404, f"Agent '{agent_id[:200]}' not found")
    if agent.address != address:
        raise Fault(403, f"Agent '{agent_id[:200]}' does not own address '{address[:200]}'")
    if agent.status == "deleted":
        raise Fault(403, f"Agent '{agent.id}' is deleted: it sends and reads no more")
    if not caller.may_act_as(agent.id):
        raise Fault(403, "This API key acts for another agent only")
    return agent
