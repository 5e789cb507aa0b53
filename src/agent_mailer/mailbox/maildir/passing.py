"""What passes out of the mailbox of an end that no watcher keeps: a hook's, which sends without end and reads little.

Its copies of what it sent, its answers that were read, and the receipts of its mail go when they are old. What nobody
has read stays, however old; so does the mail of all others. An agent's own mailbox is its person's to clear.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.dated import dated_names, stamp
from agent_mailer.mailbox.maildir.layout import Paths

AT_ONCE = 5_000
"""Files of one look: who has far more is rid of them after a few."""


def forget_old(disk: Disk, root: Path, handle: str, before: float) -> int:
    """Removes what is older than `before` (seconds since 1970); how many files that were. Raises OSError."""
    paths = Paths(root, handle)
    gone = 0
    for path in _old(paths, before):
        disk.remove(path)
        gone += 1
        if gone == AT_ONCE:
            break
    return gone


def _old(paths: Paths, before: float) -> Iterator[Path]:
    moment = stamp(before)
    for folder in (paths.sent, paths.cur):
        for said, name in dated_names(folder):
            if said >= moment:
                break  # the oldest come first
            yield folder / name
    with os.scandir(paths.receipts) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < before:
                    yield Path(entry.path)
