"""The search of this machine's folder mailboxes: as at a broker, but without an index, so over the newest mail."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from fastapi import APIRouter, Request, Response

from agent_mailer.broker.search.words import Wanted, snippet, wanted_by, words_of
from agent_mailer.console.mail.finding import Asked, Hit, marked, read
from agent_mailer.console.mail.searching import A_PAGE, LONGEST_QUERY
from agent_mailer.console.own.pages import OwnPage, looked, mail_of, own_page
from agent_mailer.console.own.port import OwnMessage

router = APIRouter(prefix="/console", route_class=OwnPage, include_in_schema=False)

MOST_FOUND = 300


class Fits(msgspec.Struct, frozen=True):
    """Whether a message is as somebody asks: by its head, then by its text, which has to be read for it."""

    asked: Asked
    wanted: Wanted

    def head(self, one: OwnMessage) -> bool:
        """A team is nobody's here."""
        asked = self.asked
        return (
            not asked.team
            and _holds(one.from_agent, asked.sender)
            and _holds(one.to_agent, asked.to)
            and _holds(one.subject, asked.subject)
            and (not asked.tag or asked.tag.lower() in [label.lower() for label in one.labels])
            and (not asked.after or one.created_at >= asked.after)
            and (not asked.before or one.created_at < asked.before)
            and (not asked.unread or not one.is_read)
        )

    def text(self, one: OwnMessage) -> bool:
        if not self.wanted:
            return True
        known = words_of(one.subject, one.body)
        return set(self.wanted.words) <= set(known) and all(
            any(word.startswith(beginning) for word in known) for beginning in self.wanted.beginnings
        )


def _holds(text: str, part: str) -> bool:
    return part.lower() in text.lower()


def hits_of(found: Iterable[OwnMessage], wanted: Wanted) -> list[Hit]:
    """As the page shows them."""
    return [
        Hit(
            one.id,
            one.thread_id,
            one.subject,
            marked(snippet(one.body, wanted), wanted),
            one.from_agent,
            one.to_agent,
            one.created_at,
            "open",
        )
        for one in found
    ]


@router.get("/search")
async def search(request: Request, q: str = "", skip: int = 0) -> Response:
    """In all folder mailboxes, the newest first."""
    asked = read(q[:LONGEST_QUERY])
    fits = Fits(asked, wanted_by(asked.words))
    skip = min(max(0, skip), MOST_FOUND)
    found = await looked(mail_of(request).search, fits.head, fits.text, MOST_FOUND) if asked.anything else []
    return await own_page(
        request,
        "search.html",
        here="search",
        q=q[:LONGEST_QUERY],
        found=hits_of(found[skip : skip + A_PAGE], fits.wanted),
        total=len(found),
        most=MOST_FOUND,
        skip=skip,
        next=skip + A_PAGE if skip + A_PAGE < len(found) else 0,
    )
