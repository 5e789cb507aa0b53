"""Commands as a user who is nobody here: claude refuses some modes to root, and a test should not need root's power."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

UID = 1000


def as_throwaway(argv: Sequence[str]) -> list[str]:
    """`argv` for a user without privileges that still has our files; as it is where we are not root.

    A user namespace of its own: the files of root seem to be that user's. The command keeps our pid space, so that its
    processes can be seen and ended from here.
    """
    return [*_enter(), *argv] if os.geteuid() == 0 else list(argv)


def is_nobody() -> bool:
    """Whether `as_throwaway` gives a user that is not root."""
    return os.geteuid() != 0 or bool(_enter())


@cache
def _enter() -> tuple[str, ...]:
    """One namespace for all commands of a run, as a watcher must know again what the one before has started."""
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if unshare is None or nsenter is None:
        return ()
    words = (unshare, "--user", f"--map-user={UID}", f"--map-group={UID}", "--", "cat")
    # It ends when its input does, at the latest with this process.
    keeper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(keeper.communicate)
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        keeper.stdin.write(b"in\n")
        keeper.stdin.flush()
        arrived = keeper.stdout.readline()
    except BrokenPipeError:
        return ()
    enter = (nsenter, f"--user=/proc/{keeper.pid}/ns/user", "--preserve-credentials", "--")
    done = subprocess.run([*enter, "id", "-u"], capture_output=True, text=True, timeout=30, check=False)
    return enter if arrived and done.stdout.strip() == str(UID) else ()
