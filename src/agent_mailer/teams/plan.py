"""A team: who belongs to it, where its mail is, what does the work; and `team.yaml` as it is written for a new one.

The file has the keys that the existing launcher writes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent_mailer.config import RuntimeKind
from agent_mailer.errors import UsageFault
from agent_mailer.names import printable
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.embedded import EMBEDDED

FILE = "team.yaml"
LARGEST = 1024 * 1024
LONGEST_NAME = 31
MOST_AGENTS = 100
LOCAL = ""
"""The broker's URL of a team whose mail is in a folder."""

_SPELLED = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
"""Letters that no accent makes of others."""

_WATCH = "agent-mailer watch"
_HEAD = "# A team of agents. Change it, then: amp up (a running team takes it over without losing a turn).\n"


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
    """Of a folder's or a typed name: letters without their accents, what is none as a hyphen. Raises UsageFault where
    nothing of it can be one.
    """
    spelled = unicodedata.normalize("NFKD", text.lower().translate(_SPELLED))
    name = _plain("".join(letter for letter in spelled if not unicodedata.combining(letter))).strip("-_")
    if not name:
        raise UsageFault(
            "bad_team_name",
            f"{printable(text, 60)!r} cannot name a team: nothing of it is a-z or 0-9",
            "give a name of a-z, 0-9, - and _: --team NAME",
        )
    return name


def names_of(text: str) -> tuple[str, ...]:
    """What a team of that name can be called: `team_name`, then as the existing launcher makes it, and as we once did.

    Raises UsageFault where nothing of it can be one.
    """
    theirs = _plain(text.lower())
    return tuple(dict.fromkeys(filter(None, (team_name(text), theirs, theirs.strip("-_")))))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text)[:LONGEST_NAME]


def without(before: Team, after: Team) -> Team:
    """Who was in the team, and is no more."""
    stay = {member.name for member in after.members}
    return msgspec.structs.replace(before, members=tuple(one for one in before.members if one.name not in stay))


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


def leaves_of(key: str, value: object) -> list[tuple[str, object]]:
    """A key of the configuration with its value; of a table each key in it as `table.key`."""
    if isinstance(value, Mapping):
        return [(f"{key}.{name}", inner) for name, inner in value.items()]
    return [(key, value)]
