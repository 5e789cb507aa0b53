"""What a person who has logged in does with mail that is over: found by its words, archived, thrown away, brought back.

Calls of the protocol's operator. What a broker tells is untrusted.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from agent_mailer.mailbox.amp.account import AccountClient
from agent_mailer.mailbox.amp.answers import RequestRefused, decode
from agent_mailer.mailbox.amp.transport import path_of

PAGE = 100


class FoundMessage(msgspec.Struct, frozen=True):
    """`body_snippet` is what stands around the words."""

    message_id: str
    thread_id: str
    from_agent: str
    to_agent: str
    created_at: str
    subject: str = ""
    body_snippet: str = ""


class _Page(msgspec.Struct, frozen=True):
    messages: list[FoundMessage]
    total_pages: int = 1


class ThreadAway(msgspec.Struct, frozen=True):
    """A thread that is put away; of the two moments one is there."""

    thread_id: str
    message_count: int = 0
    preview_subject: str = ""
    archived_at: str | None = None
    trashed_at: str | None = None


class MessageAway(msgspec.Struct, frozen=True):
    """A message that is in the trash by itself."""

    message_id: str
    thread_id: str
    trashed_at: str
    from_agent: str = ""
    subject: str = ""


class _Status(msgspec.Struct, frozen=True):
    archived: bool = False
    trashed: bool = False


class Shelves:
    """Raises as `AccountClient` does; ValueError for an id that can be none."""

    def __init__(self, account: AccountClient) -> None:
        self._account = account

    async def page(self, words: str, number: int) -> tuple[list[FoundMessage], bool]:
        """The messages with all of these words, newest first, `PAGE` at a time, from 1 on; whether there are more."""
        query = f"/admin/search?q={quote(words, safe='')}&page={number}&page_size={PAGE}"
        found = decode(await self._account.ask("GET", query), _Page)
        return found.messages, number < found.total_pages

    async def is_thread(self, thread_id: str) -> bool:
        """Whether there is one of that very id."""
        try:
            decode(await self._account.ask("GET", path_of("admin", "threads", thread_id, "status")), _Status)
        except RequestRefused as fault:
            if fault.status != 404:
                raise
            return False
        return True

    async def archived(self) -> list[ThreadAway]:
        return decode(await self._account.ask("GET", "/admin/threads/summary?archived=true"), list[ThreadAway])

    async def trashed(self) -> list[ThreadAway]:
        return decode(await self._account.ask("GET", "/admin/threads/summary?trashed=true"), list[ThreadAway])

    async def trashed_messages(self) -> list[MessageAway]:
        return decode(await self._account.ask("GET", "/admin/trash/messages"), list[MessageAway])

    async def move_thread(self, thread_id: str, verb: str) -> None:
        """`verb`: archive, unarchive, trash or restore."""
        await self._account.ask("POST", path_of("admin", "threads", thread_id, verb), b"{}")

    async def move_message(self, message_id: str, verb: str) -> None:
        """`verb`: trash or restore."""
        await self._account.ask("POST", path_of("admin", "messages", message_id, verb), b"{}")
