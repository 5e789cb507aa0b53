"""What others are told of us, AMQ's own tools first: who is at work, which folders are ours, where an agent's `amq`
belongs; and of which groups an agent is.

All of it is advisory, and written only where something happens anyway: nothing here raises for a disk that refuses.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer import __version__
from agent_mailer.clock import from_iso
from agent_mailer.disk import DIRECTORY_MODE, Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir.format import clean, go_json, rfc3339
from agent_mailer.mailbox.maildir.layout import FOLDER, LAYER, Paths, roster
from agent_mailer.mailbox.port import Presence

PIN: Final = ("AM_ROOT", "AM_ME", "AM_BASE_ROOT", "AM_SESSION", "AM_ROOT_ID", "AM_BASE_ROOT_ID")
"""An `amq` that sees a part of these only, or parts that disagree, refuses to work."""

_MOST_BYTES: Final = 64 * 1024
_SESSION = r"[a-z0-9_-]+"


class Seen(msgspec.Struct, frozen=True):
    """What a presence file says; `at` is in seconds since the epoch."""

    status: str
    at: float | None = None
    note: str = ""


def announce(disk: Disk, paths: Paths, handle: str, now: float, presence: Presence, note: str = "") -> None:
    """As `amq presence set`."""
    _write(disk, paths, handle, now, {"status": presence.value, "note": note})


def touch(disk: Disk, paths: Paths, handle: str, now: float) -> None:
    """As AMQ does where somebody sends or drains: he was there just now; what he said of himself stays."""
    _write(disk, paths, handle, now, {})


def seen(paths: Paths) -> Seen | None:
    """What the handle said of itself last, if anything that can be read."""
    said = _read(paths)
    status, note, at = said.get("status"), said.get("note"), said.get("last_seen")
    if not isinstance(status, str) or not status:
        return None
    moment = None
    with suppress(ValueError):
        moment = from_iso(at) if isinstance(at, str) else None
    return Seen(status, moment, note if isinstance(note, str) else "")


def watcher_of(paths: Paths) -> int | None:
    """The process that watches this mailbox, if one that named itself still lives."""
    with suppress(OSError, ValueError):
        from agent_mailer.process.handle import identify, is_alive  # whoever finds nobody there does without

        identity = identify(int(read_regular(paths.pid_file, 20)))
        return identity.pid if identity is not None and is_alive(identity) else None
    return None


def declare(disk: Disk, root: Path) -> None:
    """The manifest by which `amq doctor` knows whose the folders `extensions/agent-mailer` are."""
    owns = [f"extensions/{LAYER}/**", f"agents/*/extensions/{LAYER}/**"]
    fields = {"schema_version": 1, "layer": LAYER, "version": __version__, "owns": owns}
    data = (json.dumps(fields, indent=2) + "\n").encode()
    path = root / "extensions" / LAYER / "manifest.json"
    with suppress(OSError):
        if path.is_file() and read_regular(path, _MOST_BYTES) == data:
            return
    with suppress(OSError):
        # One by one: a root that has just gone is not made anew.
        for folder in (path.parent.parent, path.parent):
            with suppress(FileExistsError):
                disk.system.mkdir(folder, DIRECTORY_MODE)
        disk.replace(path, data, sync=Sync.NONE)


def pin(root: Path, handle: str) -> dict[str, str]:
    """All that an `amq` of this handle's must see to work in this root. Raises OSError where the root is not there."""
    base, session = (root.parent, root.name) if _is_session(root) else (root, "")
    values = (str(root), handle, str(base), session, _tree(root), _tree(base))
    return dict(zip(PIN, values, strict=True))


def without_half_a_pin(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as it is where it names the whole context, else without any of it."""
    if all(name in environment for name in PIN):
        return dict(environment)
    return {name: value for name, value in environment.items() if name not in PIN}


def show_groups(disk: Disk, paths: Paths, groups: Sequence[str]) -> None:
    """Of which groups the handle is, for who writes to them: beside what AMQ knows."""
    with suppress(OSError):
        disk.make_directory(paths.own)
        disk.replace(paths.groups, (json.dumps({"groups": list(groups)}) + "\n").encode(), sync=Sync.NONE)


def _is_session(root: Path) -> bool:
    """A root right below another, whose roster is its own, or right below the folder that roots are called by."""
    if not re.fullmatch(_SESSION, root.name) or root.is_symlink():
        return False
    if root.parent.name == FOLDER:
        return True
    try:
        return (root.parent / "agents").is_dir() and bool(roster(root.parent))
    except ConfigFault:
        return False


def _tree(folder: Path) -> str:
    found = os.stat(folder)
    return f"v1:{sys.platform}:{found.st_dev:x}:{found.st_ino:x}"


def _write(disk: Disk, paths: Paths, handle: str, now: float, changes: Mapping[str, str]) -> None:
    before, said = _read(paths), seen(paths) or Seen(Presence.ACTIVE.value)
    fields: dict[str, object] = {
        "schema": 1,
        "handle": handle,
        "status": changes.get("status", said.status),
        "last_seen": rfc3339(now),
        "note": changes.get("note", said.note),
    }
    fields |= {name: value for name, value in before.items() if name not in fields}
    data = clean(go_json({name: value for name, value in fields.items() if value})) + "\n"
    with suppress(OSError):
        disk.replace(paths.home / "presence.json", data.encode(), sync=Sync.NONE)


def _read(paths: Paths) -> dict[str, object]:
    try:
        said = json.loads(read_regular(paths.home / "presence.json", _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
