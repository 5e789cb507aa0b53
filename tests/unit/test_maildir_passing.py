"""What passes out of the mailbox of a hook, which no watcher keeps: what is old and was read, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.layout import Paths, make_root
from agent_mailer.mailbox.maildir.passing import forget_old

LAST, BEFORE, NEXT = "2026-08-21T23-59-59.999Z", 1_787_356_800.0, "2026-08-22T00-00-00.000Z"
"""Midnight of 2026-08-22, and the milliseconds around it."""


def test_what_is_old_goes_but_what_nobody_has_read_and_what_is_anothers(tmp_path: Path) -> None:
    make_root(Disk(), tmp_path, ["hook--ci", "coder"])
    hook, coder = Paths(tmp_path, "hook--ci"), Paths(tmp_path, "coder")
    folders = [getattr(paths, name) for paths in (hook, coder) for name in ("sent", "cur", "new", "receipts")]
    for folder in folders:
        for name in (LAST, NEXT):
            (folder / f"{name}_p1_a.md").write_text("mail")
    for name, seconds in ((LAST, -1), (NEXT, 1)):
        os.utime(hook.receipts / f"{name}_p1_a.md", (BEFORE + seconds, BEFORE + seconds))
    (hook.cur / "theirs.md").write_text("mail")
    os.utime(hook.cur / "theirs.md", (BEFORE - 1, BEFORE - 1))
    assert forget_old(Disk(), tmp_path, "hook--ci", BEFORE) == 4
    for folder in folders:
        goes = folder in (hook.sent, hook.cur, hook.receipts)
        assert sorted(path.name[:24] for path in folder.iterdir()) == ([NEXT] if goes else [LAST, NEXT]), folder
