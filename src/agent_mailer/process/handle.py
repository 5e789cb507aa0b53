"""Exactly the process that is meant: a pid with its start time and boot, signalled and awaited by pidfd; and how one is
started that inherits whatever below it loses its parent.

What cleared its environment, went into a session of its own and let its parents die is then still a child of that
program, and not of process 1. Only the process itself can ask the system for that, before it becomes the program.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NoReturn

import msgspec

from agent_mailer.processes import (
    HAS_PROC,
    PR_SET_CHILD_SUBREAPER,
    ProcessStat,
    boot_id,
    children,
    first_started,
    inherits_orphans,
    is_ours,
    prctl_of_system,
    read_stat,
    taken,
)

_POLL = 0.05
_MOST_WATCHED = 64

waited_for: set[int] = set()
"""Children whose end somebody here waits for: as process 1 we have others as well."""


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


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has `pid` now, a zombie included; None if nobody has it."""
    if not HAS_PROC:
        return ProcessIdentity(pid, 0, "") if taken(pid) else None
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
        return not identity.boot and taken(identity.pid)
    stat = read_stat(identity.pid)
    return stat is not None and stat.alive and stat.started == identity.started and identity.of_this_life


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


def reap(identity: ProcessIdentity, *, block: bool = False) -> int | None:
    """Take an ended child off the system, so that no zombie stays; not others'. Its exit status, where it has one."""
    stat = read_stat(identity.pid) if HAS_PROC else None
    # A child that was not reaped keeps its pid, so what has the pid and the start time is the one waited for.
    if HAS_PROC and (stat is None or stat.started != identity.started or not identity.of_this_life):
        return None
    with suppress(ChildProcessError):
        if ended := os.waitid(os.P_PID, identity.pid, os.WEXITED | (0 if block else os.WNOHANG)):
            waited_for.discard(identity.pid)
            return ended.si_status if ended.si_code == os.CLD_EXITED else None
    return None


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
        for identity in () if HAS_PROC else identities:
            reap(identity)
        if not any(is_alive(identity) for identity in identities):
            return True
        if end is not None and time.monotonic() >= end:
            return False
        await asyncio.sleep(_POLL)


_NEVER_OURS = {signal.SIGKILL, signal.SIGSTOP}
_FAILED = b"!"
_UNSTARTED = 127
_MOST_LOOKED_AT = 4096
"""Numbers of descriptors, one by one, where there is no /proc to list them."""

# A copy of this process costs more than all the rest of a start: each of its pages that is written afterwards is one
# more fault, here and there. Where Perl is (Debian cannot be without it) that asks the system in the copy's stead.
_PERL = ("/usr/bin/perl", "-f", "-e")
_ASK = """\
my ($call, $word) = splice @ARGV, 0, 2;
syscall($call + 0, 36, 1, 0, 0, 0) == 0 and exec { $ARGV[0] } @ARGV;
my $why = $! + 0;
open my $told, ">&=", $word or exit 127;
syswrite $told, "!$why";
exit 127;
"""
_PROVE = """\
my ($call, $set) = ($ARGV[0] + 0, pack "i", 0);
syscall($call, 36, 1, 0, 0, 0) == 0 && syscall($call, 37, $set, 0, 0, 0) == 0 && unpack("i", $set) == 1 and print "yes";
"""
_CALLS = {"x86_64": 157, "aarch64": 167, "riscv64": 167, "loongarch64": 167, "ppc64le": 171, "s390x": 172}
"""The number of prctl, by machine."""
_PROOF_SECONDS = 5.0


def spawn(argv: list[str], env: Mapping[str, str], descriptors: Mapping[int, int], report: int) -> int:
    """The pid of `argv`, with default signals and no descriptor but `descriptors` (target: source), 1 and 2 nowhere.

    Sources lie beyond all targets. That the program could not be executed may be known later only: `report`, one of the
    sources, then gets a word that `why_unstarted` reads. Raises OSError.
    """
    prctl = prctl_of_system()
    inherited = [fd for fd in _inheritable() if fd not in descriptors]
    try:
        if prctl is None:
            pid = _spawn(argv, env, descriptors, inherited)
        elif (call := _by_perl()) and not any(name.startswith("PERL") for name in env):
            [word] = (target for target, source in descriptors.items() if source == report)
            pid = _spawn([*_PERL, _ASK, str(call), str(word), *argv], env, descriptors, inherited)
        else:
            pid = _fork(argv, env, descriptors, inherited, prctl, report)
    except (ValueError, NotImplementedError) as error:
        raise OSError(errno.EINVAL, f"cannot be started: {error}", argv[0]) from error
    waited_for.add(pid)
    return pid


def why_unstarted(word: bytes) -> OSError | None:
    """The reason, where `word` says that the program could not be executed."""
    if not word.startswith(_FAILED):
        return None
    number = int(word.removeprefix(_FAILED))
    return OSError(number, os.strerror(number))


def strangers() -> set[int]:
    """Children that we were left and that nobody waits for: they come from turns, where we are not process 1 as well.

    That one is left what people start in its container, too.
    """
    if os.getpid() == 1 or not inherits_orphans():
        return set()
    return children() - waited_for


def _fork(
    argv: Sequence[str],
    env: Mapping[str, str],
    descriptors: Mapping[int, int],
    inherited: Sequence[int],
    prctl: Callable[..., int],
    report: int,
) -> int:
    """A copy of this process asks. Raises ValueError and OSError."""
    words = [_encoded(word) for word in argv]
    block = {_encoded(name): _encoded(value) for name, value in env.items()}
    changed = [number for number in signal.valid_signals() if signal.getsignal(number) not in (signal.SIG_DFL, None)]
    # No handler of ours may run in the child, where it would wake our own loop.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Other threads may hold locks for ever in the child: it takes none.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _become(words, block, descriptors, inherited, changed, prctl, report)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    descriptors: Mapping[int, int],
    inherited: Sequence[int],
    changed: Sequence[int],
    prctl: Callable[..., int],
    report: int,
) -> NoReturn:
    number = errno.EINVAL
    try:
        os.setsid()
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in changed:
            if number not in _NEVER_OURS:
                signal.signal(number, signal.SIG_DFL)
        for fd in inherited:
            os.close(fd)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for target, source in {1: nowhere, 2: nowhere, **descriptors}.items():
            if source != target:
                os.dup2(source, target)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(argv[0], argv, env)  # noqa: S606
    except OSError as error:
        number = error.errno or errno.EINVAL
    finally:
        with suppress(OSError):
            os.write(report, b"%s%d" % (_FAILED, number))
        os._exit(_UNSTARTED)


def _spawn(argv: list[str], env: Mapping[str, str], descriptors: Mapping[int, int], inherited: Sequence[int]) -> int:
    """Without a copy of this process. Raises ValueError, NotImplementedError and OSError."""
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_CLOSE, fd) for fd in inherited
    ]
    actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in descriptors.items()]
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - _NEVER_OURS,
    )


@cache
def _by_perl() -> int:
    """The number by which Perl asks for it here; 0 where it cannot."""
    call = _CALLS.get(platform.machine(), 0)
    if call and sys.maxsize > 2**32:
        with suppress(OSError, subprocess.SubprocessError):
            words = [*_PERL, _PROVE, str(call)]
            done = subprocess.run(words, env={}, cwd="/", capture_output=True, timeout=_PROOF_SECONDS, check=False)
            if done.stdout == b"yes":
                return call
    return 0


def _encoded(word: str) -> bytes:
    encoded = os.fsencode(word)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def _inheritable() -> Iterator[int]:
    """Descriptors beyond 2 that somebody left open for children; ours all close by themselves."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        numbers = [*range(min(os.sysconf("SC_OPEN_MAX"), _MOST_LOOKED_AT))]
    for fd in numbers:
        with suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                yield fd
