"""An agent leaves its folder, its place or its address; what it had goes along, or is laid where a person finds it.

Nobody may be at work there: each of these holds the workdir's lock, and a service is taken out first, by hand.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import BusyFault, ConfigFault, UsageFault, quoted
from agent_mailer.mailbox.maildir.leaving import carry, rename_mailbox, take_mailbox_out
from agent_mailer.names import path_name
from agent_mailer.process.handle import is_alive
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.setup.config_file import ConfigFile
from agent_mailer.setup.workdir import require_handle
from agent_mailer.state.workdirs import remember, user_state

REMOVED = "removed"
"""In the user's state folder: what removed agents had, a folder each."""
_PATHS = ("maildir_root", "project_dir", "config_home")
"""Keys whose path may lie in the workdir, and then moves with it."""


class Removed(msgspec.Struct, frozen=True):
    """`kept` holds what it had: `state`, and `mail` where its mailbox was a folder."""

    kept: Path
    mail: bool


def remove(place: Workplace, environ: Mapping[str, str]) -> Removed:
    """Nobody is known by its address from here on, and the folder has no agent; nothing that it had is deleted.

    Raises BusyFault where somebody is at work, MailerError and OSError. Called again after a kill it does what is left.
    """
    with _nobody_there(place, environ):
        kept = _nobodys_yet(user_state() / REMOVED, place.handle or place.workdir.name)
        place.disk.make_directory(kept, sync=Sync.FULL)
        mail = False
        try:
            if place.in_folder and place.handle:
                mail = take_mailbox_out(place.disk, place.maildir_root(), place.handle, kept / "mail")
        except ConfigFault as fault:
            # A root that is gone, as with a disk, has nobody who could write to it.
            if fault.code != "no_maildir_root":
                raise
        carry(place.disk, place.folder.path, kept / "state")
    place.disk.remove(place.trust.keeper.path(place.workdir))
    return Removed(kept, mail)


def move(place: Workplace, target: Path, environ: Mapping[str, str]) -> list[str]:
    """The workdir, and all in it, is `target` from here on, which is absolute. Returns lines that say what was done.

    Raises UsageFault where it cannot be there, BusyFault where somebody is at work, MailerError and OSError.
    """
    source = place.workdir
    if os.path.lexists(target):
        raise UsageFault("exists", f"{target} is there already", "name a folder that is not there yet")
    if not target.parent.is_dir():
        raise UsageFault("no_folder", f"{target.parent} is not there", f"mkdir -p {quoted(target.parent)}")
    if target.is_relative_to(source):
        raise UsageFault("inside", f"{target} lies in {source} itself", "name a folder outside of it")
    if target.parent.stat().st_dev != source.stat().st_dev:
        raise UsageFault(
            "other_disk",
            f"{target} is on another file system than {source}",
            f"mv {quoted(source)} {quoted(target)}, then: agent-mailer config trust -C {quoted(target)}",
        )
    inside = {key: path for key in _PATHS if (path := _below(getattr(place.config, key, ""), source)) is not None}
    with _nobody_there(place, environ):
        place.disk.move(source, target, sync=Sync.FULL)
        place.disk.sync_directory(source.parent)
    moved = Workplace(target)
    lines = [f"moved     {source} -> {target}"]
    trusted = moved.trust.verdict
    file = ConfigFile(moved.folder.config, moved.disk)
    for key, path in inside.items():
        file.set(key, str(target / path))
        lines.append(f"changed   {key}: {source / path} -> {target / path}")
    with moved.trust.changing():
        if inside:
            file.save()
        moved.trust.follow(trusted, "agent move", tuple(inside))
    remember(target)
    return lines


def rename(place: Workplace, address: str, environ: Mapping[str, str]) -> list[str]:
    """Its folder mailbox, with all mail in it, is that of `address` from here on. Returns lines that say what was done.

    Raises UsageFault for an address that cannot be, BusyFault where somebody is at work, MailerError and OSError.
    Called again after a kill it does what is left.
    """
    if not place.in_folder:
        raise UsageFault(
            "not_in_a_folder",
            f"its mailbox is at {place.config.broker_url or 'a server'}, which says what its address is",
            "agent-mailer init registers another name there",
        )
    require_handle(address)
    before = place.handle
    if address == before:
        raise UsageFault("same_address", f"its address is {address} already", "agent-mailer status")
    root = place.maildir_root()
    with _nobody_there(place, environ):
        trusted = place.trust.verdict
        went = rename_mailbox(place.disk, root, before, address)
        file = ConfigFile(place.folder.config, place.disk)
        file.set("address", address)
        with place.trust.changing():
            file.save()
            place.trust.follow(trusted, "agent rename", ("address",))
    lines = [f"address   {before} -> {address}"]
    if went:
        lines.append(f"moved     its mailbox, with all mail in it, to {root / 'agents' / address}")
    return lines


@contextmanager
def _nobody_there(place: Workplace, environ: Mapping[str, str]) -> Iterator[None]:
    """Raises BusyFault with the command that ends who is there."""
    installed = Units(units_folder(environ), Disk()).of(place.workdir)
    if installed is not None:
        raise BusyFault(
            "service_installed",
            f"{installed.name} is installed as a service and works here",
            f"agent-mailer service uninstall {installed.name}",
        )
    lock = place.lock()
    lock.acquire()
    try:
        _require_no_turn(place)
        yield
    finally:
        lock.release()


def _require_no_turn(place: Workplace) -> None:
    """A turn outlives its watcher. Raises BusyFault for one that runs."""
    for turn in place.state.turns.indexed():
        record = None if place.state.turns.is_settled(turn.turn_id) else place.state.turns.load(turn.turn_id)
        if record is not None and record.process is not None and is_alive(record.process):
            raise BusyFault(
                "turn_runs",
                f"the turn {turn.turn_id} still runs",
                f"agent-mailer turns stop {turn.turn_id} -C {quoted(place.workdir)}, or wait for it: "
                "agent-mailer watch --once",
            )


def _nobodys_yet(base: Path, name: str) -> Path:
    """A folder that is not there yet: of two agents of one name each keeps its own, though they go in one second."""
    stem = f"{path_name(name)}-{time.strftime('%Y%m%dT%H%M%S')}"
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(path for name in names if not os.path.lexists(path := base / name))


def _below(value: object, folder: Path) -> Path | None:
    """An absolute path in the folder, seen from there."""
    if not isinstance(value, str) or not value.startswith("/"):
        return None
    try:
        return Path(os.path.normpath(value)).relative_to(folder)
    except ValueError:
        return None
