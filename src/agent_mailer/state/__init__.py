"""The files in `.agent-mailer/`: one small class a file, and `State` that holds them all.

Only the holder of the workdir's lock writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.events import EventLog, EventName
from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.folder import StateFolder
from agent_mailer.state.notices import NoticeBook, Questions, TroubleFile
from agent_mailer.state.pauses import PauseFile
from agent_mailer.state.processed import Cursor, Processed
from agent_mailer.state.requests import RequestBox
from agent_mailer.state.retries import Retries, remake_retries
from agent_mailer.state.sessions import Sessions
from agent_mailer.state.takeover import take_over
from agent_mailer.state.turns import TurnStore
from agent_mailer.state.usage import UsageLedger

if TYPE_CHECKING:
    from agent_mailer.state.pauses import AccountPause


class State:
    """One workdir's state."""

    def __init__(self, folder: StateFolder, log: EventLog) -> None:
        self.folder = folder
        self.log = log
        self.turns = TurnStore(folder)
        self.processed = Processed(folder)
        self.cursor = Cursor(folder)
        self.sessions = Sessions(folder)
        self.dead_letters = DeadLetters(folder)
        self.retries = Retries(folder, lambda: remake_retries(self.turns, self.processed, self.dead_letters))
        self.pause = PauseFile(folder)
        self.trouble = TroubleFile(folder)
        self.usage = UsageLedger(folder)
        self.notices = NoticeBook(folder)
        self.questions = Questions(folder)
        self.requests = RequestBox(folder)
        self.account: AccountPause | None = None
        """The pause shared by all watchers of this user on the runtime's account, where there is one."""
        folder.damaged = self._tell
        folder.take_over = lambda: take_over(self)

    def _tell(self, path: Path, why: str) -> None:
        """Who does not hold the lock does not write the log either; the watcher finds the same damage and tells it."""
        if self.folder.ours:
            self.log.emit(EventName.STATE_DAMAGED, file=path.name, why=why)
