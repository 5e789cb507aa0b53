"""What a message looks like on the wire, and how it is made of a row; its text as safe HTML."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import msgspec
import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

from agent_mailer.broker.tables import messages

INLINE_CHARACTERS = 2_048
"""Markdown up to this is rendered at once; more of it in a thread, so that others are served meanwhile."""
KEPT_RENDERED = 512
"""Texts whose HTML is kept: lists show the same ones again and again."""

LONGEST_MARKDOWN = 20_000
"""Characters; a longer text is shown as it is, so that no message keeps the broker from its work."""
MOST_BRACKETS = 500
MOST_MARKS = 1_000
"""Signs that may begin or end an emphasis or code."""
MOST_CELLS = 5_000

_WITH_TABLES = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
_WITHOUT_TABLES = MarkdownIt("commonmark", {"html": True}).enable("strikethrough")


def _picture(tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
    """A picture as a link to it: whoever wants to see it asks for it."""
    token = tokens[index]
    return f'<a href="{escape(str(token.attrs["src"]))}">{escape(token.content) or "picture"}</a>'


for _markdown in (_WITH_TABLES, _WITHOUT_TABLES):
    _markdown.add_render_rule("image", lambda _renderer, *args: _picture(*args))
_PLAIN = re.compile(r"[^\W\d_][\w ,;:.?()/%$^@{}']*", re.ASCII)
# A picture from elsewhere tells its sender who reads when; a link without a host leads into the page that shows it.
_CLEANER = nh3.Cleaner(
    tags=nh3.ALLOWED_TAGS - {"img", "map", "area"},
    attributes={name: set(kept) for name, kept in nh3.ALLOWED_ATTRIBUTES.items()} | {"code": {"class"}},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
)


class Envelope(msgspec.Struct):
    """A message without its content. `cursor` is its place in the recipient's inbox."""

    id: str
    thread_id: str
    from_agent: str
    to_agent: str
    action: str
    subject: str
    is_read: bool
    parent_id: str | None
    created_at: str
    cursor: int
    hops: int
    automatic: str
    priority: str
    kind: str | None
    labels: list[str]
    visited: list[str] | None
    claimed_at: str | None


class Message(Envelope):
    """A message whole. `body_html` is left out where the caller does without."""

    body: str
    attachments: list[Any]
    body_html: str | msgspec.UnsetType = msgspec.UNSET


class Page(msgspec.Struct):
    """One page of an inbox, newest first."""

    messages: list[Message]
    total: int
    page: int
    page_size: int
    total_pages: int


class Listing(msgspec.Struct):
    """What comes after a cursor, in its order."""

    messages: Sequence[Envelope]
    cursor: int
    more: bool


_c = messages.c
ENVELOPE_COLUMNS = (
    _c.id,
    _c.thread_id,
    _c.from_agent,
    _c.to_agent,
    _c.action,
    _c.subject,
    _c.is_read,
    _c.parent_id,
    _c.created_at,
    _c.seq,
    _c.hops,
    _c.automatic,
    _c.priority,
    _c.kind,
    _c.labels,
    _c.visited,
    _c.claimed_at,
)
MESSAGE_COLUMNS = (*ENVELOPE_COLUMNS, _c.body, _c.attachments)


def envelope_of(row: Sequence[Any]) -> Envelope:
    """`row`: the ENVELOPE_COLUMNS, in their order."""
    return Envelope(*row)


def message_of(row: Sequence[Any]) -> Message:
    """`row`: the MESSAGE_COLUMNS, in their order."""
    return Message(*row)


async def rendered(found: Sequence[Message]) -> Sequence[Message]:
    """The same messages, with their `body_html`."""
    if sum(len(message.body) for message in found) <= INLINE_CHARACTERS:
        _render(found)
    else:
        await asyncio.to_thread(_render, found)
    return found


def _render(found: Iterable[Message]) -> None:
    for message in found:
        message.body_html = body_html(message.body)


@lru_cache(maxsize=KEPT_RENDERED)
def body_html(body: str) -> str:
    """`body` as HTML without scripts, event handlers, styles, pictures of elsewhere or relative links; never raises."""
    if _PLAIN.fullmatch(body):
        return f"<p>{body.rstrip()}</p>\n"
    # What takes the parser time out of proportion: unclosed brackets, and short rows under a wide head.
    if len(body) > LONGEST_MARKDOWN or body.count("[") > MOST_BRACKETS or sum(map(body.count, "*_~`")) > MOST_MARKS:
        return _as_it_is(body)
    try:
        markdown = _WITHOUT_TABLES if _cells(body) > MOST_CELLS else _WITH_TABLES
        return _CLEANER.clean(markdown.render(body))
    except Exception:
        return _as_it_is(body)


def _cells(body: str) -> int:
    pipes = [line.count("|") for line in body.splitlines() if "|" in line]
    return max(pipes) * len(pipes) if pipes else 0


def _as_it_is(body: str) -> str:
    return f"<pre>{escape(body)}</pre>\n"


def forwarded(note: str, quoted: Iterable[Sequence[Any]]) -> str:
    """The body of a forward: the note, and what is forwarded as one block each."""
    blocks = []
    for from_agent, to_agent, created_at, action, subject, body in quoted:
        subject = f"\nSubject: {subject.strip()}" if subject.strip() else ""
        head = f"From: {from_agent} → To: {to_agent}\nTime: {created_at}\nAction: {action}{subject}"
        blocks.append(f"{head}\n\n{body}")
    text = "\n\n---\n\n".join(blocks)
    return f"{note.strip()}\n\n----------\n\n{text}" if note.strip() else text
