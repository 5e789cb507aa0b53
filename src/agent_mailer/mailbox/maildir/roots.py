"""Which root: the flag, the environment, the project's .amqrc, or the .agent-mail folder of the tree."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault

AMQRC: Final = ".amqrc"
FOLDER: Final = ".agent-mail"
_MAX_AMQRC_BYTES: Final = 64 * 1024


def find_root(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The absolute path of the root in use; it need not exist yet.

    In this order: `explicit`, $AM_ROOT, the nearest .amqrc (upward from `cwd`, not beyond the top of its git tree),
    .agent-mail at the top of the git tree, or outside git in `cwd` or the nearest parent that has one. Raises
    ConfigFault for an .amqrc that is not to be trusted, or where nothing is found.
    """
    if explicit is not None:
        return _absolute(cwd, explicit)
    if environ.get("AM_ROOT"):
        return _absolute(cwd, Path(environ["AM_ROOT"]))
    cwd = Path(os.path.abspath(cwd))  # noqa: PTH100  a link in the path is the user's wish
    top = _git_top(cwd)
    folders = _upward(cwd, top)
    home = environ.get("HOME")
    for folder in folders:
        # Within a git tree ~/.amqrc is not the project's file, even if the tree is the home itself.
        if top is not None and home and folder == Path(home):
            continue
        if os.path.lexists(folder / AMQRC):
            return _root_of(folder / AMQRC)
    if top is not None:
        return top / FOLDER
    for folder in folders:
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    raise ConfigFault(
        "no_maildir_root",
        f"no mailbox root: neither $AM_ROOT nor {AMQRC} nor a {FOLDER} folder was found from {cwd} upward",
        f"give --maildir-root PATH, or run: agent-mailer init --maildir-root {cwd / FOLDER}",
    )


def _root_of(path: Path) -> Path:
    """The root that an .amqrc names, relative to the file's own folder."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise _distrusted(path, "is not a regular file", f"replace {path} with a file of your own")
    if found.st_uid != os.geteuid():
        raise _distrusted(path, "belongs to somebody else", f"chown {os.geteuid()} {path}")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise _distrusted(path, "can be written by others", f"chmod go-w {path}")
    try:
        content = json.loads(read_regular(path, _MAX_AMQRC_BYTES))
    except (OSError, ValueError, RecursionError) as fault:
        raise _distrusted(path, f"cannot be read: {fault}", f"repair {path}") from fault
    root = content.get("root") if isinstance(content, dict) else None
    if not isinstance(root, str) or not root.strip() or "\0" in root:
        raise _distrusted(path, 'has no "root"', f'put {{"root": "{FOLDER}"}} into {path}')
    return _absolute(path.parent, Path(root))


def _distrusted(path: Path, why: str, fix: str) -> ConfigFault:
    return ConfigFault("bad_amqrc", f"{path} {why}", f"{fix}, or give --maildir-root PATH")


def _absolute(base: Path, path: Path) -> Path:
    return Path(os.path.normpath(base.absolute() / path))


def _git_top(cwd: Path) -> Path | None:
    return next((folder for folder in (cwd, *cwd.parents) if os.path.lexists(folder / ".git")), None)


def _upward(cwd: Path, top: Path | None) -> list[Path]:
    folders = []
    for folder in (cwd, *cwd.parents):
        folders.append(folder)
        if folder == top:
            break
    return folders
