"""The folders of an AMQ root: which root is meant, and one list that drives init, repair and checks."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.beneath import anchor
from agent_mailer.clock import Clock, SystemClock, iso
from agent_mailer.disk import DIRECTORY_MODE, Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, put_aside, quoted, words_of
from agent_mailer.mailbox.maildir.ownership import (
    require_open,
    why_not_ours,
    why_not_ours_above,
    why_not_ours_all_the_way,
)
from agent_mailer.names import compiled, printable

USER: Final = "user"
LAYER: Final = "agent-mailer"
AMQRC: Final = ".amqrc"
FOLDER: Final = ".agent-mail"
MAX_CONFIG_BYTES: Final = 1024 * 1024
_MAX_AMQRC_BYTES: Final = 64 * 1024

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

MAX_HANDLE: Final = 200
_HANDLE = r"[a-z0-9_][a-z0-9_-]*"
_SYSTEM_CLOCK = SystemClock()


def is_handle(text: str) -> bool:
    """Whether AMQ takes `text` as the name of an agent: a-z, 0-9, `_` and `-`, not beginning with `-`."""
    return compiled(_HANDLE).fullmatch(text) is not None


def check_handle(handle: str) -> None:
    """Raise ConfigFault unless `handle` can name a mailbox folder."""
    if not is_handle(handle) or len(handle) > MAX_HANDLE:
        raise ConfigFault(
            "bad_handle",
            f"{printable(handle)!r} is no handle: use a-z, 0-9, _ and -, not beginning with -, at most 200 characters",
            "agent-mailer config set address HANDLE",
        )


class Paths:
    """Where things are in the mailbox of one handle. `handle` has been checked."""

    def __init__(self, root: Path, handle: str) -> None:
        anchor(root)
        self.home = root / f"agents/{handle}"
        self.tmp = self.home / "inbox/tmp"
        self.new = self.home / "inbox/new"
        self.cur = self.home / "inbox/cur"
        self.sent = self.home / "outbox/sent"
        self.dlq_tmp = self.home / "dlq/tmp"
        self.dlq_new = self.home / "dlq/new"
        self.dlq_cur = self.home / "dlq/cur"
        self.receipts = self.home / "receipts"
        self.own = self.home / f"extensions/{LAYER}"
        self.aside = self.own / "aside"
        self.taken = root / f"extensions/{LAYER}/taken"
        self.groups = self.own / "groups.json"
        self.known = self.own / "known.jsonl"
        self.lock = self.own / "watcher.lock"
        self.pid_file = self.own / "watcher.pid"


def make_root(disk: Disk, root: Path, handles: Iterable[str], clock: Clock = _SYSTEM_CLOCK) -> None:
    """Make or complete a root with a mailbox for each of `handles` and for `user`. Handles already there stay.

    Raises ConfigFault for a bad handle, a link or something else in the way, or an unreadable config.json.
    """
    wanted = {USER, *handles}
    for handle in wanted:
        check_handle(handle)
    anchor(root)
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
    return [folder for leaf in REQUIRED if not is_folder(folder := home / leaf)]


def has_mailbox(root: Path, handle: str) -> bool:
    """Whether mail can be delivered to `handle` as it is."""
    return len(handle) <= MAX_HANDLE and not missing_folders(root, handle)


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
    anchor(root)
    if not is_folder(root / "agents"):
        require_open(root)
        raise ConfigFault(
            "no_maildir_root",
            f"{root} is no mailbox root: it has no agents folder",
            f"put it back (is it mounted?), or a new, empty one: agent-mailer init --maildir-root {quoted(root)}",
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
    agents = (read_config(config_path(root)) or {}).get("agents")
    return tuple(a for a in agents if isinstance(a, str)) if isinstance(agents, list) else ()


def message_folders(root: Path) -> Sequence[Path]:
    """Every folder of messages. Inboxes first: what is there counts before a sender's copy of it."""
    listed: tuple[str, ...] = ()
    with suppress(ConfigFault):
        listed = roster(root)
    return _folders_of(root, tuple(sorted({*filter(is_handle, listed), *mailboxes(root)})))


@lru_cache(maxsize=8)
def _folders_of(root: Path, handles: tuple[str, ...]) -> Sequence[Path]:
    boxes = [Paths(root, handle) for handle in handles]
    return (*(folder for box in boxes for folder in (box.new, box.cur)), *(box.sent for box in boxes))


def known(root: Path, handle: str) -> bool:
    """Whether mail to `handle` is expected here: on the roster, with a mailbox, or the reserved `user`."""
    return handle == USER or is_folder(root / "agents" / handle) or handle in roster(root)


def _write_roster(disk: Disk, root: Path, handles: set[str], clock: Clock) -> None:
    """Add `handles` to config.json, as AMQ writes it; keys that we do not know stay."""
    path = config_path(root)
    config = read_config(path)
    if config is None:
        config = {"version": 1, "created_utc": iso(clock.now()), "agents": []}
    before = config.get("agents")
    listed = {a for a in before if isinstance(a, str)} if isinstance(before, list) else set()
    if listed >= handles and path.exists():
        return
    config["agents"] = sorted(listed | handles)
    disk.replace(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(), sync=Sync.FULL)


def rosters(base: Path) -> bool:
    """Whether the folder has a list of handles, as a base root has for its sessions."""
    try:
        return isinstance((read_config(base / "meta" / "config.json") or {}).get("agents"), list)
    except ConfigFault:
        return False


def config_path(root: Path) -> Path:
    """A session (a root right below another) has no roster of its own: its base's counts."""
    return (root.parent if rosters(root.parent) else root) / "meta" / "config.json"


def read_config(path: Path) -> dict[str, object] | None:
    try:
        config = json.loads(read_regular(path, MAX_CONFIG_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as fault:
        raise ConfigFault("bad_roster", f"{path}: {words_of(fault, path)}", f"repair or remove {path}") from fault
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
                "bad_mode", f"{folder} has mode {stat.S_IMODE(mode):04o}, not 0700", f"chmod 0700 {quoted(folder)}"
            ) from None
    return made


def _in_the_way(path: Path) -> ConfigFault:
    what = "a symbolic link" if path.is_symlink() else "not a folder"
    return ConfigFault("not_a_folder", f"{path} is {what}; a mailbox is made of real folders", put_aside(path))


def is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def find_root(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The absolute path of the root in use; it need not exist yet.

    In this order: `explicit`, $AM_ROOT, the nearest .amqrc (upward from `cwd`, not beyond the top of its git tree, the
    home or the file system), .agent-mail at the top of the git tree, or outside git in `cwd` or the nearest parent that
    has one. What was found by looking counts only where it and all above it is ours. Raises ConfigFault for an .amqrc
    that is not to be trusted, or where nothing is found.
    """
    if explicit is not None:
        return _absolute(cwd, explicit)
    if environ.get("AM_ROOT"):
        return _absolute(cwd, Path(environ["AM_ROOT"]))
    cwd = Path(os.path.abspath(cwd))  # noqa: PTH100  a link in the path is the user's wish
    home = environ.get("HOME")
    folders, top = _upward(cwd, home)
    for folder in folders:
        # Within a git tree ~/.amqrc is not the project's file, even if the tree is the home itself.
        if top is not None and home and folder == Path(home):
            continue
        if os.path.lexists(folder / AMQRC):
            return read_amqrc(folder / AMQRC).root
    if top is not None:
        if why := _why_planted(top / FOLDER):
            raise ConfigFault("no_maildir_root", f"{top / FOLDER} does not count: {why}", "give --maildir-root PATH")
        return top / FOLDER
    passed_by = ""
    for folder in folders:
        if (folder / FOLDER).is_dir():
            why = _why_planted(folder / FOLDER)
            if not why:
                return folder / FOLDER
            passed_by = passed_by or f"; {folder / FOLDER} does not count: {why}"
    raise ConfigFault(
        "no_maildir_root",
        f"no mailbox root: neither $AM_ROOT nor {AMQRC} nor a {FOLDER} folder was found from {cwd} upward{passed_by}",
        f"give --maildir-root PATH, or run: agent-mailer init --maildir-root {quoted(cwd / FOLDER)}",
    )


def _why_planted(root: Path) -> str:
    """Why a root that was found by looking may be somebody else's; one that is still to be made lies in its folder."""
    try:
        return why_not_ours_all_the_way(root if os.path.lexists(root) else root.parent)
    except OSError as fault:
        return f"{fault.filename}: {fault.strerror}"


class Amqrc(msgspec.Struct, frozen=True):
    """An .amqrc: the base root that it names, the project's name if it says one, and its peers' base roots."""

    path: Path
    root: Path
    project: str
    peers: Mapping[str, Path]


def read_amqrc(path: Path) -> Amqrc:
    """Paths in it are relative to its own folder. Raises ConfigFault for one that is not to be trusted."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise _distrusted(path, "is not a regular file", f"replace {path} with a file of your own")
    if found.st_uid != os.geteuid():
        raise _distrusted(path, "belongs to somebody else", f"chown {os.geteuid()} {quoted(path)}")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise _distrusted(path, "can be written by others", f"chmod go-w {quoted(path)}")
    if why := why_not_ours_above(path):
        raise _distrusted(path, f"does not count: {why}", f"look at {path.parent}")
    try:
        content = json.loads(read_regular(path, _MAX_AMQRC_BYTES))
    except (OSError, ValueError, RecursionError) as fault:
        raise _distrusted(path, f"cannot be read: {words_of(fault, path)}", f"repair {path}") from fault
    content = content if isinstance(content, dict) else {}
    root, project, peers = content.get("root"), content.get("project"), content.get("peers")
    if not isinstance(root, str) or not root.strip() or "\0" in root:
        raise _distrusted(path, 'has no "root"', f'put {{"root": "{FOLDER}"}} into {path}')
    named = peers.items() if isinstance(peers, dict) else ()
    places = {name: place for name, place in named if isinstance(place, str) and place.strip() and "\0" not in place}
    return Amqrc(
        path=path,
        root=_absolute(path.parent, Path(root)),
        project=project.strip() if isinstance(project, str) else "",
        peers={name: _absolute(path.parent, Path(place)) for name, place in places.items()},
    )


def _distrusted(path: Path, why: str, fix: str) -> ConfigFault:
    return ConfigFault("bad_amqrc", f"{path} {why}", f"{fix}, or give --maildir-root PATH")


def _absolute(base: Path, path: Path) -> Path:
    return Path(os.path.normpath(base.absolute() / path))


def _upward(cwd: Path, home: str | None) -> tuple[list[Path], Path | None]:
    """The folders to look in, and the last of them where it is the top of a git tree.

    Not beyond that, the home, or the file system: what lies there is no more of this project's or user's.
    """
    from agent_mailer.git_tree import is_top  # who is told where the mail is looks for no tree

    folders: list[Path] = []
    device = None
    for folder in (cwd, *cwd.parents):
        if os.path.lexists(folder):
            device = device or os.lstat(folder).st_dev
            if os.stat(folder).st_dev != device:
                break
        folders.append(folder)
        # Where anybody may put a `.git`, as in /tmp, it says nothing.
        if is_top(folder) and not why_not_ours(folder):
            return folders, folder
        if home and folder == Path(home):
            break
    return folders, None
