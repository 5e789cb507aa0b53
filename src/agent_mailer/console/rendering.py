"""A page as an answer: its template, its headers, and what is the same on every page."""

from __future__ import annotations

import gzip
import re
import secrets
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
import msgspec
from fastapi import Request, Response
from markupsafe import Markup
from sqlalchemy import Connection, bindparam, select

from agent_mailer import __version__
from agent_mailer.amounts import dollars
from agent_mailer.broker.agents.rows import operator_id
from agent_mailer.broker.callers import PersonCaller, directory_of, store_of
from agent_mailer.broker.messages.wire import body_html
from agent_mailer.broker.protocol import Fault, now_text
from agent_mailer.broker.tables import agents
from agent_mailer.console.static_files import address_of
from agent_mailer.console.words import view_of

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "HX-Request, Accept-Encoding, Accept-Language, Cookie",
}
MADE_AT = "agent_mailer.made_at"
"""In the scope of a request: how many changes there had been when it came."""
SHORTEST_PACKED = 1024
"""Bytes from which a page is worth packing."""
_UNREAD = select(agents.c.inbox_unread).where(agents.c.id == bindparam("operator"))


class Place(msgspec.Struct, frozen=True):
    """An entry of the navigation; `bottom`: also in the bar of a telephone."""

    name: str
    title: str
    address: str
    bottom: bool = False
    superadmin: bool = False


PLACES = (
    Place("needs", "Needs you", "/console/needs", bottom=True),
    Place("agents", "Agents", "/console/agents", bottom=True),
    Place("threads", "Threads", "/console/threads", bottom=True),
    Place("compose", "Compose", "/console/compose", bottom=True),
    Place("search", "Search", "/console/search"),
    Place("archive", "Archive", "/console/archive"),
    Place("trash", "Trash", "/console/trash"),
    Place("teams", "Teams", "/console/teams"),
    Place("channels", "Channels", "/console/channels"),
    Place("schedules", "Schedules", "/console/schedules"),
    Place("hooks", "Hooks", "/console/hooks"),
    Place("stats", "Statistics", "/console/stats"),
    Place("keys", "Keys", "/console/keys"),
    Place("account", "Account", "/console/account"),
    Place("audit", "Audit", "/console/audit"),
    Place("users", "Users", "/console/users", superadmin=True),
)
"""Pages in the order in which they are offered."""

_HEADING = re.compile(r"(</?h)([1-6])>")
_LONG_WORD = re.compile(r'<(?:"[^"]*"|[^">])*>|(?:&[^;]*;|[^\s<&]){200}')
"""A tag, or a piece of a word as a sanitiser has left it."""
_env = jinja2.Environment(
    loader=jinja2.PackageLoader("agent_mailer.console"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


class Shell(msgspec.Struct, frozen=True):
    """What every page of somebody who is signed in shows around its own. `unread`: mail to the operator."""

    person: PersonCaller
    unread: int
    acting_for: str = ""
    """The name of the superadmin who acts as this user."""
    own: bool = False
    """Of the agents of this machine's user, without a broker: what only a broker has is not offered."""


async def shell_of(request: Request, person: PersonCaller) -> Shell:
    operator = operator_id(person.user_id)

    def work(connection: Connection) -> int:
        return int(connection.execute(_UNREAD, {"operator": operator}).scalar() or 0)

    acting = await directory_of(request).user(person.impersonated_by) if person.impersonated_by else None
    return Shell(person, await store_of(request).read(work), acting.username if acting is not None else "")


async def page(
    request: Request, person: PersonCaller, template: str, status: int = 200, /, **values: object
) -> Response:
    """The page, or where htmx asks only the part of it that changes by itself. `here`: the name of its place."""
    shell = await shell_of(request, person)
    return page_for(request, template, status, shell=shell, **values)


def page_for(request: Request, template: str, status: int = 200, /, **values: object) -> Response:
    """A page, also for somebody who is not signed in."""
    view = view_of(request)
    bare = "hx-request" in request.headers
    address = _own_address(request)
    known: dict[str, object] = {
        "shell": None,
        "here": "",
        "frame": "bare.html" if bare else "frame.html",
        "view": view,
        "t": view.text,
        "n": view.count,
        "places": PLACES,
        "path": address,
        "live": address if request.method == "GET" and status < HTTPStatus.BAD_REQUEST else "",
        "version": __version__,
        "now": now_text(),
        "made_at": request.scope[MADE_AT],
        "done": request.query_params.get("done", ""),
        "done_id": request.query_params.get("done_id", ""),
    }
    if request.method != "GET":
        # What a form is answered with is not to be had again: it leads to the page of its place, and does not change.
        here = values.get("here")
        known["path"] = next((place.address for place in PLACES if place.name == here), "/console")
    text = _env.get_template(template).render({**known, **values})
    return _answer(request, text.encode("utf-8", "replace"), status)


def stopped_page(request: Request) -> Response:
    """For who was sending something still when the server was asked to stop, which waits no longer for it."""
    fault = Fault(503, "It is being stopped, and may not have taken this: go back, look whether it has, and try again")
    return page_for(request, "refused.html", fault.status, fault=fault, request_id="", written={})


def _own_address(request: Request) -> str:
    """Of this page, without what was done last."""
    kept = [
        (name, value) for name, value in request.query_params.multi_items() if name not in ("done", "done_id", "sent")
    ]
    query = urlencode(kept)
    return f"{quote(request.url.path)}?{query}" if query else quote(request.url.path)


def _answer(request: Request, data: bytes, status: int) -> Response:
    headers = dict(HEADERS)
    if len(data) >= SHORTEST_PACKED and "gzip" in request.headers.get("accept-encoding", ""):
        data = gzip.compress(data, 4, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(data, status, headers, "text/html; charset=utf-8")


def leads_to(address: str, **query: str) -> Response:
    """After a form: to a page that may be loaded again. `address`: of our own."""
    joined = f"{address}{'&' if '?' in address else '?'}{urlencode(query)}" if query else address
    return Response(status_code=303, headers={**HEADERS, "Location": joined})


def _moment(text: str | None) -> Markup:
    """A moment as `<time>`, in UTC until the reader's zone is known."""
    if not text:
        return Markup("–")
    shown = text[:16].replace("T", " ")
    return Markup('<time datetime="{}">{} UTC</time>').format(text, shown)


def _age(text: str | None) -> str:
    """How long ago, in one short word."""
    if not text:
        return "–"
    try:
        then = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text[:16]
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for size, sign in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {sign}"
    return f"{seconds} s"


def _safe_body(text: str) -> Markup:
    """Markdown of a stranger: what the sanitiser has left of it, with headings below those of the page."""
    lowered = _HEADING.sub(lambda tag: f"{tag[1]}{min(6, int(tag[2]) + 2)}>", body_html(text))
    # A word without an end takes a browser minutes to lay out, unless it is told where it may break it.
    breakable = _LONG_WORD.sub(lambda found: found[0] if found[0][0] == "<" else f"{found[0]}<wbr>", lowered)
    return Markup(breakable)  # noqa: S704 - the sanitiser's own words


def _visible(text: str) -> str:
    """Text of a stranger on one line: what cannot be seen, or turns the direction of writing, as its number."""
    return "".join(sign if sign.isprintable() else _number(sign) for sign in text)


def _number(sign: str) -> str:
    return " " if sign.isspace() else f"‹U+{ord(sign):04X}›"


def _shortened(address: str) -> str:
    """What stands before the @."""
    return _visible(address.partition("@")[0] or address)


def _link(path: str, **query: Any) -> str:  # noqa: ANN401 - what a template has
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept)}" if kept else path


def _row_id(kind: str, *what: str) -> str:
    """The name of a row among all of its page, the same each time it is drawn: by it a page that is drawn anew under
    its reader knows the row again, with what is typed into it, is open or has the focus.
    """
    return quote(":".join((kind, *what)), safe=":@")


def _as_is(text: str) -> str:
    """Text of a stranger with its lines, and what cannot be seen as its number: a person says yes to all of it."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else _number(sign) for sign in text)


def _words(value: str) -> str:
    """A value of a closed set as people read it."""
    return value.replace("_", " ").replace("-", " ")


_env.filters.update(moment=_moment, age=_age, as_is=_as_is, body=_safe_body, visible=_visible, who=_shortened)
_env.filters.update(words=_words, dollars=dollars)
_env.globals.update(asset=address_of, link=_link, row_id=_row_id, fresh_key=lambda: secrets.token_hex(16))
