"""What Linux says of another process, which may end between two looks at it."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.desk import until

INOTIFY = "anon_inode:inotify"
"""What a descriptor that waits for file events leads to."""


def said(pid: int, name: str) -> str:
    """The text of /proc/PID/NAME; empty where there is no such process, or it is not ours to read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def state(pid: int) -> str:
    """The letter that Linux has for it; empty where there is no such process."""
    return said(pid, "stat").rpartition(")")[2][1:2]


def runs(pid: int) -> bool:
    """Whether it has not ended; one that nobody has waited for yet has."""
    return state(pid) not in {"Z", "X", ""}


def halt(*pids: int) -> None:
    """They stand still, when this returns."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state(pid) == "T" for pid in pids), "the halt")


def descriptors() -> set[int]:
    """Ours that are open. What an earlier test has left in a circle is let go first: it may go at any moment."""
    gc.collect()
    return {int(name) for name in os.listdir("/proc/self/fd")}


def signals(pid: int, mask: str) -> set[int]:
    """Those that it ignores (`SigIgn`) or has a handler for (`SigCgt`)."""
    lines = (line.split() for line in said(pid, "status").splitlines())
    [bits] = (int(words[1], 16) for words in lines if words[0] == f"{mask}:")
    return {number for number in range(1, 65) if bits >> number - 1 & 1}


def children(pid: int) -> list[int]:
    return [int(child) for child in said(pid, f"task/{pid}/children").split()]


def opened(pid: int) -> list[str]:
    """What its descriptors lead to; nothing where there is no such process, or it is not ours."""
    found = []
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                found.append(os.readlink(f"{folder}/{name}"))
    return found
