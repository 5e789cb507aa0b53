"""File reservations at an mcp_agent_mail server, which only advises: who asks has to look, and to let go again.

Its own check misses a request that is wider than what is held, so what stands is read and compared here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from agent_mailer.mailbox.mcp_agent_mail.identity import Identity, Registration
from agent_mailer.mailbox.mcp_agent_mail.rpc import WRITE_SECONDS, Argument, Server
from agent_mailer.mailbox.mcp_agent_mail.wire import moment_of
from agent_mailer.reservations.port import Owner, Reservation

_SIGN: Final = "agent-mailer "
"""Before the turn's id, in the reason that others are shown."""

SOON: Final = 30.0
"""Seconds."""


class _Held(msgspec.Struct):
    id: int
    agent: str
    path_pattern: str
    expires_ts: str
    exclusive: bool | int = True
    reason: str = ""
    released_ts: str | None = None


class _Holder(msgspec.Struct):
    agent: str = ""
    path_pattern: str = ""
    expires_ts: str = ""


class _Conflict(msgspec.Struct):
    path: str
    holders: list[_Holder] = []


class _Granted(msgspec.Struct):
    id: int
    path_pattern: str = ""


class _Answer(msgspec.Struct):
    granted: list[_Granted] = []
    conflicts: list[_Conflict] = []


class ServerReservations:
    """Implements `agent_mailer.reservations.port.Reservations`. `overlap` says whether two patterns may meet."""

    def __init__(
        self, server: Server, registration: Registration, now: Callable[[], float], overlap: Callable[[str, str], bool]
    ) -> None:
        self._server = server
        self._registration = registration
        self._now = now
        self._overlap = overlap

    async def take(self, turn: str, patterns: Sequence[str], seconds: float) -> Sequence[Reservation]:
        me = await self._registration.identity()
        own = Owner(me.name, turn)
        standing = await self._standing(me)
        way = [one for _, one in standing if one.owner != own and any(self._overlap(one.pattern, p) for p in patterns)]
        if way:
            return way
        order: dict[str, Argument] = {
            **_who(me),
            "paths": list(patterns),
            "ttl_seconds": int(seconds),
            "exclusive": True,
            "reason": f"{_SIGN}{turn}" if turn else "",
        }
        answer = await self._server.call("file_reservation_paths", order, _Answer, seconds=WRITE_SECONDS)
        if not answer.conflicts:
            return []
        # It was granted all the same: let go, or both hold it.
        before = {number for number, one in standing if one.owner == own}
        await self._release(me, [one.id for one in answer.granted if one.id not in before])
        return [
            Reservation(Owner(holder.agent), me.project, holder.path_pattern or conflict.path, _moment(holder))
            for conflict in answer.conflicts
            for holder in (conflict.holders or [_Holder()])
        ]

    async def renew(self, turn: str, seconds: float) -> bool:
        me = await self._registration.identity()
        mine = [(number, one) for number, one in await self._standing(me) if one.owner == Owner(me.name, turn)]
        for number, one in mine:
            # It is extended from its old end, not from now.
            if (more := int(self._now() + seconds - one.until)) > 0:
                order: dict[str, Argument] = {**_who(me), "extend_seconds": more, "file_reservation_ids": [number]}
                await self._server.call("renew_file_reservations", order, msgspec.Raw, seconds=WRITE_SECONDS)
        return bool(mine)

    async def release(self, turn: str, patterns: Sequence[str] = ()) -> int:
        me = await self._registration.identity()
        mine = [
            number
            for number, one in await self._standing(me)
            if one.owner == Owner(me.name, turn) and (not patterns or one.pattern in patterns)
        ]
        await self._release(me, mine)
        return len(mine)

    async def held(self) -> Sequence[Reservation]:
        return [one for _, one in await self._standing(await self._registration.identity())]

    async def _release(self, me: Identity, numbers: list[int]) -> None:
        if numbers:
            order: dict[str, Argument] = {**_who(me), "file_reservation_ids": numbers}
            await self._server.call("release_file_reservations", order, msgspec.Raw, seconds=WRITE_SECONDS)

    async def _standing(self, me: Identity) -> list[tuple[int, Reservation]]:
        uri = f"resource://file_reservations/{me.slug}?active_only=true"
        # What stands by the server's clock stands, whatever ours says: until we look again at least.
        found, soon = [], self._now() + SOON
        for one in await self._server.resource(uri, list[_Held]):
            turn = one.reason.removeprefix(_SIGN) if one.reason.startswith(_SIGN) else ""
            until = max(_moment(one), soon)
            if one.exclusive and not one.released_ts:
                owner = Owner(one.agent, turn if one.agent == me.name else "")
                found.append((one.id, Reservation(owner, me.project, one.path_pattern, until)))
        return found


def _who(me: Identity) -> dict[str, Argument]:
    return {"project_key": me.project, "agent_name": me.name, "registration_token": me.token}


def _moment(one: _Held | _Holder) -> float:
    try:
        return moment_of(one.expires_ts)
    except ValueError:
        return 0.0
