"""The state folder: who may read it, and mending that; whether its files can be read, its sessions resumed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.clock import from_iso, iso
from agent_mailer.disk import Sync, read_regular
from agent_mailer.errors import quoted
from agent_mailer.names import printable
from agent_mailer.runtimes.port import Runtime
from agent_mailer.state import State
from agent_mailer.state.folder import FORMAT, GARBLED, StateFolder
from agent_mailer.state.records import PauseReason, SessionEntry
from agent_mailer.watch.rules import WatchPolicy, unfit

AHEAD = 60.0
"""Seconds by which a moment may be ahead of the clock before the clock is suspected."""

_REBUILT = "agent-mailer doctor --repair, or agent-mailer watch (it sets the file aside and makes it anew)"
_PRIVATE_FOLDERS = ("turns", "requests")
"""What lies in them is mail; notes and templates are the user's and the agent's to write as they like."""


class Mended(msgspec.Struct, frozen=True):
    """One line: what was done, to what."""

    path: str
    text: str


class Left(msgspec.Struct, frozen=True):
    """What could not be mended, and the command that does."""

    path: str
    text: str
    fix: str


def check_permissions(folder: StateFolder) -> CheckResult:
    """Every file and folder of ours belongs to this user, who alone may read it."""

    def look() -> CheckResult:
        us, looked = os.geteuid(), 0
        for path in _ours(folder):
            found = path.lstat()
            looked += 1
            if found.st_uid != us:
                text = f"{path.name} belongs to user {found.st_uid}, not to {us}"
                return failed("permissions", path, text, f"sudo chown -R {us} {quoted(folder.path)}")
            if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077:
                text = f"others may read it (mode {stat.S_IMODE(found.st_mode):04o}), once they get into the folder"
                return warning("permissions", path, text, f"chmod go-rwx {quoted(path)}")
        return ok("permissions", folder.path, f"{looked} files and folders, all of this user and private")

    return guarded("permissions", folder.path, look)


def mend_permissions(folder: StateFolder) -> tuple[list[Mended], list[Left]]:
    """The folder, its files, and the folders in it are this user's alone. First: other commands refuse to look."""
    mended: list[Mended] = []
    left: list[Left] = []
    us = os.geteuid()
    for path in _private(folder):
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
                # Its mode is another file's.
                continue
            mode = stat.S_IMODE(found.st_mode)
            needed = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
            wanted = (mode & 0o700) | needed
            if found.st_uid != us:
                left.append(
                    Left(str(path), f"belongs to user {found.st_uid}", f"sudo chown -R {us} {quoted(folder.path)}")
                )
            elif wanted != mode:
                folder.disk.system.chmod(path, wanted)
                mended.append(Mended(str(path), f"mode {mode:04o} is {wanted:04o} now"))
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(Left(str(path), str(error), f"chmod go-rwx {quoted(path)}"))
    return mended, left


def clear_lock(folder: StateFolder) -> list[Mended]:
    """What is no file where the lock should be goes aside: nobody can hold it."""
    path = folder.path / ".lock"
    if not os.path.lexists(path) or path.is_file():
        return []
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    folder.disk.move(path, path.with_name(f".lock.corrupt-{stamp}"), sync=Sync.NONE)
    return [Mended(str(path), f"not a file, kept as .lock.corrupt-{stamp}")]


def check_format(folder: StateFolder) -> CheckResult:
    """The number in `format` is the one that this version writes."""
    path = folder.path / "format"

    def look() -> CheckResult:
        try:
            text = read_regular(path, 32)[:32].decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ok("format", path, "not there yet; the watcher writes it")
        if text == str(FORMAT):
            return ok("format", path, f"format {FORMAT}")
        if text.isdigit() and int(text) > FORMAT:
            return failed(
                "format", path, f"format {text} is newer than this version's {FORMAT}", "install the newer agent-mailer"
            )
        return warning("format", path, f"holds {text!r}, not a format number we know", _REBUILT)

    return guarded("format", path, look)


def check_state_files(state: State) -> list[CheckResult]:
    """Each file that is there can be read as what it should be; one line for all that can, one for each that cannot."""
    folder = state.folder
    damaged: list[tuple[Path, str]] = []
    fine: list[str] = []
    bad: list[CheckResult] = []
    with folder.telling(lambda path, why: damaged.append((path, why))):
        for name, read in _readers(state).items():
            path = folder.path / name
            if not os.path.lexists(path):
                continue
            damaged.clear()
            found = guarded("state", path, partial(_read, path, read))
            if damaged:
                bad += [failed("state", where, f"cannot be read: {why}", _REBUILT) for where, why in damaged]
            elif found.fix:
                bad.append(found)
            else:
                fine.append(f"{name} ({found.text})")
    shown = ", ".join(fine) or "no files yet"
    return [ok("state", folder.path, shown), *bad, *_open_turns(state), *_set_aside(folder)]


def check_pause(state: State) -> CheckResult:
    """Whether anything is started at present."""
    path = state.folder.path / "pause.json"

    def look() -> CheckResult:
        pause = state.pause.read()
        if pause is None:
            return ok("pause", path, "nothing is paused")
        until = f"until {iso(pause.until)}" if pause.until is not None else "until somebody ends it"
        detail = f": {pause.detail}" if pause.detail else ""
        what = "paused by hand" if pause.reason is PauseReason.BY_HAND else pause.reason.value.replace("_", " ")
        return warning("pause", path, f"{what}, {until}{detail}", "agent-mailer resume")

    return guarded("pause", path, look)


def check_clock(state: State, now: float) -> CheckResult:
    """No moment in the state lies ahead of the clock by more than the state itself can have put it there."""

    def look() -> CheckResult:
        name, moment = max(_moments(state), key=lambda found: found[1], default=("", 0.0))
        if moment > now + AHEAD:
            text = f"{name} says {iso(moment)}, the clock says {iso(now)}: the clock was or is wrong"
            return warning("clock", state.folder.path, text, "timedatectl status")
        return ok("clock", state.folder.path, f"{iso(now)}; nothing in the state is later")

    return guarded("clock", state.folder.path, look)


def _private(folder: StateFolder) -> Iterator[Path]:
    yield folder.path
    for directory in (folder.path, folder.turns, folder.requests):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (directory / name for name in names)


def _ours(folder: StateFolder) -> Iterator[Path]:
    yield folder.path
    with os.scandir(folder.path) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    yield from (folder.path / name for name in names)
    for name in _PRIVATE_FOLDERS:
        path = folder.path / name
        if path.is_dir():
            yield path
            yield from sorted(path.iterdir())


def _readers(state: State) -> dict[str, Callable[[], str]]:
    """Each file's name, and how it is read: what it holds in a few words."""
    folder = state.folder
    return {
        "processed.txt": lambda: f"{len(state.processed)} ids",
        "cursor.txt": lambda: "read" if state.cursor.read() else "empty",
        "sessions.json": lambda: f"{sum(1 for _ in state.sessions.all())} threads",
        "retries.json": lambda: f"{len(state.retries)} waiting",
        "pause.json": lambda: "read" if state.pause.read() else "empty",
        "usage.json": lambda: f"{state.usage.today().turns} turns today",
        "questions.json": lambda: f"{len(state.questions.all())} open",
        "inflight.json": lambda: f"{_index(state, folder.path / 'inflight.json')} open",
        "dead_letter.jsonl": lambda: f"{state.dead_letters.count()} given up",
        "stuck.jsonl": lambda: f"{sum(state.stuck.counts().values())} stuck",
        "held.jsonl": lambda: f"{len(state.held.waiting)} held",
        "log.jsonl": lambda: f"{folder.log.stat().st_size} bytes",
    }


def _read(path: Path, read: Callable[[], str]) -> CheckResult:
    if not path.is_file():
        return failed("state", path, "not a file", _REBUILT)
    # Some readers make do without a file that cannot be opened.
    path.open("rb").close()
    return ok("state", path, read())


def _index(state: State, path: Path) -> int:
    try:
        msgspec.json.decode(read_regular(path))
    except GARBLED as error:
        state.folder.damaged(path, str(error))
    return len(state.turns.indexed())


def _open_turns(state: State) -> Iterator[CheckResult]:
    def look() -> CheckResult:
        ids = state.turns.open_ids()
        bad = [state.turns.path(turn_id) / "turn.json" for turn_id in ids if state.turns.load(turn_id) is None]
        if bad:
            more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
            return failed("state", bad[0], f"the record of an open turn cannot be read{more}", _REBUILT)
        return ok("state", state.folder.turns, f"{len(ids)} open turns, each with its record")

    yield guarded("state", state.folder.turns, look)


def _set_aside(folder: StateFolder) -> Iterator[CheckResult]:
    with suppress(OSError):
        aside = sorted(name for name in os.listdir(folder.path) if ".corrupt-" in name)
        if aside:
            text = f"damaged files were set aside: {', '.join(aside)}"
            yield warning("state", folder.path, text, f"look at them, then: rm {quoted(folder.path)}/*.corrupt-*")


def _moments(state: State) -> Iterator[tuple[str, float]]:
    """Named moments of the state that can only be past."""
    folder = state.folder
    for path in _ours(folder):
        yield path.name, path.lstat().st_mtime
    pause = state.pause.read()
    if pause is not None:
        yield "pause.json", pause.since
    for entry in state.retries.all():
        if entry.history:
            yield "retries.json", entry.history[-1].at
    for _, session in state.sessions.all():
        with suppress(ValueError):
            yield "sessions.json", from_iso(session.last_used_at)


def check_sessions(
    path: Path, entries: Callable[[], Mapping[str, SessionEntry]], runtime: Runtime, policy: WatchPolicy, now: float
) -> CheckResult:
    """What has grown too old is no fault: that thread starts fresh. What the agent program has lost is told."""

    def look() -> CheckResult:
        traits = runtime.traits
        live = {thread: entry for thread, entry in entries().items() if entry.session_id}
        if not traits.resumes:
            return ok("sessions", path, f"{traits.name} keeps no sessions: every message starts fresh")
        closed = {t: why for t, e in live.items() if (why := unfit(e, runtime=traits.name, now=now, policy=policy))}
        kept = runtime.kept_sessions()
        gone = [t for t, e in live.items() if t not in closed and kept is not None and e.session_id not in kept]
        if gone:
            more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
            text = f"{traits.name} no longer has the session of thread {printable(gone[0], 80)}{more}: it starts fresh"
            return warning("sessions", path, text, "agent-mailer sessions invalidate --all")
        some = f"; one that {next(iter(closed.values()))} starts fresh" if closed else ""
        return ok("sessions", path, f"{len(live) - len(closed)} of {len(live)} can be resumed{some}")

    return guarded("sessions", path, look)
