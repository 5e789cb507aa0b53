"""A mailbox that leaves its name: for another name, or out of the root. No sender finds the old one afterwards."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import ConfigFault, UsageFault, quoted
from agent_mailer.mailbox.maildir.layout import (
    USER,
    check_handle,
    config_path,
    has_mailbox,
    is_folder,
    read_config,
    require_root,
)


def rename_mailbox(disk: Disk, root: Path, before: str, after: str) -> bool:
    """The mailbox `before`, with all that is in it, is `after` from here on; whether there was one.

    Called again after a kill it does what is left. Raises ConfigFault where both are there or a name cannot be one,
    and OSError.
    """
    require_root(root)
    for handle in (before, after):
        check_handle(handle)
    source, target = root / "agents" / before, root / "agents" / after
    there = is_folder(source)
    if there and has_mailbox(root, after):
        raise UsageFault(
            "address_taken", f"{after} has a mailbox in {root} already, with mail of its own", "choose another address"
        )
    if there:
        disk.move(source, target, sync=Sync.FULL)
    _relist(disk, root, before, after)
    return there


def take_mailbox_out(disk: Disk, root: Path, handle: str, target: Path) -> bool:
    """The mailbox and all that is in it lies at `target`, anywhere, and nobody is known by `handle`.

    Returns whether there was one. Raises ConfigFault and OSError.
    """
    require_root(root)
    check_handle(handle)
    source = root / "agents" / handle
    there = is_folder(source)
    if there:
        carry(disk, source, target)
    _relist(disk, root, handle, None)
    return there


def carry(disk: Disk, source: Path, target: Path) -> None:
    """The folder is `target` from here on, on whatever disk that is. A copy is durable before what it is of goes.

    Raises OSError, and `source` is there as a whole.
    """
    try:
        disk.move(source, target, sync=Sync.FULL)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target, symlinks=True)
        os.sync()
        disk.remove_tree(source)
    disk.sync_directory(source.parent)


def _relist(disk: Disk, root: Path, before: str, after: str | None) -> None:
    """On the list of handles, by which AMQ and we know who may be written to; keys that we do not know stay."""
    path = config_path(root)
    config = read_config(path)
    listed = config.get("agents") if config is not None else None
    if config is None or not isinstance(listed, list) or before == USER:
        return
    kept = [one for one in listed if one != before]
    config["agents"] = sorted({*kept, *([after] if after is not None else [])}, key=str)
    if config["agents"] == listed:
        return
    try:
        disk.replace(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(), sync=Sync.FULL)
    except OSError as error:
        raise ConfigFault(
            "bad_roster",
            f"{path} cannot be written ({error.strerror}): it names {before} still",
            f"ls -l {quoted(path)}",
        ) from error
