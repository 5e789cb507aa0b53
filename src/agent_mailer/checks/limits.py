"""What the system allows a process: said before it hurts, by `doctor` and at the start of a watcher."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from agent_mailer.checks import CheckResult, Level, failed, ok, warning
from agent_mailer.errors import ExitCode, UnavailableFault
from agent_mailer.processes import HAS_PROC, starts_elsewhere

_MEBIBYTE = 1024 * 1024
LARGEST_FILE = 64 * _MEBIBYTE
"""A turn's transcript alone may take this much."""

FILES = 64
FILES_PER_TURN = 16
PROCESSES_PER_TURN = 40
"""An agent program, its tools and their threads."""

MEMORY = 256 * _MEBIBYTE
ADDRESSES = 4096 * _MEBIBYTE
"""node reserves more than it uses."""

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """What is left of something; `limit` None = as much as there is."""

    left: int
    limit: int | None
    looked_at: str
    fix: str


def require_proc() -> None:
    """Raises UnavailableFault where no process could be told from another, none be ended with its whole tree."""
    if not HAS_PROC or not (PROC / "self" / "stat").exists():
        text = f"{PROC} is not there, or another's: the processes of a turn could be neither known nor ended"
        raise UnavailableFault("no_proc", text, "mount -t proc proc /proc")
    if starts_elsewhere():
        text = "what is started here lives in another pid namespace, and with its first process all can end"
        raise UnavailableFault("no_init", text, "unshare --pid --fork --mount-proc --kill-child agent-mailer watch")


def check_limits(turns: int) -> list[CheckResult]:
    """For so many turns side by side: what is too small, a line each; or one line that says what there is."""
    try:
        require_proc()
    except UnavailableFault as fault:
        return [failed("limits", PROC, fault.message, fault.fix, ExitCode.UNAVAILABLE)]
    found = [*_files(turns), *_file_size(), *_processes(turns), *_memory()]
    short = [result for result in found if result.result is not Level.OK]
    return short or [ok("limits", "ulimit -a", "; ".join(result.text for result in found))]


def _files(turns: int) -> Iterator[CheckResult]:
    limit, needs = _limit(resource.RLIMIT_NOFILE), FILES + FILES_PER_TURN * turns
    if limit is not None and limit < needs:
        text = f"a process may have {limit} files open, {turns} turns side by side need {needs}"
        yield warning("limits", "ulimit -n", text, f"ulimit -n {max(1024, needs)}")
    else:
        yield ok("limits", "ulimit -n", f"{_shown(limit)} open files")


def _file_size() -> Iterator[CheckResult]:
    limit = _limit(resource.RLIMIT_FSIZE)
    if limit is not None and limit < LARGEST_FILE:
        text = (
            f"no file may have more than {limit} bytes: what is larger cannot be written, and nothing is settled then"
        )
        yield failed("limits", "ulimit -f", text, "ulimit -f unlimited", ExitCode.UNAVAILABLE)
    else:
        yield ok("limits", "ulimit -f", f"files of {_shown(limit)} bytes")


def _processes(turns: int) -> Iterator[CheckResult]:
    needs = PROCESSES_PER_TURN * turns
    rooms = [room for room in (_of_the_user(), _of_the_group("pids", "processes")) if room is not None]
    for room in rooms:
        if room.left < needs:
            text = f"{room.left} more processes can be started of {room.limit}, {turns} turns side by side need {needs}"
            yield warning("limits", room.looked_at, text, room.fix)
            return
    yield ok("limits", "ulimit -u", f"{_shown(min((room.left for room in rooms), default=None))} more processes")


def _memory() -> Iterator[CheckResult]:
    addresses = _limit(resource.RLIMIT_AS)
    if addresses is not None and addresses < ADDRESSES:
        text = f"a process may have {addresses // _MEBIBYTE} MiB of addresses: claude and codex will not start"
        yield warning("limits", "ulimit -v", text, "ulimit -v unlimited")
    rooms = [room for room in (_of_the_machine(), _of_the_group("memory", "memory")) if room is not None]
    for room in rooms:
        if room.left < MEMORY:
            text = f"{room.left // _MEBIBYTE} MiB of memory are left"
            yield warning("limits", room.looked_at, text, room.fix)
            return
    if rooms:
        yield ok("limits", rooms[0].looked_at, f"{min(room.left for room in rooms) // _MEBIBYTE} MiB of memory left")


def _of_the_user() -> Room | None:
    limit = _limit(resource.RLIMIT_NPROC)
    if limit is None or os.geteuid() == 0:
        return None
    mine = sum(_threads(entry) for entry in os.scandir(PROC) if entry.name.isdigit())
    return Room(
        max(0, limit - mine), limit, "ulimit -u", f"end what is not needed (ps -u {os.geteuid()}), or raise ulimit -u"
    )


def _threads(entry: os.DirEntry[str]) -> int:
    """Of a process of ours: the limit counts them."""
    with suppress(OSError, ValueError):
        if entry.stat().st_uid == os.geteuid():
            words = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
            return int(words[17])
    return 0


def _of_the_machine() -> Room | None:
    path = PROC / "meminfo"
    with suppress(OSError, ValueError):
        for line in path.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return Room(int(line.split()[1]) * 1024, None, str(path), "end what is not needed: ps aux --sort -rss")
    return None


def _of_the_group(what: str, name: str) -> Room | None:
    """The nearest limit of a control group, as containers and services have."""
    with suppress(OSError, ValueError):
        [line] = [line for line in (PROC / "self" / "cgroup").read_text().splitlines() if line.startswith("0::")]
        inside = CGROUPS / line.removeprefix("0::").lstrip("/")
        for folder in (inside, *inside.parents):
            if not folder.is_relative_to(CGROUPS):
                break
            with suppress(OSError, ValueError):
                limit, used = (int((folder / f"{what}.{end}").read_text()) for end in ("max", "current"))
                return Room(max(0, limit - used), limit, str(folder), f"give the container or service more {name}")
    return None


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)
