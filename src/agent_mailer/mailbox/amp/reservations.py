"""File reservations at our broker. It ends them by its own clock: how long each has left counts, not a moment of it.

A broker that keeps none leaves them to `here`, on this machine: who edits one folder is on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.mailbox.amp.answers import Answer, decode, reason_of
from agent_mailer.mailbox.amp.client import RESERVATIONS
from agent_mailer.mailbox.amp.link import OF_THE_AGENT, Link
from agent_mailer.mailbox.amp.transport import path_of
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.names import printable
from agent_mailer.reservations.port import Owner, Reservation, Reservations

T = TypeVar("T")


class _Standing(msgspec.Struct):
    by: str
    turn: str
    pattern: str
    seconds_left: float


class _Conflict(msgspec.Struct):
    held: list[_Standing]


class _Many(msgspec.Struct):
    many: int


class BrokerReservations:
    """Implements `agent_mailer.reservations.port.Reservations`. `by` is a person's name, empty for the agent itself."""

    def __init__(self, link: Link, here: Reservations, clock: Clock, *, project: str, by: str) -> None:
        self._link = link
        self._here = here
        self._clock = clock
        self._project = project
        self._by = by

    async def take(self, turn: str, patterns: Sequence[str], seconds: float) -> Sequence[Reservation]:
        async with self._link.connected():
            if not await self._is_kept():
                return await self._here.take(turn, patterns, seconds)
            order = {**self._whose(turn), "project": self._project, "patterns": list(patterns), "seconds": int(seconds)}
            answer = await self._ask("POST", "", order)
            if answer.status == 409 and reason_of(answer) == "reserved":
                return [self._shown(one) for one in decode(answer, _Conflict).held]
            self._sound(answer)
            return []

    async def renew(self, turn: str, seconds: float) -> bool:
        async with self._link.connected():
            if not await self._is_kept():
                return await self._here.renew(turn, seconds)
            answer = await self._ask("POST", "renew", {**self._whose(turn), "seconds": int(seconds)})
            return decode(self._sound(answer), _Many).many > 0

    async def release(self, turn: str, patterns: Sequence[str] = ()) -> int:
        async with self._link.connected():
            if not await self._is_kept():
                return await self._here.release(turn, patterns)
            order = {**self._whose(turn), "project": self._project, "patterns": list(patterns)}
            return decode(self._sound(await self._ask("POST", "release", order)), _Many).many

    async def held(self) -> Sequence[Reservation]:
        async with self._link.connected():
            if not await self._is_kept():
                return await self._here.held()
            answer = self._sound(await self._ask("GET", ""))
            return [self._shown(one) for one in decode(answer, list[_Standing])]

    async def _is_kept(self) -> bool:
        return RESERVATIONS in (await self._link.broker()).extensions

    def _whose(self, turn: str) -> dict[str, object]:
        return {"turn": turn, "by": self._by}

    async def _ask(self, method: str, last: str, order: dict[str, object] | None = None) -> Answer:
        tail = [last] if last else []
        content = None if order is None else msgspec.json.encode(order)
        query = {"project": self._project} if order is None else None
        return await self._link.ask(
            lambda transport, agent_id: transport.ask(
                method, path_of("agents", agent_id, "reservations", *tail), content=content, query=query
            ),
            OF_THE_AGENT,
        )

    def _sound(self, answer: Answer) -> Answer:
        """Raises MailboxUnavailable."""
        if answer.status == 409 and reason_of(answer) == "too_many":
            words = f"{answer.where}: {printable(answer.body.decode('utf-8', 'replace'), 200)}"
            raise MailboxUnavailable("reservations", words, "agent-mailer mail reservations")
        if not answer.ok:
            raise self._link.puzzled(answer)
        return answer

    def _shown(self, one: _Standing) -> Reservation:
        until = self._clock.now() + one.seconds_left
        return Reservation(Owner(one.by, one.turn), self._project, one.pattern, until)
