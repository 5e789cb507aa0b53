"""The pages behind a link: a question with its form, what became of it, and one for every link that is not open."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from html import escape

from fastapi.responses import HTMLResponse

from agent_mailer.broker.approvals.rows import OpenLink

LONGEST_REASON = 300

_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem .8rem; border: 1px solid; border-radius: .3rem }
dt { font-weight: 600 } dd { margin: 0 0 .6rem; overflow-wrap: anywhere }
button, input { font: inherit; padding: .4rem 1rem } input { width: 100%; box-sizing: border-box }
form p { margin: 1rem 0 }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    # Without a word of where it comes from a browser's own form could not be told from a stranger's.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""
# Two forms: Enter in a line of text presses the first button of its form, which must not be a yes.
_FORM = """\
<form method="post">
<p><button name="answer" value="allow">Allow it, once</button></p>
</form>
<form method="post">
<p><label>Why not (the agent is told): <input name="reason" maxlength="{longest}" autocomplete="off"></label></p>
<p><button name="answer" value="deny">Deny it</button></p>
</form>
<p><small>Opening this page has changed nothing. The link works once.</small></p>
"""


def question(link: OpenLink) -> HTMLResponse:
    """What is asked, and the form that answers it. It needs no script."""
    shown, until = link.shown, datetime.fromtimestamp(link.ends_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = (
        ("agent", link.address),
        ("it says (its own words)", shown.said),
        ("for mail of", shown.for_mail_of),
        ("in the folder", shown.folder),
        ("host", shown.host),
        ("until", until),
    )
    listed = "\n".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    content = f"<p>It asks whether it may run this:</p>\n<pre>{escape(shown.act)}</pre>\n<dl>\n{listed}\n</dl>\n"
    return _page("An agent asks for a yes", content + _FORM.format(longest=LONGEST_REASON))


def answered(verdict: str) -> HTMLResponse:
    title = "Allowed, once" if verdict == "allow" else "Denied"
    words = "<p>The agent is told as soon as its watcher hears of it. Of two answers the first counts.</p>"
    return _page(title, words)


def not_open() -> HTMLResponse:
    words = "<p>It was used, its time is over, or there never was one. Nothing was changed.</p>"
    return _page("This link is not open", words, 404)


def refused(why: str, status: int) -> HTMLResponse:
    return _page("Nothing was changed", f"<p>{escape(why)}</p>", status)


def _page(title: str, content: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=title, style=_STYLE, content=content), status, _HEADERS)
