"""The files in `.agent-mailer/`: one small class a file, and `State` that holds them all.

Only the holder of the workdir's lock writes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_mailer.events import EventLog
    from agent_mailer.state.approvals import Approvals
    from agent_mailer.state.dead_letters import DeadLetters
    from agent_mailer.state.folder import StateFolder
    from agent_mailer.state.held import Held
    from agent_mailer.state.lifts import Lifts
    from agent_mailer.state.notes import Notes
    from agent_mailer.state.notices import NoticeBook, Questions, TroubleFile
    from agent_mailer.state.pauses import AccountPause, LoginFile, Pauses
    from agent_mailer.state.processed import Cursor, Processed
    from agent_mailer.state.records import RetryEntry
    from agent_mailer.state.remote import RemoteBook
    from agent_mailer.state.requests import RequestBox
    from agent_mailer.state.retention import Retention
    from agent_mailer.state.retries import Retries
    from agent_mailer.state.schedules import Schedules
    from agent_mailer.state.sessions import Sessions
    from agent_mailer.state.stuck import Stuck, Unsent
    from agent_mailer.state.usage import UsageLedger


class State:
    """One workdir's state."""

    def __init__(self, folder: StateFolder, log: EventLog, account: AccountPause | None = None) -> None:
        """`account`: the pause shared by all watchers of this user on the runtime's account, where there is one."""
        # Not above: whoever imports one of them would pay for all; and what few commands need is loaded when asked for.
        from agent_mailer.state.turns import TurnStore

        self.folder = folder
        self.log = log
        self.turns = TurnStore(folder)
        self._account = account

    @cached_property
    def processed(self) -> Processed:
        from agent_mailer.state.processed import Processed

        return Processed(self.folder)

    @cached_property
    def cursor(self) -> Cursor:
        from agent_mailer.state.processed import Cursor

        return Cursor(self.folder)

    @cached_property
    def sessions(self) -> Sessions:
        from agent_mailer.state.sessions import Sessions

        return Sessions(self.folder)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        from agent_mailer.state.dead_letters import DeadLetters

        return DeadLetters(self.folder)

    @cached_property
    def stuck(self) -> Stuck:
        from agent_mailer.state.stuck import Stuck

        return Stuck(self.folder)

    @cached_property
    def unsent(self) -> Unsent:
        from agent_mailer.state.stuck import Unsent

        return Unsent(self.folder)

    @cached_property
    def held(self) -> Held:
        from agent_mailer.state.held import Held

        return Held(self.folder)

    @cached_property
    def approvals(self) -> Approvals:
        from agent_mailer.state.approvals import Approvals

        return Approvals(self.folder)

    @cached_property
    def retries(self) -> Retries:
        from agent_mailer.state.retries import Retries, remake_retries

        def remake() -> dict[str, RetryEntry]:
            return remake_retries(self.turns, self.processed, self.dead_letters, self.held.released())

        def close(approvals: Iterable[str]) -> None:
            self.approvals.close(approvals)

        return Retries(self.folder, remake, close)

    @cached_property
    def pause(self) -> Pauses:
        from agent_mailer.state.pauses import Pauses

        return Pauses(self.folder, self.log, self._account)

    @property
    def login(self) -> LoginFile:
        return self.pause.login

    @cached_property
    def retention(self) -> Retention:
        from agent_mailer.state.retention import Retention

        return Retention(self)

    @cached_property
    def lifts(self) -> Lifts:
        from agent_mailer.state.lifts import Lifts

        return Lifts(self.folder)

    @cached_property
    def trouble(self) -> TroubleFile:
        from agent_mailer.state.notices import TroubleFile

        return TroubleFile(self.folder)

    @cached_property
    def usage(self) -> UsageLedger:
        from agent_mailer.state.usage import UsageLedger

        return UsageLedger(self.folder)

    @cached_property
    def notices(self) -> NoticeBook:
        from agent_mailer.state.notices import NoticeBook

        return NoticeBook(self.folder)

    @cached_property
    def questions(self) -> Questions:
        from agent_mailer.state.notices import Questions

        return Questions(self.folder)

    @cached_property
    def requests(self) -> RequestBox:
        from agent_mailer.state.requests import RequestBox

        return RequestBox(self.folder)

    @cached_property
    def remote(self) -> RemoteBook:
        from agent_mailer.state.remote import RemoteBook

        return RemoteBook(self.folder)

    @cached_property
    def schedules(self) -> Schedules:
        from agent_mailer.state.schedules import Schedules

        return Schedules(self.folder)

    @cached_property
    def notes(self) -> Notes:
        from agent_mailer.state.notes import Notes

        return Notes(self.folder, self.turns, self.log)

    def prepare(self) -> None:
        """Make what is missing, and ours what another client left here. Only the holder of the lock calls this.

        Raises BusyFault while an agent of another client still works on its message.
        """
        # A watcher runs for long, and where no file can be opened any more nothing can be loaded.
        import unicodedata  # noqa: F401 - what `names` loads for a name beyond ASCII

        from agent_mailer import linux_calls  # noqa: F401 - what `beneath` loads after its first files
        from agent_mailer.state.notes import note_lock

        _ = (self.processed, self.cursor, self.sessions, self.dead_letters, self.stuck, self.unsent, self.held)
        _ = (self.approvals, self.retries, self.pause, self.retention)
        _ = (self.lifts, self.trouble, self.usage, self.notices, self.questions, self.requests, self.remote)
        _ = (self.schedules, self.notes)
        self.folder.prepare()
        with suppress(OSError), note_lock(self.folder.memory):
            self.folder.clear_interrupted(self.folder.memory)
        self.take_over()
        self.turns.drop_empty_index()

    def take_over(self) -> None:
        """Raises as `prepare` does."""
        from agent_mailer.state.takeover import take_over

        take_over(self.folder, self.processed, self.retries, self.log)
