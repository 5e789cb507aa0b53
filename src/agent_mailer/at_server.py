"""Wiring: the mailbox of an agent whose mail is at a server, as its configuration names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent_mailer.config import MailboxKind, RuntimeKind
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.state.workdirs import user_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_mailer.clock import Clock
    from agent_mailer.config import Config
    from agent_mailer.disk import Disk
    from agent_mailer.mailbox.amp.adapter import AmpMailbox
    from agent_mailer.mailbox.amp.client import Credentials
    from agent_mailer.mailbox.mcp_agent_mail.adapter import McpAgentMailbox
    from agent_mailer.mailbox.port import Mailbox
    from agent_mailer.mailbox.relay.adapter import RelayMailbox
    from agent_mailer.reservations.leases import Leases
    from agent_mailer.reservations.port import Reservation, Reservations
    from agent_mailer.state.folder import StateFolder
    from agent_mailer.trust.workdir import Trust
    from agent_mailer.watch.reserving import Reserving
    from agent_mailer.watch.room import Room


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


class ReservingPlace(Place, Protocol):
    def maildir_root(self) -> Path: ...


def mailbox_of(place: Place) -> Mailbox:
    """Raises ConfigFault where the configuration names none."""
    if place.config.mailbox_kind is MailboxKind.MCP_AGENT_MAIL:
        return mcp_agent_mail(place, place.config.address)
    if place.config.mailbox_kind is MailboxKind.RELAY:
        return relay(place, place.config.address)
    return _amp(place)


def mcp_agent_mail(place: Place, name: str, program: str = "") -> McpAgentMailbox:
    """That of `name`, which is this workdir's agent or a person. Raises ConfigFault."""
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
    folder = user_state() / "mcp_agent_mail"
    return McpAgentMailbox(account, folder, place.disk, rhythm=rhythm, clock=place.clock)


def relay(place: Place, name: str) -> RelayMailbox:
    """That of `name` at an Agent Relay server, which is this workdir's agent or a person. Raises ConfigFault."""
    from agent_mailer.mailbox.relay.adapter import RelayMailbox, Rhythm
    from agent_mailer.mailbox.relay.session import Account
    from agent_mailer.names import whole_digest
    from agent_mailer.policies import approve_of

    config, is_agent = place.config, name == place.config.address
    asked, mode = approve_of(config), config.permission_mode
    guarded = asked.refused or bool(asked.rules)
    account = Account(
        url=config.broker_url,
        name=name,
        token=config.api_key,
        caps=config.relay.caps if is_agent else (),
        tags=config.relay.tags if is_agent else (),
        label=config.relay.label if is_agent else "",
        channels=config.relay.channels if is_agent else (),
        machine=platform.node(),
        cwd=str(place.project_dir() or place.workdir),
        approval="read-only" if mode is PermissionMode.PLAN else "guarded" if guarded else "open",
        program=(config.runtime or RuntimeKind.COMMAND).value if is_agent else "agent-mailer",
    )
    seen = f"{whole_digest(chr(0).join((config.broker_url, name)))[:32]}.json"
    path = place.folder.path / "relay.json" if is_agent else user_state() / "relay" / seen
    rhythm = Rhythm(float(config.poll_interval_idle), float(config.poll_interval_active))
    return RelayMailbox(account, path, place.disk, rhythm=rhythm, clock=place.clock)


def project_of(place: Place) -> str:
    """Under which path an mcp_agent_mail server keeps the agents that may write to each other. Raises ConfigFault."""
    from agent_mailer.config import expand

    named = place.config.mcp_agent_mail.project
    return str(expand(named, place.workdir) if named else place.project_dir() or place.workdir)


def real_project_of(place: Place) -> str:
    """Where the files are that one reserves, by whatever link one comes to them. Raises ConfigFault."""
    return os.path.realpath(project_of(place))


def person_of(place: Place) -> str:
    """Under which name a person reserves."""
    if place.config.mailbox_kind is MailboxKind.MCP_AGENT_MAIL:
        from agent_mailer.mailbox.mcp_agent_mail.identity import USER

        return USER
    if place.config.mailbox_kind is MailboxKind.RELAY:
        from agent_mailer.mailbox.relay.session import USER as RELAY_USER

        return RELAY_USER
    return "user" if place.config.mailbox_kind is MailboxKind.MAILDIR else "operator"


def reservations_of(place: ReservingPlace, address: str) -> Reservations:
    """Of the project, for an agent or a person. Raises ConfigFault."""
    from agent_mailer.path_patterns import overlap

    kind = place.config.mailbox_kind
    if kind is MailboxKind.MCP_AGENT_MAIL:
        return mcp_agent_mail(place, address).reservations(overlap)
    project = real_project_of(place)
    here = _leases(place, project, address)
    return _at_broker(place, here, project, address) if kind is MailboxKind.AMP else here


def _at_broker(place: Place, here: Reservations, project: str, address: str) -> Reservations:
    from agent_mailer.errors import UsageFault
    from agent_mailer.mailbox.amp.link import Link
    from agent_mailer.mailbox.amp.reservations import BrokerReservations

    by = "" if address.casefold() == place.config.address.casefold() else address
    if "@" in by:
        raise UsageFault("bad_address", f"{address} reserves with its own key, in its own workdir", "leave out --as")
    return BrokerReservations(
        Link(_shown_by(place), limits=None, clock=place.clock), here, place.clock, project=project, by=by
    )


def _leases(place: ReservingPlace, project: str, address: str) -> Leases:
    """Below the mailbox's root; for agents of a broker that keeps none, in the user's state."""
    from agent_mailer.reservations.leases import Leases

    in_folder = place.config.mailbox_kind is MailboxKind.MAILDIR
    folder = place.maildir_root() / "meta" if in_folder else user_state() / "reservations"
    return Leases(folder, place.disk, place.clock, project=project, address=address)


def equip(room: Room, place: ReservingPlace, mailbox: Mailbox) -> None:
    """Give a watcher what its server, or whoever works on the same files, has for it. Raises ConfigFault."""
    if place.config.mailbox_kind is MailboxKind.AMP:
        from agent_mailer.mailbox.amp.adapter import AmpMailbox

        room.remote = mailbox.remote if isinstance(mailbox, AmpMailbox) else None
    if place.config.reserves:
        room.reserving = reserving_of(place, mailbox.address)


SHARED_LOOKS, SERVER_LOOKS = 0.5, 5.0
"""Seconds between two looks at what others hold: in a file, and at a server of reservations."""


def reserving_of(place: ReservingPlace, address: str) -> Reserving:
    """What a watcher's turns reserve. Raises ConfigFault, also for a path that can be none."""
    from agent_mailer.reservations.port import ReservePolicy
    from agent_mailer.watch.reserving import Reserving

    config, project = place.config, real_project_of(place)
    rhythm = SHARED_LOOKS if config.mailbox_kind is MailboxKind.MAILDIR else SERVER_LOOKS
    policy = ReservePolicy(_reserved(place, project), config.on_conflict)
    return Reserving(reservations_of(place, address), policy, Path(project), address, rhythm=rhythm)


def in_the_way(place: ReservingPlace, address: str) -> Sequence[Reservation]:
    """What others hold of the files that this agent's turns reserve, as the folder tells it. Raises ConfigFault,
    MailboxUnavailable.
    """
    project = real_project_of(place)
    return _leases(place, project, address).of_others(_reserved(place, project))


def _reserved(place: ReservingPlace, project: str) -> tuple[str, ...]:
    from agent_mailer.errors import UsageFault
    from agent_mailer.reservations.patterns import checked

    try:
        return checked(place.config.reserve, project) if place.config.reserve else ()
    except UsageFault as fault:
        raise ConfigFault(fault.code, f"reserve: {fault.message}", "agent-mailer config set reserve 'src/**'") from None


def _amp(place: Place) -> AmpMailbox:
    from agent_mailer.mailbox.amp.adapter import AmpMailbox, Rhythm

    rhythm = Rhythm(float(place.config.poll_interval_idle), float(place.config.poll_interval_active))
    return AmpMailbox(
        _shown_by(place),
        place.config.address,
        watcher=place.folder.watcher_id(),
        watcher_name=f"{platform.node() or 'a host'}, process {os.getpid()}, {place.workdir}",
        rhythm=rhythm,
        clock=place.clock,
    )


def _shown_by(place: Place) -> Callable[[], Credentials]:
    from agent_mailer.mailbox.amp.client import Credentials

    def credentials() -> Credentials:
        config = place.trust.load().config
        return Credentials(place.config.broker_url, config.agent_id, config.api_key)

    return credentials
