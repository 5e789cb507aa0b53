"""Whether a folder is ours alone: whoever else could write there could say what is trusted."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent_mailer.errors import mend


class Unsafe(msgspec.Struct, frozen=True):
    why: str
    fix: str


def unsafe(folder: Path) -> Unsafe | None:
    """What is wrong with `folder` or one above it; None where they are ours or root's, and nobody else can write there.

    What is not there yet is as safe as what is above it.
    """
    for path in _chain(folder):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return Unsafe(f"{path}: {error.strerror}", mend(error, path))
        where = shlex.quote(str(path))
        if found.st_uid not in (os.geteuid(), 0):
            return Unsafe(f"{path} belongs to another user (uid {found.st_uid})", f"sudo chown $(id -un) {where}")
        if stat.S_ISLNK(found.st_mode):
            continue
        # In a sticky folder nobody removes what is another's; what is ours is looked at itself.
        sticky = found.st_mode & stat.S_ISVTX and path != folder
        if found.st_mode & stat.S_IWOTH and not sticky:
            return Unsafe(f"{path} can be written by everybody", f"chmod o-w {where}")
        if found.st_mode & stat.S_IWGRP and not sticky and not _is_private(found.st_gid):
            return Unsafe(f"{path} can be written by the group {_name_of(found.st_gid)}", f"chmod g-w {where}")
    return None


def _chain(folder: Path) -> Iterator[Path]:
    """From the folder upwards, by the names that lead there and by what they mean."""
    real = Path(os.path.realpath(folder))
    yield from (folder, *folder.parents)
    if real != folder:
        yield from (real, *real.parents)


def _is_private(gid: int) -> bool:
    """A group of one: the user's own, as many systems make one for each, or root's."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        # Nobody is listed in a group that has no entry.
        return gid == os.getegid()
    own = gid == 0 or (gid == user.pw_gid and group.gr_name == user.pw_name)
    return own and {*group.gr_mem} <= {user.pw_name, "root"}


def _name_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
