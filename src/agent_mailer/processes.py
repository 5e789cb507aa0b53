"""The process table, as /proc tells it: what runs, since when, for whom; which life of the machine this is, and who is
left with orphans.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

_PROC = Path("/proc")
CONTROL_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_LARGEST_PID = 2**31 - 1
_CHASES = 200
_KERNEL = 2
"""The parent of all kernel threads, which have no environment."""
_EXEC_LOOKS = 4
_NO_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_EXEC_PAUSE = 0.0005
_COMMAND_LOOKS = 200
_FEW = 200
_MOST_A_SECOND = 100_000
"""No processor starts so many processes and threads."""
_MANY = 1024


def _sees_us() -> bool:
    """Whether /proc is there and has our numbers: in a pid namespace it may be that of the machine."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115
    except OSError:
        return False


HAS_PROC = _sees_us()


def starts_elsewhere() -> bool:
    """Whether what we start lives in another pid namespace than we (`unshare --pid` without `--fork`).

    The first of them is its process 1, and once that has ended nothing can be started any more.
    """
    ours, theirs = _PROC / "self/ns/pid", _PROC / "self/ns/pid_for_children"
    if not os.path.lexists(theirs):
        return False
    try:
        return os.readlink(theirs) != os.readlink(ours)  # noqa: PTH115
    except FileNotFoundError:
        # It has no process yet.
        return True
    except OSError:
        return False


class ProcessStat(msgspec.Struct, frozen=True):
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    session: int
    threads: int
    started: int

    @property
    def alive(self) -> bool:
        """It runs: neither dead nor a zombie (a leader that ended before its threads is shown as one, and runs)."""
        return self.state not in ("X", "x") and (self.state != "Z" or self.threads > 1)

    @property
    def halted(self) -> bool:
        """Stopped by a signal (SIGSTOP) or a debugger: it does nothing until it is let go on."""
        return self.state in ("T", "t")


@cache
def boot_id() -> str:
    """The id of this boot of the machine; empty where nothing tells of processes. No process sees two."""
    if not HAS_PROC:
        return ""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except ValueError:
        return ""
    except OSError as error:
        _require_answer(error)
        return ""


@cache
def first_started() -> int:
    """The start time of process 1; 0 where it may not be looked at. No process sees two."""
    first = read_stat(1)
    return first.started if first is not None else 0


def read_stat(pid: int) -> ProcessStat | None:
    """The table's line of `pid`; None if nobody has it. Raises OSError where the system cannot tell now."""
    if not 0 < pid <= _LARGEST_PID:
        return None
    try:
        line = _read(f"/proc/{pid}/stat")
    except OSError as error:
        _require_answer(error)
        return None
    return parse_stat(pid, line)


def namespaces_of(pid: int) -> int:
    """In how many pid namespaces a process has a number; 1 where it is in none but ours, 0 where it is gone."""
    try:
        found = next(line for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith(b"NSpid:"))
    except StopIteration:
        return 1
    except OSError as error:
        _require_answer(error)
        return 0
    return len(found.split()) - 1


def runs_for(stat: ProcessStat) -> float | None:
    """Seconds since that process was started; None where the system does not tell."""
    try:
        uptime = float(_read("/proc/uptime").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, uptime - stat.started / os.sysconf("SC_CLK_TCK"))


def parse_stat(pid: int, line: bytes) -> ProcessStat | None:
    """What /proc/<pid>/stat says. The program's name may hold anything: fields start after the last parenthesis."""
    _, found, rest = line.rpartition(b")")
    fields = rest.split()
    if not found or len(fields) < 20:
        return None
    try:
        return ProcessStat(
            pid=pid,
            state=fields[0].decode("ascii"),
            parent=int(fields[1]),
            session=int(fields[3]),
            threads=int(fields[17]),
            started=int(fields[19]),
        )
    except ValueError:
        return None


def scan(entry: bytes, since: int = 0, after: int = 0) -> tuple[dict[int, ProcessStat], set[int]]:
    """Every live process by pid, and which of ours were started with `entry` (NAME=value) in their environment.

    `since`: a start time before which nobody can have been; older processes' environments are not looked at. `after`:
    a pid that was given out then; where few were given out since, and none twice, nobody else is looked at.

    A process that forks and leaves faster than a list of pids can be walked is seen as well: the pids given out
    meanwhile are looked at until there is none. Empty where there is no /proc.
    """
    table: dict[int, ProcessStat] = {}
    marked: set[int] = set()
    newest = _newest_pid()
    pids: Iterable[int]
    if 0 < newest - after <= _FEW and after and _none_twice(since):
        pids = filter(_leads_its_threads, range(after + 1, newest + 1))
    else:
        pids = listed_pids()
    for _ in range(_CHASES):
        young: list[int] = []
        for pid in pids:
            if (stat := read_stat(pid)) is not None and stat.alive:
                table[pid] = stat
                if stat.started >= since and stat.parent != _KERNEL:
                    young.append(pid)
        marked |= _started_with(young, entry)
        before, newest = newest, _newest_pid()
        if newest == before:
            break
        # Numbers of threads come from the same row.
        pids = filter(_leads_its_threads, range(before + 1, newest + 1)) if newest > before else listed_pids()
    return table, marked


def command_line(pid: int) -> list[str]:
    """The words of its command; none if it has ended or may not be looked at."""
    said = command(pid)
    return said.decode("utf-8", "replace").split("\0") if said else []


def command(pid: int) -> bytes:
    """Its command, a NUL after each word; empty if it has ended or may not be looked at. In the middle of an exec a
    process has none for a moment, nor ever has one that has ended and is not reaped.
    """
    try:
        for _ in range(_COMMAND_LOOKS):
            if said := _read(f"/proc/{pid}/cmdline"):
                return said
            if (stat := read_stat(pid)) is None or not stat.alive or _KERNEL in (pid, stat.parent):
                break
            time.sleep(_EXEC_PAUSE)
    except OSError as error:
        _require_answer(error)
    return b""


def listed_pids() -> Iterable[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdecimal()] if HAS_PROC else []


def _newest_pid() -> int:
    """The pid given out last; 0 where the system does not tell."""
    try:
        return int(_read("/proc/loadavg").split()[-1])
    except (ValueError, IndexError):
        return 0
    except OSError as error:
        _require_answer(error)
        return 0


def _none_twice(since: int) -> bool:
    """Whether the pids cannot have gone round since that start time. They are given out in their order."""
    try:
        seconds = float(_read("/proc/uptime").split()[0]) - since / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return False
    return seconds < _pids_there_are() / (_MOST_A_SECOND * (os.cpu_count() or _MANY))


@cache
def _pids_there_are() -> int:
    try:
        return int(_read("/proc/sys/kernel/pid_max"))
    except (OSError, ValueError):
        return 0


def _leads_its_threads(pid: int) -> bool:
    try:
        return b"\nTgid:\t%d\n" % pid in _read(f"/proc/{pid}/status")
    except OSError as error:
        _require_answer(error)
        return False


def is_ours(pid: int, entry: bytes) -> bool:
    """Ours, and started with `entry`. What another user's process says of itself counts for nothing."""
    return bool(_started_with([pid], entry))


def _started_with(pids: Iterable[int], entry: bytes) -> set[int]:
    """Which of them are ours and have `entry` in their environment; not those whose may not be read.

    In the middle of an exec a process has none for a moment: it is looked at again, all of these at once, since
    whoever has none for good, and there may be many, would cost as much each time.
    """
    found: set[int] = set()
    for look in range(_EXEC_LOOKS):
        without: list[int] = []
        for pid in pids:
            try:
                block = _read(f"/proc/{pid}/environ")
                if not block:
                    without.append(pid)
                elif b"\0" + entry + b"\0" in b"\0" + block + b"\0" and _is_of_our_user(pid):
                    found.add(pid)
            except OSError as error:
                _require_answer(error)
        if not without or look == _EXEC_LOOKS - 1:
            break
        pids = without
        time.sleep(_EXEC_PAUSE)
    return found


def _is_of_our_user(pid: int) -> bool:
    """Raises OSError."""
    return os.stat(f"/proc/{pid}").st_uid == os.geteuid()


def _read(path: str) -> bytes:
    """A file of /proc. Hundreds are read at the end of every turn: no layer between that costs more than the read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while len(data) % 65536 == 0 and (more := os.read(fd, 65536)):
            data += more
        return data
    finally:
        os.close(fd)


def _require_answer(error: OSError) -> None:
    """A process that cannot be looked at, for want of a descriptor say, is not one that has ended."""
    if error.errno in _NO_MEANS:
        raise error


def taken(pid: int) -> bool:
    if not 0 < pid <= _LARGEST_PID:
        return False
    try:
        os.kill(pid, 0)  # noqa: TID251 - asks, and signals nothing
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def children(of: int | str = "self") -> set[int]:
    """Every child of this process, or of another, those that have ended too; none where the system lists none."""
    found: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{of}/task"):
            with suppress(OSError):
                found |= set(map(int, _read(f"/proc/{of}/task/{thread}/children").split()))
    return found


def in_unit(unit: str) -> set[int]:
    """Who is in that unit of the user's systemd: none leaves it by forking. Empty where there is none."""
    user = f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service"
    found: set[int] = set()
    for tree in CONTROL_GROUPS:
        for listed in (tree / user).glob(f"*/{unit}/cgroup.procs"):
            with suppress(OSError, ValueError):
                found |= set(map(int, listed.read_bytes().split()))
    return found


PR_SET_CHILD_SUBREAPER = 36

_inherits: set[int] = set()
"""Who has asked for it: a fork of us has not."""


def can_inherit_orphans() -> bool:
    """Whether this system knows the means (Linux does)."""
    return prctl_of_system() is not None


def inherit_orphans() -> bool:
    """From here on this process is left what loses its parent below it, a killed holder's above all; it has to reap."""
    prctl = prctl_of_system()
    if prctl is None:
        return False
    _inherits.add(os.getpid())
    return bool(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def inherits_orphans() -> bool:
    """Whether this very process has asked for it; a fork of it has not."""
    return os.getpid() in _inherits


@cache
def prctl_of_system() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # who only knows processes by their names needs no calls

    try:
        function = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return function


def callers(pid: int, most: int) -> Iterator[tuple[int, Sequence[str]]]:
    """That process and at most so many in all, each the parent of the one before, with their words."""
    for _ in range(most):
        if (stat := read_stat(pid)) is None:
            return
        yield pid, command_line(pid)
        pid = stat.parent
