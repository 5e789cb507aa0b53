"""Is the mailbox there, whole, ours, and nobody else's to consume."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.checks.machine import flock_holder
from agent_mailer.checks.result import CheckResult, failed, guarded, ok, warning
from agent_mailer.clock import iso
from agent_mailer.disk import read_regular
from agent_mailer.process.handle import identify, is_alive

LOOKED_AT = 1000
"""Messages that wait; where one is dated wrong, so are those beside it."""


class FolderMailbox(msgspec.Struct, frozen=True):
    """A folder mailbox as its adapter sees it. `problems` is what is wrong with its folders, one sentence each.

    `lock` is the file its watcher holds, `holder` the one with that watcher's pid.
    """

    root: Path
    handle: str
    home: Path
    problems: tuple[str, ...]
    lock: Path
    holder: Path


def check_folder_mailbox(seen: FolderMailbox) -> CheckResult:
    """Every folder is there, private, and belongs to this user."""

    def look() -> CheckResult:
        fix = f"agent-mailer init --maildir-root {seen.root} --address {seen.handle}"
        if seen.problems:
            more = f" (and {len(seen.problems) - 1} more)" if len(seen.problems) > 1 else ""
            return failed("mailbox", seen.home, f"{seen.problems[0]}{more}", fix)
        owner = seen.home.stat().st_uid
        if owner != os.geteuid():
            text = f"belongs to user {owner}, not to {os.geteuid()}"
            return failed("mailbox", seen.home, text, f"sudo chown -R {os.geteuid()} {seen.home}")
        return ok("mailbox", seen.home, f"the mailbox of {seen.handle}: every folder is there and private")

    return guarded("mailbox", seen.home, look)


def check_consumer(seen: FolderMailbox, our_watcher: int | None) -> CheckResult:
    """Nobody but this workdir's watcher, whose pid is `our_watcher`, consumes the mailbox."""

    def look() -> CheckResult:
        pid = flock_holder(seen.lock) or _living(seen.holder)
        if pid is None:
            return ok("consumer", seen.lock, "nobody watches this mailbox")
        if pid == our_watcher:
            return ok("consumer", seen.lock, f"watched by this workdir's watcher, process {pid}")
        text = f"another watcher, process {pid}, consumes the mail of {seen.handle}"
        return failed("consumer", seen.lock, text, "agent-mailer config set address HANDLE, or stop that watcher")

    return guarded("consumer", seen.lock, look)


AHEAD = 60.0
"""Seconds by which a file may be newer than the clock says: file servers and senders have clocks of their own."""


def check_file_times(seen: FolderMailbox, now: float) -> CheckResult:
    """No folder of the mailbox, and nothing that waits there, is newer than now."""

    def look() -> CheckResult:
        inbox = seen.home / "inbox"
        moment, newest = max(_dated(inbox))
        if moment > now + AHEAD:
            text = f"{newest} is of {iso(moment)}, and the clock says {iso(now)}: one of the clocks is wrong"
            return warning("mail_clock", inbox, text, "timedatectl status (here, and where the files or senders are)")
        return ok("mail_clock", inbox, "nothing there is newer than now")

    return guarded("mail_clock", seen.home, look)


def _dated(inbox: Path) -> Iterator[tuple[float, str]]:
    """The folders, whose times are those of the last arrival, and what waits, as far as a person would look."""
    waiting = itertools.islice((inbox / "new").iterdir(), LOOKED_AT)
    for path in (inbox, *(inbox / name for name in ("tmp", "new", "cur")), *waiting):
        with suppress(FileNotFoundError):  # a watcher may take it now
            yield path.lstat().st_mtime, str(path)


def check_mailbox(
    looked_at: object, see: Callable[[], FolderMailbox], our_watcher: int | None, now: float
) -> list[CheckResult]:
    """All three; `see` raises what is wrong where there is no such mailbox."""
    found: list[FolderMailbox] = []

    def look() -> CheckResult:
        found.append(see())
        return check_folder_mailbox(found[0])

    first = guarded("mailbox", looked_at, look)
    more = [(check_consumer(seen, our_watcher), check_file_times(seen, now)) for seen in found]
    return [first, *itertools.chain(*more)]


def _living(holder: Path) -> int | None:
    """Who wrote the holder file, where the system does not tell who holds a lock."""
    if Path("/proc/locks").exists():
        return None
    with suppress(OSError, ValueError):
        identity = identify(int(read_regular(holder, 20)))
        if identity is not None and is_alive(identity):
            return identity.pid
    return None
