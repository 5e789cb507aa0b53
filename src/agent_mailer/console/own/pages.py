"""How a page of this machine is made and refused, and what its handlers are given."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from agent_mailer.broker.callers import PersonCaller
from agent_mailer.broker.protocol import Fault
from agent_mailer.console.own.port import Agents, Mail
from agent_mailer.console.rendering import Place, Shell, page_for, stopped_page
from agent_mailer.console.routing import form_of, kept_of, written_of
from agent_mailer.errors import MailerError

P = ParamSpec("P")
T = TypeVar("T")

PLACES = (
    Place("needs", "Needs you", "/console/needs", bottom=True),
    Place("agents", "Agents", "/console/agents", bottom=True),
    Place("threads", "Threads", "/console/threads", bottom=True),
    Place("compose", "Compose", "/console/compose", bottom=True),
    Place("search", "Search", "/console/search"),
    Place("schedules", "Schedules", "/console/schedules"),
)


class OwnPage(APIRoute):
    """A page, or what a form of one does; a refusal is a page, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await usual(request)
            except asyncio.CancelledError:
                return stopped_page(request)
            except Fault as fault:
                return await _refused(request, fault)
            except (RequestValidationError, ValidationError):
                return await _refused(request, Fault(422, "The form is not as it must be"))
            except MailerError as fault:
                words = f"{fault.message}; {fault.fix}" if fault.fix else fault.message
                return await _refused(request, Fault(409, words))
            except HTTPException as error:
                return await _refused(request, Fault(error.status_code, str(error.detail)))
            except OSError as error:
                return await _refused(request, Fault(503, f"{error.filename or 'A file'}: {error.strerror or error}"))
            except Exception as error:
                if os.environ.get("AGENT_MAILER_DEBUG"):
                    raise
                words = f"a fault of this program ({type(error).__name__}); with AGENT_MAILER_DEBUG=1 it tells where"
                return await _refused(request, Fault(500, words))
            finally:
                await request.close()

        return shown


def agents_of(request: Request) -> Agents:
    return cast(Agents, request.app.state.agents)


def mail_of(request: Request) -> Mail:
    return cast(Mail, request.app.state.mail)


def answers_of(request: Request) -> deque[tuple[str, str, str]]:
    """The last answers to questions: the need, the form's key, the text."""
    return cast("deque[tuple[str, str, str]]", request.app.state.answers)


async def looked(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Files are read in a thread: other pages are served meanwhile."""
    return await run_in_threadpool(call, *args, **kwargs)


async def own_page(request: Request, template: str, status: int = 200, /, **values: object) -> Response:
    waiting = await looked(mail_of(request).unread)
    return _page(request, waiting, template, status, **values)


def _page(request: Request, waiting: int, template: str, status: int, /, **values: object) -> Response:
    shell = Shell(PersonCaller("here", _user(), is_superadmin=False), waiting, own=True)
    return page_for(request, template, status, shell=shell, places=PLACES, **values)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


async def _refused(request: Request, fault: Fault) -> Response:
    """What was written is on it."""
    written: Mapping[str, str] = {}
    if request.method == "POST":
        # A form that could not be read cannot be read again.
        with suppress(HTTPException, RuntimeError):
            written = written_of(kept_of(await form_of(request)))
    waiting = 0
    with suppress(MailerError, OSError):
        waiting = await looked(mail_of(request).unread)
    return _page(request, waiting, "refused.html", fault.status, fault=fault, request_id="", written=written)
