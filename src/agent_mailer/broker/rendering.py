"""Markdown to safe HTML: whatever the text, an answer comes, soon, and without a script."""

from __future__ import annotations

import re
from html import escape

import nh3
from markdown_it import MarkdownIt

LONGEST_MARKDOWN = 20_000
"""Characters; a longer text is shown as it is, so that no message keeps the broker from its work."""
MOST_BRACKETS = 500
MOST_CELLS = 5_000

_with_tables = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
_without_tables = MarkdownIt("commonmark", {"html": True}).enable("strikethrough")
_plain = re.compile(r"[^\W\d_][\w ,;:.?()/%$^@{}']*", re.ASCII)
_attributes = {name: set(kept) for name, kept in nh3.ALLOWED_ATTRIBUTES.items()} | {"code": {"class"}}


def body_html(body: str) -> str:
    """`body` as HTML without scripts, event handlers or styles; never raises."""
    if _plain.fullmatch(body):
        return f"<p>{body.rstrip()}</p>\n"
    # What takes the parser time out of proportion: unclosed brackets, and short rows under a wide head.
    if len(body) > LONGEST_MARKDOWN or body.count("[") > MOST_BRACKETS:
        return _as_it_is(body)
    try:
        markdown = _without_tables if _cells(body) > MOST_CELLS else _with_tables
        return nh3.clean(markdown.render(body), attributes=_attributes)
    except Exception:
        return _as_it_is(body)


def _cells(body: str) -> int:
    pipes = [line.count("|") for line in body.splitlines() if "|" in line]
    return max(pipes) * len(pipes) if pipes else 0


def _as_it_is(body: str) -> str:
    return f"<pre>{escape(body)}</pre>\n"
