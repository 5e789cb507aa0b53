"""What is trusted, in the user's state folder and never in a workdir: one file a workdir and machine.

Beside them lies `before`: the workdirs that were there when this folder was made, by a version that remembers trust.
"""

from __future__ import annotations

import os
import platform
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync, read_regular
from agent_mailer.names import path_name, printable, sha256
from agent_mailer.trust.ownership import Unsafe, unsafe
from agent_mailer.trust.standing import Standing
from agent_mailer.trust.verdict import COMMAND, Known

FORMAT = 1
LARGEST = 8 * 1024 * 1024
BEFORE = "before"
MOST_RECORDS = 2000

_GARBLED = (ValueError, msgspec.DecodeError, RecursionError)


class Record(msgspec.Struct, frozen=True):
    """`device` and `inode` are the workdir's; `by` says what made it trusted."""

    workdir: str
    machine: str
    host: str
    device: int
    inode: int
    at: float
    by: str
    digest: str
    standing: Standing
    format: int = FORMAT


class Keeper:
    """The files in `folder`. `machine` tells this one from others that may share the folder."""

    def __init__(self, folder: Path, disk: Disk, machine: str | None = None) -> None:
        self.folder = folder
        self._disk = disk
        self._machine = machine_name() if machine is None else machine

    def known(self, workdir: Path) -> Known:
        """What is remembered of it. Never raises: what cannot be read does not count."""
        bad = self._misplaced(workdir) or unsafe(self.folder)
        if bad is not None:
            return Known(fault=f"what is trusted is not kept safely: {bad.why}", fix=bad.fix)
        path = self.path(workdir)
        try:
            record = self._read(path)
        except (FileNotFoundError, NotADirectoryError):
            return self._of_others(workdir)
        except (OSError, *_GARBLED) as error:
            return Known(fault=f"what is trusted cannot be read: {path}: {_words(error)}", fix=COMMAND)
        if record.machine != self._machine:
            return Known(fault=f"it was trusted on another machine ({printable(record.host)})", fix=COMMAND)
        if record.workdir != _real(workdir):
            return Known(fault=f"{path} is about {printable(record.workdir, 4096)}", fix=COMMAND)
        with suppress(OSError):
            found = os.stat(workdir)
            replaced = (found.st_dev, found.st_ino) != (record.device, record.inode)
            return Known(record=record.standing, replaced=replaced)
        return Known(record=record.standing)

    def write(self, workdir: Path, standing: Standing, by: str, at: float) -> None:
        """Durable when it returns. Raises OSError; PermissionError where the folder is not ours alone."""
        self.prepare(workdir)
        found = os.stat(workdir)
        record = Record(
            workdir=_real(workdir),
            machine=self._machine,
            host=platform.node(),
            device=found.st_dev,
            inode=found.st_ino,
            at=at,
            by=by,
            digest=standing.digest,
            standing=standing,
        )
        data = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        self._disk.replace(self.path(workdir), data, sync=Sync.FULL)
        self._forget_moved(record)

    def prepare(self, workdir: Path) -> None:
        """Make the folder, ours alone. Raises OSError."""
        bad = self._misplaced(workdir)
        if bad is None:
            self._disk.make_directory(self.folder, sync=Sync.FULL)
            bad = unsafe(self.folder)
        if bad is not None:
            raise PermissionError(f"{bad.why}: {bad.fix}")

    def was_there(self, workdir: Path) -> bool:
        """Whether it is one of before this folder was made; all are, as long as it is not."""
        try:
            return os.fsencode(os.path.realpath(workdir)) in self._before()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def begin(self, workdir: Path, older: list[Path]) -> None:
        """Note, once, which workdirs are older than this folder. Raises OSError."""
        self.prepare(workdir)
        if not os.path.lexists(self.folder / BEFORE):
            lines = sorted({os.fsencode(os.path.realpath(one)) for one in older})
            self._disk.replace(self.folder / BEFORE, b"".join(line + b"\0" for line in lines), sync=Sync.FULL)

    def _misplaced(self, workdir: Path) -> Unsafe | None:
        """Where an agent that may only write in its workdir could write it, too."""
        elsewhere = "export XDG_STATE_HOME=/a/folder/outside/of/it"
        if not self.folder.is_absolute():
            return Unsafe(f"{self.folder} is no absolute path: this user has no home folder", elsewhere)
        if Path(os.path.realpath(self.folder)).is_relative_to(os.path.realpath(workdir)):
            return Unsafe(f"{self.folder} lies in the workdir", elsewhere)
        return None

    def _before(self) -> set[bytes]:
        return set(read_regular(self.folder / BEFORE, LARGEST).split(b"\0"))

    def _of_others(self, workdir: Path) -> Known:
        """No record of it here: of the same folder under another path, or of another machine?"""
        stem = f"{path_name(_real(workdir))}."
        with suppress(OSError):
            here = os.stat(workdir)
            for path, record in self._records():
                if record.machine == self._machine and (record.device, record.inode) == (here.st_dev, here.st_ino):
                    return Known(moved=record.standing)
                if path.name.startswith(stem) and record.machine != self._machine:
                    return Known(fault=f"it was trusted on another machine ({printable(record.host)})", fix=COMMAND)
        return Known()

    def _forget_moved(self, new: Record) -> None:
        """The same folder under the path that it had before."""
        for path, record in self._records():
            same = (record.device, record.inode, record.machine) == (new.device, new.inode, new.machine)
            if same and record.workdir != new.workdir and not os.path.lexists(record.workdir):
                with suppress(OSError):
                    self._disk.remove(path)

    def _records(self) -> Iterator[tuple[Path, Record]]:
        with suppress(OSError):
            for name in sorted(os.listdir(self.folder))[:MOST_RECORDS]:
                if name.endswith(".json") and not name.startswith(TEMPORARY_PREFIX):
                    with suppress(OSError, *_GARBLED):
                        yield self.folder / name, self._read(self.folder / name)

    def _read(self, path: Path) -> Record:
        """Raises OSError, and ValueError for what is no record."""
        data = read_regular(path, LARGEST)
        found = path.lstat()
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others may have written it (chmod go-w {shlex.quote(str(path))})")
        record = msgspec.json.decode(data, type=Record)
        if record.format != FORMAT:
            raise ValueError(f"format {record.format}, of another version")
        if record.standing.digest != record.digest:
            raise ValueError("it is not what was written")
        return record

    def path(self, workdir: Path) -> Path:
        """Of the record of a workdir, on this machine."""
        return self.folder / f"{path_name(_real(workdir))}.{self._machine or 'here'}.json"


def machine_name() -> str:
    """By what this machine is known again, without telling its id; empty where it has none, as in many containers."""
    with suppress(OSError):
        text = read_regular(Path("/etc/machine-id"), 64, follow=True).decode("ascii", "replace").strip()
        if len(text) == 32 and not text.strip("0123456789abcdef"):
            return sha256(f"agent-mailer {text}".encode()).hexdigest()[:16]
    return ""


def _real(workdir: Path) -> str:
    """Its path without links, as text that JSON can hold."""
    return os.fsencode(os.path.realpath(workdir)).decode("utf-8", "backslashreplace")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error))
