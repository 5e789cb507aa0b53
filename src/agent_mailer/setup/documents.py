"""An agent's documents: their texts, and writing them; what a person wrote in them stays."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.identity import IDENTITY_FILES, MOST_BYTES, parse_identity
from agent_mailer.names import printable

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.setup import Wishes

BEGIN = "<!-- agent-mailer: begin -->"
END = "<!-- agent-mailer: end -->"

MAIL = """\
## Mail

Mail for this agent arrives by `agent-mailer watch`: for each message it starts one turn that nobody attends, and names
the message in the prompt. In such a turn read and answer with the tools of the MCP server `agent_mailer` (read_message,
read_thread, list_contacts, reply, forward, send, read_memory, write_memory, finish) or with the command
`agent-mailer mail` (read, thread, contacts, reply, forward, send, finish). They need neither key nor network; what they
send leaves when the turn ends well. Without an answer of yours your final words are the answer.

In a session with a person the same command is there, with `--as` and the agent's address: `agent-mailer mail inbox`.
Mail is not fetched or sent with curl, and nothing is polled: the watcher keeps account of what is done.
"""

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"(?P<marks>#{1,6})(?:\s+(?P<title>.*?))?\s*")
_PROTOCOL = re.compile(r"邮箱协议|\bmail(er)?\b.*\bprotocol\b|^auto-watch\b")
"""What the headings say of the sections that tell an agent to fetch and send mail by itself."""


class Adapter(msgspec.Struct, frozen=True):
    """The file that an agent program reads by itself, and the identity file that it leads to."""

    file: str
    identity: str = "AGENT.md"
    imports: bool = False
    """A line `@FILE` takes that file in."""


ADAPTERS: dict[str, Adapter] = {
    "claude": Adapter("CLAUDE.md", imports=True),
    "codex": Adapter("AGENTS.md"),
    "acp": Adapter("AGENTS.md"),
    "cursor": Adapter(".cursorrules"),
    "openclaw": Adapter("CLAW.md"),
    "dreamfactory": Adapter("DREAMER.md", "SOUL.md"),
    "infiniti": Adapter("INFINITI.md", "SOUL.md"),
}


class Self(msgspec.Struct, frozen=True):
    """Who the agent is at its broker. The strings are the broker's: untrusted."""

    name: str
    address: str
    agent_id: str
    broker_url: str
    role: str = ""
    system_prompt: str = ""


def identity_text(me: Self) -> str:
    """The bullets that name the agent."""
    lines = (
        ("Name", me.name),
        ("Role", me.role),
        ("Address", me.address),
        ("Agent ID", me.agent_id),
        ("Broker URL", me.broker_url),
    )
    bullets = "".join(f"- **{label}**: {one_line(value)}\n" for label, value in lines if value)
    return f"# Agent Identity\n\n{bullets}"


def new_identity_file(me: Self, from_broker: str) -> str:
    """An identity file where there was none: the broker's text with our section on mail, or one of our own."""
    if from_broker.strip():
        made = from_broker if from_broker.endswith("\n") else from_broker + "\n"
        replaced = without_protocol(made)
        return replaced if replaced != made else with_block(made, MAIL)
    prompt = f"\n## System Prompt\n\n{me.system_prompt.strip()}\n" if me.system_prompt.strip() else ""
    return f"{identity_text(me)}{prompt}\n{BEGIN}\n{MAIL}{END}\n"


def adapter_block(adapter: Adapter) -> str:
    reference = f"\n@{adapter.identity}\n" if adapter.imports else ""
    text = f"You are the agent that {adapter.identity} in this folder describes: read it before anything else.\n"
    return text + reference


def leads_to(text: str, identity: str) -> bool:
    """Somebody else has seen to it already, that the identity file is read."""
    return re.search(rf"(?m)^\s*@(?:import\s+)?(?:\./)?{re.escape(identity)}\s*$", text) is not None


def with_block(text: str, inner: str) -> str:
    """`text` with our block holding `inner`: the one that is there, else a new one at the end."""
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    block = f"{BEGIN}\n{inner.rstrip()}\n{END}".replace("\n", end_of_line)
    place = _block_in(text)
    if place is not None:
        return text[: place[0]] + block + text[place[1] :]
    if not text:
        return block + end_of_line
    gap = "" if text.endswith(("\n", "\r")) else end_of_line
    return f"{text}{gap}{end_of_line}{block}{end_of_line}"


def block_of(text: str) -> str | None:
    """What stands between our marks; None where they are not."""
    place = _block_in(text)
    return None if place is None else text[place[0] + len(BEGIN) : place[1] - len(END)]


def protocol_titles(text: str) -> list[str]:
    """The headings of the sections that `without_protocol` would take out."""
    return [text[start:].splitlines()[0].lstrip("#").strip() for start, _ in _protocol_sections(text)]


def without_protocol(text: str) -> str:
    """The sections on fetching and sending mail by oneself replaced by ours; the same text where there are none."""
    sections = _protocol_sections(text)
    if not sections:
        return text
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    ours = "" if _block_in(text) else f"{BEGIN}\n{MAIL}{END}\n".replace("\n", end_of_line)
    parts: list[str] = []
    position = 0
    for number, (start, end) in enumerate(sections):
        parts.append(text[position:start])
        if number == 0 and ours:
            parts.append(ours + (end_of_line if end < len(text) else ""))
        position = end
    return "".join(parts) + text[position:]


def one_line(text: str) -> str:
    """A label's value, whatever the broker says it is."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _block_in(text: str) -> tuple[int, int] | None:
    start = text.find(BEGIN)
    end = text.find(END, start + len(BEGIN)) if start >= 0 else -1
    return (start, end + len(END)) if end >= 0 else None


def _protocol_sections(text: str) -> list[tuple[int, int]]:
    """Where they begin and end, each with what is below it; none of ours, none in a fence."""
    found: list[tuple[int, int]] = []
    ours = _block_in(text) or (len(text), len(text))
    fence = ""
    open_at, level, position, headings = -1, 0, 0, 0
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        mark = _FENCE.match(line)
        if mark is not None and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
            continue
        heading = None if fence else _HEADING.fullmatch(line.rstrip("\r\n"))
        if heading is None and start != ours[0]:
            continue
        depth = len(heading["marks"]) if heading is not None else 1
        headings += heading is not None
        if open_at >= 0 and (depth <= level or start == ours[0]):
            found.append((open_at, start))
            open_at = -1
        title = (heading["title"] or "").casefold() if heading is not None else ""
        # The head of the whole document begins no section, whatever it says.
        of_mail = _PROTOCOL.search(title) is not None and not (depth == 1 and headings == 1)
        if open_at < 0 and of_mail and not ours[0] <= start < ours[1]:
            open_at, level = start, depth
    if open_at >= 0:
        found.append((open_at, len(text)))
    return found


BACKUP = ".before-agent-mailer"


class Change(msgspec.Struct, frozen=True):
    """A file as it is to be. `before` None = it is new."""

    path: Path
    before: str | None
    after: str

    @property
    def titles(self) -> str:
        """The headings of the sections that a replacement takes out."""
        return ", ".join(repr(printable(title, 60)) for title in protocol_titles(self.before or ""))

    def diff(self) -> Iterator[str]:
        name, before = self.path.name, (self.before or "").splitlines()
        return difflib.unified_diff(before, self.after.splitlines(), name, f"{name} (new)", lineterm="")


def plan_identity(workdir: Path, file: str, me: Self, from_broker: str) -> Change | None:
    """The identity file `file` for that agent; None where it is right already. Raises ConfigFault, OSError."""
    path = workdir / file
    before = _read(path)
    if before is None:
        return Change(path, None, new_identity_file(me, from_broker))
    named = parse_identity(before)
    if named.get("agent_id") == me.agent_id or (not named.get("agent_id") and named.get("address") == me.address):
        after = with_block(before, MAIL) if block_of(before) is not None else before
    else:
        after = with_block(before, f"{identity_text(me)}\n{MAIL}")
        _require_agreement(path, after, me)
    return Change(path, before, after) if after != before else None


def plan_adapter(workdir: Path, adapter: Adapter) -> Change | None:
    """The file that leads an agent program to the identity file; None where one does already."""
    path = workdir / adapter.file
    if os.path.realpath(path) == os.path.realpath(workdir / adapter.identity):
        return None  # one file under both names
    before = _read(path)
    if before is not None and block_of(before) is None and leads_to(before, adapter.identity):
        return None
    after = with_block(before or "", adapter_block(adapter))
    return Change(path, before, after) if after != before else None


def plan_replacements(workdir: Path) -> list[Change]:
    """The identity files without the sections that tell an agent to fetch and send mail by itself."""
    found = []
    for name in IDENTITY_FILES:
        before = _read(workdir / name)
        if before is not None and (after := without_protocol(before)) != before:
            found.append(Change(workdir / name, before, after))
    return found


class Documents(msgspec.Struct, frozen=True):
    """What is to stand in a workdir's documents.

    `me` None: the mail is in a folder, and no document needs to name the agent. `replacements` are offered, each by
    itself: sections that tell the agent to fetch and send mail by itself.
    """

    workdir: Path
    replacements: tuple[Change, ...] = ()
    me: Self | None = None
    adapter: Adapter | None = None
    from_broker: str = ""

    @property
    def identity(self) -> str:
        return self.adapter.identity if self.adapter is not None else "AGENT.md"


def plan_documents(place: Workplace, from_broker: str, wishes: Wishes) -> Documents:
    """`from_broker` is the broker's text of AGENT.md. Raises ConfigFault for a file that names another agent."""
    config, workdir = place.config, place.workdir
    replacements = () if wishes.replace_protocol is False else tuple(plan_replacements(workdir))
    if not (place.at_broker or wishes.adapter or wishes.system_prompt):
        return Documents(workdir, replacements)
    me = Self(
        name=config.agent_name or place.handle,
        address=place.handle,
        agent_id=config.agent_id,
        broker_url=config.broker_url,
        role=wishes.role,
        system_prompt=wishes.system_prompt,
    )
    kind = wishes.adapter if wishes.adapter in ADAPTERS else config.runtime.value if config.runtime is not None else ""
    plan = Documents(workdir, replacements, me, ADAPTERS.get(kind), from_broker)
    plan_identity(workdir, plan.identity, me, from_broker)
    return plan


def write_documents(plan: Documents, chosen: Sequence[Change], disk: Disk) -> list[str]:
    """Write them, with the replacements that were `chosen`; returns lines that say what became of each."""
    lines = []
    for change in plan.replacements:
        if change in chosen:
            backup = _keep(change, disk)
            _write(change, disk)
            lines.append(f"replaced  {change.titles} in {change.path}; as it was: {backup.name}")
        else:
            lines.append(f"left      {change.titles} in {change.path}, which tells the agent to use curl and its key")
            lines.append("          to replace it: agent-mailer init --replace-protocol-section")
    if plan.me is not None:
        identity = plan_identity(plan.workdir, plan.identity, plan.me, plan.from_broker)
        lines += [_write(identity, disk)] if identity is not None else []
        leading = plan_adapter(plan.workdir, plan.adapter) if plan.adapter is not None else None
        lines += [_write(leading, disk)] if leading is not None else []
    return lines


def _write(change: Change, disk: Disk) -> str:
    """Publish whole, through a link to where it leads, with the modes it had; returns a line that says so."""
    target = Path(os.path.realpath(change.path))
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    disk.replace(target, change.after.encode("utf-8", "surrogateescape"), sync=Sync.NONE)
    disk.system.chmod(target, mode)
    return f"{'wrote    ' if change.before is None else 'added to '} {change.path}"


def _keep(change: Change, disk: Disk) -> Path:
    """A copy of the file as it was, beside it; an older copy stays."""
    data = (change.before or "").encode("utf-8", "surrogateescape")
    number = 1
    while True:
        backup = change.path.with_name(f"{change.path.name}{BACKUP}" + (f"-{number}" if number > 1 else ""))
        try:
            disk.create(backup, data, sync=Sync.NONE)
        except FileExistsError:
            number += 1
            continue
        disk.system.chmod(backup, stat.S_IMODE(change.path.stat().st_mode))
        return backup


def _read(path: Path) -> str | None:
    try:
        data = read_regular(path, MOST_BYTES, follow=True)
    except FileNotFoundError:
        return None
    if len(data) > MOST_BYTES:
        raise ConfigFault("too_large", f"{path} is larger than {MOST_BYTES} bytes", f"ls -l {quoted(path)}")
    return data.decode("utf-8", "surrogateescape")


def _require_agreement(path: Path, text: str, me: Self) -> None:
    named = parse_identity(text)
    for key, ours in (("agent_id", me.agent_id), ("address", me.address)):
        theirs = named.get(key, ours)
        if theirs != ours and ("@" in theirs or key == "agent_id"):
            raise ConfigFault(
                "identity_mismatch",
                f"{path} says {key} {printable(theirs)!r}; the agent here is {printable(ours)!r}",
                "correct or move that file, or set the other agent up: --agent-id ID",
            )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
