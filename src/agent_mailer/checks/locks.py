"""Who holds a lock file, found without touching the lock: a trial grip could turn away a watcher that starts now."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from agent_mailer.checks.result import CheckResult, guarded, ok, warning
from agent_mailer.state.lock import holder_of

_LOCKS = Path("/proc/locks")


def flock_holder(path: Path) -> int | None:
    """The pid that holds an flock on `path`; None where nobody does or the system does not tell. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    with suppress(FileNotFoundError):
        for line in _LOCKS.read_text("ascii", "replace").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4242 fd:01:1234567 0 EOF
            words = line.split()
            if len(words) >= 6 and words[1] == "FLOCK" and words[5] == f"{device}:{found.st_ino}":
                return int(words[4])
    return None


def check_lock(path: Path, version: str) -> CheckResult:
    """Whether a watcher runs in this workdir, and whether it is of this version."""

    def look() -> CheckResult:
        holder, pid = holder_of(path), flock_holder(path)
        if holder is not None and holder.version != version:
            text = f"a watcher of version {holder.version} runs (process {holder.process.pid}), this is {version}"
            return warning("lock", path, text, f"kill -USR1 {holder.process.pid}, then start agent-mailer watch")
        if holder is not None:
            return ok("lock", path, f"a watcher runs: process {holder.process.pid}")
        if pid is not None:
            text = f"held by process {pid}, which has not written who it is"
            return warning("lock", path, text, f"ps -fp {pid}")
        return ok("lock", path, "no watcher runs (agent-mailer watch)")

    return guarded("lock", path, look)
