"""Who we are at the server: the name's shape, its registration, and the token, without which the name is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.clock import Clock
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, mend, quoted, words_of
from agent_mailer.mailbox.mcp_agent_mail.rpc import WRITE_SECONDS, Argument, Forgotten, Server, ToolRefused
from agent_mailer.names import printable, whole_digest

USER: Final = "the-user"
"""The name of a person at this server; it has no other."""

HEARTBEAT_SECONDS: Final = 3600.0
"""The server retires whoever has neither registered nor sent for a day."""

MOST_BYTES: Final = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REFUSED_ENDS = (
    *("agent", "bot", "assistant", "helper", "manager", "coordinator", "developer", "engineer"),
    *("migrator", "refactorer", "fixer", "harmonizer", "integrator", "optimizer", "analyzer", "worker"),
)


class Identity(msgspec.Struct, frozen=True):
    """`project` is the server's human key: an absolute path; `token` a secret."""

    project: str
    name: str
    token: str
    slug: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.project!r}, {self.name!r})"


class _Project(msgspec.Struct):
    slug: str
    human_key: str


class _Agent(msgspec.Struct):
    name: str
    registration_token: str = ""
    retired_at: str | None = None


def require_name(name: str) -> None:
    """Raises ConfigFault for a name that this server replaces by another, or that nobody could write to."""
    why = ""
    if _NAME.fullmatch(name) is None:
        why = "it takes letters, digits, . _ and -"
    elif name.lower().endswith(_REFUSED_ENDS):
        why = "it takes no mail for a name that ends in a role"
    elif name == name.lower() and not re.search(r"[._-]", name):
        why = "it takes no mail for a plain lower-case word"
    if why:
        base = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "coder"
        raise ConfigFault(
            "bad_name",
            f"{printable(name, 60)!r} can be no address at an mcp_agent_mail server: {why}",
            f"agent-mailer config set address {base}-1",
        )


class Tokens:
    """The identities of this user at all servers: a file each, 0600, in the user's state folder."""

    def __init__(self, folder: Path, disk: Disk, url: str) -> None:
        self.folder = folder
        self._disk = disk
        self._url = url

    def stem(self, project: str, name: str) -> str:
        return whole_digest("\0".join((self._url, project, name.casefold())))[:32]

    def path(self, project: str, name: str) -> Path:
        return self.folder / f"{self.stem(project, name)}.json"

    def read(self, project: str, name: str) -> Identity | None:
        """Raises ConfigFault for a file that is none of ours."""
        path = self.path(project, name)
        try:
            return msgspec.json.decode(read_regular(path, MOST_BYTES), type=Identity)
        except FileNotFoundError:
            return None
        except OSError as error:
            # The token in it is as good as before: without it the name is lost.
            raise ConfigFault("bad_identity", words_of(error), mend(error, path)) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigFault(
                "bad_identity",
                f"{path}: {words_of(error)}",
                f"mv {quoted(path)} {quoted(path)}.old, and take another name",
            ) from None

    def keep(self, identity: Identity) -> None:
        """Durably, before anything is done under that name."""
        self._disk.make_directory(self.folder, sync=Sync.FULL)
        data = msgspec.json.encode(identity) + b"\n"
        self._disk.replace(self.path(identity.project, identity.name), data, sync=Sync.FULL)


class Registration:
    """One name in one project. It is registered when it is first needed, and again now and then, which keeps it."""

    def __init__(
        self, server: Server, tokens: Tokens, clock: Clock, *, project: str, name: str, program: str, model: str
    ) -> None:
        self._server = server
        self._tokens = tokens
        self._clock = clock
        self._project = project
        self.name = name
        self._told: Mapping[str, Argument] = {"program": program, "model": model or "unknown"}
        self._identity: Identity | None = None
        self._fresh_until = 0.0

    @property
    def known(self) -> Identity | None:
        """As it was registered before, by whatever process; None where it never was. Asks nobody."""
        return self._identity or self._tokens.read(self._project, self.name)

    def doubt(self) -> None:
        """Register again before the next call."""
        self._identity = None

    async def identity(self) -> Identity:
        """Raises ConfigFault where the server gives the name to nobody, or the project is another's; MailboxRefused
        where the name is somebody else's; MailboxUnavailable.
        """
        if self._identity is None or self._clock.monotonic() >= self._fresh_until:
            self._identity = await self._register()
            self._fresh_until = self._clock.monotonic() + HEARTBEAT_SECONDS
        return self._identity

    async def _register(self) -> Identity:
        require_name(self.name)
        project = await self._server.call(
            "ensure_project", {"human_key": self._project}, _Project, seconds=WRITE_SECONDS
        )
        if not _same_place(project.human_key, self._project):
            raise ConfigFault(
                "other_project",
                f"the server keeps {printable(self._project)} and {printable(project.human_key)} as one project,"
                f" {printable(project.slug, 80)}: mail of both would be mixed",
                f"agent-mailer config set mcp_agent_mail.project {printable(project.human_key)}, or another path",
            )
        before = self._tokens.read(self._project, self.name)
        given = {"project_key": self._project, "name": self.name, **self._told}
        token = before.token if before is not None else ""
        agent = await self._ask("register_agent", {**given, **({"registration_token": token} if token else {})})
        identity = Identity(self._project, agent.name, agent.registration_token or token, project.slug)
        if before is None or before != identity:
            self._tokens.keep(identity)
        if agent.name.casefold() != self.name.casefold():
            raise ConfigFault(
                "name_replaced",
                f"the server calls us {printable(agent.name)}: it takes {printable(self.name)} for no name",
                f"agent-mailer config set address {printable(agent.name)}",
            )
        ours = {"project_key": self._project, "agent_name": identity.name, "registration_token": identity.token}
        if agent.retired_at:
            await self._server.call("unretire_agent", ours, msgspec.Raw, seconds=WRITE_SECONDS)
        if before is None and "set_contact_policy" in await self._server.tools():
            # Whoever writes is judged here (allow_from), and not by a handshake that nobody would answer.
            with suppress(ToolRefused):
                policy = {**ours, "policy": "open"}
                await self._server.call("set_contact_policy", policy, msgspec.Raw, seconds=WRITE_SECONDS)
        return identity

    async def _ask(self, tool: str, arguments: Mapping[str, Argument]) -> _Agent:
        try:
            return await self._server.call(tool, arguments, _Agent, seconds=WRITE_SECONDS)
        except Forgotten:
            self._server.forget()
            raise


def _same_place(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
