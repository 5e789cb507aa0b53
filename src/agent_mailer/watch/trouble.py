"""What keeps the watcher from its work just now: told once in the log, and shown by `status` while it lasts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_mailer.clock import Clock
from agent_mailer.errors import ConfigFault, MailerError, mend, named_by, nearest, put_aside, quoted
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable
from agent_mailer.state import State
from agent_mailer.state.notices import Trouble, TroubleWith

OWN = ""
"""The watcher's own trouble, beside those of turns, which have the turn's id."""

_EVENTS = {
    TroubleWith.CREDENTIALS: EventName.MAILBOX_REFUSED,
    TroubleWith.MAILBOX: EventName.MAILBOX_TROUBLE,
    TroubleWith.DISK: EventName.STATE_TROUBLE,
}


class Troubles:
    """Several may last at once, one of the watcher and one of each turn that waits; the oldest is shown."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self.lasting: dict[str, Trouble] = {}
        self._shown: Trouble | None = None
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """`listener` is called whenever what is shown has changed."""
        self._listeners.append(listener)

    @property
    def oldest(self) -> Trouble | None:
        return min(self.lasting.values(), key=lambda trouble: trouble.since, default=None)

    def begin(self, whose: str, fault: MailboxUnavailable | OSError) -> None:
        """Tell it, unless trouble of this kind lasts there already."""
        what, why, fix = _words_of(fault, self._state)
        known = self.lasting.get(whose)
        if known is None or known.what is not what:
            self._state.log.emit(_EVENTS[what], turn_id=whose or None, why=why, fix=fix or None)
            self.lasting[whose] = Trouble(what, why, self._clock.now(), fix)
        self._show()

    def over(self, whose: str) -> bool:
        """Whether there was any."""
        if self.lasting.pop(whose, None) is None:
            return False
        self._show()
        return True

    def of(self, whose: str) -> TroubleWith | None:
        trouble = self.lasting.get(whose)
        return trouble.what if trouble is not None else None

    def forget(self) -> None:
        """At a start: what an earlier watcher wrote is not known to last."""
        self.lasting.clear()
        self._state.trouble.clear()

    def _show(self) -> None:
        oldest = self.oldest
        if oldest == self._shown:
            return
        for listener in self._listeners:
            listener()
        if oldest is None:
            self._state.trouble.clear()
            self._shown = None
        elif self._state.trouble.write(oldest):
            self._shown = oldest


def _words_of(fault: MailboxUnavailable | OSError, state: State) -> tuple[TroubleWith, str, str]:
    if isinstance(fault, MailboxRefused):
        return TroubleWith.CREDENTIALS, fault.message, fault.fix
    if isinstance(fault, MailboxUnavailable):
        return TroubleWith.MAILBOX, fault.message, fault.fix
    folder = state.folder.path
    return TroubleWith.DISK, f"{named_by(fault, folder)}: {fault.strerror or fault}", _mend(fault, folder)


@contextmanager
def at_the_start(folder: Path) -> Iterator[None]:
    """What the disk refuses to a watcher that starts, with what mends it.

    Raises MailerError; ConfigFault where only a person ends it: a service is not started again then.
    """
    try:
        yield
    except OSError as error:
        kind = MailerError if error.errno in _OF_THE_DISK else ConfigFault
        text = f"the watcher cannot start: {named_by(error, folder)}: {error.strerror or error}"
        raise kind("state_unusable", text, _mend(error, folder)) from error


_OF_THE_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
)


def _mend(fault: OSError, folder: Path) -> str:
    """The command with which a person begins; what is in the way lies in the state folder or above it."""
    if fault.errno in _NOT_WHAT_IT_WAS:
        where = nearest(fault, folder)
        return f"something else is in its place: ls -ld {quoted(where)}, then {put_aside(where)}"
    return mend(fault, folder)


_NOT_WHAT_IT_WAS = frozenset((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EMLINK))
