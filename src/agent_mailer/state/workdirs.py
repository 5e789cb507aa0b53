"""The workdirs of this user: one small file each in the user's state folder, so that all can be shown at once.

A file is named after the path that is its content. Nothing relies on them: what is missing comes back when its watcher
starts again.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync, read_regular
from agent_mailer.names import path_name
from agent_mailer.state.folder import STATE_DIRECTORY

LONGEST_PATH = 4096


class Workdirs:
    """The files in `folder`."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk

    def remember(self, workdir: Path) -> None:
        """Note an absolute path. Raises OSError."""
        path = self._folder / _name_of(workdir)
        if path.is_file():
            return
        self._disk.make_directory(self._folder)
        self._disk.replace(path, os.fsencode(workdir) + b"\n", sync=Sync.NONE)

    def forget(self, workdir: Path) -> None:
        """It is not shown among the others until its watcher starts again. Raises OSError."""
        with suppress(FileNotFoundError):
            self._disk.remove(self._folder / _name_of(workdir))

    def all(self) -> list[Path]:
        """Those that are there, by path, each once however many names it has; files of those that are gone go."""
        found: dict[tuple[int, int], Path] = {}
        for name in self._names():
            workdir = self._read(name)
            try:
                state = None if workdir is None else (workdir / STATE_DIRECTORY).stat()
            except (FileNotFoundError, NotADirectoryError):
                state = None
            except OSError:
                continue  # it may be there: whoever may look sees it
            if workdir is not None and state is not None:
                found.setdefault((state.st_dev, state.st_ino), workdir)
            else:
                with suppress(OSError):
                    self._disk.remove(self._folder / name)
        return sorted(found.values())

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder) as entries:
            regular = (entry for entry in entries if entry.is_file(follow_symlinks=False))
            return sorted(entry.name for entry in regular if not entry.name.startswith(TEMPORARY_PREFIX))
        return []

    def _read(self, name: str) -> Path | None:
        """The path in a file; None where it is not the one that the file is named after."""
        with suppress(OSError):
            workdir = Path(os.fsdecode(read_regular(self._folder / name, LONGEST_PATH).removesuffix(b"\n")))
            if workdir.is_absolute() and _name_of(workdir) == name:
                return workdir
        return None


def user_state() -> Path:
    """Where what several workdirs of a user share lies, and what no agent may write: platformdirs says where.

    Every command asks; where that is plain it does without the import, which takes longer than what most of them do.
    """
    said, home = os.environ.get("XDG_STATE_HOME", ""), os.environ.get("HOME", "")
    if sys.platform == "linux" and not hasattr(sys, "getandroidapilevel") and "ANDROID_ROOT" not in os.environ:
        if said.startswith("/"):
            return Path(said, "agent-mailer")
        if home.startswith("/"):
            return Path(home, ".local/state/agent-mailer")
    from platformdirs import user_state_path

    return user_state_path("agent-mailer")


def known_workdirs(disk: Disk) -> Workdirs:
    """Those of this user."""
    return Workdirs(user_state() / "workdirs", disk)


def remember(workdir: Path) -> None:
    """Note a workdir of this user; where that cannot be done nothing else suffers."""
    with suppress(OSError):
        known_workdirs(Disk()).remember(workdir)


def _name_of(workdir: Path) -> str:
    return path_name(str(workdir))
