"""Whether what was found, and what lies above it, is ours: else somebody may have planted it for us.

Ours is what belongs to us or to root, and nobody else can write; the private group of this user may.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from agent_mailer.errors import ConfigFault, mend

_OTHERS: Final = 0o002
_GROUP: Final = 0o020


def why_not_ours(folder: Path) -> str:
    """Why a folder is not to be written to: it is none, somebody else's, or open to others. Raises OSError."""
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode):
        return f"{folder} is a link"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder"
    return _why_others_may(folder, found)


def why_not_ours_all_the_way(folder: Path) -> str:
    """The same of a folder and of all above it, as its path is written and as it is. Raises OSError."""
    return why_not_ours(folder) or why_not_ours_above(folder)


def why_not_ours_above(path: Path) -> str:
    """The same of all folders above what lies there. Raises OSError."""
    why = ""
    for one in dict.fromkeys((*path.parents, *Path(os.path.realpath(path)).parents)):
        if why:
            break
        found = os.lstat(one)
        # Where only owners may rename, as in /tmp, nobody can put another folder in the next one's place.
        if stat.S_ISLNK(found.st_mode) or found.st_mode & stat.S_ISVTX:
            why = _why_not_owned(one, found)
        else:
            why = _why_others_may(one, found)
    return why


def _why_not_owned(path: Path, found: os.stat_result) -> str:
    ours = found.st_uid in (0, os.geteuid())
    return "" if ours else f"{path} belongs to somebody else (user {found.st_uid})"


def _why_others_may(path: Path, found: os.stat_result) -> str:
    open_to_others = found.st_mode & _OTHERS or (found.st_mode & _GROUP and not _is_private(found.st_gid))
    return _why_not_owned(path, found) or (f"{path} can be written by others" if open_to_others else "")


def _is_private(gid: int) -> bool:
    """Whether a group is that of this user alone."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def require_open(folder: Path) -> None:
    """Raises ConfigFault where the system does not let us look into `folder`: what is shut in it is not gone."""
    try:
        os.lstat(folder / "agents")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as fault:
        raise ConfigFault(
            "shut_maildir_root", f"{folder} cannot be looked into: {fault.strerror or fault}", mend(fault, folder)
        ) from None
