"""The files in `.agent-mailer/`: one small class a file, and `State` that holds them all.

Only the holder of the workdir's lock writes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_mailer.events import EventLog
    from agent_mailer.state.folder import StateFolder
    from agent_mailer.state.pauses import AccountPause


class State:
    """One workdir's state."""

    def __init__(self, folder: StateFolder, log: EventLog, account: AccountPause | None = None) -> None:
        """`account`: the pause shared by all watchers of this user on the runtime's account, where there is one."""
        # Not above: whoever imports one of them would pay for all, and most commands need a few.
        from agent_mailer.state.approvals import Approvals
        from agent_mailer.state.dead_letters import DeadLetters
        from agent_mailer.state.held import Held
        from agent_mailer.state.lifts import Lifts
        from agent_mailer.state.notes import Notes
        from agent_mailer.state.notices import NoticeBook, Questions, TroubleFile
        from agent_mailer.state.pauses import Pauses
        from agent_mailer.state.processed import Cursor, Processed
        from agent_mailer.state.remote import RemoteBook
        from agent_mailer.state.requests import RequestBox
        from agent_mailer.state.retention import Retention
        from agent_mailer.state.retries import Retries, remake_retries
        from agent_mailer.state.schedules import Schedules
        from agent_mailer.state.sessions import Sessions
        from agent_mailer.state.stuck import Stuck, Unsent
        from agent_mailer.state.turns import TurnStore
        from agent_mailer.state.usage import UsageLedger

        self.folder = folder
        self.log = log
        self.turns = TurnStore(folder)
        self.processed = Processed(folder)
        self.cursor = Cursor(folder)
        self.sessions = Sessions(folder)
        self.dead_letters = DeadLetters(folder)
        self.stuck = Stuck(folder)
        self.unsent = Unsent(folder)
        self.held = Held(folder)
        self.lifts = Lifts(folder)
        self.approvals = Approvals(folder)
        self.retries = Retries(
            folder,
            lambda: remake_retries(self.turns, self.processed, self.dead_letters, self.held.released()),
            self.approvals.close,
        )
        self.pause = Pauses(folder, log, account)
        self.login = self.pause.login
        self.trouble = TroubleFile(folder)
        self.usage = UsageLedger(folder)
        self.notices = NoticeBook(folder)
        self.questions = Questions(folder)
        self.requests = RequestBox(folder)
        self.remote = RemoteBook(folder)
        self.schedules = Schedules(folder)
        self.retention = Retention(self)
        self.notes = Notes(folder, self.turns, log)

    def prepare(self) -> None:
        """Make what is missing, and ours what another client left here. Only the holder of the lock calls this.

        Raises BusyFault while an agent of another client still works on its message.
        """
        from agent_mailer.state.notes import note_lock

        self.folder.prepare()
        with suppress(OSError), note_lock(self.folder.memory):
            self.folder.clear_interrupted(self.folder.memory)
        self.take_over()
        self.turns.drop_empty_index()

    def take_over(self) -> None:
        """Raises as `prepare` does."""
        from agent_mailer.state.takeover import take_over

        take_over(self.folder, self.processed, self.retries, self.log)
