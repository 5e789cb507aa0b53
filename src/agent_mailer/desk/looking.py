"""The agents of this machine's user, looked at for a page: each workdir by its state and its folder mailbox, no broker
asked, no watcher waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent_mailer.desk.reported import Looked
from agent_mailer.errors import MailerError, quoted, said_of
from agent_mailer.remote.port import MOST_LISTED, Ended
from agent_mailer.views.kept import approval, held, stuck
from agent_mailer.views.local import look, look_without_asking, place_at
from agent_mailer.views.pulse import Pulses
from agent_mailer.views.taken import Taken
from agent_mailer.views.values.status import FaultView, Problem, ProblemView, StatusView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state import State
    from agent_mailer.views.values.history import ApprovalView


class Looking:
    """`workdirs` None = every one of this user, also those that are made meanwhile."""

    def __init__(self, workdirs: Sequence[Path] | None = None) -> None:
        self._workdirs = workdirs
        self._pulses = Pulses()
        self._look_at_mailbox = partial(look_without_asking, taken=Taken())

    def workdirs(self) -> list[Path]:
        if self._workdirs is not None:
            return list(self._workdirs)
        from agent_mailer.disk import Disk
        from agent_mailer.state.workdirs import known_workdirs

        return known_workdirs(Disk()).all()

    def all(self) -> list[Looked | FaultView]:
        return [self.one(workdir) for workdir in self.workdirs()]

    def one(self, workdir: Path) -> Looked | FaultView:
        try:
            return self._look(place_at(workdir))
        except MailerError as fault:
            problem = ProblemView(Problem.UNREADABLE, fault.message, said_of(fault.fix, str(workdir)))
        except OSError as error:
            text = f"{error.filename or workdir}: {error.strerror or error}"
            problem = ProblemView(Problem.UNREADABLE, text, f"ls -la {quoted(workdir)}")
        return FaultView(str(workdir), (problem,))

    def places(self) -> Iterable[Workplace]:
        """Those that can be looked at, made anew."""
        for workdir in self.workdirs():
            with suppress(MailerError, OSError):
                yield place_at(workdir)

    def place(self, agent_id: str) -> Workplace | None:
        """None where that is no workdir of ours: what a page names is looked for among those that are known."""
        for workdir in self.workdirs():
            if str(workdir) == agent_id:
                return place_at(workdir)
        return None

    def _look(self, place: Workplace) -> Looked:
        view = look(place, self._look_at_mailbox, self._pulses.listen, past=False)
        signed_out = place.state.login.read()
        return Looked(
            view=view,
            at=place.clock.now(),
            active=_last_active(place),
            died=not view.watcher.running and _died(place, view),
            signed_out=signed_out.at if signed_out is not None else None,
            stuck=stuck(place.state, limit=MOST_LISTED) if view.stuck else (),
            held=held(place.state)[-MOST_LISTED:] if view.held else (),
            last=_last(place.state),
        )


def asked(place: Workplace) -> dict[str, ApprovalView]:
    """What waits for a yes, whole, by its id."""
    return {one.id: approval(place.state, one) for one in place.state.approvals.open()}


def _last_active(place: Workplace) -> float:
    with suppress(OSError):
        return os.stat(place.folder.log, follow_symlinks=False).st_mtime
    return 0.0


def _died(place: Workplace, view: StatusView) -> bool:
    """Whether a watcher has ended without a word: turns are open, or the mailbox says that it is still there."""
    if view.running:
        return True
    if not place.in_folder or view.mailbox.problem is not None:
        return False
    from agent_mailer.people.folder import GONE, standing_of

    with suppress(MailerError, OSError):
        return standing_of(place.maildir_root(), place.handle).status == GONE
    return False


def _last(state: State) -> Ended | None:
    for turn_id in state.turns.newest_settled(1):
        record = state.turns.load(turn_id)
        if record is None or record.settlement is None:
            break
        settlement, envelope = record.settlement, record.envelope
        cost = settlement.usage.cost_usd if settlement.usage is not None else 0.0
        how = (settlement.outcome.value, settlement.decided_at, settlement.seconds, cost)
        return Ended(turn_id, envelope.id, envelope.thread, *how)
    return None
