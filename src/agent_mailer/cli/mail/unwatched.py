"""Does nobody work on what was just sent? Seen where its agent is one of this user's in the same folder mailbox."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace


def unwatched(place: Workplace, recipients: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Each recipient whose watcher does not run, with its workdir. Who has a watcher costs no look at workdirs."""
    if not place.in_folder:
        return  # a server would have to be asked
    from agent_mailer.mailbox.maildir.amq import watcher_of
    from agent_mailer.mailbox.maildir.layout import USER, Paths, is_handle

    root = place.maildir_root()
    agents = {one for one in recipients if one != USER and is_handle(one)}
    alone = {one for one in agents if watcher_of(Paths(root, one)) is None}
    if not alone:
        return
    from agent_mailer.state.folder import STATE_DIRECTORY
    from agent_mailer.state.lock import holder_of
    from agent_mailer.state.workdirs import known_workdirs

    # Most write to the agent of the folder that they are in.
    for workdir in sorted(known_workdirs(place.disk).all(), key=lambda one: one != place.workdir):
        handle = ""
        with suppress(MailerError, OSError):
            handle = _handle_in(place, workdir, root)
        if handle in alone:
            alone.remove(handle)
            if holder_of(workdir / STATE_DIRECTORY / ".lock") is None:
                yield handle, workdir
        if not alone:
            return


def _handle_in(place: Workplace, workdir: Path, root: Path) -> str:
    """Whose workdir it is, where its mail is in that mailbox. Raises MailerError, OSError."""
    from agent_mailer.assemble import Workplace

    other = place if workdir == place.workdir else Workplace(workdir)
    return other.handle if other.in_folder and other.maildir_root().samefile(root) else ""
