"""A released holder: waiting for its end and reading how the agent ended, as its parent or as an adopter."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from agent_mailer.disk import of_the_moment, read_regular
from agent_mailer.outcomes import Exit
from agent_mailer.process.handle import reap, wait_gone
from agent_mailer.process.identity import ProcessIdentity, is_alive

EXIT_FILE = "exit"
STARTED_FILE = "started"

_RECORD = re.compile(rb"[0-9]{1,3}\n")
_LARGEST_SIGNAL = 64


class Supervised:
    """The holder of a turn that runs, or has ended."""

    def __init__(self, identity: ProcessIdentity, turn_dir: Path, turn_id: str) -> None:
        self.identity = identity
        self.turn_dir = turn_dir
        self.turn_id = turn_id

    @property
    def running(self) -> bool:
        return is_alive(self.identity)

    async def wait_ended(self) -> None:
        """Return when the holder is gone, reaping it where it is our child. The agent's own children may run still."""
        while not await wait_gone([self.identity]):
            pass
        reap(self.identity)

    @property
    def released(self) -> bool:
        """Whether the gate was opened; if not, nothing ran. Only the boot in which the turn was started can tell."""
        with suppress(OSError):
            return (self.turn_dir / STARTED_FILE).stat().st_size > 0
        return False

    def exit(self) -> Exit:
        """How the agent ended, once the holder is gone; an empty `Exit` if there is no record that can be read."""
        return read_exit(self.turn_dir)


def adopt(identity: ProcessIdentity, turn_dir: Path, turn_id: str) -> Supervised:
    """Take over the holder that another watcher started; it may have ended already."""
    return Supervised(identity, turn_dir, turn_id)


def read_exit(turn_dir: Path) -> Exit:
    """The holder's record. Raises OSError where it cannot be read just now.

    The shell writes 128 + n for signal n; beyond the largest signal it is a plain status.
    """
    try:
        record = read_regular(turn_dir / EXIT_FILE, 16)
    except OSError as error:
        if of_the_moment(error):
            raise
        return Exit()
    if not _RECORD.fullmatch(record):
        return Exit()
    status = int(record)
    if status > 255:
        return Exit()
    if 128 < status <= 128 + _LARGEST_SIGNAL:
        return Exit(signal=status - 128)
    return Exit(status=status)
