"""The folders of an AMQ root: one list drives init, repair and checks."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent_mailer.clock import Clock, SystemClock, iso
from agent_mailer.disk import DIRECTORY_MODE, Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable

USER: Final = "user"
LAYER: Final = "agent-mailer"
MAX_CONFIG_BYTES: Final = 1024 * 1024

REQUIRED: Final = (
    "",
    "inbox",
    "inbox/tmp",
    "inbox/new",
    "inbox/cur",
    "outbox",
    "outbox/sent",
    "dlq",
    "dlq/tmp",
    "dlq/new",
    "dlq/cur",
    "receipts",
)
"""Below agents/<handle>. AMQ wants each a real folder of mode 0700, or it refuses to deliver."""

OWN: Final = ("extensions", f"extensions/{LAYER}", f"extensions/{LAYER}/aside")
"""What only we need, in the mailboxes that we watch."""

_HANDLE = re.compile(r"[a-z0-9_][a-z0-9_-]*")
_SYSTEM_CLOCK = SystemClock()


def is_handle(text: str) -> bool:
    """Whether AMQ takes `text` as the name of an agent: a-z, 0-9, `_` and `-`, not beginning with `-`."""
    return _HANDLE.fullmatch(text) is not None


def check_handle(handle: str) -> None:
    """Raise ConfigFault unless `handle` can name a mailbox folder."""
    if not is_handle(handle) or len(handle) > 200:
        raise ConfigFault(
            "bad_handle",
            f"{printable(handle)!r} is no handle: use a-z, 0-9, _ and -, not beginning with -, at most 200 characters",
            "agent-mailer config set address HANDLE",
        )


class Paths:
    """Where things are in the mailbox of one handle. `handle` has been checked."""

    def __init__(self, root: Path, handle: str) -> None:
        self.home = root / "agents" / handle
        self.tmp = self.home / "inbox" / "tmp"
        self.new = self.home / "inbox" / "new"
        self.cur = self.home / "inbox" / "cur"
        self.sent = self.home / "outbox" / "sent"
        self.dlq_tmp = self.home / "dlq" / "tmp"
        self.dlq_new = self.home / "dlq" / "new"
        self.dlq_cur = self.home / "dlq" / "cur"
        self.receipts = self.home / "receipts"
        self.own = self.home / "extensions" / LAYER
        self.aside = self.own / "aside"
        self.lock = self.own / "watcher.lock"
        self.holder = self.own / "watcher.pid"


def make_root(disk: Disk, root: Path, handles: Iterable[str], clock: Clock = _SYSTEM_CLOCK) -> None:
    """Make or complete a root with a mailbox for each of `handles` and for `user`. Handles already there stay.

    Raises ConfigFault for a bad handle, a link or something else in the way, or an unreadable config.json.
    """
    wanted = {USER, *handles}
    for handle in wanted:
        check_handle(handle)
    _make_folders(disk, [root, root / "agents", root / "meta", root / "threads"])
    _write_roster(disk, root, wanted, clock)
    for handle in sorted(wanted):
        make_mailbox(disk, root, handle)


def add_handle(disk: Disk, root: Path, handle: str, clock: Clock = _SYSTEM_CLOCK) -> None:
    """Give an existing root one more mailbox; one that is there already is repaired. Raises ConfigFault."""
    check_handle(handle)
    require_root(root)
    _make_folders(disk, [root / "meta"])
    _write_roster(disk, root, {handle}, clock)
    make_mailbox(disk, root, handle)


def make_mailbox(disk: Disk, root: Path, handle: str, *, own: bool = False) -> None:
    """Make what is missing of the mailbox and set every folder to 0700, whatever the umask.

    `own` adds the folders of our own extension. Raises ConfigFault for what is no folder, OSError for a failing disk.
    """
    check_handle(handle)
    home = root / "agents" / handle
    _make_folders(disk, [home / leaf for leaf in ((*REQUIRED, *OWN) if own else REQUIRED)])


def missing_folders(root: Path, handle: str) -> list[Path]:
    """The required folders that are not there, or are not folders."""
    home = root / "agents" / handle
    return [folder for leaf in REQUIRED if not _is_folder(folder := home / leaf)]


def check_mailbox(root: Path, handle: str) -> list[str]:
    """What AMQ would refuse about this mailbox, one sentence each; changes nothing."""
    problems = []
    for leaf in REQUIRED:
        folder = root / "agents" / handle / leaf
        try:
            mode = os.lstat(folder).st_mode
        except FileNotFoundError:
            problems.append(f"{folder} is missing")
            continue
        if not stat.S_ISDIR(mode):
            problems.append(f"{folder} is not a folder")
        elif stat.S_IMODE(mode) != DIRECTORY_MODE:
            problems.append(f"{folder} has mode {stat.S_IMODE(mode):04o}, not 0700")
    return problems


def require_root(root: Path) -> None:
    """Raise ConfigFault unless `root` holds mailboxes."""
    if not _is_folder(root / "agents"):
        raise ConfigFault(
            "no_maildir_root",
            f"{root} is no mailbox root: it has no agents folder",
            f"agent-mailer init --maildir-root {root}",
        )


def mailboxes(root: Path) -> tuple[str, ...]:
    """The handles that have a folder, sorted."""
    try:
        with os.scandir(root / "agents") as entries:
            return tuple(sorted(e.name for e in entries if is_handle(e.name) and e.is_dir(follow_symlinks=False)))
    except FileNotFoundError:
        return ()


def roster(root: Path) -> tuple[str, ...]:
    """The handles of config.json; of the base's where `root` is a session of it. Raises ConfigFault."""
    agents = (_read_config(_config_path(root)) or {}).get("agents")
    return tuple(a for a in agents if isinstance(a, str)) if isinstance(agents, list) else ()


def known(root: Path, handle: str) -> bool:
    """Whether mail to `handle` is expected here: on the roster, with a mailbox, or the reserved `user`."""
    return handle == USER or _is_folder(root / "agents" / handle) or handle in roster(root)


def _write_roster(disk: Disk, root: Path, handles: set[str], clock: Clock) -> None:
    """Add `handles` to config.json, as AMQ writes it; keys that we do not know stay."""
    path = _config_path(root)
    config = _read_config(path)
    if config is None:
        config = {"version": 1, "created_utc": iso(clock.now()), "agents": []}
    before = config.get("agents")
    listed = {a for a in before if isinstance(a, str)} if isinstance(before, list) else set()
    if listed >= handles and path.exists():
        return
    config["agents"] = sorted(listed | handles)
    disk.replace(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(), sync=Sync.FULL)


def _config_path(root: Path) -> Path:
    """A session (a root right below another) has no roster of its own: its base's counts."""
    base = root.parent / "meta" / "config.json"
    try:
        if isinstance((_read_config(base) or {}).get("agents"), list):
            return base
    except ConfigFault:
        pass
    return root / "meta" / "config.json"


def _read_config(path: Path) -> dict[str, object] | None:
    try:
        config = json.loads(read_regular(path, MAX_CONFIG_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as fault:
        raise ConfigFault("bad_roster", f"{path} cannot be read: {fault}", f"repair or remove {path}") from fault
    if not isinstance(config, dict):
        raise ConfigFault("bad_roster", f"{path} holds no JSON object", f"repair or remove {path}")
    return config


def _make_folders(disk: Disk, folders: list[Path]) -> None:
    """Make them in this order, then let every parent with a new name in it reach the disk once."""
    parents = dict.fromkeys(folder.parent for folder in folders if _make_folder(disk, folder))
    for parent in parents:
        disk.sync_directory(parent)


def _make_folder(disk: Disk, folder: Path) -> bool:
    """Whether it had to be made."""
    made = False
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        disk.make_directory(folder)
        made = True
        mode = os.lstat(folder).st_mode
    except NotADirectoryError:
        raise _in_the_way(folder.parent) from None
    if not stat.S_ISDIR(mode):
        raise _in_the_way(folder)
    if stat.S_IMODE(mode) != DIRECTORY_MODE:
        try:
            disk.system.chmod(folder, DIRECTORY_MODE)
        except PermissionError:
            raise ConfigFault(
                "bad_mode", f"{folder} has mode {stat.S_IMODE(mode):04o}, not 0700", f"chmod 0700 {folder}"
            ) from None
    return made


def _in_the_way(path: Path) -> ConfigFault:
    what = "a symbolic link" if path.is_symlink() else "not a folder"
    return ConfigFault("not_a_folder", f"{path} is {what}; a mailbox is made of real folders", f"mv {path} {path}.old")


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
