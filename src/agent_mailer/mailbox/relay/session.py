"""Who we are at the server: registered once a watcher, kept alive, and given up where somebody else has registered.

A newer registration of the same id has a higher epoch, and refuses the older one's calls: that one ends.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from enum import StrEnum
from typing import Final
from urllib.parse import quote

import msgspec

from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.mailbox.relay.server import CallRefused, Conflict, NotThere, Server
from agent_mailer.names import printable

HEARTBEAT_SECONDS: Final = 45.0
"""The server takes for offline whom it has not heard for two minutes."""

USER: Final = "the-user"
"""The name of a person at this server, who has no other."""

_LONGEST: Final = 128


class Account(msgspec.Struct, frozen=True):
    """Where the mailbox is and whose, and what others are told of us. `token` is a secret; `cwd` a path."""

    url: str
    name: str
    token: str = ""
    caps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    label: str = ""
    channels: tuple[str, ...] = ()
    machine: str = ""
    cwd: str = ""
    approval: str = ""
    program: str = "agent-mailer"

    def __repr__(self) -> str:
        return f"Account({self.url!r}, {self.name!r})"


class Standing(StrEnum):
    """As the server shows an agent to others."""

    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


def require_name(name: str) -> None:
    """Raises ConfigFault for an id that others could not write to."""
    group = name == "broadcast" or name.startswith(("tag:", "cap:", "label:", "id:", "machine:"))
    if name and name.isprintable() and len(name) <= _LONGEST and not any(one.isspace() for one in name) and not group:
        return
    base = "-".join(name.split())[:40] if not group and name.isprintable() and name.split() else "coder-1"
    why = "it names a group there" if group else f"at most {_LONGEST} characters, and no blanks"
    raise ConfigFault(
        "bad_name",
        f"{printable(name, 60)!r} can be no address at an Agent Relay server: {why}",
        f"agent-mailer config set address {base}",
    )


class Session:
    """One id there. Whoever only looks, or sends, needs no registration."""

    def __init__(self, server: Server, account: Account) -> None:
        self._server = server
        self._account = account
        self._instance = secrets.token_hex(8)
        self._epoch: int | None = None
        self._tells = True
        self.lost: BusyFault | None = None
        """Somebody else has registered under our id since."""

    @property
    def name(self) -> str:
        return self._account.name

    @property
    def guard(self) -> dict[str, object]:
        """What tells our calls from those of an earlier or later holder of the id."""
        return {"instanceId": self._instance, **({} if self._epoch is None else {"epoch": self._epoch})}

    async def register(self) -> None:
        """Raises ConfigFault, MailboxUnavailable."""
        require_name(self.name)
        account = self._account
        body: dict[str, object] = {
            "id": account.name,
            "name": account.name,
            "machine": account.machine,
            "rig": account.program,
            "tags": account.tags,
            "capabilities": account.caps,
            "instanceId": self._instance,
            "meta": {"cwd": account.cwd, "approvalMode": account.approval or "open"},
            **({"label": account.label} if account.label else {}),
            **({"channels": account.channels} if account.channels else {}),
        }
        self._epoch = self._server.read_card(await self._server.call("POST", "/agents", body)).epoch
        self.lost = None

    async def beat(self) -> bool:
        """Keep alive what is registered; whether the server still knew us. Raises BusyFault, MailboxUnavailable."""
        if self.lost is not None:
            raise self.lost
        try:
            await self._server.call("POST", f"{self._path}/heartbeat", self.guard)
        except NotThere:
            await self.register()
            return False
        except Conflict as fault:
            raise self.lose(fault) from None
        return True

    def lose(self, fault: Conflict) -> BusyFault:
        """The fault with which a watcher ends."""
        self.lost = BusyFault(
            "mailbox_busy",
            f"somebody else has registered as {printable(self.name)} since: {printable(fault.message, 200)}",
            "stop that one, or give this workdir an id of its own: agent-mailer config set address NAME",
        )
        return self.lost

    async def tell(self, standing: Standing) -> None:
        """Show others how we stand, where the server has a call for that. Raises MailboxUnavailable."""
        if not self._tells or self.lost is not None:
            return
        try:
            await self._server.call("PATCH", f"{self._path}/status", {"status": standing.value, **self.guard})
        except NotThere:
            self._tells = False
        except CallRefused:
            pass

    async def decline_pair(self, pair: str, asked_by: str) -> None:
        """A pair is a live chat of two sessions; mail has none: that is said to whoever asks. Twice is as once."""
        why = f"{self.name} works by mail, one message after another, and takes no pair session: send it a message."
        if pair != "?":
            with suppress(CallRefused):
                body = {"agentId": self.name, "reason": why, **self.guard}
                await self._server.call("POST", f"/pairs/{quote(pair, safe='')}/reject", body)
        if asked_by:
            with suppress(CallRefused):
                told: dict[str, object] = {"from": self.name, "to": asked_by, "subject": "No pair session", "body": why}
                await self._server.call("POST", "/messages", {**told, "idempotencyKey": f"am-pair-{self.name}-{pair}"})

    @property
    def _path(self) -> str:
        return f"/agents/{quote(self.name, safe='')}"
