"""Exactly the process that is meant: a pid with its start time and boot, signalled and awaited by pidfd."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from agent_mailer.processes import HAS_PROC, ProcessStat, boot_id, first_started, is_ours, read_stat, taken

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
