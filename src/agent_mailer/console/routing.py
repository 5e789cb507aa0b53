"""How a page is asked for: forms come from a page of ours, and a refusal is a page, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.datastructures import FormData, UploadFile

from agent_mailer.broker.callers import PersonCaller, own_page, person_caller
from agent_mailer.broker.engines import error_words
from agent_mailer.broker.logs import REQUEST
from agent_mailer.broker.protocol import Fault
from agent_mailer.console.drawing import drawn_once
from agent_mailer.console.rendering import leads_to, page_for, shell_of, stopped_page

log = logging.getLogger("agent_mailer.broker")

MOST_FIELDS = 400
WRITTEN = ("body", "name", "title", "text", "role", "description", "system_prompt", "tags")
"""What people write into forms: it is not lost where a session has ended in the middle of one."""
_OF_MAIL = ("to", "subject", "parent", "action", "scope", "key", "priority")
_OF_OTHERS = ("form", "agent", "team", "memory", "address_local", "kind", "events")
KEPT_FIELDS = (*WRITTEN, *_OF_MAIL, *_OF_OTHERS)
"""What is kept with that; `form` is where the form leads."""
_MAIL = ("/console/send", "/console/needs/answer")


class Page(APIRoute):
    """A page, or what a form of one does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                own_page(request)
                if request.method == "GET" and "hx-request" in request.headers:
                    return await drawn_once(request, usual)
                return await usual(request)
            except asyncio.CancelledError:
                return stopped_page(request)
            except Fault as fault:
                return await refused(request, fault)
            except (RequestValidationError, ValidationError) as error:
                return await refused(request, Fault(422, first_issue(error)))
            except (SQLAlchemyError, NoConnection) as error:
                log.error("%s %r failed: %s", request.method, request.url.path, _told(error))  # noqa: TRY400 - one line
                return await refused(request, Fault(503, "The database cannot take it now; try again"))
            finally:
                # What was uploaded.
                await request.close()

        return shown


def _told(error: SQLAlchemyError) -> str:
    return error_words(error) if isinstance(error, DBAPIError) else type(error).__name__


def first_issue(error: RequestValidationError | ValidationError) -> str:
    for issue in error.errors()[:1]:
        place = ".".join(str(part) for part in issue["loc"] if part not in ("body", "query"))
        return f"{place}: {issue['msg']}"[:300] if place else str(issue["msg"])[:300]
    return "The form is not as it must be"


async def person_of(request: Request) -> PersonCaller:
    """Who is signed in. Raises Fault 401."""
    return await person_caller(request)


async def refused(request: Request, fault: Fault) -> Response:
    """401 leads to the sign-in and back again, with what was written; else the page has it."""
    if fault.status == 401:
        if request.method == "GET" and "hx-request" not in request.headers:
            query = f"?{request.url.query}" if request.url.query else ""
            return leads_to(f"/console/login?next={quote(request.url.path + query, safe='')}")
        kept = await _kept(request)
        return page_for(
            request, "login.html", 401, ended=True, kept=kept, to="/console", failed="", name="", invite=None
        )
    try:
        shell = await shell_of(request, await person_of(request))
    except (Fault, SQLAlchemyError):
        shell = None
    # What another page has posted is not shown as this person's.
    written = written_of(await _kept(request)) if fault.status != 403 else {}
    known = {"fault": fault, "request_id": REQUEST.get(), "written": written}
    answer = page_for(request, "refused.html", fault.status, shell=shell, **known)
    answer.headers.update(fault.headers or {})
    return answer


async def _kept(request: Request) -> Mapping[str, str]:
    if request.method != "POST":
        return {}
    kept = kept_of(await form_of(request))
    if not any(field in kept for field in WRITTEN):
        return {}
    return kept if request.url.path in _MAIL else {**kept, "form": request.url.path}


def kept_of(form: FormData, prefix: str = "") -> Mapping[str, str]:
    """What of a form is not lost, by field; there its name has the prefix."""
    return {field: value for field in KEPT_FIELDS if (value := text_of(form, prefix + field))}


def written_of(kept: Mapping[str, str]) -> Mapping[str, str]:
    """Of that what a person has written, which the page of a refusal shows."""
    return {field: kept[field] for field in WRITTEN if field in kept}


async def form_of(request: Request) -> FormData:
    """What the form of a page holds; a second time the same."""
    return await request.form(max_files=20, max_fields=MOST_FIELDS, max_part_size=8 * 1_048_576)


def text_of(form: FormData, name: str) -> str:
    """One field, with line ends as they are in mail; empty where there is none."""
    value = form.get(name, "")
    return "" if isinstance(value, UploadFile) else value.replace("\r\n", "\n")


def own_address(text: str) -> str:
    """Where a form says that it leads back to, if that is a page of ours; else the first page."""
    ours = text == "/console" or text.startswith(("/console/", "/console?"))
    return text if ours and "\\" not in text and text.isprintable() else "/console"
