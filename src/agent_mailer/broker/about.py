"""What the broker says of itself: to a program what it can do, to whoever opens its address in a browser a page."""

from __future__ import annotations

from html import escape
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from agent_mailer import __version__
from agent_mailer.broker.answers import answer, described
from agent_mailer.broker.callers import settings_of
from agent_mailer.broker.data import Quota
from agent_mailer.broker.documents import WATCH, MarkdownResponse, Step, base_url, steps

router = APIRouter()

EXTENSIONS = (
    "inbox-cursor",
    "inbox-heads",
    "stream",
    "idempotency",
    "marks",
    "claims",
    "receipts",
    "message-get",
    "html-optional",
    "operator-by-key",
    "approval-links",
    "claim-thread",
    "team-memories",
    "watcher-reports",
    "file-reservations",
    "group-mail",
)


class Limits(msgspec.Struct, frozen=True):
    """What one client may take; durations are seconds."""

    streams_per_key: int
    streams_per_host: int
    request_seconds: float
    max_file_bytes: int
    quota: Quota
    login_attempts: str
    """Wrong passwords of a user, and from an address, as in `10/5 minutes`."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a client may rely on."""

    extensions: tuple[str, ...]
    max_body_bytes: int
    heartbeat_seconds: float
    limits: Limits
    version: str = __version__
    protocol: Literal["amp"] = "amp"
    broker: Literal["agent-mailer"] = "agent-mailer"


@router.get(
    "/.well-known/agent-mailer",
    tags=["extensions"],
    summary="What this broker can do",
    responses={200: described(Capabilities)},
    response_class=Response,
)
async def capabilities(request: Request) -> Response:
    """Public: a client looks here before it has a key."""
    of = settings_of(request)
    limits = Limits(
        of.streams_per_key, of.streams_per_host, of.request_seconds, of.max_file_bytes, of.quota, of.login_attempts
    )
    return answer(Capabilities(EXTENSIONS, of.max_body_bytes, of.heartbeat_seconds, limits))


_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_STYLE = """\
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid; border-radius: .3rem }
"""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>agent-mailer broker</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>agent-mailer broker</h1>
<p>This is a broker of the Agent Mailer Protocol: coding agents on different machines mail each other through it.
A watcher beside each agent is told of new mail at once and runs the agent on it.</p>
<h2>First steps</h2>
<ol>
{steps}
</ol>
<p>The invite code of the first user stands in the lines that the broker prints at its start; later ones are made with
<code>agent-mailer broker invite add</code>. Commands that begin with <code>agent-mailer broker</code> are typed on the
broker's own machine.</p>
<h2>More</h2>
<ul>
<li><a href="/docs">/docs</a>: every call, with its fields</li>
<li><a href="/setup.md">/setup.md</a>: how an agent registers itself</li>
<li><a href="/health">/health</a>: is it up?</li>
</ul>
<p><small>agent-mailer {version}</small></p>
</main>
</body>
</html>
"""


@router.get("/", include_in_schema=False)
async def landing(request: Request) -> HTMLResponse:
    listed = "\n".join(_item(step) for step in (*steps(base_url(request)), WATCH))
    return HTMLResponse(_PAGE.format(steps=listed, version=escape(__version__), style=_STYLE), headers=_HEADERS)


def _item(step: Step) -> str:
    return f"<li><p>{escape(step.does.capitalize())}:</p>\n<pre>{escape(step.command)}</pre></li>"


_CALLS = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The calls of this broker</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>The calls of this broker</h1>
<p>Every field of each, for programs: <a href="/openapi.json">/openapi.json</a>.</p>
{groups}
</main>
</body>
</html>
"""


@router.get("/docs", include_in_schema=False)
async def calls(request: Request) -> HTMLResponse:
    """Every call with what it takes; nothing on the page comes from another host."""
    described_as: dict[str, dict[str, dict[str, Any]]] = request.app.openapi()["paths"]
    groups: dict[str, list[str]] = {}
    for path, methods in described_as.items():
        for method, operation in methods.items():
            groups.setdefault((operation.get("tags") or ["broker"])[0], []).append(_call(method, path, operation))
    shown = "\n".join(f"<h2>{escape(name)}</h2>\n" + "\n".join(listed) for name, listed in groups.items())
    return HTMLResponse(_CALLS.format(style=_STYLE, groups=shown), headers=_HEADERS)


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    words = [operation.get("summary", ""), operation.get("description", "")]
    takes = [f"{one['name']} ({one['in']})" for one in operation.get("parameters", ())]
    if "requestBody" in operation:
        takes.append("a body")
    told = ". ".join(escape(word.strip().rstrip(".")) for word in words if word.strip())
    with_what = f"<br>Takes {escape(', '.join(takes))}." if takes else ""
    return f"<p><code>{method.upper()} {escape(path)}</code><br>{told}.{with_what}</p>"


_LLMS = """\
# agent-mailer broker

> A broker of the Agent Mailer Protocol: coding agents mail each other through it. Every agent has an address, an inbox
> and threads; a program proves itself by an API key, a person by a login.

- [How an agent registers itself]({url}/setup.md): the steps, as they are typed
- [Every call]({url}/spec.md): what it takes and answers, as Markdown
- [OpenAPI]({url}/openapi.json): the same for programs
- [What this broker can do beyond the protocol]({url}/.well-known/agent-mailer): JSON
"""

_SPEC = """\
# The calls of this broker

JSON over HTTP in UTF-8, at {url}. Agents send the header `X-API-Key`, people `Authorization: Bearer TOKEN` (from
`POST /users/login`). Errors are `{{"detail": …}}`; what belongs to another user does not exist (404). Ids are opaque
text, moments ISO 8601 in UTC. Every field of each call: {url}/openapi.json.
"""


@router.get("/llms.txt", include_in_schema=False)
async def llms(request: Request) -> PlainTextResponse:
    """Where a program that reads finds what."""
    return PlainTextResponse(_LLMS.format(url=base_url(request)))


@router.get("/spec.md", include_in_schema=False)
async def spec(request: Request) -> MarkdownResponse:
    """Every call, as Markdown."""
    groups: dict[str, list[str]] = {}
    described_as: dict[str, dict[str, dict[str, Any]]] = request.app.openapi()["paths"]
    for path, methods in described_as.items():
        for method, operation in methods.items():
            groups.setdefault((operation.get("tags") or ["broker"])[0], []).append(_line(method, path, operation))
    listed = "\n".join(f"\n## {name}\n\n" + "\n".join(lines) for name, lines in groups.items())
    return MarkdownResponse(f"{_SPEC.format(url=base_url(request))}{listed}\n")


def _line(method: str, path: str, operation: dict[str, Any]) -> str:
    words = " ".join(operation.get("description", "").split()) or operation.get("summary", "")
    statuses = ", ".join(str(status) for status in operation.get("responses", {}))
    return f"- `{method.upper()} {path}`: {words.rstrip('.')}. Answers: {statuses}"
