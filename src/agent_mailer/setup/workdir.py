"""Setting up a workdir: its config file, its mailbox, git, the notes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.checks.git import in_a_submodule, taken_back, tracked
from agent_mailer.config import GitCare, MailboxKind, expand
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import BusyFault, ConfigFault, UsageFault, quoted
from agent_mailer.git_tree import Part, keep_out
from agent_mailer.mailbox.maildir.layout import FOLDER, USER, add_handle, find_root, is_handle, mailboxes, make_root
from agent_mailer.mailbox.maildir.routes import base_of, siblings
from agent_mailer.mailbox.mcp_agent_mail.identity import USER as AT_SERVER
from agent_mailer.names import printable
from agent_mailer.setup.config_file import ConfigFile, shown
from agent_mailer.setup.documents import Change, Documents, write_documents
from agent_mailer.state.notes import seed_memory
from agent_mailer.state.workdirs import remember
from agent_mailer.trust.workdir import in_a_turn

REQUIRED = (
    *("agent_id", "agent_name", "address", "broker_url", "api_key"),
    *("runtime", "command", "permission_mode"),
)
"""What stands in every file that `init` writes, wherever the value came from, so that the file is whole by itself."""


_OF_A_BROKER = ("agent_id", "agent_name", "broker_url", "api_key")


def set_up(place: Workplace, values: Mapping[str, object], documents: Documents, chosen: Sequence[Change]) -> list[str]:
    """Write `values` and what is required into the config file, and make what is missing around it.

    The place is complete; of the `documents` those replacements are written that were `chosen`. Returns lines that say
    what was done. Raises ConfigFault, UsageFault or OSError; the config file is written last and whole.
    """
    place.require_complete()
    require_nobodys(place, place.handle)
    if place.in_folder:
        require_handle(place.handle)
    elif not place.at_broker:
        _require_name(place)
    if place.folder.path.exists():
        place.folder.check()
    lines: list[str] = []
    trusted, anew = place.trust.verdict, place.trust.begins_anew()
    file = ConfigFile(place.folder.config, place.disk)
    root = _root(place) if place.in_folder else None
    if root is not None:
        _require_no_deaf_mailbox(root, file.get("address"), place.handle)
    wanted = {**_required(place), **values}
    if root is not None and file.get("maildir_root") is None:
        # Found once and for all: what appears around it later makes no other mailbox of it.
        wanted.setdefault("maildir_root", _written(root, place.workdir))
    for key, value in wanted.items():
        before = file.get(key)
        if before != (list(value) if isinstance(value, tuple) else value):
            file.set(key, value)
            if before is not None:
                lines.append(f"changed   {key}: {shown(key, before)} -> {shown(key, value)}")
    if root is not None:
        _make_mailbox(place, root, lines, anew=anew)
    lines += write_documents(documents, chosen, place.disk)
    place.disk.make_directory(place.folder.path, sync=Sync.FULL)
    _prepare(place)
    if anew and not in_a_turn(os.environ):
        _forget_another(place, lines)
    with place.trust.changing():
        saved = "wrote    " if file.save() else "unchanged"
        if not in_a_turn(os.environ):
            # What another workdir of this name was trusted with says nothing of this one.
            place.trust.give(place.trust.reload().there, "init") if anew else place.trust.follow(
                trusted, "init", tuple(wanted)
            )
    lines += _keep_out_of_git(place)
    remember(place.workdir)
    return [f"{saved} {place.folder.config}", *lines]


def _forget_another(place: Workplace, lines: list[str]) -> None:
    """Before the config file is there: what was allowed to another agent of this folder is not allowed to this one."""
    for folder, what in (
        (place.state.approvals.folder, "has asked, and was allowed for good"),
        (place.state.lifts.folder, "was let do beyond its guards and limits"),
    ):
        if folder.exists():
            place.disk.remove_tree(folder)
            lines.append(f"forgot    what an earlier agent of this folder {what}")


def _require_name(place: Workplace) -> None:
    """Raises ConfigFault for what its server would take for no name."""
    if place.config.mailbox_kind is MailboxKind.RELAY:
        from agent_mailer.mailbox.relay.session import require_name
    else:
        from agent_mailer.mailbox.mcp_agent_mail.identity import require_name
    require_name(place.config.address)


def require_handle(address: str) -> None:
    """Raises UsageFault for what cannot name a folder mailbox."""
    if not is_handle(address) or len(address) > 200:
        raise UsageFault(
            "bad_handle",
            f"{printable(address)!r} cannot name a folder mailbox: use a-z, 0-9, _ and -, not beginning with -",
            "give --address HANDLE",
        )


def require_nobodys(place: Workplace, address: str) -> None:
    """Raises UsageFault for the name of a person there: such an agent would take his mail, and answer itself."""
    if not place.at_broker:
        require_no_person(address, USER if place.in_folder else AT_SERVER)


def require_no_person(address: str, person: str) -> None:
    """The same, where `person` is who writes at the terminal."""
    if address.lower() == person:
        why = f"{person} is who writes here at the terminal: an agent of that name would answer itself"
        raise UsageFault(
            "persons_name", why, f"agent-mailer config set address {'coder' if person == USER else 'coder-1'}"
        )


def _require_no_deaf_mailbox(root: Path, before: object, address: str) -> None:
    """Raises UsageFault where the mailbox of another address would be left, in which mail goes on landing."""
    if not isinstance(before, str) or before == address or before not in mailboxes(root):
        return
    raise UsageFault(
        "another_address",
        f"its address is {before}: as {address} it would never read what is sent to {before}; nothing was changed",
        f"agent-mailer agent rename {address}; or, where another agent reads the mail of {before}: "
        f"agent-mailer config set address {address}",
    )


def _required(place: Workplace) -> dict[str, object]:
    plain = msgspec.to_builtins(place.config)
    if place.at_broker:
        return {key: plain[key] for key in REQUIRED if plain[key]}
    if not place.in_folder:
        return {key: plain[key] for key in ("mailbox", *REQUIRED) if plain[key]}
    plain["address"] = place.handle
    return {key: plain[key] for key in REQUIRED if plain[key] and key not in _OF_A_BROKER}


def _written(root: Path, workdir: Path) -> str:
    """The root as it stands in the file: what lies in or above the workdir moves with it."""
    base = base_of(root) or root
    return os.path.relpath(root, workdir) if workdir.is_relative_to(base.parent) else str(root)


def _make_mailbox(place: Workplace, root: Path, lines: list[str], *, anew: bool) -> None:
    if not (root / "agents").is_dir():
        make_root(place.disk, root, [place.handle], place.clock)
        lines.append(f"made      the mailbox root {root}, with mailboxes for {place.handle} and user")
        return
    known = mailboxes(root)
    add_handle(place.disk, root, place.handle, place.clock)
    if place.handle not in known:
        lines.append(f"added     a mailbox for {place.handle} in {root}")
    elif anew:
        lines.append(f"found     the mailbox of {place.handle} in {root}")
    base, others = base_of(root), [other.name for other in siblings(root)]
    if base is not None:
        lines.append(f"joined    the session {root.name} of {base}")
    elif others:
        named = ", ".join(others)
        lines.append(
            f"joined    no session: mail in {named} does not come here (--maildir-root {quoted(root / others[0])})"
        )


def _root(place: Workplace) -> Path:
    """Where the mailboxes are or shall be: as configured or found, else in the workdir itself."""
    explicit = expand(place.config.maildir_root, place.workdir) if place.config.maildir_root else None
    try:
        return find_root(explicit, os.environ, place.workdir)
    except ConfigFault as fault:
        if fault.code != "no_maildir_root":
            raise
        return place.workdir / FOLDER


def _keep_out_of_git(place: Workplace) -> list[str]:
    """Where there is a tree. What keeps us from it keeps nobody from mail: it is told."""
    if place.config.git is GitCare.LEAVE:
        return []
    lines: dict[str, list[str]] = {}
    told = []
    for folder in place.folders_in_git():
        made, fault = keep_out(place.disk, folder)
        for lack in made:
            if lack.part is Part.LINE:
                lines.setdefault(str(lack.path), []).append(f"{folder.name}/")
        if fault is not None:
            told.append(f"warning   git may take {folder.name}/ along: {fault.message}; {fault.fix}")
        if (found := tracked(folder) or (taken_back(folder) if fault is None else None)) is not None:
            told.append(f"warning   {folder.name}/: {found.text}; {found.fix}")
        if warned := in_a_submodule(folder):
            told.append(f"warning   {folder.name}/ {warned}")
    return [*(f"ignored   {' and '.join(names)} in {path}" for path, names in lines.items()), *told]


def _prepare(place: Workplace) -> None:
    """The folders and the notes, as the watcher would make them; one that runs has done so."""
    lock = place.lock()
    try:
        lock.acquire(briefly=True)
    except BusyFault:
        return
    try:
        # Where another client's agent still works, the watcher waits for its end, not we.
        with suppress(BusyFault):
            place.prepare()
        seed_memory(place.folder.memory, place.config.agent_name or place.handle, Disk())
    finally:
        lock.release()
