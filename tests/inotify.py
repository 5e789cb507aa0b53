"""Which instances of inotify a process has: a user may have 128 of them in all."""

from __future__ import annotations

import gc
import os

from tests import procfs
from tests.desk import until


def instances(pid: int) -> list[str]:
    return [name for name in procfs.opened(pid) if name == procfs.INOTIFY]


def all_are_closed() -> None:
    """Whoever leaves an instance does not wait until it is closed: that of the test before may be there yet."""
    # What a test has left in a circle with its loop goes with that loop.
    gc.collect()
    until(lambda: not instances(os.getpid()), "no instance is open")
