"""A link by which a person answers a question, where the agent's mailbox makes such links."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from agent_mailer.approvals.calls import shown
from agent_mailer.mailbox.port import Mailbox, MailboxUnavailable
from agent_mailer.names import printable, prompt_word
from agent_mailer.state.approvals import Approval

PATIENCE = 10.0
"""Seconds: a person is told without a link rather than late."""

LONGEST_SAID = 1000


@runtime_checkable
class OffersLinks(Protocol):
    """A mailbox at which a page can answer a question."""

    async def offer_link(self, token: str, seconds: int, shown: Mapping[str, str]) -> str:
        """The URL at which whoever has it answers, once, for `seconds`; empty where there is none. The page shows the
        fields act, said, folder, host and for_mail_of; `question` is its id. Raises MailboxUnavailable.
        """


class LinkMaker:
    """Each question's link is offered once, and again by the next watcher, which changes nothing."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox if isinstance(mailbox, OffersLinks) else None
        self._made: dict[str, str] = {}

    async def link_of(self, asked: Approval, remaining: float) -> str:
        """`remaining`: seconds for which it is asked. Empty where there is none, or none just now."""
        if self._mailbox is None or not asked.token or remaining < 1.0:
            return ""
        if asked.id not in self._made:
            told = {
                "act": shown(asked.call),
                "said": printable(asked.call.why, LONGEST_SAID),
                "folder": printable(asked.folder, LONGEST_SAID),
                "host": printable(platform.node()),
                "for_mail_of": prompt_word(asked.sender, "sender"),
                "question": asked.id,
            }
            try:
                async with asyncio.timeout(PATIENCE):
                    link = await self._mailbox.offer_link(asked.token, int(remaining), told)
            except (MailboxUnavailable, TimeoutError):
                return ""
            if not link:
                return ""
            self._made[asked.id] = link
        return self._made[asked.id]
