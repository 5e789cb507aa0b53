"""Run by itself, by a bare Python: start a program, and end with it whatever it has started, whoever started this.

python -I -S leash.py LEASH REPORT KEEP PROGRAM [WORD…]. LEASH is a pipe of which who started this holds the only other
end: once that is closed, by their end too, everything is ended that runs below. REPORT gets a line `+` and the
program's pid, or `!` and the errno where it cannot be started, then a line with its exit status, 128 + n after signal
n. KEEP is empty where LC_CTYPE is Python's own idea. TERM, INT and HUP are handed on to the program.

What loses its parent below it is left to it: what has a session of its own, a cleared environment, or is process 1 of a
sandbox, is then one of its children. It imports no package: what it costs is paid before every command.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

PATIENCE = 2.0
"""Seconds after which it gives up on what cannot be ended."""
_SUBREAPER = 36
_LOOK = 20
_LOOK_AGAIN = 0.002
_UNTOUCHED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main() -> None:
    leash, report = int(sys.argv[1]), int(sys.argv[2])
    for fd in (leash, report):
        os.set_inheritable(fd, False)  # noqa: FBT003
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    env = dict(os.environb)
    if not sys.argv[3]:
        env.pop(b"LC_CTYPE", None)
    words = sys.argv[4:]
    try:
        program = os.posix_spawnp(words[0], words, env, setsid=True, setsigdef=_UNTOUCHED_BY_PYTHON)
    except OSError as error:
        os.write(report, b"!%d\n" % (error.errno or 0))
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda given, _: _hand_on(program, given))
    with suppress(OSError):
        os.write(report, b"+%d\n" % program)
    status = _ended(program, leash)
    if status is not None:
        with suppress(OSError):
            os.write(report, b"%d\n" % status)
    _end_all(program)


def _hand_on(program: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(program, number)


def _ended(program: int, leash: int) -> int | None:
    """Its status; None once nobody holds the leash. It is not yet taken off the system, so its pid stays its own."""
    looked = select.poll()
    looked.register(leash, select.POLLIN)
    every: int | None = _LOOK
    with suppress(OSError, AttributeError):
        looked.register(os.pidfd_open(program), select.POLLIN)
        every = None
    while True:
        if ended := os.waitid(os.P_PID, program, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
        if leash in [fd for fd, _ in looked.poll(every)]:
            return None


def _end_all(program: int) -> None:
    """Whoever of them is ended leaves us its children, and so on, until there is none."""
    with suppress(ProcessLookupError, PermissionError):
        # Not yet taken off the system, it keeps its pid, and so its group.
        os.killpg(program, signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for pid in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_LOOK_AGAIN)


def _children() -> list[int]:
    """Those that have ended and are still listed, too: no pid of these is given out again."""
    with suppress(OSError), open("/proc/thread-self/children", "rb") as listed:
        return [int(word) for word in listed.read().split()]
    return _by_the_table()


def _by_the_table() -> list[int]:
    """Where the kernel does not list children."""
    found: list[int] = []
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as line:
                    if int(line.read().rpartition(b")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
    return found


if __name__ == "__main__":
    main()
