"""`doctor --repair`: take the lock, repair, tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks.repair import (
    Left,
    MailFolders,
    Mended,
    Repair,
    Taken,
    clear_lock,
    mend_permissions,
)
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.errors import BusyFault, ConfigFault, ExitCode, MailerError
from agent_mailer.names import printable

if TYPE_CHECKING:
    from pathlib import Path

    from agent_mailer.assemble import Workplace


class RepairReport(msgspec.Struct, frozen=True):
    """What `doctor --repair --json` prints; `ok` means that nothing is left to be mended by a person."""

    workdir: str
    ok: bool
    repaired: tuple[Mended, ...]
    left: tuple[Left, ...]


def repair(place: Workplace) -> RepairReport:
    """Raises BusyFault while a watcher runs, ConfigFault where there is no state folder or a newer one."""
    folder = place.folder
    if not folder.path.is_dir():
        folder.check()
    folder.check_format()
    mended, left = mend_permissions(folder)
    mended += clear_lock(folder)
    lock = place.lock()
    try:
        lock.acquire()
    except BusyFault as fault:
        message = f"{fault.message}; a running watcher repairs what it finds by itself"
        raise BusyFault(fault.code, message, fault.fix) from None
    work = Repair(place.state, place.clock.now())
    try:
        work.run(_mail_folders(place, left))
    finally:
        lock.release()
    mended += work.mended
    left += work.left
    return RepairReport(str(place.workdir), not left, tuple(mended), tuple(left))


def show(report: RepairReport, *, as_json: bool) -> ExitCode:
    """Print what was done; returns the exit code."""
    if as_json:
        json_out(report)
    else:
        for done in report.repaired:
            say(f"repaired  {printable(done.path)}: {printable(done.text, 600)}")
        for open_ in report.left:
            say(f"left      {printable(open_.path)}: {printable(open_.text, 600)}")
            if open_.fix:
                say(f"          mend: {printable(open_.fix, 600)}")
        if not report.repaired and not report.left:
            say("nothing to repair")
    return ExitCode.OK if report.ok else ExitCode.FAILED


def _mail_folders(place: Workplace, left: list[Left]) -> MailFolders | None:
    """The folder mailbox, where this agent has one of its own; what keeps us from it is added to `left`."""
    from agent_mailer.config import MailboxKind
    from agent_mailer.mailbox.maildir import layout

    try:
        if place.config.mailbox_kind is not MailboxKind.MAILDIR or not place.handle:
            return None
        root, handle = place.maildir_root(), place.handle
        layout.check_handle(handle)
        layout.require_root(root)
        if not layout.known(root, handle):
            fix = f"agent-mailer init --maildir-root {root} --address {handle}"
            raise ConfigFault("no_mailbox", f"{root} has no mailbox for {handle!r}", fix)
    except MailerError as fault:
        left.append(Left(str(place.folder.config), fault.message, fault.fix or "agent-mailer config edit"))
        return None
    paths = layout.Paths(root, handle)

    def make() -> Sequence[Path]:
        missing = layout.missing_folders(root, handle)
        other = layout.check_mailbox(root, handle)
        if not other:
            return ()
        try:
            layout.make_mailbox(place.disk, root, handle)
        except ConfigFault as fault:
            # About the mailbox, not about the workdir's format: the rest goes on.
            raise MailerError(fault.code, fault.message, fault.fix) from fault
        return missing or (paths.home,)

    def taken() -> Sequence[Taken]:
        from agent_mailer.mailbox.maildir.listing import read_envelope, scan
        from agent_mailer.mailbox.port import Envelope

        found = ((item, read_envelope(item)) for item in scan(paths.cur))
        return [Taken(e, item.found.st_ctime) for item, e in found if isinstance(e, Envelope)]

    return MailFolders(make, taken)
