"""A team as `team.yaml` says it: who belongs to it, where its mail is, what does the work.

The file has the keys that the existing launcher writes, and is read: what a person changes in it holds from the next
`up`. Any further key of an agent is one of its configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from agent_mailer.config import RuntimeKind
from agent_mailer.config_values import check_value
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.names import one_of, printable
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.embedded import EMBEDDED, url_of

FILE = "team.yaml"
LARGEST = 1024 * 1024
LONGEST_NAME = 31
MOST_AGENTS = 100
LOCAL = ""
"""The broker's URL of a team whose mail is in a folder."""

_WATCH = "agent-mailer watch"
_HEAD = "# A team of agents. Change it, then: amp up (a running team takes it over without losing a turn).\n"
_LAUNCHERS = (
    "team",
    "broker_url",
    "runtime",
    "agent_runtime",
    "permission_mode",
    "project_dir",
    "maildir_root",
    "agents",
)
_OWN = ("name", "role", "description", "system_prompt", "runtime")
_DECIDED = frozenset(
    {"agent_id", "agent_name", "address", "api_key", "broker_url", "mailbox", "maildir_root", "project_dir", "runtime"}
)
"""Keys of the configuration that the team as a whole decides."""

RUNTIMES = (RuntimeKind.CLAUDE, RuntimeKind.CODEX, RuntimeKind.COMMAND, RuntimeKind.INFINITI)


class Member(msgspec.Struct, frozen=True):
    """An agent of a team. `name` is its folder, and stands before the @ of its address; `runtime` None = the team's;
    `values` are keys of its configuration, tables as mappings; `texts` what its schedules send, by their names, where
    the team's file has it.
    """

    name: str
    role: str
    description: str = ""
    system_prompt: str = ""
    runtime: RuntimeKind | None = None
    values: Mapping[str, object] = {}
    texts: Mapping[str, str] = {}


class Team(msgspec.Struct, frozen=True):
    """`broker_url` empty = a folder mailbox in the team's own folder; `project` None = the agents' folders are all."""

    name: str
    runtime: RuntimeKind
    mode: PermissionMode
    members: tuple[Member, ...]
    broker_url: str = LOCAL
    project: Path | None = None
    embedded: bool = False
    """The broker is the team's own."""
    root: Path | None = None
    """Of a folder mailbox that is not the team's own."""

    @property
    def local(self) -> bool:
        return self.broker_url == LOCAL

    @property
    def keeps_mail(self) -> bool:
        """It lies in the team's own folder."""
        return self.embedded or (self.local and self.root is None)

    def member(self, word: str) -> Member:
        """By role or name. Raises UsageFault."""
        found = [member for member in self.members if word in (member.role, member.name)]
        if len(found) != 1:
            known = ", ".join(member.role for member in self.members)
            what = "several agents" if found else "no agent"
            raise UsageFault(
                "no_member", f"{self.name} has {what} {printable(word, 60)!r}; it has: {known}", "amp status"
            )
        return found[0]

    @property
    def lead(self) -> Member:
        """Who gets a person's task: the planner, else the first."""
        return next((member for member in self.members if member.role == "planner"), self.members[0])


def team_name(text: str) -> str:
    """As the launcher makes one of a folder's or a typed name. Raises UsageFault where nothing of it can be one."""
    name = re.sub(r"[^a-z0-9_-]", "-", text.lower())[:LONGEST_NAME].strip("-_")
    if not name:
        raise UsageFault(
            "bad_team_name",
            f"{printable(text, 60)!r} cannot name a team: nothing of it is a-z or 0-9",
            "give a name: amp codex NAME",
        )
    return name


def read_team(directory: Path, path: Path | None = None) -> Team:
    """What `team.yaml` in that folder says, or `path` of it. Raises ConfigFault naming the line, or the key."""
    path = path or directory / FILE
    import yaml

    try:
        data = read_regular(path, LARGEST + 1, follow=True)
    except FileNotFoundError:
        raise ConfigFault("no_team", f"{directory} is no team: it has no {FILE}", "amp list, or amp init") from None
    except OSError as error:
        raise ConfigFault("bad_team", f"{path} cannot be read: {error.strerror}", f"ls -l {path}") from None
    if len(data) > LARGEST:
        raise ConfigFault("bad_team", f"{path} is larger than {LARGEST} bytes", f"ls -l {path}")
    try:
        raw = yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = printable(f"{error.context or ''} {error.problem or ''}".strip(), 200)
        hint = "; YAML is indented by blanks, never by tabs" if "'\\t'" in str(error) else ""
        raise ConfigFault("bad_team", f"{path}:{where}: {what}{hint}", f"edit {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigFault("bad_team", f"{path} is no YAML: {printable(str(error), 200)}", f"edit {path}") from None
    try:
        team = _team_of(raw)
    except (MailerError, msgspec.ValidationError) as fault:
        why = fault.message if isinstance(fault, MailerError) else str(fault)
        raise ConfigFault("bad_team", f"{path}: {why}", f"edit {path}") from None
    if team.broker_url == EMBEDDED:
        return msgspec.structs.replace(team, broker_url=url_of(directory), embedded=True)
    return team


def without(before: Team, after: Team) -> Team:
    """Who was in the team, and is no more."""
    stay = {member.name for member in after.members}
    return msgspec.structs.replace(before, members=tuple(one for one in before.members if one.name not in stay))


def template(name: str) -> tuple[Member, ...]:
    """The agents of a shipped template; `name` of each is its role. Raises UsageFault."""
    import yaml

    one_of(name, templates(), "--template")
    raw = yaml.safe_load((_templates_folder() / f"{name}.yaml").read_text("utf-8"))
    return tuple(_member_of(one, "") for one in raw["agents"])


def templates() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _templates_folder().glob("*.yaml")))


@cache
def _templates_folder() -> Path:
    """As shipped: beside the package in a wheel, at the top of the tree in an editable install."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "templates" / "teams", here.parents[3] / "templates" / "teams"):
        if folder.is_dir():
            return folder
    raise ConfigFault(
        "no_templates", "the templates of teams are missing from this installation", "reinstall agent-mailer"
    )


def written(team: Team) -> bytes:
    """The file for a new team."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks, and nothing by reference: a person reads and changes it."""

        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    shape: dict[str, object] = {
        "team": team.name,
        "broker_url": EMBEDDED if team.embedded else team.broker_url,
        "runtime": _WATCH,
        "agent_runtime": team.runtime.value,
        "permission_mode": team.mode.value,
        **({"project_dir": str(team.project)} if team.project is not None else {}),
        **({"maildir_root": str(team.root)} if team.root is not None else {}),
        "agents": [_shape_of(member) for member in team.members],
    }
    body = yaml.dump(shape, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return (_HEAD + body).encode()


def _shape_of(member: Member) -> dict[str, object]:
    own = {
        "name": member.name,
        "role": member.role,
        "description": member.description,
        "system_prompt": member.system_prompt,
        "runtime": member.runtime.value if member.runtime is not None else "",
    }
    values = dict(member.values)
    if member.texts:
        values["schedule"] = [_with_its_text(one, member.texts) for one in _tables(values["schedule"])]
    return {key: value for key, value in own.items() if value} | values


def _with_its_text(schedule: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
    text = texts.get(str(schedule["name"]))
    if text is None:
        return dict(schedule)
    return {key: value for key, value in schedule.items() if key != "body"} | {"text": text}


def body_of(name: str) -> str:
    """Where in the workdir the text of a schedule lies that stands in the team's file."""
    return f"schedules/{name}.md"


def _tables(value: object) -> list[dict[str, object]]:
    return msgspec.convert(value, list[dict[str, object]])


class _Head(msgspec.Struct, rename={"name": "team"}):
    name: str
    agents: list[dict[str, object]]
    broker_url: str | None = LOCAL
    agent_runtime: RuntimeKind = RuntimeKind.CLAUDE
    permission_mode: PermissionMode = PermissionMode.ACCEPT_EDITS
    project_dir: str | None = None
    maildir_root: str | None = None


def _team_of(raw: object) -> Team:
    """Raises MailerError, msgspec.ValidationError."""
    if not isinstance(raw, dict):
        raise ConfigFault("bad_team", "it holds no keys", "")
    if unknown := [key for key in raw if key not in _LAUNCHERS]:
        raise ConfigFault(
            "bad_team", f"there is no key {printable(str(unknown[0]), 60)!r} ({', '.join(_LAUNCHERS)})", ""
        )
    head = msgspec.convert(raw, _Head)
    if team_name(head.name) != head.name:
        raise ConfigFault(
            "bad_team", f"{printable(head.name, 60)!r} cannot name a team ({team_name(head.name)} can)", ""
        )
    if not 0 < len(head.agents) <= MOST_AGENTS:
        raise ConfigFault("bad_team", f"a team has 1 to {MOST_AGENTS} agents", "")
    members = tuple(_member_of(one, f"{head.name}_") for one in head.agents)
    for what, words in (("name", [m.name for m in members]), ("role", [m.role for m in members])):
        if twice := {word for word in words if words.count(word) > 1}:
            raise ConfigFault("bad_team", f"two agents have the {what} {min(twice)}", "")
    project = Path(head.project_dir).expanduser() if head.project_dir else None
    root = Path(head.maildir_root).expanduser() if head.maildir_root else None
    if root is not None and (head.broker_url or not root.is_absolute()):
        raise ConfigFault("bad_team", "maildir_root is the whole path of a folder, and needs no broker_url", "")
    url = head.broker_url or LOCAL
    return Team(head.name, head.agent_runtime, head.permission_mode, members, url, project, root=root)


class _Own(msgspec.Struct):
    role: str
    name: str = ""
    description: str = ""
    system_prompt: str = ""
    runtime: RuntimeKind | None = None


def _member_of(raw: Mapping[str, object], prefix: str) -> Member:
    """Raises MailerError, msgspec.ValidationError."""
    own = msgspec.convert({key: raw[key] for key in _OWN if key in raw}, _Own)
    name = own.name or f"{prefix}{own.role}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise UsageFault("bad_name", f"{printable(name, 60)!r} cannot name an agent (a-z, 0-9, - and _)", "")
    values = {str(key): value for key, value in raw.items() if key not in _OWN}
    texts = {}
    if "schedule" in values:
        tables = _tables(values["schedule"])
        texts = {str(one.get("name")): msgspec.convert(one.pop("text"), str) for one in tables if "text" in one}
        values["schedule"] = [{"body": body_of(str(one.get("name"))), **one} for one in tables]
    for key, value in values.items():
        if key in _DECIDED:
            raise UsageFault("decided", f"agent {name}: {key} is decided by the team, not for one of its agents", "")
        for leaf, inner in leaves_of(key, value):
            check_value(leaf, inner)
    return Member(name, own.role, own.description, own.system_prompt, own.runtime, values, texts)


def leaves_of(key: str, value: object) -> list[tuple[str, object]]:
    """A key of the configuration with its value; of a table each key in it as `table.key`."""
    if isinstance(value, Mapping):
        return [(f"{key}.{name}", inner) for name, inner in value.items()]
    return [(key, value)]
