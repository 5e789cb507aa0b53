"""Making a team's folders, or bringing them up to what `team.yaml` says: agents found or registered, set up, told."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.config import RuntimeKind
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, MailerError, put_aside
from agent_mailer.mailbox.amp.account import AccountClient
from agent_mailer.mailbox.amp.client import at_broker
from agent_mailer.mailbox.maildir.layout import FOLDER
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.service.install import own_program
from agent_mailer.setup import Wishes, before_it_is_there, mailbox_meant
from agent_mailer.setup.documents import ADAPTERS, plan_documents
from agent_mailer.setup.found import refusal
from agent_mailer.setup.logins import Login
from agent_mailer.setup.registering import Registration, register
from agent_mailer.setup.sandbox import settle_sandbox
from agent_mailer.setup.workdir import set_up
from agent_mailer.teams.kept import has_team, standing
from agent_mailer.teams.place import START, STOP
from agent_mailer.teams.plan import FILE, Member, Team, body_of, leaves_of, written
from agent_mailer.teams.stopped import AGENTS, at
from agent_mailer.trust.standing import BODIES
from agent_mailer.trust.workdir import in_a_turn

BEGIN, END = "<!-- team: begin -->", "<!-- team: end -->"

Unfenced = Callable[[str], PermissionMode]
"""Which mode to take where no sandbox stands around a turn; it is told why."""


def workdir_of(directory: Path, member: Member) -> Path:
    return directory / AGENTS / member.name


def make(
    team: Team, directory: Path, login: Login | None, disk: Disk, *, mode: PermissionMode | None, unfenced: Unfenced
) -> Iterator[str]:
    """Make what is missing, change what differs; yields lines that say what was done, and can be begun again.

    `mode` None: everything where a sandbox is proved to stand around each turn, else what `unfenced` says. Raises
    ConfigFault, UsageFault, OSError, and what the broker says no with.
    """
    disk.make_directory(directory / AGENTS)
    for member in team.members:
        disk.make_directory(workdir_of(directory, member))
        _link_project(team, workdir_of(directory, member), disk)
    made = {member.name: _register(team, member, directory, login) for member in team.members}
    if login is not None:
        asyncio.run(_gather_at_broker(team, made, login))
        addresses = ", ".join(_address(made[member.name], member) for member in team.members)
        yield f"{len(made)} agents at {login.broker_url}: {addresses}"
    if mode is None:
        mode, why = _carried(team, directory, made, unfenced)
        yield f"permission mode {mode}: {why}"
    team = msgspec.structs.replace(team, mode=mode)
    if not (directory / FILE).exists():
        disk.replace(directory / FILE, written(team), sync=Sync.NONE)
        yield f"wrote {directory / FILE}"
    told = {member.role: _address(made[member.name], member) for member in team.members}
    for member in team.members:
        changed = _write_texts(workdir_of(directory, member), member, disk)
        changed |= _set_up(team, member, directory, made[member.name], mode)
        changed |= _tell_the_agent(workdir_of(directory, member), member, told, disk)
        yield f"{member.role}: {'set up' if changed else 'as it was'} in {workdir_of(directory, member)}"
    _write_scripts(directory, disk)


def _register(team: Team, member: Member, directory: Path, login: Login | None) -> Registration | None:
    if login is None:
        return None
    values = _values(team, member, directory, None, team.mode)
    workdir = workdir_of(directory, member)
    with suppress(ConfigFault):
        if Workplace(workdir).config.agent_id:
            # Known at the broker under the id that it has had; its address may be another one by now.
            del values["address"]
    with before_it_is_there():
        return register(_place(workdir, values), _wishes(team, member), by_login=True)


async def _gather_at_broker(team: Team, made: Mapping[str, Registration | None], login: Login) -> None:
    """The broker's own team of that name has these agents, as `team.yaml` describes them."""
    with before_it_is_there(), at_broker("amp login"):
        async with AccountClient(login.broker_url, login.token) as account:
            found = await account.team(team.name)
            for member in team.members:
                one = made[member.name]
                assert one is not None
                await account.change_agent(
                    one.me.agent_id,
                    team_id=found.id,
                    role=member.role,
                    description=member.description,
                    prompt=member.system_prompt,
                )


def _values(
    team: Team, member: Member, directory: Path, made: Registration | None, mode: PermissionMode
) -> dict[str, object]:
    """Its configuration as the team has it; tables as mappings."""
    values: dict[str, object] = {"address": member.name, "agent_name": member.name}
    if made is not None:
        values |= made.values
    elif team.local:
        values["maildir_root"] = str(team.root or directory / FOLDER)
    else:
        values["broker_url"] = team.broker_url
    values |= {"runtime": (member.runtime or team.runtime).value, "permission_mode": mode.value}
    if team.project is not None:
        values["project_dir"] = str(team.project)
    return {**values, **member.values}


def _place(workdir: Path, values: Mapping[str, object]) -> Workplace:
    return Workplace(workdir, {**values, **mailbox_meant(Workplace(workdir, values), values, Wishes())})


def _wishes(team: Team, member: Member) -> Wishes:
    kind = member.runtime or team.runtime
    # Its prompt stands in the team's part of AGENT.md, where it follows the file; the broker is told beside.
    return Wishes(
        role=member.role,
        description=member.description,
        adapter=kind.value if kind.value in ADAPTERS else RuntimeKind.CODEX.value,
        replace_protocol=True,
    )


def _set_up(team: Team, member: Member, directory: Path, made: Registration | None, mode: PermissionMode) -> bool:
    """Whether anything was written."""
    values = _values(team, member, directory, made, mode)
    place = _place(workdir_of(directory, member), values)
    before = _bytes(place.folder.config)
    documents = plan_documents(place, made.identity if made is not None else "", _wishes(team, member))
    leaves = dict(leaf for key, value in values.items() for leaf in leaves_of(key, value))
    set_up(place, leaves, documents, documents.replacements)
    settle_sandbox(place, {}, None)
    _trust_texts(workdir_of(directory, member), member)
    return _bytes(place.folder.config) != before


def _write_texts(workdir: Path, member: Member, disk: Disk) -> bool:
    """What its schedules send, before the configuration names it. Whether anything was written."""
    changed = False
    for name, text in member.texts.items():
        path = workdir / body_of(name)
        if _bytes(path) != text.encode():
            disk.make_directory(path.parent)
            disk.replace(path, text.encode(), sync=Sync.NONE)
            changed = True
    return changed


def _trust_texts(workdir: Path, member: Member) -> None:
    """The person who has the team made stands behind what its file says."""
    if member.texts and not in_a_turn(os.environ):
        trust = Workplace(workdir).trust
        with trust.changing():
            trust.follow(trust.verdict, FILE, tuple(f"{BODIES}{body_of(name)}" for name in member.texts))


def _carried(
    team: Team, directory: Path, made: Mapping[str, Registration | None], unfenced: Unfenced
) -> tuple[PermissionMode, str]:
    """Everything, as far as a proved sandbox and the agent program carry that; and why."""
    first, wanted = team.members[0], PermissionMode.BYPASS_PERMISSIONS
    _set_up(team, first, directory, made[first.name], PermissionMode.ACCEPT_EDITS)
    place = Workplace(workdir_of(directory, first))
    for member in team.members:
        # Its own values, too: they say which agent is described, and in which variables it runs.
        values = _values(team, member, directory, made[member.name], wanted)
        fault = refusal(_place(workdir_of(directory, member), values), {})
        if fault is not None:
            return PermissionMode.ACCEPT_EDITS, f"{fault.message} ({fault.fix})"
    kind_of_sandbox = place.config.sandbox.kind
    if kind_of_sandbox.value == "off":
        chosen = unfenced("no sandbox stands around a turn here: agent-mailer doctor says why")
        return chosen, "no sandbox holds here"
    return wanted, f"the sandbox {kind_of_sandbox} was tried here, and stands around each turn"


def _address(made: Registration | None, member: Member) -> str:
    return made.me.address if made is not None else member.name


def _tell_the_agent(workdir: Path, member: Member, told: Mapping[str, str], disk: Disk) -> bool:
    """Its part, and who else there is, between marks of the team's in AGENT.md; what others wrote there stays."""
    path = workdir / "AGENT.md"
    before = (_bytes(path) or b"").decode("utf-8", "surrogateescape")
    rows = "".join(f"- {role}: {address}{' (you)' if role == member.role else ''}\n" for role, address in told.items())
    own = member.system_prompt.strip() or member.description
    block = f"{BEGIN}\n## Your part: {member.role}\n\n{own}\n\n## Your team\n\n{rows}{END}\n"
    start = before.find(BEGIN)
    end = before.find(END, start) if start >= 0 else -1
    if end >= 0:
        after = before[:start] + block + before[end + len(END) :].removeprefix("\n")
    else:
        after = f"{before.rstrip()}\n\n{block}" if before.strip() else block
    if after == before:
        return False
    target = Path(os.path.realpath(path))
    disk.replace(target, after.encode("utf-8", "surrogateescape"), sync=Sync.NONE)
    return True


def _link_project(team: Team, workdir: Path, disk: Disk) -> None:
    """`project` leads to where the work is. Raises ConfigFault where something else has that name."""
    link = workdir / "project"
    if team.project is None:
        return
    if link.is_symlink():
        if Path(os.path.realpath(link)) == Path(os.path.realpath(team.project)):
            return
        disk.remove(link)
    elif link.exists():
        raise ConfigFault("in_the_way", f"{link} is there, and is no link to {team.project}", put_aside(link))
    link.symlink_to(team.project)


def _write_scripts(directory: Path, disk: Disk) -> None:
    program = own_program(os.environ.get("PATH", os.defpath))
    for name, verb in ((START, "start"), (STOP, "stop")):
        words = shlex.join([str(program), "team", verb, "--dir", "."])
        text = f'#!/bin/sh\n# Written by amp.\ncd -- "$(dirname -- "$0")" && exec {words} "$@"\n'
        if _bytes(directory / name) != text.encode():
            disk.replace(directory / name, text.encode(), sync=Sync.NONE)
        disk.system.chmod(directory / name, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    ignored = directory / ".gitignore"
    if not ignored.exists():
        lines = (f"/{AGENTS}/", "/.agent-mailer/", f"/{FOLDER}/", f"/{FILE}", f"/{START}", f"/{STOP}")
        disk.replace(ignored, "".join(f"{line}\n" for line in lines).encode(), sync=Sync.NONE)


def _bytes(path: Path) -> bytes | None:
    try:
        return read_regular(path, follow=True)
    except FileNotFoundError:
        return None


def file_with(workdir: Path, key: str) -> Path | None:
    """The file of a team from which the next `amp up` writes that key of the workdir's configuration again, if one."""
    directory = workdir.parent.parent
    if not has_team(directory):
        return None
    with suppress(ConfigFault):
        team = standing(directory).team
        for member in team.members:
            values = _values(team, member, directory, None, team.mode)
            if member.name == workdir.name and key in {leaf for one in values.items() for leaf, _ in leaves_of(*one)}:
                return directory / FILE
    return None


def workplaces(team: Team, directory: Path) -> dict[str, Workplace]:
    """The workplace of each agent that is set up, by name."""
    places = {member.name: workdir_of(directory, member) for member in team.members}
    return {name: Workplace(path) for name, path in places.items() if (path / ".agent-mailer/config.toml").exists()}


def require_set_up(directory: Path, members: Iterable[Member], places: Mapping[str, Workplace]) -> None:
    """Raises MailerError for an agent that is not set up, or no longer."""
    for member in members:
        if member.name not in places:
            what = f"{member.name} is not set up in {workdir_of(directory, member)}"
            raise MailerError("not_set_up", what, f"amp up {at(directory)}")
