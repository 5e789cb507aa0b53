"""Wiring: the mailbox of an agent whose mail is at a server, as its configuration names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent_mailer.config import MailboxKind, RuntimeKind

if TYPE_CHECKING:
    from agent_mailer.clock import Clock
    from agent_mailer.config import Config
    from agent_mailer.disk import Disk
    from agent_mailer.mailbox.amp.adapter import AmpMailbox
    from agent_mailer.mailbox.amp.client import Credentials
    from agent_mailer.mailbox.mcp_agent_mail.adapter import McpAgentMailbox
    from agent_mailer.mailbox.port import Mailbox
    from agent_mailer.state.folder import StateFolder
    from agent_mailer.trust.workdir import Trust


class Place(Protocol):
    """What of a workplace decides."""

    workdir: Path
    clock: Clock
    disk: Disk
    folder: StateFolder
    trust: Trust

    @property
    def config(self) -> Config: ...

    def project_dir(self) -> Path | None: ...


def mailbox_of(place: Place) -> Mailbox:
    """Raises ConfigFault where the configuration names none."""
    if place.config.mailbox_kind is MailboxKind.MCP_AGENT_MAIL:
        return mcp_agent_mail(place, place.config.address)
    return _amp(place)


def mcp_agent_mail(place: Place, name: str, program: str = "") -> McpAgentMailbox:
    """That of `name`, which is this workdir's agent or a person. Raises ConfigFault."""
    from platformdirs import user_state_path

    from agent_mailer.mailbox.mcp_agent_mail.adapter import Account, McpAgentMailbox, Rhythm

    config = place.config
    account = Account(
        url=config.broker_url,
        name=name,
        project=project_of(place),
        bearer=config.api_key,
        program=program or (config.runtime or RuntimeKind.COMMAND).value,
        model=config.model,
    )
    rhythm = Rhythm(float(config.poll_interval_idle), float(config.poll_interval_active))
    folder = user_state_path("agent-mailer") / "mcp_agent_mail"
    return McpAgentMailbox(account, folder, place.disk, rhythm=rhythm, clock=place.clock)


def project_of(place: Place) -> str:
    """Under which path an mcp_agent_mail server keeps the agents that may write to each other. Raises ConfigFault."""
    from agent_mailer.config import expand

    named = place.config.mcp_agent_mail.project
    return str(expand(named, place.workdir) if named else place.project_dir() or place.workdir)


def _amp(place: Place) -> AmpMailbox:
    from agent_mailer.mailbox.amp.adapter import AmpMailbox, Rhythm
    from agent_mailer.mailbox.amp.client import Credentials

    def credentials() -> Credentials:
        config = place.trust.load().config
        return Credentials(place.config.broker_url, config.agent_id, config.api_key)

    rhythm = Rhythm(float(place.config.poll_interval_idle), float(place.config.poll_interval_active))
    return AmpMailbox(
        credentials,
        place.config.address,
        watcher=place.folder.watcher_id(),
        watcher_name=f"{platform.node() or 'a host'}, process {os.getpid()}, {place.workdir}",
        rhythm=rhythm,
        clock=place.clock,
    )
