"""From what there is to see of a workdir to the report that its watcher would give of it, and to what needs a person
beside that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from agent_mailer import __version__
from agent_mailer.clock import iso
from agent_mailer.names import printable, turn_began
from agent_mailer.remote.access import RemoteAccess
from agent_mailer.remote.port import (
    LONGEST_WORD,
    Counted,
    Ended,
    Question,
    Report,
    Resting,
    Scheduled,
    Spent,
    Stuck,
    Trouble,
    Working,
)
from agent_mailer.remote.watched import Watched, Watcher
from agent_mailer.views.board import troubled
from agent_mailer.views.values.history import HeldView, StuckView
from agent_mailer.views.values.needs import NeedView
from agent_mailer.views.values.status import FaultView, Problem, ScheduleView, StatusView

STOPPED = "stopped"
_TOLD = frozenset(
    (
        Problem.NO_WATCHER,
        Problem.TROUBLE,
        Problem.SIGNED_OUT,
        Problem.OUTAGE,
        Problem.PAUSED,
        Problem.ANSWER_WAITS,
        Problem.DEAD_LETTERS,
        Problem.STUCK,
    )
)
"""What the report tells of by itself; any other problem is told beside it."""


class Looked(msgspec.Struct, frozen=True):
    """A workdir as it was looked at. `active`: when something last happened, in seconds since the epoch, `died`: its
    watcher has ended without a word; `signed_out`: since when the agent program has no login.
    """

    view: StatusView
    at: float
    active: float
    died: bool = False
    signed_out: float | None = None
    stuck: Sequence[StuckView] = ()
    held: Sequence[HeldView] = ()
    last: Ended | None = None

    @property
    def watched(self) -> Watched:
        """Its id is the workdir's path."""
        view, report = self.view, report_of(self)
        address = view.mailbox.address or view.agent
        watcher = None
        if view.watcher.running:
            watcher = Watcher(f"process {view.watcher.pid}", iso(report.since))
        return Watched(
            agent_id=view.workdir,
            name=view.agent,
            address=address,
            unread=view.mailbox.waiting or 0,
            watcher=watcher,
            lost=self.died,
            standing=report.standing,
            reported_at=iso(self.at if watcher is not None else self.active),
            requests_waiting=0,
            report=report,
        )


def report_of(looked: Looked) -> Report:
    """A person at this machine may ask for everything, whatever `remote` says to others."""
    view, now = looked.view, looked.at
    running = [
        Working(
            one.turn_id,
            one.message_id,
            one.thread,
            turn_began(one.turn_id),
            printable(one.tool, LONGEST_WORD),
            now - one.tool_seconds if one.tool_seconds is not None else None,
        )
        for one in view.running
    ]
    settling = [
        Working(one.turn_id, one.message_id, one.thread, turn_began(one.turn_id), settles=True, waits=bool(one.why))
        for one in view.settling
    ]
    questions = [Question(one.turn_id, one.thread, one.message_id, one.since, one.asked) for one in view.blocked]
    questions += [
        Question(one.question, one.thread, one.message_id, one.at, tool=one.tool, until=one.until) for one in view.asked
    ]
    pause, trouble = view.pause, view.trouble
    today = view.today
    return Report(
        version=view.watcher.version or __version__,
        remote=RemoteAccess.ALL.value,
        runtime=view.runtime or "",
        since=now - (view.watcher.seconds or 0.0),
        working=(*running, *settling),
        pause=Resting(pause.reason, pause.since, pause.until, pause.guessed) if pause is not None else None,
        trouble=Trouble(f"{trouble.what}: {trouble.why}", trouble.since) if trouble is not None else None,
        signed_out=looked.signed_out,
        waiting=view.mailbox.waiting or 0,
        oldest=max((now - one.seconds for one in view.mailbox.queue[:1]), default=None),
        retries=len(view.retries),
        next_retry=min((one.not_before for one in view.retries), default=None),
        questions=tuple(questions),
        stuck=tuple(Stuck(one.reason, one.key, one.at, one.thread, one.message_id) for one in looked.stuck),
        stuck_counts=tuple(Counted(one.reason, one.count) for one in view.stuck),
        held=tuple(Stuck(one.guard, one.message_id, one.at, one.thread, one.message_id) for one in looked.held),
        held_counts=tuple(Counted(one.guard, one.count) for one in view.held),
        schedules=tuple(map(_scheduled, view.schedules)),
        last=looked.last,
        today=Spent(iso(now)[:10], today.turns, today.seconds, today.input_tokens, today.output_tokens, today.cost_usd),
        ended="" if view.watcher.running or looked.died else STOPPED,
    )


def _scheduled(one: ScheduleView) -> Scheduled:
    when = f"{one.cron} {one.zone}"
    return Scheduled(one.name, when, one.next_at, one.sending, one.last_message, one.sent_at, one.why)


def unreadable(view: FaultView) -> Watched:
    """A workdir of which nothing can be told."""
    name = view.workdir.rpartition("/")[2]
    return Watched(
        agent_id=view.workdir,
        name=name,
        address=name,
        unread=0,
        watcher=None,
        lost=False,
        standing=None,
        reported_at=None,
        requests_waiting=0,
        report=None,
    )


def problems_beside(view: StatusView | FaultView) -> Iterator[NeedView]:
    """What keeps an agent from its work, and is in no report. Since when is not known."""
    address = (view.mailbox.address or view.agent) if isinstance(view, StatusView) else unreadable(view).address
    for problem in view.problems:
        if problem.code not in _TOLD:
            yield troubled(view.workdir, address, problem)
