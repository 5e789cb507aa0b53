"""The folder `.agent-mailer/`: where each file is, who may read it, and which format it has."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.clock import Clock, iso
from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync
from agent_mailer.errors import ConfigFault

STATE_DIRECTORY = ".agent-mailer"
FORMAT = 1

T = TypeVar("T")
Damaged = Callable[[Path, str], None]


class StateFolder:
    """Paths of one workdir's state. `damaged` is told of each file that was set aside, and why."""

    def __init__(self, workdir: Path, disk: Disk, clock: Clock) -> None:
        self.workdir = workdir
        self.path = workdir / STATE_DIRECTORY
        self.disk = disk
        self.clock = clock
        self.damaged: Damaged = _nobody_listens
        self._ours = False

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def turns(self) -> Path:
        return self.path / "turns"

    @property
    def memory(self) -> Path:
        return self.path / "memory"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def templates(self) -> Path:
        return self.path / "templates"

    def check(self) -> None:
        """Refuse a folder that others may enter, a readable config, or a newer format. Raises ConfigFault."""
        try:
            mode = self.path.stat()
        except FileNotFoundError:
            raise ConfigFault(
                "not_configured", f"{self.path} does not exist", f"agent-mailer init --workdir {self.workdir}"
            ) from None
        _require_private(self.path, mode, 0o700)
        with suppress(FileNotFoundError):
            _require_private(self.config, self.config.stat(), 0o600)
        self._check_format()

    def prepare(self) -> None:
        """Make what is missing and remove leftovers of interrupted writes. Only the holder of the lock calls this."""
        self._ours = True
        for directory in (self.path, self.turns, self.memory, self.requests):
            self.disk.make_directory(directory, sync=Sync.FULL)
        self._check_format()
        marker = self.path / "format"
        if not marker.exists():
            self.disk.replace(marker, f"{FORMAT}\n".encode(), sync=Sync.FULL)
        for entry in os.scandir(self.path):
            if entry.name.startswith(TEMPORARY_PREFIX):
                self.disk.remove(Path(entry.path))

    def read(self, path: Path, shape: type[T], empty: T) -> T:
        """The JSON file `path` as `shape`; absent = `empty`; damaged = set aside, reported, and `empty`.

        Who does not hold the lock leaves a damaged file in place: the watcher must find it to make good what is lost.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return empty
        try:
            return msgspec.json.decode(data, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._deal_with(path, str(error))
            return empty

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a damaged file to `NAME.corrupt-<time>`: it is kept, and it stops nothing."""
        stamp = iso(self.clock.now()).replace(":", "").replace(".", "")
        for number in range(1000):
            target = path.with_name(f"{path.name}.corrupt-{stamp}" + (f"-{number}" if number else ""))
            try:
                self.disk.move(path, target, sync=Sync.NONE)
            except FileExistsError:
                continue
            except OSError as error:
                why = f"{why}; could not be set aside: {error}"
            break
        self.damaged(path, why)

    def clamp(self, moment: float, longest: float) -> float:
        """A stored moment; one further ahead than any delay we set (the clock jumped) counts as now."""
        now = self.clock.now()
        return now if moment > now + longest else moment

    def _check_format(self) -> None:
        marker = self.path / "format"
        try:
            text = marker.read_bytes()[:32].decode("ascii", "replace").strip()
        except FileNotFoundError:
            return
        if text.isdigit() and int(text) > FORMAT:
            raise ConfigFault(
                "newer_format",
                f"{self.path} was written by a newer agent-mailer (format {text}, this one knows {FORMAT})",
                "install the newer version; nothing was changed",
            )
        if text != str(FORMAT):
            # Garbage where a number was: the files themselves are checked one by one when they are read.
            self._deal_with(marker, f"format is {text!r}")

    def _deal_with(self, path: Path, why: str) -> None:
        if self._ours:
            self.set_aside(path, why)
        else:
            self.damaged(path, why)


def _nobody_listens(path: Path, why: str) -> None:
    del path, why


def _require_private(path: Path, found: os.stat_result, wanted: int) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigFault(
            "permissions",
            f"{path} can be read by others (mode {mode:04o}, must be {wanted:04o})",
            f"chmod {wanted:o} {path}",
        )
