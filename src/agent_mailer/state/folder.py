"""The folder `.agent-mailer/`: where each file is, who may read it, and which format it has."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from agent_mailer.beneath import anchor, is_file, is_folder, is_there, names_in, status
from agent_mailer.clock import Clock, iso
from agent_mailer.disk import TEMPORARY_PREFIX, Disk, Sync, read_regular
from agent_mailer.errors import ConfigFault, put_aside, quoted, words_of

STATE_DIRECTORY = ".agent-mailer"
FORMAT = 1

GARBLED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a file raises that is not what it should be."""

_NO_FILE = (errno.EINVAL, errno.ENXIO, errno.ELOOP)
"""What reading tells of a folder, a FIFO, a socket, a link to itself in a file's place."""

T = TypeVar("T")
Damaged = Callable[[Path, str], None]


class StateFolder:
    """Paths of one workdir's state. `damaged` is told of each file that cannot be read, and why."""

    def __init__(self, workdir: Path, disk: Disk, clock: Clock, damaged: Damaged | None = None) -> None:
        anchor(workdir)
        self.workdir = workdir
        self.path = workdir / STATE_DIRECTORY
        self.disk = disk
        self.clock = clock
        self._tell: Damaged = _nobody_listens if damaged is None else damaged
        self._ours = False

    @property
    def ours(self) -> bool:
        """We hold the workdir's lock: only then is anything written."""
        return self._ours

    def damaged(self, path: Path, why: str) -> None:
        """Tell of a file that cannot be read."""
        self._tell(path, why)

    @contextmanager
    def telling(self, listener: Damaged) -> Iterator[Damaged]:
        """While the block lasts `listener` is told of damage, instead of who is told else, which is what it gets."""
        before, self._tell = self._tell, listener
        try:
            yield before
        finally:
            self._tell = before

    def hold(self) -> None:
        """The caller holds the workdir's lock from now on."""
        self._ours = True

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

    @property
    def schedules(self) -> Path:
        return self.path / "schedules.json"

    @property
    def has_sent(self) -> bool:
        """Whether there is something of the clock's that may have to be forgotten."""
        return os.path.lexists(self.schedules)

    @property
    def knows_trust(self) -> Path:
        """Says that a version which remembers trust has watched here; it says nothing else."""
        return self.path / "trusted"

    def has_begun(self) -> bool:
        """Whether turns have run here, or a watcher was here that remembers trust."""
        with suppress(OSError), os.scandir(self.turns) as entries:
            if any(entries):
                return True
        return os.path.lexists(self.knows_trust)

    @property
    def folders(self) -> tuple[Path, ...]:
        """What `prepare` makes where it is missing."""
        return (self.path, self.turns, self.memory, self.requests)

    def check(self) -> None:
        """Refuse a folder that others may enter, a readable config, or a newer format. Raises ConfigFault."""
        try:
            mode = status(self.path)
        except FileNotFoundError:
            raise ConfigFault(
                "not_configured", f"{self.path} does not exist", f"agent-mailer init --workdir {quoted(self.workdir)}"
            ) from None
        if not stat.S_ISDIR(mode.st_mode):
            raise ConfigFault("no_state_folder", f"{self.path} is not a folder", put_aside(self.path))
        _require_private(self.path, mode, 0o700)
        with suppress(FileNotFoundError):
            _require_private(self.config, self.config.stat(), 0o600)
        self.check_format()

    def prepare(self) -> None:
        """Make what is missing and remove leftovers of interrupted writes. Only the holder of the lock calls this."""
        self.hold()
        for directory in self.folders:
            self.make_folder(directory)
        self.write_format()
        self.clear_interrupted(self.path)

    def clear_interrupted(self, directory: Path) -> Collection[str]:
        """Remove what interrupted writes have left there: it may hold mail. Only where nobody else writes now.

        Returns the names that lay there.
        """
        names = names_in(directory)
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                self.disk.remove_tree(directory / name)
        return names

    def make_folder(self, directory: Path) -> bool:
        """Whether it had to be made; what is in its place is set aside."""
        if is_folder(directory):
            return False
        if is_there(directory):
            self.set_aside(directory, "not a folder")
        self.disk.make_directory(directory, sync=Sync.FULL)
        return True

    def write_format(self) -> bool:
        """Whether the marker had to be written. Raises ConfigFault where a newer version wrote here."""
        self.check_format()
        marker = self.path / "format"
        if is_file(marker):
            return False
        self.disk.replace(marker, f"{FORMAT}\n".encode(), sync=Sync.FULL)
        return True

    def keep_copy(self, path: Path, data: bytes) -> None:
        """The damaged part of a file as `NAME.corrupt-<time>`, durably, before the file is written without it."""
        for target in self._corrupt_names(path):
            with suppress(FileExistsError):
                self.disk.create(target, data, sync=Sync.FULL)
                return

    def lines_of(self, path: Path) -> list[bytes]:
        """Of a file that is appended to, without the blanks and NULs that a power failure leaves. Raises OSError."""
        lines = (self.bytes_of(path) or b"").replace(b"\0", b"").split(b"\n")
        return [line for line in lines if line.strip()]

    def read_lines(self, path: Path, decode: Callable[[bytes], T]) -> list[T]:
        """What stands in a file that is appended to. Lines that cannot be read are told of, and where that is ours to
        do they are kept in a file beside, durable before this one is written without them. Raises OSError.
        """
        found, kept, bad = list[T](), list[bytes](), list[bytes]()
        for line in self.lines_of(path):
            try:
                found.append(decode(line))
            except GARBLED:
                (kept if _is_torn(line) else bad).append(line)
            else:
                kept.append(line)
        if bad and self._ours:
            self.keep_copy(path, b"".join(line + b"\n" for line in bad))
            self.disk.replace(path, b"".join(line + b"\n" for line in kept), sync=Sync.FULL)
        if bad:
            self.damaged(path, f"{len(bad)} of its lines cannot be read")
        return found

    def read(self, path: Path, shape: type[T], empty: T, remake: Callable[[], T] | None = None) -> T:
        """The JSON file `path` as `shape`; absent = `empty`; damaged = set aside, reported, and `remake()` or `empty`.

        With `remake` only a copy is set aside: until the caller has written what was made anew, a crash finds the
        damage again. Who does not hold the lock changes nothing: the watcher must find it to make good what is lost.
        """
        data = _content(path)
        if data is None:
            return empty
        if isinstance(data, str):
            self._deal_with(path, data)
            return remake() if remake is not None else empty
        try:
            return msgspec.json.decode(data, type=shape)
        except GARBLED as error:
            if remake is None:
                self._deal_with(path, str(error))
                return empty
            if self.ours:
                self._keep_copy(path, data)
            self.damaged(path, str(error))
            return remake()

    def watcher_id(self) -> str:
        """By what a broker knows this workdir's watcher again. Made once; empty where nobody has watched here yet."""
        path = self.path / "watcher"
        found = (self.bytes_of(path) or b"").decode("ascii", "replace").strip()
        if re.fullmatch(r"[0-9a-f]{32}", found):
            return found
        if not self.ours:
            return ""
        made = os.urandom(16).hex()
        self.clear_way(path)
        self.disk.replace(path, f"{made}\n".encode(), sync=Sync.FULL)
        return made

    def bytes_of(self, path: Path) -> bytes | None:
        """The content of a state file; None where there is none. What is no file there is damage, never waited for."""
        data = _content(path)
        if isinstance(data, str):
            self._deal_with(path, data)
            return None
        return data

    def clear_way(self, path: Path) -> None:
        """Set aside what is no file where one is to be appended to."""
        if is_there(path) and not is_file(path):
            self._deal_with(path, "not a file")

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a damaged file to `NAME.corrupt-<time>`: it is kept, and it stops nothing."""
        for target in self._corrupt_names(path):
            try:
                self.disk.move(path, target, sync=Sync.NONE)
            except FileExistsError:
                continue
            except OSError as error:
                why = f"{why}; could not be set aside: {words_of(error)}"
            break
        self.damaged(path, why)

    def clamp(self, moment: float, longest: float) -> float:
        """A stored moment; one further ahead than any delay we set (the clock jumped) counts as now."""
        now = self.clock.now()
        return now if moment > now + longest else moment

    def check_format(self) -> None:
        """Refuse a newer format (ConfigFault); what is no number is damage like any other."""
        marker = self.path / "format"
        data = self.bytes_of(marker)
        if data is None:
            return
        text = data[:32].decode("ascii", "replace").strip()
        if text.isdigit() and int(text) > FORMAT:
            raise ConfigFault(
                "newer_format",
                f"{self.path} was written by a newer agent-mailer (format {text}, this one knows {FORMAT})",
                "install the newer version; nothing was changed",
            )
        if text != str(FORMAT):
            # Garbage where a number was: the files themselves are checked one by one when they are read.
            self._deal_with(marker, f"format is {text!r}")

    def _keep_copy(self, path: Path, data: bytes) -> None:
        for target in self._corrupt_names(path):
            with suppress(FileExistsError):
                self.disk.create(target, data, sync=Sync.NONE)
                return

    def _corrupt_names(self, path: Path) -> Iterator[Path]:
        stamp = iso(self.clock.now()).replace(":", "").replace(".", "")
        for number in range(1000):
            yield path.with_name(f"{path.name}.corrupt-{stamp}" + (f"-{number}" if number else ""))

    def _deal_with(self, path: Path, why: str) -> None:
        if self.ours:
            self.set_aside(path, why)
        else:
            self.damaged(path, why)


def _content(path: Path) -> bytes | str | None:
    """What the file holds; None where there is none, a text where there is something else."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return "not a file"


def _is_torn(line: bytes) -> bool:
    """The beginning of an object: a crash has cut it off before it was confirmed to anybody. That is no damage."""
    try:
        msgspec.json.decode(line)
    except GARBLED as error:
        return line.startswith(b"{") and "truncated" in str(error)
    return False


def _nobody_listens(path: Path, why: str) -> None:
    del path, why


def _require_private(path: Path, found: os.stat_result, wanted: int) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigFault(
            "permissions",
            f"{path} can be read by others (mode {mode:04o}, must be {wanted:04o})",
            f"chmod {wanted:o} {quoted(path)}",
        )
