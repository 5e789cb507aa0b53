"""A person's search, archive and trash at a broker: by the login, for which the protocol keeps these calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.clock import from_iso
from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.mailbox.amp import client
from agent_mailer.mailbox.amp.account import AccountClient
from agent_mailer.mailbox.amp.shelves import FoundMessage, Shelves, ThreadAway
from agent_mailer.names import pick, printable
from agent_mailer.people.broker import BrokerMail, mail_of
from agent_mailer.people.keeping import Away, Hit, Shelf, wanted_words
from agent_mailer.setup.logins import Login, find_login

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

_LOOK = "agent-mailer mail search WORDS --json has whole ids"


def at_broker(place: Workplace, whose: str | None) -> Kept:
    """Raises ConfigFault where nobody has logged in there, UsageFault where `whose` is nobody's."""
    if not place.config.broker_url:
        fix = "export AGENT_MAILER_BROKER_URL=..., or agent-mailer init"
        raise ConfigFault("incomplete", "mail at a broker needs broker_url", fix)
    try:
        login = find_login(Path.home(), place.config.broker_url)
    except ConfigFault as fault:
        words = f"a broker finds and puts away mail for who has logged in: {fault.message}"
        raise ConfigFault(fault.code, words, fault.fix) from None
    has_key = bool(login.api_key or place.config.api_key)
    return Kept(login, mail_of(place, whose) if has_key or whose is not None else None, only_own=whose is not None)


class Kept:
    """Implements `agent_mailer.people.keeping.Keeping`. `mail`: by which a message is found whose id is typed; None
    where there is no key. `only_own`: only what is its mail is found.
    """

    def __init__(self, login: Login, mail: BrokerMail | None, *, only_own: bool) -> None:
        self._login, self._mail, self._only_own = login, mail, only_own

    def faults(self) -> AbstractContextManager[None]:
        return client.at_broker()

    async def search(self, words: str, limit: int) -> tuple[Sequence[Hit], bool]:
        wanted_words(words)
        whose = self._mail.mailbox.address if self._mail is not None and self._only_own else None
        found: list[Hit] = []
        number, more = 1, True
        async with self._shelves() as shelves:
            while more:
                some, more = await shelves.page(words, number)
                number += 1
                for one in some:
                    if whose not in (None, one.from_agent, one.to_agent):
                        continue
                    if len(found) == limit:
                        return found, True
                    found.append(_hit(one))
        return found, False

    async def put(self, typed: str, shelf: Shelf) -> Away:
        async with self._shelves() as shelves:
            if await _is_thread(shelves, typed):
                await shelves.move_thread(typed, shelf)
                return Away(shelf, typed)
            message = (await self._own().find(typed)).message
            away = Away(shelf, message.envelope.thread, message.envelope.id, message.subject)
            if shelf is Shelf.ARCHIVE:
                await shelves.move_thread(away.thread, shelf)
                return msgspec.structs.replace(away, message="")
            await shelves.move_message(away.message, shelf)
            return away

    async def bring_back(self, typed: str) -> Away:
        async with self._shelves() as shelves:
            known = {one.id: one for shelf in (Shelf.ARCHIVE, Shelf.TRASH) for one in await _on_shelf(shelves, shelf)}
            away = known[pick(typed, known, "message or thread put away", "agent-mailer mail trash, mail archive")]
            if away.message:
                await shelves.move_message(away.message, "restore")
            else:
                await shelves.move_thread(away.thread, "unarchive" if away.shelf is Shelf.ARCHIVE else "restore")
            return away

    async def listed(self, shelf: Shelf) -> Sequence[Away]:
        async with self._shelves() as shelves:
            return sorted(await _on_shelf(shelves, shelf), key=lambda one: one.since, reverse=True)

    def _own(self) -> BrokerMail:
        if self._mail is None:
            raise MailerError("unknown", "there is no thread of that id, and messages are found by a key", _LOOK)
        return self._mail

    @asynccontextmanager
    async def _shelves(self) -> AsyncIterator[Shelves]:
        async with AccountClient(self._login.broker_url, self._login.token) as account:
            yield Shelves(account)


async def _is_thread(shelves: Shelves, typed: str) -> bool:
    try:
        return await shelves.is_thread(typed)
    except ValueError:
        raise UsageFault("bad_id", f"{printable(typed)!r} is no id", _LOOK) from None


async def _on_shelf(shelves: Shelves, shelf: Shelf) -> list[Away]:
    if shelf is Shelf.ARCHIVE:
        return [_thread(one, shelf) for one in await shelves.archived()]
    messages = [
        Away(shelf, one.thread_id, one.message_id, one.subject, since=from_iso(one.trashed_at))
        for one in await shelves.trashed_messages()
    ]
    return [*(_thread(one, shelf) for one in await shelves.trashed()), *messages]


def _thread(one: ThreadAway, shelf: Shelf) -> Away:
    since = one.archived_at if shelf is Shelf.ARCHIVE else one.trashed_at
    return Away(shelf, one.thread_id, "", one.preview_subject, one.message_count, from_iso(since) if since else 0.0)


def _hit(one: FoundMessage) -> Hit:
    ends = (one.from_agent, (one.to_agent,))
    return Hit(one.message_id, one.thread_id, *ends, one.subject, from_iso(one.created_at), one.body_snippet)
