"""Who replaces a note holds the notes' folder from the look at it to the write: no text is overwritten unseen."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 1.0
"""Seconds. The others hold it for two file operations; one that was stopped in between must not hold up a watcher."""


@contextmanager
def note_lock(folder: Path) -> Iterator[None]:
    """For a moment. Where the file system has no locks, or somebody does not let go, the block runs all the same."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        until = time.monotonic() + PATIENCE
        with suppress(OSError):
            while not _take(fd) and time.monotonic() < until:
                time.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
