"""Wiring: from a workdir and its configuration to mailbox, runtime, state and watcher.

What only a watcher needs is imported where it is made: commands that look at the state pay for nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import msgspec

from agent_mailer.choices import CommandOutput, Kind
from agent_mailer.clock import Clock, SystemClock
from agent_mailer.config import Config, Delivery, GitCare, Loaded, MailboxKind, RuntimeKind, Source, expand
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, MailerError, quoted
from agent_mailer.identity import require_agreement
from agent_mailer.mailbox.maildir.layout import USER, find_root, is_handle
from agent_mailer.state.folder import Damaged, StateFolder
from agent_mailer.trust.workdir import Trust

if TYPE_CHECKING:
    from agent_mailer.confine.confinement import Confinement
    from agent_mailer.events import EventLog
    from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
    from agent_mailer.mailbox.port import Mailbox
    from agent_mailer.prompts import PromptRoom
    from agent_mailer.runtimes.acp.shelf import Shelf
    from agent_mailer.runtimes.port import Reach, Runtime, ToolServer
    from agent_mailer.state import State
    from agent_mailer.state.lock import WorkdirLock
    from agent_mailer.state.records import Sitter, TurnRecord
    from agent_mailer.watch.room import Room
    from agent_mailer.watch.rules import WatchPolicy


def workdir_at(given: Path | None) -> Path:
    """The absolute workdir meant: the one that was given, else the turn's, else the current folder.

    Raises ConfigFault where it does not exist, or no text could name it.
    """
    if given is None:
        # During a turn the agent may have changed its folder.
        turn = os.environ.get("AGENT_MAILER_WORKDIR")
        try:
            given = Path(turn) if turn else Path.cwd()
        except FileNotFoundError:
            raise ConfigFault("no_folder", "the current folder no longer exists", "cd to the agent's folder") from None
    workdir = Path(os.path.abspath(given))  # noqa: PTH100 - a link in the path is the user's wish
    if not workdir.is_dir():
        way = "ls -ld" if os.path.lexists(workdir) else "mkdir -p"
        raise ConfigFault("no_folder", f"{workdir} is not a folder", f"{way} {quoted(workdir)}")
    try:
        str(workdir).encode()
    except UnicodeEncodeError:
        why = f"the name of {workdir} is not UTF-8 text: neither a prompt nor a record could name it"
        raise ConfigFault("bad_folder_name", why, "give it another name: mv") from None
    return workdir


class Workplace:
    """One workdir as a command finds it: its configuration and state. Reading needs no lock."""

    def __init__(
        self,
        workdir: Path,
        flags: Mapping[str, object] | None = None,
        *,
        clock: Clock | None = None,
        damaged: Damaged | None = None,
        loaded: Loaded | None = None,
        anew: bool = False,
    ) -> None:
        """`damaged` is told of state files that cannot be read; by default the log is, by who holds the lock.

        `loaded` stands in for what the files say; `anew` as of `Trust`.
        """
        self.workdir = workdir
        self.clock = clock or SystemClock()
        self.disk = Disk()
        self.folder = StateFolder(workdir, self.disk, self.clock, self._log_damage if damaged is None else damaged)
        self.trust = Trust(self.folder, os.environ, flags or {}, anew=anew)
        if loaded is not None:
            self.loaded = loaded

    @cached_property
    def log(self) -> EventLog:
        from agent_mailer.events import EventLog

        return EventLog(self.folder.log, self.disk, self.clock)

    @cached_property
    def state(self) -> State:
        from agent_mailer.state import State

        return State(self.folder, self.log)

    @cached_property
    def loaded(self) -> Loaded:
        return self.trust.load()

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def configured(self) -> bool:
        return self.folder.config.exists()

    @property
    def flags(self) -> dict[str, object]:
        """The keys that were given as flags, each as a plain value."""
        plain: dict[str, object] = msgspec.to_builtins(self.config)
        return {key: plain[key] for key, source in self.loaded.sources.items() if source is Source.FLAG}

    @property
    def at_broker(self) -> bool:
        """Whether its mail is at a broker of the Agent Mailer Protocol."""
        return self.config.mailbox_kind is MailboxKind.AMP

    @property
    def in_folder(self) -> bool:
        """Whether its mail is in a folder, not at a server."""
        return self.config.mailbox_kind is MailboxKind.MAILDIR

    @property
    def handle(self) -> str:
        return self.config.address or self.config.agent_name

    def missing(self) -> list[tuple[str, str]]:
        """The keys `watch` cannot do without, each with the flag that gives it."""
        from agent_mailer.config_faults import missing_in

        return missing_in(self.config, self.handle)

    def absent(self) -> list[tuple[str, str]]:
        """Of the missing keys those that are not there at all: what is there and nobody trusts counts as missing."""
        there = self.trust.verdict.there.values
        return [one for one in self.missing() if one[0] not in there]

    def require_complete(self) -> None:
        """Raises ConfigFault naming every missing key and its flag, or what nobody trusts."""
        self.trust.require()
        missing = self.missing()
        if missing:
            from agent_mailer.config_faults import incomplete

            absent = self.absent()
            if there := [key for key, flag in missing if (key, flag) not in absent]:
                why = f"{self.folder.config}: nobody trusts what it says of {', '.join(there)}"
                raise ConfigFault("untrusted", why, self.trust.command)
            raise incomplete(self.folder.config, self.loaded, missing)

    def require_identity(self) -> None:
        values = {"agent_id": self.config.agent_id, "address": self.handle, "agent_name": self.config.agent_name}
        require_agreement(self.workdir, values)

    def maildir_root(self) -> Path:
        explicit = expand(self.config.maildir_root, self.workdir) if self.config.maildir_root else None
        return find_root(explicit, os.environ, self.workdir)

    def folders_in_git(self) -> tuple[Path, ...]:
        """What a git tree around it must leave alone: the state, and the mail of every session."""
        from agent_mailer.mailbox.maildir.routes import mail_of_the_tree

        with suppress(ConfigFault):
            if self.in_folder:
                return (self.folder.path, *mail_of_the_tree(self.maildir_root(), self.workdir))
        return (self.folder.path,)

    @overload
    def mailbox(self, handle: None = None) -> Mailbox: ...

    @overload
    def mailbox(self, handle: str) -> MaildirMailbox: ...

    def mailbox(self, handle: str | None = None) -> Mailbox:
        """The mailbox of this agent, or of another handle in the same folder."""
        if not self.in_folder:
            if handle is None:
                from agent_mailer.at_server import mailbox_of

                return mailbox_of(self)
            raise ConfigFault(
                "no_folder_mailbox",
                "this command works on a folder mailbox; this agent's mail is at a server",
                "give --maildir-root, or ask the server",
            )
        from agent_mailer.mailbox.maildir.adapter import MaildirMailbox

        wanted = handle or self.handle
        if not is_handle(wanted):
            why = f"{wanted!r} is no handle of a folder mailbox (a-z, 0-9, _ and -, not starting with -)"
            raise ConfigFault("bad_handle", why, "agent-mailer config set address HANDLE")
        root, every = self.maildir_root(), self.config.poll_interval_idle
        groups = self.config.groups if wanted == self.handle else ()
        return MaildirMailbox(self.disk, root, wanted, clock=self.clock, rescan_seconds=every, groups=groups)

    def runtime(self) -> Runtime:
        """Raises ConfigFault where the agent program refuses what is configured."""
        return self._runtime(self.config)

    def _runtime_then(self, record: TurnRecord) -> Runtime:
        """The one it was started with. Raises ConfigFault, and ValueError where it can be none."""
        kind, _, agent = record.runtime.partition("-")
        output = self.config.command_output
        if record.has_events is not None:
            output = CommandOutput.JSONL if record.has_events else CommandOutput.TEXT
        then = msgspec.structs.replace(self.config, runtime=RuntimeKind(kind), agent=agent, command_output=output)
        return self._runtime(then)

    def _runtime(self, config: Config) -> Runtime:
        from agent_mailer.agents import Around, runtime_of
        from agent_mailer.runtimes.programs import build_env

        env = build_env(self.surroundings(), self.config.env.pass_, self.config.env.set)
        # So that the agent's `agent-mailer mail` is this installation.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH") or os.defpath])
        around = Around(self.workdir, self._for_amq(env), self._reach(), self.trust.verdict.counts.templates)
        return runtime_of(config, around)

    def shelf(self) -> Shelf:
        """The agents that are described for this workdir."""
        from agent_mailer.agents import shelf_of

        return shelf_of(self.trust.verdict.counts.templates)

    def _for_amq(self, env: Mapping[str, str]) -> dict[str, str]:
        """So that an `amq` of the agent's works in this very mailbox; a part of its context alone would stop it."""
        from agent_mailer.mailbox.maildir.amq import pin, without_half_a_pin

        if self.in_folder and is_handle(self.handle):
            with suppress(ConfigFault, OSError):
                return {**env, **pin(self.maildir_root(), self.handle)}
        return without_half_a_pin(env)

    def _reach(self) -> Reach:
        from agent_mailer.fencing import reach_of

        root = self.maildir_root if self.in_folder else (lambda: None)
        return reach_of(self.config, self.folder.config, self.workdir, self.project_dir(), root)

    def surroundings(self) -> dict[str, str]:
        """Our environment, without the places in it that the agent writes in."""
        from agent_mailer.process.environment import without_theirs

        project = self.project_dir()
        return without_theirs(os.environ, [self.workdir] if project is None else [self.workdir, project])

    def project_dir(self) -> Path | None:
        return expand(self.config.project_dir, self.workdir) if self.config.project_dir else None

    def notify_program(self) -> Path:
        """What tells the operator, as it would be started. Raises RuntimeMissing."""
        from agent_mailer.runtimes.programs import find_program, with_interpreter

        notify = self.policy().notify
        program = find_program(notify.command[0] if notify.command else "", self.workdir, notify.env, "notify.command")
        return with_interpreter(program, self.workdir, notify.env)

    def policy(self) -> WatchPolicy:
        from agent_mailer.policies import Where, policy_of
        from agent_mailer.process.first import stopped_in_a_hurry

        where = Where(
            self.workdir,
            self.project_dir(),
            self.handle,
            self.handle if self.in_folder else self.config.address,
            self.surroundings(),
            out_of_git=self.folders_in_git() if self.config.git is GitCare.KEEP_OUT else (),
            agents=self._agents,
            hurried=self.loaded.source("stop_grace") is Source.DEFAULT and stopped_in_a_hurry(os.environ),
            bodies=self.trust.verdict.counts.bodies,
        )
        return policy_of(self.config, where)

    def _agents(self) -> set[str]:
        from agent_mailer.state.workdirs import known_workdirs

        found: set[str] = set()
        for place in map(Workplace, known_workdirs(self.disk).all()):
            with suppress(MailerError, OSError):
                found.add(place.handle)
        return found

    def confinement(self, runtime: Runtime) -> Confinement | None:
        if self.config.sandbox.kind is Kind.OFF:
            return None
        from agent_mailer.confining import Around, confinement_of

        root = self.maildir_root if self.in_folder else (lambda: None)
        around = Around(self.workdir, self.folder.path, self.project_dir(), root, self.disk)
        return confinement_of(self.config, around, runtime.traits)

    def retake(self, loaded: Loaded) -> tuple[WatchPolicy, Runtime]:
        """Act on these values from now on. Raises ConfigFault where nothing could start with them; the old stay."""
        before, self.loaded = self.loaded, loaded
        try:
            self.require_complete()
            return self.policy(), self.runtime()
        except MailerError:
            self.loaded = before
            raise

    def prompts(self) -> PromptRoom:
        from agent_mailer.events import EventName
        from agent_mailer.prompts import PromptRoom

        def told(name: str, why: str) -> None:
            self.log.emit(EventName.TEMPLATE_INVALID, file=name, why=why)

        name, folder = self.config.agent_name or self.handle, self.folder
        counted = self.trust.verdict.counts.templates
        return PromptRoom(name, folder.templates, folder.memory, told, counted)

    def lock(self) -> WorkdirLock:
        from agent_mailer.state.lock import WorkdirLock

        return WorkdirLock(self.folder.path / ".lock")

    def prepare(self) -> None:
        """Make the state ours to write. Only the holder of the lock calls this. Raises BusyFault, ConfigFault."""
        self.state.prepare()

    def room(self, lock: WorkdirLock, policy: WatchPolicy | None = None, *, alone: bool = False) -> Room:
        """All that a watcher needs; the lock must be held. `alone`: it shares no pause with others on its account."""
        from agent_mailer.watch.room import Room

        runtime = self.runtime()
        if not alone:
            self.share_pause(runtime)
        mailbox = self.mailbox()
        room = Room(
            mailbox=mailbox,
            persons=self.mailbox(USER) if self.in_folder else mailbox,
            runtime=runtime,
            confinement=self.confinement(runtime),
            state=self.state,
            policy=policy or self.policy(),
            prompts=self.prompts(),
            clock=self.clock,
            guard=lock.guard,
        )
        room.live_runtime = lambda sitter: self._live(sitter, room.policy)
        room.earlier_runtime = self._runtime_then
        if self.config.delivery is Delivery.LIVE_FIRST:
            from agent_mailer.state.presence import Presence
            from agent_mailer.watch.offering import Offers

            room.offers = Offers(
                self.state,
                Presence(self.workdir, self.disk),
                lambda: room.policy,
                room.work,
                room.look_at_once,
            )
        if self.at_broker or self.config.reserves:
            from agent_mailer.at_server import equip

            equip(room, self, mailbox)
        return room

    def _live(self, sitter: Sitter, policy: WatchPolicy) -> Runtime:
        from agent_mailer.runtimes.live.adapter import LiveRuntime

        return LiveRuntime(sitter.who, sitter.process, policy.live_time)

    def share_pause(self, runtime: Runtime) -> None:
        """Join the pause of the runtime's account, where it names one."""
        if runtime.traits.account is None:
            return
        from agent_mailer.state import State
        from agent_mailer.state.pauses import AccountPause
        from agent_mailer.state.workdirs import user_state

        name, folder = f"{runtime.traits.name}-{runtime.traits.account}", user_state() / "accounts"
        account = AccountPause(folder, name, self.disk, self.folder.clamp, self.folder.damaged)
        self.state = State(self.folder, self.log, account)

    def _log_damage(self, path: Path, why: str) -> None:
        """Who does not hold the lock does not write the log either; the watcher finds the same damage and tells it."""
        if self.folder.ours:
            from agent_mailer.events import EventName

            self.log.emit(EventName.STATE_DAMAGED, file=path.name, why=why)

    def tools(self, turn_dir: Path) -> ToolServer:
        from agent_mailer.runtimes.port import ToolServer
        from agent_mailer.turn_tools.folder import TurnFolder

        return ToolServer(*TurnFolder(turn_dir, self.disk).server(self.workdir))
