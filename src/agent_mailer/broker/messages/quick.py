"""Sending past the framework: by far the most that a broker does.

Only the 200 of a request that is strictly what a send looks like is answered here. Everything else goes on to the
route, as it came and before anything of it has happened: so every refusal has one place where it is made.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from fastapi.exceptions import RequestValidationError
from msgspec import Meta
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_mailer.broker.callers import agent_caller, owned_inbox
from agent_mailer.broker.messages.forms import (
    LONGEST_SUBJECT,
    MOST_RECIPIENTS,
    Automatic,
    Kind,
    Priority,
    is_json,
)
from agent_mailer.broker.messages.requested import submission_of
from agent_mailer.broker.messages.routes import FAILED, deliver
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.numbers import ROUTE
from agent_mailer.broker.protocol import Fault

PATH = "/messages/send"
LARGEST = 65_536
"""Bytes of a request; what is larger goes the usual way, which looks first whose it is."""
_ODD = re.compile(rb"\\u(?:0000|[dD]|20|0085|009)")
"""What no text may hold, or only in a pair, or not on a line: the route looks at it more closely."""


class Form(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every send is; of what else there may be the route knows."""

    agent_id: str
    from_agent: str
    to_agent: str | Annotated[list[str], Meta(min_length=1, max_length=MOST_RECIPIENTS)]
    action: Literal["send", "reply", "forward"] = "send"
    subject: Annotated[str, Meta(max_length=LONGEST_SUBJECT)] = ""
    body: str = ""
    attachments: Annotated[list[str], Meta(max_length=0)] = []
    parent_id: str | None = None
    forward_scope: Literal["message", "thread"] | None = None
    thread_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]*$")] | None = None
    hops: Annotated[int, Meta(ge=0, le=1000)] = 0
    automatic: Automatic = "no"
    priority: Priority = "normal"
    kind: Kind | None = None
    labels: Annotated[list[Annotated[str, Meta(max_length=100, pattern=r"^[\x20-\x7e]*$")]], Meta(max_length=20)] = []
    one_of: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x20-\x7e]*$")] | None = None
    visited: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=64)] = []


def is_odd(raw: bytes) -> bool:
    """Whether the route has to look at the request more closely."""
    return b"\\u" in raw and _ODD.search(raw) is not None


decode = msgspec.json.Decoder(Form).decode


class Quick:
    """Within what stands around every request, before the framework."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or FAILED in scope or not _may_be_sent(scope):
            await self._app(scope, receive, send)
            return
        first = await receive()
        came = [first]

        async def again() -> Message:
            return came.pop() if came else await receive()

        submission = None
        if first["type"] == "http.request" and not first.get("more_body", False):
            submission = await _submission(Request(scope), first.get("body", b""))
        if submission is None:
            await self._app(scope, again, send)
            return
        try:
            answer = await deliver(Request(scope), submission, html=True)
        except Exception as failed:
            # It is not tried a second time: the route says what has happened.
            scope[FAILED] = failed
            await self._app(scope, again, send)
            return
        scope[ROUTE] = PATH
        await answer(scope, again, send)


def _may_be_sent(scope: Scope) -> bool:
    if scope["method"] != "POST" or scope["query_string"]:
        return False
    size = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return size.isdigit() and int(size) <= LARGEST


async def _submission(request: Request, raw: bytes) -> Submission | None:
    """What is to be stored; None where the route has to say why not, or looks closer."""
    if not is_json(request) or is_odd(raw):
        return None
    try:
        form = decode(raw)
        caller = await agent_caller(request)
        agent = await owned_inbox(request, caller, form.agent_id, form.from_agent)
        sender = (caller.user_id, agent.id, agent.address)
        return submission_of(request, form, sender=sender, bound=caller.agent_id is not None)
    except (ValueError, RecursionError, Fault, RequestValidationError, SQLAlchemyError):
        return None
