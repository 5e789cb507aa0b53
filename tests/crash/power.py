"""A model of a disk that loses power: from the operations on it to the states that a crash may leave. Pure.

An ordinary journalling file system, and no more than that is relied on:

* What fsync confirmed of a file is there: all that was written to it before. Of what was written since, any beginning
  may be there; the write it breaks off in may be torn, and all after it may be NULs up to the new size, or missing.
* What fsync confirmed of a folder is there: all changes of its names made before. Of the later ones any may be there or
  not, each on its own, but those of one name in their order.
* A rename within a folder is atomic. From one folder to another the new name comes first: a crash may leave both names
  of the file, and never neither.
* A name may be durable without what it names: a rename makes no data durable, and neither does a new file's name. Nor
  does a file's fsync make its name durable, or a folder's its own name in the folder above.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

ROOT = 0
"""The inode of the folder in which all happens; it is always there."""


class MakeFile(msgspec.Struct, frozen=True):
    inode: int
    folder: int
    name: str


class MakeFolder(msgspec.Struct, frozen=True):
    inode: int
    folder: int
    name: str


class Write(msgspec.Struct, frozen=True):
    inode: int
    offset: int
    data: bytes


class Truncate(msgspec.Struct, frozen=True):
    inode: int
    length: int


class SyncFile(msgspec.Struct, frozen=True):
    inode: int


class SyncFolder(msgspec.Struct, frozen=True):
    inode: int


class Rename(msgspec.Struct, frozen=True):
    """What `name` in `folder` held before is replaced."""

    inode: int
    from_folder: int
    from_name: str
    folder: int
    name: str


class Unlink(msgspec.Struct, frozen=True):
    """Of a file or of an empty folder."""

    folder: int
    name: str


Operation = MakeFile | MakeFolder | Write | Truncate | SyncFile | SyncFolder | Rename | Unlink
Change = Write | Truncate


class Tree(msgspec.Struct, frozen=True):
    """One state of the disk, by paths relative to the root. Two paths of one inode are two names of one file."""

    folders: frozenset[str]
    files: Mapping[str, tuple[int, bytes]]

    def content(self) -> dict[str, bytes]:
        return {path: data for path, (_, data) in self.files.items()}


class Kept(msgspec.Struct, frozen=True):
    """What there is of a file's unsynced changes: the first `whole` of them, `torn` bytes of the next one.

    `zeros`: the size is as if all had been written, and NULs stand for what is missing.
    """

    whole: int
    torn: int = 0
    zeros: bool = False


class Fate(Protocol):
    """What a crash makes of all that was not synced."""

    def keeps_name(self) -> bool: ...

    def keeps_content(self, pending: list[Change]) -> Kept: ...


class Extreme:
    """All names or none, all content, none of it or NULs."""

    def __init__(self, *, names: bool, content: bool, zeros: bool = False) -> None:
        self._names = names
        self._content = content
        self._zeros = zeros

    def keeps_name(self) -> bool:
        return self._names

    def keeps_content(self, pending: list[Change]) -> Kept:
        return Kept(len(pending) if self._content else 0, zeros=self._zeros)


EXTREMES: tuple[Fate, ...] = (
    Extreme(names=False, content=False),
    Extreme(names=True, content=False),
    Extreme(names=True, content=False, zeros=True),
    Extreme(names=False, content=True),
    Extreme(names=True, content=True),
)


class Chance:
    """Everything by lot; the odds are drawn first, so that some crashes lose nearly all and some hardly anything."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names = chance.choice((0.1, 0.5, 0.9))
        self._content = chance.choice((0.1, 0.5, 0.9))

    def keeps_name(self) -> bool:
        return self._chance.random() < self._names

    def keeps_content(self, pending: list[Change]) -> Kept:
        if self._chance.random() < self._content:
            return Kept(len(pending))
        whole = self._chance.randrange(len(pending))
        broken = pending[whole]
        torn = self._chance.randrange(len(broken.data) + 1) if isinstance(broken, Write) else 0
        return Kept(whole, torn, zeros=self._chance.random() < 0.4)


class _NameChange(msgspec.Struct):
    """One change of one folder that is there as a whole or not at all, and only if those in `after` are."""

    folder: int
    names: dict[str, int | None]
    after: tuple[int, ...]
    durable: bool = False


class _File(msgspec.Struct):
    durable: bytes = b""
    pending: list[Change] = msgspec.field(default_factory=list)


class PowerModel:
    """The disk while operations are applied to it; `crash` tells what one at this moment leaves."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self._changes: list[_NameChange] = []
        self._last: dict[tuple[int, str], int] = {}
        self._files: dict[int, _File] = {}
        self._folders = {ROOT}
        for operation in operations:
            self.apply(operation)

    def apply(self, operation: Operation) -> None:
        match operation:
            case MakeFile(inode, folder, name):
                self._files[inode] = _File()
                self._change(folder, {name: inode})
            case MakeFolder(inode, folder, name):
                self._folders.add(inode)
                self._change(folder, {name: inode})
            case Write(inode) | Truncate(inode):
                self._files[inode].pending.append(operation)
            case SyncFile(inode):
                file = self._files[inode]
                file.durable, file.pending = _applied(file.durable, file.pending), []
            case SyncFolder(inode):
                for number, change in enumerate(self._changes):
                    if change.folder == inode:
                        self._confirm(number)
            case Rename(inode, from_folder, from_name, folder, name) if from_folder == folder:
                self._change(folder, {from_name: None, name: inode})
            case Rename(inode, from_folder, from_name, folder, name):
                arrived = self._change(folder, {name: inode})
                self._change(from_folder, {from_name: None}, arrived)
            case Unlink(folder, name):
                self._change(folder, {name: None})

    def sync_all(self) -> None:
        """All that is there becomes durable, as it is some time later."""
        for inode in self._files:
            self.apply(SyncFile(inode))
        for number in range(len(self._changes)):
            self._confirm(number)

    def crash(self, fate: Fate) -> Tree:
        there: set[int] = set()
        names: dict[int, dict[str, int]] = {folder: {} for folder in self._folders}
        for number, change in enumerate(self._changes):
            if change.durable or (there.issuperset(change.after) and fate.keeps_name()):
                there.add(number)
                for name, inode in change.names.items():
                    if inode is None:
                        names[change.folder].pop(name, None)
                    else:
                        names[change.folder][name] = inode
        contents: dict[int, bytes] = {}
        folders: set[str] = set()
        files: dict[str, tuple[int, bytes]] = {}
        waiting = [(ROOT, "")]
        while waiting:
            folder, prefix = waiting.pop()
            for name, inode in names[folder].items():
                if inode in self._folders:
                    folders.add(prefix + name)
                    waiting.append((inode, f"{prefix}{name}/"))
                    continue
                if inode not in contents:
                    contents[inode] = self._content(self._files[inode], fate)
                files[prefix + name] = (inode, contents[inode])
        return Tree(frozenset(folders), files)

    def _content(self, file: _File, fate: Fate) -> bytes:
        if not file.pending:
            return file.durable
        kept = fate.keeps_content(file.pending)
        changes = file.pending[: kept.whole]
        rest = file.pending[kept.whole :]
        if rest and isinstance(broken := rest[0], Write):
            changes.append(msgspec.structs.replace(broken, data=broken.data[: kept.torn]))
        data = _applied(file.durable, changes)
        if kept.zeros:
            full = len(_applied(file.durable, file.pending))
            data = data[:full].ljust(full, b"\0")
        return data

    def _change(self, folder: int, names: dict[str, int | None], *after: int) -> int:
        number = len(self._changes)
        before = {self._last[folder, name] for name in names if (folder, name) in self._last}
        self._changes.append(_NameChange(folder, names, (*after, *before)))
        for name in names:
            self._last[folder, name] = number
        return number

    def _confirm(self, number: int) -> None:
        change = self._changes[number]
        if not change.durable:
            change.durable = True
            for earlier in change.after:
                self._confirm(earlier)


def _applied(data: bytes, changes: Iterable[Change]) -> bytes:
    content = bytearray(data)
    for change in changes:
        match change:
            case Write(offset=offset, data=written):
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(written)] = written
            case Truncate(length=length):
                del content[length:]
                content.extend(bytes(length - len(content)))
    return bytes(content)
