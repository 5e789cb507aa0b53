"""A program in a session of its own that inherits whatever below it loses its parent.

What cleared its environment, went into a session of its own and let its parents die is then still a child of the
program, and not of process 1. Only the process itself can ask the system for that, between fork and exec.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_NEVER_OURS = {signal.SIGKILL, signal.SIGSTOP}
_FAILED = b"!"
_UNSTARTED = 127
_inherits: set[int] = set()
"""Who has asked for it: a fork of us has not."""

_MOST_LOOKED_AT = 4096
"""Numbers of descriptors, one by one, where there is no /proc to list them."""

waited_for: set[int] = set()
"""Children whose end somebody here waits for: as process 1 we have others as well."""


def spawn(argv: list[str], env: Mapping[str, str], descriptors: Mapping[int, int], report: int) -> int:
    """The pid of `argv`, with default signals and no descriptor but `descriptors` (target: source), 1 and 2 nowhere.

    Sources lie beyond all targets. That the program could not be executed may be known later only: `report`, one of the
    sources, then gets a word that `why_unstarted` reads. Raises OSError.
    """
    prctl = _prctl()
    inherited = [fd for fd in _inheritable() if fd not in descriptors]
    try:
        if prctl is None:
            pid = _spawn_plainly(argv, env, descriptors, inherited)
            waited_for.add(pid)
            return pid
        words = [_encoded(word) for word in argv]
        block = {_encoded(name): _encoded(value) for name, value in env.items()}
    except (ValueError, NotImplementedError) as error:
        raise OSError(errno.EINVAL, f"cannot be started: {error}", argv[0]) from error
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


def children() -> set[int]:
    """Every child of this process, those that have ended too; none where the system does not list them."""
    found: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError), open(f"/proc/self/task/{thread}/children", encoding="ascii") as listed:
                found |= set(map(int, listed.read().split()))
    return found


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


def _spawn_plainly(
    argv: list[str], env: Mapping[str, str], descriptors: Mapping[int, int], inherited: Sequence[int]
) -> int:
    """Where nothing can inherit orphans."""
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
