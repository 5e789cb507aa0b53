"""Exactly the process that is meant: a pid with its start time and boot, signalled and awaited by pidfd."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from agent_mailer.process.spawn import waited_for

_PROC = Path("/proc")
_LARGEST_PID = 2**31 - 1
_EXEC_LOOKS = 4
_NO_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_EXEC_PAUSE = 0.0005
_POLL = 0.05
_MOST_WATCHED = 64


def _sees_us() -> bool:
    """Whether /proc is there and has our numbers: in a pid namespace it may be that of the machine."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115
    except OSError:
        return False


HAS_PROC = _sees_us()


class ProcessIdentity(msgspec.Struct, frozen=True, eq=False):
    """One process for ever: pid, start time (clock ticks since boot), boot id.

    `first`: the start time of process 1, which tells a container from the one before it; 0 = not known.
    """

    pid: int
    started: int
    boot: str
    first: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessIdentity) and self._key == other._key

    def __ne__(self, other: object) -> bool:
        # The base has one of its own, which knows nothing of ours.
        return not self == other

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[int, int, str]:
        return self.pid, self.started, self.boot

    @property
    def of_this_life(self) -> bool:
        """It was started since the machine, and the container where we are in one, began to run."""
        same_container = not self.first or not first_started() or self.first == first_started()
        return self.boot == boot_id() and same_container


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
        require_answer(error)
        return ""


@cache
def first_started() -> int:
    """The start time of process 1; 0 where it may not be looked at. No process sees two."""
    first = read_stat(1)
    return first.started if first is not None else 0


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has `pid` now, a zombie included; None if nobody has it."""
    if not HAS_PROC:
        return ProcessIdentity(pid, 0, "") if _taken(pid) else None
    stat = read_stat(pid)
    return None if stat is None else identity_of(stat)


def identity_of(stat: ProcessStat) -> ProcessIdentity:
    return ProcessIdentity(stat.pid, stat.started, boot_id(), first_started())


def is_alive(identity: ProcessIdentity) -> bool:
    """The very process runs still. A zombie does not; whatever is wrong with `identity` is a no.

    Raises OSError where the system cannot tell now (no descriptor left).
    """
    if not HAS_PROC:
        # A zombie would count as living.
        reap(identity)
        return not identity.boot and _taken(identity.pid)
    stat = read_stat(identity.pid)
    return stat is not None and stat.alive and stat.started == identity.started and identity.of_this_life


def read_stat(pid: int) -> ProcessStat | None:
    """The table's line of `pid`; None if nobody has it. Raises OSError where the system cannot tell now."""
    if not 0 < pid <= _LARGEST_PID:
        return None
    try:
        line = read_proc(f"/proc/{pid}/stat")
    except OSError as error:
        require_answer(error)
        return None
    return parse_stat(pid, line)


def runs_for(stat: ProcessStat) -> float | None:
    """Seconds since that process was started; None where the system does not tell."""
    try:
        uptime = float(read_proc("/proc/uptime").split()[0])
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


def carries(identity: ProcessIdentity, entry: bytes) -> bool:
    """The very process runs, belongs to us and was started with `entry` (NAME=value) in its environment.

    A record may name any process; only what it was started with tells whose it is. Without /proc nothing tells.
    """
    if not HAS_PROC:
        return is_alive(identity)
    return is_alive(identity) and is_ours(identity.pid, entry) and is_alive(identity)


def send(identity: ProcessIdentity, signal_number: int) -> bool:
    """Signal the very process; False if it is gone or not ours to signal. A pid given out again is never hit.

    Without pidfd there is a moment between look and signal; without /proc the process's whole group is signalled, since
    its children cannot be found.
    """
    if identity.pid in (os.getpid(), 1):
        return False
    try:
        fd = _open(identity) if HAS_PROC else None
        if fd is None:
            if not is_alive(identity):
                return False
            if HAS_PROC:
                os.kill(identity.pid, signal_number)
            else:
                os.killpg(identity.pid, signal_number)
            return True
        try:
            signal.pidfd_send_signal(fd, signal_number)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


async def wait_gone(identities: Sequence[ProcessIdentity], seconds: float | None = None) -> bool:
    """Wait until each of `identities` has ended, at most `seconds` seconds; True if so. Zombies have ended.

    Of a crowd only the first are awaited: True then means that it is worth looking again.
    """
    import asyncio  # what only looks at a process does without

    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    waiting: set[int] = set()

    def on_end(fd: int) -> None:
        loop.remove_reader(fd)
        os.close(fd)
        waiting.discard(fd)
        if not waiting and not ended.done():
            ended.set_result(None)

    try:
        for identity in identities[:_MOST_WATCHED]:
            with suppress(ProcessLookupError):
                fd = _open(identity)
                if fd is None:
                    return await _poll(identities, seconds)
                waiting.add(fd)
                loop.add_reader(fd, on_end, fd)
        if not waiting:
            return True
        try:
            await asyncio.wait_for(ended, seconds)
        except TimeoutError:
            return False
        return True
    finally:
        for fd in waiting:
            loop.remove_reader(fd)
            os.close(fd)


def reap(identity: ProcessIdentity, *, block: bool = False) -> None:
    """Take the exit status of an ended child off the system, so that no zombie stays; nothing for others' children."""
    if HAS_PROC:
        # A child that was not reaped keeps its pid, so what has the pid and the start time is the one waited for.
        stat = read_stat(identity.pid)
        if stat is None or stat.started != identity.started or not identity.of_this_life:
            return
    with suppress(ChildProcessError):
        if os.waitid(os.P_PID, identity.pid, os.WEXITED | (0 if block else os.WNOHANG)) is not None:
            waited_for.discard(identity.pid)


def _open(identity: ProcessIdentity) -> int | None:
    """A pidfd of a live process; None where the system cannot give one. Raises ProcessLookupError if it has ended."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    if not is_alive(identity):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
    # Looked at again now that the descriptor holds whatever has the pid.
    if not is_alive(identity):
        os.close(fd)
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return fd


async def _poll(identities: Sequence[ProcessIdentity], seconds: float | None) -> bool:
    import asyncio

    end = None if seconds is None else time.monotonic() + seconds
    while True:
        for identity in identities:
            if not HAS_PROC:
                reap(identity)
        if not any(is_alive(identity) for identity in identities):
            return True
        if end is not None and time.monotonic() >= end:
            return False
        await asyncio.sleep(_POLL)


def command_line(pid: int) -> list[str]:
    """The words of its command; none if it has ended or may not be looked at."""
    try:
        return read_proc(f"/proc/{pid}/cmdline").decode("utf-8", "replace").split("\0")
    except OSError as error:
        require_answer(error)
        return []


def listed_pids() -> Iterable[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdecimal()] if HAS_PROC else []


def is_ours(pid: int, entry: bytes) -> bool:
    """Ours, and started with `entry`. What another user's process says of itself counts for nothing."""
    if not _environment_has(pid, entry):
        return False
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError as error:
        require_answer(error)
        return False


def _environment_has(pid: int, entry: bytes) -> bool:
    """False if it may not be read. In the middle of an exec a process has none for a moment: it is looked at again."""
    block = b""
    for _ in range(_EXEC_LOOKS):
        try:
            block = read_proc(f"/proc/{pid}/environ")
        except OSError as error:
            require_answer(error)
            return False
        if block:
            break
        time.sleep(_EXEC_PAUSE)
    return b"\0" + entry + b"\0" in b"\0" + block + b"\0"


def read_proc(path: str) -> bytes:
    """A file of /proc. Hundreds are read at the end of every turn: no layer between that costs more than the read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while len(data) % 65536 == 0 and (more := os.read(fd, 65536)):
            data += more
        return data
    finally:
        os.close(fd)


def require_answer(error: OSError) -> None:
    """A process that cannot be looked at, for want of a descriptor say, is not one that has ended."""
    if error.errno in _NO_MEANS:
        raise error


def _taken(pid: int) -> bool:
    if not 0 < pid <= _LARGEST_PID:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
