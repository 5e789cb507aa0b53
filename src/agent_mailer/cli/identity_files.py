"""Writing an agent's documents: what a person wrote in them stays."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from agent_mailer.cli.printing import say, screen_text
from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.identity import IDENTITY_FILES, MOST_BYTES, parse_identity
from agent_mailer.joining.texts import (
    MAIL,
    Adapter,
    Self,
    adapter_block,
    block_of,
    identity_text,
    leads_to,
    new_identity_file,
    protocol_titles,
    with_block,
    without_protocol,
)
from agent_mailer.names import printable

BACKUP = ".before-agent-mailer"


class Change(msgspec.Struct, frozen=True):
    """A file as it is to be. `before` None = it is new."""

    path: Path
    before: str | None
    after: str


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


def offer_replacements(
    changes: Sequence[Change], disk: Disk, *, wanted: bool | None, ask: Callable[[str], bool] | None
) -> list[str]:
    """Show and do what `wanted` says, or what a person answers to `ask`; returns lines that say what became of each."""
    lines = []
    for change in changes:
        titles = ", ".join(repr(printable(title, 60)) for title in protocol_titles(change.before or ""))
        name = change.path.name
        if wanted is not False and (wanted or ask is not None):
            print_diff(change)
        do_it = wanted if wanted is not None else ask is not None and ask(f"Replace {titles} in {name} like this?")
        if do_it:
            backup = _keep(change, disk)
            write(change, disk)
            lines.append(f"replaced  {titles} in {change.path}; as it was: {backup.name}")
        elif wanted is None:
            lines.append(f"left      {titles} in {change.path}, which tells the agent to use curl and its key")
            lines.append("          to replace it: agent-mailer init --replace-protocol-section")
    return lines


def print_diff(change: Change) -> None:
    name = change.path.name
    before = (change.before or "").splitlines()
    for line in difflib.unified_diff(before, change.after.splitlines(), name, f"{name} (new)", lineterm=""):
        say(screen_text(line))


def write(change: Change, disk: Disk) -> str:
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
        raise ConfigFault("too_large", f"{path} is larger than {MOST_BYTES} bytes", f"ls -l {path}")
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
