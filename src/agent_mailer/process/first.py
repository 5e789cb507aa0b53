"""Life as process 1 of a container, or just below it: what it inherits, and how little time a stop leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress

from agent_mailer.process.handle import waited_for
from agent_mailer.processes import children

CONTAINER_GRACE = 2.0
"""Container engines kill ten seconds after SIGTERM, and ending a tree that does not want to go takes five of them."""

_BOOTED_WITH = "pid:[4026531836]"
"""The kernel's own name for the pid namespace of the machine."""


def in_a_pid_namespace() -> bool:
    """Whether all processes here end with process 1, as in a container."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid") != _BOOTED_WITH  # noqa: PTH115
    return False


def stopped_in_a_hurry(env: Mapping[str, str]) -> bool:
    """Whether whoever stops us is a container engine: we are its process 1, or the child of a small one.

    A service manager in a container says who it is, and gives the time it is asked for.
    """
    return in_a_pid_namespace() and 1 in (os.getpid(), os.getppid()) and "INVOCATION_ID" not in env


def heed_signals() -> None:
    """Die of the signals that end others: process 1 does not until it says how, and a stop would wait to be killed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os._exit(128 + number))


def reap_strangers() -> None:
    """Take off the system what has ended and was left to us because its parents had ended before.

    Our own children are left to whoever waits for them.
    """
    for pid in children() - waited_for:
        with suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
