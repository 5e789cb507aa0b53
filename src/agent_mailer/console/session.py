"""Signing in and out, acting as another user, and how a person reads: what the cookies of the pages hold."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from agent_mailer.broker.audit import Act
from agent_mailer.broker.callers import (
    ACTING_COOKIE,
    PAGES_COOKIE,
    cookie_name,
    directory_of,
    settings_of,
    store_of,
    write_noted,
)
from agent_mailer.broker.documents import is_https
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.users.login import Use, issue_token, read_token
from agent_mailer.broker.users.routes import Credentials, Registration, register, signed_in
from agent_mailer.broker.users.rows import end_token, invite_required
from agent_mailer.broker.users.superadmin import acted_as
from agent_mailer.console.rendering import leads_to, page_for
from agent_mailer.console.routing import WRITTEN, Page, form_of, kept_of, own_address, person_of, text_of
from agent_mailer.console.words import VIEW_COOKIE, Language, Theme, View, view_of

router = APIRouter(prefix="/console", route_class=Page, include_in_schema=False)

ACTING_SECONDS = 3600
VIEW_SECONDS = 365 * 86400


@router.get("/login")
async def login_page(request: Request, next: str = "/console") -> Response:
    return await _form(request, own_address(next))


async def _form(
    request: Request, to: str, *, failed: Fault | None = None, name: str = "", status: int = 200
) -> Response:
    kept = kept_of(await form_of(request), "kept.") if request.method == "POST" else {}
    invite = await store_of(request).read(invite_required)
    words = failed.detail if failed is not None else ""
    answer = page_for(
        request, "login.html", status, ended=False, kept=kept, to=to, failed=words, name=name, invite=invite
    )
    if failed is not None:
        answer.headers.update(failed.headers or {})
    return answer


@router.post("/login")
async def login(request: Request) -> Response:
    """Where a form was being written, it is there again."""
    form = await form_of(request)
    to, name = own_address(text_of(form, "to_page")), text_of(form, "username").strip()
    try:
        if text_of(form, "new"):
            asked = Registration(
                username=name, password=text_of(form, "password"), invite_code=text_of(form, "invite_code") or None
            )
            await register(request, asked)
        found = await signed_in(request, Credentials(username=name, password=text_of(form, "password")))
    except Fault as fault:
        return await _form(request, to, failed=fault, name=name, status=fault.status)
    except ValidationError:
        return await _form(request, to, failed=Fault(422, "A name and a password are needed"), name=name, status=422)
    kept = kept_of(form, "kept.")
    leads = own_address(kept["form"]) if "form" in kept else ""
    answer = page_for(request, "carry_on.html", kept=kept, leads=leads, written=WRITTEN) if kept else leads_to(to)
    settings = settings_of(request)
    seconds = min(settings.cookie_seconds, settings.token_seconds)
    token = issue_token(settings.secret, found.user.id, found.token_version, seconds, use=Use.PAGES)
    _take_back(request, answer, ACTING_COOKIE)
    _give(request, answer, PAGES_COOKIE, token, seconds)
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """The session is over for whoever has a copy of its cookie, and so is that of acting as another."""
    for name in (ACTING_COOKIE, PAGES_COOKIE):
        await _end(request, name)
    answer = leads_to("/console/login", done="signed-out")
    for name in (ACTING_COOKIE, PAGES_COOKIE):
        _take_back(request, answer, name)
    return answer


@router.post("/act-as")
async def act_as(request: Request) -> Response:
    """A superadmin sees and does what that user would, for an hour; all of it is noted as his."""
    person = await person_of(request)
    if not person.is_superadmin or person.impersonated_by:
        raise Fault(403, "Superadmin required")
    user_id = text_of(await form_of(request), "user_id")
    known, by = await acted_as(request, person, user_id)
    token = issue_token(
        settings_of(request).secret,
        user_id,
        known.token_version,
        ACTING_SECONDS,
        use=Use.PAGES,
        impersonated_by=by,
    )
    answer = leads_to("/console")
    _give(request, answer, ACTING_COOKIE, token, ACTING_SECONDS)
    return answer


@router.post("/act-as/end")
async def act_as_end(request: Request) -> Response:
    await person_of(request)
    await _end(request, ACTING_COOKIE)
    answer = leads_to("/console/users")
    _take_back(request, answer, ACTING_COOKIE)
    return answer


@router.post("/view")
async def change_view(request: Request) -> Response:
    """Language, colours and keys, kept in the browser; what is not said stays."""
    form, before = await form_of(request), view_of(request)
    language, theme = text_of(form, "language"), text_of(form, "theme")
    keys = text_of(form, "keys")
    view = View(
        Language(language) if language in tuple(Language) else before.language,
        Theme(theme) if theme in tuple(Theme) else before.theme,
        keys == "on" if keys in ("on", "off") else before.keys,
    )
    answer = leads_to(own_address(text_of(form, "to_page")))
    answer.set_cookie(VIEW_COOKIE, view.cookie(), max_age=VIEW_SECONDS, path="/console", httponly=True, samesite="lax")
    return answer


async def _end(request: Request, name: str) -> None:
    cookie = request.cookies.get(cookie_name(secure=is_https(request), name=name), "")
    claims = read_token(settings_of(request).secret, cookie, Use.PAGES) if cookie else None
    if claims is None:
        return
    who = claims.user_id
    await write_noted(request, who, Act.LOGGED_OUT, lambda c: end_token(c, claims.token_id, claims.expires), who)
    directory_of(request).forget()


def _give(request: Request, answer: Response, name: str, token: str, seconds: int) -> None:
    secure = is_https(request)
    answer.set_cookie(
        cookie_name(secure=secure, name=name), token, max_age=seconds, httponly=True, samesite="lax", secure=secure
    )


def _take_back(request: Request, answer: Response, name: str) -> None:
    secure = is_https(request)
    answer.delete_cookie(cookie_name(secure=secure, name=name), httponly=True, samesite="lax", secure=secure)
