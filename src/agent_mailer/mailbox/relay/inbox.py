"""What waits, and taking it: what the server lists as unread, less what our file says was taken."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from agent_mailer.mailbox.port import (
    MAX_WAITING,
    Envelope,
    Gone,
    Listing,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    Progress,
    Refused,
    oldest_of_each,
)
from agent_mailer.mailbox.relay import reader
from agent_mailer.mailbox.relay.claims import Claims
from agent_mailer.mailbox.relay.reader import Row, envelope_of, is_claimable, message_of, number_of, task_of
from agent_mailer.mailbox.relay.seen import Seen
from agent_mailer.mailbox.relay.server import CallRefused, Server
from agent_mailer.mailbox.relay.session import Session

STALE_ROWS: Final = 200
"""So many finished messages that are still listed as unread say that the server does not heed our marks: from then on
it is asked for what came after them."""

MOST_FAILURES: Final = 5
"""Of threads in one look of a person's."""

TRIES: Final = 20
"""Looks at which the server fails at the same message's thread, and lists all the same: then it is what the message
itself says."""


class Inbox:
    """One agent's. Every method raises MailboxUnavailable."""

    def __init__(self, server: Server, session: Session, claims: Claims, seen: Seen) -> None:
        self._server = server
        self._session = session
        self._claims = claims
        self._seen = seen
        self._threads: dict[str, str] = {}
        """By id, of what was listed last: a thread's name may have to be asked for."""
        self._failed: Counter[str] = Counter()
        """By id, how often that could not be asked."""
        self._odd = set[str]()
        self._since = 0
        self.is_ours = False
        """A watcher has opened it: a look of others changes nothing."""
        self._listing = asyncio.Lock()

    def forget(self) -> None:
        """Begin anew at the next look."""
        self._since = 0
        self._seen.forget()

    async def pending(self, limit: int, beside: Collection[str]) -> Listing:
        async with self._listing:
            finished, since = self._seen.finished(), self._since
            rows, odd = await self._server.rows(self._session.name, unread=True, since=since)
            self._odd = {bad.locator for bad in odd}
            if self.is_ours and not since:
                self._seen.drop(finished - {row.id for row in rows} - self._odd)
            self._leave_behind(rows)
            mine = [row for row in rows if self._is_new(row)]
            # One that cannot be declined just now waits for the next look, and keeps nobody's mail back.
            with suppress(MailboxUnavailable):
                for row in [row for row in mine if row.pair and self.is_ours]:
                    await self.decline(row.pair, row.sender)
                    self._seen.add(row.id, finished=True)
            waiting = [row for row in mine if not row.pair][:MAX_WAITING]
            self._threads = await self._threads_of(waiting)
        new = [envelope_of(row, self._threads[row.id]) for row in waiting if row.id in self._threads]
        return Listing(
            oldest_of_each(new, limit, beside),
            tuple(bad for bad in odd if bad.locator not in self._seen),
            more=len(new) > limit or len(new) < len(waiting),
        )

    async def everything(self) -> list[tuple[Envelope, str, bool]]:
        """What the server has, oldest first, each with its subject and whether it was not taken yet.

        Whose thread the server fails to tell is there under what it answers.
        """
        rows, _ = await self._server.rows(self._session.name, unread=False)
        me = self._session.name
        shown = [row for row in rows if row.sender != me and not row.pair]
        threads = await self._threads_of(shown, failures=MOST_FAILURES)
        return [
            (
                envelope_of(row, threads.get(row.id) or _said_by(row)),
                row.subject,
                self._is_new(row) and me not in row.read_by,
            )
            for row in shown
        ]

    async def claim(self, envelope: Envelope, *, again: bool) -> Message | Gone:
        if envelope.id in self._seen and not again:
            return Gone("it was taken before")
        number = number_of(envelope.locator)
        if number is None:
            return Gone("it is no message of this server")
        if self.is_ours:
            await self._session.beat()
        if is_claimable(envelope.locator):
            row = await self._claims.take(number)
            if isinstance(row, Gone):
                return row
        else:
            found = await self._found(envelope)
            if isinstance(found, Gone):
                return found
            row = found
        if row.id != envelope.id:
            return Gone("the server has another message under this number by now")
        self._seen.add(row.id)
        return message_of(row, await self._thread_of(row))

    async def read(self, envelope: Envelope) -> Message | Gone:
        row = await self._found(envelope)
        return row if isinstance(row, Gone) else message_of(row, await self._thread_of(row))

    async def thread(self, name: str) -> list[Message]:
        rows: list[Row] = []
        if name.isascii() and name.isdigit() and len(name) <= 15:
            rows = await self._server.thread(int(name))
        else:
            mine, _ = await self._server.rows(self._session.name, unread=False)
            of_it = [row for row in mine if name in (row.marks.thread, row.thread)]
            if of_it:
                whole = await self._server.thread(of_it[-1].number)
                rows = list({row.number: row for row in (*whole, *of_it)}.values())
        return [message_of(row, name) for row in sorted(rows, key=lambda row: row.number)]

    async def finish(self, envelope: Envelope, progress: Progress | None) -> None:
        """Marked as read; the task that it is about gets how it ended. What is gone is finished."""
        number = number_of(envelope.locator)
        if task := task_of(envelope.locator):
            ended = progress is None or progress.outcome == "done"
            if ended or (progress is not None and progress.outcome != "blocked"):
                await self.tell_task(task, reader.STATUS_DONE if ended else reader.STATUS_FAILED)
        with suppress(CallRefused):
            body = reader.read_body(self._session.name)
            await self._server.call("PATCH", f"/messages/{number or 0}", body)
        self._seen.add(envelope.id, finished=True)
        self._claims.let_go(number or 0)

    async def tell_task(self, task: str, status: str, result: str = "") -> bool:
        """Whether the server took it."""
        said = {"status": status, "agentId": self._session.name, **({"result": result} if result else {})}
        try:
            await self._server.call("PATCH", f"/tasks/{quote(task, safe='')}/status", {**said, **self._session.guard})
        except CallRefused:
            return False
        return True

    async def decline(self, pair: str, asked_by: str) -> None:
        await self._session.decline_pair(pair, asked_by)

    async def decline_pairs(self) -> None:
        """Those that nobody has answered."""
        with suppress(CallRefused, reader.Strange):
            answer = await self._server.call("GET", "/pairs", query={"agent": self._session.name, "status": "pending"})
            for pair in reader.pairs_in(answer.body, self._session.name):
                await self.decline(pair.id, pair.asked_by)

    def put_away(self, name: str) -> None:
        self._seen.add(name, finished=True)

    def list_again(self, name: str) -> Refused | None:
        if not self._seen.remove(name) and name not in self._odd:
            return Refused("it was not put away here")
        self._since = 0
        return None

    def _is_new(self, row: Row) -> bool:
        """Not taken, nor our own to a group, nor what another has claimed, or has claimed, read, and let run out."""
        me = self._session.name
        if row.id in self._seen or (row.sender == me and row.to != me):
            return False
        return not row.is_claimable or row.claimed_by == me or not (row.claimed_by or set(row.read_by) - {me})

    def _leave_behind(self, rows: list[Row]) -> None:
        done = 0
        for row in rows:
            if row.id not in self._seen:
                break
            done = row.number
        stale = sum(row.id in self._seen for row in rows)
        self._since = done if stale > STALE_ROWS else self._since

    async def _found(self, envelope: Envelope) -> Row | Gone:
        row = await self._server.row(number_of(envelope.locator) or 0)
        if row is None or row.id != envelope.id:
            return Gone("the server has no such message any more")
        return row

    async def _threads_of(self, rows: list[Row], failures: int = 1) -> dict[str, str]:
        """By id, of those whose thread is to be had now: where the server fails at one, others are asked about first
        the next time. After so many `failures` no more is asked.
        """
        found: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: self._failed[row.id]):
            try:
                found[row.id] = await self._thread_of(row)
            except MailboxRefused:
                raise
            except MailboxUnavailable:
                # It has just listed. The next look, should it fail altogether, says so.
                self._failed[row.id] += 1
                if self._failed[row.id] >= TRIES:
                    found[row.id] = _said_by(row)
                    continue
                failures -= 1
                if not failures:
                    break
        return found

    async def _thread_of(self, row: Row) -> str:
        """The name of its thread: the one it is given, else the number of its first message."""
        if row.marks.thread or row.id in self._threads:
            return row.marks.thread or self._threads[row.id]
        if row.thread and not row.thread.isdigit():
            return row.thread
        if row.reply_to is None and row.thread in ("", str(row.number)):
            return str(row.number)
        chain = await self._server.thread(row.number)
        first = chain[0] if chain else row
        return first.marks.thread or (str(first.number) if first.number != row.number else _said_by(row))


def _said_by(row: Row) -> str:
    """The thread of a message that nothing else is known of."""
    return str(row.reply_to or row.number)
