"""Files of ours in a folder of the user's: put there with a list of them, and taken away by that list alone.

Nothing is written or removed through a link: whoever has put one there means another place than we do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import msgspec

from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync, read_regular
from agent_mailer.errors import UsageFault, put_aside, quoted
from agent_mailer.names import stays_inside

LIST = "installed.json"
MOST_BYTES = 1024 * 1024


class Installed(msgspec.Struct, frozen=True):
    """What was put there, by whom. `files` are paths inside the folder."""

    version: str
    files: tuple[str, ...]


class Place:
    """A folder of ours below `base`, which is the user's."""

    def __init__(self, base: Path, inside: str, disk: Disk) -> None:
        self.folder = base / inside
        self._base = base
        self._disk = disk

    def installed(self) -> Installed | None:
        """None where nothing of ours lies there."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            found = msgspec.json.decode(read_regular(self.folder / LIST, MOST_BYTES), type=Installed)
            if all(stays_inside(name) for name in found.files):
                return found
        return None

    def holds(self, files: Mapping[str, bytes]) -> bool:
        """Whether just these files of ours lie there, each as it was put."""
        found = self.installed()
        return found is not None and set(found.files) == set(files) and all(map(self._is, files, files.values()))

    def put(self, files: Mapping[str, bytes], version: str) -> None:
        """Write them, and take away what another version had besides. Raises UsageFault, OSError.

        A folder of that name that is not ours stays as it is.
        """
        self._require_no_links(files)
        before = self.installed()
        if before is None and os.path.lexists(self.folder) and not self._is_empty():
            raise UsageFault("not_ours", f"{self.folder} is there, and not from this command", put_aside(self.folder))
        names = sorted({*files, *(before.files if before else ())})
        self._require_no_links(names)
        self._sweep(names)
        # The list first: what a crash leaves is on it.
        self._disk.make_directory(self.folder)
        self._write(LIST, msgspec.json.encode(Installed(version, tuple(names))))
        for name, data in files.items():
            self._disk.make_directory((self.folder / name).parent)
            self._write(name, data)
        self._remove([name for name in names if name not in files])
        self._write(LIST, msgspec.json.encode(Installed(version, tuple(sorted(files)))))

    def take_away(self) -> Sequence[str]:
        """Remove what the list names, and the folders that are empty then; what else lies there stays, and is named.

        Raises UsageFault, OSError.
        """
        found = self.installed()
        if found is None:
            return ()
        self._require_no_links(found.files)
        self._sweep(found.files)
        self._remove(found.files)
        # Last: what a crash leaves is on it.
        self._remove([LIST])
        with suppress(OSError):
            self._disk.system.rmdir(self.folder)
        return sorted(os.listdir(self.folder)) if self.folder.is_dir() else ()

    def _write(self, name: str, data: bytes) -> None:
        self._disk.replace(self.folder / name, data, sync=Sync.NONE)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._disk.remove(self.folder / name)
        above = {parent for name in names for parent in PurePosixPath(name).parents} - {PurePosixPath(".")}
        for folder in sorted(above, key=lambda one: len(one.parts), reverse=True):
            with suppress(OSError):
                self._disk.system.rmdir(self.folder / folder)

    def _is(self, name: str, data: bytes) -> bool:
        try:
            return read_regular(self.folder / name, MOST_BYTES) == data
        except OSError:
            return False

    def _is_empty(self) -> bool:
        """But for what an interrupted write has left."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return all(name.startswith(TEMPORARY_PREFIX) for name in os.listdir(self.folder))

    def _sweep(self, names: Sequence[str]) -> None:
        """Take away what writes of these that were interrupted have left beside them."""
        for folder in {self.folder, *((self.folder / name).parent for name in names)}:
            for left in os.listdir(folder) if folder.is_dir() else ():
                if left.startswith(TEMPORARY_PREFIX):
                    self._disk.remove(folder / left)

    def _require_no_links(self, names: Iterable[str]) -> None:
        """Raises UsageFault. The base itself may be anything: the user's own folders are often links."""
        ways = [self.folder / LIST, *(self.folder / name for name in names)]
        for path in dict.fromkeys(step for way in ways for step in (*reversed(way.parents), way)):
            if path.is_relative_to(self._base) and path != self._base and _is_link(path):
                raise UsageFault("a_link", f"{path} is a link, and nothing is put through one", f"rm {quoted(path)}")


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
