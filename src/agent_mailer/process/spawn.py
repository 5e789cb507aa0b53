"""How a process is started that inherits whatever below it loses its parent.

What cleared its environment, went into a session of its own and let its parents die is then still a child of that
process, and not of process 1. Only the process itself can ask the system for that, before it becomes the program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NoReturn

from agent_mailer.process.handle import waited_for
from agent_mailer.processes import children

_PR_SET_CHILD_SUBREAPER = 36
_NEVER_OURS = {signal.SIGKILL, signal.SIGSTOP}
_FAILED = b"!"
_UNSTARTED = 127
_MOST_LOOKED_AT = 4096
"""Numbers of descriptors, one by one, where there is no /proc to list them."""

_inherits: set[int] = set()
"""Who has asked for it: a fork of us has not."""

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
    prctl = _prctl()
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


def can_inherit_orphans() -> bool:
    """Whether this system knows the means (Linux does)."""
    return _prctl() is not None


def inherit_orphans() -> bool:
    """From here on this process is left what loses its parent below it, a killed holder's above all; it has to reap."""
    prctl = _prctl()
    if prctl is None:
        return False
    _inherits.add(os.getpid())
    return bool(prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def strangers() -> set[int]:
    """Children that we were left and that nobody waits for: they come from turns, where we are not process 1 as well.

    That one is left what people start in its container, too.
    """
    if os.getpid() == 1 or os.getpid() not in _inherits:
        return set()
    return children() - waited_for


def _fork(
    argv: Sequence[str],
    env: Mapping[str, str],
    descriptors: Mapping[int, int],
    inherited: Sequence[int],
    prctl: ctypes._FuncPointer,
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
    prctl: ctypes._FuncPointer,
    report: int,
) -> NoReturn:
    number = errno.EINVAL
    try:
        os.setsid()
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
def _prctl() -> ctypes._FuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return function


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
