"""What `team.yaml` says, or what is wrong with it, in which line, and what was meant.

What a person changes in the file holds from the next `up`. Any further key of an agent is one of its configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from agent_mailer.config import RuntimeKind, keys
from agent_mailer.config_values import check_value
from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, MailerError, quoted
from agent_mailer.names import did_you_mean, one_of, printable
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.embedded import EMBEDDED, url_of
from agent_mailer.teams.plan import (
    FILE,
    LARGEST,
    LOCAL,
    LONGEST_NAME,
    MOST_AGENTS,
    Member,
    Team,
    body_of,
    leaves_of,
    team_name,
)

if TYPE_CHECKING:
    import yaml

KEYS = (
    "team",
    "broker_url",
    "runtime",
    "agent_runtime",
    "permission_mode",
    "project_dir",
    "maildir_root",
    "agents",
)
OF_AN_AGENT = ("name", "role", "description", "system_prompt", "runtime")
_NAME = re.compile(rf"(?=.*[a-z0-9])[a-z0-9_-]{{1,{LONGEST_NAME}}}")
"""Also one that the existing launcher has cut at a hyphen."""

_DECIDED = frozenset(
    {"agent_id", "agent_name", "address", "api_key", "broker_url", "mailbox", "maildir_root", "project_dir", "runtime"}
)
"""Keys of the configuration that the team as a whole decides."""

At = tuple[str | int, ...]
"""A place in the file: keys, and numbers in lists."""

Kind = TypeVar("Kind", bound=StrEnum)


class _Misfit(Exception):
    """What stands at that place cannot be."""

    def __init__(self, at: At, why: str) -> None:
        super().__init__(why)
        self.at = at
        self.why = why


def read_team(directory: Path, path: Path | None = None) -> Team:
    """What `team.yaml` in that folder says, or `path` of it. Raises ConfigFault naming the line."""
    path = path or directory / FILE
    raw, root = _parsed(directory, path)
    try:
        if root is not None:
            _refuse_twice(root)
        team = _team_of(raw)
    except _Misfit as misfit:
        line = _line(root, misfit.at) if root is not None else 1
        raise ConfigFault("bad_team", f"{path}: line {line}: {misfit.why}", f"edit {path}") from None
    if team.broker_url == EMBEDDED:
        return msgspec.structs.replace(team, broker_url=url_of(directory), embedded=True)
    return team


def lacks(team: Team, directory: Path) -> ConfigFault | None:
    """A folder that the file names, and that is not there: with its line. Raises ConfigFault as `read_team`."""
    for key, folder in (("project_dir", team.project), ("maildir_root", team.root)):
        if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 - what may not be looked at is not there
            path = directory / FILE
            _, root = _parsed(directory, path)
            line = _line(root, (key,)) if root is not None else 1
            what = "is no folder" if os.path.lexists(folder) else "is not there"
            fix = f"edit {path}, or put {folder} back"
            return ConfigFault("folder_gone", f"{path}: line {line}: {key}: {printable(str(folder), 4096)} {what}", fix)
    return None


def template(name: str) -> tuple[Member, ...]:
    """The agents of a shipped template; `name` of each is its role. Raises UsageFault."""
    import yaml

    one_of(name, templates(), "--template")
    raw = yaml.safe_load((_templates_folder() / f"{name}.yaml").read_text("utf-8"))
    return tuple(_member_of(one, "", ()) for one in raw["agents"])


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


def _parsed(directory: Path, path: Path) -> tuple[object, yaml.Node | None]:
    """Its values, and where they stand; no node of an empty file. Raises ConfigFault."""
    import yaml

    try:
        data = read_regular(path, LARGEST + 1, follow=True)
    except FileNotFoundError:
        raise ConfigFault("no_team", f"{directory} is no team: it has no {FILE}", "amp list, or amp init") from None
    except OSError as error:
        raise ConfigFault("bad_team", f"{path} cannot be read: {error.strerror}", f"ls -l {quoted(path)}") from None
    if len(data) > LARGEST:
        raise ConfigFault("bad_team", f"{path} is larger than {LARGEST} bytes", f"ls -l {quoted(path)}")
    try:
        loader = yaml.SafeLoader(data)
        root: yaml.Node | None = loader.get_single_node()
        return (loader.construct_document(root) if root is not None else None), root
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = printable(f"{error.context or ''} {error.problem or ''}".strip(), 200)
        hint = "; YAML is indented by blanks, never by tabs" if "'\\t'" in str(error) else ""
        raise ConfigFault("bad_team", f"{path}:{where}: {what}{hint}", f"edit {path}") from None
    except yaml.reader.ReaderError as error:
        # In characters it counts what could be decoded, else in bytes.
        of_text = error.encoding == "unicode"
        text = (
            data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace") if of_text else ""
        )
        line = (text[: error.position].count("\n") if of_text else data[: error.position].count(b"\n")) + 1
        why = (
            f"the character U+{error.character:04X}" if of_text else f"the byte 0x{error.character:02x}, no UTF-8 text"
        )
        raise ConfigFault("bad_team", f"{path}: line {line}: {why}, cannot stand there", f"edit {path}") from None
    except RecursionError:
        raise ConfigFault("bad_team", f"{path}: it is nested too deeply", f"edit {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigFault("bad_team", f"{path} is no YAML: {printable(str(error), 200)}", f"edit {path}") from None


def _line(root: yaml.Node, at: At) -> int:
    """Of the key at that place; of what is around it where there is none."""
    node, line = root, root.start_mark.line
    for step in at:
        found = next((pair for pair in _pairs(node) if pair[0] == step), None)
        if found is None:
            break
        _, line, node = found
    return line + 1


def _pairs(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    """Each thing in it: its key or number, the line where it begins, and what it is."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield number, value.start_mark.line, value


def _refuse_twice(root: yaml.Node) -> None:
    """YAML takes the last of two keys of one name, and says nothing. Raises _Misfit."""
    seen = set[int]()
    waiting: list[tuple[At, yaml.Node]] = [((), root)]
    while waiting:
        at, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        here = set[str | int]()
        for key, line, value in _pairs(node):
            if key in here:
                why = f"{printable(str(key), 60)!r} stands there twice, the second time in line {line + 1}"
                raise _Misfit((*at, key), why)
            here.add(key)
            waiting.append(((*at, key), value))


def _team_of(raw: object) -> Team:
    """Raises _Misfit."""
    if raw is None:
        raise _Misfit((), "it is empty: it names the team and its agents")
    if not isinstance(raw, dict):
        raise _Misfit((), "it holds no keys, such as team and agents")
    for key in raw:
        if key not in KEYS:
            raise _Misfit((str(key),), f"there is no key {printable(str(key), 60)!r}{_meant_by(str(key))}")
    name = _text(raw, "team", ())
    if name is None:
        raise _Misfit((), "the key team is missing: what the team is called")
    if not _NAME.fullmatch(name):
        can = did_you_mean(filter(None, [_safe_name(name)]))
        raise _Misfit(("team",), f"{printable(name, 60)!r} cannot name a team (a-z, 0-9, - and _){can}")
    if (watching := _text(raw, "runtime", ())) in {*RuntimeKind} - {raw.get("agent_runtime")}:
        raise _Misfit(("runtime",), f"runtime is what watches; did you mean agent_runtime: {watching}?")
    agents = raw.get("agents")
    if not isinstance(agents, list):
        raise _Misfit(("agents",), "agents is a list, with '- role: coder' and its like for each of them")
    if not 0 < len(agents) <= MOST_AGENTS:
        raise _Misfit(("agents",), f"a team has 1 to {MOST_AGENTS} agents")
    members = tuple(_member_of(one, f"{name}_", ("agents", number)) for number, one in enumerate(agents))
    for what, words in (("name", [m.name for m in members]), ("role", [m.role for m in members])):
        for number, word in enumerate(words):
            if word in words[:number]:
                raise _Misfit(("agents", number, what), f"two agents have the {what} {word}")
    project, root, url = _folder(raw, "project_dir"), _folder(raw, "maildir_root"), _text(raw, "broker_url", ())
    if url and url != EMBEDDED and (why := _no_broker(url)):
        raise _Misfit(("broker_url",), f"broker_url is {printable(url, 100)!r}, and can be: {why}")
    if root and url:
        raise _Misfit(("maildir_root",), "mail is in one place: maildir_root needs no broker_url")
    return Team(
        name,
        _one_kind(raw, "agent_runtime", (), RuntimeKind) or RuntimeKind.CLAUDE,
        _one_kind(raw, "permission_mode", (), PermissionMode) or PermissionMode.ACCEPT_EDITS,
        members,
        url or LOCAL,
        project,
        root=root,
    )


def _folder(raw: Mapping[str, object], key: str) -> Path | None:
    """Raises _Misfit for what is no whole path."""
    said = _text(raw, key, ())
    if not said:
        return None
    with suppress(RuntimeError):  # nobody here is called so
        if (path := Path(said).expanduser()).is_absolute() and "\0" not in said:
            return path
    raise _Misfit((key,), f"{key} is the whole path of a folder, and not {printable(said, 100)!r}")


def _no_broker(url: str) -> str:
    """What it could be, where it is no broker's; else empty."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
        if sound and not (" " in url or parts.query or parts.fragment):
            return ""
    except ValueError:
        pass
    meant = _meant(url, (EMBEDDED,)) or (did_you_mean([f"http://{url}"]) if re.fullmatch(r"[\w.-]+:\d+", url) else "")
    return f"http://HOST:PORT or https://HOST, {EMBEDDED} for one of its own, '' for a folder{meant}"


def _member_of(raw: object, prefix: str, at: At) -> Member:
    """Raises _Misfit."""
    if not isinstance(raw, dict):
        raise _Misfit(at, "each of the agents has keys, as in '- role: coder'")
    role = _text(raw, "role", at)
    if not role:
        raise _Misfit((*at, "role"), "the key role is missing: what the agent is in the team")
    name = _text(raw, "name", at) or f"{prefix}{role}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        key = "name" if raw.get("name") else "role"
        raise _Misfit((*at, key), f"{printable(name, 60)!r} cannot name an agent (a-z, 0-9, - and _)")
    values = {str(key): value for key, value in raw.items() if key not in OF_AN_AGENT}
    texts: Mapping[str, str] = {}
    if "schedule" in values:
        values["schedule"], texts = _schedules_of(values["schedule"], (*at, "schedule"))
    for key, value in values.items():
        if key in _DECIDED:
            why = f"agent {name}: {key} is decided by the team, not for one of its agents"
            raise _Misfit((*at, key), why)
        if key not in keys():
            raise _Misfit((*at, key), f"there is no key {printable(key, 60)!r}{_meant_by(key, of_an_agent=True)}")
        for leaf, inner in leaves_of(key, value):
            _check(leaf, inner, (*at, *leaf.split(".", 1)))
    description, prompt = (_text(raw, key, at) or "" for key in ("description", "system_prompt"))
    return Member(name, role, description, prompt, _one_kind(raw, "runtime", at, RuntimeKind), values, texts)


def _schedules_of(value: object, at: At) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Each with a `body` in place of its `text`; and the texts by name. Raises _Misfit."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _Misfit(at, "schedule is a list, with '- name: nightly' and its like for each of them")
    found, texts = list[dict[str, object]](), dict[str, str]()
    for number, one in enumerate(value):
        name, text = str(one.get("name")), _text(one, "text", (*at, number))
        if text is not None:
            texts[name] = text
        found.append({"body": body_of(name), **{str(key): inner for key, inner in one.items() if key != "text"}})
        _check("schedule", found[-1:], (*at, number))
    return found, texts


def _check(key: str, value: object, at: At) -> None:
    """Raises _Misfit for what cannot be the value of that key of the configuration."""
    try:
        check_value(key, value)
    except MailerError as fault:
        said = re.search(r" - at `?\$\[\d+\]\.(\w+)", fault.message)
        raise _Misfit((*at, said[1]) if said else at, fault.message) from None


def _text(raw: Mapping[str, object], key: str, at: At) -> str | None:
    """Raises _Misfit for what is no text."""
    value = raw.get(key)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping | Sequence):
        raise _Misfit((*at, key), f"{key} is a text, and neither a list nor a table")
    raise _Misfit((*at, key), f"{key} is a text: in quotes, '{printable(str(value), 60)}'")


def _one_kind(raw: Mapping[str, object], key: str, at: At, kinds: type[Kind]) -> Kind | None:
    """Raises _Misfit for what is none of the kind."""
    said = _text(raw, key, at)
    if said is None:
        return None
    values = [kind.value for kind in kinds]
    if said in values:
        return kinds(said)
    why = f"{key} is {printable(said, 60)!r}, and can be: {', '.join(values)}{_meant(said, values)}"
    raise _Misfit((*at, key), why)


def _meant_by(key: str, *, of_an_agent: bool = False) -> str:
    """Which key was meant, as far as that can be told."""
    theirs = (*OF_AN_AGENT, *keys())
    if of_an_agent:
        return f"; {key} stands at the top of the file" if key in KEYS else _meant(key, theirs)
    if not (close := _meant(key, KEYS, 0.8)) and key in theirs:
        return f"; {key} is a key of an agent"
    return close or _meant(key, KEYS) or f" ({', '.join(KEYS)})"


def _meant(said: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """`; did you mean plan?`, where something looks like it."""
    from difflib import get_close_matches

    spelled = {word.lower().replace("_", "").replace("-", ""): word for word in known}
    close = get_close_matches(said.lower().replace("_", "").replace("-", ""), spelled, n=1, cutoff=likeness)
    return did_you_mean(spelled[one] for one in close)


def _safe_name(text: str) -> str:
    """The name that was meant; empty where nothing of it can be one."""
    try:
        return team_name(text)
    except MailerError:
        return ""
