"""Mail that one of several takes: claimed there before a turn, renewed while it runs, looked at before its answer.

A claim there has a lease of unknown length, and renewing one is not in the README: it is tried, and done without.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.port import Gone
from agent_mailer.mailbox.relay import reader
from agent_mailer.mailbox.relay.reader import Row
from agent_mailer.mailbox.relay.server import CallRefused, Conflict, Server
from agent_mailer.mailbox.relay.session import Session
from agent_mailer.names import printable

RENEWAL_SECONDS: Final = 60.0
"""Between two renewals, at most, and where the server does not tell how long a claim holds."""

SHORTEST: Final = 0.2


class _Lease(msgspec.Struct):
    seconds: float
    due: float


class Claims:
    """What we hold. Every call may raise MailboxUnavailable, and BusyFault where our id is somebody else's by now."""

    def __init__(self, server: Server, session: Session, clock: Clock) -> None:
        self._server = server
        self._session = session
        self._clock = clock
        self._held: dict[int, _Lease] = {}

    async def take(self, number: int) -> Row | Gone:
        """The message, once it is ours alone."""
        refused = await self._ask(number)
        row = await self._server.row(number)
        if row is None:
            return Gone("the server has no such message any more")
        if row.claimed_by not in (None, "", self._session.name):
            return Gone(f"{printable(row.claimed_by or '', 100)} has claimed it", elsewhere=True)
        if refused and row.claimed_by != self._session.name:
            return Gone(f"it could not be claimed: {refused}")
        self._note(row)
        return row

    async def whose(self, number: int) -> str:
        """Who has it now, if that is not we: before an answer to it leaves. Where nobody has, we take it again."""
        row = await self._server.row(number)
        if row is None or row.claimed_by in (None, self._session.name):
            return ""
        if not row.claimed_by:
            taken = await self.take(number)
            if isinstance(taken, Row):
                return ""
            row = await self._server.row(number)
        return "" if row is None or row.claimed_by in (None, "", self._session.name) else row.claimed_by

    def let_go(self, number: int) -> None:
        """It is finished: nothing is renewed any more. The server lets the claim run out."""
        self._held.pop(number, None)

    @property
    def next_due(self) -> float:
        """Seconds until something has to be renewed."""
        now = self._clock.monotonic()
        return min((max(0.0, lease.due - now) for lease in self._held.values()), default=float("inf"))

    async def renew(self) -> None:
        """Those that are due. A server that refuses is not asked again."""
        now = self._clock.monotonic()
        for number, lease in list(self._held.items()):
            if lease.due > now:
                continue
            lease.due = now + lease.seconds
            if await self._ask(number):
                self._held.pop(number, None)

    async def _ask(self, number: int) -> str:
        """Claim it; why not, if it was refused."""
        body = {"agentId": self._session.name, **self._session.guard}
        try:
            answer = await self._server.call("POST", f"/messages/{number}/claim", body)
        except Conflict as fault:
            if fault.stale:
                # By its words alone, and a name of somebody else's may be among them.
                await self._session.beat()
            return fault.message
        except CallRefused as fault:
            return fault.message
        return "" if reader.was_claimed(answer.body) else "somebody else has it"

    def _note(self, row: Row) -> None:
        seconds = min(RENEWAL_SECONDS, max(SHORTEST, (row.lease or 3 * RENEWAL_SECONDS) / 3))
        self._held[row.number] = _Lease(seconds, self._clock.monotonic() + seconds)
