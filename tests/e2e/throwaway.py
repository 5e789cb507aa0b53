"""Commands as a user who is nobody here: claude refuses some modes to root, and a test should not need root's power."""

from __future__ import annotations

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
    if os.geteuid() != 0:
        return list(argv)
    return [*_unshare(), *argv]


def is_nobody() -> bool:
    """Whether `as_throwaway` gives a user that is not root."""
    return os.geteuid() != 0 or bool(_unshare())


@cache
def _unshare() -> tuple[str, ...]:
    program = shutil.which("unshare")
    if program is None:
        return ()
    words = (program, "--user", f"--map-user={UID}", f"--map-group={UID}", "--")
    done = subprocess.run([*words, "id", "-u"], capture_output=True, text=True, timeout=30, check=False)
    return words if done.returncode == 0 and done.stdout.strip() == str(UID) else ()
