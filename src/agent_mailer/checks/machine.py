"""The machine under the agent: room on its disks, file events, a limit of memory, who holds a lock file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.errors import ExitCode, quoted
from agent_mailer.state.lock import holder_of

_MEBIBYTE = 1024 * 1024
LOW = 1024 * _MEBIBYTE
TOO_LOW = 64 * _MEBIBYTE
"""A turn's transcript alone may take this much."""

FEW_INODES = 1000
_COMMANDS = ("agent-mailer", "amp")
FEW_INSTANCES = 128
_INOTIFY = Path("/proc/sys/fs/inotify")
_OF_THE_NAMESPACE = Path("/proc/sys/user")


def check_disk(paths: Sequence[Path]) -> list[CheckResult]:
    """Bytes and file names left where state and mail are written; one line for each file system."""
    devices: dict[int, Path] = {}
    for path in paths:
        with suppress(OSError):
            devices.setdefault(path.stat().st_dev, path)
    return [guarded("disk", path, partial(_disk, path)) for path in devices.values()]


def _disk(path: Path) -> CheckResult:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    text = f"{free // _MEBIBYTE} MiB free"
    fix = f"make room: df -h {quoted(path)}"
    if free < TOO_LOW:
        return failed("disk", path, f"only {text}; once it is full nothing is started", fix, ExitCode.UNAVAILABLE)
    # Some file systems count no inodes.
    if found.f_files and found.f_favail < FEW_INODES:
        text = f"only {found.f_favail} file names (inodes) left"
        return failed("disk", path, text, f"df -i {quoted(path)}", ExitCode.UNAVAILABLE)
    if free < LOW:
        return warning("disk", path, f"only {text}", fix)
    return ok("disk", path, text)


def check_commands(path: str) -> CheckResult:
    """Who is meant in a shell by the names of our two programs: others have them, too."""
    home = Path(sys.executable).parent
    first = {name: Path(there) for name in _COMMANDS if (there := shutil.which(name, path=path)) is not None}
    others = {name: found for name, found in first.items() if found.resolve() != (home / name).resolve()}
    for name, found in others.items():
        text = f"{name} is another program, or another installation: {found} comes first in PATH, not {home / name}"
        instead = "agent-mailer team" if name == _COMMANDS[1] and _COMMANDS[0] not in others else str(home / name)
        return warning("commands", found, text, f"put {home} before {found.parent} in PATH; or type: {instead}")
    if missing := [name for name in _COMMANDS if name not in first]:
        text = f"not in PATH: {', '.join(missing)}; they are in {home}"
        return ok("commands", home, text)
    return ok("commands", home, "agent-mailer and amp are ours")


def check_file_events(path: Path) -> CheckResult:
    """Whether one more watcher can be told of arriving mail; without, it is looked for every few seconds."""

    def look() -> CheckResult:
        try:
            from asyncinotify import Inotify, Mask
        except (ImportError, RuntimeError, AttributeError, OSError):
            return ok("file_events", path, "this system has no inotify: mail is looked for every 2 seconds")
        try:
            with Inotify(sync_timeout=0) as events:
                # As many as a watcher needs: beside these the folders in which a git tree could come.
                for folder in (path, *path.absolute().parents):
                    with suppress(PermissionError):
                        events.add_watch(folder, Mask.CREATE)
        except OSError as error:
            text = f"no more can be watched ({error.strerror}; {_limits()}): mail is looked for every 2 seconds"
            return warning("file_events", path, text, _RAISE)
        instances = _limit("max_user_instances")
        if instances is not None and instances < FEW_INSTANCES:
            return warning("file_events", path, f"work, but there can be few watchers ({_limits()})", _RAISE)
        return ok("file_events", path, f"work ({_limits()})")

    return guarded("file_events", path, look)


_RAISE = "sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"


def _limits() -> str:
    names = ("max_user_instances", "max_user_watches")
    return ", ".join(f"{name} {limit}" for name in names if (limit := _limit(name)) is not None) or "no known limits"


def _limit(name: str) -> int | None:
    """The machine's, or a user namespace's own where that is less."""
    found = []
    for path in (_INOTIFY / name, _OF_THE_NAMESPACE / name.replace("max_user", "max_inotify")):
        with suppress(OSError, ValueError):
            found.append(int(path.read_text("ascii")))
    return min(found, default=None)


def check_turn_memory(size: str, memory: int, env: Mapping[str, str]) -> CheckResult:
    """A scope with that limit is started as a turn with the environment `env` would be; `memory` is `size` in bytes."""

    def look() -> CheckResult:
        from agent_mailer.process.scope import why_unlimited

        why = why_unlimited(memory, env)
        if why:
            fix = 'agent-mailer config set turn_memory ""'
            return warning("turn_memory", size, f"turns run without this limit: {why}", fix)
        return ok("turn_memory", size, f"a turn is held to {size}")

    return guarded("turn_memory", size, look)


def check_turn_end(memory: str) -> CheckResult:
    """By which means everything that a turn started is found and ended here."""

    def look() -> CheckResult:
        from agent_mailer.process.first import in_a_pid_namespace
        from agent_mailer.processes import HAS_PROC, can_inherit_orphans

        if not HAS_PROC:
            text = (
                "no /proc that shows our processes: what leaves a turn's process group is not found at the turn's end"
            )
            return warning("turn_end", "processes", text, "sudo mount -t proc proc /proc")
        means = ["environment", "session", "descent"]
        lost = "; a daemon with a cleared environment is not found (this system knows no subreaper)"
        if can_inherit_orphans():
            means, lost = [*means, "subreaper"], ""
        if memory:
            means.append("control group (turn_memory)")
        if in_a_pid_namespace():
            means.append("pid namespace (with its process 1 all end)")
        return ok("turn_end", "processes", f"found by {', '.join(means)}{lost}")

    return guarded("turn_end", "processes", look)


_LOCKS = Path("/proc/locks")


def flock_holder(path: Path) -> int | None:
    """The pid that holds an flock on `path`; None where nobody does or the system does not tell. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    with suppress(FileNotFoundError):
        for line in _LOCKS.read_text("ascii", "replace").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4242 fd:01:1234567 0 EOF
            words = line.split()
            if len(words) >= 6 and words[1] == "FLOCK" and words[5] == f"{device}:{found.st_ino}":
                return int(words[4])
    return None


def check_lock(path: Path, version: str) -> CheckResult:
    """Whether a watcher runs in this workdir, and whether it is of this version."""

    def look() -> CheckResult:
        holder, pid = holder_of(path), flock_holder(path)
        if holder is not None and holder.version != version:
            text = f"a watcher of version {holder.version} runs (process {holder.process.pid}), this is {version}"
            return warning("lock", path, text, f"kill -USR1 {holder.process.pid}, then start agent-mailer watch")
        if holder is not None:
            return ok("lock", path, f"a watcher runs: process {holder.process.pid}")
        if pid is not None:
            text = f"held by process {pid}, which has not written who it is"
            return warning("lock", path, text, f"ps -fp {pid}")
        return ok("lock", path, "no watcher runs (agent-mailer watch)")

    return guarded("lock", path, look)
