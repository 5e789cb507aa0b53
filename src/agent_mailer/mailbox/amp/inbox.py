"""What waits, and taking it: by the extensions of our broker, or with what every broker has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.amp import wire
from agent_mailer.mailbox.amp.answers import (
    Answer,
    InDoubt,
    TooLarge,
    decode,
    detail_of,
    is_stale,
    not_the_protocol,
    reason_of,
    unavailable,
)
from agent_mailer.mailbox.amp.client import WITH_THREAD
from agent_mailer.mailbox.amp.link import OF_THE_AGENT, Link
from agent_mailer.mailbox.amp.listing import PagedMailbox, Skipped, find
from agent_mailer.mailbox.amp.mirror import Mirror
from agent_mailer.mailbox.amp.receipts import MOST_OF_AN_ID, post_receipt, receipt_of
from agent_mailer.mailbox.amp.stream import held_by
from agent_mailer.mailbox.amp.transport import NO_HTML, path_of, quick_tries
from agent_mailer.mailbox.port import Envelope, Gone, Listing, Message, Progress, Refused, Unreadable


class Inbox:
    """One agent's inbox. Every method raises MailboxUnavailable; `claim` raises BusyFault, too."""

    def __init__(self, link: Link, clock: Clock, address: str, watcher: str) -> None:
        self._link = link
        self._clock = clock
        self._address = address
        self._watcher = watcher
        self._skipped = Skipped()
        self._mirror = Mirror(self._skipped)
        self._paged = PagedMailbox(self._skipped)
        self._listing = asyncio.Lock()
        self._threads: dict[str, list[wire.Heard]] = {}
        """By their names, what claims have brought: each is good for one look, for its turn's beginning."""
        self._told: set[str] = set()
        """Messages of which the claim has told already that their turn has started."""

    def forget(self) -> None:
        """Ask for everything at the next look."""
        self._mirror.forget()
        self._paged.forget()

    async def pending(self, limit: int, beside: Collection[str] = (), *, quiet: bool = False) -> Listing:
        """`quiet`: nothing has arrived since the last look, as far as our broker would have told."""
        async with self._listing:
            ours = (await self._link.broker()).ours
            self._skipped.begin()
            now = self._clock.monotonic()
            if ours:
                return await self._mirror.pending(self._heads, self._stretch, limit, now, beside, quiet=quiet)
            return await self._paged.pending(self._page, limit, now, beside)

    async def claim(
        self, envelope: Envelope, *, again: bool, silent: bool = False, turn_id: str = ""
    ) -> Message | Gone:
        self._threads.pop(envelope.thread, None)
        info = await self._link.broker()
        if info.ours:
            begins = turn_id[:MOST_OF_AN_ID] if WITH_THREAD in info.extensions else ""
            return await self._claim_there(envelope, again=again, silent=silent, begins=begins)
        return await self._claim_here(envelope, again=again)

    async def read(self, envelope: Envelope) -> Message | Gone:
        if not (await self._link.broker()).ours:
            heard = await self._find(envelope, read_too=True)
            return heard.message if isinstance(heard, wire.Heard) else heard
        with suppress(ValueError):
            path = path_of("messages", envelope.id)
            answer = await self._link.ask(lambda transport, _: transport.ask("GET", path, query=NO_HTML))
            if answer.ok:
                return wire.parse_whole(answer).message
            if not _is_no_message(answer):
                raise self._link.puzzled(answer)
        return Gone("the broker has no such message")

    async def thread(self, thread_id: str) -> list[wire.Heard]:
        """Empty where there is none."""
        if (brought := self._threads.pop(thread_id, None)) is not None:
            return brought
        try:
            path = path_of("messages", "thread", thread_id)
        except ValueError:
            return []
        answer = await self._link.ask(lambda transport, _: transport.ask("GET", path, query=NO_HTML))
        if is_gone(answer):
            return []
        if not answer.ok:
            raise unavailable(answer)
        return wire.heard_in(answer)

    async def finish(self, message_id: str, progress: Progress | None = None) -> None:
        """Mark it read, with how it ended where the broker holds that; what is gone is finished."""
        async with self._left_out(message_id):
            settled = progress is not None and (await self._link.broker()).ours
            if not settled or progress is None or not await self._settle(message_id, progress):
                await self._mark_read(message_id)

    async def set_aside(self, message_id: str) -> None:
        """Mark it read once more. A broker that does not keep the mark lists it for ever: we do not, from now on."""
        await self.finish(message_id)
        if not (await self._link.broker()).ours:
            self._skipped.add(message_id)

    async def reject(self, item: Unreadable) -> None:
        if item.locator in self._skipped:
            return
        if item.locator.startswith(wire.BY_ID):
            await self._mark_read(item.locator.removeprefix(wire.BY_ID))
        self._skipped.add(item.locator)
        self._mirror.drop(item.locator)
        self._paged.drop_unreadable(item.locator)

    async def ask_again(self, locator: str) -> Refused | None:
        """Mark it unread; what has no id was never marked, and is only passed over no longer."""
        if locator.startswith(wire.BY_ID) and not await self._mark(locator.removeprefix(wire.BY_ID), "unread"):
            return Refused("the broker has it no more")
        self._skipped.release(locator)
        self.forget()
        return None

    async def _heads(self, limit: int) -> Answer:
        return await self._list({"heads": "true", "limit": limit})

    async def _stretch(self, after: int, limit: int) -> Answer:
        return await self._list({"after": after, "limit": limit, "bodies": "false", "claimed": "false"})

    async def _page(self, page: int, size: int) -> Answer:
        return await self._list({"page": page, "page_size": size})

    async def _page_of_all(self, page: int, size: int) -> Answer:
        return await self._list({"page": page, "page_size": size, "all": "true"})

    async def _list(self, query: dict[str, str | int]) -> Answer:
        path = path_of("messages", "inbox", self._address)
        answer = await self._link.ask(
            lambda transport, agent_id: transport.ask("GET", path, query={"agent_id": agent_id, **query}), OF_THE_AGENT
        )
        if not answer.ok:
            raise self._link.puzzled(answer)
        return answer

    def has_told(self, message_id: str) -> bool:
        """Whether its claim has told that its turn has started; a second call says no."""
        told = message_id in self._told
        self._told.discard(message_id)
        return told

    async def _claim_there(self, envelope: Envelope, *, again: bool, silent: bool, begins: str) -> Message | Gone:
        """`begins`: the turn that begins with it, where the broker takes that."""
        form = _ClaimForm(silent=silent, turn_id=begins, started=bool(begins), thread=bool(begins))
        try:
            path = path_of("messages", envelope.id, "claim")
        except ValueError:
            return Gone("no message is called so")
        async with self._left_out(envelope.id):
            answer, lost = await self._ask_for(path, msgspec.json.encode(form))
            if answer.status == 409:
                reason = reason_of(answer)
                if reason == "watched":
                    raise held_by(answer)
                if is_stale(answer):
                    raise self._link.puzzled(answer)
                if reason == "taken":
                    return Gone(detail_of(answer) or "another of the group has taken it", elsewhere=True)
                if again and reason == "read":
                    return await self.read(envelope)
                return Gone(detail_of(answer) or "somebody else took it")
            if _is_no_message(answer):
                return Gone(detail_of(answer) or "the broker has no such message")
            if not answer.ok:
                raise self._link.puzzled(answer)
            claimed = decode(answer, wire.Claimed)
            if claimed.claimed != "now" and not (again or lost):
                return Gone("this watcher has claimed it already")
            heard = wire.parse_message(bytes(claimed.message))
            if isinstance(heard, Unreadable):
                raise not_the_protocol(answer)
            if brought := bytes(claimed.thread):
                self._threads[envelope.thread] = wire.heard_in(answer, brought)
            if begins:
                self._told.add(envelope.id)
            return heard.message

    async def _ask_for(self, path: str, content: bytes) -> tuple[Answer, bool]:
        """The answer to a claim, and whether an earlier one was lost: that may have been the one that said "now"."""
        headers = {"X-Agent-Mailer-Watcher": self._watcher}
        lost = False
        async for attempt in quick_tries():
            with attempt:
                headers.update(self._link.fence)
                try:
                    answer = await self._link.ask(
                        lambda transport, _: transport.ask("POST", path, content=content, headers=headers, tries=1)
                    )
                except InDoubt:
                    lost = True
                    raise
        return answer, lost

    async def _claim_here(self, envelope: Envelope, *, again: bool) -> Message | Gone:
        """The broker knows of no claims: ours is that we do not list it again, and mark it read when it is settled."""
        if envelope.id in self._skipped and not again:
            return Gone("this watcher has claimed it already")
        heard = await self._find(envelope, read_too=again)
        if isinstance(heard, Gone):
            return heard
        if heard.is_read and not again:
            self._paged.forget()
            return Gone("it has been read already")
        self._skipped.add(envelope.id)
        return heard.message

    async def _find(self, envelope: Envelope, *, read_too: bool) -> wire.Heard | Gone:
        """The message whole, from its thread; from the pages where the thread is too large."""
        try:
            for heard in await self.thread(envelope.thread):
                if heard.message.envelope.id == envelope.id:
                    return heard
        except TooLarge:
            found = await find(self._page_of_all if read_too else self._page, envelope.id)
            if found is not None:
                return found
        self._paged.forget()
        return Gone("the broker has no such message in its thread")

    async def _settle(self, message_id: str, progress: Progress) -> bool:
        """Whether the broker has taken the end of the turn, and with it marked the message read, or has none such."""
        try:
            answer = await post_receipt(self._link, message_id, receipt_of(progress, final=True))
        except ValueError:
            return True
        if answer.ok or _is_no_message(answer):
            return True
        if not is_stale(answer) and detail_of(answer) is not None and answer.status in (400, 404, 409, 422):
            return False
        raise self._link.puzzled(answer)

    async def _mark_read(self, message_id: str) -> None:
        await self._mark(message_id, "read")

    async def _mark(self, message_id: str, how: str) -> bool:
        """Whether the broker still has it."""
        try:
            path = path_of("messages", message_id, how)
        except ValueError:
            return False
        try:
            answer = await self._link.ask(lambda transport, _: transport.ask("PATCH", path, query=NO_HTML))
        except TooLarge as fault:
            if fault.status == 200:
                return True
            raise
        if not answer.ok and not is_gone(answer):
            raise self._link.puzzled(answer)
        return answer.ok

    @asynccontextmanager
    async def _left_out(self, message_id: str) -> AsyncIterator[None]:
        """While the broker takes it off the list, no listing under way shows it; if that fails, the next one does."""
        ours_already = message_id in self._skipped
        self._skipped.add(message_id)
        try:
            yield
        except BaseException:
            if not ours_already:
                self._skipped.release(message_id)
                # A look meanwhile may have left it out.
                self._mirror.forget()
            raise
        self._skipped.release(message_id)
        self._mirror.drop(message_id)
        self._paged.marked_read(message_id)


class _ClaimForm(msgspec.Struct, omit_defaults=True):
    silent: bool = False
    turn_id: str = ""
    started: bool = False
    thread: bool = False


def is_gone(answer: Answer) -> bool:
    """The broker, and not something in between, says that there is no such thing for us."""
    return answer.status in (403, 404) and detail_of(answer) is not None


def _is_no_message(answer: Answer) -> bool:
    """The same of a call that only our broker has: another one does not know the path."""
    return is_gone(answer) and detail_of(answer) != "Not Found"
