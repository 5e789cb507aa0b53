"""Writing down every operation of a scenario, and putting a state of the disk that a crash may leave where it was.

Our own writes are seen as they are made. What others write beside us (the holder, the agent and its tools) is noticed
before our next operation, and counts as made then: as synced where `synced` says that its writer syncs it, else not.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash.power import (
    EXTREMES,
    ROOT,
    Chance,
    MakeFile,
    MakeFolder,
    Operation,
    PowerModel,
    Rename,
    SyncFile,
    SyncFolder,
    Tree,
    Truncate,
    Unlink,
    Write,
)

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.processes import boot_id

OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


class QuickSystem(SystemCalls):
    """The real calls without waiting for the disk: in a test nothing survives a power cut anyway."""

    def fsync(self, fd: int) -> None:
        os.fstat(fd)


class RecordingSystem(QuickSystem):
    """Records what happens below the folders `tops` of `base`, which must be there."""

    def __init__(self, base: Path, tops: tuple[str, ...], synced: Callable[[Path], bool]) -> None:
        self.operations: list[Operation] = []
        self.witnessed: list[int] = []
        """For each operation how much the agents had told the witness before it."""
        self.witness: Callable[[], int] = lambda: 0
        self._base = base
        self._tops = [base / top for top in tops]
        self._synced = synced
        self._inodes: dict[Path, int] = {base: ROOT}
        self._contents: dict[int, bytearray] = {}
        self._signatures: dict[Path, tuple[int, int, int]] = {}
        self._open: dict[int, tuple[Path, bool]] = {}
        self._next = ROOT
        self.look_around()

    # The calls

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self.look_around()
        fd = super().open(path, flags, mode)
        self._open[fd] = (path, bool(flags & os.O_APPEND))
        if self._ours(path) and flags & (os.O_WRONLY | os.O_RDWR):
            if path not in self._inodes:
                self._make_file(path)
            elif flags & os.O_TRUNC:
                self._truncate(path, 0)
            self._sign(path)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self.look_around()
        path, appends = self._open[fd]
        offset = os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)
        written = super().write(fd, data)
        if self._ours(path):
            self._write(path, offset, bytes(data[:written]))
            self._sign(path)
        return written

    def fsync(self, fd: int) -> None:
        self.look_around()
        path, _ = self._open[fd]
        if self._ours(path):
            inode = self._inodes[path]
            self._record(SyncFolder(inode) if stat.S_ISDIR(os.fstat(fd).st_mode) else SyncFile(inode))

    def truncate(self, fd: int, length: int) -> None:
        self.look_around()
        super().truncate(fd, length)
        path, _ = self._open[fd]
        if self._ours(path):
            self._truncate(path, length)
            self._sign(path)

    def close(self, fd: int) -> None:
        super().close(fd)
        del self._open[fd]

    def replace(self, source: Path, target: Path) -> None:
        self.look_around()
        super().replace(source, target)
        self._rename(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self.look_around()
        super().rename_noreplace(source, target)
        self._rename(source, target)

    def unlink(self, path: Path) -> None:
        self.look_around()
        super().unlink(path)
        self._unlink(path)

    def rmdir(self, path: Path) -> None:
        self.look_around()
        super().rmdir(path)
        self._unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self.look_around()
        super().mkdir(path, mode)
        if self._ours(path):
            self._make_folder(path)

    # What others do

    def look_around(self) -> None:
        """Take down what was written beside us since the last look."""
        seen: set[Path] = set()
        changed: list[tuple[int, int, Path]] = []
        for path, found in self._walk():
            seen.add(path)
            if found is None:
                if path not in self._inodes:
                    self._make_folder(path)
                    self._confirm_foreign(path, folder=True)
            elif self._signatures.get(path) != _signature(found):
                changed.append((found.st_mtime_ns, -len(path.parts), path))
        # As they were written: what an agent leaves is there before its end is (in one tick of the clock deeper first).
        for _, _, path in sorted(changed):
            self._take_down(path)
        for path in [path for path in self._inodes if path not in seen and path != self._base]:
            self._unlink(path)

    def _take_down(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        if path not in self._inodes:
            self._make_file(path)
        known = self._contents[self._inodes[path]]
        if not data.startswith(known):
            self._truncate(path, 0)
            known = bytearray()
        if len(data) > len(known):
            self._write(path, len(known), data[len(known) :])
        self._sign(path)
        self._confirm_foreign(path, folder=False)

    def _confirm_foreign(self, path: Path, *, folder: bool) -> None:
        if self._synced(path.relative_to(self._base)):
            inode = self._inodes[path]
            self._record(SyncFolder(inode) if folder else SyncFile(inode))
            self._record(SyncFolder(self._inodes[path.parent]))

    def _walk(self) -> Iterator[tuple[Path, os.stat_result | None]]:
        """Folders before what lies in them; None for a folder."""
        waiting = list(self._tops)
        while waiting:
            folder = waiting.pop()
            yield folder, None
            try:
                entries = list(os.scandir(folder))
            except FileNotFoundError:
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                    continue
                try:
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue

    # The record

    def _ours(self, path: Path) -> bool:
        return any(path.is_relative_to(top) for top in self._tops)

    def _record(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.witnessed.append(self.witness())

    def _new(self, path: Path) -> tuple[int, int]:
        self._next += 1
        self._inodes[path] = self._next
        return self._next, self._inodes[path.parent]

    def _make_file(self, path: Path) -> None:
        inode, folder = self._new(path)
        self._contents[inode] = bytearray()
        self._record(MakeFile(inode, folder, path.name))

    def _make_folder(self, path: Path) -> None:
        inode, folder = self._new(path)
        self._record(MakeFolder(inode, folder, path.name))

    def _write(self, path: Path, offset: int, data: bytes) -> None:
        inode = self._inodes[path]
        self._contents[inode][offset : offset + len(data)] = data
        self._record(Write(inode, offset, data))

    def _truncate(self, path: Path, length: int) -> None:
        inode = self._inodes[path]
        del self._contents[inode][length:]
        self._record(Truncate(inode, length))

    def _rename(self, source: Path, target: Path) -> None:
        if not self._ours(source):
            return
        inode = self._inodes[source]
        self._record(Rename(inode, self._inodes[source.parent], source.name, self._inodes[target.parent], target.name))
        for path in [path for path in self._inodes if path.is_relative_to(source)]:
            moved = target / path.relative_to(source)
            self._inodes[moved] = self._inodes.pop(path)
            self._signatures.pop(moved, None)
            if path in self._signatures:
                self._signatures[moved] = self._signatures.pop(path)

    def _unlink(self, path: Path) -> None:
        if path in self._inodes:
            del self._inodes[path]
            self._signatures.pop(path, None)
            folder = self._inodes.get(path.parent)
            if folder is not None:
                self._record(Unlink(folder, path.name))

    def _sign(self, path: Path) -> None:
        self._signatures[path] = _signature(os.lstat(path))


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def lay_out(tree: Tree, base: Path, tops: tuple[str, ...]) -> None:
    """Make what is below `tops` of `base` that state, as it is found after the machine was started again."""
    for top in tops:
        if (base / top).exists():
            shutil.rmtree(base / top)
    for folder in sorted(tree.folders):
        (base / folder).mkdir(mode=0o700)
    placed: dict[int, Path] = {}
    before, after = boot_id().encode(), OTHER_BOOT.encode()
    for name, (inode, data) in tree.files.items():
        path = base / name
        if inode in placed:
            path.hardlink_to(placed[inode])
            continue
        placed[inode] = path
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, data.replace(before, after))
        finally:
            os.close(fd)


def after_power_failures(
    base: Path, tops: tuple[str, ...], act: Callable[[Disk], object], most: int = 40
) -> Iterator[None]:
    """The extreme states, and `most` by lot, that a power failure right after `act` may leave below `tops` of `base`.

    What was there before is durable.
    """
    system = RecordingSystem(base, tops, lambda _: False)
    model = PowerModel(system.operations)
    model.sync_all()
    start = len(system.operations)
    act(Disk(system))
    for operation in system.operations[start:]:
        model.apply(operation)
    for fate in (*EXTREMES, *(Chance(random.Random(seed)) for seed in range(most))):
        lay_out(model.crash(fate), base, tops)
        yield
