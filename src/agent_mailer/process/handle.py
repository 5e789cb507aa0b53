"""Signalling, awaiting and reaping exactly the process that is meant, by pidfd where the system has it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from agent_mailer.process.identity import HAS_PROC, ProcessIdentity, boot_id, is_alive, read_stat

_POLL = 0.05
_MOST_WATCHED = 64


def send(identity: ProcessIdentity, signal_number: int) -> bool:
    """Signal the very process; False if it is gone or not ours to signal. A pid given out again is never hit.

    Without pidfd there is a moment between look and signal; without /proc the process's whole group is signalled, since
    its children cannot be found.
    """
    if identity.pid in (os.getpid(), 1):
        return False
    try:
        fd = _open(identity)
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


async def wait_gone(identities: Sequence[ProcessIdentity], patience: float | None = None) -> bool:
    """Wait until each of `identities` has ended, at most `patience` seconds; True if so. Zombies have ended.

    Of a crowd only the first are awaited: True then means that it is worth looking again.
    """
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
                    return await _poll(identities, patience)
                waiting.add(fd)
                loop.add_reader(fd, on_end, fd)
        if not waiting:
            return True
        try:
            await asyncio.wait_for(ended, patience)
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
        if stat is None or stat.started != identity.started or identity.boot != boot_id():
            return
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, identity.pid, os.WEXITED | (0 if block else os.WNOHANG))


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


async def _poll(identities: Sequence[ProcessIdentity], patience: float | None) -> bool:
    end = None if patience is None else time.monotonic() + patience
    while True:
        for identity in identities:
            if not HAS_PROC:
                reap(identity)
        if not any(is_alive(identity) for identity in identities):
            return True
        if end is not None and time.monotonic() >= end:
            return False
        await asyncio.sleep(_POLL)
